"""GradAug as local training (Mendieta et al. 2022, section 3; Yang, Zhu and Chen 2020): narrow networks learn from the
whole one on smaller pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.nn.functional import interpolate

from fedlib import require, rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation
from fedlib.losses import cross_entropy, kl
from fedlib.models.net import Net, State


class GradAug(FedAvg):
    """Local objective: CE(f(x), y) + m sum_s KL(sg[f(x)] || f_s(R_s x)). Each sub-network f_s is the first share of the
    channels of every layer, of the same weights; R_s resizes pictures to a share of their sides, bilinearly.

    The narrowest of ``widths`` and ``draws`` others at random teach in every round (the released code: two drawn beside
    the narrowest, three in all), each on pictures of a random one of ``resolutions``. Here widths are drawn from those
    that the network has, and widths and resolutions hold for a round and all clients, as a server could announce; the
    released code draws them for each batch, and by one seed for all clients. m = 0 is FedAvg, bit for bit. Nothing else
    than FedAvg's weights is sent. Raises ValueError for a network without these widths, and for no pictures.
    """

    def __init__(
        self,
        weight: float = 1.0,
        widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        draws: int = 2,
        resolutions: Sequence[float] = (1.0, 0.875, 0.75, 0.625),
        seed: int = 0,
    ):
        self.weight, self.draws = require.real("weight", weight, least=0), require.whole("draws", draws)
        self.widths = _shares("widths", widths)
        self.resolutions = _shares("resolutions", resolutions)
        self.seed = require.whole("seed", seed, least=None)

    def setup(self, fed: Federation) -> None:
        if not self.weight:
            return
        if fed.x.ndim != 4 or not hasattr(fed.net.module, "narrow"):
            kind = type(fed.net.module).__name__
            raise ValueError(f"GradAug runs networks at several widths on pictures [N, C, H, W]; a {kind} has one, "
                             f"or samples are {list(fed.x.shape)}")  # fmt: skip
        for width in self.widths:
            fed.net.predict(fed.state, fed.input(fed.x[:1]), width=width)

    def subnetworks(self, number: int) -> list[tuple[float, float]]:
        """Width and resolution of each sub-network of a round, the widest first."""
        drawn = partial(_drawn, self.seed, number)
        widths = [min(self.widths)] + [drawn(self.widths, "width", i) for i in range(self.draws)]
        return [(w, drawn(self.resolutions, "resolution", i)) for i, w in enumerate(sorted(widths, reverse=True))]

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        logits = net(state, x, train=True)
        loss = cross_entropy(logits, y)
        if not self.weight:
            return loss
        for width, resolution in self.subnetworks(context.round):
            small = net(state, resized(x, resolution), train=True, width=width)
            loss = loss + self.weight * kl(logits.detach(), small)
        return loss


def resized(x: Tensor, share: float) -> Tensor:
    """Pictures [..., C, H, W] with sides of about a share of theirs, of one pixel at least, corners upon corners."""
    sides = [max(1, round(n * share)) for n in x.shape[-2:]]
    if sides == list(x.shape[-2:]):
        return x
    flat = interpolate(x.reshape(-1, *x.shape[-3:]), sides, mode="bilinear", align_corners=True)
    return flat.view(*x.shape[:-2], *sides)


def _drawn(seed: int, number: int, values: Sequence[float], use: str, i: int) -> float:
    return values[rng.key("sub-networks", seed, number, use, i) % len(values)]  # no tensor: objectives read none


def _shares(name: str, values: Sequence[float]) -> tuple[float, ...]:
    if not len(values):
        raise ValueError(f"{name}: expected shares of the whole, got none")
    return tuple(require.real(f"{name}[{i}]", v, above=0, most=1) for i, v in enumerate(values))
