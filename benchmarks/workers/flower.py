"""Flower's simulation on Ray: a ServerApp with its FedAvg strategy, a ClientApp per client, one core per ClientApp.

The client's code is the plain loop's; data and network stay in the actor's memory from one message to the next.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.job import Job, Material, Outcome, steps
from benchmarks.workers import local

app = ClientApp()


@functools.cache
def resident(path: str) -> tuple[Job, Material, torch.nn.Module]:
    """Job, data and a network, read once per process."""
    job = Job.read(path)
    return job, Material.load(job.material), job.network()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One client's local work in one round."""
    config = message.content["config"]
    job, material, network = resident(config["job"])
    number, client = config["round"], config["client"]
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    local.train(network, material, local.batches(job, material, number, client), job.lr)
    metrics = MetricRecord({"num-examples": len(material.split[client])})
    reply = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
    return Message(content=reply, reply_to=message)


class Timed(FedAvg):
    """Flower's FedAvg, with a clock, and with the job's clients instead of sampled ones."""

    def __init__(self, job: Job, path: str, clients: int):
        taking_part = len(job.sampled[0])
        super().__init__(
            fraction_train=taking_part / clients,
            fraction_evaluate=0.0,
            min_train_nodes=taking_part,
            min_available_nodes=clients,
        )
        self.job, self.path = job, path
        self.started = 0.0
        self.seconds: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Flower's messages, each with the client whose work it asks for."""
        self.started = time.perf_counter()
        drawn = super().configure_train(server_round, arrays, config, grid)
        clients = self.job.sampled[server_round - 1]
        messages = []
        for message, client in zip(drawn, clients, strict=True):
            config = ConfigRecord({"job": self.path, "client": client, "round": server_round - 1})
            content = RecordDict({"arrays": arrays, "config": config})
            messages.append(Message(content, message.metadata.dst_node_id, MessageType.TRAIN))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Flower's average; the round ends with it."""
        found = super().aggregate_train(server_round, replies)
        self.seconds.append(time.perf_counter() - self.started)
        return found


def run(job: Job, material: Material) -> Outcome:
    """Play all rounds of the job in one simulation. ``options``: cores of the machine, path of the job."""
    strategy = Timed(job, job.options["path"], len(material.split))
    final: dict[str, torch.Tensor] = {}
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        result = strategy.start(grid, ArrayRecord(material.weights), num_rounds=len(job.sampled))
        final.update(result.arrays.to_torch_state_dict())

    cores = int(job.options["cores"])
    run_simulation(
        server,
        app,
        num_supernodes=len(material.split),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": cores, "include_dashboard": False},
        },
    )
    return Outcome(strategy.seconds, final, steps(job, [len(rows) for rows in material.split]))
