"""Communication with less in it: gradient dropping with error feedback (Aji and Heafield 2017), and updates cut to a
low rank by their singular values (Wu et al. 2022).
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from fedlib import require
from fedlib.models.net import State

WORD = 4  # bytes of a 32-bit value or index


def threshold(magnitude: Tensor, rate: float, sample: int | None = None) -> Tensor:
    """The magnitude below or at which entries are dropped: the floor(rate d)-th smallest of the last dimension.

    ``magnitude`` [..., d] gives [..., 1]; -1 (nothing is dropped) when floor(rate d) = 0. With ``sample``, at most
    that many
    entries at even strides are looked at, as Marian does (100,000 there): the realised rate is then only close to
    ``rate``.
    Raises ValueError unless 0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the drop rate must lie in [0, 1), got {rate}")
    if sample is not None and sample < magnitude.shape[-1]:
        magnitude = magnitude[..., :: -(-magnitude.shape[-1] // sample)]
    k = int(rate * magnitude.shape[-1])
    if k == 0:
        return magnitude.new_full((*magnitude.shape[:-1], 1), -1.0)
    return magnitude.kthvalue(k, keepdim=True).values


def drop(update: Tensor, rate: float, sample: int | None = None) -> tuple[Tensor, Tensor]:
    """Split ``update`` [..., d] into what is sent (strictly above the threshold, zero elsewhere) and what is kept back.

    The two parts sum to ``update`` exactly, entry by entry.
    """
    size = update.abs()
    keep = size > threshold(size, rate, sample)
    return update * keep, update * ~keep


def sparse_bytes(sent: Tensor, bitmap: bool = False) -> Tensor:
    """Bytes to send [..., d] with its zeros left out: int64 [...].

    Each non-zero entry costs a 32-bit value and a 32-bit index, or with ``bitmap`` d bits for all indices together;
    never more than the dense 4 d.
    """
    kept, d = sent.count_nonzero(-1), sent.shape[-1]
    cost = WORD * kept + -(-d // 8) if bitmap else 2 * WORD * kept
    return cost.clamp(max=WORD * d)


class GradientDropping:
    """One worker's sparsifier: drops the ``rate`` smallest entries of gradient + residual and keeps them for later.

    ``scope``: ``"global"`` takes one threshold over all tensors together, ``"local"`` one per tensor.
    ``residual=False``
    throws dropped entries away (the note's formula; biased). ``sample`` estimates thresholds from that many entries.
    Every worker needs an object of its own. (Aji and Heafield 2017, Algorithm 1.)
    """

    def __init__(self, rate: float, scope: str = "global", residual: bool = True, sample: int | None = None):
        if scope not in ("global", "local"):
            raise ValueError(f"scope must be 'global' or 'local', got {scope!r}")
        threshold(torch.zeros(1), rate)
        self.rate, self.scope, self.keeps, self.sample = rate, scope, residual, sample
        self.residual: dict[str, Tensor] = {}

    def __call__(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The part of ``gradient`` + residual that is sent, dense with zeros; the rest becomes the residual."""
        update = {n: g + self.residual[n] if n in self.residual else g.clone() for n, g in gradient.items()}
        flat = {n: u.flatten() for n, u in update.items()}
        if self.scope == "global":
            sent, left = drop(torch.cat(list(flat.values())), self.rate, self.sample)
            sizes = [f.numel() for f in flat.values()]
            parts = zip(flat, sent.split(sizes), left.split(sizes), strict=True)
        else:
            parts = ((n, *drop(f, self.rate, self.sample)) for n, f in flat.items())  # type: ignore[assignment]
        out = {}
        for n, sent_part, left_part in parts:
            out[n] = sent_part.view_as(update[n])
            if self.keeps:
                self.residual[n] = left_part.view_as(update[n])
        return out


def truncated_svd(matrix: Tensor, energy: float) -> tuple[Tensor, Tensor, Tensor]:
    """U [P, K], s [K] and Vh [K, Q] of a matrix [P, Q], so that ``(U * s) @ Vh`` is its best approximation of rank K.

    K is the smallest number of singular values whose share of all their squares exceeds ``energy``; all min(P, Q) of
    them where none does. What is cut off is 1 - share of the squared Frobenius norm. (Wu et al. 2022, equation 4.)
    Raises ValueError unless energy lies in [0, 1] and ``matrix`` has two dimensions, ArithmeticError unless it is
    finite.
    """
    if not 0 <= energy <= 1:
        raise ValueError(f"energy is a share of the squared singular values, in [0, 1]; got {energy}")
    if matrix.ndim != 2:
        raise ValueError(f"expected a matrix [P, Q], got a tensor of shape {tuple(matrix.shape)}")
    require.finite("matrix to be factored", matrix)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    share = energy_shares(s)
    k = min(len(s), int((~(share > energy)).sum()) + 1)
    return u[:, :k], s[:k], vh[:k]


def energy_shares(singular: Tensor) -> Tensor:
    """Share of the squares that the first 1, 2, ... singular values [..., R] have, descending: float64 [..., R].

    The last one is 1; all are NaN where every value is zero.
    """
    sums = singular.double().square().cumsum(-1)
    return sums / sums[..., -1:]


def factor(state: Mapping[str, Tensor], base: Mapping[str, Tensor], energy: float, names: Container[str]) -> State:
    """What is sent of ``state`` to somebody who has ``base``: of the change of a matrix its truncated SVD, where that
    is smaller, as ``name/U``, ``name/s`` and ``name/Vh``; everything else as it is.

    A tensor [P, ...] of more dimensions counts as a matrix [P, Q]. K (P + Q + 1) numbers are sent instead of P Q.
    ``names`` says which entries may be factored. :func:`rebuild` undoes it.
    """
    sent: State = {}
    for n, t in state.items():
        if n in names and t.ndim > 1:
            u, s, vh = truncated_svd((t - base[n]).flatten(1), energy)
            if u.numel() + s.numel() + vh.numel() < t.numel():
                sent |= {f"{n}/U": u, f"{n}/s": s, f"{n}/Vh": vh}
                continue
        sent[n] = t
    return sent


def rebuild(sent: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> State:
    """The state that :func:`factor` was given, but for what it cut off."""
    whole = {n: t for n, t in sent.items() if "/" not in n}
    for n in (key.removesuffix("/s") for key in sent if key.endswith("/s")):
        change = (sent[f"{n}/U"] * sent[f"{n}/s"]) @ sent[f"{n}/Vh"]
        whole[n] = base[n] + change.view_as(base[n])
    return whole
