"""What is trained: model, data, split and schedule of every workload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.errors import Skipped, Unknown
from benchmarks.job import Job, Material
from fedlib import data, partition, rng
from fedlib.data.dataset import Dataset

ALL = ("fedlib*", "plain", "floor", "flower", "blazefl", "fedlab", "pfllib")


@dataclass(frozen=True)
class Workload:
    """One setting. ``samples()`` loads the data, ``split(labels, rng)`` shares them out; ``takes_part`` clients are
    sampled per round. ``contenders`` are those measured unless others are asked for.
    """

    name: str
    title: str
    samples: Callable[[], Dataset]
    clients: int
    split: Callable[[Tensor, torch.Generator], list[Tensor]]
    takes_part: int
    model: str
    arguments: dict[str, Any]
    epochs: int
    batch: int
    lr: float
    contenders: tuple[str, ...]
    rounds: int
    repeats: int
    device: str = "cpu"

    def sampled(self, rounds: int, seed: int) -> list[list[int]]:
        """Clients of every round: those that a ``fedlib.federation.Federation`` with this seed samples."""
        drawn = (torch.randperm(self.clients, generator=rng.stream(seed, "sample", t)) for t in range(rounds))
        return [sorted(order[: self.takes_part].tolist()) for order in drawn]

    def prepare(self, folder: Path, rounds: int, seed: int) -> tuple[Job, Dataset, Material]:
        """Load the data, write them into ``folder``; return the job that all contenders get, and its data."""
        found = self.samples()
        split = self.split(found.y_train, rng.stream(seed, "benchmark", "split"))
        material_path = folder / f"{self.name}.npz"
        job = Job(
            self.name,
            self.model,
            self.arguments,
            self.epochs,
            self.batch,
            self.lr,
            seed,
            self.sampled(rounds, seed),
            str(material_path),
            self.device,
        )
        weights = rng.build(job.network, seed, "init").state_dict()
        material = Material(found.x_train, found.y_train, found.x_test, found.y_test, split, weights)
        material.save(material_path)
        return job, found, material


def digits() -> Dataset:
    """scikit-learn's digits, 8x8."""
    return data.load("digits")


def images() -> Dataset:
    """6,000 images of 28x28: MNIST or Fashion-MNIST where there is a pack of it, else letters rendered by fedlib."""
    for name in ("mnist", "fashion_mnist"):
        if data.available()[name] not in ("download", "absent"):
            return data.load(name).subset(6000, 1000, rng=rng.stream("benchmark", "images"))
    return data.glyphs.dataset(train=6000, test=1000, size=28, seed=0)


def one_dimensional() -> Dataset:
    """MNIST-1D: 4,000 samples of 40 points."""
    return data.mnist1d.dataset(seed=0)


def colour_images(train: int | None) -> Dataset:
    """CIFAR-10, all or ``train`` images. Raises Skipped without a pack of it: nothing is downloaded for this."""
    if data.available()["cifar10"] in ("download", "absent"):
        raise Skipped("no pack of CIFAR-10: put cifar10.npz into a folder and set FEDLIB_DATA to it")
    return data.load("cifar10").subset(train, 1000 if train else None, rng=rng.stream("benchmark", "colour"))


def many(clients: int, each: int = 14) -> Dataset:
    """``each`` samples for every client: the digits again and again, with noise from a keyed stream."""
    found, count = data.load("digits").flat(), clients * each
    rows = torch.arange(count) % len(found.y_train)
    noise = torch.randn(count, found.x_train.shape[1], generator=rng.stream("benchmark", "noise"))
    return Dataset(
        "digits with noise",
        found.x_train[rows] + 0.1 * noise,
        found.y_train[rows],
        found.x_test,
        found.y_test,
        found.classes,
        found.sha256,
    )


def dirichlet(clients: int, alpha: float) -> Callable[[Tensor, torch.Generator], list[Tensor]]:
    """A split by Dirichlet(alpha)."""
    return lambda labels, generator: partition.dirichlet(labels, clients, alpha, generator)


def iid(clients: int) -> Callable[[Tensor, torch.Generator], list[Tensor]]:
    """An even split."""
    return lambda labels, generator: partition.iid(labels, clients, generator)


def _mlp(name: str, title: str, samples: Callable[[], Dataset], clients: int, takes_part: int, **rule: Any) -> Workload:
    return Workload(
        name=name,
        title=title,
        samples=samples,
        clients=clients,
        split=iid(clients),
        takes_part=takes_part,
        model="fedlib.models.mlp:MLP",
        arguments={"inputs": 64, "hidden": [64]},
        **rule,
    )


def _scale(clients: int, takes_part: int) -> Workload:
    return _mlp(
        f"scale-{clients}-{takes_part}",
        f"MLP 64-64-10, {clients:,} clients of 14 samples, {takes_part} sampled, 1 local epoch",
        lambda: many(clients),
        clients,
        takes_part,
        epochs=1,
        batch=16,
        lr=0.05,
        contenders=("fedlib", "plain"),
        rounds=21,
        repeats=1,
    )


def _resnet(name: str, title: str, train: int | None, **rule: Any) -> Workload:
    return Workload(
        name=name,
        title=f"{title}, 20 clients by Dirichlet 1, 8 sampled, ResNet-8, batch 64, local epochs: {rule['epochs']}",
        samples=lambda: colour_images(train),
        clients=20,
        split=dirichlet(20, 1.0),
        takes_part=8,
        model="fedlib.models.resnet:ResNet8",
        arguments={},
        batch=64,
        lr=0.1,
        repeats=1,
        **rule,
    )


_LISTED = (
    Workload(
        name="w",
        title="digits, 20 clients by Dirichlet 0.5, CNN (16, 32; 128), batch 16, 2 local epochs",
        samples=digits,
        clients=20,
        split=dirichlet(20, 0.5),
        takes_part=20,
        model="fedlib.models.cnn:SmallCNN",
        arguments={},
        epochs=2,
        batch=16,
        lr=0.05,
        contenders=ALL,
        rounds=11,
        repeats=3,
    ),
    Workload(
        name="w2",
        title="6,000 images of 28x28, 10 clients by Dirichlet 0.5, LeNet-5, batch 32, 1 local epoch",
        samples=images,
        clients=10,
        split=dirichlet(10, 0.5),
        takes_part=10,
        model="fedlib.models.cnn:LeNet5",
        arguments={},
        epochs=1,
        batch=32,
        lr=0.05,
        contenders=ALL,
        rounds=8,
        repeats=2,
    ),
    _mlp(
        "mlp",
        "digits, 100 even clients, 10 sampled, MLP 64-64-10, batch 20, 5 local epochs",
        lambda: digits().flat(),
        100,
        10,
        epochs=5,
        batch=20,
        lr=0.1,
        contenders=(*ALL[:-1], "fedlib-3-seeds", "fedlib-10-seeds"),
        rounds=101,
        repeats=3,
    ),
    Workload(
        name="mnist1d",
        title="MNIST-1D, 20 clients by Dirichlet 0.5, 1-D CNN (25, 25, 25), batch 32, 3 local epochs",
        samples=one_dimensional,
        clients=20,
        split=dirichlet(20, 0.5),
        takes_part=20,
        model="fedlib.models.cnn:Cnn1d",
        arguments={},
        epochs=3,
        batch=32,
        lr=0.1,
        contenders=ALL,
        rounds=11,
        repeats=3,
    ),
    Workload(
        name="few",
        title="digits, 50 even clients, 5 sampled, CNN (16, 32; 128), batch 16, 5 local epochs",
        samples=digits,
        clients=50,
        split=iid(50),
        takes_part=5,
        model="fedlib.models.cnn:SmallCNN",
        arguments={},
        epochs=5,
        batch=16,
        lr=0.05,
        contenders=(
            *("fedlib", "fedlib-one-core", "fedlib-batched", "fedlib-sequential"),
            *("plain", "floor", "blazefl"),
        ),
        rounds=41,
        repeats=3,
    ),
    _resnet(
        "resnet",
        "2,000 images of CIFAR-10",
        2000,
        epochs=1,
        contenders=("fedlib", "fedlib-one-core", "plain", "floor", "flower"),
        rounds=6,
    ),
    _resnet(
        "resnet-gpu",
        "CIFAR-10 on a GPU",
        None,
        epochs=20,
        contenders=("fedlib", "fedlib-sequential", "fedlib-batched", "plain", "floor"),
        rounds=3,
        device="cuda",
    ),
    *(_scale(k, m) for k in (10, 100, 1000, 10_000) for m in (1, 10, 100) if m <= k),
)
WORKLOADS = {w.name: w for w in _LISTED}


def choose(names: list[str]) -> list[Workload]:
    """Workloads by name, all without any; ``scale`` names every workload that begins with it.

    Raises Unknown, listing what there is.
    """
    if not names:
        return list(WORKLOADS.values())
    found: dict[str, Workload] = {}
    for name in names:
        group = {n: w for n, w in WORKLOADS.items() if n == name or n.startswith(f"{name}-")}
        if not group:
            raise Unknown("workload", name, WORKLOADS)
        found |= group
    return list(found.values())


def available(workload: Workload) -> None:
    """Raises Skipped when the workload's device is not there."""
    if workload.device == "cuda" and not torch.cuda.is_available():
        raise Skipped("no CUDA device")
