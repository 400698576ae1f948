"""Distillation of features on the server: a student imitates the mean of what several networks make of public inputs.

No output layer takes part, so the networks may have been trained on different classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedlib import require
from fedlib.models.net import Net, State, clone
from fedlib.optim import SGD, Memory

UNIT = ("teachers", "both", "neither")


@dataclass(frozen=True)
class FeatureDistillation:
    """How the student is fitted: ``epochs`` passes over the public inputs by SGD, in shuffled batches, in every
    ``every``-th round; ``share``: their rate, in shares of the clients'.

    ``unit`` says whose features are divided by their norm: the ``"teachers"`` alone, as in FedPAV's released code with
    its option "regularization"; ``"neither"``, as in that code without it; ``"both"``, so that the student's norm is
    free. Raises ValueError for numbers that cannot work.
    """

    share: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epochs: int = 1
    batch_size: int = 32
    unit: str = "teachers"
    every: int = 1

    def __post_init__(self) -> None:
        require.real("share", self.share, above=0)
        require.real("momentum", self.momentum, least=0, below=1)
        require.real("weight_decay", self.weight_decay, least=0)
        require.whole("epochs", self.epochs)
        require.whole("batch_size", self.batch_size, 1)
        require.whole("every", self.every, 1)
        require.one_of("unit", self.unit, UNIT)


def mean_features(features: Sequence[Tensor], how: FeatureDistillation) -> Tensor:
    """What the student is to imitate: the mean over teachers of their features [U, D], of norm 1 unless ``how.unit`` is
    ``"neither"``; [U, D]. A zero stays zero: it points nowhere. Raises ValueError without a teacher, or for shapes that
    differ; NotFinite for features that are not finite, and for a teacher's that are all zero.
    """
    if not features:
        raise ValueError("a mean of features needs at least one teacher")
    for i, f in enumerate(features):
        if f.shape != features[0].shape:
            raise ValueError(f"features of teacher {i}: expected {list(features[0].shape)}, got {list(f.shape)}")
        require.finite(f"features of teacher {i}", f)
        if how.unit != "neither" and not bool(f.any()):
            raise require.NotFinite(f"features of teacher {i}: all are zero and point nowhere: have they collapsed?")
    return torch.stack([f if how.unit == "neither" else normalize(f, dim=-1) for f in features]).mean(0)


def feature_loss(features: Tensor, target: Tensor, how: FeatureDistillation) -> Tensor:
    """Mean square over samples and dimensions between a student's features [B, D] and their target [B, D].

    Raises ValueError for shapes that differ.
    """
    if features.shape != target.shape:
        raise ValueError(f"features {list(features.shape)} and their target {list(target.shape)} must have one shape")
    own = normalize(features, dim=-1) if how.unit == "both" else features
    return (own - target).square().mean()


@dataclass(eq=False)
class FeatureStudent:
    """A student to be fitted: ``state`` is where it starts, and then the result. ``names`` are the parameters that
    learn; ``x`` [U, ...] are public inputs, ``target`` [U, D] the features that it should have for them; ``lr`` is the
    rate.
    """

    net: Net
    state: State
    names: Sequence[str]
    x: Tensor
    target: Tensor
    how: FeatureDistillation
    lr: float
    generator: torch.Generator

    def fits(self, other: Any) -> bool:
        """Students are fitted one after the other: a pass over few inputs has few steps."""
        return False

    def do(self, others: Sequence[Any] = ()) -> None:
        """Fit this student, in training mode. Raises NotFinite when its loss stops being finite."""
        state, memory = clone(self.state), Memory()
        optimiser = SGD(self.lr, self.how.momentum, self.how.weight_decay)
        leaves = {n: state[n].requires_grad_() for n in self.names}
        params = {n: w.detach() for n, w in leaves.items()}  # the same memory, for the update in place
        total = torch.zeros((), device=self.x.device, dtype=self.net.dtype)
        for _ in range(self.how.epochs):
            order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
            for rows in order.split(self.how.batch_size):
                features = self.net(state, self.x[rows], train=True, features=True)
                loss = feature_loss(features, self.target[rows], self.how)
                grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
                optimiser.step(params, grads, memory)
                total += loss.detach()
        require.finite("the loss of the server's distillation", total)
        self.state = {n: t.detach() for n, t in state.items()}
