"""`python -m benchmarks.workers NAME JOB`: do the job as the contender NAME does; answer with one line of JSON."""

from __future__ import annotations

import importlib
import json
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.job import Job, Material, Outcome

PACKAGES = ("torch", "numpy", "flwr", "ray", "blazefl", "fedlab")


def versions() -> dict[str, str]:
    """What this environment has of the packages that matter, and whether its threads run at the same time."""
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    found = {"python": platform.python_version() + ("" if locked else " free-threaded")}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak() -> float:
    """The most memory, in MB, that this process alone has had; what it has started is not counted."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


@torch.no_grad()
def accuracy(job: Job, material: Material, weights: dict[str, torch.Tensor]) -> float:
    """Share of the test set that the weights get right."""
    network = job.network().to(job.device).eval()
    network.load_state_dict(weights)
    predicted = torch.cat([network(x).argmax(1) for x in material.x_test.split(1000)])
    return float((predicted == material.y_test).float().mean())


def main(name: str, path: str) -> None:
    """Do the job in a file as the contender ``name``."""
    job = Job.read(path)
    material = Material.load(job.material, job.device)
    outcome: Outcome = importlib.import_module(f"benchmarks.workers.{name}").run(job, material)
    answer = {
        "seconds": outcome.seconds,
        "steps": outcome.steps,
        "accuracy": accuracy(job, material, outcome.weights),
        "versions": versions(),
        "peak_mb": peak(),
        "explain": outcome.explain,
    }
    print("\n" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
