"""What the engine's rates stand beside: a plain loop, one network for all samples, and what memory allows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.gpu.rates import network
from benchmarks.gpu.setting import Bench, arithmetic, autocast, captured, images, prepare, train_step
from fedlib import rng

Row = dict[str, Any]
PASSES = 5  # of an activation: written, read by the next layer, read again; its gradient written and read


def batch(bench: Bench, clients: int = 1) -> tuple[Tensor, Tensor]:
    """One batch for so many clients, on the device."""
    x, y = images(bench, clients * bench.sizes.batch)
    return prepare(x).to(bench.device), y.to(bench.device)


def module(bench: Bench, name: str) -> nn.Module:
    """A network on the device, in training mode."""
    return rng.build(network(bench, name), 0).to(bench.device).train()


def plain_loop(bench: Bench, name: str, precision: str) -> Row:
    """What one writes by hand: one network, torch.optim.SGD, one step after the other."""
    net, (x, y) = module(bench, name), batch(bench)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        with autocast(bench, precision):
            loss = cross_entropy(net(x).float(), y)
        loss.backward()
        optimiser.step()

    with arithmetic(bench, precision):
        return {"ms": 1e3 * bench.seconds(step)}


def one_network(bench: Bench, name: str, precision: str, graph: bool, last: bool = False) -> Row:
    """The samples of all clients as one batch of one network, captured (``graph``) or not: no federation at all.

    ``last``: channels last in memory. Milliseconds are shared out over the clients.
    """
    clients = bench.sizes.clients[0]
    net, (x, y) = module(bench, name), batch(bench, clients)
    if last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    step = train_step(bench, net, x, y, precision)
    with arithmetic(bench, precision):
        return {"ms": 1e3 * bench.seconds(captured(bench, step) if graph else step) / clients}


def bandwidth(bench: Bench) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.zeros(bench.sizes.copied // 4, device=bench.device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / bench.seconds(lambda: target.copy_(source))


def kept_bytes(bench: Bench, name: str, precision: str) -> int:
    """Bytes of activations that one step of one client keeps for its backward pass, each once."""
    net, (x, y) = module(bench, name), batch(bench)
    own = {w.untyped_storage().data_ptr() for w in [*net.parameters(), *net.buffers()]}
    kept: dict[int, int] = {}
    alive = []

    def note(t: Tensor) -> Tensor:
        memory = t.untyped_storage()
        if memory.data_ptr() not in own:
            alive.append(t)  # or its memory would be given to the next, under the same address
            kept[memory.data_ptr()] = memory.nbytes()
        return t

    with autocast(bench, precision), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        cross_entropy(net(x).float(), y)
    return sum(kept.values())


def memory_traffic(bench: Bench, name: str, precision: str) -> Row:
    """Nothing fused and arithmetic free: every activation passes through memory five times."""
    moved, speed = PASSES * kept_bytes(bench, name, precision), bandwidth(bench)
    return {"ms": 1e3 * moved / speed, "note": f"{moved / 1e6:.0f} MB at {speed / 1e12:.2f} TB/s"}
