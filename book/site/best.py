"""The best evidence on a claim in words and badges: what pages, pictures and the feed say of it, in either language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from book.cards import Claim
from book.site import elements, languages, press
from book.site.elements import Cell


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
    size = elements.quantity(seen.value, claim.unit, bool(claim.against))
    size = size.replace(languages.say("points", ""), languages.say("points", page))
    return f"{size} {elements.span(seen.low, seen.high, claim.unit)}"


def counts(found: Sequence[press.Best]) -> dict[str, int]:
    """How many claims came to each verdict that occurs, on the best evidence."""
    return {name: n for name, n in press.count(one.verdict.verdict for one in found).items() if n}


def profiles(found: Sequence[press.Best], page: str = "") -> str:
    """Where the best evidence comes from: ``real 170, quick 17``; claims that were measured nowhere do not count."""
    seen = Counter(one.profile for one in found if one.verdict.value is not None)
    return languages.say("comma", page).join(f"{name} {seen[name]}" for name in press.BEST_FIRST if seen[name])


def origin(found: Sequence[press.Best], page: str) -> str:
    """Sentences on where the verdicts come from, how many differ at a smaller profile, and how many are of old code."""
    said = [languages.say("best", page).format(profiles=profiles(found, page))] if profiles(found) else []
    if differ := sum(bool(one.against) for one in found):
        said.append(languages.say("differ", page).format(n=differ))
    if old := sum(one.verdict.earlier for one in found):
        said.append(languages.say("old", page).format(n=old))
    return languages.say("space", page).join(said)
