"""FedDF with the origin of its distillation data as a part that can be exchanged, and the two plain origins."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fedlib import choice, rng, stacking
from fedlib.algorithms.fedavg import FedAvg
from fedlib.algorithms.feddf import DEFAULT, FedDF
from fedlib.distill import Distillation, Student
from fedlib.federation import Federation, Job
from fedlib.models.net import Net, State

Fitting = Generator[Job, None, State]
"""Work of the server that yields jobs and ends with a fitted student."""


class Fit(Protocol):
    """A way to fit a student other than :class:`~fedlib.distill.Distillation`, such as :class:`fedlib.swa.SWA`."""

    def __call__(self, net: Net, start: State, x: Tensor, teacher_logits: Tensor, generator: torch.Generator) -> State:
        """A student that starts at ``start`` and learns ``teacher_logits`` [U, C] on ``x`` [U, ...]."""


class Source(Protocol):
    """Where distillation inputs come from, and how the student that starts at ``start`` learns on them."""

    def __call__(self, fed: Federation, teachers: Sequence[State], start: State, how: Distillation | Fit) -> Fitting:
        """Yields the jobs that fit the student and returns its state."""


def identity(pixels: Tensor) -> Tensor:
    """Pixels as they are: for networks that take them in [0, 1]."""
    return pixels


class SourcedFedDF(FedDF):
    """FedDF (Lin et al. 2020) whose distillation data come from ``source``; everything else is as in FedDF.

    ``how`` fits the student. ``teachers(fed, uploads)`` may change the ensemble, such as
    :class:`fedlib.swa.SWAGTeachers`; by default it is the received models. With :class:`Given` data and the rest left
    alone it is FedDF bit for bit. ``options`` are those of FedDF: start, validation, weighting.
    """

    def __init__(
        self,
        source: Source,
        how: Distillation | Fit = DEFAULT,
        teachers: Callable[[Federation, list[State]], list[State]] | None = None,
        **options: Any,
    ):
        super().__init__(torch.empty(0), **options)  # the tensor is never looked at: the source takes its place
        self.source, self.how, self.teachers = source, how, teachers

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> Iterator[Job]:
        """Average, then let the source fit the average to the ensemble."""
        previous = fed.state
        uploads, weights = self.drop_worst(fed, uploads, weights)
        FedAvg.aggregate(self, fed, uploads, weights)
        start = fed.state if self.start == "average" else previous
        received = [{**fed.state, **upload} for upload in uploads]
        teachers = self.teachers(fed, received) if self.teachers else received
        fed.state = yield from self.source(fed, teachers, start, self.how)


def fit(
    fed: Federation, start: State, x: Tensor, logits: Tensor, how: Distillation | Fit, draw: torch.Generator
) -> Fitting:
    """Fit a student to fixed answers; FedDF's own way is a job that several federations can do together."""
    if not isinstance(how, Distillation):
        return how(fed.net, start, x, logits, draw)
    student = Student(fed.net, start, x, logits, how, draw)
    yield student
    return student.state


def stream(fed: Federation) -> torch.Generator:
    """The order of the student's batches in this round, the same for all sources and the same as in FedDF."""
    return rng.stream(fed.seed, "distil", fed.round)


@dataclass(frozen=True)
class Given:
    """Inputs that are there: unlabelled images [U, ...], or a function that gives a federation its own."""

    inputs: Tensor | Callable[[Federation], Tensor]

    def __call__(self, fed: Federation, teachers: Sequence[State], start: State, how: Distillation | Fit) -> Fitting:
        """The student learns the teachers' averaged logits on the inputs (AVGLOGITS)."""
        x = fed.input(self.inputs if isinstance(self.inputs, Tensor) else self.inputs(fed))
        logits = fed.net.predict_all(teachers, x).mean(0)
        return (yield from fit(fed, start, x, logits, how, stream(fed)))


def noise(
    count: int, shape: Sequence[int], to_input: Callable[[Tensor], Tensor] = identity, kind: str = "uniform"
) -> Callable[[Federation], Tensor]:
    """A function of a federation for :class:`Given`: each round ``count`` fresh images [count, *shape] of noise.

    ``"uniform"``: every pixel uniform in [0, 1), then ``to_input``; ``"normal"``: every number of the network's input
    from N(0, 1). Raises ValueError for another kind.
    """
    if kind not in ("uniform", "normal"):
        raise ValueError(f"noise is 'uniform' or 'normal', got {kind!r}")

    def draw(fed: Federation) -> Tensor:
        g, size = rng.stream(fed.seed, "noise", fed.round), (count, *shape)
        drawn = torch.rand(size, generator=g) if kind == "uniform" else torch.randn(size, generator=g)
        drawn = drawn.to(fed.device, fed.dtype)
        return to_input(drawn) if kind == "uniform" else drawn

    return draw


class Ensemble:
    """Several states of one network as one function of inputs, through which gradients flow to the inputs.

    (:meth:`~fedlib.models.net.Net.predict_all` is for answers alone.) Models are frozen and in evaluation mode: nothing
    flows into them and their BatchNorm statistics stay. Small networks answer in one computation.
    """

    def __init__(self, net: Net, states: Sequence[Mapping[str, Tensor]], like: Tensor):
        """``like``: a batch of inputs [B, ...] as the network takes them, such as it will be asked about."""
        self.states = [{n: t.detach() for n, t in s.items()} for s in states]
        self._net, self._stacked = net, None
        if len(states) > 1 and choice.overhead_rules(net, like[:1], len(states), len(like)) == "":
            self._stacked, self._stack = stacking.stacked(net), stacking.take(self.states)

    def __call__(self, x: Tensor) -> Tensor:
        """Averaged logits [B, C] of common inputs x [B, ...]."""
        return self.each(x.unsqueeze(0).expand(len(self.states), *x.shape)).mean(0)

    def each(self, x: Tensor) -> Tensor:
        """Logits [K, B, C] of every model for its own inputs x [K, B, ...]."""
        if self._stacked is None:
            return torch.stack([self._net(s, part) for s, part in zip(self.states, x, strict=True)])
        return self._stacked(self._stack, x.transpose(0, 1).unsqueeze(2)).squeeze(2).transpose(0, 1)
