"""The one door from the website to the press: cards, evidence, freshness.

Directives ask here and nowhere else, so a change of the press touches this file only. What is returned is plain data,
and nothing here raises because a chapter has not been run yet.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

import nbformat

from book import cards, chapters, freshness, records, reference
from book.errors import PressError as PressError
from fedlib import evidence as statistics, verdicts as rules

PROFILES = reference.PROFILES  # those that readers see; smoke only guards the goldens
BEST_FIRST = tuple(reversed(PROFILES))
VERDICTS = rules.VERDICTS
GLUE_PREFIX = statistics.GLUE_PREFIX  # marks outputs that give the prose a number
EVIDENCE = statistics.MIME  # the output type in which a run hands its numbers to the press
PARTS = cards.PARTS
KINDS = get_args(cards.Kind)


@dataclass(frozen=True)
class State:
    """Whether the outputs of a chapter are those of its present code: fresh, never, stale or failed."""

    kind: str
    detail: str = ""

    @property
    def words(self) -> str:
        return {
            "fresh": "executed, and nothing has changed since",
            "never": "never executed",
            "stale": "stale",
            "failed": "the last run failed",
        }[self.kind]


@dataclass(frozen=True)
class Verdict:
    """One claim at one profile. ``earlier``: measured with code that has changed since.

    The others are those of :class:`book.judging.Result`.
    """

    verdict: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    applies: bool = True
    earlier: bool = False
    problem: str = ""
    room: float | None = None
    seeds_needed: int | None = None
    together: int = 0
    p: float | None = None


@dataclass(frozen=True)
class Best:
    """The best evidence there is on a claim: at the largest profile where it was measured.

    Evidence of earlier code counts (a verdict must not change because the code was tidied), and ``verdict.earlier`` has
    pages say so. ``against``: the smaller profiles where the same claim came to something else, largest first.
    """

    profile: str
    verdict: Verdict
    against: tuple[tuple[str, Verdict], ...] = ()


@dataclass(frozen=True)
class Measured:
    """The evidence of one chapter at one profile."""

    metrics: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    seeds: list[int]
    earlier: bool = False
    unknown: str = ""  # data sets that no card knows
    setting: dict[str, Any] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return str(self.provenance.get("commit") or "unknown")[:7]


def root() -> Path:
    return chapters.ROOT


@cache
def checkout() -> tuple[str | None, frozenset[str]]:
    """The commit that is checked out (None without git), and the files of the library and the tests that differ."""
    head, changed = records.checkout("fedlib", "tests")
    return head, frozenset(changed)


def drafting() -> bool:
    return os.environ.get("FEDBOOK_DRAFT") == "1"


def slug_of(document: str) -> str | None:
    """The slug of a chapter's document name (`papers/<slug>/chapter`), or None for any other page."""
    match = re.fullmatch(rf"(?:{'|'.join(chapters.HOMES)})/([^/]+)/chapter", document)
    return match.group(1) if match else None


def document_of(slug: str) -> str:
    return chapters.chapter_path(slug).relative_to(root()).with_suffix("").as_posix()


def slugs() -> list[str]:
    """Slugs of all chapters, in the order of the parts, then of the notes (a primer first); other pages at the end."""
    order = {part: place for place, part in enumerate((*PARTS, None))}
    return sorted(chapters.slugs(), key=lambda slug: (order[card(slug).part], card(slug).entry or 0))


def executed_path(slug: str) -> Path:
    return chapters.executed_path(slug, "quick")


def cell_digest(cell: Any) -> str:
    """Hash of what one code cell does, in the press's sense: comments, docstrings and layout do not count."""
    return freshness.cells_digest(nbformat.v4.new_notebook(cells=[cell]))


@cache
def card(slug: str) -> cards.Card:
    """The chapter's card (paper.yml, validated); its errors name file and field."""
    return cards.load(slug)


def check_files() -> None:
    """Raises PressError, naming file and field, when a card, the entries or committed evidence are malformed."""
    cards.all_cards()
    cards.entries()
    for slug in chapters.slugs():
        for profile in PROFILES:
            measured(slug, profile)


@cache
def entries() -> list[cards.Entry]:
    """The entries of the reading notes, in the order in which they were kept."""
    return cards.entries()


@cache
def state(slug: str) -> State:
    """Freshness of the quick run, whose outputs the page shows."""
    return State(freshness.state(slug, "quick"), freshness.why(slug, "quick"))


@cache
def measured(slug: str, profile: str) -> Measured | None:
    """Evidence of a profile: of a fresh run, else the committed one; None when there is neither."""
    found = reference.evidence_for(slug, profile)
    if not found:
        return None
    unknown = reference.unknown_data(found)
    setting = found.get("setting") or {}
    return Measured(found["metrics"], found["provenance"], found["seeds"], bool(found["stale"]), unknown, setting)


@cache
def verdicts(slug: str) -> dict[tuple[str, str], Verdict]:
    """Every claim of a chapter, judged anew from the evidence, by (claim, profile)."""
    found = {}
    for row in reference.claims_for(slug):
        for profile, seen in row.results.items():
            low, high = seen.interval or (None, None)
            found[row.claim.id, profile] = Verdict(
                seen.verdict,
                seen.value,
                low,
                high,
                earlier=seen.stale,
                problem=seen.problem or "",
                room=seen.room,
                seeds_needed=seen.seeds_needed,
                together=seen.together,
                p=seen.p,
            )
    return found


def needs(slug: str, profile: str) -> cards.Needs | None:
    """What a profile costs and needs, by the card; None for a profile that the chapter does not have."""
    return {str(name): content for name, content in card(slug).profiles.items()}.get(profile)


def verdict_of(slug: str, claim: cards.Claim, profile: str) -> Verdict:
    """What a claim came to at a profile; *not run* where it was never measured."""
    if profile not in claim.profiles:
        return Verdict("not run", applies=False)
    return verdicts(slug).get((claim.id, profile), Verdict("not run"))


def best(slug: str, claim: cards.Claim) -> Best:
    """The best evidence on a claim: that of full, else real, else quick; *not run* where there is none."""
    seen = [(p, verdict_of(slug, claim, p)) for p in BEST_FIRST if p in claim.profiles]
    measured = [(profile, verdict) for profile, verdict in seen if verdict.value is not None]
    if not measured:
        return Best(claim.profiles[0], Verdict("not run"))
    (profile, verdict), *smaller = measured
    return Best(profile, verdict, tuple((p, v) for p, v in smaller if v.verdict != verdict.verdict))


def best_of(*slugs: str, kinds: Sequence[str] = KINDS) -> list[Best]:
    """The best evidence on every claim of these chapters, or on those of some kinds."""
    return [best(slug, claim) for slug in slugs for claim in card(slug).claims if claim.kind in kinds]


def tally(slug: str, profile: str, kinds: Sequence[str] = KINDS) -> dict[str, int]:
    """How many of the chapter's claims came to each verdict at a profile (only claims made for it)."""
    claims = [claim for claim in card(slug).claims if profile in claim.profiles and claim.kind in kinds]
    return count(verdict_of(slug, claim, profile).verdict for claim in claims)


def count(verdicts: Iterable[str]) -> dict[str, int]:
    """How many there are of each verdict, all of them named."""
    counts = Counter(verdicts)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def measured_first(names: Iterable[str], slug: str) -> list[str]:
    """Profiles in the order in which a page shows them: the best evidence first, what was never run last."""
    wanted = set(names)
    return sorted((p for p in BEST_FIRST if p in wanted), key=lambda profile: measured(slug, profile) is None)


def signature(slug: str) -> str:
    """Changes whenever anything that a page shows of this chapter changes, besides its own text."""
    digest = hashlib.sha256(repr(state(slug)).encode())
    for profile in PROFILES:
        digest.update(repr(measured(slug, profile)).encode())
    for path in (chapters.card_path(slug), executed_path(slug), root() / "book" / "entries.yml"):
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def forget_states() -> None:
    """Ask the press afresh (the functions above remember their answers during one build)."""
    for function in (card, entries, state, measured, verdicts, checkout):
        function.cache_clear()
