"""The words of verdicts as one picture: intervals from a few made-up seeds, and what the judge says of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from book.site import elements
from fedlib import verdicts

LEAST = 1.0  # the least effect of the examples; no effect is 0
# Four seeds each, made up; the word beside an interval is what `judge` says, not what is written here.
EXAMPLES = (
    (1.7, 1.4, 2.0, 1.5),
    (0.8, 1.3, 1.0, 0.6),
    (0.5, 0.7, 0.4, 0.6),
    (0.2, -0.4, 0.3, -0.1),
    (-0.6, -1.2, -0.9, -0.4),
    (1.6, -0.9, 0.8, 0.2),
)
WITHOUT_ROOM = ((0.2, -0.4, 0.3, -0.1), (1.3, 1.2, 1.5, 1.4))  # an effect, and what the ceiling leaves for it

LEFT, WIDE, ROW, TOP, UNIT, ZERO = 10, 640, 34, 44, 115, 190  # in pixels; one unit of effect, and where none lies


@dataclass(frozen=True)
class Example:
    """Values of seeds and the verdict on them."""

    values: tuple[float, ...]
    verdict: verdicts.Verdict


def examples() -> list[Example]:
    """The examples, judged."""
    found = [Example(values, verdicts.judge(values, "above", LEAST, 0.0)) for values in EXAMPLES]
    values, ceiling = WITHOUT_ROOM
    return [*found, Example(values, verdicts.judge(values, "above", LEAST, 0.0, ceiling=ceiling))]


def across(effect: float) -> float:
    """Where an effect lies in the picture, in pixels from its left."""
    return round(ZERO + UNIT * effect, 1)


def drawn() -> str:
    """The picture as SVG."""
    shown = examples()
    bottom = TOP + ROW * len(shown)
    said = "; ".join(_said(one) for one in shown)
    out = [
        f'<svg class="verdict-words" viewBox="0 0 {WIDE} {bottom}" role="img" '
        f'aria-label="Intervals and their words, with no effect at 0 and the least effect at {LEAST:g}. {said}">'
    ]
    for point, text in ((-LEAST, "− least"), (0.0, "no effect"), (LEAST, "least effect")):
        kind = "none" if point == 0 else "least"
        out.append(f'<line class="{kind}" x1="{across(point)}" x2="{across(point)}" y1="24" y2="{bottom - 6}"/>')
        out.append(f'<text class="point" x="{across(point)}" y="16">{text}</text>')
    for place, one in enumerate(shown):
        out += _row(one, TOP + ROW * place)
    return "".join([*out, "</svg>"])


def _said(one: Example) -> str:
    seen = one.verdict.interval
    assert seen is not None
    return f"{one.verdict.word}: from {elements.number(seen.low, 2)} to {elements.number(seen.high, 2)}"


def _row(one: Example, y: int) -> list[str]:
    seen, word = one.verdict.interval, one.verdict.word
    assert seen is not None
    kind = "mark-" + word.replace(" ", "-")
    dots = [f'<circle class="{kind}" cx="{across(v)}" cy="{y}" r="3.2"/>' for v in one.values]
    made = [
        f'<line class="span {kind}" x1="{across(seen.low)}" x2="{across(seen.high)}" y1="{y}" y2="{y}"/>',
        *dots,
        f'<text x="{WIDE - 130}" y="{y + 5}">{elements.SIGNS[word].replace("<", "&lt;")} {word}</text>',
    ]
    if one.verdict.room is not None:
        made.append(f'<line class="ceiling" x1="{across(one.verdict.room)}" x2="{across(one.verdict.room)}" ')
        made[-1] += f'y1="{y - 10}" y2="{y + 10}"/>'
        made.append(f'<text class="point" x="{across(one.verdict.room) + 34}" y="{y + 4}">ceiling</text>')
    return made


class WordsDirective(SphinxDirective):
    """``{verdict-words}``: the picture."""

    def run(self) -> list[Node]:
        return [nodes.raw("", f'<div class="verdict-words-frame">{drawn()}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("verdict-words", WordsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
