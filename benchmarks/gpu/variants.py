"""Changes that may pay on one card and not on another: each is measured beside the engine as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.gpu.floors import batch, module
from benchmarks.gpu.rates import Setting, rate
from benchmarks.gpu.setting import Bench, arithmetic, captured, train_step
from fedlib.models import ResNet8

COLOURS = 3


class Padded(nn.Module):
    """ResNet-8 whose first convolution sees the three channels and so many more of zeros: the same function."""

    def __init__(self, channels: int):
        super().__init__()
        self.more, self.net = channels - COLOURS, ResNet8(channels)

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        """Logits of images [B, 3, H, W], or of several clients' [B, K 3, H, W] side by side."""
        each = x.unflatten(1, (-1, COLOURS))
        return self.net(pad(each, (0, 0, 0, 0, 0, self.more)).flatten(1, 2), features)


class ChannelsLast(nn.Module):
    """ResNet-8 on images whose channels lie last in memory: the same function."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ResNet8()

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        """Logits of images [B, 3, H, W]."""
        return self.net(x.contiguous(memory_format=torch.channels_last), features)


CHANGES: dict[str, Callable[[], nn.Module]] = {
    "as it is": ResNet8,
    "first convolution padded to 4 channels": lambda: Padded(4),
    "first convolution padded to 8 channels": lambda: Padded(8),
    "channels last": ChannelsLast,
}


def changed(bench: Bench, change: str, precision: str, search: bool = False) -> dict[str, Any]:
    """The engine's rate with another network of the same function; ``search``: cuDNN tries its ways first."""
    with searching(search):
        return rate(bench, Setting(precision=precision), CHANGES[change])


@contextmanager
def searching(wanted: bool) -> Iterator[None]:
    """cuDNN times its algorithms for each new shape for as long as the context lasts, if that is wanted."""
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = wanted or before
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def launches(bench: Bench, name: str, steps: int) -> dict[str, Any]:
    """One captured graph with so many steps of one network on the samples of all clients: milliseconds of a step, and
    how long the host is busy with queueing it. Where that is the longer part, more steps in one graph pay.
    """
    net, (x, y) = module(bench, name), batch(bench, bench.sizes.clients[0])
    one = train_step(bench, net, x, y, "tf32")

    def several() -> None:
        for _ in range(steps):
            one()

    with arithmetic(bench, "tf32"):
        replay = captured(bench, several)
        total = bench.seconds(replay) / steps
        calls = 20
        began = time.perf_counter()
        for _ in range(calls):
            replay()
        queued = (time.perf_counter() - began) / calls / steps
        bench.wait()
    return {"ms": 1e3 * total, "note": f"{1e3 * queued:.4f} ms of the host's"}
