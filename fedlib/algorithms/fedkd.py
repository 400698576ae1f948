"""FedKD (Wu et al. 2022, Nature Communications): a small mentee travels, a large mentor stays, updates lose rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedlib import compress, require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, weighted_mean
from fedlib.losses import mutual_distillation
from fedlib.models.net import Net, State


class LowRank(FedAvg):
    """FedAvg whose updates travel as truncated SVDs, both ways.

    ``energy``: share of an update's squared singular values that must be exceeded, at the start and at the end of
    training, ``rounds`` long, and on a straight line between (the paper: 0.95 and 0.98); one number holds throughout;
    None sends everything as FedAvg does. The server rebuilds the clients' updates, averages them, and factors the mean
    again; clients add what they get to what they have. The first broadcast is the whole model, and so is every
    broadcast if not all clients take part in each round, for then a client may have missed an update. Raises ValueError
    for two numbers without ``rounds``.
    """

    weighting = "uniform"

    def __init__(self, energy: float | tuple[float, float] | None = 0.95, rounds: int | None = None):
        ends = energy if isinstance(energy, tuple) else (energy, energy)
        self.energy = None if energy is None else tuple(require.real("energy", e, least=0, most=1) for e in ends)
        if rounds is None and ends[0] != ends[-1]:
            raise ValueError(f"energy goes from {ends[0]} to {ends[-1]}: in how many rounds?")
        self.rounds = 1 if rounds is None else require.whole("rounds", rounds, 1)

    def threshold(self, round_: int) -> float:
        """T(t) = T_start + (T_end - T_start) t, t the share of the rounds that have been played."""
        assert self.energy is not None
        first, last = self.energy
        return first + (last - first) * min(1.0, round_ / self.rounds)

    def pack(self, fed: Federation, state: State) -> State:
        """What is sent of a shared state to somebody who has the server's."""
        return compress.factor(state, fed.state, self.threshold(fed.round), fed.net.parameters)

    def unpack(self, fed: Federation, sent: State) -> State:
        """The shared state that was sent, but for what was cut off."""
        return compress.rebuild(sent, fed.state)

    def broadcast(self, fed: Federation) -> State:
        news = fed.memory.get("news") if fed.participation == 1 else None
        return super().broadcast(fed) if news is None else news

    def upload(self, fed: Federation, client: int, state: State) -> State:
        shared = super().upload(fed, client, state)
        return shared if self.energy is None else self.pack(fed, shared)

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        if self.energy is None:
            super().aggregate(fed, uploads, weights)
            return
        mean = weighted_mean([self.unpack(fed, sent) for sent in uploads], weights)
        news = self.pack(fed, mean)
        fed.state = {**fed.state, **self.unpack(fed, news)}
        fed.memory["news"] = news


class EightBits(LowRank):
    """FedAvg whose updates travel as whole numbers from -127 to 127, and one scale for each tensor, both ways.

    The scale is the largest magnitude over 127, and numbers are rounded to the nearest; FedPAQ (Reisizadeh et al. 2020)
    rounds at random. Thresholds are not used.
    """

    def pack(self, fed: Federation, state: State) -> State:
        sent: State = {}
        for n, t in state.items():
            step = (t - fed.state[n]).abs().max().clamp(min=1e-12) / 127
            sent |= {f"{n}/whole": ((t - fed.state[n]) / step).round().to(torch.int8), f"{n}/step": step}
        return sent

    def unpack(self, fed: Federation, sent: State) -> State:
        names = [key.removesuffix("/step") for key in sent if key.endswith("/step")]
        return {n: fed.state[n] + sent[f"{n}/whole"] * sent[f"{n}/step"] for n in names}


class FedKD(LowRank):
    """Every client trains a mentor of its own and the shared mentee on the same batches; each teaches the other.

    The network is a :class:`~fedlib.models.Pair`. Local objective: :func:`~fedlib.losses.mutual_distillation`, with
    ``hidden`` times the mean square between the mentor's features and the mapped ones of the mentee as the gap; where
    both networks attend, that between their attention [B, L, L] is added. Mentor and map never leave their client, and
    the mentor is the model that a client uses. With ``distil`` and ``hidden`` 0 the mentee is FedAvg's, and the mentor
    trains alone. Raises ValueError for another network.
    """

    personal = ("mentor.*", "map.*")

    def __init__(
        self,
        energy: float | tuple[float, float] | None = 0.95,
        rounds: int | None = None,
        distil: float = 1.0,
        hidden: float = 1.0,
        adaptive: bool = True,
        least: float = 0.1,
    ):
        super().__init__(energy, rounds)
        self.distil, self.hidden = require.real("distil", distil, least=0), require.real("hidden", hidden, least=0)
        self.adaptive, self.least = adaptive, require.real("least", least, above=0)

    def setup(self, fed: Federation) -> None:
        needed = "mentor.head.weight", "mentee.head.weight", "map.weight"
        if missing := [n for n in needed if n not in fed.state]:
            raise ValueError(f"FedKD trains a models.Pair of mentor and mentee; this network has no {missing[0]}")
        self.attends = bool(getattr(fed.net.module, "attends", False))

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        inside = {"attention" if self.attends else "features": True}
        h, h_small = (net(state, x, train=True, part=part, **inside) for part in ("mentor", "mentee"))
        gap: Tensor | float = 0.0
        if self.attends:
            (h, looks), (h_small, looks_small) = h, h_small
            gap = (looks - looks_small).square().mean((-2, -1))
        logits, small = net.linear(state, h, "mentor.head"), net.linear(state, h_small, "mentee.head")
        gap = gap + (h - net.linear(state, h_small, "map")).square().mean(-1)
        return mutual_distillation(
            logits, small, y, self.hidden * gap, distil=self.distil, adaptive=self.adaptive, least=self.least
        )


@torch.no_grad()
def travelling(fed: Federation, seen: Any) -> dict[str, float]:
    """Columns of the history of a FedKD federation: what the clients' updates of the mentee are like in a round.

    ``rank`` singular values have 95 % of the energy and the ``first`` one has a share of it, means over matrices and
    clients; ``weight``: mean of 1 / a over clients and the first 200 samples of each; ``miscount``: bytes by which the
    ledger's uploads differ from min(P Q, K (P + Q + 1)) numbers for a matrix and all of a vector.
    """
    algorithm = fed.algorithm
    assert isinstance(algorithm, FedKD)
    numbers = 0
    found: dict[str, list[float]] = {"rank": [], "first": [], "weight": []}
    for k, state, received in zip(seen.clients, seen.states, seen.received, strict=True):
        for n, t in fed.shared(state).items():
            if t.ndim == 1:
                numbers += t.numel()
                continue
            shares = compress.energy_shares(torch.linalg.svdvals((t - received[n]).flatten(1)))
            found["rank"].append(int((shares <= 0.95).sum()) + 1)
            found["first"].append(float(shares[0]))
            kept = algorithm.energy and int((shares <= algorithm.threshold(seen.number)).sum()) + 1
            numbers += min(t.numel(), kept * (sum(t.flatten(1).shape) + 1)) if kept else t.numel()
        some = fed.split[k][:200]
        x, y = fed.input(fed.x[some]), fed.y[some]
        parts = [fed.net(state, x, part=part) for part in ("mentor", "mentee")]
        tasks = sum((cross_entropy(z, y, reduction="none") for z in parts), torch.zeros(()).to(x))
        found["weight"].append(float((1 / tasks.clamp(min=algorithm.least)).mean()))
    gap = fed.ledger.up[-1] - numbers * fed.state["map.weight"].element_size()
    return {n: sum(v) / len(v) for n, v in found.items()} | {"miscount": gap}
