"""FedRep (Collins et al. 2021): FedPer's split of the network, with head and base trained one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch

from torch import Tensor, tensor, zeros_like

from fedlib import require
from fedlib.algorithms.fedper import FedPer
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Phase
from fedlib.losses import proximal
from fedlib.models.net import Net, State


class FedRep(FedPer):
    """Of the E local epochs the last ``base_epochs`` train the base alone, those before them the head alone.

    The head gets one epoch at least: with E = 1 a round costs one more. ``base_epochs = 0`` trains heads only.
    """

    def __init__(self, personal: Sequence[str] = ("head.*",), common: bool = False, base_epochs: int = 1):
        super().__init__(personal, common)
        self.base_epochs = require.whole("base_epochs", base_epochs)

    def phases(self, fed: Federation) -> list[Phase]:
        joint = super().phases(fed)[0]
        head = replace(joint, objective=self.head_objective, epochs=max(1, joint.epochs - self.base_epochs))
        return [head, replace(joint, objective=self.base_objective, epochs=self.base_epochs)]

    def context(self, fed: Federation, client: int) -> State:
        return {"decay": tensor(fed.local.weight_decay, device=fed.device, dtype=fed.dtype)}

    @per_sample
    def head_objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """The local objective as a function of the personal layers alone."""
        return self._partly(net, state, x, y, context, personal=True)

    @per_sample
    def base_objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """The local objective as a function of the shared layers alone."""
        return self._partly(net, state, x, y, context, personal=False)

    def _partly(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context, personal: bool) -> Tensor:
        weights = net.weights(state)
        rest = [n for n in weights if any(fnmatch(n, p) for p in self.personal) != personal]
        loss = self.objective(net, type(state)(state | {n: weights[n].detach() for n in rest}), x, y, context)
        # Layers at rest stay exactly: this term is zero, and its gradient takes back what weight decay does to them.
        resting = type(weights)({n: weights[n] for n in rest})
        half = proximal(resting, {n: zeros_like(w) for n, w in resting.items()}, 1.0) if rest else 0 * loss
        shrink = context.own["decay"] * half
        return loss - (shrink - shrink.detach())
