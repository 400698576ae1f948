"""Evidence: built from a run, committed by `accept`, judged claim by claim.

The committed file says what was measured and with which sources. Only `accept` writes it, and what it writes
depends on nothing but the run, so that accepting twice changes no byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from book import cards, chapters, files, freshness, records, schema
from book.errors import PressError
from fedlib import evidence as statistics

Evidence = dict[str, Any]
DIGITS = 6
PROFILES = ("quick", "real", "full")  # those that readers see; smoke guards the code
TERMS = (
    "metric",
    "against",
    "direction",
    "least",
    "neutral",
    "unit",
    "kind",
)  # of a claim, as they were when it was judged


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


def build(card: cards.Card, record: records.Record, published: dict[str, Any]) -> Evidence:
    """The evidence of a run, in the form in which it is committed: its numbers are those in the executed notebook.

    Raises PressError when the run was not of the book's own methods.
    """
    if names := published.get("changed"):
        raise PressError(f"{card.slug}: {', '.join(names)} changed while it ran (%%method); run it again without")
    metrics = {name: statistics_of(values) for name, values in published["metrics"].items()}
    ran = record["evidence"]  # where it ran: with parts of the seeds elsewhere, there as well
    made = {
        "slug": card.slug,
        "profile": record["profile"],
        "seeds": published["seeds"],
        "claims": {c.id: judged(c, metrics) for c in card.claims if record["profile"] in c.profiles},
        "metrics": metrics,
        "setting": published.get("setting", {}),
        "tuning": published.get("tuning", {}),
        "provenance": {
            "hash": record["hash"],
            "commit": record["commit"],
            "dirty": record["dirty"],
            "date": record["finished"],
            "device": ran["device"],
            "processor": ran["processor"],
            "precision": ran.get("precision"),
            "threads": record["threads"],
            "seconds": record["seconds"],
            "peak_memory_mb": record["peak_memory_mb"],
            "versions": ran["versions"],
        },
        "dependencies": record["dependencies"],
    }
    return made | {"digest": records.digest(made)}


def terms(claim: cards.Claim) -> dict[str, Any]:
    """What a claim asks for."""
    return {name: getattr(claim, name) for name in TERMS}


def judged(claim: cards.Claim, metrics: dict[str, Any]) -> dict[str, Any]:
    """A claim as evidence keeps it: what it asks for, and what came of it."""
    result = judge(claim, metrics)
    return terms(claim) | {"value": result.value, "interval": result.interval, "verdict": result.verdict}


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
    """The committed reference, or None. Raises PressError when it is not what `accept` writes for this chapter."""
    path = chapters.evidence_path(slug, profile)
    evidence = files.read_json(path)
    if evidence is None:
        return None
    remedy = f"restore it from git, or run again and accept: python -m book accept {slug} --profile {profile}"
    schema.require(schema.Committed, evidence, path, remedy)
    for name, wanted in (("slug", slug), ("profile", profile)):
        if evidence[name] != wanted:
            raise PressError(f"{path} is the evidence of another {name} ({evidence[name]}, not {wanted}); {remedy}")
    if evidence["digest"] != records.digest(evidence):
        raise PressError(f"{path} was edited: its contents do not have the checksum it names; {remedy}")
    return evidence


def run_evidence(slug: str, profile: str) -> Evidence | None:
    """Evidence of the last run with default parameters, when that is fresh; None otherwise."""
    if freshness.state(slug, profile) != "fresh":
        return None
    record = records.good(records.read(slug, profile))
    notebook = files.read_json(chapters.executed_path(slug, profile))  # has the checksum in the record: it is fresh
    published = records.published(notebook)
    if not record or not published or published["profile"] != record["profile"]:
        return None
    return build(cards.load(slug), record, published)


def same_machine(was: Evidence, fresh: Evidence) -> bool:
    """Whether two runs must give the same bits: same processor, precision, threads, and versions of what computes."""

    def kind(evidence: Evidence) -> Any:
        facts = evidence["provenance"]
        versions = {name: v for name, v in facts["versions"].items() if name != "python"}
        return facts["processor"], facts["device"], records.narrowed(facts), facts["threads"], versions

    return kind(was) == kind(fresh)


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
    try:
        before = committed(slug, profile)
    except PressError:  # what cannot be read or was edited is replaced
        before = None
    files.remove_parts(chapters.evidence_path(slug, profile).parent, profile)
    files.write(chapters.evidence_path(slug, profile), layout(new))
    return before, new


def unknown_data(evidence: Evidence) -> str:
    """The data sets of a run that are not what a card of this book says, in words; "" when all are."""
    return ", ".join(name for name, sha in evidence["dependencies"]["data"].items() if sha.startswith("unknown:"))


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


_BLOCKS = ("claims", "metrics", "setting", "tuning", "provenance", "dependencies")
