"""On which scale the values of seeds are averaged, and intervals that keep to the range of their quantity.

A mean and its interval are taken where the quantity is free, and carried back. What they speak of is then the typical
seed: on the log scale the geometric mean, on the others what the mean of the transformed values is carried back to.

A difference of two bounded quantities is averaged as it is, for a claim is made in its unit, and its interval is cut
at the bounds. Where both lie near a bound their differences are skewed, and the interval covers the mean in about nine
of ten cases, missing it on the side that claims less; the inverse hyperbolic tangent does no better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fedlib.evidence import Interval, interval as students

Bounds = tuple[float, float]


class Scale(NamedTuple):
    """A map from the quantity, which lies in ``bounds``, to the real line, and the way back."""

    forth: Callable[[float], float]
    back: Callable[[float], float]
    bounds: Bounds


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def _expit(x: float) -> float:
    return 1 / (1 + _exp(-x))


SCALES = {
    "plain": Scale(float, float, (-math.inf, math.inf)),
    "log": Scale(math.log, _exp, (0.0, math.inf)),  # ratios, waiting times, bytes
    "logit": Scale(_logit, _expit, (0.0, 1.0)),  # accuracies and shares near their bounds
    "fisher": Scale(math.atanh, math.tanh, (-1.0, 1.0)),  # correlations and cosines
}


def usable(values: Iterable[float], scale: str = "plain", bounds: Bounds | None = None) -> Scale:
    """The scale on which these values can be averaged, with the range of the quantity.

    ``bounds`` are the range where it is narrower than that of the scale. A value at the very end of the scale's range
    (an accuracy of 1, a ratio of 0) would be infinite on it: such values are averaged as they are. Raises ValueError
    for an unknown scale and for a value outside the range.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    found, x = SCALES[scale], [float(v) for v in values]
    low, high = found.bounds if bounds is None else bounds
    if wrong := [v for v in x if not low <= v <= high]:
        raise ValueError(f"{wrong[0]} lies outside the range [{low:g}, {high:g}] of the quantity")
    ends = any(v in found.bounds for v in x)
    return (SCALES["plain"] if ends else found)._replace(bounds=(low, high))


def interval(
    values: Iterable[float], scale: str = "plain", bounds: Bounds | None = None, level: float = 0.95
) -> Interval:
    """Student-t confidence interval of ``values`` (one per seed), taken on a scale and carried back.

    It never leaves the range of the quantity: that of the scale, or ``bounds``. The deviation is that of the values as
    they are. With one value the interval is the whole range. Raises ValueError as :func:`usable` does, and without
    values.
    """
    x = [float(v) for v in values]
    plain = students(x, level)
    taken = usable(x, scale, bounds)
    seen = students([taken.forth(v) for v in x], level)
    low, high = taken.bounds
    if seen.n == 1:
        return plain._replace(low=low, high=high)
    mean, bottom, top = (min(max(taken.back(v), low), high) for v in (seen.mean, seen.low, seen.high))
    return Interval(mean, bottom, top, plain.sd, plain.n)
