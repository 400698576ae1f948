"""Settings of experiments without a federation: networks that are trained in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import nn

from fedlib import data, metrics, require
from fedlib.data import glyphs
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
    look: glyphs.Domain | None = None  # how the letters of data="glyphs" are rendered, anew for each seed
    side: int = 28  # and how many pixels they have a side; of other data neither is asked
    precision: str | None = None  # "bf16": products in bfloat16
    redraw: bool = False  # training and test part drawn anew for each seed from all samples of the set

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.model):
            raise ValueError(f"model: expected something to call, which makes a network; got {self.model!r}")
        if not isinstance(self.training, Training):
            raise ValueError(f"training: expected how to train, such as Training(epochs=5); got {self.training!r}")
        if self.precision is not None:
            require.one_of("precision", self.precision, ("bf16",))
        require.whole("side", self.side, 1)
        if self.last > max(1, self.training.epochs):
            raise ValueError(f"last: a run of {self.training.epochs} epochs has no last {self.last}")
        if self.data == "glyphs" and self.look is None and self.side != 28:
            raise ValueError(f"side: letters of {self.side} pixels are rendered; give the look that they have")
        if self.data == "glyphs" and self.look is not None and not self.normalise:
            raise ValueError("normalise: letters with a look are always standardised")

    def draw(self, seed: int) -> Samples:
        """The samples of a seed."""
        if self.data != "glyphs" or self.look is None:
            return drawn(self, seed)
        return _rendered(self.samples or 2000, self.test or 500, self.side, self.look, self.flat, self.dtype, seed)

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
                       dtype=self.dtype, precision=self.precision, watchers=watchers)  # fmt: skip

    def play(self, started: Sequence[Trainer]) -> None:
        """Train one after the other."""
        for trainer in started:
            trainer.run()


@lru_cache(maxsize=32)  # rendering a set takes as long as training a small network on it
def _rendered(
    train: int, test: int, side: int, look: glyphs.Domain, flat: bool, dtype: torch.dtype, seed: int
) -> Samples:
    data.load("glyphs")  # the fonts are part of the provenance
    own = glyphs.dataset(train=train, test=test, size=side, domain=look, seed=seed, dtype=dtype)
    own = own.flat() if flat else own
    return Samples(own.x_train, own.y_train, own.x_test, own.y_test)
