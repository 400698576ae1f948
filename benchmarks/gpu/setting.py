"""What all parts share: the device and the sizes, federations on it, clocks, arithmetic, captured steps."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedlib import batched, devices, rng
from fedlib.federation import Federation, Local
from fedlib.models.net import Net

PRECISIONS = ("float32", "tf32", "bf16")
WARM = 3  # calls before a capture, as PyTorch asks for


class NeedsCuda(Exception):
    """Something that only a CUDA device can do."""


@dataclass(frozen=True)
class Sizes:
    """``side`` of square images with three channels; samples in a ``batch``; ``batches`` of a client in a round;
    ``clients`` that are sampled, few and many; seconds that one measurement may take.
    """

    side: int = 32
    batch: int = 64
    batches: int = 16
    clients: tuple[int, int] = (8, 32)
    patience: float = 1.5
    copied: int = 2**30


TINY = Sizes(side=8, batch=4, batches=2, clients=(2, 3), patience=0.2, copied=2**22)


@dataclass(frozen=True)
class Bench:
    """A device and the sizes that go with it."""

    device: torch.device
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU of that kind."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until all queued work is done."""
        devices.synchronise(self.device)

    def peak(self) -> float | None:
        """The most memory, in MB, that tensors have had since :meth:`forget`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 1e6 if self.cuda else None

    def forget(self) -> None:
        """Begin anew with the peak of memory."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def clear(self) -> None:
        """Give back what earlier cases held: graphs and networks refer to each other in circles."""
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def seconds(self, call: Callable[[], object]) -> float:
        """Seconds of one call, from as many as fit into a share of the patience; two warm up."""
        for _ in range(2):
            call()
        first = self._clocked(call, 1)
        return self._clocked(call, max(1, min(200, int(0.3 * self.sizes.patience / max(first, 1e-6)))))

    def _clocked(self, call: Callable[[], object], times: int) -> float:
        self.wait()
        began = time.perf_counter()
        for _ in range(times):
            call()
        self.wait()
        return (time.perf_counter() - began) / times


def federation(
    bench: Bench,
    model: Callable[[], nn.Module],
    samples: tuple[Tensor, Tensor, list[Tensor]],
    algorithm: Any,
    executor: str,
    local: Local,
    *,
    precision: str | None = None,
    **options: Any,
) -> Federation:
    """A federation on the device whose clients hold ``samples`` (x, y, split)."""
    options |= {"local": local, "executor": executor, "device": bench.device, "precision": precision}
    x, y, split = samples
    return Federation(model, x, y, split, algorithm, **options)


def arithmetic(bench: Bench, precision: str) -> AbstractContextManager[Any]:
    """The process-wide settings of a precision, for as long as the context lasts; bf16 is up to :func:`autocast`.

    A federation sees to it itself; this is for networks that are trained by hand.
    """
    return Net(nn.Linear(1, 1), bench.device, torch.float32, precision).arithmetic()


def autocast(bench: Bench, precision: str) -> torch.autocast:
    """Around a forward pass: bfloat16 where the precision says so."""
    return torch.autocast(bench.device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


@contextmanager
def eager(wanted: bool) -> Iterator[None]:
    """No step is captured for as long as the context lasts, if that is wanted."""
    before = batched.CAPTURE
    try:
        batched.CAPTURE = before and not wanted
        yield
    finally:
        batched.CAPTURE = before


def train_step(bench: Bench, network: nn.Module, x: Tensor, y: Tensor, precision: str) -> Callable[[], None]:
    """One step of SGD of one network on one batch, without a graph of its own: what may be captured."""
    weights: list[Tensor] = list(network.parameters())

    def step() -> None:
        with autocast(bench, precision):
            loss = cross_entropy(network(x).float(), y)
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            torch._foreach_add_(weights, grads, alpha=-1e-4)

    return step


def captured(bench: Bench, step: Callable[[], None]) -> Callable[[], object]:
    """The step as a CUDA graph: calling the answer replays it. Raises NeedsCuda on any other device."""
    if not bench.cuda:
        raise NeedsCuda
    side, main = torch.cuda.Stream(bench.device), torch.cuda.current_stream(bench.device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        for _ in range(WARM):
            step()
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@functools.lru_cache(maxsize=4)
def images(bench: Bench, count: int) -> tuple[Tensor, Tensor]:
    """Random bytes [count, 3, side, side] and labels [count] of ten classes."""
    draw, side = rng.stream("benchmark", "gpu"), bench.sizes.side
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=draw)
    return pixels, torch.randint(10, (count,), generator=draw)


def prepare(pixels: Tensor) -> Tensor:
    """Bytes as numbers of about unit size."""
    return (pixels.float() / 255 - 0.5) / 0.25
