"""What is measured: predictions, weights, forgetting, label skew. Functions of tensors that return numbers or
tensors.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedlib.losses import kl


def accuracy(logits: Tensor, target: Tensor) -> float:
    """Share of samples whose largest logit is the target's; logits [N, C], target [N]. In [0, 1]."""
    return float((logits.argmax(-1) == target).double().mean())


def class_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Accuracy within each class: float64 [C]; NaN for a class without samples."""
    classes = logits.shape[-1]
    hits = torch.bincount(target[logits.argmax(-1) == target], minlength=classes).double()
    return hits / torch.bincount(target, minlength=classes).double()


def local_accuracies(per_class: Tensor, label_share: Tensor) -> tuple[float, float]:
    """In-local and out-of-local accuracy of a client's model (Lee et al. 2022, released code's ``measures``).

    ``per_class`` [C] is the model's accuracy A_c on a balanced test set, ``label_share`` [C] the client's label
    distribution p: in = sum_c p_c A_c and out = sum_c (1 - p_c) / (C - 1) A_c.
    """
    p = label_share.to(per_class)
    return float((p * per_class).sum()), float(((1 - p) / (len(p) - 1) * per_class).sum())


def forgetting(class_accuracy_by_round: Tensor) -> float:
    """Mean over classes of the best accuracy before the last round minus that in the last round.

    F = 1/C sum_c max_{t < T} (A_c^t - A_c^T) with ``class_accuracy_by_round`` [T, C] (Lee et al. 2022, section 2). It
    grows with the number
    of rounds and with noise: compare at equal T. Raises ValueError with fewer than two rounds.
    """
    a = class_accuracy_by_round
    if a.ndim != 2 or len(a) < 2:
        raise ValueError(f"forgetting needs [T, C] with T >= 2, got shape {tuple(a.shape)}")
    return float((a[:-1].amax(0) - a[-1]).mean())


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Share of samples on which two models predict the same class; logits [N, C]."""
    return float((logits_a.argmax(-1) == logits_b.argmax(-1)).double().mean())


def predictive_kl(teacher_logits: Tensor, student_logits: Tensor) -> float:
    """KL(softmax(teacher) || softmax(student)), mean over samples, in nats; logits [N, C]."""
    return float(kl(teacher_logits, student_logits))


def weight_divergence(params: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """||w - w_ref|| / ||w_ref|| over all floating-point entries (Zhao et al. 2018, equation 4)."""
    names = [n for n, w in reference.items() if w.is_floating_point()]
    gap = sum(float((params[n] - reference[n]).double().square().sum()) for n in names)
    size = sum(float(reference[n].double().square().sum()) for n in names)
    return (gap / size) ** 0.5


def mean_pairwise_cosine(updates: Sequence[Mapping[str, Tensor]]) -> float:
    """Mean cosine similarity over all pairs of updates (dictionaries of tensors); at least two updates."""
    if len(updates) < 2:
        raise ValueError(f"a pair needs two updates, got {len(updates)}")
    flat = torch.stack([torch.cat([t.flatten().double() for t in u.values()]) for u in updates])
    unit = flat / flat.norm(dim=1, keepdim=True)
    m = len(unit)
    return float(((unit @ unit.T).sum() - m) / (m * (m - 1)))


def rounds_to_target(curve: Sequence[float], target: float) -> int | None:
    """First round (counted from 1) at which the curve reaches the target; None when it never does."""
    return next((t for t, value in enumerate(curve, start=1) if value >= target), None)


def label_emd(client_labels: Tensor, all_labels: Tensor) -> float:
    """Distance of a client's label distribution to the whole one: sum_c |p_c - q_c| (Zhao et al. 2018, section 3.2).

    0, 1.6 and 1.8 for all, two and one of ten equal classes.
    """
    classes = int(max(client_labels.max(), all_labels.max())) + 1
    p, q = (torch.bincount(v, minlength=classes).double() / len(v) for v in (client_labels, all_labels))
    return float((p - q).abs().sum())


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two representations [N, D1], [N, D2] (Kornblith et al. 2019); in [0, 1]."""
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def cka_matrix(representations: Sequence[Tensor]) -> Tensor:
    """:func:`linear_cka` of all pairs of M representations [N, D_i] of the same N samples: float64 [M, M].

    Computed from the N x N products between samples, which costs less than between features where D_i > N.
    """
    grams = []
    for x in representations:
        centred = x.double() - x.double().mean(0)
        gram = (centred @ centred.T).flatten()
        grams.append(gram / gram.norm())
    unit = torch.stack(grams)
    return unit @ unit.T
