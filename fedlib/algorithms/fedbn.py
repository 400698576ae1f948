"""FedBN (Li et al. 2021, Algorithm 1): every client keeps its own BatchNorm layers."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm

from fedlib.algorithms.fedavg import FedAvg
from fedlib.federation import Federation

KEPT = ("all", "statistics", "affine")


class FedBN(FedAvg):
    """BatchNorm layers stay with the client, the rest is averaged, by default with equal weights as in the paper.

    Layers are found by their type, not by a name. ``keep``: ``"all"`` of a layer; only its running ``"statistics"``
    (SiloBN, Andreux et al. 2020); or only its ``"affine"`` weight and bias, the statistics being averaged. Without
    BatchNorm it is FedAvg. Raises ValueError for another ``keep``.
    """

    weighting = "uniform"

    def __init__(self, keep: str = "all", weighting: str = "uniform"):
        if keep not in KEPT:
            raise ValueError(f"keep must be one of {', '.join(KEPT)}, got {keep!r}")
        self.keep_of_layer, self.weighting = keep, weighting

    def setup(self, fed: Federation) -> None:
        kept = set(fed.personal)
        for layer, module in fed.net.module.named_modules():
            if isinstance(module, _BatchNorm):
                affine, statistics = (
                    [n for n, _ in own] for own in (module.named_parameters(), module.named_buffers())
                )
                own = {"all": affine + statistics, "affine": affine, "statistics": statistics}[self.keep_of_layer]
                kept |= {f"{layer}.{n}" if layer else n for n in own}
        fed.personal = tuple(n for n in fed.state if n in kept)
