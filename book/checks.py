"""`check`: fresh runs against the committed references, and every claim's terms and metrics against what was recorded.

On the kind of machine on which the reference was measured a run gives the same bits, so nothing may move. On another
processor last digits differ, and training may make much of them: there a number may move by :data:`comparing.SLACK`
times what :mod:`book.drift` measured for its family of metrics, as long as that stays below the spread of its seeds. A
number that moves by more than its seeds differ cannot be compared on another processor, and is counted as such. Where
nothing was measured, training there counts as drawn anew: what leaves the spread of its seeds is named as a warning,
and the check fails where the mean over seeds is surely another (Welch's test, corrected for the number of metrics),
where a number that no seed changes has changed, and where a claim is reversed.

Committed evidence is checked for what contradicts itself, its card or the data this book knows. Values that were made
up, with all that follows from them, contradict nothing: only a fresh run on the same kind of machine shows them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from book import cards, chapters, comparing, drift, freshness, golden, judging, records, reference
from book.errors import PressError
from book.reference import Evidence

REVERSED = {"holds", "smaller", "direction only"}, {"opposite"}
NAMED = 12  # metrics that a message gives with their numbers; of the others it gives the names


@dataclass
class Findings:
    """What is wrong (the check fails), and what is worth knowing (it does not)."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(slugs: list[str], profile: str = "quick") -> Findings:
    """Check the named (or all) chapters at one profile, and the committed evidence of the others.

    A file that cannot be read is a problem of its chapter; the others are checked all the same.
    """
    findings = Findings()
    known, findings.problems = cards.readable([chapters.require(s) for s in slugs] or None)
    for slug, card in known.items():
        for each in chapters.PROFILES:
            try:
                _profile(card, each, each == profile, findings)
            except PressError as error:
                findings.problems.append(f"{slug}, {each}: {error}")
        faults = golden.problems(slug)
        here = findings.problems if chapters.golden_path(slug).exists() else findings.warnings
        here.extend(faults)
    return findings


def _profile(card: cards.Card, profile: str, rerun: bool, findings: Findings) -> None:
    """One chapter at one profile; with ``rerun`` its last run, too, is compared with the reference."""
    slug, was = card.slug, reference.committed(card.slug, profile)
    if was is not None:
        findings.problems += [f"{slug}, {profile}, {text}" for text in faults(card, was)]
    fresh = reference.run_evidence(slug, profile) if rerun else None
    if rerun and fresh is None:
        findings.problems.append(f"{slug}, {profile}: {freshness.why(slug, profile)}")
    elif fresh is not None and was is None:
        call = f"python -m book accept {slug} --profile {profile}"
        findings.problems.append(f"{slug}, {profile}: there is no reference to compare with; {call} makes one")
    elif fresh is not None and was is not None:
        _compare(slug, profile, was, fresh, findings)
    elif was is not None and (changed := freshness.changes(slug, was["dependencies"])):
        commit = was["provenance"]["commit"] or "not in git"
        text = f"{slug}, {profile}: measured with earlier code ({commit}); changed since: {', '.join(changed)}"
        findings.warnings.append(text)
    if measured := fresh or was:
        claims = [claim for claim in card.claims if profile in claim.profiles]
        for name, result in judging.judge(claims, measured["metrics"]).items():
            if result.problem:
                findings.problems.append(f"{slug}, {profile}, claim {name!r}: {result.problem}")


def _compare(slug: str, profile: str, was: Evidence, fresh: Evidence, findings: Findings) -> None:
    where = f"{slug}, {profile}"
    here, there = (records.narrowed(e["provenance"]) for e in (fresh, was))
    if here != there:
        text = f"measured in another precision ({there or 'as the types say'}; here {here or 'as the types say'})"
        findings.problems.append(f"{where}: {text}, so nothing can be compared")
        return
    if new := sorted(set(fresh["metrics"]) - set(was["metrics"])):
        findings.warnings.append(f"{where}: not in the reference yet: {', '.join(new)}; accept adds them")
    allowed, unstable = None, set[str]()
    if not reference.same_machine(was, fresh):
        here, there = (e["provenance"]["processor"] for e in (fresh, was))
        text = f"{where}: measured on another machine ({there}; here {here})"
        measured = drift.committed(slug, profile)
        if not measured or not drift.fits(measured, was):
            text += ", and how far this reference moves elsewhere was not measured; where it was made, run"
            findings.warnings.append(f"{text} python -m book drift {slug} --profile {profile}")
            _roughly(where, was, fresh, findings)
            return
        allowed, unstable = comparing.tolerances(was, measured["metrics"]), set(measured["claims"])
        apart = sorted(name for name, most in allowed.items() if most is None)
        text += ", so numbers are compared with tolerances"
        text += f"; {len(apart)} of {len(allowed)} metrics cannot be compared: {_list(apart)}" if apart else ""
        (findings.warnings if 2 * len(apart) <= len(allowed) else findings.problems).append(text)
    findings.problems += _told(where, comparing.compare(was, fresh, allowed), was)
    for claim, verdict in comparing.flips(was, fresh).items():
        before = was["claims"][claim]["verdict"]
        text = f"{where}, claim {claim!r}: the verdict was {before!r}, is {verdict!r}"
        if claim in unstable:
            findings.warnings.append(f"{text}; it depends on the processor, as was measured")
        else:
            findings.problems.append(text)


def _roughly(where: str, was: Evidence, fresh: Evidence, findings: Findings) -> None:
    """Compare on another processor without measured moves, as if its seeds had been drawn anew."""
    moved = comparing.compare(
        was, fresh, {name: comparing.spread_of(metric) for name, metric in was["metrics"].items()}
    )
    findings.warnings += _told(where, [one for one in moved if one.now is not None], was)
    findings.problems += _told(where, [one for one in moved if one.now is None], was)
    for name in sorted(set(was["metrics"]) & set(fresh["metrics"])):
        then, now = was["metrics"][name], fresh["metrics"][name]
        if comparing.surely_another(then, now, comparing.SURELY / len(was["metrics"])):
            means = f"the mean over seeds was {then['mean']:g}, is {now['mean']:g}"
            findings.problems.append(f"{where}, {name}: {means}: more than another processor explains")
    for claim, verdict in comparing.flips(was, fresh).items():
        before = was["claims"][claim]["verdict"]
        text = f"{where}, claim {claim!r}: the verdict was {before!r}, is {verdict!r} here"
        reversed_ = any(before in side and verdict in other for side, other in (REVERSED, REVERSED[::-1]))
        (findings.problems if reversed_ else findings.warnings).append(text)


def _told(where: str, moved: list[comparing.Moved], was: Evidence) -> list[str]:
    """The metrics that moved, the first of them with numbers, and how many they are; nothing where none did."""
    told = [f"{where}, {one}" for one in moved[:NAMED]]
    if rest := moved[NAMED:]:
        told.append(f"{where}: {len(rest)} more metrics moved: {', '.join(m.metric for m in rest)}")
    return [*told, f"{where}: {len(moved)} of {len(was['metrics'])} metrics moved"] if moved else []


def faults(card: cards.Card, evidence: Evidence) -> list[str]:
    """What does not follow from what: nobody but `accept` may write evidence, and no claim may move after it."""
    found = [
        f"{name}: the reference's statistics do not follow from its values; only accept may write them"
        for name, kept in evidence["metrics"].items()
        if not _same(kept, reference.statistics_of(kept["values"]))
    ]
    if evidence["provenance"]["hash"] != freshness.digest(evidence["dependencies"]):
        found.append("provenance: the hash is not that of the dependencies; only accept may write them")
    found += _origin(evidence)
    claims = {c.id: c for c in card.claims if evidence["profile"] in c.profiles}
    for claim in claims.values():
        for name in (n for n in (claim.metric, claim.against) if n and claim.unit == "accuracy"):
            values = evidence["metrics"].get(name, {"values": {}})["values"].values()
            if any(not -1 <= value <= 1 for value in values):
                found.append(f"{name}: an accuracy, or a difference of two, lies within -1 and 1; not all do")
    results = judging.judged(card, evidence["profile"], evidence["metrics"])
    then, names = evidence["claims"], set(claims) | set(evidence["claims"])
    now = {name: judging.terms(claims[name]) if name in claims else {} for name in names}
    changed = {name for name in names if not now[name] or not now[name].items() <= then.get(name, {}).items()}
    primary = {n for n in names if "primary" in (now[n].get("kind"), then.get(n, {}).get("kind"))}
    unsure = changed | (primary if changed & primary else set())  # primary claims are judged together
    for name in sorted(names):
        if name not in claims or name not in then:
            gone = "no longer on" if name not in claims else "new on"
            found.append(f"claim {name!r} is {gone} the card since it was accepted; accept again, and say so")
            continue
        kept = then[name]
        for term, value in now[name].items():
            if kept.get(term) != value:
                text = f"{term} was {kept.get(term)!r} when it was accepted, is {value!r} now"
                found.append(f"claim {name!r}: {text}; accept again, and state it in the chapter's deviations")
        if name not in unsure and not _same(kept, results[name]):
            found.append(f"claim {name!r}: its verdict does not follow from the metrics; only accept may write it")
    return found


def _origin(evidence: Evidence) -> list[str]:
    """What no run with default parameters on this book's data can have left in its evidence."""
    found, told = [], evidence["dependencies"]
    if told["parameters"] != (wanted := {"profile": evidence["profile"]}):
        found.append(
            f"dependencies: the parameters are {told['parameters']}, not {wanted}: not a run with the defaults"
        )
    seeds = evidence.get("setting", {}).get("seeds")
    if isinstance(seeds, int) and seeds != len(evidence["seeds"]):
        found.append(f"setting: seeds is {seeds}, but the metrics have {len(evidence['seeds'])}")
    for name, sha in told["data"].items():
        path = chapters.ROOT / "data" / f"{name}.yml"
        facts = cards.read_yaml(path) if path.exists() else {}
        listed = facts.get("loader") == "embedded" and facts["sha256"]  # of rendered sets none is demanded
        if listed and sha.removeprefix("unknown:") not in listed:
            found.append(f"dependencies: the data set {name!r} is not that of data/{name}.yml ({sha[:12]}…)")
    return found


def _same(a: Any, b: Any) -> bool:
    """Equality but for the last digit, on which two builds of the same library may differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return comparing.near(a, b)
    return a == b


def _list(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
