"""PFLlib's own FedAvg server and clients, from a checkout (`--pfllib PATH`), in the steps of its `FedAvg.train`.

PFLlib reads each client's samples from a file in every round and drops batches that are not full; that is how it is
published, and how it is measured. Its evaluation is left out of the clock.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.job import Job, Material, Outcome
from benchmarks.workers import local

# What PFLlib's command line sets, at values that switch off all but FedAvg; versions differ in what they ask for.
SETTINGS: dict[str, Any] = {
    "algorithm": "FedAvg",
    "auto_break": False,
    "batch_num_per_client": 2,
    "client_drop_rate": 0.0,
    "dlg_eval": False,
    "dlg_gap": 100,
    "dp_sigma": 0.0,
    "few_shot": 0,
    "fine_tuning_epoch": 0,
    "fine_tuning_epoch_new": 0,
    "goal": "test",
    "learning_rate_decay": False,
    "learning_rate_decay_gamma": 0.99,
    "num_new_clients": 0,
    "privacy": False,
    "random_join_ratio": False,
    "save_folder_name": "items",
    "send_slow_rate": 0.0,
    "time_select": False,
    "time_threthold": 1e9,
    "top_cnt": 100,
    "train_slow_rate": 0.0,
}


def files(material: Material, folder: Path) -> None:
    """Write the data as PFLlib's generators do: one compressed .npz per client and part."""
    for client, rows in enumerate(material.split):
        parts = {"train": (material.x[rows], material.y[rows]), "test": (material.x_test[:10], material.y_test[:10])}
        for part, (x, y) in parts.items():
            (folder / part).mkdir(parents=True, exist_ok=True)
            data: Any = {"x": x.numpy(), "y": y.numpy()}
            with (folder / part / f"{client}.npz").open("wb") as file:
                np.savez_compressed(file, data=data)


def run(job: Job, material: Material) -> Outcome:
    """Play the rounds with PFLlib's classes. ``options``: path of the checkout, a folder for the data files."""
    full = [job.epochs * (len(rows) // job.batch) for rows in material.split]
    if not any(full[k] for clients in job.sampled for k in clients):
        raise ValueError(
            f"no client has a full batch of {job.batch}: PFLlib, which drops others, would not train at all"
        )
    system = Path(job.options["pfllib"]).resolve() / "system"
    if not (system / "flcore" / "servers" / "serveravg.py").exists():
        raise ValueError(f"{system.parent} is no checkout of PFLlib: it has no system/flcore/servers/serveravg.py")
    scratch = Path(job.options["scratch"])
    files(material, scratch / "dataset" / job.workload)
    (scratch / "system").mkdir(exist_ok=True)
    sys.path.insert(0, str(system))
    os.chdir(scratch / "system")  # PFLlib finds ../dataset from here
    from flcore.servers.serveravg import FedAvg

    network = job.network()
    network.load_state_dict(material.weights)
    args = SimpleNamespace(
        **SETTINGS,
        batch_size=job.batch,
        dataset=job.workload,
        device="cpu",
        eval_gap=len(job.sampled) + 1,
        global_rounds=len(job.sampled),
        join_ratio=len(job.sampled[0]) / len(material.split),
        local_epochs=job.epochs,
        local_learning_rate=job.lr,
        model=network,
        num_classes=int(material.y.max()) + 1,
        num_clients=len(material.split),
    )
    server: Any = FedAvg(args, 0)

    def one_round(number: int, clients: list[int]) -> None:
        server.selected_clients = [server.clients[k] for k in clients]
        server.current_num_join_clients = len(clients)
        server.send_models()
        for client in server.selected_clients:
            client.train()
        server.receive_models()
        server.aggregate_parameters()

    seconds = local.play(job, one_round)
    taken = sum(full[k] for clients in job.sampled for k in clients) / len(job.sampled)
    return Outcome(seconds, server.global_model.state_dict(), taken)
