"""FedGen (Zhu, Hong and Zhou 2021, Algorithm 1): a generator of features, taught by the clients' predictors on the
server, rehearses on every client the classes that the client lacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot

from fedlib import require, rng, stacking
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Job
from fedlib.losses import cross_entropy
from fedlib.models.generator import Generator, labelled
from fedlib.models.net import Net, State
from fedlib.optim import Adam
from fedlib.partition import label_counts

TEACHERS = ("logits", "weighted", "broadcast")


@dataclass(frozen=True)
class Teaching:
    """How the server trains the generator: Adam with weight decay, ``steps`` per round, on batches of its samples.

    ``teacher``: ``"logits"`` is equation (4), ``"weighted"`` and ``"broadcast"`` are what the released code means and
    what it does (:func:`teacher_loss`). ``labels`` are drawn from the clients' label ``"counts"`` or ``"uniform"`` over
    the classes that somebody holds, ``noise`` is ``"normal"`` or ``"uniform"`` in [0, 1). ``diversity`` weighs
    :func:`diversity`.
    """

    steps: int = 50
    batch_size: int = 32
    lr: float = 3e-4
    lr_decay: float = 0.98
    weight_decay: float = 1e-2
    diversity: float = 1.0
    teacher: str = "logits"
    labels: str = "counts"
    noise: str = "normal"
    noise_size: int = 32
    hidden: int = 256

    def __post_init__(self) -> None:
        choices = {"teacher": TEACHERS, "labels": ("counts", "uniform"), "noise": ("normal", "uniform")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("steps", "batch_size", "noise_size", "hidden"):
            require.whole(name, getattr(self, name), 0 if name == "steps" else 1)
        for name in ("lr", "lr_decay"):
            require.real(name, getattr(self, name), above=0)
        for name in ("weight_decay", "diversity"):
            require.real(name, getattr(self, name), least=0)

    def prior(self, counts: Tensor) -> Tensor:
        """Probabilities [..., C] of the labels to generate, from the label counts [..., m, C] of m clients."""
        pooled = counts.sum(-2)
        pooled = pooled if self.labels == "counts" else (pooled > 0).to(pooled)
        return pooled / pooled.sum(-1, keepdim=True)

    def draw(self, prior: Tensor, count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Labels [count] from a prior [C], and noise [count, E] for them, on the prior's device."""
        y = torch.multinomial(prior.cpu(), count, replacement=True, generator=source)
        return y.to(prior.device), self.sample_noise(count, source).to(prior)

    def sample_noise(self, count: int, source: torch.Generator) -> Tensor:
        """Noise [count, E], float64 on the host."""
        law = torch.randn if self.noise == "normal" else torch.rand
        return law(count, self.noise_size, generator=source, dtype=torch.float64)


DEFAULT = Teaching()


class FedGen(FedAvg):
    """Local objective: CE on real samples + ``weight`` CE of the predictor on generated features (equation 5)
    + ``extra`` KL(prediction for a generated feature of the same class || prediction), which only the code has.

    Both weights shrink by ``decay`` a round, and both terms begin in the second round: before, the generator knows
    nothing. A client draws ``draws`` features a round and uses all at every step: the expectation of fresh batches with
    less noise. The predictor is the linear layer ``head``; ``positive`` says that features are never negative, as
    behind a ReLU. ``personal`` patterns, such as ``("body.*",)``, leave the extractor with the clients, and only the
    predictor is shared. With both weights 0 it is FedAvg.

    Down: what is shared, the generator with its statistics, the label prior; up: what is shared, and C label counts.
    """

    def __init__(
        self,
        weight: float = 10.0,
        extra: float = 0.0,
        decay: float = 0.98,
        teaching: Teaching = DEFAULT,
        draws: int = 128,
        positive: bool = True,
        personal: tuple[str, ...] = (),
    ):
        self.weight, self.extra = require.real("weight", weight, least=0), require.real("extra", extra, least=0)
        self.decay, self.draws = require.real("decay", decay, above=0), require.whole("draws", draws, 1)
        self.teaching, self.positive, self.personal = teaching, positive, personal

    def setup(self, fed: Federation) -> None:
        net = self.generator(fed)
        start = net.initial()
        zero = {n: torch.zeros_like(start[n]) for n in net.parameters}
        fed.memory = _flat(generator=start, m=zero, v=zero) | {"t": torch.zeros((), dtype=torch.int64)}

    def latent(self, fed: Federation) -> tuple[int, int]:
        """Number of classes and of features, the predictor's output and input."""
        if "head.weight" not in fed.state or "head.weight" in fed.personal:
            raise ValueError("FedGen needs a network whose predictor is a linear layer named head, and shared")
        classes, features = fed.state["head.weight"].shape
        return classes, features

    def predictor(self, net: Net, state: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """Logits [..., M, C] of features [..., M, d]; leading dimensions are those of the weights."""
        return z @ state["head.weight"].mT + state["head.bias"].unsqueeze(-2)

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        logits, drawn, fading = net(state, x, train=True), context.own, self.decay**context.round
        loss = cross_entropy(logits, y)
        if "z" in drawn:
            loss = loss + self.weight * fading * cross_entropy(self.predictor(net, state, drawn["z"]), drawn["y"])
        if "anchors" in drawn:
            answers = self.predictor(net, state, drawn["anchors"])
            loss = loss + self.extra * fading * imitation(logits, y, answers)
        return loss

    def context(self, fed: Federation, client: int) -> State:
        """Features generated for this round, z [M, d], with labels y [M]; for the KL, C groups, one per class."""
        if "prior" not in fed.memory:
            return {}
        source, drawn = rng.stream(fed.seed, "generated", fed.round, client), {}
        if self.weight:
            y, noise = self.teaching.draw(fed.memory["prior"], self.draws, source)
            drawn = {"z": self.generate(fed, y, noise), "y": y}
        if self.extra:
            classes = self.latent(fed)[0]
            y = torch.arange(classes, device=fed.device).repeat_interleave(max(1, self.draws // classes))
            noise = self.teaching.sample_noise(len(y), source).to(fed.device, fed.dtype)
            drawn["anchors"] = self.generate(fed, y, noise)
        return drawn

    def generator(self, fed: Federation) -> Net:
        """The generator's network; its weights are in ``fed.memory``."""
        key, how = (FedGen, self.teaching, self.positive), self.teaching
        if key not in fed.net.notes:
            make = partial(Generator, *self.latent(fed), how.noise_size, how.hidden, self.positive)
            fed.net.notes[key] = Net(rng.build(make, fed.seed, "generator"), fed.device, fed.dtype, fed.net.precision)
        return fed.net.notes[key]

    def generate(self, fed: Federation, y: Tensor, noise: Tensor) -> Tensor:
        """Features [M, d] of the classes y [M] from noise [M, E], with BatchNorm in evaluation mode."""
        classes = self.latent(fed)[0]
        return self.generator(fed).predict(_slot(fed.memory, "generator"), labelled(noise, y, classes))

    def broadcast(self, fed: Federation) -> State:
        sent = super().broadcast(fed)
        if "prior" not in fed.memory:  # an untrained generator is of no use to anybody
            return sent
        return sent | _flat(generator=_slot(fed.memory, "generator")) | {"prior": fed.memory["prior"]}

    def upload(self, fed: Federation, client: int, state: State) -> State:
        counts = label_counts(fed.y, [fed.split[client]], self.latent(fed)[0])[0]
        return super().upload(fed, client, state) | {"labels": counts.to(fed.dtype)}

    def teachers(self, fed: Federation, models: Sequence[State]) -> State:
        """What :meth:`predictor` needs of m models, with a leading dimension of m."""
        return stacking.take([{n: s[n] for n in ("head.weight", "head.bias")} for s in models])

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> Iterator[Job]:
        counts = torch.stack([u["labels"] for u in uploads])
        models = [{n: t for n, t in u.items() if n != "labels"} for u in uploads]
        yield from super().aggregate(fed, models, weights) or ()
        rate = self.teaching.lr * self.teaching.lr_decay**fed.round
        source = rng.stream(fed.seed, "teaching", fed.round)
        memory = {m: _slot(fed.memory, m) for m in ("generator", "m", "v")}
        teachers, taken = self.teachers(fed, models), int(fed.memory["t"])
        lesson = Lesson(self, fed.net, self.generator(fed), memory, taken, teachers, counts, rate, source)
        yield lesson
        prior = self.teaching.prior(counts)
        fed.memory = _flat(**lesson.memory) | {"t": torch.tensor(lesson.taken), "prior": prior}


@dataclass(eq=False)
class Lesson:
    """The generator's training of one round, alone or with those of other federations; ``memory`` holds its weights and
    Adam's moments, and then what became of them; ``taken`` counts Adam's steps.
    """

    algorithm: FedGen
    student: Net
    net: Net
    memory: dict[str, State]
    taken: int
    teachers: State
    counts: Tensor
    rate: float
    source: torch.Generator

    def fits(self, other: object) -> bool:
        """Whether the other generator may be trained in the same computation."""
        if not isinstance(other, Lesson):
            return False
        mine, its = ((s.algorithm, s.net.form, s.taken, s.counts.shape, s.rate) for s in (self, other))
        classes, noise = self.counts.shape[-1], self.algorithm.teaching.noise_size
        return mine == its and stacking.faithful(self.net, torch.zeros(1, noise + classes, device=self.net.device))

    def do(self, others: Sequence[Lesson] = ()) -> None:
        """Train this generator, and the others with it."""
        teach([self, *others])


def teach(lessons: Sequence[Lesson]) -> None:
    """Steps on J(w) of equation (4), for the generators of S federations in one computation."""
    first, number = lessons[0], len(lessons)
    how, net, classes = first.algorithm.teaching, first.net, first.counts.shape[-1]
    stacked, states = stacking.stacked(net), stacking.take([s.memory["generator"] for s in lessons])
    adam = {"t": first.taken} | {m: stacking.take([s.memory[m] for s in lessons]) for m in ("m", "v")}
    teachers = stacking.take([s.teachers for s in lessons])
    counts = torch.stack([s.counts for s in lessons])
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    drawn = [how.draw(how.prior(s.counts), how.steps * how.batch_size, s.source) for s in lessons]
    labels, noises = (torch.stack(v) for v in zip(*drawn, strict=True))  # [S, steps B], [S, steps B, E]
    inputs = labelled(noises, labels, classes).transpose(0, 1).unsqueeze(2)
    leaves = {n: states[n].requires_grad_() for n in net.parameters}
    params = {n: w.detach() for n, w in leaves.items()}
    even = torch.full((how.batch_size, number), 1 / how.batch_size, device=net.device, dtype=net.dtype)
    total = torch.zeros((), device=net.device, dtype=net.dtype)
    stacked.weigh(even, None)
    batches = (labels.split(how.batch_size, 1), noises.split(how.batch_size, 1), inputs.split(how.batch_size))
    for y, noise, x in zip(*batches, strict=True):
        z = stacked(states, x, train=True).squeeze(2).transpose(0, 1)
        logits = first.algorithm.predictor(first.student, teachers, z.unsqueeze(1))
        loss = teacher_loss(logits, y, share, how.teacher)
        if how.diversity:
            loss = loss + how.diversity * diversity(noise, z)
        grads = torch.autograd.grad(loss.sum(), list(leaves.values()))
        decayed = torch._foreach_add(grads, list(params.values()), alpha=how.weight_decay)
        Adam(first.rate).step(params, dict(zip(params, decayed, strict=True)), adam, first.rate)
        total += loss.detach().sum()
    if not math.isfinite(float(total)):
        raise ArithmeticError(f"the generator diverged: its summed loss over {how.steps} steps is {float(total)}")
    for k, lesson in enumerate(lessons):
        kept = {"generator": states, "m": adam["m"], "v": adam["v"]}
        lesson.memory = {m: {n: t[k].detach().clone() for n, t in slot.items()} for m, slot in kept.items()}  # type: ignore[union-attr]
        lesson.taken += how.steps


def teacher_loss(logits: Tensor, y: Tensor, share: Tensor, teacher: str = "logits") -> Tensor:
    """What m predictors make of generated features that should be of the classes y [..., B]; logits [..., m, B, C].

    ``"logits"``: cross-entropy of their averaged logits, equation (4). ``"weighted"``: their own cross-entropies, each
    weighted by ``share`` [..., m, C], the client's share of all samples of the class, as the released code intends.
    ``"broadcast"``: as it runs: a weight [B, 1] times losses [B] is a matrix [B, B], its mean the product of two means.
    """
    if teacher == "logits":
        return cross_entropy(logits.mean(-3), y)
    each = y.unsqueeze(-2).expand(logits.shape[:-1])
    nll = -log_softmax(logits, -1).gather(-1, each.unsqueeze(-1)).squeeze(-1)
    weight = share.gather(-1, each)
    if teacher == "weighted":
        return (weight * nll).sum(-2).mean(-1)
    return (weight.mean(-1) * nll.mean(-1)).sum(-1)


def diversity(noise: Tensor, z: Tensor) -> Tensor:
    """exp(-mean over all pairs of |noise_i - noise_j|^2 |z_i - z_j|), with means over entries; noise [..., B, E], z
    [..., B, d]. In (0, 1]: 1 when all z are equal (released code; the paper follows Mao et al. 2019).
    """
    noises = torch.cdist(noise, noise, compute_mode="donot_use_mm_for_euclid_dist").square() / noise.shape[-1]
    features = torch.cdist(z, z, p=1.0) / z.shape[-1]
    return (-(noises * features).mean((-2, -1))).exp()


def imitation(logits: Tensor, y: Tensor, answers: Tensor) -> Tensor:
    """KL(mean answer to generated features of the sample's class || softmax(logits)), mean over the batch.

    ``answers`` [..., C A, C] are the logits for A features of each class, in the order of the classes. No gradient
    flows to them. The gradient is that of the released code's loss, with one draw per sample, averaged over A draws.
    """
    classes = logits.shape[-1]
    mean = answers.detach().softmax(-1).unflatten(-2, (classes, -1)).mean(-2)
    target = one_hot(y, classes).to(mean) @ mean
    return (torch.xlogy(target, target) - target * log_softmax(logits, -1)).sum(-1).mean(-1)


def _flat(**slots: Mapping[str, Tensor]) -> State:
    return {f"{slot}/{n}": t for slot, tensors in slots.items() for n, t in tensors.items()}


def _slot(memory: Mapping[str, Tensor], slot: str) -> State:
    return {n.removeprefix(f"{slot}/"): t for n, t in memory.items() if n.startswith(f"{slot}/")}
