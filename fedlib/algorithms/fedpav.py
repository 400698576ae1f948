"""FedPAV (Zhuang et al. 2020, ACM MM): a shared backbone, a classifier of its own identities on each client, weights
from how far a client moved, and a server that teaches the average what the clients' backbones see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedlib import require, rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.featuredistil import FeatureDistillation, FeatureStudent, mean_features
from fedlib.federation import Federation, Job, Round
from fedlib.losses import cross_entropy
from fedlib.models.net import Net, State

ABSENT = -1e9  # logit of an identity that a client does not have: its probability is zero, and so is its gradient
PLAIN = FeatureDistillation()


class FedPAV(FedAvg):
    """Clients train the backbone, which is averaged, and their own rows of the output layer ``head``, which stays.

    The head has a row for every identity of all clients; a client's classifier are the rows of the identities that it
    holds, and its loss sees no others. ``weights``: ``"samples"`` averages by n_k / n, ``"uniform"`` by 1 / K,
    ``"cosine"`` by how far the logits of one batch turned in local training (:func:`turned`), for which each client
    sends one number more. With ``public``, inputs
    [U, ...] or a function that gives a federation its own, the server fits the average to the mean features of what it
    received, as ``distillation`` says. ``personal`` names what stays with a client; with ``("*",)`` it trains alone.

    Raises ValueError for a network without a linear layer ``head``, and for public inputs that are none.
    """

    def __init__(
        self,
        weights: str = "samples",
        public: Tensor | Callable[[Federation], Tensor] | None = None,
        distillation: FeatureDistillation = PLAIN,
        personal: Sequence[str] = ("head.*",),
    ):
        if isinstance(personal, str):
            raise ValueError(f"personal must be a sequence of patterns, got {personal!r}: give ({personal!r},)")
        if not (public is None or isinstance(public, Tensor) or callable(public)):
            raise ValueError(
                f"public must be inputs [U, ...] or a function that gives a federation its own, got {public!r}"
            )
        if not isinstance(distillation, FeatureDistillation):
            raise ValueError(f"distillation must be a FeatureDistillation, got {distillation!r}")
        self.weights = require.one_of("weights", weights, ("samples", "uniform", "cosine"))
        self.weighting = "uniform" if weights == "uniform" else "samples"
        self.public, self.distillation, self.personal = public, distillation, tuple(personal)

    def setup(self, fed: Federation) -> None:
        if "head.weight" not in fed.state or fed.y.ndim != 1 or fed.y.is_floating_point():
            raise ValueError(
                "FedPAV needs a network with a linear layer named head, and identities y [N], counted from 0; "
                f"got layers of {', '.join(fed.net.parameters)}, and y {fed.y.dtype} {list(fed.y.shape)}"
            )
        if "head.weight" not in fed.personal:
            raise ValueError(f"clients have different identities: head.* must be personal, got {self.personal}")
        absent = torch.ones(fed.clients, len(fed.state["head.weight"]), dtype=torch.bool, device=fed.device)
        for k, rows in enumerate(fed.split):
            absent[k, fed.y[rows]] = False
        fed.memory = {"absent": absent}
        if self.public is not None:
            self.inputs(fed)

    def inputs(self, fed: Federation) -> Tensor:
        """The public inputs, ready for the network."""
        given = self.public if isinstance(self.public, Tensor) or self.public is None else self.public(fed)
        if not isinstance(given, Tensor) or len(given) == 0 or given.shape[1:] != fed.x.shape[1:]:
            form = list(given.shape) if isinstance(given, Tensor) else repr(given)
            raise ValueError(f"public must be inputs [U, ...] with U >= 1, like {list(fed.x.shape)}, got {form}")
        require.finite("public", given)
        return fed.input(given)

    def context(self, fed: Federation, client: int) -> State:
        return {"absent": fed.memory["absent"][client]}

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        logits = net(state, x, train=True)
        return cross_entropy(logits.masked_fill(context.own["absent"].unsqueeze(-2), ABSENT), y)

    def keep(self, fed: Federation, client: int, state: State) -> None:
        if self.weights == "cosine":
            received = fed.state | fed.own.get(client, {})
            moved = fed.memory.get("moved", {}) | {client: self.moved(fed, client, received, state)}
            fed.memory = fed.memory | {"moved": moved}
        super().keep(fed, client, state)

    def moved(self, fed: Federation, client: int, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
        """m_k: how far the logits of the client's own identities turned on one batch of its samples, a scalar. Both
        models are in evaluation mode: otherwise dropout alone would turn them.
        """
        rows = fed.split[client]
        draws = torch.randperm(len(rows), generator=rng.stream(fed.seed, "turned", fed.round, client))
        x, own = fed.input(fed.x[rows[draws[: fed.local.batch_size].to(rows.device)]]), ~fed.memory["absent"][client]
        old, new = (fed.net.predict(s, x)[:, own] for s in (before, after))
        return turned(old, new).to(fed.dtype)

    def upload(self, fed: Federation, client: int, state: State) -> State:
        shared = super().upload(fed, client, state)
        return shared | {"moved": fed.memory["moved"][client]} if self.weights == "cosine" else shared

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> Iterator[Job]:
        if self.weights == "cosine":
            weights = cosine_weights([u["moved"] for u in uploads], weights)
            uploads = [{n: t for n, t in u.items() if n != "moved"} for u in uploads]
        super().aggregate(fed, uploads, weights)
        how = self.distillation
        if self.public is None or (fed.round + 1) % how.every or not any(uploads):
            return
        x = self.inputs(fed)
        target = mean_features([fed.net.predict({**fed.state, **u}, x, features=True) for u in uploads], how)
        learn = [n for n in fed.net.parameters if n not in fed.personal]
        rate, draws = (
            how.share * fed.local.lr * fed.local.lr_decay**fed.round,
            rng.stream(fed.seed, "distil", fed.round),
        )
        student = FeatureStudent(fed.net, fed.state, learn, x, target, how, rate, draws)
        yield student
        fed.state = student.state


class Gathered(FedPAV):
    """FedPAV's ceiling: one client has all pictures, and each picture's loss sees the classifier of its own home alone.

    One classifier of everybody's identities could tell those of two homes apart by their cameras, without looking at
    them. ``homes`` [C] says where each identity is at home. Raises ValueError for homes that are none.
    """

    def __init__(self, homes: Tensor):
        super().__init__()
        if not isinstance(homes, Tensor) or homes.ndim != 1 or homes.is_floating_point():
            raise ValueError(f"homes must be integers [C], one for each identity, got {homes!r}")
        self.homes = homes

    def setup(self, fed: Federation) -> None:
        super().setup(fed)
        if len(self.homes) != (count := len(fed.state["head.weight"])):
            raise ValueError(f"homes must be integers [{count}], one for each identity, got {list(self.homes.shape)}")
        apart = (self.homes[:, None] != self.homes).to(fed.device)
        fed.memory = {"absent": fed.memory["absent"][:, None] | apart}

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        logits = net(state, x, train=True)
        absent = context.own["absent"].expand(*y.shape[:-1], -1, -1)
        absent = absent.gather(-2, y[..., None].expand(logits.shape))  # each sample's row
        return cross_entropy(logits.masked_fill(absent, ABSENT), y)


def turned(before: Tensor, after: Tensor) -> Tensor:
    """Mean over samples of 1 - cos(before, after) of their logits [B, C]: a float64 scalar in [0, 2].

    Computed as half the squared distance of the two directions, which is the same, exact where nothing moved, and never
    negative. NaN where all logits of a sample are zero. Raises ValueError for shapes that differ, or no sample.
    """
    if before.ndim != 2 or before.shape != after.shape or before.numel() == 0:
        raise ValueError(f"logits before and after must be [B, C] alike, got {list(before.shape)}, {list(after.shape)}")
    a, b = before.double(), after.double()
    gap = (normalize(a, dim=-1) - normalize(b, dim=-1)).square().sum(-1) / 2
    nowhere = (a.norm(dim=-1) == 0) | (b.norm(dim=-1) == 0)
    return gap.masked_fill(nowhere, torch.nan).mean()


def cosine_weights(moved: Sequence[Tensor], otherwise: Tensor) -> Tensor:
    """Weights m_k / sum_j m_j [m], float64; ``otherwise`` [m] where a distance is not finite or negative, or nobody
    moved. Raises ValueError unless there is one distance, a scalar, for each weight.
    """
    if odd := [list(d.shape) for d in moved if d.numel() != 1]:
        raise ValueError(f"a client's distance is one number, got {odd[0]}")
    if len(moved) != len(otherwise) or len(moved) == 0:
        raise ValueError(f"one distance is needed for each client, got {len(moved)} for {len(otherwise)}")
    m = torch.stack([d.detach().double().cpu().reshape(()) for d in moved])
    if not bool(m.isfinite().all()) or bool((m < 0).any()) or float(m.sum()) == 0:
        return otherwise
    return m / m.sum()


def distances(fed: Federation, seen: Round) -> dict[str, Any]:
    """An observer: ``moved``, the distance m_k that each of the round's clients sent; nothing where none was sent."""
    moved = [float(u["moved"]) for u in seen.uploads if "moved" in u]
    return {"moved": moved} if moved else {}
