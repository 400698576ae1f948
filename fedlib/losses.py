"""Losses of the papers, as functions of logits and parameters.

Logits are [B, C]; every loss is the mean over the batch, a scalar. Each has an identity test in float64. Leading
dimensions are kept: logits [..., B, C] give losses [...], and weights that are a stack of K clients give K values.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import log_softmax

from fedlib import require
from fedlib.stacking import Stack


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) and the classes ``target`` [B], mean over the batch."""
    if logits.ndim == 2:
        return functional.cross_entropy(logits, target)
    each = functional.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
    return each.view(target.shape).mean(-1)


def kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)), mean over the batch."""
    log_p, log_q = log_softmax(teacher_logits, -1), log_softmax(student_logits, -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Knowledge distillation: T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    T^2 keeps the size of the gradient independent of T (Hinton et al. 2015, section 2). No gradient flows to the
    teacher. Raises ValueError unless temperature > 0.
    """
    _check_temperature(temperature)
    return temperature**2 * kl(teacher_logits.detach() / temperature, student_logits / temperature)


def not_true_logits(logits: Tensor, target: Tensor) -> Tensor:
    """Logits [B, C] without the column of each sample's true class ``target`` [B]: [B, C - 1].

    The columns are gathered, never masked: a true-class logit multiplied by 0 would stay in the softmax as e^0.
    """
    classes = logits.shape[-1]
    others = torch.arange(classes - 1, device=logits.device).expand(*logits.shape[:-1], -1)
    return logits.gather(-1, others + (others >= target.unsqueeze(-1)))


def not_true_distillation(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float = 1.0
) -> Tensor:
    """Not-true distillation: T^2 KL(teacher || student) over all classes but each sample's true one, mean over the
    batch.

    (Lee et al. 2022, FedNTD.) Neither value nor gradient depends on the true-class logits. With C = 2 it is 0.
    """
    return kd(not_true_logits(student_logits, target), not_true_logits(teacher_logits, target), temperature)


def proximal(params: Mapping[str, Tensor], anchor: Mapping[str, Tensor], mu: float) -> Tensor:
    """Proximal term mu/2 ||w - w_anchor||^2 over the entries of ``params`` (Li et al. 2020, FedProx, equation 2)."""
    if mu < 0:
        raise ValueError(f"mu must not be negative, got {mu}")
    return 0.5 * mu * _total(params, {n: (w - anchor[n].detach()).square() for n, w in params.items()})


def inner(weights: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Tensor:
    """Inner product <w, d> over the entries of ``weights``: added to an objective, it adds d to the gradient.

    That is how a method steers local steps (SCAFFOLD's control variates, FedDyn's linear term). No gradient flows to d.
    For a stack of K clients one value each; a plain d is then common to all. Raises KeyError for an entry without a d,
    ValueError for one of another shape.
    """
    for n, w in weights.items():
        whole = isinstance(direction, Stack) or not isinstance(weights, Stack)
        if direction[n].shape != (w.shape if whole else w.shape[1:]):
            raise ValueError(f"weights and direction differ at {n}: {list(w.shape)} and {list(direction[n].shape)}")
    return _total(weights, {n: w * direction[n].detach() for n, w in weights.items()})


def _total(params: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> Tensor:
    """Sum of all numbers in ``terms``, which have the shapes of ``params``; if those are a stack, each client's."""
    keep = 1 if isinstance(params, Stack) else 0
    return torch.stack([t.reshape(*t.shape[:keep], -1).sum(-1) for t in terms.values()]).sum(0)


def reconstruction(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per entry of outputs and targets [B, D], mean over the batch: an autoencoder's objective."""
    return (output - target).square().mean((-2, -1))


def dice(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Dice loss of masks: 1 - (2 sum p t + s) / (sum p + sum t + s) with p = sigmoid(logits), mean over the batch.

    Logits and target [..., B, H, W], target in [0, 1] (Milletari, Navab and Ahmadi 2016, section 3, with plain in place
    of squared sums). It lies in [0, 1), is 0 for a perfect mask, and is as ``smooth`` -> 0 one minus the share of
    overlap. Raises ValueError for shapes that differ, ``smooth`` <= 0, or a target outside [0, 1].
    """
    require.real("smooth", smooth, above=0)
    if logits.shape != target.shape or logits.ndim < 3:
        raise ValueError(f"masks [B, H, W] of one shape are needed, got {list(logits.shape)} and {list(target.shape)}")
    if not bool(((target >= 0) & (target <= 1)).all()):
        raise ValueError("target: a mask has shares in [0, 1]")
    p, both = logits.sigmoid(), (-2, -1)
    overlap = 2 * (p * target).sum(both) + smooth
    return (1 - overlap / (p.sum(both) + target.sum(both) + smooth)).mean(-1)


def soft_dice(probabilities: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """Soft Dice loss of probabilities, mean over the batch; :func:`dice` is the same of logits.

    Probabilities and mask [..., B, H, W] in [0, 1] give [...] (:func:`miss`). Raises ValueError for shapes that differ,
    ``smooth`` <= 0, or values outside [0, 1].
    """
    require.real("smooth", smooth, above=0)
    if probabilities.shape != mask.shape or mask.ndim < 3 or not mask.numel():
        shapes = f"{list(probabilities.shape)} and {list(mask.shape)}"
        raise ValueError(f"masks [B, H, W] of one shape are needed, got {shapes}")
    for name, values in {"probabilities": probabilities, "mask": mask}.items():
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"{name}: shares in [0, 1] are needed")
    return miss(probabilities, mask, smooth).mean(-1)


def miss(probabilities: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum p t + s) / (sum p + sum t + s), sums over pixels, of shares p and t in [0, 1], [..., H, W]: [...]."""
    both = (-2, -1)
    overlap = 2 * (probabilities * mask).sum(both) + smooth
    return 1 - overlap / (probabilities.sum(both) + mask.sum(both) + smooth)


def model_contrastive(z: Tensor, z_global: Tensor, z_previous: Tensor, temperature: float = 0.5) -> Tensor:
    """Model-contrastive loss of representations [B, D] of the same inputs, mean over the batch.

    -log(e^{s/T} / (e^{s/T} + e^{s'/T})) with s the cosine of z and z_global, s' that of z and z_previous (Li, He and
    Song 2021, MOON, section 3.3). It lies in [log(1 + e^{-2/T}), log(1 + e^{2/T})] and does not depend on the lengths
    of the three. No gradient flows to z_global and z_previous. Raises ValueError unless temperature > 0.
    """
    _check_temperature(temperature)
    attract, repel = (functional.cosine_similarity(z, other.detach(), dim=-1) for other in (z_global, z_previous))
    return -functional.logsigmoid((attract - repel) / temperature).mean(-1)


def fsp(low: Tensor, high: Tensor) -> Tensor:
    """Flow between two layers: the Gram matrix of feature maps [B, C_low, H, W] and [B, C_high, H', W'], that is
    sum_p low_p high_p^T / (H W) over places p: [B, C_low, C_high].

    (Yim et al. 2017, equation 1.) The larger map is max-pooled to the smaller, whose height and width divide its own.
    Distillation compares these matrices of two networks, not the maps. Raises ValueError unless both are [B, C, H, W]
    with one B, and such sizes.
    """
    _check_maps(low=low, high=high)
    if len(low) != len(high):
        raise ValueError(f"low and high must be of the same samples, got {len(low)} and {len(high)}")
    places = min(low.shape[2:], high.shape[2:], key=lambda size: size[0] * size[1])
    if any(n % p for m in (low, high) for n, p in zip(m.shape[2:], places, strict=True)):
        raise ValueError(f"one size must divide the other, got {tuple(low.shape[2:])} and {tuple(high.shape[2:])}")
    low, high = (functional.adaptive_max_pool2d(m, tuple(places)) for m in (low, high))
    return torch.einsum("bchw,bdhw->bcd", low, high) / (places[0] * places[1])


def attention_transfer(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Attention transfer: sum over the maps of ||q_S / ||q_S|| - q_T / ||q_T|| ||_2, mean over the batch.

    A map [B, C, H, W] has the attention q = mean_c m_c^2, a vector of its H W places (Zagoruyko and Komodakis 2017,
    equation 2; their code has the mean of the squared difference instead of the norm). A student's map may have another
    number of channels than the teacher's, but not another size. No gradient flows to the teacher. Raises ValueError
    for maps that do not fit, or none.
    """
    if len(student_maps) != len(teacher_maps) or not len(student_maps):
        raise ValueError(
            f"expected as many maps of both, and one at least; got {len(student_maps)} and {len(teacher_maps)}"
        )
    total = student_maps[0].new_zeros(())
    for i, (s, t) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        _check_maps(**{f"student_maps[{i}]": s, f"teacher_maps[{i}]": t})
        if (len(s), *s.shape[2:]) != (len(t), *t.shape[2:]):
            raise ValueError(f"maps {i} must have one batch, height and width, got {list(s.shape)} and {list(t.shape)}")
        q, q_teacher = (functional.normalize(m.square().mean(1).flatten(1), dim=1) for m in (s, t.detach()))
        total = total + (q - q_teacher).norm(dim=1).mean()
    return total


def _check_maps(**given: Tensor) -> None:
    for name, maps in given.items():
        if maps.ndim != 4 or maps.numel() == 0:
            raise ValueError(f"{name} must be feature maps [B, C, H, W], none of them 0, got {list(maps.shape)}")


def mutual_distillation(
    mentor_logits: Tensor,
    mentee_logits: Tensor,
    target: Tensor,
    gap: Tensor | float = 0.0,
    *,
    distil: float = 1.0,
    adaptive: bool = True,
    least: float = 0.1,
) -> Tensor:
    """Task losses of two networks that teach each other, and their distance, mean over the batch; logits [B, C].

    Each sample's KL divergences, either way, times ``distil``, and its ``gap`` [B] (a distance of hidden states) are
    divided by the sum of its two cross-entropies (``adaptive``): who is unsure teaches little (Wu et al. 2022,
    equations 1 to 3). Our choices: that sum, never below ``least``, and the first argument of each divergence pass
    no gradient, so that nobody lowers the loss by raising a task loss, or teaches by learning. Raises ValueError for
    a gap of another shape, ``distil`` < 0 or ``least`` <= 0.
    """
    require.real("distil", distil, least=0)
    require.real("least", least, above=0)
    if isinstance(gap, Tensor) and gap.ndim and gap.shape != target.shape:
        raise ValueError(f"gap must have a number for each sample, {list(target.shape)}; got {list(gap.shape)}")
    log_p, log_q = log_softmax(mentor_logits, -1), log_softmax(mentee_logits, -1)
    chosen = target.unsqueeze(-1)
    tasks = -(log_p.gather(-1, chosen) + log_q.gather(-1, chosen)).squeeze(-1)
    to_mentor = (log_q.detach().exp() * (log_q.detach() - log_p)).sum(-1)
    to_mentee = (log_p.detach().exp() * (log_p.detach() - log_q)).sum(-1)
    weight = 1 / tasks.detach().clamp(min=least) if adaptive else 1.0
    return (tasks + weight * (distil * (to_mentor + to_mentee) + gap)).mean(-1)


def mmd(x: Tensor, y: Tensor, bandwidths: float | Sequence[float]) -> Tensor:
    """Squared maximum mean discrepancy of samples x [N, D] and y [M, D], biased, a sum over the Gaussian kernels
    k(u, v) = exp(-|u - v|^2 / b) of some bandwidths b.

    mean k(x, x') - 2 mean k(x, y) + mean k(y, y') over *all* pairs, a sample with itself too (Gretton et al. 2012,
    equation 5; Rozantsev, Salzmann and Fua 2019 take b = 1). It is never negative, and 0 for equal samples; where b is
    small beside all distances it is 1/N + 1/M whatever the samples are, without a gradient. Raises ValueError for other
    shapes, no samples, or a bandwidth that is not positive.
    """
    widths = _bandwidths(bandwidths)
    _check_samples(x, y)

    def squares(u: Tensor, v: Tensor) -> Tensor:
        apart = u.square().sum(-1)[..., :, None] + v.square().sum(-1)[..., None, :] - 2 * u @ v.mT
        return apart.clamp(min=0).flatten(-2)

    blocks = [squares(x, x), squares(x, y), squares(y, y)]
    apart = torch.cat(blocks, -1)  # for one pass of each kernel
    kernels = torch.stack([torch.exp(apart / -b) for b in widths]).sum(0)
    own, cross, other = (k.mean(-1) for k in kernels.split([block.shape[-1] for block in blocks], -1))
    return own - 2 * cross + other


def _bandwidths(given: float | Sequence[float]) -> list[float]:
    several = list(given) if isinstance(given, Sequence) else [given]
    if not several:
        raise ValueError("bandwidths: at least one is needed, and there is none")
    return [require.real("a bandwidth", b, above=0) for b in several]


def _check_samples(x: Tensor, y: Tensor) -> None:
    for name, t in (("x", x), ("y", y)):
        if t.ndim < 2 or t.numel() == 0 or not t.is_floating_point():
            raise ValueError(f"{name} must be samples [N, D], one at least, got {t.dtype} {list(t.shape)}")
    if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
        raise ValueError(f"x and y must be of one width, got {list(x.shape)} and {list(y.shape)}")


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent, the loss of SimCLR (Chen et al. 2020, equation 1): representations [B, D] of two views of B samples, the
    mean over all 2 B of -log(e^{s/T} / sum e^{s'/T}).

    s is the cosine with the other view of the same sample, s' those with all 2 B - 1 others: the other view, and both
    views of the other samples; not with itself. It is symmetric in the views, does not depend on lengths, and is
    log(2 B - 1) where all cosines are equal. Raises ValueError unless temperature > 0 and both are [..., B, D] of the
    same samples.
    """
    _check_temperature(temperature)
    if z1.shape != z2.shape or z1.ndim < 2 or z1.numel() == 0 or not z1.is_floating_point():
        raise ValueError(
            f"z1 and z2: expected two views [B, D] of B >= 1 samples, got {z1.dtype} {list(z1.shape)}, {list(z2.shape)}"
        )
    views = functional.normalize(torch.cat([z1, z2], -2), dim=-1)
    count = views.shape[-2]
    itself = torch.eye(count, dtype=torch.bool, device=views.device)
    cosines = (views @ views.mT / temperature).masked_fill(itself, -torch.inf)
    other = torch.arange(count, device=views.device).roll(count // 2)
    return -log_softmax(cosines, -1)[..., torch.arange(count, device=views.device), other].mean(-1)
