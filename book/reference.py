"""Evidence: built from a run, committed by `accept`, judged claim by claim.

The committed file says what was measured and with which sources. Only `accept` writes it, and what it writes
depends on nothing but the run, so that accepting twice changes no byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from book import cards, chapters, files, freshness, records
from book.errors import PressError
from fedlib import evidence as statistics

Evidence = dict[str, Any]
DIGITS = 6
PROFILES = ("quick", "real", "full")  # smoke is guarded by its golden notebook instead


def rounded(value: float) -> float:
    """A number with as many digits as the files keep."""
    return float(f"{value:.{DIGITS}g}")


def statistics_of(values: dict[str, float]) -> dict[str, Any]:
    """Mean, sd and interval of one metric; the latter two are null with one seed, which says nothing about spread.

    They are computed from the rounded values, so that the committed file can be checked on its own.
    """
    kept = {seed: rounded(value) for seed, value in sorted(values.items(), key=lambda item: int(item[0]))}
    seen = statistics.interval(kept.values())
    alone = seen.n < 2
    return {
        "mean": rounded(seen.mean),
        "sd": None if alone else rounded(seen.sd),
        "ci95": None if alone else [rounded(seen.low), rounded(seen.high)],
        "values": kept,
    }


def build(card: cards.Card, record: records.Record) -> Evidence:
    """The evidence of a run, in the form in which it is committed."""
    run = record["evidence"]
    metrics = {name: statistics_of(values) for name, values in run["metrics"].items()}
    claims = {c.id: judge(c, metrics) for c in card.claims if record["profile"] in c.profiles}
    return {
        "slug": card.slug,
        "profile": record["profile"],
        "seeds": run["seeds"],
        "claims": {i: {"value": r.value, "interval": r.interval, "verdict": r.verdict} for i, r in claims.items()},
        "metrics": metrics,
        "provenance": {
            "hash": record["hash"],
            "commit": record["commit"],
            "dirty": record["dirty"],
            "date": record["finished"],
            "device": run["device"],
            "threads": record["threads"],
            "seconds": record["seconds"],
            "peak_memory_mb": record["peak_memory_mb"],
            "versions": run["versions"],
        },
        "dependencies": record["dependencies"],
    }


@dataclass(frozen=True)
class Result:
    """A claim at one profile. `value` is the mean (of the paired differences, when the claim compares two metrics)."""

    verdict: str
    value: float | None = None
    interval: list[float] | None = None
    seeds: int = 0
    stale: bool = False
    origin: str | None = None  # "run", "reference", or None when there is no evidence
    problem: str | None = None  # why there is no verdict although there is evidence


@dataclass(frozen=True)
class ClaimRow:
    """A claim and its result at each of its profiles, in the order smoke, quick, real, full."""

    claim: cards.Claim
    results: dict[str, Result] = field(default_factory=dict)


def judge(claim: cards.Claim, metrics: dict[str, Any]) -> Result:
    """The verdict on one claim from the metrics of one profile."""
    wanted = [m for m in (claim.metric, claim.against) if m is not None]
    if lacking := [m for m in wanted if m not in metrics]:
        return Result("not run", problem=f"metric {lacking[0]!r} was never recorded")
    values: dict[str, float] = metrics[claim.metric]["values"]
    try:
        effect = list(values.values())
        if claim.against is not None:
            effect = statistics.paired(values, metrics[claim.against]["values"])
    except ValueError as error:
        return Result("not run", problem=f"{claim.metric} against {claim.against}: {error}")
    seen = statistics.interval(effect)
    return Result(
        verdict=statistics.verdict(effect, claim.direction, claim.least, claim.neutral),
        value=rounded(seen.mean),
        interval=None if seen.n < 2 else [rounded(seen.low), rounded(seen.high)],
        seeds=seen.n,
    )


def committed(slug: str, profile: str) -> Evidence | None:
    """The committed reference, or None. Raises PressError when it is not what `accept` writes."""
    path = chapters.evidence_path(slug, profile)
    evidence = files.read_json(path)
    if evidence is None:
        return None
    wanted = {"slug", "profile", "seeds", "claims", "metrics", "provenance", "dependencies"}
    if not isinstance(evidence, dict) or (lacking := sorted(wanted - set(evidence))):
        what = f"lacks {lacking[0]!r}" if isinstance(evidence, dict) else "is no evidence"
        raise PressError(f"{path} {what}; restore it from git, or accept a run again")
    return evidence


def run_evidence(slug: str, profile: str) -> Evidence | None:
    """Evidence of the last run with default parameters, when that is fresh; None otherwise."""
    if freshness.state(slug, profile) != "fresh":
        return None
    record = records.good(records.read(slug, profile))
    return build(cards.load(slug), record) if record else None


def evidence_for(slug: str, profile: str) -> Evidence | None:
    """What is to be shown: a fresh run's evidence, else the committed reference, else None.

    Two keys are added: `origin` ("run" or "reference") and `stale` (measured with sources that have changed since);
    a stale one also has `changed`, the list of what has.
    """
    if run := run_evidence(slug, profile):
        return {**run, "origin": "run", "stale": False, "changed": []}
    reference = committed(slug, profile)
    if reference is None:
        return None
    changed = freshness.changes(slug, reference["dependencies"])
    return {**reference, "origin": "reference", "stale": bool(changed), "changed": changed}


def claims_for(slug: str) -> list[ClaimRow]:
    """The claims of a chapter with their results at every profile that they apply to."""
    card = cards.load(slug)
    shown = {p: evidence_for(slug, p) for p in chapters.PROFILES if any(p in c.profiles for c in card.claims)}
    rows = []
    for claim in card.claims:
        row = ClaimRow(claim)
        for profile in (p for p in shown if p in claim.profiles):
            evidence = shown[profile]
            if evidence is None:
                row.results[profile] = Result("not run")
                continue
            result = judge(claim, evidence["metrics"])
            marks = {"stale": evidence["stale"], "origin": evidence["origin"]}
            row.results[profile] = Result(**{**result.__dict__, **marks})
        rows.append(row)
    return rows


def accept(slug: str, profile: str) -> tuple[Evidence | None, Evidence]:
    """Make the fresh run of a profile the committed reference. Returns the one before and the new one.

    Raises PressError when the run is not fresh, or lacks a metric that a claim needs.
    """
    card = cards.load(chapters.require(slug))
    if freshness.state(slug, profile) != "fresh":
        call = f"python -m book run {slug} --profile {profile}"
        raise PressError(f"{slug}, {profile}: {freshness.why(slug, profile)}; run it first: {call}")
    new = run_evidence(slug, profile)
    assert new is not None
    for claim in (c for c in card.claims if profile in c.profiles):
        if problem := judge(claim, new["metrics"]).problem:
            raise PressError(f"{slug}, {profile}, claim {claim.id!r}: {problem}; record it, or correct the claim")
    before = committed(slug, profile)
    files.remove_parts(chapters.evidence_path(slug, profile).parent, profile)
    files.write(chapters.evidence_path(slug, profile), layout(new))
    return before, new


def layout(evidence: Evidence) -> str:
    """The evidence as text that reads well in a diff: sorted keys, one metric, claim or module a line."""

    def line(content: Any) -> str:
        return json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)

    def block(content: dict[str, Any], depth: int) -> str:
        pad = "  " * depth
        rows = []
        for key, value in sorted(content.items()):
            nested = (depth == 1 and key in _BLOCKS) or (depth == 2 and key == "modules")
            text = block(value, depth + 1) if nested and value else line(value)
            rows.append(f"{pad}{json.dumps(key, ensure_ascii=False)}: {text}")
        return "{\n" + ",\n".join(rows) + "\n" + "  " * (depth - 1) + "}"

    return block(evidence, 1) + "\n"


_BLOCKS = ("claims", "metrics", "provenance", "dependencies")
