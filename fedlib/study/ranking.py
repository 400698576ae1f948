"""Rankings that say what cannot be told apart: tiers of methods by paired differences."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedlib import evidence
from fedlib.plots import look

LEVEL = 0.05  # chance that a tier ends too early where all of its methods are equal


def tiers(values: Mapping[str, Mapping[Any, float]], level: float = LEVEL) -> list[list[str]]:
    """Methods with one value per seed, in tiers from the highest mean down. A tier ends before the first method that is
    surely below its best: by a one-sided paired t-test, Holm's correction over all that stand below that best.

    With fewer than two seeds nothing can be told apart: there is one tier.
    """
    from scipy.stats import ttest_1samp

    rest = sorted(values, key=lambda m: -sum(values[m].values()) / len(values[m]))
    found = []
    while rest:
        best, *others = rest
        chances = {}
        for other in others:
            gaps = evidence.paired(values[best], values[other])
            spread = len(gaps) > 1 and max(gaps) > min(gaps)
            # Without spread the test has no answer: equal everywhere, or below everywhere by the same.
            same = 1.0 if len(gaps) < 2 or gaps[0] <= 0 else 0.0
            chances[other] = float(ttest_1samp(gaps, 0.0, alternative="greater").pvalue) if spread else same
        below = _rejected(chances, level)
        length = next((i for i, other in enumerate(others) if other in below), len(others))
        found.append([best, *others[:length]])
        rest = others[length:]
    return found


def _rejected(chances: Mapping[str, float], level: float) -> set[str]:
    """Hypotheses that Holm's step-down procedure rejects."""
    rejected: set[str] = set()
    for i, name in enumerate(sorted(chances, key=chances.__getitem__)):
        if chances[name] > level / (len(chances) - i):
            break
        rejected.add(name)
    return rejected


def table(
    values: Mapping[str, Mapping[Any, float]], to: str, columns: Mapping[str, Callable[[str], str]], caption: str
) -> str:
    """The ranking as an HTML table: tier, method, mean accuracy, paired difference to one method with its 95 %
    interval (never beyond what accuracies allow), and further columns, each a function from the method to text.
    """
    head = ["Tier", "Method", "Accuracy", f"Against {_label(to)}, points", *columns]
    rows = []
    for number, tier in enumerate(tiers(values), 1):
        for method in tier:
            mean = 100 * sum(values[method].values()) / len(values[method])
            cells = [str(number), _label(method), f"{mean:.1f}%", _difference(values, method, to)]
            rows.append((number, [*cells, *(columns[name](method) for name in columns)]))
    body = "".join(f'<tr class="tier-{number % 2}">{_cells(cells, "td")}</tr>' for number, cells in rows)
    return (
        f'<div class="leaderboard"><table><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{_cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _difference(values: Mapping[str, Mapping[Any, float]], method: str, to: str) -> str:
    if method == to:
        return "–"
    gaps = evidence.paired(values[method], values[to])
    seen = evidence.interval(gaps)
    text = f"{100 * seen.mean:+.1f}"
    if seen.n > 1:
        text += f" [{100 * max(seen.low, -1):+.1f}, {100 * min(seen.high, 1):+.1f}]"
    return text.replace("-", "−")


def _label(method: str) -> str:
    known = look.style(method)
    return known.label if known else method


def _cells(cells: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
