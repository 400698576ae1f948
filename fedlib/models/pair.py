"""Two networks in one: a large mentor and a small mentee that learn together on the same batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Pair(nn.Module):
    """``mentor`` and ``mentee``, and a linear ``map`` from the features of the mentee to those of the mentor.

    Both are made by functions without arguments; their last layer is called ``head`` and they give their features with
    ``features=True``. The pair answers as its mentor, or as the ``part`` that is asked for. The mentor is made first:
    it starts from the weights that it would have alone. ``attends`` says whether both also give their attention, as
    :class:`~fedlib.models.transformer.Transformer` does. Raises ValueError for a network without a linear ``head``.
    """

    def __init__(self, mentor: Callable[[], nn.Module], mentee: Callable[[], nn.Module]):
        super().__init__()
        self.mentor, self.mentee = mentor(), mentee()
        widths = []
        for network in (self.mentor, self.mentee):
            if not isinstance(head := getattr(network, "head", None), nn.Linear):
                raise ValueError(f"{type(network).__name__} has no linear layer 'head': its features cannot be mapped")
            widths.append(head.in_features)
        self.map = nn.Linear(widths[1], widths[0], bias=False)
        self.attends = all(getattr(network, "attends", False) for network in (self.mentor, self.mentee))

    def forward(self, x: Tensor, part: str = "mentor", **options: Any) -> Any:
        """Logits of the ``part``; ``options`` go to its forward."""
        return getattr(self, part)(x, **options)
