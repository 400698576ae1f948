"""What a contender is told, and what it trains on: the same for all. Needs NumPy and torch only.

A job is a JSON file; data, split and first weights lie in an .npz beside it, which all contenders of a workload read.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Job:
    """FedAvg with plain SGD: who trains in which round, and how.

    ``model`` names a module's class as ``package.module:Class``; ``sampled[t]`` are the clients of round t; ``options``
    are the contender's own.
    """

    workload: str
    model: str
    arguments: dict[str, Any]
    epochs: int
    batch: int
    lr: float
    seed: int
    sampled: list[list[int]]
    material: str
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Save as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> Job:
        """The job in a file. Raises ValueError, naming the file, when a field is missing or unknown."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except TypeError as error:
            raise ValueError(f"{path} is no job of this version: {error}") from error

    def network(self) -> nn.Module:
        """A new network of the workload, with weights of its own."""
        module, _, name = self.model.partition(":")
        made: nn.Module = getattr(importlib.import_module(module), name)(**self.arguments)
        return made


@dataclass(frozen=True)
class Material:
    """Samples x [N, ...] and y [N] with the rows of each client, a test set, and the weights that all start from."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    split: list[Tensor]
    weights: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write everything into one .npz."""
        arrays: dict[str, Any] = {name: getattr(self, name).numpy() for name in ("x", "y", "x_test", "y_test")}
        arrays |= {"rows": torch.cat(self.split).numpy(), "sizes": np.array([len(rows) for rows in self.split])}
        arrays |= {f"weight {name}": w.numpy() for name, w in self.weights.items()}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Material:
        """What :meth:`save` wrote, on a device."""
        with np.load(path) as file:
            found = {name: torch.from_numpy(file[name]) for name in file.files}
        split = list(found["rows"].split(found["sizes"].tolist()))
        start = {n.removeprefix("weight "): w for n, w in found.items() if n.startswith("weight ")}
        return cls(found["x"], found["y"], found["x_test"], found["y_test"], split, start).to(device)

    def to(self, to: str | torch.dtype) -> Material:
        """The same on another device, or with floating-point tensors of another type."""
        both = isinstance(to, str)

        def moved(t: Tensor) -> Tensor:
            return t.to(to) if both or t.is_floating_point() else t

        return replace(
            self,
            x=moved(self.x),
            y=moved(self.y),
            x_test=moved(self.x_test),
            y_test=moved(self.y_test),
            split=[moved(rows) for rows in self.split],
            weights={n: moved(w) for n, w in self.weights.items()},
        )


@dataclass(frozen=True)
class Outcome:
    """What a contender hands back: seconds of every round, the weights in the end, local steps per round."""

    seconds: list[float]
    weights: dict[str, Tensor]
    steps: float
    explain: str = ""


def steps(job: Job, sizes: list[int]) -> float:
    """Local steps per round, on average over the job's rounds, where every client of ``sizes`` takes every batch."""
    each = [job.epochs * -(-size // job.batch) for size in sizes]
    return sum(each[k] for clients in job.sampled for k in clients) / len(job.sampled)
