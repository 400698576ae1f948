"""A stand-in for CUDA graphs: records what a step computes, and does it again on the same memory, without Python."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ASKED = {"left": 0}
"""A place for tests, which no capture sees."""

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten.lift_fresh,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.repeat_interleave,
}  # fmt: skip
"""What makes the host wait for the device, or copies from it."""


class Refused(RuntimeError):
    """As the device refuses to capture it."""


class Tape(TorchDispatchMode):
    """Notes every operation with the tensors that it reads and writes."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if function.overloadpacket in WAITING or any(isinstance(a, torch.Generator) for a in kwargs.values()):
            raise Refused(f"operation not permitted when stream is capturing: {function}")
        if function.overloadpacket is aten.index and any(t.dtype == torch.bool for t in given[1:]):
            raise Refused("operation not permitted when stream is capturing: a mask")
        result = function(*args, **kwargs)
        found = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        homes = {t.untyped_storage().data_ptr() for t in given}
        writes = function._schema.is_mutable
        if writes or not found or any(t.untyped_storage().data_ptr() not in homes for t in found):
            there = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))  # the memory, whoever leaves it
            self.notes.append((function, *there, () if writes else found))
        return result

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, places in self.notes:
                again = [t for t in tree_leaves(function(*args, **kwargs)) if isinstance(t, torch.Tensor)]
                for place, t in zip(places, again, strict=False):
                    place.copy_(t)


class Tapes:
    """Captures as :class:`fedlib.graphs.CudaGraphs` makes them; counts captures, replays and replayed operations."""

    captures = replays = 0

    def __init__(self, spoil=None):
        self.spoil = spoil

    def searching(self):
        return nullcontext()

    def capture(self, step, prepare):
        for _ in range(2):
            prepare()
            step()
        prepare()
        with Tape() as tape:
            step()
        Tapes.captures += 1
        if self.spoil:
            self.spoil(tape)

        def replay():
            Tapes.replays += 1
            tape.replay()

        return replay


def count():
    """Captures and replays since the last time."""
    found = Tapes.captures, Tapes.replays
    Tapes.captures = Tapes.replays = 0
    return found


@pytest.fixture
def tapes(monkeypatch):
    """Captures on the CPU, of every shape that occurs."""
    from fedlib import capture, graphs

    monkeypatch.setattr(graphs, "for_device", lambda device: Tapes())
    monkeypatch.setattr(capture, "OFTEN", 1)
    monkeypatch.setattr(capture, "WASTE", 1e9)
    count()
    return Tapes
