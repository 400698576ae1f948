"""Rankings that say what cannot be told apart: tiers of methods by paired differences."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from fedlib import evidence
from fedlib.plots import look
from fedlib.significance import holm

LEVEL = 0.05  # chance of any tier too many where all methods are equal


def tiers(values: Mapping[str, Mapping[Any, float]], level: float = LEVEL) -> list[list[str]]:
    """Methods with one value per seed, in tiers from the highest mean down. A tier ends before the first method that
    can be told from its best: by paired t-tests of all pairs of methods, two-sided, with Holm's correction over them.

    All pairs, because which method is the best is seen in the same values. With fewer than two seeds nothing can be
    told apart: there is one tier.
    """
    order = sorted(values, key=lambda m: -sum(values[m].values()) / len(values[m]))
    pairs = list(combinations(order, 2))
    adjusted = holm([_chance(evidence.paired(values[a], values[b])) for a, b in pairs])
    apart = {pair for pair, p in zip(pairs, adjusted, strict=True) if p <= level}
    found: list[list[str]] = []
    for method in order:
        if not found or (found[-1][0], method) in apart:
            found.append([])
        found[-1].append(method)
    return found


def _chance(gaps: Sequence[float]) -> float:
    """Two-sided p-value of paired differences; without spread that of the sign test, as in a claim's verdict."""
    from scipy.stats import ttest_1samp

    if len(gaps) < 2 or not any(gaps):
        return 1.0
    if max(gaps) - min(gaps) < 1e-9:  # alike but for rounding
        return 2 * 0.5 ** len(gaps)
    return float(ttest_1samp(gaps, 0.0).pvalue)


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
