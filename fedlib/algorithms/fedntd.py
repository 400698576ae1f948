"""FedNTD (Lee et al. 2022, NeurIPS): distil the received model's view of the not-true classes only."""

from __future__ import annotations

from torch import Tensor

from fedlib.algorithms.fedlsd import FedLSD
from fedlib.losses import not_true_distillation


class FedNTD(FedLSD):
    """Local objective: CE + beta T^2 KL over the classes other than each sample's label. beta = 0 is FedAvg."""

    def __init__(self, beta: float = 1.0, temperature: float = 1.0):
        super().__init__(beta, temperature)

    def distance(self, logits: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
        return not_true_distillation(logits, teacher, y, self.temperature)
