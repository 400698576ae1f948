"""What a run's numbers say of the claims on a card, as evidence keeps it and as pages show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from book import cards, expressions
from fedlib import evidence as statistics, verdicts

DIGITS = 6  # that the files keep of a number
# Of a claim, as they were when it was judged: what decides its verdict, and in which words it was made.
DECIDING = ("metric", "against", "direction", "least", "neutral", "scale", "ceiling", "unit", "kind")
TERMS = (*DECIDING, "statement", "source", "paper")


def rounded(value: float) -> float:
    """A number with as many digits as the files keep."""
    return float(f"{value:.{DIGITS}g}")


def terms(claim: cards.Claim) -> dict[str, Any]:
    """What a claim asks for."""
    return {name: getattr(claim, name) for name in TERMS}


def moved(card: cards.Card, profile: str, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The terms of each claim of a profile that are no longer what evidence has ``kept`` of them, by claim.

    A claim that either of the two lacks has no terms to compare.
    """
    claims = {c.id: terms(c) for c in card.claims if profile in c.profiles and c.id in kept}
    found = {name: [t for t in TERMS if kept[name].get(t) != now[t]] for name, now in claims.items()}
    return {name: changed for name, changed in found.items() if changed}


def loosened(card: cards.Card, profile: str, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Of :func:`moved` what decides a verdict; a claim that is gone from the profile, with no term at all."""
    gone = set(kept) - {c.id for c in card.claims if profile in c.profiles}
    found = {name: [t for t in changed if t in DECIDING] for name, changed in moved(card, profile, kept).items()}
    return {name: changed for name, changed in found.items() if changed} | {name: [] for name in sorted(gone)}


def judged(card: cards.Card, profile: str, metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The claims of a profile as evidence keeps them: what each asks for, and what came of it."""
    claims = [claim for claim in card.claims if profile in claim.profiles]
    kept = ("value", "interval", "room", "verdict")
    results = judge(claims, metrics)
    return {c.id: terms(c) | {name: getattr(results[c.id], name) for name in kept} for c in claims}


@dataclass(frozen=True)
class Result:
    """A claim at one profile. `value` is the mean (of the paired differences or ratios, when it compares two metrics).

    `together`: with how many primary claims it was judged, 0 for a claim that is not corrected. `p`: of *holds*, before
    that. `room`, `seeds_needed`: see :class:`fedlib.verdicts.Verdict`.
    """

    verdict: str
    value: float | None = None
    interval: list[float] | None = None
    seeds: int = 0
    room: float | None = None
    seeds_needed: int | None = None
    together: int = 0
    p: float | None = None
    stale: bool = False
    origin: str | None = None  # "run", "reference", or None when there is no evidence
    problem: str | None = None  # why there is no verdict although there is evidence


def judge(claims: Sequence[cards.Claim], metrics: dict[str, Any]) -> dict[str, Result]:
    """The verdicts on a chapter's claims from the metrics of one profile, by claim; primary ones as one family."""
    found: dict[str, verdicts.Verdict] = {}
    problems: dict[str, str] = {}
    for claim in claims:
        try:
            found[claim.id] = _judge(claim, metrics)
        except ValueError as error:
            problems[claim.id] = str(error)
    family = [c.id for c in claims if c.kind == "primary" and c.id in found]
    alone = dict(found)
    found |= zip(family, verdicts.judge_together([found[name] for name in family]), strict=True)
    results = {name: Result("not run", problem=problem) for name, problem in problems.items()}
    for name, seen in found.items():
        assert seen.interval is not None
        results[name] = Result(
            verdict=seen.word,
            value=rounded(seen.interval.mean),
            interval=None if seen.interval.n < 2 else [rounded(seen.interval.low), rounded(seen.interval.high)],
            seeds=seen.interval.n,
            room=None if seen.room is None else rounded(seen.room),
            seeds_needed=seen.seeds_needed,
            together=len(family) if name in family else 0,
            p=alone[name].p.holds if seen.placed else None,
        )
    return results


def _judge(claim: cards.Claim, metrics: dict[str, Any]) -> verdicts.Verdict:
    """One claim by itself. Raises ValueError when its metrics were not recorded, or are not what the card says."""
    for name in (claim.metric, claim.against, claim.ceiling):
        if name is not None and name not in metrics:
            raise ValueError(f"metric {name!r} was never recorded")
    effect = _effect(claim, claim.metric, metrics)
    if claim.kind == "identity":
        return verdicts.identity(effect, claim.direction, claim.least)
    ceiling = _effect(claim, claim.ceiling, metrics) if claim.ceiling else None
    bounds = _bounds(claim, metrics)
    return verdicts.judge(
        effect, claim.direction, claim.least, claim.neutral, claim.scale, bounds=bounds, ceiling=ceiling
    )


def _effect(claim: cards.Claim, metric: str, metrics: dict[str, Any]) -> list[float]:
    """A metric seed by seed, or its differences (on the log scale: its ratios) to what it is compared with."""
    values: dict[str, float] = metrics[metric]["values"]
    if claim.against is None:
        return list(values.values())
    others: dict[str, float] = metrics[claim.against]["values"]
    try:
        if claim.scale != "log":
            return statistics.paired(values, others)
        statistics.paired(values, others)  # that they have a seed in common
    except ValueError as error:
        raise ValueError(f"{metric} against {claim.against}: {error}") from None
    if wrong := [s for s in values if s in others and not others[s] > 0]:
        raise ValueError(
            f"{metric} against {claim.against}: no ratio at seed {wrong[0]}, where that is {others[wrong[0]]:g}"
        )
    return [values[s] / others[s] for s in values if s in others]


def _bounds(claim: cards.Claim, metrics: dict[str, Any]) -> tuple[float, float] | None:
    """The range of what a claim is about, where its scale does not say it already."""
    if claim.scale != "plain":
        return None
    names = [claim.metric] if claim.against is None else [claim.metric, claim.against]
    return expressions.range_of(claim.unit, {name: metrics[name]["values"].values() for name in names})
