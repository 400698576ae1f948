"""Imports torchvision, also where its wheel was built for CUDA and torch for the CPU.

That wheel cannot load its compiled operators beside a CPU-only torch, and then stops at the declaration of
shapes for two of them. Declaring their signatures first is enough: fedlib needs its data set readers only.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

_SCHEMAS = ("nms", "qnms")
_library: Any = None  # must outlive the import: operators vanish with the object that defines them


def datasets() -> ModuleType:
    """The module `torchvision.datasets`. Raises ImportError when torchvision is not installed."""
    global _library
    try:
        import torchvision.datasets as module
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        _library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in _SCHEMAS:
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.datasets as module
    return module
