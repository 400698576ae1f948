"""FedDF (Lin et al. 2020, Algorithm 1): the server distils the ensemble of the received models into their average."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fedlib import metrics, rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.distill import Distillation, Student
from fedlib.federation import Federation, Job
from fedlib.models.net import State

DEFAULT = Distillation()


class FedDF(FedAvg):
    """Clients work as in FedAvg; the server takes ``distillation.steps`` steps of AVGLOGITS on ``unlabelled`` [U, ...],
    a tensor, or a function that gives a federation its own.

    ``start``: the student starts from the ``"average"`` of the uploads or from the ``"previous"`` fused model.
    ``validation``: (x, y) held by the server; models at chance on it (accuracy below 1.2 / C) are dropped before
    averaging and distilling ("drop worst"). The paper's text weights the average by samples, its released code
    does not: choose with ``weighting``. With no steps and start "average" it is FedAvg.
    """

    def __init__(
        self,
        unlabelled: Tensor | Callable[[Federation], Tensor],
        distillation: Distillation = DEFAULT,
        start: str = "average",
        validation: tuple[Tensor, Tensor] | None = None,
        weighting: str = "samples",
    ):
        if start not in ("average", "previous"):
            raise ValueError(f"start must be 'average' or 'previous', got {start!r}")
        self.unlabelled, self.distillation, self.start = unlabelled, distillation, start
        self.validation, self.weighting = validation, weighting

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> Iterator[Job]:
        previous = fed.state
        uploads, weights = self.drop_worst(fed, uploads, weights)
        super().aggregate(fed, uploads, weights)
        start = fed.state if self.start == "average" else previous
        unlabelled = self.unlabelled if isinstance(self.unlabelled, Tensor) else self.unlabelled(fed)
        x = fed.input(unlabelled)
        teachers = [{**fed.state, **upload} for upload in uploads]
        logits = fed.net.predict_all(teachers, x).mean(0)
        student = Student(fed.net, start, x, logits, self.distillation, rng.stream(fed.seed, "distil", fed.round))
        yield student
        fed.state = student.state

    def drop_worst(self, fed: Federation, uploads: list[State], weights: Tensor) -> tuple[list[State], Tensor]:
        """Leave out models no better than 1.2 times chance on the server's validation set; all stay if none is."""
        if self.validation is None:
            return uploads, weights
        x, y = fed.input(self.validation[0]), self.validation[1].to(fed.device)
        logits = fed.net.predict_all([{**fed.state, **upload} for upload in uploads], x)
        good = [i for i, z in enumerate(logits) if metrics.accuracy(z, y) >= 1.2 / z.shape[-1]]
        good = good or list(range(len(uploads)))
        kept = weights[torch.tensor(good)]
        return [uploads[i] for i in good], kept / kept.sum()
