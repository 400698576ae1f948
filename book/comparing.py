"""Two pieces of evidence side by side: what moved, by how much it may on another processor, which verdicts flip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from book.judging import DIGITS
from book.reference import Evidence

SLACK = 3.0  # times the largest move that was measured: other processors may move it further
USUAL = 0.9  # the share of metrics that move as usual
SURELY = 0.001  # the chance of a false alarm in one chapter, on a processor where nothing was measured
ROUNDING = 1e-5  # what single precision may make of a number that mathematics says is zero


@dataclass(frozen=True)
class Moved:
    """A metric that has left the reference: the seed where it did so most, and how many did."""

    metric: str
    seed: str
    was: float
    now: float | None
    allowed: float
    seeds: tuple[int, int]

    def __str__(self) -> str:
        if self.now is None:
            return f"{self.metric}: was {self.was:g} at seed {self.seed}, is no longer recorded"
        room = f" (allowed: {self.allowed:g} either way)" if self.allowed else ""
        count = f"; {self.seeds[0]} of {self.seeds[1]} seeds moved" if self.seeds[1] > 1 else ""
        return f"{self.metric}: was {self.was:g} at seed {self.seed}, is {self.now:g}{room}{count}"


def compare(was: Evidence, fresh: Evidence, allowed: Mapping[str, float | None] | None = None) -> list[Moved]:
    """Metrics that have moved at any seed by more than ``allowed``; without it, at all, up to the last digit kept."""
    moved = []
    for name, metric in was["metrics"].items():
        room = 0.0 if allowed is None else allowed[name]
        if room is None and name in fresh["metrics"]:
            continue
        now = fresh["metrics"].get(name, {}).get("values", {})
        gone = [seed for seed in metric["values"] if seed not in now]
        far = {
            seed: abs(now[seed] - value) - (room or 0.0)
            for seed, value in metric["values"].items()
            if seed in now and not near(now[seed], value, room or 0.0)
        }
        if gone or far:
            seed = gone[0] if gone else max(far, key=lambda s: far[s])
            seeds = len(gone) + len(far), len(metric["values"])
            moved.append(Moved(name, seed, metric["values"][seed], now.get(seed), room or 0.0, seeds))
    return moved


def near(a: float, b: float, room: float = 0.0) -> bool:
    """Equal, but for the room given and the last digit kept: both sides were rounded."""
    return abs(a - b) <= room + 10.0 ** (1 - DIGITS) * max(abs(a), abs(b)) + 1e-12


def flips(was: Evidence, fresh: Evidence) -> dict[str, str]:
    """New verdicts of the claims whose verdict is no longer that of the reference."""
    now = {name: claim["verdict"] for name, claim in fresh["claims"].items()}
    return {name: now[name] for name, claim in was["claims"].items() if name in now and now[name] != claim["verdict"]}


def tolerances(was: Evidence, moves: Mapping[str, float]) -> dict[str, float | None]:
    """By how much each metric may move at any seed on another processor; None where it moves by more than its seeds.

    ``moves`` are the largest moves measured, by metric. What moved least may have been lucky, so metrics of a family
    (the name up to the first slash) share their largest move, and all may move as most do in relation to the spread of
    their seeds; but none by more than that spread.
    """
    spreads = {name: spread_of(metric) for name, metric in was["metrics"].items()}
    relative = sorted(moves.get(name, 0.0) / spread for name, spread in spreads.items() if spread)
    usual = relative[int(USUAL * (len(relative) - 1))] if relative else 0.0
    families: dict[str, float] = {}
    for name, most in moves.items():
        families[_family(name)] = max(families.get(_family(name), 0.0), most)
    allowed: dict[str, float | None] = {}
    for name, spread in spreads.items():
        own, shared = SLACK * moves.get(name, 0.0), SLACK * max(families.get(_family(name), 0.0), usual * spread)
        allowed[name] = min(shared, spread) if own <= spread else None
    return allowed


def spread_of(metric: Any) -> float:
    """Deviation of a metric from seed to seed; of one seed, a hundredth of it."""
    return metric["sd"] if metric["sd"] is not None else 0.01 * abs(metric["mean"])


def _family(metric: str) -> str:
    return metric.split("/", 1)[0]


def surely_another(then: Any, now: Any, level: float) -> bool:
    """Whether two means over seeds differ by more than fresh seeds would make them, with this chance of a mistake.

    One seed, or seeds that are all equal on both sides, say nothing of a spread: there a hundredth is the room.
    """
    if abs(now["mean"] - then["mean"]) <= ROUNDING:
        return False
    if not then["sd"] and not now["sd"]:
        return abs(now["mean"] - then["mean"]) > spread_of(then | {"sd": None})
    from scipy.stats import ttest_ind_from_stats  # slow to import, wanted only here

    sides = [value for side in (then, now) for value in (side["mean"], side["sd"] or 0.0, len(side["values"]))]
    return not ttest_ind_from_stats(*sides, equal_var=False).pvalue >= level  # nan is another, too
