"""What generated samples are good for: networks that are trained on them and tested on real ones, side by side.

Also how much the samples of one condition differ from one another, and how far their features lie from those of real
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fedlib import losses, require, rng
from fedlib.abreast import Abreast, abreast

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs [R, B, ...] and targets [R, B, ...] of R networks: a loss each, [R]."""


def conditions(labels: Tensor, classes: int) -> Tensor:
    """One-hot conditions [..., n, classes] of labels [..., n], in float32. Raises ValueError for other labels."""
    if labels.is_floating_point() or not labels.numel() or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels: whole numbers from 0 to {classes - 1}, one at least, are needed; got {labels!r}")
    return one_hot(labels.long(), classes).float()


def drawn(
    x: Tensor, y: Tensor, classes: Sequence[int], counts: tuple[int, int], seeds: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of samples x [N, ...] with labels y [N], at random for each of S seeds: so many of each class to learn from
    [S, C, n, ...], in the order of ``classes``, and so many others of each to test on, [S, m, ...] with labels [S, m].

    Raises ValueError where a class has too few.
    """
    learn, test = (require.whole(f"counts[{i}]", count, 1) for i, count in enumerate(counts))
    if short := [c for c in classes if int((y == c).sum()) < learn + test]:
        raise ValueError(f"class {short[0]} has {int((y == short[0]).sum())} samples, {learn + test} are needed")
    orders = [torch.randperm(len(y), generator=rng.stream(s, "images")) for s in seeds]
    rows = torch.stack([torch.stack([o[y[o] == c][: learn + test] for c in classes]) for o in orders])
    own, held = rows[:, :, :learn], rows[:, :, learn:].flatten(1)
    return x[own], x[held], y[held]


def fitted(
    make: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    loss: Loss,
    seeds: Sequence[int],
    *,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 3e-3,
) -> Abreast:
    """Networks that are trained on samples x [R, n, ...] with targets y [R, n, ...] of their own, by Adam.

    R is a multiple of the number of seeds; runs are ordered by seed, as those of :class:`~fedlib.tdgan.TDGAN`, and
    those of a seed have the same first weights and batches. Rows are drawn with putting back. Raises ValueError for
    samples that do not fit, and NotFinite where training diverges.
    """
    require.whole("steps", steps, 1)
    require.whole("batch_size", batch_size, 1)
    require.real("lr", lr, above=0)
    if not seeds or not len(x) or len(x) % len(seeds) or x.shape[:2] != y.shape[:2] or not x.shape[1]:
        raise ValueError(
            f"x and y begin with a multiple of {len(seeds)} runs and their samples, got {list(x.shape)} and "
            f"{list(y.shape)}"
        )
    require.finite("samples to train on", x, y)
    copies = len(x) // len(seeds)
    networks: Abreast = abreast(Abreast, make, seeds, copies, "trained on samples", dtype=x.dtype, device=x.device)
    adam = torch.optim.Adam(networks.weights, lr=lr, foreach=True)
    draws = [rng.stream(s, "rows of samples") for s in seeds]
    runs = torch.arange(len(x), device=x.device)[:, None]
    for _ in range(steps):
        rows = torch.stack([torch.randint(x.shape[1], (batch_size,), generator=g) for g in draws])
        at = runs, rows.repeat_interleave(copies, 0).to(x.device)
        adam.zero_grad()
        loss(networks(x[at]), y[at]).sum().backward()
        adam.step()
    require.finite("weights of what was trained on samples", *networks.weights)
    return networks.requires_grad_(False)


def worth(
    make: Callable[[], nn.Module],
    images: Tensor,
    labels: Tensor,
    x: Tensor,
    y: Tensor,
    classes: int,
    seeds: Sequence[int],
    steps: int,
) -> Tensor:
    """What networks that learn from images [R, n, ...] and labels [R, n] alone tell of real ones: accuracy [R, classes]
    for each class of x [S, m, ...] with labels y [S, m], a test set for each of S seeds. Runs are ordered by seed.
    """
    taught = fitted(make, images, labels, losses.cross_entropy, seeds, steps=steps)
    x, y = (t.repeat_interleave(len(images) // len(seeds), 0) for t in (x, y))
    return accuracies(taught, x, y, classes)


@torch.no_grad()
def accuracies(networks: Abreast, x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Accuracy [R, classes] of each network for each class of samples x [R, m, ...] with labels y [R, m].

    Raises ValueError where a class has no sample.
    """
    right = (networks(x).argmax(-1) == y).double()
    of = one_hot(y, classes).double()
    if not bool((of.sum(1) > 0).all()):
        raise ValueError(f"y: {int((of.sum(1) == 0).any(0).nonzero()[0, 0])} is a class of which some run has none")
    return (right[..., None] * of).sum(1) / of.sum(1)


def spread(images: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How much samples of one class differ: variance of each entry of images [R, m, D] over the samples of a class,
    summed over entries, mean over the classes that occur among labels [R, m]: [R].

    Raises ValueError for other shapes, and for a class with one sample only.
    """
    if images.ndim != 3 or labels.shape != images.shape[:2]:
        raise ValueError(
            f"images [R, m, D] and labels [R, m] are needed, got {list(images.shape)}, {list(labels.shape)}"
        )
    of = one_hot(labels, classes).to(images)
    count = of.sum(1)
    if bool((count == 1).any()):
        raise ValueError("labels: a class with a single sample has no variance")
    sums = torch.einsum("rmd,rmc->rcd", images, of)
    squares = torch.einsum("rmd,rmc->rcd", images.square(), of)
    of_class = (squares - sums.square() / count.clamp(min=1)[..., None]).sum(-1) / (count - 1).clamp(min=1)
    return of_class.sum(-1) / (count > 0).sum(-1)


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of two Gaussians with means and covariances of features a [n, D] and b [m, D]:
    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017, equation 6).

    tr (S_a S_b)^(1/2) is the sum of the singular values of A^T B for S_a = A A^T and S_b = B B^T. Raises ValueError for
    other shapes, or fewer than two samples.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features [n, D] and [m, D] of two samples at least, got {list(a.shape)} and {list(b.shape)}")
    require.finite("features", a, b)
    roots = [(t - t.mean(0)).double() / (len(t) - 1) ** 0.5 for t in (a, b)]
    apart = (a.double().mean(0) - b.double().mean(0)).square().sum()
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return float(apart + sum(r.square().sum() for r in roots) - 2 * shared)
