"""How long one local step of one client takes: by network, precision, executor, clients and seeds together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.setting import (
    PRECISIONS,
    Bench,
    eager,
    federation,
    images,
    prepare,
)
from fedlib.algorithms import FedAvg
from fedlib.batched import steps_of
from fedlib.data import augment
from fedlib.federation import Local, together
from fedlib.models import MLP, ResNet8, SmallCNN

ROUNDS = 8
FEWER = 4  # times fewer batches where clients train one after the other


@dataclass(frozen=True)
class Setting:
    """What is timed. ``way``: "sequential", "batched", or "eager", which is batched without captured steps."""

    network: str = "ResNet8"
    way: str = "batched"
    precision: str = "tf32"
    many: bool = False
    seeds: int = 1
    augmented: bool = False


def settings() -> list[Setting]:
    """All that are timed, the most wanted first: time may run out."""
    ways = ("batched", "eager")
    found = [Setting(network, way, p) for network in ("ResNet8", "SmallCNN", "MLP") for way in ways for p in PRECISIONS]
    found += [Setting(network, "sequential", "float32") for network in ("ResNet8", "SmallCNN", "MLP")]
    found += [Setting(augmented=True, way=way) for way in ways]
    found += [Setting(many=True), Setting(seeds=3), Setting(seeds=3, many=True)]
    found += [Setting("SmallCNN", many=True), Setting("SmallCNN", seeds=3), Setting("MLP", many=True)]
    found += [Setting(augmented=True, precision=p) for p in ("float32", "bf16")]
    found += [Setting(many=True, precision=p) for p in ("float32", "bf16")]
    found += [Setting("SmallCNN", augmented=True), Setting("ResNet8", "sequential", "tf32")]
    return found


def network(bench: Bench, name: str) -> Callable[[], nn.Module]:
    """What makes the network of that name, for images of the bench's size."""
    side = bench.sizes.side
    return {
        "ResNet8": ResNet8,
        "SmallCNN": lambda: SmallCNN(3, side),
        "MLP": lambda: nn.Sequential(nn.Flatten(), MLP(3 * side**2, (64,))),
    }[name]


def rate(bench: Bench, setting: Setting, model: Callable[[], nn.Module] | None = None) -> dict[str, Any]:
    """Milliseconds of one client's step, peak memory in MB, and what the engine says of its steps.

    The median of rounds 3, 5, 6 and 7, of fewer when they take longer than the patience, of round 3 at least. ``model``
    replaces the network by one that takes the same images.
    """
    sizes = bench.sizes
    clients = sizes.clients[setting.many]
    each = max(1, sizes.batches // (FEWER if setting.way == "sequential" else 1))
    x, y = images(bench, clients * each * sizes.batch)
    split = list(torch.arange(len(y)).split(each * sizes.batch))
    local = Local(1, sizes.batch, 0.01, augment=augment.crop_and_flip if setting.augmented else None)
    executor, algorithm = "sequential" if setting.way == "sequential" else "batched", FedAvg()
    made = model or network(bench, setting.network)
    feds = [
        federation(
            bench,
            made,
            (x, y, split),
            algorithm,
            executor,
            local,
            precision=setting.precision,
            seed=seed,
            prepare=prepare,
        )
        for seed in range(setting.seeds)
    ]
    times: list[float] = []
    with eager(setting.way == "eager"):
        while len(times) < ROUNDS and sum(steady(times)) < sizes.patience:
            if len(times) == 1:
                bench.forget()
            bench.wait()
            began = time.perf_counter()
            together(feds, 1)
            bench.wait()
            times.append(time.perf_counter() - began)
    steps = clients * each * setting.seeds
    return {"ms": 1e3 * median(steady(times)) / steps, "mb": bench.peak(), "steps": steps_of(feds[0].net)}


def steady(times: list[float]) -> list[float]:
    """Of the times of rounds 0, 1, 2, 3, ..., those of rounds that only train. In rounds 0, 1, 2, 4, 8, ... the engine
    checks itself: clients together against one by one, captured steps against plain ones.
    """
    return [s for number, s in enumerate(times) if number & (number - 1)]
