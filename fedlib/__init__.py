"""fedlib: federated learning and knowledge distillation, small enough to read beside the papers.

Sub-modules are imported on first use, so that ``import fedlib`` costs nothing.
"""

import importlib
from typing import Any

from fedlib import original as original  # light, and always there: it tells whether fedlib is as its files have it

__version__ = "0.1.0"

_MODULES = (
    "algorithms",
    "calibration",
    "checkpoint",
    "compress",
    "data",
    "devices",
    "distill",
    "evidence",
    "executors",
    "federation",
    "ledger",
    "losses",
    "metrics",
    "models",
    "normalisation",
    "observe",
    "optim",
    "packing",
    "partition",
    "personal",
    "plots",
    "privacy",
    "rng",
    "sources",
    "study",
    "swa",
    "targets",
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
