"""What fedlib is to reach, computed from the results: met, missed, or not measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu import report
from benchmarks.results import Results, Row, rows


@dataclass(frozen=True)
class Target:
    """A number with a bound: at least (``least``) or at most so much."""

    statement: str
    value: float
    bound: float
    least: bool
    unit: str = "×"

    @property
    def verdict(self) -> str:
        """met, missed or not measured."""
        if math.isnan(self.value):
            return "not measured"
        return "met" if (self.value >= self.bound if self.least else self.value <= self.bound) else "missed"


class Table:
    """Seconds and memory by workload and contender; NaN for what was not measured."""

    def __init__(self, results: Results):
        self.found: dict[str, dict[str, Row]] = {
            name: {row.contender.name: row for row in rows(entry)} for name, entry in results["workloads"].items()
        }

    def _value(self, workload: str, contender: str, of: Callable[[Row], float]) -> float:
        row = self.found.get(workload, {}).get(contender)
        return of(row) if row else math.nan

    def seconds(self, workload: str, contender: str = "fedlib") -> float:
        """Seconds per round."""
        return self._value(workload, contender, lambda row: row.seconds)

    def memory(self, workload: str, contender: str = "fedlib") -> float:
        """Peak memory, GB."""
        return self._value(workload, contender, lambda row: row.memory_mb / 1000)

    def ratio(self, workload: str, other: str, ours: str = "fedlib") -> float:
        """How many times as fast as the other fedlib is."""
        return self.seconds(workload, other) / self.seconds(workload, ours)

    def slowest(self, other: str, ours: str = "fedlib") -> float:
        """The least ratio to another contender over all workloads that have both."""
        ratios = [self.ratio(workload, other, ours) for workload in self.found]
        return min((r for r in ratios if not math.isnan(r)), default=math.nan)


def targets(results: Results) -> list[Target]:
    """All targets with what was measured."""
    table = Table(results)
    ratio, seconds = table.ratio, table.seconds
    growth = seconds("scale-10000-100") / seconds("scale-100-100")
    gpu = partial(report.rate, results.get("gpu"))
    best = gpu("ResNet8", ("batched",), ("tf32", "bf16"))
    return [
        Target("w: times as fast as Flower's simulation", ratio("w", "flower"), 4, True),
        Target("w: times as fast as PFLlib", ratio("w", "pfllib"), 4, True),
        Target("w: times as fast as the plain loop", ratio("w", "plain"), 2.5, True),
        Target("w: seconds in units of the floor's", 1 / ratio("w", "floor"), 2, False),
        Target("w2: times as fast as Flower's simulation", ratio("w2", "flower"), 1.7, True),
        Target("w2: times as fast as the plain loop", ratio("w2", "plain"), 1.8, True),
        Target("w2: seconds in units of the floor's", 1 / ratio("w2", "floor"), 0.7, False),
        Target("mlp: times as fast as the plain loop, one seed", ratio("mlp", "plain"), 8, True),
        Target("mlp: the same per seed, 3 seeds at once", ratio("mlp", "plain", "fedlib-3-seeds"), 8, True),
        Target("mlp: the same per seed, 10 seeds at once", ratio("mlp", "plain", "fedlib-10-seeds"), 8, True),
        Target("10,000 clients, 100 sampled: peak memory", table.memory("scale-10000-100"), 2, False, " GB"),
        Target("10,000 clients: seconds in units of 100 clients', 100 sampled", growth, 1.3, False),
        Target("every workload: times as fast as the plain loop", table.slowest("plain"), 1, True),
        Target("every workload: the same with one core", table.slowest("plain", "fedlib-one-core"), 1, True),
        Target("every workload: times as fast as BlazeFL", table.slowest("blazefl"), 1, True),
        Target("resnet-gpu: times as fast as the plain loop", ratio("resnet-gpu", "plain"), 5, True),
        Target("GPU: a client's step of ResNet-8 at TF32 or bf16", best, 0.35, False, " ms"),
        Target("GPU: the same, times as fast as eager steps", gpu("ResNet8", ("eager",), ("float32",)) / best, 3, True),
        Target("GPU: a client's step of SmallCNN", gpu("SmallCNN", ("batched",), ("tf32", "bf16")), 0.1, False, " ms"),
    ]
