"""The plain loop over clients: nn.Module, torch.optim.SGD, no framework, tensors in memory."""

from __future__ import annotations

from torch import Tensor

from benchmarks.job import Job, Material, Outcome, steps
from benchmarks.workers import local


def run(job: Job, material: Material) -> Outcome:
    """FedAvg: every client starts from the server's weights, the server averages by numbers of samples."""
    network = job.network().to(material.x)
    server = {name: w.clone() for name, w in material.weights.items()}
    sizes = [len(rows) for rows in material.split]

    def one_round(number: int, clients: list[int]) -> None:
        nonlocal server
        total = sum(sizes[k] for k in clients)
        mean: dict[str, Tensor] = {}
        for k in clients:
            network.load_state_dict(server)
            local.train(network, material, local.batches(job, material, number, k), job.lr)
            for name, w in network.state_dict().items():
                if not w.is_floating_point():  # BatchNorm counts its batches
                    mean[name] = w.clone()
                elif name in mean:
                    mean[name].add_(w, alpha=sizes[k] / total)
                else:
                    mean[name] = w * (sizes[k] / total)
        server = mean

    seconds = local.play(job, one_round)
    return Outcome(seconds, server, steps(job, sizes))
