"""What came of a comparison: results by method and seed, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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

    ``where`` names the setting in which they ran; it is empty for the chapter's own. ``chance`` is the number of every
    measure of a run that diverged.
    """

    def __init__(self, where: str = "", chance: float = math.nan) -> None:
        self.where, self.chance, self._results = where, chance, dict[str, dict[int, Result]]()

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

    def values(self, method: str, measure: Measure) -> dict[int, float]:  # type: ignore[override]
        """One number for each seed: the mean of a column over the last rounds, or any function of the result; chance
        for a run that diverged.
        """
        read = measure if callable(measure) else lambda result: result.last[measure]
        return {s: self.chance if result.diverged else read(result) for s, result in self[method].items()}

    def mean(self, method: str, measure: Measure) -> float:
        """Mean over the seeds."""
        values = self.values(method, measure)
        return math.fsum(values.values()) / len(values)

    def histories(self, method: str, *columns: str) -> dict[int, list[dict[str, Any]]]:
        """Rows over rounds by seed, as :func:`fedlib.plots.curves` takes them, without rounds that lack a column."""
        found = {}
        for s, result in self[method].items():
            rows = zip(*(result.curves[c] for c in columns), strict=True)
            named = ({"round": i + 1} | dict(zip(columns, row, strict=True)) for i, row in enumerate(rows))
            found[s] = [row for row in named if None not in row.values()]
        return found
