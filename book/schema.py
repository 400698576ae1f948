"""What a run publishes and what is committed of it, checked where it enters: numbers finite, seeds complete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from book.cards import Kind, ProfileName
from book.errors import PressError

Seed = Annotated[str, Field(pattern=r"^-?\d+$")]
Text = Annotated[str, Field(min_length=1)]
Verdict = Literal["holds", "smaller", "direction only", "no effect", "opposite", "open", "no room", "not run"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class _Seeded(_Strict):
    """Metrics by seed: each has one number for every seed, and for no other."""

    profile: ProfileName
    seeds: Annotated[list[int], Field(min_length=1)]

    def values(self) -> dict[str, Any]:
        """Numbers by metric and seed."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _complete(self) -> _Seeded:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} names one twice")
        for name, values in self.values().items():
            if set(values) != {str(seed) for seed in self.seeds}:
                raise ValueError(f"metrics: {name!r} has values for the seeds {', '.join(values)}, not {self.seeds}")
        return self


class Published(_Seeded):
    """What a chapter publishes: see :meth:`fedlib.evidence.Run.evidence`."""

    metrics: dict[Text, dict[Seed, float]]
    modules: list[Text]
    data: dict[Text, Text]
    device: Text
    processor: Text
    precision: Text | None = None  # None: no federation, or a run from before it was noted
    executors: dict[str, int]
    versions: dict[Text, Text]
    peak_memory_mb: Annotated[float, Field(ge=0)]
    glue: dict[Text, str]
    changed: list[Text] = []  # definitions of fedlib that were edited in the notebook
    setting: dict[Text, Any] = {}
    tuning: dict[Text, Any] = {}

    def values(self) -> dict[str, Any]:
        return self.metrics


class Statistics(_Strict):
    """One metric: its values by seed, and what follows from them."""

    mean: float
    sd: float | None
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    values: dict[Seed, float]


class Judged(_Strict):
    """A claim as it stood when it was judged: what it asks for, what was seen, the verdict."""

    metric: Text
    against: Text | None
    direction: Literal["above", "below", "within"]
    least: float
    neutral: float | None
    scale: Literal["plain", "log", "logit", "fisher"]
    ceiling: Text | None
    unit: Text
    kind: Kind
    statement: Text
    source: Text
    paper: str | None
    value: float | None
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    room: float | None
    verdict: Verdict


class Provenance(_Strict):
    """Where, when and from which sources it was measured."""

    hash: Text
    commit: str | None
    dirty: bool | None
    date: Text
    device: Text
    processor: Text
    precision: Text | None = None
    threads: str | None
    seconds: float
    peak_memory_mb: float
    versions: dict[Text, Text]


class Dependencies(_Strict):
    """What the run depended on: :meth:`book.freshness.Sources.dependencies`."""

    cells: Text
    modules: dict[Text, Text]
    parameters: dict[Text, Any]
    data: dict[Text, Text]
    requirements: Text


class Committed(_Seeded):
    """The evidence of one chapter at one profile, as :func:`book.reference.accept` writes it."""

    slug: Text
    claims: dict[Text, Judged]
    metrics: dict[Text, Statistics]
    setting: dict[Text, Any] = {}  # what prose quotes by name
    tuning: dict[Text, Any] = {}  # grids, scores and choices
    provenance: Provenance
    dependencies: Dependencies
    digest: Text

    def values(self) -> dict[str, Any]:
        return {name: metric.values for name, metric in self.metrics.items()}


class Drift(_Strict):
    """How far the metrics of a chapter moved on other processors: see :mod:`book.drift`.

    ``claims``: those whose verdict moved, with what it became, in the words of the rule of that day.
    """

    slug: Text
    profile: ProfileName
    reference: Text
    processors: Annotated[list[Text], Field(min_length=1)]
    hash: Text
    metrics: dict[Text, Annotated[float, Field(ge=0)]]
    claims: dict[Text, Annotated[list[Text], Field(min_length=1)]]
    digest: Text


def faults(model: type[BaseModel], content: Any) -> list[str]:
    """What is wrong with ``content``, each with its field; empty when nothing is."""
    try:
        model.model_validate(content)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            field = ".".join(map(str, fault["loc"]))
            text = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{field}: {text}" if field else text)
        return lines
    return []


def require(model: type[BaseModel], content: Any, path: Path, remedy: str) -> None:
    """Raises PressError, naming ``path`` and the first fault, when the content is not what the model says."""
    if found := faults(model, content):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise PressError(f"{path} is no evidence: {found[0]}{more}; {remedy}")
