"""Floating-point operations of a pass and of a training step, counted as they are done, not by formula."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedlib import require
from fedlib.losses import cross_entropy


@dataclass(frozen=True)
class Load:
    """What a network asks of a device: operations of a ``forward`` pass and of a ``training`` step (forward and
    backward, without the update of the weights), for one sample, and ``parameters``.
    """

    forward: int
    training: int
    parameters: int

    def round(self, samples: int, epochs: int, passes: int = 0) -> int:
        """Operations of a client's round: ``epochs`` of training on so many samples, and further forward passes.

        Raises ValueError for numbers that are not whole or negative.
        """
        for name, value in {"samples": samples, "epochs": epochs, "passes": passes}.items():
            require.whole(name, value)
        return samples * (epochs * self.training + passes * self.forward)


def load(network: nn.Module, x: Tensor) -> Load:
    """The load of a classifier, for a sample of the shape of those in x [B, ...]; B >= 1.

    Counted are matrix products and convolutions that PyTorch really runs, two operations for a product and a sum: so
    the first layer, which needs no gradient of its input, costs less backwards than others. Normalisation and
    activations are left out. The network is copied, and its statistics stay as they are. Raises ValueError for an
    empty batch and for what is no classifier.
    """
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x must be a batch of samples [B, ...] with B >= 1, got {list(x.shape)}")
    own = copy.deepcopy(network).eval()  # one sample has no variance; the products are the same
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        logits = own(x[:1])
    if logits.ndim != 2:
        raise ValueError(f"the network must answer with logits [B, C], got {list(logits.shape)}")
    with FlopCounterMode(display=False) as training:
        cross_entropy(own(x[:1]), torch.zeros(1, dtype=torch.int64, device=x.device)).backward()
    parameters = sum(p.numel() for p in own.parameters())
    return Load(forward.get_total_flops(), training.get_total_flops(), parameters)
