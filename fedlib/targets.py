"""Rounds to a target accuracy as what they are: waiting times, some of which the end of the run cut short.

A run that has not reached its target after T rounds says "more than T", no more and no less. To drop it makes a slow
method look fast; to write T makes it look as if it had arrived. Every summary here keeps the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median as middle
from typing import NamedTuple

from fedlib import require

Bounds = tuple[float, float]
"""Smallest and largest value that a censored number can have."""


class Wait(NamedTuple):
    """A waiting time: ``rounds`` until the target, or, if not ``reached``, rounds without it (right-censored)."""

    rounds: int
    reached: bool

    def __str__(self) -> str:
        return str(self.rounds) if self.reached else f"> {self.rounds}"

    @property
    def bounds(self) -> Bounds:
        """The least and the largest number of rounds that it can be."""
        return (self.rounds, self.rounds) if self.reached else (self.rounds + 1, math.inf)


def wait(curve: Sequence[float], target: float, in_a_row: int = 1) -> Wait:
    """The first round, counted from 1, that begins ``in_a_row`` rounds at or above the target.

    One round is the rule of Lin et al. (2020, Table 1): no smoothing, so that a lucky round counts. A run that ends
    inside such a row is censored at the last round before it: the row may or may not go on. Raises ValueError when
    ``in_a_row`` is less than 1, and NotFinite for a curve that is not finite.
    """
    require.whole("in_a_row", in_a_row, 1)
    require.real("target", target)
    if bad := [t for t, value in enumerate(curve, start=1) if not math.isfinite(value)]:
        raise require.NotFinite(f"the curve is NaN or infinite in rounds {bad}: nobody knows where it stood")
    above = 0
    for t, value in enumerate(curve, start=1):
        above = above + 1 if value >= target else 0
        if above == in_a_row:
            return Wait(t - in_a_row + 1, True)
    return Wait(len(curve) - above, False)


def ratio(slow: Wait, fast: Wait) -> Bounds:
    """Bounds of the paired ratio slow / fast: how many times fewer rounds the second needs.

    Exact, both bounds equal, when both are reached. With ``slow`` censored it is "at least", with ``fast`` censored "at
    most", and with both censored the bounds are 0 and infinity: nothing is known.
    """
    (low, high), (least, most) = slow.bounds, fast.bounds
    return low / most, high / least


def no_later(first: Wait, second: Wait) -> bool:
    """Whether the first surely needs no more rounds than the second; false when both are censored."""
    return first.bounds[1] <= second.bounds[0]


def median_bounds(pairs: Iterable[Bounds]) -> Bounds:
    """Bounds of the median of numbers of which only bounds are known. Raises ValueError when there is none."""
    given = list(pairs)
    if not given:
        raise ValueError("a median needs at least one value")
    if bad := [pair for pair in given if not pair[0] <= pair[1]]:
        raise ValueError(f"bounds must be (smallest, largest), got {bad[0]}")
    return float(middle(low for low, _ in given)), float(middle(high for _, high in given))


def survival(waits: Iterable[Wait]) -> list[tuple[int, float]]:
    """Kaplan-Meier estimate: the steps (round, share of runs that are still under way after it), starting at (0, 1).

    A censored run counts as under way for as long as it was watched, and leaves without a step (Kaplan and Meier 1958).
    Raises ValueError when there is no run.
    """
    given = list(waits)
    if not given:
        raise ValueError("a survival curve needs at least one waiting time")
    share, steps = 1.0, [(0, 1.0)]
    for t in sorted({w.rounds for w in given if w.reached}):
        under_way = sum(w.rounds >= t for w in given)
        share *= 1 - sum(w == (t, True) for w in given) / under_way
        steps.append((t, share))
    return steps


def median(waits: Iterable[Wait]) -> Wait:
    """The first round after which at most half of the runs are under way; censored when fewer than half arrive.

    Raises ValueError when there is no run.
    """
    given = list(waits)
    if not given:
        raise ValueError("a median needs at least one waiting time")
    reached = next((t for t, share in survival(given) if share < 0.5 + 1e-9), None)  # products of ratios round
    return Wait(max(w.rounds for w in given), False) if reached is None else Wait(reached, True)


def restricted_mean(waits: Iterable[Wait], horizon: int) -> float:
    """Mean of min(rounds, horizon), the area under the survival curve: a lower bound of the mean number of rounds.

    Raises ValueError when there is no run, or when the longest was censored before the horizon: nobody knows the rest.
    """
    given = list(waits)
    require.real("horizon", horizon, least=0)
    if not given:
        raise ValueError("a mean needs at least one waiting time")
    steps = survival(given)
    longest = max(w.rounds for w in given)
    if longest < horizon and steps[-1][1] > 0:
        raise ValueError(f"no run was watched beyond round {longest}: horizon {horizon} is too far")
    ends = [t for t, _ in steps[1:]] + [max(horizon, steps[-1][0])]
    return sum(
        share * (min(end, horizon) - min(start, horizon)) for (start, share), end in zip(steps, ends, strict=True)
    )
