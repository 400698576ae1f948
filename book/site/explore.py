"""Small figures that a reader turns: one frame for each value of a parameter, drawn from the committed evidence.

A row is a method, a dot is a seed, the bar is the 95% interval, the faint marks are the means in the other frames. The
frames are chosen with radio buttons, which the style sheet alone obeys, so that nothing breaks without JavaScript;
``explore.js`` only lets a screen reader hear the new values. Print shows all frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import yaml
from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx

from book import expressions
from book.errors import nearest
from book.site import card, elements, evidence, press
from book.site.rebuild import BookDirective
from fedlib.plots import look

WIDE, SIDE, ROW, LINE = 400, 8, 46, 19  # of a frame, its margin, a row and a line of text, in units of the drawing
MOST = 8  # frames; the style sheet has as many rules
FIELDS = {"parameter": str, "values": (list, dict), "rows": dict, "baseline": dict, "unit": str, "profile": str}
NEEDED = ("parameter", "values", "rows")
DARK = "#14181e"  # the theme's page at night
# Sides and first angle of matplotlib's markers; a negative number of sides is a star.
SHAPES = {
    "s": (4, 45), "D": (4, 0), "d": (4, 0), "^": (3, -90), "v": (3, 90), "<": (3, 180), ">": (3, 0),
    "h": (6, 30), "H": (6, 0), "p": (5, -90), "8": (8, 22.5), "P": (-4, 0), "X": (-4, 45), "*": (-5, -90),
}  # fmt: skip

Metrics = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Figure:
    """What the directive's body says, checked. ``values``: what stands in a metric's name, and how it is written."""

    parameter: str
    values: dict[str, str]
    rows: dict[str, str]  # label: pattern with {} for the value
    baseline: dict[str, str]  # label: metric
    unit: str | None = None
    profile: str = "quick"

    def metric(self, label: str, value: str) -> str:
        return self.rows[label].replace("{}", value)

    def metrics(self) -> list[str]:
        """Every metric that the figure shows."""
        return [*(self.metric(row, v) for row in self.rows for v in self.values), *self.baseline.values()]


def read(text: str) -> Figure:
    """The body of the directive. Raises ValueError with what is wrong and what was expected."""
    try:
        body = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the body is not YAML: {error}") from error
    if not isinstance(body, dict):
        raise ValueError(f"the body needs {', '.join(NEEDED)}")
    for name, content in body.items():
        if name not in FIELDS:
            raise ValueError(f"no field {name!r}.{nearest(str(name), list(FIELDS))}")
        if not isinstance(content, FIELDS[name]):  # type: ignore[arg-type]
            raise ValueError(f"{name}: expected a {'list or mapping' if name == 'values' else FIELDS[name]}")
    if lacking := [name for name in NEEDED if not body.get(name)]:
        raise ValueError(f"the field {lacking[0]!r} is missing")
    given = body["values"]
    values = {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {str(v): str(v) for v in given}
    if not 2 <= len(values) <= MOST:
        raise ValueError(f"values: got {len(values)}, expected 2 to {MOST}")
    rows = {str(label): str(pattern) for label, pattern in body["rows"].items()}
    if plain := [pattern for pattern in rows.values() if "{}" not in pattern]:
        raise ValueError(f"rows: {plain[0]!r} has no {{}} for the value; a metric without one is a baseline")
    baseline = {str(label): str(metric) for label, metric in body.get("baseline", {}).items()}
    return Figure(body["parameter"], values, rows, baseline, body.get("unit"), body.get("profile", "quick"))


def of_chapter(text: str, slug: str) -> tuple[Figure, press.Measured | None]:
    """The body of the directive, with the evidence that it draws, if there is some. Raises ValueError as :func:`read`
    does, and for a profile or a metric that the chapter does not have.
    """
    figure = read(text)
    if figure.profile not in press.PROFILES:
        raise ValueError(f"no profile {figure.profile!r}; expected one of {', '.join(press.PROFILES)}")
    found = press.measured(slug, figure.profile)
    missing = [name for name in figure.metrics() if name not in found.metrics] if found else []
    if found and missing:
        raise ValueError(f"{slug} has no metric {missing[0]!r}; {expressions.like(missing[0], found.metrics)}")
    return figure, found


class ExploreDirective(BookDirective):
    """``{explore} Caption``, with a body in YAML: parameter, values, rows, and if wanted baseline, unit, profile."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[Node]:
        slug = press.slug_of(self.env.docname)
        if slug is None:
            raise self.error("explore draws a chapter's evidence; this page is not a chapter")
        try:
            figure, found = of_chapter("\n".join(self.content), slug)
        except ValueError as error:
            raise self.error(f"explore: {error}") from error
        if found is None:
            return evidence.not_run(slug, figure.profile)
        unit = evidence.unit_of(slug, figure.metrics()[0]) if figure.unit is None else figure.unit
        title, messages = self.parse_inline(self.arguments[0], lineno=self.lineno)
        name = f"explore-{self.env.new_serialno('explore')}"
        box = nodes.container(classes=["explore-box"])
        box += elements.paragraph(title, "explore-title")
        box += nodes.raw("", drawn(figure, found.metrics, unit, name, self.arguments[0]), format="html")
        origin = [elements.inline(figure.profile, "profile"), f" mean of {len(found.seeds)} seeds, 95% interval; "]
        origin += ["a small dot is a seed, a faint mark the mean in another frame"]
        if found.earlier:
            origin += [" ", elements.label(f"measured with earlier code ({found.commit})", "earlier")]
        elif when := card.day(found.provenance.get("date")):
            origin += [f" · run of {when}"]
        box += elements.paragraph(origin, "origin")
        return [box, *messages]


def drawn(figure: Figure, metrics: Metrics, unit: str, name: str, title: str) -> str:
    """The radio buttons and the frames as HTML."""
    buttons, frames = [], []
    for place, (value, shown) in enumerate(figure.values.items()):
        said = f"{figure.parameter} {shown}: {sentence(figure, metrics, unit, value)}"
        checked = " checked" if place == 0 else ""
        buttons.append(
            f'<label><input type="radio" name="{name}" value="{escape(value)}" data-said="{escape(said)}"{checked}>'
            f"<span>{escape(shown)}</span></label>"
        )
        frames.append(
            f'<div class="explore-frame"><p class="explore-value">{escape(figure.parameter)}: {escape(shown)}</p>'
            f"{frame(figure, metrics, unit, value, f'{name}-{place}')}</div>"
        )
    return (
        f'<div class="explore" role="group" aria-label="{escape(title.replace("$", ""))}">'
        f'<fieldset class="explore-choice"><legend>{escape(figure.parameter)}</legend>{"".join(buttons)}</fieldset>'
        f'<div class="explore-frames">{"".join(frames)}</div><p class="explore-said" role="status"></p></div>'
    )


def sentence(figure: Figure, metrics: Metrics, unit: str, value: str) -> str:
    """What a frame shows, in words."""
    parts = [f"{row} {amount(metrics[figure.metric(row, value)], unit)}" for row in figure.rows]
    parts += [f"{label} {elements.quantity(metrics[key]['mean'], unit)}" for label, key in figure.baseline.items()]
    return "; ".join(parts)


def amount(metric: Mapping[str, Any], unit: str) -> str:
    """Mean and interval of a metric."""
    low, high = metric.get("ci95") or (None, None)
    interval = f" {elements.span(low, high, unit)}" if low is not None else ""
    return elements.quantity(metric["mean"], unit) + interval


def frame(figure: Figure, metrics: Metrics, unit: str, value: str, name: str) -> str:
    """One frame as SVG. Its text is text; its colours are those of the methods, for either page."""
    low, high = limits([metrics[key] for key in figure.metrics()], unit)
    top = LINE * len(figure.baseline) + 4
    bottom = top + ROW * len(figure.rows)

    def across(number: float) -> float:
        share = (min(max(number, low), high) - low) / (high - low)
        return round(SIDE + share * (WIDE - 2 * SIDE), 1)

    out = [
        f'<svg viewBox="0 0 {WIDE} {bottom + 28}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(figure.parameter)}: {escape(figure.values[value])}</title>'
        f'<desc id="{name}-d">{escape(sentence(figure, metrics, unit, value))}</desc>'
    ]
    for tick in ticks(low, high):
        x = across(tick)
        out.append(f'<path class="grid" d="M{x},{top}V{bottom}"/>')
        label = f"{100 * tick:g}%" if unit == "accuracy" else f"{tick:g}".replace("-", "−")
        anchor = "start" if x < SIDE + 16 else "end" if x > WIDE - SIDE - 16 else "middle"
        out.append(f'<text class="tick" x="{x}" y="{bottom + 18}" text-anchor="{anchor}">{escape(label)}</text>')
    for place, (label, key) in enumerate(figure.baseline.items()):
        x, y = across(metrics[key]["mean"]), LINE * place
        anchor = "start" if x < WIDE / 3 else "end" if x > 2 * WIDE / 3 else "middle"
        text = f"{label} {elements.quantity(metrics[key]['mean'], unit)}"
        out.append(f'<path class="baseline" d="M{x},{y + LINE}V{bottom}"/>')
        out.append(f'<text class="baseline-name" x="{x}" y="{y + 14}" text-anchor="{anchor}">{escape(text)}</text>')
    for place, (label, style) in enumerate(look.styles(figure.rows).items()):
        seen = {v: metrics[figure.metric(label, v)] for v in figure.values}
        out.append(row(label, style, seen, value, unit, across, top + ROW * place))
    return "".join([*out, "</svg>"])


def row(
    label: str, style: look.Style, seen: Mapping[str, Mapping[str, Any]], value: str, unit: str, across: Any, y: int
) -> str:
    """One method in a frame: name and number above, then seeds, interval, mean, and faintly the other frames' means."""
    now, middle = seen[value], y + 31
    out = [
        f'<g style="--light: {look.readable(style.colour)}; --dark: {on_dark(style.colour)}">'
        f'<text class="name" x="{SIDE}" y="{y + 17}">{escape(label)}</text>'
        f'<text class="amount" x="{WIDE - SIDE}" y="{y + 17}">{escape(amount(now, unit))}</text>'
    ]
    out += [
        f'<path class="ghost" d="M{across(other["mean"])},{middle - 6}v12"/>' for v, other in seen.items() if v != value
    ]
    if now.get("ci95"):
        start, end = (across(bound) for bound in now["ci95"])
        out.append(f'<path class="interval" d="M{start},{middle}H{end}"/>')
    out += [f'<circle class="seed" cx="{across(v)}" cy="{middle}" r="2.4"/>' for v in now["values"].values()]
    return "".join([*out, marker(style.marker, across(now["mean"]), middle), "</g>"])


def marker(kind: str, x: float, y: float, size: float = 6.5) -> str:
    """One of matplotlib's markers."""
    if kind not in SHAPES:
        return f'<circle class="mean" cx="{x}" cy="{y}" r="{size - 0.8}"/>'
    sides, first = SHAPES[kind]
    corners = -2 * sides if sides < 0 else sides
    points = []
    for corner in range(corners):
        angle = math.radians(first + 360 * corner / corners)
        reach = size * (0.45 if sides < 0 and corner % 2 else 1.1)
        points.append(f"{x + reach * math.cos(angle):.1f},{y + reach * math.sin(angle):.1f}")
    return f'<polygon class="mean" points="{" ".join(points)}"/>'


def limits(seen: list[Mapping[str, Any]], unit: str) -> tuple[float, float]:
    """The axis of all frames: from the least to the largest value of any seed, and a little more."""
    numbers = [v for metric in seen for v in (*metric["values"].values(), metric["mean"])]
    low, high = min(numbers), max(numbers)
    spare = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low = 0.0 if 0 <= low < spare else low - spare
    return (low, min(1.0, high + spare)) if unit == "accuracy" and high <= 1 else (low, high + spare)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between the ends."""
    raw = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = min((size * m for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [round(step * n, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def on_dark(colour: str) -> str:
    """The colour, lightened until it has a contrast of 4.5 to 1 on a dark page (WCAG AA)."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    while (luminance(parts) + 0.05) / (luminance([int(DARK[i : i + 2], 16) for i in (1, 3, 5)]) + 0.05) < 4.5:
        parts = [min(255, p + 6) for p in parts]
    return "#" + "".join(f"{p:02x}" for p in parts)


def luminance(parts: list[int]) -> float:
    """Relative luminance of a colour given as three numbers up to 255 (WCAG 2)."""
    linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (p / 255 for p in parts))
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("explore", ExploreDirective)
    app.add_js_file("explore.js", loading_method="defer")
    return {"parallel_read_safe": False, "parallel_write_safe": True}
