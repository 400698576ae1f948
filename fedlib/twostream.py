"""What two streams learn, and training of many pairs of streams side by side.

One loss says all rows of the comparison (Rozantsev, Salzmann and Fua 2019, equation 1): which layers are untied, and
which of its terms count. The network gives ``features=True`` and ends in a linear layer ``head``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from fedlib import losses, require, rng, streams
from fedlib.data.shifts import Domains
from fedlib.optim import AdaDelta, Adam
from fedlib.streams import Layers, State

BANDWIDTHS = (0.1, 0.3, 1.0, 3.0)  # of unit features, whose squared distances are 0 to 4
CRITIC = 32  # hidden units of the critic that tells the domains apart


class Batch(NamedTuple):
    """Source samples x [B, ...] and classes y [B], target samples [B, ...] without, and a few with classes, or none."""

    x: Tensor
    y: Tensor
    x_target: Tensor
    x_few: Tensor | None = None
    y_few: Tensor | None = None


def reverse(h: Tensor, strength: float) -> Tensor:
    """The same numbers bit for bit, with a gradient of -``strength`` times what comes (Ganin and Lempitsky 2015)."""
    return h.detach() - strength * (h - h.detach())


def critic(h: Tensor, state: State) -> Tensor:
    """Logits [B] of a small network that features h [B, D] are the target's."""
    hidden = F.linear(h, state["critic.in.weight"], state["critic.in.bias"]).relu()
    return F.linear(hidden, state["critic.out.weight"], state["critic.out.bias"]).squeeze(-1)


@dataclass(frozen=True)
class TwoStream:
    """L = L_s + L_t + lambda_w sum_j r_w + lambda_u MMD^2, sums over the untied layers j; terms of weight 0 are left
    out, L_t where nothing is labelled.

    ``related`` is lambda_w and ``form`` that of r_w, ``discrepancy`` is lambda_u. MMD^2 compares features before the
    head, as they are or, with ``unit``, at length 1; the paper has them as they are and one bandwidth, 1. ``reversal``
    is the weight of a critic's loss whose gradient is reversed on its way to the features. With ``frozen`` the source's
    stream stands still: then L_s says nothing, a shared layer stays as it is, and no term but L_t is fine-tuning. With
    all layers shared and MMD it is deep domain confusion (Tzeng et al. 2014). Raises ValueError for numbers that cannot
    work.
    """

    related: float = 0.0
    discrepancy: float = 0.0
    form: str = "exp"
    bandwidths: tuple[float, ...] = BANDWIDTHS
    unit: bool = True
    reversal: float = 0.0
    frozen: bool = False

    def __post_init__(self) -> None:
        for name in ("related", "discrepancy", "reversal"):
            require.real(name, getattr(self, name), least=0)
        require.one_of("form", self.form, streams.FORMS)
        losses._bandwidths(self.bandwidths)

    def loss(self, network: nn.Module, plan: Layers, state: State, untied: Tensor, batch: Batch) -> Tensor:
        """The loss of one pair of streams on a batch, a scalar."""
        own = streams.source(state, plan)
        if self.frozen:
            own = {n: w.detach() for n, w in own.items()}
            state = dict(state) | {f"source.{n}": w for n, w in own.items()}
        other = streams.target(state, plan, untied)
        total, compared = batch.x.new_zeros(()), bool(self.discrepancy or self.reversal)
        f = features(network, own, batch.x) if compared else None
        if not self.frozen:
            z = _answer(network, own, batch.x) if f is None else F.linear(f, own["head.weight"], own["head.bias"])
            total = total + losses.cross_entropy(z, batch.y)
        if batch.x_few is not None and batch.y_few is not None:
            total = total + losses.cross_entropy(_answer(network, other, batch.x_few), batch.y_few)
        if self.related:
            apart = streams.regulariser(streams.gaps(state, plan), self.form)
            total = total + self.related * torch.where(untied, apart, 0.0).sum()
        if f is not None:
            g = features(network, other, batch.x_target)
            total = total + self.discrepancy * self.distance(f, g) if self.discrepancy else total
            total = total + self.confusion(f, g, state) if self.reversal else total
        return total

    def distance(self, f: Tensor, g: Tensor) -> Tensor:
        """MMD^2 of features [B, D] of source and target."""
        f, g = (F.normalize(h, dim=-1) if self.unit else h for h in (f, g))
        return losses.mmd(f, g, self.bandwidths)

    def confusion(self, f: Tensor, g: Tensor, state: State) -> Tensor:
        """Cross-entropy of the critic; the features are moved against it, ``reversal`` times."""
        z = torch.cat([critic(reverse(h, self.reversal), state) for h in (f, g)])
        where = torch.cat([z.new_zeros(len(f)), z.new_ones(len(g))])
        return F.binary_cross_entropy_with_logits(z, where)


def features(network: nn.Module, weights: State, x: Tensor) -> Tensor:
    """Features [B, D] before the head."""
    return functional_call(network, dict(weights), (x,), {"features": True})


def _answer(network: nn.Module, weights: State, x: Tensor) -> Tensor:
    return functional_call(network, dict(weights), (x,))


@dataclass(frozen=True)
class How:
    """``steps`` on ``batch`` samples of either domain and ``few`` of the labelled ones, drawn with replacement.

    The rate falls from the optimiser's to zero along half a cosine: a constant one shakes the weights to the end.
    """

    steps: int = 400
    batch: int = 64
    few: int = 32
    optimiser: AdaDelta | Adam = field(default_factory=AdaDelta)

    def __post_init__(self) -> None:
        require.whole("steps", self.steps)
        require.whole("batch", self.batch, 2)
        require.whole("few", self.few, 1)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.optimiser.lr * (1 + math.cos(math.pi * step / self.steps)) / 2


def train(
    network: nn.Module,
    objective: TwoStream,
    states: Sequence[State],
    untied: Tensor,
    domains: Sequence[Domains],
    seeds: Sequence[int],
    how: How,
    name: str = "adapt",
) -> list[dict[str, Tensor]]:
    """Train R pairs of streams side by side, each from its state, on its samples and with its layers ``untied`` [R, L].

    Batches follow from the seed and the ``name`` of the training alone: pairs of one seed see the same ones. Returns
    their states. Raises ValueError for lists of other lengths, or where some have target labels and others none, and
    ArithmeticError when one diverges.
    """
    plan = streams.layers(network)
    _check(states, untied, domains, seeds, len(plan))
    state = {n: torch.stack([s[n] for s in states]).detach() for n in states[0]}
    memory: dict = {}
    gradient = vmap(grad_and_value(lambda s, u, *b: objective.loss(network, plan, s, u, Batch(*b))))
    for step, batch in enumerate(_batches(domains, seeds, how, name)):
        grads, value = gradient(state, untied, *(part for part in batch if part is not None))
        how.optimiser.step(state, grads, memory, how.rate(step))
    if how.steps and not bool(value.isfinite().all()):
        bad = sorted({seeds[int(i)] for i in torch.nonzero(~value.isfinite())[:, 0]})
        raise require.NotFinite(f"{name}: training diverged for the seeds {', '.join(map(str, bad))}")
    return [{n: t[r].clone() for n, t in state.items()} for r in range(len(states))]


def with_critic(state: State, width: int, seed: int) -> dict[str, Tensor]:
    """The state and a critic of features of that ``width``, with first weights from a stream of their own."""
    made = rng.build(
        lambda: nn.ModuleDict({"in": nn.Linear(width, CRITIC), "out": nn.Linear(CRITIC, 1)}), seed, "critic"
    )
    like = next(iter(state.values()))
    return dict(state) | {f"critic.{n}": p.detach().to(like) for n, p in made.named_parameters()}


@torch.no_grad()
def logits(network: nn.Module, state: State, untied: Tensor, x: Tensor, domain: str = "target") -> Tensor:
    """Logits [N, C] of the stream of a domain."""
    plan = streams.layers(network)
    source = require.one_of("domain", domain, ("source", "target")) == "source"
    weights = streams.source(state, plan) if source else streams.target(state, plan, untied)
    return _answer(network, weights, x)


@torch.no_grad()
def discrepancy(
    network: nn.Module,
    state: State,
    untied: Tensor,
    x: Tensor,
    x_target: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
) -> float:
    """MMD^2 of unit features of source and target samples [N, ...], by which masks are compared without any label.

    At length 1, for networks differ in the scale of their features, and a scale would move the distance by itself.
    """
    plan = streams.layers(network)
    f = features(network, streams.source(state, plan), x)
    g = features(network, streams.target(state, plan, untied), x_target)
    return float(losses.mmd(F.normalize(f, dim=-1), F.normalize(g, dim=-1), tuple(bandwidths)))


def _batches(domains: Sequence[Domains], seeds: Sequence[int], how: How, name: str) -> Iterator[Batch]:
    """Batches of all pairs; those of one seed and one set of samples are gathered once."""
    keys = [(id(d), s) for d, s in zip(domains, seeds, strict=True)]
    own = dict(zip(keys, domains, strict=True))
    place, drawn = torch.tensor([list(own).index(key) for key in keys]), []
    for (_, s), d in own.items():
        draws = rng.stream(s, name, "batches")
        sizes = ((len(d.y), how.batch), (len(d.x_target), how.batch), (len(d.y_few), how.few))
        drawn.append([torch.randint(max(n, 1), (how.steps, b), generator=draws) for n, b in sizes])
    labelled = all(len(d.y_few) for d in own.values())
    for step in range(how.steps):
        parts = []
        for d, rows in zip(own.values(), drawn, strict=True):
            i, j, k = (r[step] for r in rows)
            few = (d.x_few[k], d.y_few[k]) if labelled else ()
            parts.append((d.x[i], d.y[i], d.x_target[j], *few))
        yield Batch(*(torch.stack(part)[place] for part in zip(*parts, strict=True)))


def _check(
    states: Sequence[Mapping[str, Tensor]], untied: Tensor, domains: Sequence[Domains], seeds: Sequence[int], count: int
) -> None:
    if not states or not len(states) == len(domains) == len(seeds):
        raise ValueError(
            f"states, domains and seeds: expected as many of each, one at least; "
            f"got {len(states)}, {len(domains)} and {len(seeds)}"
        )
    if len({len(d.y_few) > 0 for d in domains}) > 1:
        raise ValueError("domains: some have labelled target samples and some have none; train them apart")
    if untied.dtype != torch.bool or untied.shape != (len(states), count):
        raise ValueError(f"untied: expected bool [{len(states)}, {count}], got {untied.dtype} {list(untied.shape)}")
