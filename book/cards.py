"""The card of a chapter (paper.yml) and the register of entries (book/entries.yml), checked against their schemas."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from book import chapters, files
from book.errors import PressError, cannot, nearest
from fedlib import verdicts

PARTS = (
    "Foundations",
    "What travels",
    "Distillation",
    "Fusing models on the server",
    "Drift and forgetting on the client",
    "Personal models",
    "Domains and medicine",
    "Beyond federation",
)
SLUG = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
ProfileName = Literal["smoke", "quick", "real", "full"]
Kind = Literal["primary", "secondary", "mechanism", "identity"]
Text = Annotated[str, Field(min_length=1)]
Slug = Annotated[str, Field(pattern=SLUG)]


def _part(value: Any) -> Any:
    if value not in PARTS:
        raise ValueError(f"unknown part.{nearest(str(value), PARTS)}")
    return value


Part = Annotated[str, BeforeValidator(_part)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Needs(_Strict):
    """What one profile costs and needs: seconds and memory as the accepted run took them (beside another chapter, where
    the machine has cores for two), names of data sets, a GPU or not.
    """

    seconds: float = Field(gt=0)
    memory_mb: float = Field(gt=0)
    data: list[Text] = []
    gpu: bool = False


class Links(_Strict):
    """Addresses of the paper and of the authors' code."""

    paper: Text | None = None
    code: Text | None = None

    @field_validator("paper", "code")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("https://"):
            raise ValueError("must start with https://")
        return value


class Claim(_Strict):
    """One statement of the paper (or note), and the metric that decides it.

    ``kind``: what the paper is known for is primary, why it works a mechanism, mathematics an identity. ``scale``:
    where seeds are averaged (:mod:`fedlib.scales`); on the log scale two metrics are compared by their ratio, and
    ``least`` and ``neutral`` are ratios. ``ceiling``: a metric that says what could be reached at best, beside
    ``against``.
    """

    id: Slug
    kind: Kind = "secondary"
    statement: Text
    source: Text
    paper: str | None
    metric: Text
    against: Text | None = None
    direction: Literal["above", "below", "within"]
    least: float
    neutral: float | None = None
    scale: Literal["plain", "log", "logit", "fisher"] = "plain"
    ceiling: Text | None = None
    unit: Text
    profiles: list[ProfileName] = Field(min_length=1)
    explanation: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_effect(cls, data: Any) -> Any:
        """Where the card does not name it, a difference has its point of no effect at 0, a ratio of two metrics at 1.

        So has a quantity of its own that is claimed to lie above or below 0, or within some distance.
        """
        if not isinstance(data, dict) or "neutral" in data or data.get("kind") == "identity":
            return data
        none = 1.0 if data.get("scale") == "log" else 0.0
        known = data.get("against") is not None or data.get("direction") == "within" or data.get("least") == 0
        return {**data, "neutral": none} if known else data

    @model_validator(mode="after")
    def _makes_sense(self) -> Claim:
        if self.against is not None and self.scale in ("logit", "fisher"):
            raise ValueError(
                f"scale: a difference of two metrics is averaged as it is, or as a ratio; not {self.scale}"
            )
        if self.ceiling is not None and self.against is None:
            raise ValueError("ceiling: room is what lies between it and the metric named by against, which is missing")
        if self.kind == "identity" and (self.direction == "within" or self.ceiling is not None):
            raise ValueError("kind: an identity lies above or below its bound, and has no ceiling")
        try:
            seen = verdicts.judge([1.0], self.direction, self.least, self.neutral, self.scale)
        except ValueError as error:
            raise ValueError(f"claim: {error}") from None
        if self.ceiling is not None and seen.placed and (seen.placed.none is None or seen.placed.within):
            raise ValueError("ceiling: a bound asks for no room; only a claim of an effect does")
        return self


class Card(_Strict):
    """Everything about a chapter that is not prose, code or measurement."""

    slug: Slug
    entry: int | None
    title: Text
    summary: Annotated[str, Field(min_length=1, max_length=160)]
    noted: list[dt.date]
    part: Part | None = None
    tags: list[Text] = []
    citation: Text | None = None
    authors: Text | None = None
    venue: Text | None = None
    links: Links = Links()
    builds_on: list[Slug] = []
    profiles: dict[ProfileName, Needs]
    units: dict[Text, str] = {}  # of metrics, by name or by the part before the first "/"
    claims: list[Claim] = []

    @property
    def page(self) -> bool:
        """An executed page of the book itself, about no paper: such as a leaderboard."""
        return self.part is None

    @property
    def draft(self) -> bool:
        """A chapter without claims is not finished."""
        return not self.claims and not self.page

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        about = {"part": self.part, "citation": self.citation, "authors": self.authors, "venue": self.venue}
        lacking = [name for name, value in about.items() if value is None]
        if 0 < len(lacking) < len(about):
            raise ValueError(f"{', '.join(lacking)}: missing (a page about no paper has none of {', '.join(about)})")
        if (self.entry is None) != (not self.noted):
            raise ValueError("entry and noted belong together: a note has a number and dates, a primer has neither")
        if lacking := [p for p in ("smoke", "quick") if p not in self.profiles]:
            raise ValueError(f"profiles must have smoke and quick; {lacking[0]} is missing")
        if twice := [i for i, n in Counter(c.id for c in self.claims).items() if n > 1]:
            raise ValueError(f"claims: the id {twice[0]!r} is used twice")
        for claim in self.claims:
            if lacking := [p for p in claim.profiles if p not in self.profiles]:
                raise ValueError(f"claims: {claim.id!r} names profile {lacking[0]!r}, which the card does not describe")
        return self


class Entry(_Strict):
    """One entry of the reading notes, whether or not a chapter stands for it yet."""

    number: int = Field(ge=1)
    slug: Slug
    noted: dt.date
    heading: Text
    paper: Text | None = None
    part: Part


class _OneOfEach(yaml.SafeLoader):
    """YAML where a key given twice is an error instead of the last one winning silently."""


def _mapping(loader: _OneOfEach, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(k, deep=True) for k, _ in node.value]
    for key, (mark, _) in zip(keys, node.value, strict=True):
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", mark.start_mark)
    return loader.construct_mapping(node, deep=True)


_OneOfEach.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> Any:
    """Content of a YAML file. Raises PressError naming the file and line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_OneOfEach)
    except (ValueError, RecursionError) as error:  # a date such as 2021-13-40, or depth without end
        if isinstance(error, UnicodeDecodeError):
            raise PressError(f"{path} is not UTF-8 text: {error}") from error
        raise PressError(f"{path}: a value cannot be read: {error}") from error
    except OSError as error:
        cannot("read", path, error)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise PressError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error


def _explain(path: Path, error: ValidationError, prefix: str = "") -> PressError:
    """All faults of a file in one message, one a line, each with its field."""
    lines = []
    for fault in error.errors():
        field = prefix + ".".join(str(part) for part in fault["loc"]) or "card"
        text = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            text = "no such field; remove it or correct its spelling"
        elif fault["type"] == "missing":
            text = "is missing"
        elif fault["type"] != "value_error":
            text = f"{text}, got {fault['input']!r}"[:300]
        lines.append(f"{path}: {field}: {text}")
    return PressError("\n".join(lines))


def note_cost(slug: str, profile: str, seconds: float, memory_mb: float) -> None:
    """Write what a run took into the card, rounded up: its costs are measured ones. Nothing else in it changes; a card
    that has the profile in another form than ``quick: {seconds: 40, memory_mb: 500, ...}`` is left as it is.
    """
    path = chapters.card_path(slug)
    measured = rf"\g<1>{math.ceil(seconds)}\g<2>{10 * math.ceil(memory_mb / 10)}"
    text = files.read_text(path)
    pattern = rf"^(  {profile}: \{{seconds: )[\d.]+(, memory_mb: )[\d.]+"
    files.write(path, re.sub(pattern, measured, text, count=1, flags=re.MULTILINE))


def load(slug: str) -> Card:
    """The card of one chapter. Raises PressError naming file and field."""
    path = chapters.card_path(slug)
    if not path.exists():
        raise PressError(f"{path} is missing; `python -m book new {slug}` in an empty folder shows what it holds")
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise PressError(f"{path}: expected fields such as slug and title, got {type(data).__name__}")
    try:
        card = Card.model_validate(data)
    except ValidationError as error:
        raise _explain(path, error) from None
    if card.slug != slug:
        raise PressError(f"{path}: slug: must be the folder's name {slug!r}, got {card.slug!r}")
    return card


def readable(names: list[str] | None = None) -> tuple[dict[str, Card], list[str]]:
    """Cards of the named (or all) chapters by slug as far as they can be read, and what is wrong with the others."""
    found, faults = {}, []
    for slug in chapters.slugs() if names is None else names:
        try:
            found[slug] = load(slug)
        except PressError as error:
            faults.append(str(error))
    return found, faults


def all_cards(names: list[str] | None = None) -> dict[str, Card]:
    """Cards of the named (or all) chapters by slug. Raises one PressError that lists the faults of all of them."""
    found, faults = readable(names)
    if faults:
        raise PressError("\n".join(faults))
    return found


def entries() -> list[Entry]:
    """The register of all entries of the notes, by number. Raises PressError naming file and field."""
    path = chapters.ROOT / "book" / "entries.yml"
    data = read_yaml(path)
    if not isinstance(data, list):
        raise PressError(f"{path}: expected a list of entries, got {type(data).__name__}")
    found = []
    for place, item in enumerate(data):
        try:
            found.append(Entry.model_validate(item))
        except ValidationError as error:
            raise _explain(path, error, prefix=f"{place}.") from None
    for field in ("number", "slug"):
        counts = Counter(getattr(e, field) for e in found)
        if twice := [value for value, n in counts.items() if n > 1]:
            raise PressError(f"{path}: {field}: {twice[0]!r} is used twice")
    return sorted(found, key=lambda e: e.number)
