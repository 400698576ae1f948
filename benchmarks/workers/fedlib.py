"""fedlib: one federation, or several seeds of it in one computation."""

from __future__ import annotations

from torch import nn

from benchmarks.job import Job, Material, Outcome, steps
from benchmarks.workers import local
from fedlib import federation
from fedlib.algorithms import FedAvg
from fedlib.federation import Federation, Local


def federate(job: Job, material: Material, algorithm: FedAvg, seed: int) -> Federation:
    """The job as a federation that starts from the job's weights."""

    def network() -> nn.Module:
        return job.network()

    fed = Federation(
        network,
        material.x,
        material.y,
        material.split,
        algorithm,
        local=Local(epochs=job.epochs, batch_size=job.batch, lr=job.lr),
        participation=len(job.sampled[0]) / len(material.split),
        seed=seed,
        executor=job.options.get("executor", "auto"),
        device=job.device,
        dtype=material.x.dtype,
    )
    fed.state = {name: w.clone() for name, w in material.weights.items()}
    return fed


def run(job: Job, material: Material) -> Outcome:
    """Seconds are per seed: those of a round of all seeds, shared out."""
    seeds = int(job.options.get("seeds", 1))
    algorithm = FedAvg()
    feds = [federate(job, material, algorithm, job.seed + i) for i in range(seeds)]

    def one_round(number: int, clients: list[int]) -> None:
        federation.together(feds, 1)

    seconds = [s / seeds for s in local.play(job, one_round)]
    return Outcome(seconds, feds[0].state, steps(job, [len(rows) for rows in material.split]), feds[0].explain())
