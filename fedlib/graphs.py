"""Work that is captured once and then replayed without Python: CUDA graphs, behind one function.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs for what may be captured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

_alone = threading.Lock()  # one capture at a time in a process
REHEARSALS = 3  # before a capture: libraries initialise themselves, and cuDNN compares its algorithms


class Graphs(Protocol):
    """Captures that share memory for what they need on the way; they must never run at the same time."""

    def capture(self, step: Callable[[], None], prepare: Callable[[], None]) -> Callable[[], None]:
        """What does the work of ``step`` again, on the same tensors, whenever it is called.

        ``step`` is run a few times first, each time after ``prepare``; whether the capture runs it, too, is open.
        Raises whatever the step, or the capture of it, raises.
        """

    def searching(self) -> AbstractContextManager[None]:
        """Around the first plain step of a shape that is to be captured: libraries choose their ways by trying."""


def for_device(device: torch.device) -> Graphs | None:
    """Captures on this device; None where there are none."""
    return CudaGraphs(device) if device.type == "cuda" else None


class CudaGraphs:
    """CUDA graphs in one pool of memory, captured on a stream of their own."""

    def __init__(self, device: torch.device):
        self.device = device
        with torch.cuda.device(device):
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def searching(self) -> AbstractContextManager[None]:
        """See :class:`Graphs`."""
        return _settings()

    def capture(self, step: Callable[[], None], prepare: Callable[[], None]) -> Callable[[], None]:
        """See :class:`Graphs`. The last rehearsal refuses whatever makes the host wait: a capture that fails halfway
        is harder to recover from.
        """
        with _alone, torch.cuda.device(self.device), _settings():
            current = torch.cuda.current_stream()
            self.stream.wait_stream(current)
            try:
                with torch.cuda.stream(self.stream):
                    for _ in range(REHEARSALS - 1):
                        prepare()
                        step()
                    prepare()
                    with _never_waiting():
                        step()
            finally:
                current.wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                    step()
            finally:
                torch.cuda.set_stream(current)  # a capture that could not be ended leaves its own behind
            return graph.replay


@contextmanager
def _settings() -> Iterator[None]:
    """cuDNN chooses by trying, unless results have to be the same every time; autocast keeps no weights, for the copy
    that it keeps would be replayed in place of the new ones.
    """
    tries, keeps = torch.backends.cudnn.benchmark, torch.is_autocast_cache_enabled()
    fixed = torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = tries or not fixed
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = tries
        torch.set_autocast_cache_enabled(keeps)


@contextmanager
def _never_waiting() -> Iterator[None]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
