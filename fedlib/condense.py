"""Dataset distillation (Wang et al. 2018): a few samples that train a network as a whole data set would.

Samples, soft labels and learning rates are learnt by gradient descent *through* the training that they bring about. A
network takes the steps that the distilled data prescribe, is judged on real samples, and that loss is differentiated
with respect to the data: a derivative of derivatives, over all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedlib import require, rng
from fedlib.losses import cross_entropy
from fedlib.models.net import Net, State
from fedlib.optim import Adam, Memory, clip_norm
from fedlib.prescribed import (
    Distilled,
    Steps,
    follow,
    follow_all,
    forward_of,
    one_after_another,
    pure,
    side_by_side,
    stacked,
)
from fedlib.stacking import Stack

RESETS = ("none", "soft", "hard")


@dataclass(frozen=True)
class Condensation:
    """How samples are distilled: into ``batches`` of so many ``images``, each batch a step of gradient descent, gone
    through in so many ``passes``. Each step has a learning rate of its own, which begins as ``rate``.

    They are fitted by ``updates`` steps of Adam at ``outer_lr``, halved every ``halve`` of them, on ``real_batch`` real
    samples each; a gradient's joint norm is clipped to ``max_norm``. ``reset`` says where training starts in an update:
    always at the same weights (``"none"``), ``"soft"``: there plus normal noise of standard deviation ``spread``, or
    ``"hard"``: at fresh weights. ``masked``: share of the images that are noise in an update. ``fixed`` names what is
    not learnt, of ``images``, ``labels`` and ``rates``. Raises ValueError for numbers that cannot work.
    """

    batches: int = 3
    images: int = 10
    passes: int = 2
    rate: float = 0.1
    updates: int = 300
    outer_lr: float = 0.05
    halve: int | None = None
    real_batch: int = 128
    max_norm: float | None = 1.0
    reset: str = "none"
    spread: float = 0.0
    masked: float = 0.0
    fixed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("batches", 1), ("images", 1), ("passes", 1), ("updates", 0), ("real_batch", 1)):
            require.whole(name, getattr(self, name), least)
        for name in ("rate", "outer_lr", *(["max_norm"] if self.max_norm is not None else [])):
            require.real(name, getattr(self, name), above=0)
        if self.halve is not None:
            require.whole("halve", self.halve, 1)
        require.real("spread", self.spread, least=0)
        require.real("masked", self.masked, least=0, most=1)
        require.one_of("reset", self.reset, RESETS)
        for name in self.fixed:
            require.one_of("fixed", name, Distilled._fields)


@dataclass(eq=False)
class Source:
    """Real samples that are to be distilled, x [n, ...] and classes y [n] of ``classes``; the weights ``start`` that
    are to be trained; and ``key``, which names its random draws. ``fresh(update)`` gives new weights for a hard reset;
    they take the steps ``before`` first, those of the clients whose turn came earlier.
    """

    x: Tensor
    y: Tensor
    classes: int
    start: State
    key: tuple[int | str, ...]
    fresh: Callable[[int], State] | None = None
    before: Steps | None = None

    def draws(self, use: str) -> torch.Generator:
        """The stream of draws for one use: what one of them draws moves no other."""
        return rng.stream(*self.key, use)

    def first(self, how: Condensation) -> Distilled:
        """Where learning begins: noise for images, labels in turn of the classes that are there, equal rates."""
        shape = (how.batches, how.images)
        images = torch.randn(*shape, *self.x.shape[1:], generator=self.draws("images"), dtype=self.x.dtype)
        present = self.y.unique()
        turn = torch.arange(math.prod(shape), device=self.y.device) % len(present)
        labels = 5.0 * one_hot(present[turn], self.classes).to(self.x).reshape(*shape, -1)
        raw = math.log(math.expm1(how.rate))  # what softplus turns into the rate
        rates = torch.full((how.batches * how.passes,), raw, dtype=self.x.dtype, device=self.x.device)
        return Distilled(images.to(self.x.device), labels, rates)


def distil(net: Net, sources: Sequence[Source], how: Condensation) -> list[Distilled]:
    """What each source is distilled to; small networks are computed for all of them at once.

    Minimises E[loss of the network on real samples, after the distilled steps] over images, labels and rates. Raises
    ValueError for a network whose steps cannot be differentiated, ArithmeticError where the loss is not finite.
    """
    pure(net)
    if net.convolutional and net.device.type == "cpu":  # grouped convolutions would be slower than one by one
        return [found for source in sources for found in distil_all(net, [source], how)]
    return distil_all(net, sources, how)


def in_turn(net: Net, federations: Sequence[Sequence[Source]], how: Condensation) -> list[list[Distilled]]:
    """The serial protocol: each client distils for the weights at which the data of those before it arrive. The clients
    of each federation come one after the other, federations side by side; the ``start`` of the first client counts.
    """
    weights = [sources[0].start for sources in federations]
    found: list[list[Distilled]] = [[] for _ in federations]
    for turn in zip(*federations, strict=True):
        here = [
            replace(source, start=state, before=one_after_another(data) if data else None)
            for source, state, data in zip(turn, weights, found, strict=True)
        ]
        for i, data in enumerate(distil(net, here, how)):
            found[i].append(data)
            reached = follow(net, weights[i], data.prescription())
            weights[i] = {n: w.detach() for n, w in reached.items()}
    return found


def outer_loss(net: Net, data: Distilled, start: State, x: Tensor, y: Tensor) -> Tensor:
    """The loss on real samples of the network that has followed the distilled data from ``start``."""
    return cross_entropy(net(follow(net, start, data.prescription()), x, train=True), y)


def distil_all(net: Net, sources: Sequence[Source], how: Condensation) -> list[Distilled]:
    """:func:`distil` in one computation, whatever the network."""
    pure(net)
    params = Stack(stacked([source.first(how)._asdict() for source in sources]))
    learnt = Stack({n: params[n] for n in params if n not in how.fixed})
    streams = [{use: s.draws(use) for use in ("batches", "resets", "masks", "noise")} for s in sources]
    batches = _batches(sources, streams, how.real_batch)
    before = None if sources[0].before is None else side_by_side([s.before for s in sources if s.before])
    common, forward = stacked([s.start for s in sources]), forward_of(net, len(sources))
    adam, memory, losses = Adam(how.outer_lr, beta1=0.5), Memory(), torch.zeros(len(sources))
    for update in range(how.updates):
        x, y = next(batches)
        leaves = {n: t.detach().requires_grad_() for n, t in params.items()}
        steps = _steps(Distilled(**(leaves | {"images": _masked(leaves["images"], streams, how)})))
        start = _starts(sources, common, streams, how, update)
        if how.reset == "hard" and before is not None:
            start = follow_all(forward, start, before)
        end = follow_all(forward, start, steps)
        losses = cross_entropy(forward(end, x), y)
        slopes = torch.autograd.grad(losses.sum(), [leaves[n] for n in learnt])
        grads = Stack(zip(learnt, slopes, strict=True))
        clipped = grads if how.max_norm is None else clip_norm(grads, how.max_norm)
        adam.step(learnt, clipped, memory, how.outer_lr * 0.5 ** (update // how.halve) if how.halve else None)
    require.finite("distilled data and the loss of their network", losses.detach(), *params.values())
    return [Distilled(**{n: t[i] for n, t in params.items()}) for i in range(len(sources))]


def _steps(stack: Distilled) -> Steps:
    """The steps of a stack of distilled data: batches [M, P, B, ...], labels [M, P, B, C], rates [M, P]."""
    first = stack._replace(
        images=stack.images.transpose(0, 1), labels=stack.labels.transpose(0, 1), rates=stack.rates.T
    )
    return first.prescription()


def _batches(sources: Sequence[Source], streams: list[dict], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Real samples x [P, size, ...] and classes y [P, size], drawn with replacement, for one update after another."""
    x, y = torch.cat([s.x for s in sources]), torch.cat([s.y for s in sources])
    counts = [len(s.y) for s in sources]
    first = torch.tensor([0, *counts[:-1]]).cumsum(0)[:, None]
    while True:
        drawn = [torch.randint(n, (size,), generator=d["batches"]) for n, d in zip(counts, streams, strict=True)]
        rows = (torch.stack(drawn) + first).to(y.device)
        yield x[rows], y[rows]


def _starts(sources: Sequence[Source], common: State, streams: list[dict], how: Condensation, update: int) -> State:
    if how.reset == "hard":
        return stacked([_fresh(source, update) for source in sources])
    if how.reset == "none" or not how.spread:
        return common

    def noise(n: str) -> Tensor:
        each = [torch.randn(common[n].shape[1:], generator=draw["resets"], dtype=common[n].dtype) for draw in streams]
        return torch.stack(each).to(common[n].device)

    return {n: w + how.spread * noise(n) for n, w in common.items()}


def _fresh(source: Source, update: int) -> State:
    if source.fresh is None:
        raise ValueError(f"a hard reset needs fresh weights: give the source {source.key} its `fresh`")
    return source.fresh(update)


def _masked(images: Tensor, streams: list[dict], how: Condensation) -> Tensor:
    """Images [P, S, B, ...], a share of each source's replaced by noise."""
    if not how.masked:
        return images
    count, each = math.prod(images.shape[1:3]), images.ndim - 3
    hide = round(how.masked * count)
    chosen = torch.stack([torch.randperm(count, generator=draw["masks"]) < hide for draw in streams])
    noise = [torch.randn(images.shape[1:], generator=draw["noise"], dtype=images.dtype) for draw in streams]
    hidden = chosen.reshape(*images.shape[:3], *[1] * each)
    return torch.where(hidden.to(images.device), torch.stack(noise).to(images.device), images)
