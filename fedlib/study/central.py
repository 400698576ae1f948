"""Settings of experiments without a federation: networks that are trained in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from fedlib import metrics
from fedlib.study.setting import Samples, Setting, drawn
from fedlib.training import Objective, Trainer, Training, Watcher, predict


@dataclass(frozen=True, kw_only=True)
class Central(Setting):
    """What every experiment has that trains one network in one place; its methods are objectives."""

    whole: ClassVar[tuple[str, ...]] = ("seeds", "samples", "test", "last")

    data: str  # a data set's name (:func:`fedlib.data.load`)
    model: Callable[[], nn.Module]  # makes the network
    training: Training = field(default_factory=Training)  # how it is trained
    samples: int | None = None  # training samples; None: all of the set
    test: int | None = None  # test samples; None: all
    normalise: bool = True  # standardised channels; else pixels in [0, 1]
    flat: bool = False  # samples as rows [N, D]
    redraw: bool = False  # training and test part drawn anew for each seed from all samples of the set

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.model):
            raise ValueError(f"model: expected something to call, which makes a network; got {self.model!r}")
        if not isinstance(self.training, Training):
            raise ValueError(f"training: expected how to train, such as Training(epochs=5); got {self.training!r}")

    def draw(self, seed: int) -> Samples:
        """The samples of a seed."""
        return drawn(self, seed)

    def watchers(self, samples: Samples) -> Sequence[Watcher]:
        """What is looked at after the last epochs, those that judge: ``accuracy`` on the test set."""

        def accuracy(trainer: Trainer, epoch: int) -> dict[str, Any]:
            if epoch < self.training.epochs - self.last:
                return {}
            logits = predict(trainer.network, trainer.input(samples.x_test))
            return {"accuracy": metrics.accuracy(logits, samples.y_test)}

        return [accuracy]

    def start(
        self,
        algorithm: Any,
        seed: int,
        *,
        samples: Samples | None = None,
        watch: Sequence[Callable[[Samples], Watcher]] = (),
        device: str = "auto",
    ) -> Trainer:
        """The trainer of one seed: same samples, batches and first weights for every objective.

        ``samples`` stand for those of the seed; ``watch`` makes further watchers of them. Raises TypeError for what is
        no :class:`~fedlib.training.Objective`.
        """
        if not isinstance(algorithm, Objective):
            raise TypeError(f"networks are trained in one place here; expected an Objective, got {algorithm!r}")
        samples = self.draw(seed) if samples is None else samples
        watchers = [*self.watchers(samples), *(make(samples) for make in watch)]
        return Trainer(self.model, samples.x, samples.y, algorithm, self.training, seed=seed, device=device,
                       dtype=self.dtype, watchers=watchers)  # fmt: skip

    def play(self, started: Sequence[Trainer]) -> None:
        """Train one after the other."""
        for trainer in started:
            trainer.run()
