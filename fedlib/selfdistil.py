"""A network that is taught by what grows on its own feature maps: FRSKD, and heads on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedlib import losses, require, rng
from fedlib.data import mixing
from fedlib.models.bifpn import SelfTeacher
from fedlib.training import Objective, Trainer

Fit = Callable[[Tensor], Tensor]
"""Logits [B, C] of a batch -> how badly they fit its labels, a scalar."""


def attention(maps: Tensor) -> Tensor:
    """Where a feature map [B, C, H, W] is active: mean_c F_c^2 as unit vectors [B, H W].

    (Zagoruyko and Komodakis 2017, equation 2.) Neither the scale of a map nor the order of its channels matters.
    """
    return normalize(maps.square().mean(1).flatten(1), dim=1)


def attention_gap(maps: Sequence[Tensor], refined: Sequence[Tensor]) -> Tensor:
    """sum_i ||phi(T_i) - phi(F_i)||^2 / (H_i W_i), mean over the batch: the feature loss of FRSKD's released code.

    The paper prints the norm, without square and divisor: :func:`fedlib.losses.attention_transfer`. No gradient flows
    to the refined maps.
    """
    pairs = zip(maps, refined, strict=True)
    return torch.stack([(attention(f) - attention(t.detach())).square().mean() for f, t in pairs]).sum()


class CutMix(Objective):
    """Cross-entropy of images with a box of their partner's, both labels weighed by area (Yun et al. 2019).

    ``cutmix`` is the parameter of the Beta distribution that the share is drawn from; 0 leaves the images alone.
    """

    mix = staticmethod(mixing.cutmix)

    def __init__(self, cutmix: float = 1.0):
        self.cutmix = require.real("cutmix", cutmix, least=0)

    def setup(self, trainer: Trainer) -> None:
        """The draws that mix have a stream of their own."""
        self.draws = rng.stream(trainer.seed, trainer.name, "mix")

    def mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Fit]:
        """The images to look at, and what the labels say of logits."""
        if not self.cutmix:
            return x, lambda logits: losses.cross_entropy(logits, y)
        x, other, stays = self.mix(x, self.draws, self.cutmix)
        return x, lambda z: stays * losses.cross_entropy(z, y) + (1 - stays) * losses.cross_entropy(z, y[other])

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the mixed labels say of the mixed images."""
        x, fit = self.mixed(x, y)
        return fit(network(x))


class Mixup(CutMix):
    """The same of whole images, averaged with their partner (Zhang et al. 2018); the parameter is that of its Beta."""

    mix = staticmethod(mixing.mixup)


class FRSKD(CutMix):
    """Feature refinement by self-knowledge distillation (Ji et al. 2021, equation 6).

    L = CE(z, y) + CE(z^t, y) + alpha L_KD + beta L_F. A :class:`~fedlib.models.bifpn.SelfTeacher` refines the network's
    maps and has logits z^t of its own; network and self-teacher take one step together, and L_KD and L_F move the
    network alone. With ``detached`` the self-teacher is fed copies of the maps: its cross-entropy then moves it alone,
    too, and what is left is distillation. alpha = beta = 0 without it is deep supervision, and not the plain network.
    The network must be one that gives ``maps=True``.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 100.0,
        temperature: float = 4.0,
        *,
        detached: bool = False,
        width: int = 2,
        depth: int = 2,
        cutmix: float = 0.0,
    ):
        super().__init__(cutmix)
        self.alpha = require.real("alpha", alpha, least=0)
        self.beta = require.real("beta", beta, least=0)
        self.temperature = require.real("temperature", temperature, above=0)
        self.detached, self.width, self.depth = detached, width, depth
        self.capturable = not cutmix  # without draws a step does the same each time

    def setup(self, trainer: Trainer) -> None:
        """The self-teacher, trained along."""
        super().setup(trainer)
        net: Any = trainer.network
        teacher = trainer.build(lambda: SelfTeacher(net.widths, net.classes, self.width, self.depth), "self-teacher")
        self.modules = {"teacher": teacher}

    def logit_loss(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """L_KD, as the released code has it: the teacher stands first, times the squared temperature."""
        return losses.kd(logits, teacher_logits, self.temperature)

    def map_loss(self, maps: Sequence[Tensor], refined: Sequence[Tensor]) -> Tensor:
        """L_F, as the released code has it."""
        return attention_gap(maps, refined)

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the four, on a batch x [B, C, H, W]."""
        x, fit = self.mixed(x, y)
        logits, maps = network(x, maps=True)
        fed = [m.detach() for m in maps] if self.detached else maps
        teacher_logits, refined = self.modules["teacher"](fed)
        total = fit(logits) + fit(teacher_logits)
        if self.alpha:
            total = total + self.alpha * self.logit_loss(logits, teacher_logits)
        if self.beta:
            total = total + self.beta * self.map_loss(maps, refined)
        return total


class Reversed(FRSKD):
    """FRSKD with the divergence as the paper prints it, the network first; times the squared temperature, which the
    paper does not print.
    """

    def logit_loss(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """T^2 KL(network || self-teacher), a mean over the batch [B, C]; no gradient flows to the self-teacher."""
        t = self.temperature
        return t**2 * losses.kl(logits / t, teacher_logits.detach() / t)


class Heads(Objective):
    """A linear head on every pooled map but the last, which learns labels and the network's own logits.

    L = CE(z, y) + sum_i (1 - weight) CE(z_i, y) + weight T^2 KL(z || z_i) over the heads i: be your own teacher (Zhang
    et al. 2019) without its bottlenecks and its hint loss. The network's logits are a constant in the last term.
    """

    def __init__(self, weight: float = 0.3, temperature: float = 3.0):
        self.weight = require.real("weight", weight, least=0, most=1)
        self.temperature = require.real("temperature", temperature, above=0)

    def setup(self, trainer: Trainer) -> None:
        """The heads, trained along."""
        net: Any = trainer.network
        self.heads: Any = trainer.build(
            lambda: nn.ModuleList(nn.Linear(w, net.classes) for w in net.widths[:-1]), "heads"
        )
        self.modules = {"heads": self.heads}

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The sum over network and heads."""
        logits, maps = network(x, maps=True)
        total = losses.cross_entropy(logits, y)
        for head, map_ in zip(self.heads, maps, strict=False):
            early = head(map_.mean((2, 3)))
            total = total + (1 - self.weight) * losses.cross_entropy(early, y)
            total = total + self.weight * losses.kd(early, logits, self.temperature)
        return total
