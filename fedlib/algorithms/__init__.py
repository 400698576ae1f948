"""Federated algorithms: each file states how one method differs from FedAvg (loaded on first use)."""

import importlib
from typing import Any

_HOME = {
    "CCVR": "ccvr",
    "Ditto": "ditto",
    "FedAvg": "fedavg",
    "FedAvgM": "fedavgm",
    "FedBN": "fedbn",
    "FedDF": "feddf",
    "FedGKT": "fedgkt",
    "FedGen": "fedgen",
    "FedHN": "fedhn",
    "FedKD": "fedkd",
    "FedLSD": "fedlsd",
    "FedMD": "fedmd",
    "FedNTD": "fedntd",
    "FedOpt": "fedopt",
    "FedPAV": "fedpav",
    "FedPer": "fedper",
    "FedProx": "fedprox",
    "FedRep": "fedrep",
    "LGFedAvg": "lgfedavg",
    "LocalOnly": "localonly",
    "Moon": "moon",
    "PerFedAvg": "perfedavg",
    "Scaffold": "scaffold",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
