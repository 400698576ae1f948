"""What a chapter's text asks of its evidence: a metric, a difference or a ratio of two, a value of the setting.

``accuracy/moon - accuracy/fedavg @real | mean`` has, in this order, a metric; a second one behind ``-`` or ``/``, with
spaces around (names of metrics hold both signs), taken seed by seed; a profile (``best``: the largest that has the
metrics); and words that change the form: ``mean`` leaves the interval out, ``interval`` gives a single metric one,
``words`` says a difference as "1.9 points [1.0, 2.8] below" or "above", and ``unit NAME`` names its unit. The evidence of a profile is a mapping with ``metrics`` (as a run publishes it, or as it
is committed), and maybe ``setting`` and ``stale``; a profile that was not run is not there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from book import amounts
from book.errors import nearest
from fedlib import evidence as statistics, scales

PROFILES = ("quick", "real", "full")
NOT_RUN = "[not run]"
FORMATS = ("mean", "interval", "words", "unit NAME")
EXPRESSION = re.compile(
    r"(?P<first>[^\s@|]+)( (?P<operator>[-/]) (?P<second>[^\s@|]+))?( @(?P<profile>\S+))?( \| (?P<formats>[^|]+))?"
)
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


def measured(text: str, evidence: Mapping[str, Evidence], units: Mapping[str, str], shown: str = "quick") -> Quote:
    """What an expression comes to, in words. ``evidence``: by profile; ``shown``: the profile of the page.

    Raises ValueError for what is no expression, a metric that was not measured, or a ratio that is none.
    """
    asked = parse(text)
    profile = chosen(asked, evidence, shown)
    content = evidence.get(profile)
    if content is None:
        return Quote(NOT_RUN, f"{text}: {profile} was not run")
    metrics = content["metrics"]
    for name in asked.metrics:
        if name not in metrics:
            if content.get("stale"):  # measured before the chapter asked for it
                return Quote(NOT_RUN, f"{text}: not in the evidence of {profile}, which is of earlier code")
            raise ValueError(f"no metric {name!r} at {profile}; {like(name, metrics)}")
    values = [by_seed(metrics[name]) for name in asked.metrics]
    unit = unit_of(asked.first, units) if asked.unit is None else asked.unit
    return Quote(say(asked, values, unit), told(asked, profile, values))


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


def say(asked: Expression, values: list[dict[str, float]], unit: str) -> str:
    """The numbers of an expression in words. ``values``: of each of its metrics, by seed."""
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
    # A metric may itself be a difference of accuracies: a lead, say.
    bounds = ((-1.0, 1.0) if difference or min(found) < 0 else (0.0, 1.0)) if unit == "accuracy" else None
    seen = scales.interval(found, bounds=bounds)
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


def told(asked: Expression, profile: str, values: list[dict[str, float]]) -> str:
    """What stands behind a number: expression, profile, seeds, and how seeds become one number."""
    seeds = sorted({int(seed) for seed in values[0] if all(seed in other for other in values)})
    run = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    listed = f"{seeds[0]} to {seeds[-1]}" if run else ", ".join(map(str, seeds))
    sign = {"": "", "-": " − ", "/": " / "}[asked.operator]
    which = "seed" if len(seeds) == 1 else f"{len(seeds)} seeds:"
    middle = "geometric mean" if asked.operator == "/" else "mean"
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
    if profile not in evidence:
        return Quote(NOT_RUN, f"{text}: {profile} was not run")
    names = evidence[profile].get("setting") or {}
    if asked.first not in names:
        if evidence[profile].get("stale"):
            return Quote(NOT_RUN, f"{text}: not in the evidence of {profile}, which is of earlier code")
        raise ValueError(f"no setting {asked.first!r} at {profile}; {like(asked.first, names)}")
    return Quote(written(names[asked.first]), f"{asked.first}, setting of the {profile} run")


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
