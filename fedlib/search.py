"""The search of one number: every value on the same seeds, which judge nothing, by a score of held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedlib import require
from fedlib.evidence import Run


def best(
    run: Run,
    name: str,
    way: Callable[[Any, list[int]], list[dict[str, Any]]],
    values: Sequence[float],
    seeds: Sequence[int],
    by: str = "held",
) -> float:
    """The value of the largest mean score over seeds, the first of equals; a score that is no number counts as least.

    ``way(value, seeds)`` gives what comes of each seed, with the score ``by`` in it. What was tried is kept as it is
    done, and all scores stand in ``run.tuning[name]``. Raises ValueError for no values, for values that are no finite
    numbers, and for no seeds.
    """
    if not len(values) or not len(seeds):
        raise ValueError(f"{name}: nothing to search among {len(values)} values on {len(seeds)} seeds")
    trials: list[dict[str, Any]] = []
    for value in values:
        require.real("value", value)
        found = run.each(f"tuning {name} {value:g}", lambda some, value=value: way(value, some), seeds)  # type: ignore[misc]
        scores = [float(one[by]) for one in found.values()]
        trials.append({"rate": value, "score": sum(scores) / len(scores), "scores": scores})
    chosen = max(trials, key=lambda trial: trial["score"] if trial["score"] == trial["score"] else float("-inf"))
    run.tuning[name] = {"chosen": chosen, "trials": trials}
    return float(chosen["rate"])
