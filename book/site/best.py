"""The best evidence on a claim in words and badges: what pages, pictures and the feed say of it, in either language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from book.cards import Claim
from book.site import elements, languages, press
from book.site.elements import Cell
from fedlib import significance


def verdict(found: press.Best, page: str, claim: Claim | None = None) -> list[Cell]:
    """Profile and verdict of the best evidence; behind it the smaller profiles that came to something else.

    With ``claim`` each verdict is followed by its value and interval, in the unit of the claim.
    """
    if found.verdict.value is None:
        return [elements.badge(found.verdict.verdict, languages.verdict(found.verdict.verdict, page))]
    parts = [(found.profile, found.verdict), *found.against]
    return list(elements.join([_one(profile, seen, page, claim) for profile, seen in parts], " · "))


def _one(profile: str, seen: press.Verdict, page: str, claim: Claim | None) -> Cell:
    shown: list[Cell] = [
        elements.inline(profile, "profile"),
        elements.badge(seen.verdict, languages.verdict(seen.verdict, page)),
    ]
    if claim:
        shown.append(f" {value(seen, claim, page)}")
    return [*shown, " ", elements.label(languages.say("earlier", page), "earlier")] if seen.earlier else shown


def value(seen: press.Verdict, claim: Claim, page: str) -> str:
    """What was measured, and its interval: ``+15.6 points [−4.3, 35.6]``."""
    shown = size(seen.value, claim).replace(languages.say("points", ""), languages.say("points", page))
    return f"{shown} {elements.span(seen.low, seen.high, unit(claim))}"


def size(number: float | None, claim: Claim) -> str:
    """A number that belongs to a claim, in its unit: a difference has a sign, a ratio of two metrics has no unit."""
    return elements.quantity(number, unit(claim), bool(claim.against) and claim.scale != "log")


def unit(claim: Claim) -> str:
    """The unit of what a claim is about."""
    return "ratio" if claim.against and claim.scale == "log" else claim.unit


def seeds(seen: press.Verdict) -> str:
    """How many seeds would settle an open claim; "" for another, and where nothing can be said."""
    if seen.seeds_needed is None:
        return ""
    most = significance.MOST_SEEDS
    said = f"more than {most}" if seen.seeds_needed > most else f"about {seen.seeds_needed}"
    return f"{said} seeds would settle it"


def counts(found: Sequence[press.Best]) -> dict[str, int]:
    """How many claims came to each verdict that occurs, on the best evidence."""
    return {name: n for name, n in press.count(one.verdict.verdict for one in found).items() if n}


def profiles(found: Sequence[press.Best], page: str = "") -> str:
    """Where the best evidence comes from: ``real 170, quick 17``; claims that were measured nowhere do not count."""
    seen = Counter(one.profile for one in found if one.verdict.value is not None)
    return languages.say("comma", page).join(f"{name} {seen[name]}" for name in press.BEST_FIRST if seen[name])


def expect(found: Sequence[press.Best], page: str) -> str:
    """How many primary claims that hold are to be expected false, and how many stand a correction over the whole book.

    Claims that were not tested anywhere do not count.
    """
    tested = [(one.verdict.p, one.verdict.verdict == "holds") for one in found if one.verdict.p is not None]
    if not any(held for _, held in tested):
        return ""
    kept = significance.survivors([p for p, _ in tested])
    stand = sum(held and stands for (_, held), stands in zip(tested, kept, strict=True))
    few = elements.number(significance.expected_false(len(tested)), 2)
    return languages.say("expect", page).format(n=few, kept=stand)


def others(page: str) -> str:
    """How the claims stand that no tally counts: those that are not primary, and the identities."""
    found = press.best_of(*press.slugs(), kinds=("secondary", "mechanism"))
    identities = press.best_of(*press.slugs(), kinds=("identity",))
    held, kept = (counts(some).get("holds", 0) for some in (found, identities))
    return languages.say("others", page).format(n=len(found), held=held, identities=len(identities), kept=kept)


def origin(found: Sequence[press.Best], page: str) -> str:
    """Sentences on where the verdicts come from, how many differ at a smaller profile, and how many are of old code."""
    said = [languages.say("best", page).format(profiles=profiles(found, page))] if profiles(found) else []
    if differ := sum(bool(one.against) for one in found):
        said.append(languages.say("differ", page).format(n=differ))
    if old := sum(one.verdict.earlier for one in found):
        said.append(languages.say("old", page).format(n=old))
    return languages.say("space", page).join(said)
