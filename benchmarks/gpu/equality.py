"""Whether all executors train the same on this device, and whether what they train along is the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.gpu.setting import Bench, eager, federation
from fedlib import rng, stacking
from fedlib.algorithms import FedAvg, FedNTD, FedProx, Moon, Scaffold
from fedlib.batched import steps_of
from fedlib.data import augment
from fedlib.federation import Federation, Local, together
from fedlib.models import MLP, Net, ResNet8, SmallCNN
from fedlib.models.net import State, clone

Row = dict[str, Any]
EXACT = 1e-10  # in float64, as a share of the largest weight
SIDE, BATCH, ROUNDS = 8, 8, 3
EPOCHS = 4  # so that every shape of a step is there often enough to be captured
UNEVEN, EVEN = (10, 16, 20, 5), (16, 16, 16, 16)
DIRECTIONS = 3
STEP, CURVED = 1e-6, 1e-5  # of finite differences: how far along, and the share by which kinks may make them miss


@dataclass(frozen=True)
class Setting:
    """What is trained: one algorithm on one network, by clients that hold ``sizes`` samples. Steps are ``captured``
    where the device can do that, or never.
    """

    name: str
    algorithm: Callable[[], FedAvg] = FedAvg
    model: Callable[[], nn.Module] = lambda: SmallCNN(3, SIDE)
    sizes: tuple[int, ...] = UNEVEN
    local: dict[str, Any] = field(default_factory=dict)
    seeds: int = 1
    captured: bool = True


ROUNDED = 8  # the first settings are tried in float32, too
SETTINGS = (
    Setting("FedAvg"),
    Setting("BatchNorm", model=ResNet8),
    Setting("momentum, decay", local={"momentum": 0.9, "weight_decay": 1e-3, "lr_decay": 0.9}),
    Setting("augmentation", local={"augment": augment.crop_and_flip}),
    Setting("FedProx", lambda: FedProx(0.1)),
    Setting("SCAFFOLD", Scaffold),
    Setting("MOON", Moon),
    Setting("FedNTD", FedNTD),
    Setting("FedAvg, not captured", captured=False),
    Setting("BatchNorm, not captured", model=ResNet8, captured=False),
    Setting("MOON, not captured", Moon, captured=False),
    Setting("BatchNorm, even clients", model=ResNet8, sizes=EVEN),
    Setting("MOON, BatchNorm", Moon, model=ResNet8),
    Setting("GroupNorm", model=lambda: ResNet8(norm="group")),
    Setting("MLP", model=lambda: nn.Sequential(nn.Flatten(), MLP(3 * SIDE**2, (32,)))),
    Setting("two seeds together", seeds=2),
)


def samples(sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Random images [N, 3, 8, 8], labels [N], and whose they are."""
    draw, count = rng.stream("benchmark", "equality"), sum(sizes)
    x = torch.randn(count, 3, SIDE, SIDE, generator=draw, dtype=torch.float64).to(dtype)
    return x, torch.randint(10, (count,), generator=draw), list(torch.arange(count).split(list(sizes)))


def executors(bench: Bench, setting: Setting, dtype: torch.dtype) -> Row:
    """Play the same rounds one client after the other and batched, and compare."""
    given, local = (
        samples(setting.sizes, dtype),
        Local(**{"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.05} | setting.local),
    )

    def played(executor: str) -> list[Federation]:
        algorithm = setting.algorithm()
        feds = [
            federation(
                bench,
                setting.model,
                given,
                algorithm,
                executor,
                local,
                seed=seed,
                dtype=dtype,
            )
            for seed in range(setting.seeds)
        ]
        together(feds, ROUNDS)
        return feds

    one = played("sequential")
    with eager(not setting.captured):
        all_ = played("batched")
    largest = max(map(difference, one, all_))
    allowed = EXACT if dtype == torch.float64 else stacking.tolerance(one[0].net)
    steps = steps_of(all_[0].net)
    missing = bench.cuda and setting.captured and not steps.startswith("steps captured")
    row = {"difference": largest, "allowed": allowed, "passed": largest <= allowed and not missing, "steps": steps}
    return row | ({"note": "on a GPU these steps should have been captured"} if missing else {})


def difference(one: Federation, other: Federation) -> float:
    """The largest difference between all that two federations hold, as a share of the largest number there, or of one;
    infinite where one is not finite.
    """
    pairs = [(one.state, other.state), *((one.own[k], other.own[k]) for k in one.own)]
    gaps = [
        abs(a["loss"] - b["loss"]) / max(1.0, abs(a["loss"])) for a, b in zip(one.history, other.history, strict=True)
    ]
    for a, b in pairs:
        floating = [n for n in a if a[n].is_floating_point()]
        size = max([1.0, *(float(a[n].abs().max()) for n in floating)])
        gaps += [float((a[n] - b[n]).abs().max()) / size for n in floating]
        gaps += [float((a[n] != b[n]).any()) for n in a if n not in floating]
    return max(gap if gap == gap else float("inf") for gap in gaps)


def gradient(bench: Bench, model: Callable[[], nn.Module], sizes: tuple[int, ...]) -> Row:
    """One batched step at the rate 1, on all samples of every client, in float64: it goes along the gradient of the
    mean loss. Its slopes are those of finite differences of the plain network, along the step and in random directions.
    """
    given = samples(sizes, torch.float64)
    local = Local(epochs=1, batch_size=max(sizes), lr=1.0)
    fed = federation(bench, model, given, FedAvg(), "batched", local, dtype=torch.float64)
    before = clone(fed.state)
    fed.run(1)
    shapes = {n: before[n].shape for n in fed.net.parameters}
    found = torch.cat([(before[n] - fed.state[n]).flatten() for n in shapes])
    draw = rng.stream("benchmark", "direction")
    directions = [found, *torch.randn(DIRECTIONS, len(found), generator=draw, dtype=torch.float64).to(found.device)]
    typical, misses = float(found.norm()) / len(found) ** 0.5, []
    for direction in directions:
        unit = direction / direction.norm()
        parts = dict(zip(shapes, unit.split([s.numel() for s in shapes.values()]), strict=True))
        moved = [before | {n: before[n] + by * parts[n].view(s) for n, s in shapes.items()} for by in (STEP, -STEP)]
        high, low = (mean_loss(fed.net, state, fed.x, fed.y, fed.split) for state in moved)
        slope = (high - low) / (2 * STEP)
        misses.append(abs(float(found @ unit) - slope) / max(abs(slope), typical))
    return {"difference": max(misses), "allowed": CURVED, "passed": max(misses) <= CURVED, "steps": steps_of(fed.net)}


@torch.no_grad()
def mean_loss(net: Net, state: State, x: Tensor, y: Tensor, split: list[Tensor]) -> float:
    """Cross-entropy over all samples, each client's in a batch of its own."""
    total = sum(
        float(cross_entropy(net(clone(state), x[rows], train=True), y[rows], reduction="sum")) for rows in split
    )
    return total / sum(map(len, split))
