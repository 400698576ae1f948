"""Who holds what: splits of labelled samples over clients.

Every function returns one index tensor (int64, ascending) per client; together they cover all samples and
no sample is held twice. Randomness comes from the ``torch.Generator`` that is passed in.
"""

import numpy as np
import torch
from torch import Tensor


def _check(labels: Tensor, clients: int) -> None:
    if labels.ndim != 1:
        raise ValueError(f"labels must be one-dimensional, got shape {tuple(labels.shape)}")
    if clients < 1:
        raise ValueError(f"clients must be at least 1, got {clients}")
    if clients > len(labels):
        raise ValueError(f"{clients} clients cannot share {len(labels)} samples: use at most {len(labels)} clients")


def _ascending(parts: list[list[Tensor]]) -> list[Tensor]:
    return [torch.cat(p).sort().values for p in parts]


def iid(labels: Tensor, clients: int, rng: torch.Generator) -> list[Tensor]:
    """Shuffle and deal out evenly: sizes differ by one at most. ``labels`` [N]."""
    _check(labels, clients)
    return [part.sort().values for part in torch.randperm(len(labels), generator=rng).tensor_split(clients)]


def dirichlet(
    labels: Tensor, clients: int, alpha: float, rng: torch.Generator, min_size: int = 1, cap: bool = False
) -> list[Tensor]:
    """Label skew: each class is divided over the clients in proportions drawn from Dirichlet(alpha, ..., alpha).

    Small ``alpha`` gives clients of few classes, large ``alpha`` nearly IID ones (Yurochkin et al. 2019; the split
    used by FedDF, FedNTD and many others). With ``cap``, a client that holds its even share N/K already gets nothing of
    later classes, as in the released code of FedDF and FedNTD, which makes the sizes more even. A client left with
    fewer than ``min_size`` samples is
    topped up with random samples of the largest clients, so the call always ends, for any alpha; the released
    code draws again instead, which never ends for small alpha and many clients.

    Raises ValueError unless alpha > 0 and clients * min_size <= N.
    """
    _check(labels, clients)
    if not (alpha > 0 and np.isfinite(alpha)):
        raise ValueError(f"alpha must be a positive number, got {alpha}; small means skewed, large means even")
    if min_size < 0 or clients * min_size > len(labels):
        raise ValueError(f"min_size = {min_size} for {clients} clients needs more than the {len(labels)} samples")
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    parts: list[list[Tensor]] = [[labels.new_empty(0, dtype=torch.int64)] for _ in range(clients)]
    sizes = np.zeros(clients)
    for c in labels.unique().tolist():
        members = torch.nonzero(labels == c).squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        share = draw.dirichlet(np.full(clients, alpha))
        if cap:
            share = share * (sizes < len(labels) / clients)
            share = share / share.sum() if share.sum() > 0 else np.full(clients, 1 / clients)
        cuts = (np.cumsum(share)[:-1] * len(members)).astype(int)
        for k, piece in enumerate(members.tensor_split(torch.from_numpy(cuts))):
            parts[k].append(piece)
            sizes[k] += len(piece)
    return _top_up(_ascending(parts), min_size, rng)


def _top_up(split: list[Tensor], least: int, rng: torch.Generator) -> list[Tensor]:
    for k, own in enumerate(split):
        for _ in range(least - len(own)):
            largest = max(range(len(split)), key=lambda j: len(split[j]))
            giver = split[largest]
            at = int(torch.randint(len(giver), (1,), generator=rng))
            split[k] = torch.cat([split[k], giver[at : at + 1]]).sort().values
            split[largest] = torch.cat([giver[:at], giver[at + 1 :]])
    return split


def shards(labels: Tensor, clients: int, per_client: int, rng: torch.Generator) -> list[Tensor]:
    """Label skew by shards: sort by label, cut into clients * per_client even pieces, deal ``per_client`` to each.

    (McMahan et al. 2017, section 3.) Raises ValueError when there are more shards than samples.
    """
    _check(labels, clients)
    if per_client < 1 or clients * per_client > len(labels):
        raise ValueError(f"{clients} clients with {per_client} shards each cannot share {len(labels)} samples")
    shuffled = torch.randperm(len(labels), generator=rng)
    ordered = shuffled[torch.argsort(labels[shuffled], stable=True)]
    pieces = ordered.tensor_split(clients * per_client)
    deal = torch.randperm(clients * per_client, generator=rng).view(clients, per_client)
    return _ascending([[pieces[i] for i in row] for row in deal.tolist()])


def label_counts(labels: Tensor, split: list[Tensor], classes: int) -> Tensor:
    """How many samples of each class each client holds: int64 [K, C]."""
    return torch.stack([torch.bincount(labels[part], minlength=classes) for part in split])
