"""The floor: one model takes the sample gradients of a round in batches of all clients together; nothing is federated.

It does the arithmetic of the round without anything that makes it a federation. It takes fewer, larger steps, so its
accuracy is not to be compared.
"""

from __future__ import annotations

import torch

from benchmarks.job import Job, Material, Outcome
from benchmarks.workers import local


def run(job: Job, material: Material) -> Outcome:
    """Train on the samples of each round's clients, batches of (clients x batch)."""
    network = job.network().to(material.x)
    network.load_state_dict(material.weights)
    order = torch.Generator().manual_seed(job.seed)
    taken = 0

    def one_round(number: int, clients: list[int]) -> None:
        nonlocal taken
        rows = torch.cat([material.split[k] for k in clients] * job.epochs)
        batches = local.epoch(rows, len(clients) * job.batch, order)
        taken += len(batches)
        local.train(network, material, iter(batches), job.lr)

    seconds = local.play(job, one_round)
    return Outcome(seconds, network.state_dict(), taken / len(job.sampled))
