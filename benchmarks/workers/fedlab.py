"""FedLab's standalone simulation: its serial trainer and its synchronous server, driven as its pipeline does.

The data are what its user brings: batches of rows from tensors in memory, as in the plain loop. FedLab averages
uniformly unless told otherwise; here its aggregator gets the numbers of samples, as FedAvg has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.job import Job, Material, Outcome, steps
from benchmarks.workers import local
from fedlib import _torchvision

_torchvision.datasets()  # FedLab imports torchvision, which does not load beside every torch
from fedlab.contrib.algorithm.fedavg import FedAvgSerialClientTrainer, FedAvgServerHandler  # noqa: E402
from fedlab.contrib.dataset.basic_dataset import FedDataset  # noqa: E402
from fedlab.utils import Aggregators, SerializationTool  # noqa: E402


class Loader:
    """One client's batches in one round; every pass over them is one epoch."""

    def __init__(self, material: Material, rows: Tensor, batch: int, order: torch.Generator):
        self.material, self.rows, self.batch, self.order = material, rows, batch, order

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in local.epoch(self.rows, self.batch, self.order):
            yield self.material.x[rows], self.material.y[rows]


class Data(FedDataset):
    """All clients' samples; ``number`` is the round's."""

    def __init__(self, job: Job, material: Material):
        self.num, self.job, self.material, self.number = len(material.split), job, material, 0

    def get_dataloader(self, id: int, batch_size: int, type: str = "train") -> Loader:
        """What the trainer asks for."""
        return Loader(self.material, self.material.split[id], batch_size, local.order(self.job, self.number, id))


class Trainer(FedAvgSerialClientTrainer):
    """FedLab's, which also says how many samples each client has."""

    cache: list[list[Tensor]]

    def local_process(self, payload: list[Tensor], id_list: list[int]) -> None:
        """Train the clients one after the other."""
        super().local_process(payload, id_list)
        sizes = [len(self.dataset.material.split[k]) for k in id_list]
        self.cache = [[*pack, torch.tensor(float(n))] for pack, n in zip(self.cache, sizes, strict=True)]


class Server(FedAvgServerHandler):
    """FedLab's, averaging by numbers of samples."""

    def global_update(self, buffer: list[list[Tensor]]) -> None:
        """The server step."""
        mean = Aggregators.fedavg_aggregate([pack[0] for pack in buffer], torch.stack([pack[1] for pack in buffer]))
        SerializationTool.deserialize_model(self._model, mean)


def run(job: Job, material: Material) -> Outcome:
    """Play the rounds with FedLab's classes, as ``StandalonePipeline.main`` does, without its evaluation."""
    network = job.network()
    network.load_state_dict(material.weights)
    clients = len(material.split)
    trainer = Trainer(network, clients)
    data = Data(job, material)
    trainer.setup_dataset(data)
    trainer.setup_optim(job.epochs, job.batch, job.lr)
    handler: Any = Server(network, len(job.sampled), len(job.sampled[0]) / clients)
    handler.num_clients = clients

    def one_round(number: int, taking_part: list[int]) -> None:
        data.number = number
        trainer.local_process(handler.downlink_package, taking_part)
        for pack in trainer.uplink_package:
            handler.load(pack)

    seconds = local.play(job, one_round)
    if handler.round != len(job.sampled):
        raise RuntimeError(f"FedLab averaged {handler.round} times in {len(job.sampled)} rounds")
    return Outcome(seconds, handler.model.state_dict(), steps(job, [len(rows) for rows in material.split]))
