"""Training one network in one place, in plain PyTorch: what the chapters without a federation have for a round loop.

An :class:`Objective` says what is minimised, a :class:`Training` how, and a :class:`Trainer` does it. First weights,
batches and augmentation are keyed by the seed and by the name of the network, so that two objectives of a comparison
see the same ones, and further modules of an objective move nobody's draws.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedlib import devices, inputs, require, rng
from fedlib.ledger import Ledger
from fedlib.losses import cross_entropy
from fedlib.steps import Step

SCHEDULES = ("constant", "cosine", "steps")
KEPT = 256  # trained networks that are kept for other trainers of the process
_kept: dict[Any, nn.Module] = {}

Watcher = Callable[["Trainer", int], Mapping[str, Any] | None]
"""Trainer and number of the epoch that has ended, from 0 -> columns of the history."""


@dataclass(frozen=True)
class Training:
    """SGD over shuffled batches. The last batch of an epoch may be smaller, unless that would leave it a single sample.

    ``schedule``: ``"cosine"`` takes the rate from ``lr`` down to zero over all steps, ``"steps"`` divides it by ten
    after one half and three quarters of the epochs, ``"constant"`` leaves it. ``augment(x, draws)`` changes each batch
    (:mod:`fedlib.data.augment`). Raises ValueError for numbers that cannot work.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    schedule: str = "cosine"
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def __post_init__(self) -> None:
        require.whole("epochs", self.epochs)
        require.whole("batch_size", self.batch_size, 1)
        require.real("lr", self.lr, above=0)
        require.real("momentum", self.momentum, least=0, below=1)
        require.real("weight_decay", self.weight_decay, least=0)
        require.one_of("schedule", self.schedule, SCHEDULES)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of so many."""
        done = step / steps
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * (0.1 ** ((done >= 0.5) + (done >= 0.75)) if self.schedule == "steps" else 1.0)

    def optimiser(self, parameters: Iterable[nn.Parameter], lr: float | Tensor | None = None) -> torch.optim.SGD:
        """The optimiser, fresh; with a rate in a tensor on a GPU its step is one kernel that reads the rate there."""
        nesterov, rate = self.nesterov and self.momentum > 0, self.lr if lr is None else lr
        fused = True if isinstance(rate, Tensor) else None
        return torch.optim.SGD(parameters, rate, self.momentum, 0.0, self.weight_decay, nesterov, fused=fused)


class Objective:
    """What a network learns: here cross-entropy with the labels. Others say how they differ.

    Every trainer works with a copy of its own, on which :meth:`setup` may put whatever the other methods need: a
    teacher, or ``modules`` that are trained along.
    """

    modules: Mapping[str, nn.Module] = {}
    capturable = False  # an objective that says True promises: a step does the same each time, whatever the host does

    def setup(self, trainer: Trainer) -> None:
        """Prepare for a run, before its first step: ``self.modules`` are trained along with ``trainer.network``, by the
        same optimiser; make them by ``trainer.build``, so that their first weights have a stream of their own.
        """

    def begin(self, epoch: int) -> None:
        """Called before every epoch, counted from 0."""

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss on a batch, a scalar; the network is in training mode."""
        return cross_entropy(network(x), y)

    def backward(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Put the gradients of a batch in their places, which are empty, and return the loss."""
        loss = self.loss(network, x, y)
        loss.backward()
        return loss.detach()


class Trainer:
    """One network, its samples, what it learns and how. ``run()`` trains it; ``history`` has a row for each epoch.

    ``model`` makes the network; ``x`` [N, ...] and ``y`` [N] are its samples. ``name`` is part of the keys of first
    weights, batches and augmentation: the networks of a comparison share a name, a teacher has another. ``precision``
    is None, as ``dtype`` says, or ``"bf16"``: products in bfloat16, weights and sums as ``dtype`` says. ``watchers``
    add columns to the history. Raises ValueError for samples that cannot work.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        x: Tensor,
        y: Tensor,
        objective: Objective,
        how: Training,
        *,
        seed: int = 0,
        name: str = "network",
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        precision: str | None = None,
        watchers: Iterable[Watcher] = (),
    ):
        inputs.check(x, y, [torch.arange(len(y))], dtype, how.lr)
        if y.dtype not in inputs.INTEGERS:
            raise ValueError(f"y must be classes, whole numbers [N]; got {y.dtype}")
        self.precision = precision if precision is None else require.one_of("precision", precision, ("bf16",))
        self.device, self.dtype, self.seed, self.name, self.how = devices.pick(device), dtype, seed, name, how
        self.x, self.y = self.input(x), y.long().to(self.device)
        self.model, self.network = model, self.build(model, "init").train()
        self.watchers, self.history, self.ledger = list(watchers), list[dict[str, Any]](), Ledger()
        self.objective = copy.copy(objective)
        self.objective.setup(self)
        for module in self.objective.modules.values():
            module.to(self.device, dtype).train()

    def input(self, x: Tensor) -> Tensor:
        """Samples as the network takes them: on its device, in its type."""
        return x.to(self.device, self.dtype)

    def build(self, make: Callable[[], nn.Module], use: str) -> nn.Module:
        """A module with first weights from a stream of its own, named by its ``use``."""
        return rng.build(make, self.seed, self.name, use).to(self.device, self.dtype)

    def trained(
        self,
        name: str,
        model: Callable[[], nn.Module] | None = None,
        objective: Objective | None = None,
        how: Training | None = None,
        samples: tuple[Tensor, Tensor] | None = None,
    ) -> nn.Module:
        """Another network, trained on the same samples or on others (x, y), in evaluation mode and without gradients:
        a teacher.

        It is trained once for all trainers of this process that ask for it by the same name, samples, seed, network and
        way of training. By default it has this trainer's network and way of training, and cross-entropy.
        """
        model, how = self.model if model is None else model, self.how if how is None else how
        objective, (x, y) = objective or Objective(), samples or (self.x, self.y)
        about = type(objective), tuple(sorted((n, _told(v)) for n, v in vars(objective).items()))
        key = name, self.seed, model, how, about, str(self.device), self.dtype, self.precision, _digest(x), _digest(y)
        if key not in _kept:
            other = Trainer(model, x, y, objective, how, seed=self.seed, name=name, device=self.device,
                            dtype=self.dtype, precision=self.precision)  # fmt: skip
            other.run()
            while len(_kept) >= KEPT:
                _kept.pop(next(iter(_kept)))
            _kept[key] = other.network.requires_grad_(False)
        return _kept[key]

    def run(self) -> list[dict[str, Any]]:
        """Train all epochs, and return the history: mean loss, and what watchers found. The network ends in evaluation
        mode. Raises ArithmeticError when training diverges.
        """
        parameters = [p for m in (self.network, *self.objective.modules.values()) for p in m.parameters()]
        take, step = Step(self, parameters, self.device.type == "cuda" and recordable(self.objective)), 0
        steps = self.how.epochs * len(self._batches(torch.arange(len(self.y))))
        for epoch in range(self.how.epochs):
            self.objective.begin(epoch)
            order = torch.randperm(len(self.y), generator=rng.stream(self.seed, self.name, "batches", epoch))
            total = torch.zeros((), device=self.device, dtype=self.dtype)
            for rows in self._batches(order.to(self.device)):
                x, y = self._augmented(self.x[rows], step), self.y[rows]
                total += take(x, y, self.how.rate(step, steps)) * (len(rows) / len(self.y))
                step += 1
            self._end(epoch, float(total))
        self.network.eval()
        return self.history

    def _batches(self, order: Tensor) -> list[Tensor]:
        batches = list(order.split(self.how.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:  # of one sample BatchNorm knows no spread
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _augmented(self, x: Tensor, step: int) -> Tensor:
        if self.how.augment is None:
            return x
        return self.how.augment(x, rng.stream(self.seed, self.name, "augment", step))

    def _end(self, epoch: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise require.NotFinite(f"epoch {epoch + 1}: training diverged, the loss is {loss}")
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": loss}
        modes = [self.network, *self.objective.modules.values()]
        require.finite(f"epoch {epoch + 1}: training diverged, weights", *(p for m in modes for p in m.parameters()))
        for module in modes:
            module.eval()
        for watch in self.watchers:
            found = watch(self, epoch) or {}
            if both := [n for n in found if n in row]:
                raise ValueError(f"column {both[0]!r} of the history has two authors: rename that of one watcher")
            row |= found
        for module in modes:
            module.train()
        self.history.append(row)


def recordable(objective: Objective) -> bool:
    """Whether steps may be recorded on a GPU. What is recorded is replayed as it was: an epoch's number, a draw of the
    host or a branch would stand still, without an error. So an objective other than cross-entropy has to promise it.
    """
    plain = type(objective).begin is Objective.begin
    return type(objective) is Objective or (objective.capturable and plain)


@torch.no_grad()
def predict(network: nn.Module, x: Tensor, batch: int = 2048) -> Tensor:
    """Outputs of a network in evaluation mode for a whole set, ``batch`` samples at a time; its mode is left as it was.

    ``x`` [N, ...] gives [N, C].
    """
    mode = network.training
    network.eval()
    out = torch.cat([network(part) for part in x.split(batch)])
    network.train(mode)
    return out


def interpolated(start: nn.Module, end: nn.Module, share: float) -> nn.Module:
    """A copy of ``end`` with the weights ``share`` end + (1 - share) start; buffers are those of ``end``.

    Raises ValueError for networks that have other parameters.
    """
    made, first, last = copy.deepcopy(end), dict(start.named_parameters()), dict(end.named_parameters())
    if {n: p.shape for n, p in first.items()} != {n: p.shape for n, p in last.items()}:
        raise ValueError("only networks with the same parameters have others between them")
    with torch.no_grad():
        for n, p in made.named_parameters():
            p.copy_(share * last[n] + (1 - share) * first[n])
    return made


def _told(value: Any) -> str:
    """An attribute in words that no other value has: what is printed of a tensor or a network leaves numbers out."""
    if isinstance(value, nn.Module):
        return repr(value) + _told(value.state_dict())
    return str([(n, _digest(t)) for n, t in require.named_tensors(value)]) + repr(value)


def _digest(t: Tensor) -> str:
    numbers = t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return f"{t.dtype} {list(t.shape)} {hashlib.sha256(numbers).hexdigest()}"
