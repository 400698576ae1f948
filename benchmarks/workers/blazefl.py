"""BlazeFL's multi-threaded simulation: its FedAvg trainer, a thread for each core, and its FedAvg server.

Threads share memory; BlazeFL asks for a Python without the global lock for that. The data are what its user brings:
batches of rows from tensors in memory, as in the plain loop. The rounds are those of its documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import torch
from blazefl.contrib import (
    FedAvgBaseServerHandler,
    FedAvgPartitionedDataset,
    FedAvgPartitionType,
    FedAvgThreadPoolClientTrainer,
    FedAvgUplinkPackage,
)
from blazefl.core import ModelSelector
from torch import Tensor

from benchmarks.job import Job, Material, Outcome, steps
from benchmarks.workers import local


class Loader:
    """One client's batches in one round; every pass over them is one epoch. ``dataset`` is what BlazeFL counts."""

    def __init__(self, material: Material, rows: Tensor, batch: int, order: torch.Generator):
        self.material, self.dataset, self.batch, self.order = material, rows, batch, order

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in local.epoch(self.dataset, self.batch, self.order):
            yield self.material.x[rows], self.material.y[rows]


class Data(FedAvgPartitionedDataset):
    """All clients' samples; ``number`` is the round's."""

    def __init__(self, job: Job, material: Material):
        self.job, self.material, self.number = job, material, 0

    def get_dataloader(self, type_: FedAvgPartitionType, cid: int, batch_size: int, generator: object) -> Loader:
        """What a thread asks for; the stream is the job's, so that all train on the same batches."""
        return Loader(self.material, self.material.split[cid], batch_size, local.order(self.job, self.number, cid))


class Networks(ModelSelector):
    """A new network for every client in every round, as BlazeFL has it."""

    def __init__(self, job: Job):
        self.job = job

    def select_model(self, model_name: str) -> torch.nn.Module:
        """The job's only network."""
        return self.job.network()


class Trainer(FedAvgThreadPoolClientTrainer):
    """BlazeFL's, without its progress bar."""

    def progress_fn(self, it: list[Future[FedAvgUplinkPackage]]) -> list[Future[FedAvgUplinkPackage]]:
        """The clients' results, silently."""
        return it


class Server(FedAvgBaseServerHandler):
    """BlazeFL's, with the job's clients instead of sampled ones."""

    sampled: list[list[int]]

    def sample_clients(self) -> list[int]:
        """The clients of this round."""
        return self.sampled[self.round]


def run(job: Job, material: Material) -> Outcome:
    """Play the rounds of the job; ``options``: cores of the machine."""
    clients, data, networks = len(material.split), Data(job, material), Networks(job)
    server: Any = Server(networks, job.workload, data, len(job.sampled), clients, 1.0, job.device, job.batch, job.seed)
    server.num_clients_per_round, server.sampled = len(job.sampled[0]), job.sampled
    server.model.load_state_dict(material.weights)
    trainer: Any = Trainer(
        networks,
        job.workload,
        data,
        job.device,
        clients,
        job.epochs,
        job.batch,
        job.lr,
        job.seed,
        int(job.options["cores"]),
    )

    def one_round(number: int, taking_part: list[int]) -> None:
        data.number = number
        sampled = server.sample_clients()
        trainer.local_process(server.downlink_package(), sampled)
        for package in trainer.uplink_package():
            server.load(package)

    seconds = local.play(job, one_round)
    if not server.is_stopped():
        raise RuntimeError(f"BlazeFL averaged {server.round} times in {len(job.sampled)} rounds")
    return Outcome(seconds, server.model.state_dict(), steps(job, [len(rows) for rows in material.split]))
