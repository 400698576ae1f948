"""What is measured: predictions, weights, forgetting, label skew. Functions of tensors that return numbers or
tensors.

All raise ValueError for tensors that are empty or do not fit each other, and NotFinite, an ArithmeticError, for a NaN
or an infinity, of which the largest is no prediction and the mean no measurement. Tensors may lie on several devices.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedlib import require
from fedlib.losses import kl


def _check_logits(**given: Tensor) -> None:
    for name, logits in given.items():
        if logits.ndim != 2 or logits.numel() == 0:
            raise ValueError(f"{name} must be [N, C] with N, C >= 1, got {list(logits.shape)}")
        # A class may be ruled out by a logit of minus infinity, as long as another one is left.
        ruled_out = logits.isneginf()
        require.finite(name, logits.masked_fill(ruled_out & ~ruled_out.all(-1, keepdim=True), 0))


def _check_labels(name: str, labels: Tensor, classes: int | None = None) -> None:
    if labels.ndim != 1 or len(labels) == 0 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{name} must be integers [N] with N >= 1, got {labels.dtype} {list(labels.shape)}")
    low, high = (int(v) for v in labels.aminmax())
    if low < 0 or (classes is not None and high >= classes):
        bound = f"0 to {classes - 1}" if classes is not None else "counted from 0"
        raise ValueError(f"{name} must be classes {bound}, got {low if low < 0 else high}")


def _check(logits: Tensor, target: Tensor) -> Tensor:
    """The target beside the logits, once both are what they should be."""
    _check_logits(logits=logits)
    _check_labels("target", target, logits.shape[1])
    if len(target) != len(logits):
        raise ValueError(f"one target is needed for each sample, got {len(target)} for {len(logits)}")
    return target.to(logits.device)


def accuracy(logits: Tensor, target: Tensor) -> float:
    """Share of samples whose largest logit is the target's; logits [N, C], target [N]. In [0, 1]."""
    target = _check(logits, target)
    return float((logits.argmax(-1) == target).double().mean())


def class_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Accuracy within each class: float64 [C]; NaN for a class without samples."""
    target = _check(logits, target)
    classes = logits.shape[-1]
    hits = torch.bincount(target[logits.argmax(-1) == target], minlength=classes).double()
    return hits / torch.bincount(target, minlength=classes).double()


def local_accuracies(per_class: Tensor, label_share: Tensor) -> tuple[float, float]:
    """In-local and out-of-local accuracy of a client's model (Lee et al. 2022, released code's ``measures``).

    ``per_class`` [C] is the model's accuracy A_c on a balanced test set, ``label_share`` [C] the client's label
    distribution p: in = sum_c p_c A_c and out = sum_c (1 - p_c) / (C - 1) A_c.
    """
    if per_class.ndim != 1 or len(per_class) < 2 or label_share.shape != per_class.shape:
        raise ValueError(
            f"per_class and label_share must be [C] with C >= 2, got {list(per_class.shape)}, {list(label_share.shape)}"
        )
    require.finite("per_class (has every class test samples?)", per_class)
    require.finite("label_share (has the client samples?)", label_share)
    if bool((label_share < 0).any()) or abs(float(label_share.sum()) - 1) > 1e-3:
        raise ValueError(f"label_share must be shares that sum to 1, got {label_share.tolist()}")
    p = label_share.to(per_class)
    return float((p * per_class).sum()), float(((1 - p) / (len(p) - 1) * per_class).sum())


def forgetting(class_accuracy_by_round: Tensor) -> float:
    """Mean over classes of the best accuracy before the last round minus that in the last round.

    F = 1/C sum_c max_{t < T} (A_c^t - A_c^T) with ``class_accuracy_by_round`` [T, C] (Lee et al. 2022, section 2). It
    grows with the number of rounds and with noise: compare at equal T. Raises ValueError with fewer than two rounds.
    """
    a = class_accuracy_by_round
    if a.ndim != 2 or len(a) < 2 or a.numel() == 0:
        raise ValueError(f"forgetting needs [T, C] with T >= 2, got shape {tuple(a.shape)}")
    require.finite("class_accuracy_by_round (has every class test samples?)", a)
    return float((a[:-1].amax(0) - a[-1]).mean())


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Share of samples on which two models predict the same class; logits [N, C]."""
    _check_pair(logits_a=logits_a, logits_b=logits_b)
    return float((logits_a.argmax(-1) == logits_b.argmax(-1).to(logits_a.device)).double().mean())


def predictive_kl(teacher_logits: Tensor, student_logits: Tensor) -> float:
    """KL(softmax(teacher) || softmax(student)), mean over samples, in nats; logits [N, C]."""
    _check_pair(teacher_logits=teacher_logits, student_logits=student_logits)
    return _number("the divergence", float(kl(teacher_logits, student_logits.to(teacher_logits.device))))


def _check_pair(**given: Tensor) -> None:
    _check_logits(**given)
    (a, x), (b, y) = given.items()
    if x.shape != y.shape:
        raise ValueError(f"{a} and {b} must have one shape, got {list(x.shape)} and {list(y.shape)}")


def _number(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise require.NotFinite(f"{name} is {value}: no finite number")
    return value


def weight_divergence(params: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """||w - w_ref|| / ||w_ref|| over all floating-point entries (Zhao et al. 2018, equation 4).

    Raises ValueError when the two do not have the same entries, or the reference is zero.
    """
    floating = ({n: w.shape for n, w in state.items() if w.is_floating_point()} for state in (params, reference))
    there, names = floating
    if not names or there != names:
        other = sorted({n for n, _ in there.items() ^ names.items()})
        raise ValueError(
            f"the weights must have the entries of the reference, in its shapes; not so: {other or 'none'}"
        )
    gap = sum(float((params[n].to(reference[n].device) - reference[n]).double().square().sum()) for n in names)
    size = sum(float(reference[n].double().square().sum()) for n in names)
    if size == 0:
        raise ValueError("the reference is zero: nothing is far from it, or near, in relation to its size")
    return _number("the divergence of the weights", (gap / size) ** 0.5)


def mean_pairwise_cosine(updates: Sequence[Mapping[str, Tensor]]) -> float:
    """Mean cosine similarity over all pairs of updates (dictionaries of tensors); at least two updates.

    Raises NotFinite for an update of zero, too, which has no direction.
    """
    if len(updates) < 2:
        raise ValueError(f"a pair needs two updates, got {len(updates)}")
    first = {n: t.shape for n, t in updates[0].items()}
    for i, u in enumerate(updates):
        if not first or {n: t.shape for n, t in u.items()} != first:
            raise ValueError(f"updates must have the same entries; those of number {i}: {list(u)}, of 0: {list(first)}")
    device = next(iter(updates[0].values())).device
    flat = torch.stack([torch.cat([u[n].flatten().double().to(device) for n in first]) for u in updates])
    size = flat.norm(dim=1, keepdim=True)
    if not require.all_finite([size]) or not bool(size.all()):
        raise require.NotFinite(f"updates that are zero or not finite have no direction; norms: {size[:, 0].tolist()}")
    unit = flat / size
    m = len(unit)
    return float(((unit @ unit.T).sum() - m) / (m * (m - 1)))


def rounds_to_target(curve: Sequence[float], target: float) -> int | None:
    """First round (counted from 1) at which the curve reaches the target; None when it never does."""
    require.real("target", target)
    for t, value in enumerate(curve, start=1):
        if not math.isfinite(value):
            raise require.NotFinite(f"the curve is {value} in round {t}: whether it reaches a target is unknown")
        if value >= target:
            return t
    return None


def label_emd(client_labels: Tensor, all_labels: Tensor) -> float:
    """Distance of a client's label distribution to the whole one: sum_c |p_c - q_c| (Zhao et al. 2018, section 3.2).

    0, 1.6 and 1.8 for all, two and one of ten equal classes.
    """
    _check_labels("client_labels", client_labels)
    _check_labels("all_labels", all_labels)
    client_labels = client_labels.to(all_labels.device)
    classes = int(max(client_labels.max(), all_labels.max())) + 1
    p, q = (torch.bincount(v, minlength=classes).double() / len(v) for v in (client_labels, all_labels))
    return float((p - q).abs().sum())


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two representations [N, D1], [N, D2] (Kornblith et al. 2019); in [0, 1].

    Raises NotFinite for a representation, too, that is the same for all samples.
    """
    _check_representations([x, y])
    x, y = (v.double() - v.double().mean(0) for v in (x, y.to(x.device)))
    size = (x.T @ x).norm() * (y.T @ y).norm()
    _varies(float(size))
    return float((x.T @ y).square().sum() / size)


def _varies(size: float) -> None:
    if not 0 < size < math.inf:
        raise require.NotFinite(f"a representation that is the same for all samples has no alignment; norm {size}")


def _check_representations(given: Sequence[Tensor]) -> None:
    shapes = [list(x.shape) for x in given]
    if not given or any(x.ndim != 2 or len(x) < 2 or x.numel() == 0 for x in given) or len({len(x) for x in given}) > 1:
        raise ValueError(f"representations must be [N, D] of the same N >= 2 samples, got {shapes}")
    for i, x in enumerate(given):
        require.finite(f"representation {i}", x)


def cka_matrix(representations: Sequence[Tensor]) -> Tensor:
    """:func:`linear_cka` of all pairs of M representations [N, D_i] of the same N samples: float64 [M, M].

    Computed from the N x N products between samples, which costs less than between features where D_i > N.
    """
    _check_representations(representations)
    grams = []
    for x in representations:
        centred = x.double() - x.double().mean(0)
        gram = (centred @ centred.T).flatten()
        _varies(float(gram.norm()))
        grams.append((gram / gram.norm()).to(representations[0].device))
    unit = torch.stack(grams)
    return unit @ unit.T


def rank1(query: Tensor, query_ids: Tensor, gallery: Tensor, gallery_ids: Tensor, *cameras: Tensor) -> float:
    """Share of the queries whose most similar entry of the gallery, by cosine, shows the same identity; in [0, 1].

    Features, ids, cameras (of queries and of the gallery) and errors are those of :func:`fedlib.retrieval.ranked`.
    """
    from fedlib import retrieval

    return retrieval.found_first(retrieval.ranked(query, query_ids, gallery, gallery_ids, *cameras))


def mean_average_precision(*given: Tensor) -> float:
    """Mean over the queries of the average precision of their rankings of the gallery, by cosine; in [0, 1]. It takes
    what :func:`rank1` takes.
    """
    from fedlib import retrieval

    return retrieval.average_precision(retrieval.ranked(*given))
