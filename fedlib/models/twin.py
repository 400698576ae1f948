"""Two networks of one kind in one: the client's own and the shared one, from the same first weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fedlib import require


class Twin(nn.Module):
    """``own`` and ``shared``, both made by ``make``, a function without arguments, and alike at first.

    It answers as the client's own network, or as the ``part`` that is asked for. Raises ValueError for another part.
    """

    def __init__(self, make: Callable[[], nn.Module]):
        super().__init__()
        self.own = make()
        self.shared = copy.deepcopy(self.own)

    def forward(self, x: Tensor, part: str = "own", **options: Any) -> Any:
        """Logits of the ``part``; ``options`` go to its forward."""
        return getattr(self, require.one_of("part", part, ("own", "shared")))(x, **options)
