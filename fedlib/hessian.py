"""How a loss curves at its weights: products with the Hessian, its top eigenvalue and its trace, without the matrix.

Flat and alike at all clients is what Mendieta et al. (2022, section 3) look for in local models; the released code has
these by PyHessian (Yao et al. 2020). On a quadratic all of it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations, product
from typing import NamedTuple

import torch
from torch import Tensor

from fedlib import require
from fedlib.losses import cross_entropy
from fedlib.models.net import Net, State

Loss = Callable[[State], Tensor]
"""A scalar as a function of weights by name."""


class Hessian:
    """The Hessian of a loss at some weights: ``hessian(direction)`` is its product with a direction of their names.

    The graph of the gradient is built once and kept, so a product costs about as much as a backward pass. Raises
    ValueError for no weights, and for a loss that is no scalar; NotFinite where the gradient is.
    """

    def __init__(self, loss: Loss, weights: Mapping[str, Tensor]):
        if not weights:
            raise ValueError("weights: there are none to curve along")
        self.weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        with torch.enable_grad():
            value = loss(dict(self.weights))
            if not isinstance(value, Tensor) or value.ndim:
                shape = list(value.shape) if isinstance(value, Tensor) else value
                raise ValueError(f"loss: expected a scalar for these weights, got {shape}")
            found = torch.autograd.grad(value, list(self.weights.values()), create_graph=True, allow_unused=True)
        self.loss = float(value.detach())
        self.gradient = {
            n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(self.weights.items(), found, strict=True)
        }
        require.finite("the gradient", *self.gradient.values())

    def __call__(self, direction: Mapping[str, Tensor]) -> State:
        """H d. Raises ValueError for other names or shapes than the weights have."""
        wanted, got = ({n: tuple(t.shape) for n, t in d.items()} for d in (self.weights, direction))
        if wanted != got:
            raise ValueError(f"direction: expected the names and shapes of the weights, {wanted}; got {got}")
        curved = {n: g for n, g in self.gradient.items() if g.requires_grad}
        if not curved:  # a loss that is linear in its weights
            return {n: torch.zeros_like(w) for n, w in self.weights.items()}
        along = [direction[n] for n in curved]
        leaves = list(self.weights.values())
        found = torch.autograd.grad(list(curved.values()), leaves, along, retain_graph=True, allow_unused=True)
        return {
            n: torch.zeros_like(w) if h is None else h for (n, w), h in zip(self.weights.items(), found, strict=True)
        }


def of_network(net: Net, state: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Hessian:
    """The Hessian of the cross-entropy of a network in evaluation mode, on samples x [N, ...] with classes y [N]."""
    return Hessian(lambda weights: cross_entropy(net({**state, **weights}, x), y), net.weights(state))


class Top(NamedTuple):
    """An eigenvalue, its vector of length 1, and how many products it took."""

    value: float
    vector: State
    products: int


def top_eigenvalue(
    hessian: Hessian,
    draws: torch.Generator,
    iterations: int = 100,
    tolerance: float = 1e-3,
    beside: Sequence[Mapping[str, Tensor]] = (),
) -> Top:
    """The eigenvalue of largest magnitude, with its sign, by power iteration from a random direction: until the
    Rayleigh quotient moves by less than a share ``tolerance``, or ``iterations`` products are done.

    ``beside``: eigenvectors found before, to which the next stays orthogonal. Where two eigenvalues have nearly the
    same size and opposite signs it does not settle. Raises ValueError for settings that cannot work.
    """
    require.whole("iterations", iterations, 1)
    require.real("tolerance", tolerance, least=0)
    v, value = _unit(_apart(_random(hessian, draws, torch.randn), beside)), math.nan
    for done in range(1, iterations + 1):
        moved = _apart(hessian(v), beside)
        before, value = value, float(_inner(v, moved))
        length = float(_inner(moved, moved).sqrt())
        if length == 0:
            return Top(0.0, v, done)
        v = {n: t / length for n, t in moved.items()}
        if abs(value - before) <= tolerance * abs(value):
            break
    return Top(value, v, done)


class Trace(NamedTuple):
    """An estimated trace, its standard error (0 from one probe), and the parts of the weights' tensors in it."""

    value: float
    error: float
    tensors: dict[str, float]


def trace(hessian: Hessian, draws: torch.Generator, probes: int = 10) -> Trace:
    """Hutchinson's estimate: the mean of <v, H v> over random signs v. For a diagonal Hessian every probe is exact.

    Raises ValueError without a probe.
    """
    each: list[dict[str, float]] = []
    for _ in range(require.whole("probes", probes, 1)):
        v = _random(hessian, draws, _signs)
        moved = hessian(v)
        each.append({n: float((v[n] * moved[n]).sum()) for n in v})
    totals = torch.tensor([math.fsum(one.values()) for one in each], dtype=torch.float64)
    error = float(totals.std() / probes**0.5) if probes > 1 else 0.0
    return Trace(float(totals.mean()), error, {n: math.fsum(one[n] for one in each) / probes for n in each[0]})


class Likeness(NamedTuple):
    """How alike clients' curvatures are: mean squared difference of norms H_N, and mean cosine H_D."""

    norms: float
    cosine: float


def likeness(diagonals: Sequence[Sequence[float]], oneself: bool = False) -> Likeness:
    """H_N = mean (||d_j|| - ||d_k||)^2 and H_D = mean cos(d_j, d_k) of the clients' vectors d_k, over pairs j != k.

    d_k is meant to be the diagonal of client k's Hessian; the released code has the traces of its tensors
    (:class:`Trace`), and counts each client with itself, too (``oneself``), which draws H_N to 0 and H_D to 1. Raises
    ValueError for fewer than two clients, and for vectors of several lengths or without a direction.
    """
    if len(diagonals) < 2 or len({len(d) for d in diagonals}) != 1 or not len(diagonals[0]):
        raise ValueError(
            f"diagonals: expected vectors of one length, of two clients at least; got {[*map(len, diagonals)]}"
        )
    d = torch.tensor([list(one) for one in diagonals], dtype=torch.float64)
    require.finite("diagonals", d)
    size = d.norm(dim=1)
    if not bool(size.all()):
        raise ValueError(f"diagonals: a vector of zeros has no direction; norms are {size.tolist()}")
    clients = range(len(d))
    pairs = list(product(clients, repeat=2) if oneself else permutations(clients, 2))
    norms = [float(size[j] - size[k]) ** 2 for j, k in pairs]
    cosines = [float(d[j] @ d[k] / (size[j] * size[k])) for j, k in pairs]
    return Likeness(math.fsum(norms) / len(pairs), math.fsum(cosines) / len(pairs))


def _random(hessian: Hessian, draws: torch.Generator, draw: Callable[..., Tensor]) -> State:
    return {n: draw(tuple(w.shape), generator=draws).to(w) for n, w in hessian.weights.items()}


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator) - 1


def _inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(a[n] * b[n]).sum() for n in a]).sum()


def _unit(v: State) -> State:
    length = _inner(v, v).sqrt()
    return {n: t / length for n, t in v.items()}


def _apart(v: State, others: Sequence[Mapping[str, Tensor]]) -> State:
    """The part of a direction that is orthogonal to the others, which are orthonormal."""
    for other in others:
        share = _inner(v, other)
        v = {n: t - share * other[n] for n, t in v.items()}
    return v
