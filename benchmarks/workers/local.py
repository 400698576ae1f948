"""Local training as one writes it with torch: what the plain loop does, and what users bring to Flower and FedLab."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.job import Job, Material
from fedlib import rng


def order(job: Job, number: int, client: int) -> torch.Generator:
    """The stream that shuffles a client's samples in a round: fedlib's, so that all train on the same batches."""
    return rng.stream(job.seed, "batches", number, client, 0)


def epoch(rows: Tensor, batch: int, order: torch.Generator) -> tuple[Tensor, ...]:
    """All rows once, in shuffled batches."""
    return rows[torch.randperm(len(rows), generator=order).to(rows.device)].split(batch)


def batches(job: Job, material: Material, number: int, client: int) -> Iterator[Tensor]:
    """A client's batches of a round, epoch after epoch."""
    shuffle = order(job, number, client)
    for _ in range(job.epochs):
        yield from epoch(material.split[client], job.batch, shuffle)


def train(network: nn.Module, material: Material, batches: Iterator[Tensor], lr: float) -> None:
    """Plain SGD over the batches; the data stay in memory as one tensor."""
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=lr)
    for rows in batches:
        optimiser.zero_grad()
        cross_entropy(network(material.x[rows]), material.y[rows]).backward()
        optimiser.step()


def play(job: Job, one_round: Callable[[int, list[int]], None]) -> list[float]:
    """Seconds of every round of the job; a round is a function of its number and its clients."""
    seconds = []
    for number, clients in enumerate(job.sampled):
        start = time.perf_counter()
        one_round(number, clients)
        if job.device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds
