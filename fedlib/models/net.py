"""A network as a function of its state, so that one network serves the server and every client."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

State = dict[str, Tensor]
"""Parameters and buffers of a network by name."""


class Net:
    """A module seen as a function ``net(state, x)``.

    ``state`` is a dictionary of tensors with the module's parameters and buffers. With ``train=True`` BatchNorm
    normalises by the batch and updates the running statistics *inside the given state, in place*.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        self._train = copy.deepcopy(module).to(device, dtype).train()
        self._eval = copy.deepcopy(self._train).eval()
        self.parameters: tuple[str, ...] = tuple(n for n, _ in self._train.named_parameters())
        self.buffers: tuple[str, ...] = tuple(n for n, _ in self._train.named_buffers())
        self.device, self.dtype = torch.device(device), dtype
        # Where layers are tiny, several clients in one batched computation beat one after the other.
        self.convolutional = any(isinstance(m, nn.modules.conv._ConvNd) for m in self._train.modules())

    def initial(self) -> State:
        """A fresh copy of the module's own parameters and buffers."""
        return {n: t.detach().clone() for n, t in self._train.state_dict().items()}

    def __call__(self, state: Mapping[str, Tensor], x: Tensor, train: bool = False, **options: Any) -> Tensor:
        """Output of the network: logits [B, C] for a classifier; ``options`` go to the module's forward."""
        return functional_call(self._train if train else self._eval, dict(state), (x,), options)

    @torch.no_grad()
    def predict(self, state: Mapping[str, Tensor], x: Tensor, batch: int = 2048, **options: Any) -> Tensor:
        """Outputs in evaluation mode for a whole set, ``batch`` samples at a time; no gradient."""
        return torch.cat([self(state, part, **options) for part in x.split(batch)])

    @torch.no_grad()
    def predict_all(self, states: list[State], x: Tensor, batch: int = 2048) -> Tensor:
        """Outputs of several states of this network for the same inputs: [len(states), N, ...]."""
        return torch.stack([self.predict(s, x, batch) for s in states])


def clone(state: Mapping[str, Tensor]) -> State:
    """A copy of a state that shares no memory with it."""
    return {n: t.clone() for n, t in state.items()}
