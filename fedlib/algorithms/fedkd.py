"""FedKD (Wu et al. 2022, Nature Communications): a small mentee travels, a large mentor stays, updates lose rank."""

from __future__ import annotations

from torch import Tensor

from fedlib import compress, require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, weighted_mean
from fedlib.losses import mutual_distillation
from fedlib.models.net import Net, State


class LowRank(FedAvg):
    """FedAvg whose updates travel as truncated SVDs, both ways.

    ``energy``: share of an update's squared singular values that must be exceeded, at the start and at the end of
    training, ``rounds`` long, and on a straight line between; one number holds throughout; None sends everything as
    FedAvg does. The server rebuilds the clients' updates, averages them, and factors the mean again; clients add what
    they get to what they have. The first broadcast is the whole model, and so is every broadcast if not all clients
    take part in each round, for then a client may have missed an update.
    """

    weighting = "uniform"

    def __init__(self, energy: float | tuple[float, float] | None = (0.95, 0.98), rounds: int = 1):
        self.rounds = require.whole("rounds", rounds, 1)
        ends = energy if isinstance(energy, tuple) else (energy, energy)
        self.energy = None if energy is None else tuple(require.real("energy", e, least=0, most=1) for e in ends)

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
        energy: float | tuple[float, float] | None = (0.95, 0.98),
        rounds: int = 1,
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
