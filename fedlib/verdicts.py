"""What the values of some seeds say of a claim, in one word.

Each word is a statement that was tested, at 2.5 % to either side, as the 95% interval does. With larger taken as
better, *none* as the point of no effect, and *least* as the least effect that would count:

* *holds*: surely at the least effect or beyond it (beyond it, where that is no effect at all);
* *smaller*: surely beyond none, and surely short of the least effect;
* *direction only*: surely beyond none; how far is open;
* *opposite*: surely on the wrong side of none;
* *no effect*: surely nearer to none than the least effect, on both sides (two one-sided tests);
* *open*: none of these, or fewer than two seeds;
* *no room*: the ceiling lies too near to the baseline for the effect to show; said in place of a word that this would
  explain, so never of what holds or is opposite;
* *not run*: no values.

A claim without a point of no effect, or whose least effect lies on the weak side of it ("at most 2 points worse"), is a
bound: it *holds* when surely kept, is *opposite* when surely broken, else *open*. So is a claim that two things are
equal (``within``). Being equal proves a bound, and never an effect.

Claims that are judged together (:func:`judge_together`) have each kind of statement corrected by Holm's method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedlib.evidence import Interval, interval as students
from fedlib.scales import Bounds, interval, usable
from fedlib.significance import NOTHING_SAID, Placed, PValues, holm, p_values, seeds_needed

VERDICTS = ("holds", "smaller", "direction only", "no effect", "opposite", "open", "no room", "not run")
DIRECTIONS = ("above", "below", "within")


@dataclass(frozen=True)
class Verdict:
    """The word on a claim and what it rests on.

    ``interval`` is the 95% one, in the quantity's own unit and not corrected; ``p`` those that the word was read from.
    ``seeds_needed``: how many seeds would settle an open claim with a chance of 80 %, were mean and spread as measured;
    None for a claim that is not open or has no spread.
    ``room``: how far the mean of the ceiling lies from the baseline, in the claimed direction; None without a ceiling.
    """

    word: str
    interval: Interval | None = None
    p: PValues = NOTHING_SAID
    seeds_needed: int | None = None
    room: float | None = None
    enough_room: bool = True
    placed: Placed | None = None


def judge(
    values: Sequence[float] | None,
    direction: str,
    least: float,
    neutral: float | None = None,
    scale: str = "plain",
    bounds: Bounds | None = None,
    level: float = 0.95,
    ceiling: Sequence[float] | None = None,
) -> Verdict:
    """Judge a claim by one value per seed; the words stand at the head of this module.

    ``direction``: the effect is claimed to be ``above`` or ``below`` the least effect, or ``within`` it of ``neutral``
    (0; on the log scale within a factor of ``least``, of 1). ``neutral`` is the point of no effect. ``ceiling`` are
    values like ``values`` that the mechanism could reach at best: there is room where their mean lies beyond none by
    twice the least effect, and beyond none at all. ``bounds``: see :func:`fedlib.scales.usable`. Raises ValueError for
    terms or values that make no sense.
    """
    _require_terms(direction, least, neutral, scale)
    if not values:
        return Verdict("not run")
    seen = interval(values, scale, bounds, level)
    placed = _place([float(v) for v in values], direction, least, neutral, scale, bounds)
    room, enough = _room(ceiling, direction, least, neutral, scale)
    made = Verdict("open", seen, p_values(placed), room=room, enough_room=enough, placed=placed)
    return _worded(made, made.p, (1 - level) / 2)


def judge_together(verdicts: Sequence[Verdict], level: float = 0.95) -> list[Verdict]:
    """The same claims, judged as one family: a false *holds* among all of them is as rare as one alone would be.

    Holm's method, for each kind of statement. Claims that were not run do not count. ``p`` are the adjusted ones.
    """
    run = [v for v in verdicts if v.placed]
    columns = [holm(column) for column in zip(*[v.p for v in run], strict=True)]
    adjusted = iter([PValues(*row) for row in zip(*columns, strict=True)])
    return [_worded(v, next(adjusted), (1 - level) / 2, len(run)) if v.placed else v for v in verdicts]


def identity(values: Sequence[float] | None, direction: str, least: float) -> Verdict:
    """Judge an equality of mathematics: it *holds* when every seed keeps to the bound, else it is *opposite*.

    The interval is the span of the values. Raises ValueError for a direction that is not ``above`` or ``below``.
    """
    if direction not in ("above", "below"):
        raise ValueError(f"an identity lies above or below its bound, not {direction!r}")
    if not values:
        return Verdict("not run")
    kept = all(v >= least if direction == "above" else v <= least for v in values)
    seen = students(values)
    return Verdict("holds" if kept else "opposite", seen._replace(low=min(values), high=max(values)))


def word(p: PValues, alpha: float = 0.025) -> str:
    """What the tests say at one level."""
    if p.holds <= alpha:
        return "holds"
    if p.beyond_none <= alpha:
        return "smaller" if p.short_of_least <= alpha else "direction only"
    if p.wrong_side <= alpha:
        return "opposite"
    return "no effect" if max(p.short_of_least, p.above_minus_least) <= alpha else "open"


def _worded(verdict: Verdict, p: PValues, alpha: float, together: int = 1) -> Verdict:
    """The verdict with the word that its tests say; without room a word that this would explain is not said."""
    assert verdict.placed is not None
    said = word(p, alpha)
    if not verdict.enough_room and said not in ("holds", "opposite"):
        said = "no room"
    needed = seeds_needed(verdict.placed, alpha / together) if said == "open" else None
    return replace(verdict, word=said, p=p, seeds_needed=needed)


def _require_terms(direction: str, least: float, neutral: float | None, scale: str) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if direction == "within" and scale not in ("plain", "log"):
        raise ValueError(f"within: a least effect is a distance or, on the log scale, a factor; got scale {scale!r}")
    if direction == "within" and not least > (1 if scale == "log" else 0):
        raise ValueError(f"within {least:g}: no value lies within so little of another")
    low, high = usable((), scale).bounds
    for name, point in (("least", least), ("neutral", neutral)):
        if point is not None and not low < point < high:
            raise ValueError(f"{name} {point:g} lies outside ({low:g}, {high:g}), the range of scale {scale!r}")


def _place(
    values: list[float], direction: str, least: float, neutral: float | None, scale: str, bounds: Bounds | None
) -> Placed:
    taken, sign = usable(values, scale, bounds), -1.0 if direction == "below" else 1.0
    moved = [sign * taken.forth(v) for v in values]
    seen = students(moved)
    mean, sd = (moved[0], 0.0) if len(set(values)) == 1 else (seen.mean, seen.sd)
    if direction == "within":
        none = (1.0 if scale == "log" else 0.0) if neutral is None else neutral
        to = taken.forth(none * least if scale == "log" else none + least)
        return Placed(mean, sd, seen.n, to, taken.forth(none), within=True)
    to = sign * taken.forth(least)
    at = None if neutral is None else sign * taken.forth(neutral)
    return Placed(mean, sd, seen.n, to, at if at is not None and at <= to else None)


def _room(
    ceiling: Sequence[float] | None, direction: str, least: float, neutral: float | None, scale: str
) -> tuple[float | None, bool]:
    """Mean of the ceiling's distance to the baseline in the quantity's unit, and whether it is room enough."""
    if not ceiling:
        return None, True
    placed = _place([float(v) for v in ceiling], direction, least, neutral, scale, None)
    if placed.none is None or placed.within:
        raise ValueError("a ceiling belongs to a claim of an effect, not to a bound")
    taken = usable(ceiling, scale)
    enough = placed.mean > placed.none and placed.mean - placed.none >= 2 * (placed.least - placed.none)
    return taken.back(-placed.mean if direction == "below" else placed.mean), enough
