"""Evidence: built from a run, committed by `accept`, judged claim by claim.

The committed file says what was measured and with which sources. Only `accept` writes it, and what it writes
depends on nothing but the run, so that accepting twice changes no byte.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from book import cards, chapters, files, freshness, judging, prose, records, schema
from book.errors import PressError
from fedlib import evidence as statistics

Evidence = dict[str, Any]
PROFILES = ("quick", "real", "full")  # those that readers see; smoke guards the code


def statistics_of(values: dict[str, float]) -> dict[str, Any]:
    """Mean, sd and interval of one metric; the latter two are null with one seed, which says nothing about spread.

    They are computed from the rounded values, so that the committed file can be checked on its own.
    """
    kept = {seed: judging.rounded(value) for seed, value in sorted(values.items(), key=lambda item: int(item[0]))}
    seen = statistics.interval(kept.values())
    alone = seen.n < 2
    return {
        "mean": judging.rounded(seen.mean),
        "sd": None if alone else judging.rounded(seen.sd),
        "ci95": None if alone else [judging.rounded(seen.low), judging.rounded(seen.high)],
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
        "claims": judging.judged(card, record["profile"], metrics),
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


@dataclass(frozen=True)
class ClaimRow:
    """A claim and its result at each of its profiles, in the order smoke, quick, real, full."""

    claim: cards.Claim
    results: dict[str, judging.Result] = field(default_factory=dict)


def committed(slug: str, profile: str) -> Evidence | None:
    """The committed reference, or None. Raises PressError when it is not what `accept` writes for this chapter."""
    path = chapters.evidence_path(slug, profile)
    evidence = files.read_json(path)
    if evidence is None:
        return None
    call = f"python -m book accept {slug} --profile {profile}"
    remedy = f"restore it from git, or run again and accept: {call}; {call} --rejudge if only its verdicts are old"
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
    rows = {claim.id: ClaimRow(claim) for claim in card.claims}
    for profile, evidence in shown.items():
        claims = [claim for claim in card.claims if profile in claim.profiles]
        results = (
            {c.id: judging.Result("not run") for c in claims}
            if evidence is None
            else judging.judge(claims, evidence["metrics"])
        )
        for name, result in results.items():
            marks = {"stale": evidence["stale"], "origin": evidence["origin"]} if evidence else {}
            rows[name].results[profile] = replace(result, **marks)
    return list(rows.values())


def accept(slug: str, profile: str) -> tuple[Evidence | None, Evidence]:
    """Make the fresh run of a profile the committed reference. Returns the one before and the new one.

    Raises PressError when the run is not fresh, lacks a metric that a claim needs, or when a claim's terms have changed
    and the chapter's deviations do not say so.
    """
    card = cards.load(chapters.require(slug))
    if freshness.state(slug, profile) != "fresh":
        call = f"python -m book run {slug} --profile {profile}"
        raise PressError(f"{slug}, {profile}: {freshness.why(slug, profile)}; run it first: {call}")
    new = run_evidence(slug, profile)
    assert new is not None
    require_judgement(card, profile, new["metrics"])
    require_stated(card, profile)
    try:
        before = committed(slug, profile)
    except PressError:  # what cannot be read or was edited is replaced
        before = None
    files.remove_parts(chapters.evidence_path(slug, profile).parent, profile)
    files.write(chapters.evidence_path(slug, profile), layout(new))
    cards.note_cost(slug, profile, new["provenance"]["seconds"], new["provenance"]["peak_memory_mb"])
    return before, new


def rejudge(slug: str, profile: str) -> tuple[Evidence, Evidence]:
    """Judge the numbers of the committed reference by the card and the rules of today; no number moves, nothing is run.

    Returns the reference before and after. Raises PressError when there is none, when it was edited, when it lacks a
    metric that a claim needs, and as :func:`require_stated` does.
    """
    card, path = cards.load(chapters.require(slug)), chapters.evidence_path(slug, profile)
    before = files.read_json(path)
    if before is None:
        raise PressError(f"{slug}, {profile}: there is no reference to judge again; run it and accept that")
    if not isinstance(before, dict) or before.get("digest") != records.digest(before):
        raise PressError(f"{path} was edited: its contents do not have the checksum it names; restore it from git")
    after = before | {"claims": {}}
    schema.require(schema.Committed, after, path, "restore it from git")
    require_judgement(card, profile, after["metrics"])
    require_stated(card, profile)
    after["claims"] = judging.judged(card, profile, after["metrics"])
    after["digest"] = records.digest(after)
    files.write(path, layout(after))
    return before, after


def require_judgement(card: cards.Card, profile: str, metrics: dict[str, Any]) -> None:
    """Raises PressError when a claim of this profile cannot be judged by these metrics."""
    for name, result in judging.judge([c for c in card.claims if profile in c.profiles], metrics).items():
        if result.problem:
            raise PressError(
                f"{card.slug}, {profile}, claim {name!r}: {result.problem}; record it, or correct the claim"
            )


def require_stated(card: cards.Card, profile: str) -> None:
    """Raises PressError when what decides a claim's verdict is no longer what was accepted, or the claim is gone from
    the profile, and the chapter's deviations do not name the claim by its id.
    """
    try:
        kept = files.read_json(chapters.evidence_path(card.slug, profile))["claims"]
    except (PressError, TypeError, KeyError):  # there is none, or none that can be read
        return
    told = prose.deviations(files.read_text(chapters.chapter_path(card.slug)))
    for name, changed in judging.loosened(card, profile, kept).items():
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", told):
            what = f"{', '.join(changed)} changed" if changed else "is gone"
            raise PressError(
                f"{card.slug}, {profile}, claim {name!r}: {what} since it was accepted ({kept[name].get('verdict')}); "
                f"say in the chapter's Deviations what was changed and why, and name the claim there: `{name}`"
            )


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
