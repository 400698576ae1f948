"""`check`: fresh runs against the committed references, and every claim's metrics against what was recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from book import cards, chapters, freshness, golden, reference
from book.reference import DIGITS, Evidence


@dataclass
class Findings:
    """What is wrong (the check fails), and what is worth knowing (it does not)."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(slugs: list[str], profile: str = "quick") -> Findings:
    """Check the named (or all) chapters at one profile, and the committed evidence of the others."""
    findings = Findings()
    known = cards.all_cards([chapters.require(s) for s in slugs] or None)
    for slug, card in known.items():
        _run_against_reference(card, profile, findings)
        for each in reference.PROFILES:
            evidence = reference.committed(slug, each)
            for metric in edited_by_hand(evidence) if evidence else []:
                text = f"{slug}, {each}, {metric}: the reference's statistics do not follow from its values"
                findings.problems.append(f"{text}; only accept may write {chapters.evidence_path(slug, each)}")
        for other in (p for p in reference.PROFILES if p != profile):
            _committed(slug, other, findings)
        for row in reference.claims_for(slug):
            for name, result in row.results.items():
                if result.problem:
                    findings.problems.append(f"{slug}, {name}, claim {row.claim.id!r}: {result.problem}")
        faults = golden.problems(slug)
        here = findings.problems if chapters.golden_path(slug).exists() else findings.warnings
        here.extend(faults)
    return findings


def _run_against_reference(card: cards.Card, profile: str, findings: Findings) -> None:
    slug = card.slug
    fresh = reference.run_evidence(slug, profile)
    if fresh is None:
        findings.problems.append(f"{slug}, {profile}: {freshness.why(slug, profile)}")
        return
    was = reference.committed(slug, profile)
    if was is None:
        call = f"python -m book accept {slug} --profile {profile}"
        findings.problems.append(f"{slug}, {profile}: there is no reference to compare with; {call} makes one")
        return
    findings.problems += map(str, compare(card, was, fresh))
    if new := sorted(set(fresh["metrics"]) - set(was["metrics"])):
        findings.warnings.append(f"{slug}, {profile}: not in the reference yet: {', '.join(new)}; accept adds them")


def _committed(slug: str, profile: str, findings: Findings) -> None:
    evidence = reference.committed(slug, profile)
    if evidence is None:
        return
    if changed := freshness.changes(slug, evidence["dependencies"]):
        commit = evidence["provenance"]["commit"] or "not in git"
        text = f"{slug}, {profile}: measured with earlier code ({commit}); changed since: {', '.join(changed)}"
        findings.warnings.append(text)


@dataclass(frozen=True)
class Moved:
    """A metric that has left what the reference allows (or is gone, when `now` is None)."""

    slug: str
    profile: str
    metric: str
    was: float
    allowed: tuple[float, float]
    now: float | None

    def __str__(self) -> str:
        where = f"{self.slug}, {self.profile}, {self.metric}: was {self.was:g}"
        if self.now is None:
            return f"{where}, is no longer recorded"
        return f"{where} (allowed {self.allowed[0]:g} to {self.allowed[1]:g}), is {self.now:g}"


def tolerance(card: cards.Card, metric: str) -> float:
    """Widening of the interval that the card grants a metric: the first pattern that fits, else 0."""
    return next((width for pattern, width in card.tolerance.items() if fnmatchcase(metric, pattern)), 0.0)


def compare(card: cards.Card, reference: Evidence, fresh: Evidence) -> list[Moved]:
    """Metrics whose mean has left the reference's interval, widened by the card's tolerance."""
    moved = []
    for name, was in reference["metrics"].items():
        low, high = was["ci95"] or (was["mean"], was["mean"])
        # Both sides were rounded; a difference in the last digit kept is no difference.
        slack = tolerance(card, name) + 10.0 ** (1 - DIGITS) * max(abs(low), abs(high))
        allowed = (low - slack, high + slack)
        now = fresh["metrics"][name]["mean"] if name in fresh["metrics"] else None
        if now is None or not math.isfinite(now) or not allowed[0] <= now <= allowed[1]:
            moved.append(Moved(card.slug, reference["profile"], name, was["mean"], allowed, now))
    return moved


def edited_by_hand(evidence: Evidence) -> list[str]:
    """Metrics whose statistics do not follow from their values: nobody but `accept` may write them."""
    return [
        name for name, kept in evidence["metrics"].items() if not _same(kept, reference.statistics_of(kept["values"]))
    ]


def _same(a: Any, b: Any) -> bool:
    """Equality but for the last digit, on which two builds of the same library may differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=10.0 ** (1 - DIGITS), abs_tol=1e-12)
    return a == b
