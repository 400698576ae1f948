"""Split learning: a network cut into parts that client and server hold in turn, and messages that join them.

The client has the first part and the images. Where a :class:`Cut` is, activations go one way and gradients the other;
nothing else does. With one cut the server ends the network and must be told the labels; with two (a U) the client ends
it, and labels stay at home (Gupta and Raskar 2018; Vepakomma et al. 2018). A :class:`Wire` counts what crosses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedlib import require
from fedlib.ledger import Ledger, payload_bytes

Judge = Callable[[Tensor, Tensor], Tensor]
"""The loss of outputs and labels, a scalar."""
WAYS = {"up": "down", "down": "up"}  # a direction, and the way back


class Message(NamedTuple):
    """One tensor on the way between a client and the server."""

    name: str
    direction: str  # "up" to the server, "down" from it
    client: int
    shape: tuple[int, ...]
    bytes: int


class Wire:
    """Between the clients and the server: what is sent arrives as a tensor without a history, and is counted.

    ``messages`` are those since the last :meth:`end_round`, ``ledger`` has the bytes of all rounds before it.
    """

    def __init__(self) -> None:
        self.ledger, self.messages = Ledger(), list[Message]()

    def send(self, name: str, tensor: Tensor, direction: str, client: int | Sequence[int]) -> Tensor:
        """What arrives: the same numbers, detached, in memory of their own. Of several clients the tensor has a row
        each, and each row is a message.

        Raises ValueError for a direction other than up and down, clients that are no numbers, another number of rows
        than clients, and where nothing is sent; NotFinite for NaN or infinity.
        """
        require.one_of("direction", direction, WAYS)
        several = isinstance(client, Sequence)
        clients = [require.whole("client", k) for k in (client if isinstance(client, Sequence) else [client])]
        if several and (not tensor.ndim or len(tensor) != len(clients)):
            raise ValueError(f"{name}: {len(clients)} clients need a row each, got {list(tensor.shape)}")
        if not tensor.numel():
            raise ValueError(f"{name}: there is nothing in a message of shape {list(tensor.shape)}")
        require.finite(f"the message {name!r}", tensor)
        shape = tuple(tensor.shape[1:] if several else tensor.shape)
        size = payload_bytes({name: tensor}) // len(clients)
        self.messages += [Message(name, direction, k, shape, size) for k in clients]
        return tensor.detach().clone()

    def send_state(
        self, name: str, state: Mapping[str, Tensor], direction: str, client: int | Sequence[int]
    ) -> dict[str, Tensor]:
        """Weights that arrive, one message for each tensor, named ``name/layer.weight``."""
        return {n: self.send(f"{name}/{n}", t, direction, client) for n, t in state.items()}

    def end_round(self) -> tuple[int, int]:
        """Book the messages into the ledger, and forget them; returns bytes (down, up)."""
        sums = {way: sum(m.bytes for m in self.messages if m.direction == way) for way in WAYS}
        self.ledger.down.append(sums["down"])
        self.ledger.up.append(sums["up"])
        self.messages.clear()
        return sums["down"], sums["up"]

    @property
    def total(self) -> int:
        """Bytes so far, both directions, the open round's among them."""
        return self.ledger.total + sum(m.bytes for m in self.messages)


class Cut:
    """One place where the network is cut: activations cross it in ``direction``, their gradients come back.

    ``client`` is one, or several whose activations are rows.
    """

    def __init__(self, wire: Wire, name: str, direction: str, client: int | Sequence[int]):
        self.wire, self.name, self.client = wire, name, client
        self.direction = require.one_of("direction", direction, WAYS)
        self.sent: Tensor | None = None
        self.received: Tensor | None = None

    def cross(self, activations: Tensor) -> Tensor:
        """The activations on the other side: a leaf that will have a gradient. Raises ValueError for what comes out of
        no part that learns, such as images and labels, and while the gradient of an earlier crossing is awaited.
        """
        if self.sent is not None:
            raise ValueError(f"the cut {self.name!r} still awaits a gradient: call back() before the next crossing")
        if not activations.requires_grad:
            raise ValueError(f"the cut {self.name!r} carries activations of a part that learns; these have no gradient")
        arrived = self.wire.send(self.name, activations, self.direction, self.client)
        self.sent, self.received = activations, arrived.requires_grad_()
        return self.received

    def gradient(self) -> Tensor:
        """Send back the gradient of what was received. Raises ValueError where nothing has crossed, or nothing that
        was made of it has been differentiated.
        """
        if self.received is None:
            raise ValueError(f"nothing has crossed the cut {self.name!r}: no gradient can come back")
        if self.received.grad is None:
            raise ValueError(f"the cut {self.name!r} has no gradient: differentiate the loss on its far side first")
        return self.wire.send(f"gradient of {self.name}", self.received.grad, WAYS[self.direction], self.client)


def back(*cuts: Cut) -> None:
    """Send gradients back across the cuts, and go on with them where the activations came from. Cuts behind one part
    go back together, for its graph is there once.
    """
    gradients = [cut.gradient() for cut in cuts]
    torch.autograd.backward([cut.sent for cut in cuts if cut.sent is not None], gradients)
    for cut in cuts:
        cut.sent = cut.received = None


def forth_and_back(
    parts: Sequence[Callable[[Tensor], Tensor]], x: Tensor, y: Tensor, judge: Judge, wire: Wire, client: int
) -> Tensor:
    """One batch forward through parts that client and server hold in turn, and gradients back: they are added to
    those of the parts' weights. Returns the loss.

    An even number of parts ends on the server: then the labels go up as they are, a message more; classes of int64
    count eight bytes each. Raises ValueError for no part.
    """
    if not parts:
        raise ValueError("parts: a network needs at least one part, the client's")
    h, cuts = x, list[Cut]()
    for i, part in enumerate(parts):
        if i:
            cuts.append(Cut(wire, f"activations {i}", "up" if i % 2 else "down", client))
            h = cuts[-1].cross(h)
        h = part(h)
    loss = judge(h, y if len(parts) % 2 else wire.send("labels", y, "up", client))
    loss.backward()
    for cut in reversed(cuts):
        back(cut)
    return loss.detach()


class Part:
    """A part of a network with an optimiser of its own, whose state survives: weights are loaded in place, for an
    optimiser steps the tensors that it was made for.

    ``make`` makes the optimiser of an iterable of weights, e.g. ``partial(torch.optim.SGD, lr=0.1)``.
    """

    def __init__(self, module: nn.Module, make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]):
        self.module, self.optimiser = module, make(module.parameters())

    def __call__(self, h: Tensor) -> Tensor:
        """What the part makes of what reached it."""
        return self.module(h)

    @property
    def state(self) -> dict[str, Tensor]:
        """Weights and buffers, copied."""
        return {n: t.detach().clone() for n, t in self.module.state_dict().items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Write these values into the weights and buffers. Raises ValueError for other names, shapes or kinds of
        number, and for NaN or infinity; the part is then as it was.
        """
        own = self.module.state_dict()
        if own.keys() != state.keys():
            here, there = (", ".join(names) or "nothing" for names in (own, state))
            raise ValueError(f"the part has {here}; the state has {there}")
        for n, t in own.items():
            if t.shape != state[n].shape:
                raise ValueError(f"{n}: the part has {list(t.shape)}, the state {list(state[n].shape)}")
            if _kind(t) != _kind(state[n]):
                raise ValueError(f"{n}: the part has {_kind(t)} numbers, {t.dtype}, the state {state[n].dtype}")
            if not require.all_finite([state[n]]):
                raise ValueError(f"{n}: a part takes finite numbers; {require.share_of_nonsense(state[n])}")
        for n, t in own.items():
            t.copy_(state[n])

    def step(self) -> None:
        """Step the weights, and forget their gradients. Raises ValueError where the optimiser has other tensors than
        the module, which it then would not train.
        """
        has = {id(p) for group in self.optimiser.param_groups for p in group["params"]}
        if has != {id(p) for p in self.module.parameters()}:
            raise ValueError("the optimiser has other tensors than the module: load values in place, never replace it")
        self.optimiser.step()
        self.optimiser.zero_grad()


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of states with the same names, each counting alike; whole numbers are rounded.

    Raises ValueError for none, for other names, shapes or types than the first has, and for complex numbers; NotFinite
    for NaN or infinity.
    """
    if not states:
        raise ValueError("states: the mean of none")
    for k, state in enumerate(states):
        if state.keys() != states[0].keys():
            first, other = (", ".join(s) or "nothing" for s in (states[0], state))
            raise ValueError(f"states have the same names; one has {first}, one {other}")
        for n, t in state.items():
            first, here = (f"{own.dtype} {list(own.shape)}" for own in (states[0][n], t))
            if here != first:
                raise ValueError(f"states are alike; {n} is {first} in the first, {here} in state {k}")
            if t.is_complex():
                raise ValueError(f"{n}: real numbers have a mean here, got {t.dtype}")
            require.finite(f"{n} of state {k}", t)
    means = {n: torch.stack([s[n].double() for s in states]).mean(0) for n in states[0]}
    return {n: (m if states[0][n].is_floating_point() else m.round()).to(states[0][n].dtype) for n, m in means.items()}


def unify(parts: Sequence[Part], name: str, wire: Wire) -> None:
    """Average the parts that clients 0, 1, ... hold: each goes up, the mean comes down to all. Optimisers keep what
    they remember. After each epoch, with a body for each client that the server averages, it is SplitFed (Thapa et al.
    2022). Raises ValueError for no part, and for parts that are not alike.
    """
    if not parts:
        raise ValueError(f"parts: there is none to average as {name!r}")
    mean = mean_state([wire.send_state(name, part.state, "up", k) for k, part in enumerate(parts)])
    for k, part in enumerate(parts):
        part.load(wire.send_state(name, mean, "down", k))


def in_turn(
    parts: Sequence[Part],
    batches: Sequence[Iterable[tuple[Tensor, Tensor]]],
    judge: Judge,
    wire: Wire,
    before: int | None = None,
) -> list[Tensor]:
    """Plain split learning, a round: client 0 trains on its batches with the server, then hands its parts on to client
    1, by way of the server, and so on. Returns the losses of all steps.

    ``parts`` are those of the client at work and of the server, alternately. ``before``: the client that held them
    last, from the second round on the last one of the round before; it hands them on to client 0, and without it that
    hand-over is not counted. What optimisers remember, such as momentum, goes on with the parts, from client to client
    and from round to round, in no message: so the course is that of all batches in one place. Raises ValueError for no
    part, no client, and a client without a batch.
    """
    if not parts or not batches:
        raise ValueError(f"parts and batches of at least one client are needed, got {len(parts)} and {len(batches)}")
    holder = None if before is None else require.whole("before", before)
    losses: list[Tensor] = []
    for k, own in enumerate(batches):
        if holder is not None and holder != k:
            for i, part in enumerate(parts[::2]):  # those that clients hold
                part.load(wire.send_state(f"part {2 * i}", part.state, "up", holder))
                part.load(wire.send_state(f"part {2 * i}", part.state, "down", k))
        holder, done = k, len(losses)
        for x, y in own:
            losses.append(forth_and_back(parts, x, y, judge, wire, k))
            for part in parts:
                part.step()
        if len(losses) == done:
            raise ValueError(f"batches: client {k} has none")
    return losses


def _kind(t: Tensor) -> str:
    return "complex" if t.is_complex() else "real" if t.is_floating_point() else "whole"
