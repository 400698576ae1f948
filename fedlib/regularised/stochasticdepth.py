"""Stochastic depth as local training (Mendieta et al. 2022, section 3; Huang et al. 2016): blocks that are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.data import margin
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Phase
from fedlib.models.net import Net, State
from fedlib.regularised.mixup import needs_margin


class StochasticDepth(FedAvg):
    """Local objective: cross-entropy of a network whose block b is h <- relu(1_b / p_b F_b(h) + S_b(h)), where 1_b is
    1 with the probability p_b = 1 - b / (B - 1) (1 - keep), b = 0 ... B - 1, one coin for each block and *batch*.

    Without the division by p_b (the released code) the network would be judged with p_b F_b instead of F_b
    (:func:`scaled`). Here what is judged, sent and averaged is the plain network. A block whose coin falls has no
    gradient in that step, while momentum and weight decay go on. Blocks that are left out are computed and thrown away:
    FLOPs fall, seconds here do not. keep = 1 is FedAvg, bit for bit. Raises ValueError for a network that does not say
    what its ``branches`` are (:class:`~fedlib.models.slim.SlimResNet`) or that looks at the margin.
    """

    def __init__(self, keep: float = 0.9):
        self.keep_last = require.real("keep", keep, above=0, most=1)
        self.branches: tuple[str, ...] = ()

    def setup(self, fed: Federation) -> None:
        if self.keep_last < 1:
            self.branches = tuple(getattr(fed.net.module, "branches", ()))
            if not self.branches:
                kind = type(fed.net.module).__name__
                raise ValueError(f"stochastic depth leaves out branches of residual blocks, and a {kind} names none")
            needs_margin(fed, "stochastic depth")

    def phases(self, fed: Federation) -> list[Phase]:
        (plain,) = super().phases(fed)
        if self.keep_last == 1:
            return [plain]
        return [replace(plain, augment=margin.Drawing(len(self.branches), plain.augment))]

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        if self.keep_last == 1:
            return super().objective(net, state, x, y, context)
        kept = survival(len(self.branches), self.keep_last)
        coins = [(margin.first_note(x, b) < p).to(x.dtype) / p for b, p in enumerate(kept)]
        return super().objective(net, scaled(state, self.branches, coins), x, y, context)


def survival(blocks: int, keep: float) -> list[float]:
    """p_b of so many blocks: from 1 for the first in a straight line to ``keep`` for the last (Huang et al. 2016,
    equation 4, counted as the released code does). A single block is always kept there.
    """
    return [1 - b / max(1, blocks - 1) * (1 - keep) for b in range(require.whole("blocks", blocks, 1))]


def scaled(state: State, branches: Sequence[str], factors: Sequence[Tensor | float]) -> State:
    """The state of a network whose branches are multiplied by ``factors``, one for each: scale and shift of the
    normalisation that ends a branch are. With the p_b it is the released code's network for tests.
    """
    if len(branches) != len(factors):
        raise ValueError(f"factors: expected one for each of {len(branches)} branches, got {len(factors)}")
    changed = {
        f"{n}.{v}": state[f"{n}.{v}"] * c for n, c in zip(branches, factors, strict=True) for v in ("weight", "bias")
    }
    return type(state)({**state, **changed})
