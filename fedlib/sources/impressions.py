"""Data impressions (Nayak et al. 2019): inputs made from a classifier alone, without any data.

Its last layer says which classes it holds to be alike. From that, plausible soft labels are drawn, and inputs are
optimised until the classifier answers with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedlib import rng
from fedlib.distill import Distillation
from fedlib.federation import Federation
from fedlib.models.net import Net, State
from fedlib.optim import Adam, Memory
from fedlib.sources.server import Ensemble, Fit, Fitting, fit, identity, stream

FLOOR = 1e-4  # added to every concentration, which must be positive
Labels = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""From a classifier's rows [C, d] and how many to draw of each class [C] to soft labels [sum, C], class by class."""


def class_similarity(rows: Tensor) -> Tensor:
    """Cosine of every pair of classifier rows [C, d]: [C, C] (Nayak et al. 2019, equation 2).

    Each pair is divided by the norms of its own two rows. One common divisor, such as the norm of the whole matrix,
    would be undone by the min-max that follows and leave plain inner products, where the longest row looks most alike.
    """
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T


def concentrations(similarity: Tensor, scale: float) -> Tensor:
    """Dirichlet concentrations [C, C], one row per class: scale * minmax(S[c]) + 1e-4.

    Raises ValueError unless scale > 0.
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    low, high = similarity.amin(1, keepdim=True), similarity.amax(1, keepdim=True)
    return scale * (similarity - low) / (high - low) + FLOOR


def soft_labels(concentration: Tensor, c: int, count: int, generator: torch.Generator, tries: int = 200) -> Tensor:
    """``count`` draws [count, C] (float64, on the host) from Dirichlet(concentration [C]) whose largest entry is c.

    Others are rejected. With cosines the concentration of c is the row's largest, so at least one draw in C is kept.
    Raises ValueError when after ``tries`` draws for each wanted one there are still too few.
    """
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    alpha, kept, drawn = concentration.double().cpu().numpy(), [np.empty((0, len(concentration)))], 0
    while (found := sum(map(len, kept))) < count:
        if drawn >= tries * count:
            raise ValueError(
                f"only {found} of {drawn} draws have class {c} on top, {count} are needed: its concentration "
                f"{alpha[c]:.3g} is too small beside {alpha.max():.3g}; is the similarity a cosine?"
            )
        some = draw.dirichlet(alpha, size=4 * count)
        kept.append(some[some.argmax(1) == c])
        drawn += len(some)
    return torch.from_numpy(np.concatenate(kept)[:count])


def dirichlet_labels(
    rows: Tensor, counts: Tensor, generator: torch.Generator, scales: Sequence[float] = (1.0, 0.1)
) -> Tensor:
    """Soft labels by class similarity; the ``scales`` take turns (Nayak et al. 2019: 1 and 0.1)."""
    tables = [concentrations(class_similarity(rows.double()), scale) for scale in scales]
    labels = []
    for c, count in enumerate(counts.tolist()):
        for i, table in enumerate(tables):
            share = (count + len(tables) - 1 - i) // len(tables)
            labels.append(soft_labels(table[c], c, share, generator))
    return torch.cat(labels)


def smoothed_labels(rows: Tensor, counts: Tensor, generator: torch.Generator, epsilon: float = 0.01) -> Tensor:
    """One-hot labels with ``epsilon`` on every other class and 1 - (C - 1) epsilon on the own one, so they sum to 1.

    Raises ValueError unless the own class stays the largest.
    """
    classes = len(rows)
    if not 0 <= epsilon < 1 / classes:
        raise ValueError(f"epsilon must lie in [0, 1/{classes}), got {epsilon}")
    table = torch.full((classes, classes), epsilon, dtype=torch.float64).fill_diagonal_(1 - (classes - 1) * epsilon)
    return table.repeat_interleave(counts.cpu(), 0)


def allocate(total: int, shares: Tensor) -> Tensor:
    """``total`` divided over classes in proportion to ``shares`` [..., C], rounded by largest remainder: int64."""
    exact = total * shares.double() / shares.double().sum(-1, keepdim=True)
    counts = exact.floor().long()
    first = torch.argsort(exact - counts, dim=-1, descending=True, stable=True)
    order = torch.argsort(first, dim=-1, stable=True)
    return counts + (order < total - counts.sum(-1, keepdim=True))


def row_norms(fed: Federation, teachers: Sequence[State]) -> Tensor:
    """Shares [K, C] by the norm of each classifier row: a guess at which classes a client has, with nothing sent."""
    return torch.stack([t["head.weight"].norm(dim=1) for t in teachers])


def label_counts(fed: Federation, teachers: Sequence[State]) -> Tensor:
    """Shares [K, C] by the label histograms of the round's clients, which they would have to send.

    Only when every model received is a teacher, in the order of the clients.
    """
    clients = fed.sample(fed.round)
    if len(clients) != len(teachers):
        raise ValueError(f"{len(teachers)} teachers for {len(clients)} clients: whose labels are whose is not known")
    classes = len(teachers[0]["head.weight"])
    return torch.stack([torch.bincount(fed.y[fed.split[k]], minlength=classes) for k in clients])


def synthesise(
    net: Net,
    states: Sequence[State],
    targets: Tensor,
    shape: Sequence[int],
    generator: torch.Generator,
    steps: int = 150,
    lr: float = 0.05,
    to_input: Callable[[Tensor], Tensor] = identity,
    statistics: float = 0.0,
) -> Tensor:
    """Images [K, n, *shape] in [0, 1] to which model k answers with ``targets`` [K, n, C]: argmin KL(y || softmax f_k).

    From uniform noise, with Adam, clamped after each step. Models are in evaluation mode and the loss is a *sum* over
    images, so each image is what it would be alone. ``to_input`` brings pixels into the network's form.
    ``statistics`` weighs a term that asks for batches whose mean and variance are those which BatchNorm layers
    remember (DeepInversion, Yin et al. 2020); it couples the images of a model, and makes them look more like data.
    """
    device, dtype = net.device, net.dtype
    y = targets.to(device, dtype)
    x = torch.rand((*targets.shape[:2], *shape), generator=generator, dtype=dtype).to(device)
    models = Ensemble(net, states, to_input(x[0]))
    adam, memory = Adam(lr), Memory()
    for _ in range(steps):
        x.requires_grad_()
        inputs = to_input(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        loss = -(y * models.each(inputs).log_softmax(-1)).sum()
        if statistics:
            gaps = [statistics_gap(net, s, part) for s, part in zip(states, inputs, strict=True)]
            loss = loss + statistics * x.shape[1] * torch.stack(gaps).sum()
        grad = torch.autograd.grad(loss, x)[0]
        x = x.detach()
        adam.step({"x": x}, {"x": grad}, memory)
        x.clamp_(0, 1)
    return x


def statistics_gap(net: Net, state: State, x: Tensor) -> Tensor:
    """Distances of the batch's mean and variance to the running ones, summed over BatchNorm layers (DeepInversion)."""
    gaps: list[Tensor] = []

    def compare(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        h = args[0].transpose(0, 1).flatten(1)
        mean, variance = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        gaps.append((h.mean(1) - mean).norm() + (h.var(1, correction=0) - variance).norm())

    module = net._eval.module
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [m.register_forward_pre_hook(compare) for m in layers]
    try:
        net(state, x)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(gaps).sum() if gaps else x.new_zeros(())


@dataclass(frozen=True)
class Impressions:
    """Each teacher's data impressions, all in one pool, on which the ensemble answers as it does on real images.

    ``per_class`` images of each class for each teacher, of ``shape``. ``labels`` draws the soft labels;
    ``shares(fed, teachers)`` [K, C] divides each teacher's images over the classes (None: evenly). The classifier is
    the layer ``head``.
    """

    shape: Sequence[int]
    per_class: int = 20
    steps: int = 150
    lr: float = 0.05
    to_input: Callable[[Tensor], Tensor] = identity
    labels: Labels = dirichlet_labels
    shares: Callable[[Federation, Sequence[State]], Tensor] | None = None
    statistics: float = 0.0

    def make(self, fed: Federation, teachers: Sequence[State]) -> tuple[Tensor, Tensor]:
        """Pixels [K, n, *shape] in [0, 1] and the soft labels [K, n, C] that they were made for."""
        draw, rows = rng.stream(fed.seed, "impressions", fed.round), [t["head.weight"].detach() for t in teachers]
        even = torch.ones(len(teachers), len(rows[0]))
        shares = self.shares(fed, teachers).cpu() if self.shares else even
        counts = allocate(self.per_class * len(rows[0]), shares)
        y = torch.stack([self.labels(w.cpu(), count, draw) for w, count in zip(rows, counts, strict=True)])
        x = synthesise(fed.net, teachers, y, self.shape, draw, self.steps, self.lr, self.to_input, self.statistics)
        return x, y

    def __call__(self, fed: Federation, teachers: Sequence[State], start: State, how: Distillation | Fit) -> Fitting:
        """The student learns the averaged logits on the pool."""
        x = self.to_input(self.make(fed, teachers)[0].flatten(0, 1))
        logits = fed.net.predict_all(teachers, x).mean(0)
        return (yield from fit(fed, start, x, logits, how, stream(fed)))


@dataclass(frozen=True)
class ImpressionsInTurn(Impressions):
    """As the released code of FedDF has it: teacher after teacher, each alone on its own impressions.

    The steps of a :class:`~fedlib.distill.Distillation` are shared out over the teachers.
    """

    def __call__(self, fed: Federation, teachers: Sequence[State], start: State, how: Distillation | Fit) -> Fitting:
        """The student learns one teacher's logits on that teacher's set, then the next one's."""
        draw, state = stream(fed), start
        for i, (teacher, pixels) in enumerate(zip(teachers, self.make(fed, teachers)[0], strict=True)):
            x = self.to_input(pixels)
            each: Distillation | Fit = how
            if isinstance(how, Distillation):
                number = how.steps // len(teachers) + (i < how.steps % len(teachers))
                each = Distillation(number, how.batch_size, how.lr, how.temperature, how.max_norm)
            state = yield from fit(fed, state, x, fed.net.predict(teacher, x), each, draw)
        return state
