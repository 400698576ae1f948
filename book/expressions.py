"""What a chapter's text asks of its evidence: a metric, a difference or a ratio of two, a value of the setting.

``accuracy/moon - accuracy/fedavg @real | mean`` has, in this order, a metric; a second one behind ``-`` or ``/``, with
spaces around (names of metrics hold both signs), taken seed by seed; a profile (``best``: the largest that has the
metrics); and words that change the form: ``mean`` leaves the interval out, ``interval`` gives a single metric one,
``words`` says a difference as "1.9 points [1.0, 2.8] below" or "above", and ``unit NAME`` names its unit.

The evidence of a profile is a mapping with ``metrics`` (as a run publishes it, or as it is committed), and maybe
``setting``, ``stale`` (of earlier code), and ``held`` (its names are known, its numbers are not to be shown); a profile
that was not run is not there. What a profile lacks for one of these reasons reads *[not run]*, if another one has it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from book import amounts
from book.errors import nearest
from fedlib import evidence as statistics, scales
from fedlib.evidence import Interval

PROFILES = ("quick", "real", "full")
NOT_RUN = "[not run]"
FORMATS = ("mean", "interval", "words", "unit NAME")
EXPRESSION = re.compile(
    r"(?P<first>[^\s@|]+)( (?P<operator>[-/]) (?P<second>[^\s@|]+))?( @(?P<profile>\S+))?( \| (?P<formats>[^|]+))?"
)
KEPT = {"metric": "metrics", "setting": "setting"}  # where evidence keeps them
# The ranges of quantities by their unit.
RANGES = {
    "accuracy": (-1.0, 1.0),
    "cosine": (-1.0, 1.0),
    "correlation": (-1.0, 1.0),
    "CKA": (0.0, 1.0),
    "share": (0.0, 1.0),
    "share of cells": (0.0, 1.0),
    "fraction": (0.0, 1.0),
}
MEANS = {"log": "geometric mean", "logit": "mean of the log-odds", "fisher": "mean of Fisher's z"}
DIFFERENCES = {"gap", "gain", "lead", "loss", "change", "above"}  # words in the names of differences of accuracies
CALLED = {"points": "accuracy", "%": "accuracy"}  # how a text calls units that the evidence calls otherwise

Evidence = Mapping[str, Any]


@dataclass(frozen=True)
class Expression:
    """An expression, taken apart. ``profile`` is "" for the run that the page shows; ``unit`` is None where it is the
    metric's own.
    """

    first: str
    operator: str = ""
    second: str = ""
    profile: str = ""
    mean: bool = False
    interval: bool = False
    words: bool = False
    unit: str | None = None

    @property
    def metrics(self) -> list[str]:
        return [name for name in (self.first, self.second) if name]


@dataclass(frozen=True)
class Quote:
    """A text for the page, and what it is: expression, profile, seeds."""

    text: str
    title: str


def parse(text: str) -> Expression:
    """Take an expression apart. Raises ValueError with what was expected."""
    found = EXPRESSION.fullmatch(" ".join(text.split()))
    if found is None:
        raise ValueError(
            f"{text!r} is no expression: expected a metric, 'metric - metric' or 'metric / metric' (with spaces around "
            "the sign), then maybe ' @profile' and ' | format'"
        )
    profile = found["profile"] or ""
    if profile not in ("", "best", *PROFILES):
        raise ValueError(f"{text!r}: no profile {profile!r}.{nearest(profile, [*PROFILES, 'best'])}")
    words = [word.strip() for word in (found["formats"] or "").split(",") if word.strip()]
    unit = None
    for word in words:
        if word.startswith("unit "):
            unit = word.removeprefix("unit ").strip()
        elif word not in FORMATS:
            raise ValueError(f"{text!r}: no format {word!r}.{nearest(word, FORMATS)}")
    if "words" in words and found["operator"] != "-":
        raise ValueError(f"{text!r}: 'words' says how far one metric is from another; expected 'metric - metric'")
    return Expression(
        first=found["first"],
        operator=found["operator"] or "",
        second=found["second"] or "",
        profile=profile,
        mean="mean" in words,
        interval="interval" in words,
        words="words" in words,
        unit=CALLED.get(unit or "", unit),
    )


def measured(
    text: str,
    evidence: Mapping[str, Evidence],
    units: Mapping[str, str],
    shown: str = "quick",
    judged: Mapping[str, str] = MappingProxyType({}),
) -> Quote:
    """What an expression comes to, in words. ``evidence``: by profile; ``shown``: the profile of the page; ``judged``:
    the scales of metrics that claims judge (:func:`scales_of`).

    Raises ValueError for what is no expression, a metric that was not measured, or a ratio that is none.
    """
    asked = parse(text)
    profile = chosen(asked, evidence, shown)
    if lacking := why_not(asked.metrics, "metric", profile, evidence):
        return Quote(NOT_RUN, f"{text}: {lacking}")
    metrics = evidence[profile]["metrics"]
    values = [by_seed(metrics[name]) for name in asked.metrics]
    unit = unit_of(asked.first, units) if asked.unit is None else asked.unit
    if unit not in (known := {*amounts.BARE, *amounts.COUNTED, *units.values()}):
        raise ValueError(f"{text!r}: no unit {unit!r}; {like(unit, known - {''})}")
    scale = judged.get(asked.first) or usual(values[0].values(), unit)
    try:
        return Quote(say(asked, values, unit, scale), told(asked, profile, values, scale))
    except ValueError as error:
        raise ValueError(f"{text!r} at {profile}: {error}") from error


def why_not(names: Iterable[str], kind: str, profile: str, evidence: Mapping[str, Evidence]) -> str:
    """Why there is no number of these names (of the kind ``metric`` or ``setting``) to show; "" where there is.

    Raises ValueError for a name that no evidence of the chapter has, or this one's should have.
    """
    content = evidence.get(profile)
    everywhere = {name for one in evidence.values() for name in one.get(KEPT[kind]) or {}}
    known = (content.get(KEPT[kind]) or {}) if content else everywhere
    for name in names:
        if name not in known:
            excused = name in everywhere and content is not None and content.get("stale")
            if not excused and (content or everywhere):
                raise ValueError(f"no {kind} {name!r} at {profile}; {like(name, known)}")
            if excused:  # measured before the chapter asked for it
                return f"not in the evidence of {profile}, which is of earlier code"
    if content is None:
        return f"{profile} was not run"
    return f"{profile} is to be run again" if content.get("held") else ""


def chosen(asked: Expression, evidence: Mapping[str, Evidence], shown: str) -> str:
    """The profile that an expression means; for ``best`` the largest whose evidence has its metrics."""
    if asked.profile != "best":
        return asked.profile or shown
    complete = [p for p in PROFILES if p in evidence and all(m in evidence[p]["metrics"] for m in asked.metrics)]
    return complete[-1] if complete else shown


def like(name: str, known: Iterable[str]) -> str:
    """The known names most like ``name``, as the tail of a message."""
    close = get_close_matches(name, list(known), n=4, cutoff=0.3)
    return f"most like it: {', '.join(close)}" if close else "nothing there is like it"


def by_seed(metric: Mapping[str, Any]) -> dict[str, float]:
    """Values of one metric by seed, of a run that publishes it or of committed evidence."""
    return dict(metric.get("values", metric))


def averaged(name: str, values: Sequence[float], unit: str, scale: str | None = None) -> Interval:
    """Mean and interval of the metric of this name, within the range of its unit. ``scale``: that on which a claim
    judges it, else the :func:`usual` one.
    """
    scale = scale or usual(values, unit)
    return scales.interval(values, scale, range_of(unit, {name: values}) if scale == "plain" else None)


def usual(values: Iterable[float], unit: str) -> str:
    """The scale on which a metric is averaged that no claim judges: the logarithm for a ratio."""
    return "log" if unit == "ratio" and min(values) > 0 else "plain"


def range_of(unit: str, metrics: Mapping[str, Iterable[float]]) -> tuple[float, float] | None:
    """The range of a metric, or of the difference of two, given by name; None where the unit has none.

    What is called an accuracy may itself be a difference of two, as its name or its values tell.
    """
    if unit not in RANGES:
        return None
    low, high = RANGES[unit]
    leads = any(DIFFERENCES & set(re.split("[-/]", name)) or min(values) < 0 for name, values in metrics.items())
    if unit == "accuracy" and not leads:
        low = 0.0
    return (low, high) if len(metrics) == 1 else (low - high, high - low)


def say(asked: Expression, values: list[dict[str, float]], unit: str, scale: str | None = None) -> str:
    """The numbers of an expression in words. ``values``: of each of its metrics, by seed; ``scale``: of the claim that
    judges its only metric.
    """
    if asked.operator == "/":
        seen = scales.interval(ratios(*values), "log")
        text = (
            amounts.number(seen.mean)
            if asked.mean or seen.n == 1
            else amounts.estimate(seen.mean, seen.low, seen.high, "")
        )
        number, _, interval = text.partition(" ")
        return f"{number} times {interval}".rstrip()
    difference = asked.operator == "-"
    found = list(statistics.paired(*values) if difference else values[0].values())
    if difference:
        operands = {name: list(each.values()) for name, each in zip(asked.metrics, values, strict=True)}
        seen = scales.interval(found, bounds=range_of(unit, operands))
    else:
        seen = averaged(asked.first, found, unit, scale)
    if asked.words:
        below = seen.mean < 0
        if below:
            seen = seen._replace(mean=-seen.mean, low=-seen.high, high=-seen.low)
        alone = asked.mean or seen.n == 1
        text = amounts.estimate(seen.mean, math.nan if alone else seen.low, seen.high, unit, difference=True)
        return f"{text.removeprefix('+')} {'below' if below else 'above'}"
    if asked.mean or seen.n == 1 or not (difference or asked.interval):
        return amounts.quantity(seen.mean, unit, difference)
    return amounts.estimate(seen.mean, seen.low, seen.high, unit, difference)


def ratios(above: Mapping[str, float], below: Mapping[str, float]) -> list[float]:
    """Ratios seed by seed. Raises ValueError when there is no seed in common, or a number is not above zero."""
    common = [seed for seed in above if seed in below]
    if not common:
        raise ValueError(f"no seed in common: {sorted(above)} against {sorted(below)}")
    if small := [seed for seed in common if above[seed] <= 0 or below[seed] <= 0]:
        raise ValueError(f"a ratio needs numbers above zero; at seed {small[0]}: {above[small[0]]} / {below[small[0]]}")
    return [above[seed] / below[seed] for seed in common]


def told(asked: Expression, profile: str, values: list[dict[str, float]], scale: str | None = None) -> str:
    """What stands behind a number: expression, profile, seeds, and how seeds become one number."""
    seeds = sorted({int(seed) for seed in values[0] if all(seed in other for other in values)})
    run = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    listed = f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))
    sign = {"": "", "-": " − ", "/": " / "}[asked.operator]
    which = "seed" if len(seeds) == 1 else f"{len(seeds)} seeds:"
    alone = not asked.operator and scale in MEANS
    middle = MEANS[scale] if alone and scale else "geometric mean" if asked.operator == "/" else "mean"
    interval = len(seeds) > 1 and not asked.mean and (asked.operator or asked.interval)
    form = "" if len(seeds) == 1 else f", {middle} and 95 % interval" if interval else f", {middle}"
    return f"{asked.first}{sign}{asked.second}, {profile} run, {which} {listed}{form}"


def unit_of(metric: str, units: Mapping[str, str]) -> str:
    """The unit of a metric: by its name, by the part before its first "/", else what that part says; "" for none."""
    family = metric.split("/")[0]
    for name in (metric, family):
        if name in units:
            return units[name]
    words = family.split("-")
    if "accuracy" in words:
        return "accuracy"
    if words[-1] in ("bytes", "seconds", "rounds"):
        return words[-1]
    return "rounds" if words[0] == "rounds" else ""  # rounds-to-target; but bytes-ratio is a ratio


def all_units(told: Mapping[str, str], claims: Iterable[tuple[str | None, str]]) -> dict[str, str]:
    """Units by metric or family: those that a card tells, then those of its claims, as (metric, unit), for the rest."""
    units = dict(told)
    for metric, unit in claims:
        if metric and metric not in units and metric.split("/")[0] not in told:
            units[metric] = unit
    return units


def scales_of(claims: Iterable[tuple[str, str | None, str]]) -> dict[str, str]:
    """The scales of metrics that claims judge alone, as (metric, against, scale): their number is that of the claim."""
    return {metric: scale for metric, against, scale in claims if against is None}


def setting(text: str, evidence: Mapping[str, Evidence], shown: str = "quick") -> Quote:
    """A value of the setting of a run: ``rounds``, ``rounds @real``. Raises ValueError for a name that it has not."""
    asked = parse(text)
    if (
        asked.operator
        or asked.mean
        or asked.interval
        or asked.words
        or asked.unit is not None
        or asked.profile == "best"
    ):
        raise ValueError(f"{text!r}: expected the name of a setting, then maybe ' @profile'")
    profile = asked.profile or shown
    if lacking := why_not(asked.metrics, "setting", profile, evidence):
        return Quote(NOT_RUN, f"{text}: {lacking}")
    return Quote(written(evidence[profile]["setting"][asked.first]), f"{asked.first}, setting of the {profile} run")


def written(value: Any) -> str:
    """A value of a setting as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return amounts.fixed(value, 0)
    if isinstance(value, float):
        return f"{value:g}".replace("-", "−") if abs(value) < 1e4 or value != int(value) else amounts.number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(written, value))
    return "none" if value is None else str(value)
