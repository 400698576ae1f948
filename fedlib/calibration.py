"""Calibrating a classifier's head on virtual features: class moments, their exact pooling, sampling, training.

(Luo et al. 2021, CCVR, equations 1 to 4.) Moments are kept in float64, on the device of the features where it has
that type, and on the host otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlib import require, rng
from fedlib.models.net import State, clone
from fedlib.optim import SGD, Memory


@dataclass(frozen=True)
class Moments:
    """What is known of the features of every class, in float64.

    ``count`` [C] samples, ``mean`` [C, d], unbiased ``covariance`` [C, d, d]. Without a sample the mean is zero, with
    fewer than two the covariance is: both then have no weight in :func:`pool`.
    """

    count: Tensor
    mean: Tensor
    covariance: Tensor

    def payload(self, dtype: torch.dtype = torch.float32) -> State:
        """What a client sends: counts [C], means [P, d] of the P classes that it holds, and the lower triangles
        [Q, d (d + 1) / 2] of the covariances of the Q classes of which it holds two samples or more.
        """
        rows, columns = torch.tril_indices(*self.covariance.shape[1:], device=self.mean.device)
        triangles = self.covariance[self.count > 1][:, rows, columns]
        sent = {"count": self.count, "mean": self.mean[self.count > 0], "covariance": triangles}
        return {n: t.to(dtype) for n, t in sent.items()}

    @staticmethod
    def received(payload: Mapping[str, Tensor]) -> Moments:
        """The moments of a :meth:`payload`, which rounding to its type is all that may have changed."""
        sent = {n: _double(t) for n, t in payload.items()}
        count, d = sent["count"], sent["mean"].shape[-1]
        rows, columns = torch.tril_indices(d, d, device=count.device)
        mean, covariance = count.new_zeros(len(count), d), count.new_zeros(len(count), d, d)
        mean[count > 0] = sent["mean"]
        lower = count.new_zeros(len(sent["covariance"]), d, d)
        lower[:, rows, columns] = sent["covariance"]
        covariance[count > 1] = lower + lower.tril(-1).mT
        return Moments(count, mean, covariance)


def _double(t: Tensor) -> Tensor:
    return t.cpu().double() if t.device.type == "mps" else t.double()


def class_moments(features: Tensor, labels: Tensor, classes: int) -> Moments:
    """Count, mean and unbiased covariance of each class's ``features`` [N, d] (equation 1); ``labels`` [N]."""
    features = _double(features)
    labels = labels.to(features.device)
    d = features.shape[1]
    count = torch.bincount(labels, minlength=classes).to(features)
    mean, covariance = features.new_zeros(classes, d), features.new_zeros(classes, d, d)
    for c in labels.unique().tolist():
        own = features[labels == c]
        mean[c] = own.mean(0)
        if len(own) > 1:
            spread = own - mean[c]
            covariance[c] = spread.T @ spread / (len(own) - 1)
    return Moments(count, mean, covariance)


def pool(parts: Sequence[Moments]) -> Moments:
    """Moments of all samples together from those of disjoint parts: exact, for any partition (equations 3 and 4).

    The second term of equation 4 is computed from the distances of the parts' means to the common one. That is the
    same number as the paper's difference of two outer products, which cancel when features lie far from the origin.
    Raises ValueError without any part.
    """
    if not parts:
        raise ValueError("moments of at least one client are needed")
    count = torch.stack([p.count for p in parts])
    total = count.sum(0)
    mean = sum((p.count / total.clamp(min=1))[:, None] * p.mean for p in parts)
    degrees = (total - 1).clamp(min=1)[:, None, None]
    within = sum((p.count - 1).clamp(min=0)[:, None, None] * p.covariance for p in parts)
    between = torch.zeros_like(parts[0].covariance)
    for p in parts:
        away = p.mean - mean
        between += p.count[:, None, None] * away[:, :, None] * away[:, None, :]
    return Moments(total, torch.as_tensor(mean), (within + between) / degrees)


def root(covariance: Tensor) -> Tensor:
    """The symmetric square root of covariances [..., d, d], also of singular ones (fewer samples than dimensions).

    Eigenvalues that are zero but for rounding are taken as zero. The symmetric root is unique; factors built from
    eigenvectors, whose sign and, for equal eigenvalues, direction are arbitrary, differ from machine to machine.
    """
    values, vectors = torch.linalg.eigh(covariance)
    least = values.amax(-1, keepdim=True).clamp(min=0) * covariance.shape[-1] * torch.finfo(values.dtype).eps
    size = torch.where(values > least, values, torch.zeros_like(values)).sqrt()
    return (vectors * size.unsqueeze(-2)) @ vectors.mT


def sample(moments: Moments, counts: Sequence[int], *key: int | str) -> tuple[Tensor, Tensor]:
    """Virtual features: ``counts[c]`` draws from N(mean_c, covariance_c) for every class with samples.

    Returns features [M, d] in float64 and labels [M], on the device of the moments. Class c draws from a stream of its
    own, (``key``, c): the other classes change nothing in it.
    """
    roots = root(moments.covariance)
    found, labels = [moments.mean[:0]], [torch.zeros(0, dtype=torch.int64)]
    for c, (size, there) in enumerate(zip(counts, moments.count.tolist(), strict=True)):
        if size and there:
            noise = torch.randn(size, roots.shape[-1], generator=rng.stream(*key, c), dtype=torch.float64)
            found.append(moments.mean[c] + noise.to(roots.device) @ roots[c])
            labels.append(torch.full((size,), c))
    return torch.cat(found), torch.cat(labels).to(roots.device)


@dataclass(frozen=True)
class Calibration:
    """How the head is trained: ``samples`` virtual features of every class (M_c), ``steps`` of SGD on the mean
    cross-entropy of batches drawn by shuffling them again and again.
    """

    samples: int = 100
    steps: int = 200
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("samples", 0), ("steps", 0), ("batch_size", 1)):
            require.whole(name, getattr(self, name), least)
        require.real("lr", self.lr, above=0)


def fit_head(head: Mapping[str, Tensor], z: Tensor, y: Tensor, how: Calibration, generator: torch.Generator) -> State:
    """The linear classifier ``head`` (``weight`` [C, d], perhaps ``bias`` [C]) trained on features z [M, d], y [M].

    It starts where it is; ``head`` itself is left alone. Without steps or features it comes back unchanged, bit for
    bit. The gradient of the cross-entropy is written out: that of the logits is softmax minus one-hot. Raises
    ArithmeticError when the weights stop being finite.
    """
    params, memory, order = clone(head), Memory(), list[Tensor]()
    optimiser = SGD(how.lr, how.momentum, how.weight_decay)
    z, y = z.to(params["weight"]), y.to(params["weight"].device)
    for _ in range(how.steps if len(z) else 0):
        if not order:
            order = list(torch.randperm(len(z), generator=generator).to(z.device).split(how.batch_size))
        rows = order.pop(0)
        logits = torch.nn.functional.linear(z[rows], params["weight"], params.get("bias"))
        slope = logits.softmax(1)
        slope[torch.arange(len(rows), device=z.device), y[rows]] -= 1
        slope /= len(rows)
        grads = {"weight": slope.T @ z[rows], "bias": slope.sum(0)}
        optimiser.step(params, {n: grads[n] for n in params}, memory)
    if not math.isfinite(sum(float(t.sum()) for t in params.values())):
        raise ArithmeticError(f"calibration diverged after {how.steps} steps at learning rate {how.lr}: lower it")
    return params
