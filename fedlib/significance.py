"""Tests of means by Student's t: p-values of what a claim may say, their corrections, and how many seeds would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

POWER = 0.8  # with which so many seeds would settle an open claim
MOST_SEEDS = 100  # beyond it nobody would run them


class PValues(NamedTuple):
    """Of one-sided tests: how likely values as far out would be, were each statement only just wrong."""

    holds: float = 1.0
    beyond_none: float = 1.0
    short_of_least: float = 1.0
    wrong_side: float = 1.0
    above_minus_least: float = 1.0


NOTHING_SAID = PValues()


@dataclass(frozen=True)
class Placed:
    """Values on their scale, larger being better: mean, deviation and number; and the points that they are judged by.

    ``none`` is missing from a bound; ``within``: the claim is that the mean lies within ``least`` of ``none``.
    """

    mean: float
    sd: float
    n: int
    least: float
    none: float | None
    within: bool = False


def p_values(placed: Placed) -> PValues:
    """One-sided p-values of all statements that a claim allows, from Student's t."""
    least, none = placed.least, placed.none
    if none is None:
        return PValues(holds=_beyond(placed, least, closed=True), wrong_side=_short(placed, least))
    lower = none - (least - none)
    inside = _short(placed, least, closed=True), _beyond(placed, lower, closed=True)
    if placed.within:
        return PValues(holds=max(inside), wrong_side=min(_beyond(placed, least), _short(placed, lower)))
    return PValues(
        holds=_beyond(placed, least, closed=least > none),
        beyond_none=_beyond(placed, none),
        short_of_least=inside[0],
        wrong_side=_short(placed, none),
        above_minus_least=inside[1],
    )


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979), in their order."""
    adjusted, so_far = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        so_far = max(so_far, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = so_far
    return adjusted


def expected_false(tested: int, alpha: float = 0.025) -> float:
    """How many of so many claims would hold, at most, on average, if none were true.

    So it bounds how many of those that do hold are to be expected false.
    """
    return alpha * tested


def survivors(p: Sequence[float], share: float = 0.05) -> list[bool]:
    """Which claims hold when all are judged together, so that a false ``share`` of these is expected at most.

    ``p``: the p-value of *holds* for every claim that was tested. The method of Benjamini and Hochberg.
    """
    from scipy.stats import false_discovery_control

    return [bool(q <= share) for q in false_discovery_control(p, method="bh")] if p else []


def seeds_needed(placed: Placed, alpha: float = 0.025) -> int | None:
    """The least number of seeds with which some word but *open* would come out with a chance of ``POWER``.

    Mean and deviation are taken to be as measured. ``MOST_SEEDS + 1`` when no number up to ``MOST_SEEDS`` will do, None
    when there is no spread. The words exclude each other, so their chances add up: given the deviation that the seeds
    would show, a verdict is open while the mean lies in a band; the chance is averaged over that deviation.
    """
    import numpy as np
    from scipy.special import ndtr

    if placed.n < 2 or placed.sd == 0:
        return None
    n, half = _halves(alpha)
    error, half = placed.sd / np.sqrt(n), placed.sd * half
    none = placed.least if placed.none is None else placed.none
    margin, mean = placed.least - none, placed.mean - none
    low = np.maximum(margin - half, 0.0)
    high = margin + half if placed.within else half

    def below(point: Any) -> Any:
        return ndtr((point - mean) / error)

    is_open = np.where(low < high, below(high) - below(low) + below(-low) - below(-high), 0.0)
    enough = n[1 - is_open.mean(axis=1) >= POWER]
    return int(enough[0, 0]) if enough.size else MOST_SEEDS + 1


@cache
def _halves(alpha: float) -> tuple[Any, Any]:
    """Numbers of seeds, and for each the half-widths of intervals that are equally likely, for a deviation of 1."""
    import numpy as np
    from scipy.stats import chi2, t

    n = np.arange(2, MOST_SEEDS + 1)[:, None]
    seen = np.sqrt(chi2.ppf((np.arange(100) + 0.5) / 100, n - 1) / (n - 1))
    return n, t.ppf(1 - alpha, n - 1) * seen / np.sqrt(n)


def _beyond(placed: Placed, point: float, closed: bool = False) -> float:
    """p-value of the statement that the mean lies beyond a point; ``closed``: or at it, where all values are equal.

    Values without spread say nothing of their deviation: then the sign test, of as many heads in a row.
    """
    if placed.n < 2:
        return 1.0
    if placed.sd == 0:
        return 0.5**placed.n if placed.mean > point or (closed and placed.mean == point) else 1.0
    from scipy.stats import t  # slow to import, wanted only here

    return float(t.sf((placed.mean - point) / placed.sd * math.sqrt(placed.n), placed.n - 1))


def _short(placed: Placed, point: float, closed: bool = False) -> float:
    """p-value of the statement that the mean lies short of a point."""
    return _beyond(replace(placed, mean=-placed.mean), -point, closed)
