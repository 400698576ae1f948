"""FedAlign (Mendieta et al. 2022, CVPR, equations 5 to 8): the last stage learns to stretch alike at both widths."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlib import lipschitz, require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation
from fedlib.losses import cross_entropy
from fedlib.models.net import Net, State
from fedlib.regularised.clipped import batch_mean, clipped


class FedAlign(FedAvg):
    """Local objective: cross-entropy + mu L_Lip, where L_Lip is the squared gap between the spectral norms of the last
    stage's transmitting matrix at reduced ``width`` and at full width (:func:`fedlib.lipschitz.gap`).

    The narrow stage is the first channels of the *trained* last stage, run on the first channels of the map that enters
    it. That map and the full norm are constants, so L_Lip reaches nothing but the narrow corner of the last stage.
    ``rescaled``, as in the released code: mu sg[CE / L_Lip] L_Lip in place of mu L_Lip, so that the second loss is
    always worth mu CE, and its gradient does not depend on the size of L_Lip; where L_Lip is 0 it is left out.
    Gradients of both together are clipped to the norm ``clip``, None: not. ``iterations`` of the power method. mu = 0
    without clipping is FedAvg, bit for bit. Nothing else than FedAvg's weights is sent.

    Raises ValueError for a network whose last stage cannot be run at this width
    (:class:`~fedlib.models.slim.SlimResNet`), and one whose last map has a single place: its matrix has rank one.
    """

    def __init__(
        self,
        mu: float = 0.45,
        width: float = 0.25,
        clip: float | None = 10.0,
        rescaled: bool = True,
        iterations: int = 10,
    ):
        self.mu, self.width = require.real("mu", mu, least=0), require.real("width", width, above=0, most=1)
        self.clip = None if clip is None else require.real("clip", clip, above=0)
        self.rescaled, self.iterations = rescaled, require.whole("iterations", iterations, 1)

    def setup(self, fed: Federation) -> None:
        if not hasattr(fed.net.module, "narrow"):
            kind = type(fed.net.module).__name__
            raise ValueError(f"FedAlign runs the last stage at width {self.width:g}; a {kind} has one width")
        h = fed.net.predict(fed.state, fed.input(fed.x[:1]), part="before")
        few = fed.net.module.narrow(h.shape[1], self.width)  # type: ignore[operator]
        f = fed.net.predict(fed.state, h[:, :few], part="last", width=self.width)
        if f.shape[-1] * f.shape[-2] < 2:
            raise ValueError(
                f"the last map is {list(f.shape[-2:])}: of one place, its transmitting matrix has rank one"
            )

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        if not self.mu:
            loss = super().objective(net, state, x, y, context)
        else:
            ce, lip = self.terms(net, state, x, y)
            loss = ce + self.mu * self.factor(net, ce, lip) * lip
        return loss if self.clip is None else clipped(net, state, loss, self.clip)

    def terms(self, net: Net, state: State, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and L_Lip, batch means."""
        h = net(state, x, train=True, part="before")
        f = net(state, h, train=True, part="last")
        few = h.detach()[..., : round(self.width * h.shape[-3]), :, :]
        narrow = net(state, few, train=True, part="last", width=self.width)
        lip = lipschitz.gap(h, f, few, narrow, self.iterations).mean(-1)
        return cross_entropy(net.linear(state, f.mean((-2, -1))), y), lip

    def factor(self, net: Net, ce: Tensor, lip: Tensor) -> Tensor | float:
        """sg[CE / L_Lip] of each client's batch, 0 where L_Lip is; 1 unless ``rescaled``."""
        if not self.rescaled:
            return 1.0
        mean_ce, mean_lip = (batch_mean(net, each.detach()) for each in (ce, lip))
        some = mean_lip > 1e-12
        return torch.where(some, mean_ce / torch.where(some, mean_lip, 1.0), 0.0)
