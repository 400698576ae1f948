"""Which samples every client takes at every step, when many clients are trained in one computation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlib import rng
from fedlib.executors import Task


@dataclass
class Batch:
    """The batches of k clients at one step, each of B samples at most.

    ``rows`` [B, k] are places in x and y. ``share`` [B, k] says how much each sample counts in its client's loss.
    BatchNorm has ``norm_share`` [B, k] and ``counts`` [k] of its own, ``counts`` None when all samples are real; where
    there are counts, it refuses batches whose smallest, ``least``, is below 2. ``step`` is the step's number, in a
    tensor if it is known to the device only.
    """

    rows: Tensor
    share: Tensor
    norm_share: Tensor
    counts: Tensor | None
    least: int
    step: int | Tensor


class Plan:
    """The steps of clients that are ordered by their number of steps, so that those at work are always the first k.

    On the host: ``rows`` [steps, B, K], padded with the client's first sample; ``share`` [steps, B, K], one over the
    size of the batch and 0 for padding; ``counts`` [steps, K]. ``at_work[i]`` clients take step i, with ``widths[i]``
    samples at most and ``least[i]`` at least; ``even[i]`` when all have as many.
    """

    def __init__(self, tasks: list[Task]):
        self.tasks, self.x, self.y = tasks, tasks[0].x, tasks[0].y
        samples = [t.samples.numpy() for t in tasks]
        #: Whether samples of several data sets were brought together, in tensors of this round.
        self.gathered = any(t.x is not self.x or t.y is not self.y for t in tasks)
        if self.gathered:
            self.x, self.y = (torch.cat([getattr(t, v)[t.samples] for t in tasks]) for v in "xy")
            ends = np.cumsum([len(own) for own in samples])
            samples = [np.arange(end - len(own), end) for end, own in zip(ends, samples, strict=True)]
        self.sizes = [t.sizes for t in tasks]
        self.steps, self.width = len(self.sizes[0]), max(s[0] for s in self.sizes)
        steps, width = self.steps, self.width
        rows = np.empty((steps, width, len(tasks)), dtype=np.int64)
        counts = np.zeros((steps, len(tasks)), dtype=np.int64)
        for k, (task, own, sizes) in enumerate(zip(tasks, samples, self.sizes, strict=True)):
            wide = own[task.order.numpy()]
            if rest := -len(own) % sizes[0]:
                wide = np.pad(wide, ((0, 0), (0, rest)), constant_values=own[0])
            rows[:, :, k] = own[0]
            rows[: len(sizes), : sizes[0], k] = wide.reshape(-1, sizes[0])
            counts[: len(sizes), k] = sizes
        real = np.arange(width)[:, None] < counts[:, None]
        self.rows, self.counts, self.share = rows, counts, real / np.maximum(counts, 1)[:, None]
        self.at_work = (counts > 0).sum(1).tolist()
        self.widths = counts.max(1).tolist()
        self.least = [min(row[:k]) for row, k in zip(counts.tolist(), self.at_work, strict=True)]
        self.even = [least == most for least, most in zip(self.least, self.widths, strict=True)]

    @property
    def whole(self) -> list[bool]:
        """Whether all clients at work have a batch of the full width."""
        return [least == self.width for least in self.least]

    def augmented(self, x: Tensor, step: int) -> Tensor:
        """Batches [B, k, ...] of a step changed by a function that takes a generator of the host: every client's with
        its own draws, and padded again.
        """
        counts = [sizes[step] for sizes in self.sizes[: x.shape[1]]]
        streams = [rng.stream(*t.key, step) for t in self.tasks[: x.shape[1]]]
        augment = self.tasks[0].augment
        assert augment is not None
        each = zip(x.transpose(0, 1), counts, streams, strict=True)  # client after client
        return torch.nn.utils.rnn.pad_sequence([augment(part[:n], g) for part, n, g in each])
