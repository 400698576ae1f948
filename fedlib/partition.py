"""Who holds what: splits of labelled samples over clients.

Every function returns one index tensor (int64, ascending) per client; together they cover all samples and
no sample is held twice. Randomness comes from the ``torch.Generator`` that is passed in. Labels are classes counted
from 0; all raise ValueError for labels, numbers of clients and the like that are not what they should be.
"""

import numpy as np
import torch
from torch import Tensor

from fedlib import require


def _check_labels(labels: Tensor) -> None:
    if labels.ndim != 1:
        raise ValueError(f"labels must be one-dimensional, got shape {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or (len(labels) and int(labels.min()) < 0):
        found = labels.dtype if labels.is_floating_point() or labels.is_complex() else int(labels.min())
        raise ValueError(f"labels must be integers from 0 on, got {found}")


def _check(labels: Tensor, clients: int) -> None:
    _check_labels(labels)
    require.whole("clients", clients, 1)
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
    require.real("alpha", alpha, above=0)
    require.whole("min_size", min_size)
    if clients * min_size > len(labels):
        raise ValueError(f"min_size = {min_size} for {clients} clients needs more than the {len(labels)} samples")
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    parts: list[list[Tensor]] = [[labels.new_empty(0, dtype=torch.int64)] for _ in range(clients)]
    sizes = np.zeros(clients)
    for c in labels.unique().tolist():
        members = torch.nonzero(labels == c).squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        share = draw.dirichlet(np.full(clients, alpha))
        if not abs(share.sum() - 1) < 1e-6:  # numpy's draws overflowed, and every sample would go to one client
            raise ValueError(f"alpha = {alpha} is too large to draw from: use 1e6 at most")
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
    require.whole("per_client", per_client, 1)
    if clients * per_client > len(labels):
        raise ValueError(f"{clients} clients with {per_client} shards each cannot share {len(labels)} samples")
    shuffled = torch.randperm(len(labels), generator=rng)
    ordered = shuffled[torch.argsort(labels[shuffled], stable=True)]
    pieces = ordered.tensor_split(clients * per_client)
    deal = torch.randperm(clients * per_client, generator=rng).view(clients, per_client)
    return _ascending([[pieces[i] for i in row] for row in deal.tolist()])


def label_counts(labels: Tensor, split: list[Tensor], classes: int) -> Tensor:
    """How many samples of each class each client holds: int64 [K, C]. Raises ValueError for a class of C or more."""
    _check_labels(labels)
    if require.whole("classes", classes, 1) <= (largest := int(labels.max()) if len(labels) else 0):
        raise ValueError(f"there are {classes} classes, 0 to {classes - 1}, and a sample of class {largest}")
    if not split:
        raise ValueError("a table of clients needs at least one client")
    return torch.stack([torch.bincount(labels[part], minlength=classes) for part in split])


def classes_per_client(labels: Tensor, clients: int, classes: int, rng: torch.Generator) -> list[Tensor]:
    """Label skew by classes: every client holds exactly ``classes`` of them, every class has about as many owners as
    any other (K classes / C, rounded up or down), who share its samples evenly. ``labels`` [N].

    With ``classes`` = C it is a stratified IID split. Raises ValueError when classes would have no owner, or owners no
    sample.
    """
    _check(labels, clients)
    require.whole("classes", classes, 1)
    present = labels.unique().tolist()
    if not 1 <= classes <= len(present) or clients * classes < len(present):
        raise ValueError(
            f"{clients} clients with {classes} classes each cannot share {len(present)} classes: "
            f"use {-(-len(present) // clients)} to {len(present)} classes per client"
        )
    owners: list[list[int]] = [[] for _ in present]
    for k in range(clients):
        shuffled = torch.randperm(len(present), generator=rng).tolist()
        for c in sorted(shuffled, key=lambda c: len(owners[c]))[:classes]:  # those with the fewest owners so far
            owners[c].append(k)
    parts: list[list[Tensor]] = [[] for _ in range(clients)]
    for c, holders in zip(present, owners, strict=True):
        members = torch.nonzero(labels == c).squeeze(1)
        if len(members) < len(holders):
            raise ValueError(f"class {c} has {len(members)} samples for {len(holders)} clients: use fewer clients")
        members = members[torch.randperm(len(members), generator=rng)]
        for k, piece in zip(holders, members.tensor_split(len(holders)), strict=True):
            parts[k].append(piece)
    return _ascending(parts)


def matching(labels: Tensor, held: Tensor, rng: torch.Generator, most: int | None = None) -> list[Tensor]:
    """Test samples for every client in the proportions of its own labels: index tensors into ``labels`` [M], ascending.

    ``held`` [K, C] says how many training samples of each class each client holds (:func:`label_counts`). A client gets
    as many test samples as its scarcest class allows, ``most`` at most; shares are rounded by largest remainder, so no
    class is off by more than one. Unlike the splits above, clients may be given the same sample: nobody trains on it.
    Raises ValueError for a client without samples, and when a class that a client holds has no test sample.
    """
    _check_labels(labels)
    if held.ndim != 2 or held.is_floating_point() or held.numel() == 0 or int(held.min()) < 0:
        raise ValueError(f"held must be counts of samples [K, C], got {held.dtype} {list(held.shape)}")
    if most is not None:
        require.whole("most", most, 1)
    there = torch.bincount(labels, minlength=held.shape[1]).double()
    if len(there) > held.shape[1]:
        raise ValueError(f"held counts {held.shape[1]} classes, and there is a test sample of class {len(there) - 1}")
    rows = []
    for k, count in enumerate(held.double()):
        share = count / count.sum()
        if not count.sum() > 0 or bool(((share > 0) & (there == 0)).any()):
            raise ValueError(f"client {k} holds {held[k].tolist()} samples by class; test samples: {there.tolist()}")
        size = int((there[share > 0] / share[share > 0]).min().item() + 1e-9)
        exact = share * (size if most is None else min(size, most))
        wanted = (exact + 1e-9).floor()
        short = round(float(exact.sum() - wanted.sum()))
        wanted[torch.argsort(exact - wanted, descending=True, stable=True)[:short]] += 1
        order = torch.randperm(len(labels), generator=rng)
        own = [order[labels[order] == c][: int(n)] for c, n in enumerate(wanted.tolist())]
        rows.append(torch.cat(own).sort().values)
    return rows
