"""Federated averaging and distillation with differential privacy for whole clients (Geyer et al. 2017, McMahan et al.
2018): updates are clipped, and noise is added by the server or by every client. How much privacy that is says Opacus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedlib import require, rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.algorithms.feddf import FedDF
from fedlib.federation import Federation
from fedlib.models.net import State


def norm(update: Mapping[str, Tensor]) -> float:
    """Euclidean norm of an update, all tensors together."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in update.values()))


def clip(update: Mapping[str, Tensor], bound: float) -> State:
    """The update scaled down to a norm of ``bound`` at most: D min(1, S / ||D||), over all tensors together.

    An update within the bound is returned as it is, to the bit. Raises ValueError unless bound > 0, and NotFinite for
    an update that is not finite.
    """
    if not bound > 0:
        raise ValueError(f"the clipping bound must be positive, got {bound}")
    require.finite("the update to be clipped", *update.values())
    size = norm(update)
    return dict(update) if size <= bound else {n: t * (bound / size) for n, t in update.items()}


def gaussian(state: Mapping[str, Tensor], names: tuple[str, ...], std: float, generator: torch.Generator) -> State:
    """The state with N(0, std^2) added to every number of the tensors ``names``; with std 0 the same tensors."""
    if not require.real("the standard deviation of the noise", std, least=0):
        return dict(state)
    added = {n: torch.randn(state[n].shape, generator=generator, dtype=state[n].dtype).to(state[n]) for n in names}
    return {**state, **{n: state[n] + std * z for n, z in added.items()}}


def epsilon(noise: float, rounds: int, delta: float, participation: float = 1.0) -> float:
    """The epsilon of (epsilon, delta)-differential privacy of ``rounds`` Gaussian mechanisms with noise multiplier
    ``noise``, by the accountant of Opacus (Renyi differential privacy).

    Neighbouring federations differ by one client, there or not. ``participation`` below 1 counts as Poisson sampling
    and as a secret of the server; sampling a fixed number, as :class:`~fedlib.federation.Federation` does, is taken for
    the same. Without noise it is infinite. Needs the package ``opacus``: ``pip install 'fedlib[privacy]'``.
    """
    require.real("noise", noise, least=0)
    require.whole("rounds", rounds)
    require.real("delta", delta, above=0, below=1)
    require.real("participation", participation, above=0, most=1)
    if not rounds:
        return 0.0
    if not noise:
        return math.inf
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise ImportError(
            "privacy is counted by Opacus, which is not installed: pip install 'fedlib[privacy]'"
        ) from error
    accountant = RDPAccountant()
    accountant.history = [(noise, participation, rounds)]
    return float(accountant.get_epsilon(delta))


class ClippedUploads(FedAvg):
    """Every client clips its update to norm ``bound`` before it is sent. All clients count the same: a weight by
    samples would let one client move the average by more than ``bound / m``.

    With an infinite bound and no noise it is the method without privacy, with uniform weights, bit for bit. Networks
    with BatchNorm keep their statistics to themselves (``Federation(buffers="local")``): they are no part of the
    clipped update, and noise could make a variance negative.
    """

    weighting = "uniform"
    bound: float
    noise: float

    def protect(self, bound: float, noise: float) -> None:
        """Set clipping bound S and noise multiplier sigma; the noise has standard deviation sigma S."""
        if not (bound > 0 and 0 <= noise < math.inf):
            raise ValueError(f"bound > 0 and noise >= 0 are needed, got {bound} and {noise}")
        if noise and math.isinf(bound):
            raise ValueError("noise is a multiple of the clipping bound, which is infinite: give a bound")
        self.bound, self.noise, self.weighting = bound, noise, "uniform"

    def setup(self, fed: Federation) -> None:
        """Raises ValueError when statistics of BatchNorm would be sent."""
        travelling = [n for n in fed.net.buffers if n not in fed.personal]
        if travelling:
            raise ValueError(
                f"buffers would travel unprotected ({travelling[0]}, ...): use Federation(buffers='local') or a "
                "network without BatchNorm"
            )
        super().setup(fed)

    def upload(self, fed: Federation, client: int, state: State) -> State:
        """The received model plus the clipped update."""
        sent = super().upload(fed, client, state)
        update = {n: t - fed.state[n] for n, t in sent.items()}
        if norm(update) <= self.bound:
            return sent
        return {n: fed.state[n] + d for n, d in clip(update, self.bound).items()}


class NoisyUploads(ClippedUploads):
    """Every client adds its own noise to its clipped update, so that the server need not be trusted: each tensor that
    leaves the client is private, and so is whatever a server makes of it.
    """

    def upload(self, fed: Federation, client: int, state: State) -> State:
        """The same plus N(0, s^2 S^2) on every number."""
        sent = super().upload(fed, client, state)
        draw = rng.stream(fed.seed, "privacy", fed.round, client)
        return gaussian(sent, tuple(sent), self.noise * self.bound if self.noise else 0.0, draw)


class DPFedAvg(ClippedUploads):
    """FedAvg with a trusted server that adds noise once: w + (sum of clipped updates + N(0, s^2 S^2)) / m."""

    def __init__(self, bound: float = math.inf, noise: float = 0.0):
        self.protect(bound, noise)

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        """The average of the clipped uploads plus N(0, s^2 S^2 / m^2)."""
        super().aggregate(fed, uploads, weights)
        names, draw = tuple(uploads[0]), rng.stream(fed.seed, "privacy", fed.round)
        fed.state = gaussian(fed.state, names, self.noise * self.bound / len(uploads) if self.noise else 0.0, draw)


class NoisyFedAvg(NoisyUploads):
    """FedAvg of updates that every client has made private: the average has m times the variance of DPFedAvg's."""

    def __init__(self, bound: float = math.inf, noise: float = 0.0):
        self.protect(bound, noise)


class NoisyFedDF(NoisyUploads, FedDF):
    """FedDF of models that every client has made private. Distilling on public inputs costs no further privacy.

    There is no counterpart of DPFedAvg: a student that listens to the raw models one by one reveals more than their
    noisy average does. ``options`` are those of FedDF; a validation set with labels of clients would not be free.
    """

    def __init__(self, bound: float, noise: float, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.protect(bound, noise)
