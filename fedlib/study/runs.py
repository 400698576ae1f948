"""What came of a comparison: results by method and seed, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fedlib.federation import Federation

SKIPPED = ("round", "seconds", "down", "up")  # of a history: what is counted elsewhere, or differs from run to run
Measure = str | Callable[["Result"], float]


class Result(dict[str, Any]):
    """One run, JSON-able, with ``bytes`` sent in all."""

    @property
    def curves(self) -> dict[str, list[Any]]:
        """Column of the history -> its value in every round, None where it was not looked at."""
        return self["curves"]

    @property
    def last(self) -> dict[str, float]:
        """Column -> its mean over the last rounds, those that judge."""
        return self["last"]

    @property
    def found(self) -> dict[str, Any]:
        """What the chapter looked for in the trained federation."""
        return self["found"]

    @property
    def diverged(self) -> bool:
        """Whether training diverged, and nothing can be said of its end."""
        return self.get("diverged", False)


def summary(fed: Federation, last: int, found: Mapping[str, Any]) -> Result:
    """The result of a federation that has played; ``last``: how many rounds judge."""
    names = [n for n in dict.fromkeys(n for row in fed.history for n in row) if n not in SKIPPED]
    curves = {n: [row.get(n) for row in fed.history] for n in names}
    late = {}
    for name, curve in curves.items():
        seen = [v for v in curve[-last:] if isinstance(v, int | float) and not isinstance(v, bool)]
        if seen:
            late[name] = sum(seen) / len(seen)
    return Result(curves=curves, last=late, bytes=fed.ledger.total, found=dict(found))


class Runs(Mapping[str, dict[int, Result]]):
    """Results by method, then by seed, of methods that share samples, split, batches and first weights.

    ``where`` names the setting in which they ran; it is empty for the chapter's own. ``chance`` says what a run that
    diverged scores, by measure.
    """

    def __init__(self, where: str = "", chance: Mapping[str, float] | None = None) -> None:
        self.where, self.chance, self._results = where, dict(chance or {}), dict[str, dict[int, Result]]()

    def __repr__(self) -> str:
        results = [result for one in self._results.values() for result in one.values()]
        seeds = dict.fromkeys(s for one in self._results.values() for s in one)
        columns = dict.fromkeys(name for result in results for name in result.curves)
        return (
            f"Runs{f' in {self.where!r}' if self.where else ''}: methods {_listed(self)}; seeds {_listed(seeds)}; "
            f"columns {_listed(columns)}"
        )

    def add(self, method: str, results: Mapping[int, Any]) -> None:
        """Put results of a method in; raises ValueError when it has some already."""
        if method in self._results:
            raise ValueError(f"{method!r} has run already; give every method of a comparison a name of its own")
        self._results[method] = {s: Result(result) for s, result in results.items()}

    def __getitem__(self, method: str) -> dict[int, Result]:
        if method not in self._results:
            raise KeyError(f"no method {method!r} has run; there are {', '.join(self._results)}")
        return self._results[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def values(  # type: ignore[override]
        self, method: str, measure: Measure, metric: str = ""
    ) -> dict[int, float]:
        """One number for each seed: the mean of a column over the last rounds, or any function of the result.

        A run that diverged scores the chance of the ``metric``, or of the column, for which ``measure`` stands; what
        has none is read from what there is, such as its bytes. Raises ValueError where there is nothing to read,
        KeyError for a column that nobody looked at, TypeError for what is no number.
        """
        return {s: self._value(method, s, result, measure, metric) for s, result in self[method].items()}

    def _value(self, method: str, seed: int, result: Result, measure: Measure, metric: str) -> float:
        what = metric or (measure if isinstance(measure, str) else getattr(measure, "__name__", "a function"))
        if result.diverged:
            for name in (metric, measure):
                if isinstance(name, str) and name in self.chance:
                    return self.chance[name]
        try:
            value = measure(result) if callable(measure) else result.last[measure]
        except (LookupError, ArithmeticError) as error:
            if result.diverged:
                raise ValueError(
                    f"{method!r}, seed {seed}: training diverged, and has no {what!r}; "
                    f"say what it scores: chance={{{what!r}: ...}}"
                ) from error
            if callable(measure):
                raise
            raise KeyError(f"{method!r} has no column {measure!r}; it has {_listed(result.last)}") from None
        if value is None or isinstance(value, str):
            raise TypeError(f"{what!r} of {method!r}, seed {seed}: expected a number, got {value!r}")
        return value

    def mean(self, method: str, measure: Measure) -> float:
        """Mean over the seeds."""
        values = self.values(method, measure)
        return math.fsum(values.values()) / len(values)

    def histories(self, method: str, *columns: str) -> dict[int, list[dict[str, Any]]]:
        """Rows over rounds by seed, as :func:`fedlib.plots.curves` takes them, without rounds that lack a column."""
        found = {}
        for s, result in self[method].items():
            if result.diverged:
                raise ValueError(f"{method!r}, seed {s}: training diverged, and has no curve; leave the method out")
            if missing := [c for c in columns if c not in result.curves]:
                raise KeyError(f"{method!r} has no column {missing[0]!r}; it has {_listed(result.curves)}")
            rows = zip(*(result.curves[c] for c in columns), strict=True)
            named = ({"round": i + 1} | dict(zip(columns, row, strict=True)) for i, row in enumerate(rows))
            found[s] = [row for row in named if None not in row.values()]
        return found


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
