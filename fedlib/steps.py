"""One step of a :class:`~fedlib.training.Trainer`, as it is or recorded.

The kernels of a small network are shorter than it takes to launch them. So on a GPU a step is recorded once (CUDA
graphs) and replayed, which :func:`~fedlib.training.recordable` allows or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fedlib.training import Trainer


class Step:
    """A step of a trainer; with ``record`` the fourth is recorded and from then on replayed, for batches of its size.

    ``parameters`` are all that it trains.
    """

    def __init__(self, trainer: Trainer, parameters: Sequence[nn.Parameter], record: bool = False):
        self.trainer, self.taken = trainer, 0
        lr = torch.tensor(trainer.how.lr, device=trainer.device) if record else None
        self.optimiser, self.lr = trainer.how.optimiser(parameters, lr), lr
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        """Take the step on a batch, and return its loss."""
        if self.lr is None:
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            return self._now(x, y)
        self.lr.fill_(rate)
        if self.graph is None and self.taken >= 3:
            self._record(x, y)
        elif self.graph is None or x.shape != self.x.shape:
            self.taken += 1
            return self._aside(x, y)
        self.x.copy_(x), self.y.copy_(y)
        assert self.graph is not None
        self.graph.replay()
        return self.loss

    def _now(self, x: Tensor, y: Tensor) -> Tensor:
        half = self.trainer.precision == "bf16"
        self.optimiser.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            loss = self.trainer.objective.backward(self.trainer.network, x, y)
        self.optimiser.step()
        return loss.to(self.trainer.dtype)

    def _aside(self, x: Tensor, y: Tensor) -> Tensor:
        """On a stream of its own, as recording asks for."""
        stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            loss = self._now(x, y)
        here.wait_stream(stream)
        return loss

    def _record(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.graph = x.clone(), y.clone(), torch.cuda.CUDAGraph()
        self.optimiser.zero_grad()
        with torch.cuda.graph(self.graph):
            self.loss = self._now(self.x, self.y)
