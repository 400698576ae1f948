"""FedDG, or ELCFS (Liu et al. 2021): sites share styles as amplitudes, and train for what other styles ask of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedlib import contours, fourier, require, rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.algorithms.perfedavg import mean
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Phase
from fedlib.losses import inner, miss
from fedlib.models.net import Net, State
from fedlib.models.unet import head


class Segmenting(FedAvg):
    """FedAvg for networks that answer with masks: local objective is the soft Dice loss of x [B, C, H, W] and masks
    y [B, S, H, W], mean over the S structures.
    """

    def setup(self, fed: Federation) -> None:
        """Raises ValueError for what are no images and masks of them."""
        if fed.y.ndim != 4 or fed.y.shape[-2:] != fed.x.shape[-2:] or fed.x.ndim != 4:
            shapes = f"{list(fed.x.shape)} and {list(fed.y.shape)}"
            raise ValueError(f"images [N, C, H, W] and masks [N, S, H, W] are needed, got {shapes}")
        contours.check_masks(fed.y)

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """Soft Dice loss of a batch."""
        return segmentation(net(state, x, train=True), y)


def segmentation(logits: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice loss of logits and masks [..., B, S, H, W], mean over structures and the batch: [...]."""
    return miss(logits.sigmoid(), masks).mean((-2, -1))


class FedDG(Segmenting):
    """FedAvg for masks, with images in the styles of other sites, an episodic step and a boundary loss.

    Local objective: L(x; w) + ``meta`` (L(t; w') + gamma boundary(x, t; w')), where w' = w - ``step`` grad L(x; w), and
    no gradient flows through that gradient, as in the released code. t is x with the amplitude of an image of another
    site mixed in (:func:`fedlib.fourier.low_frequency_mix`) in a window, by a ratio that is drawn uniformly between
    ``ratio[0]`` and ``ratio[1]``; every round draws anew for each image. ``window`` 0 with ``ratio`` (1, 1) exchanges
    means, as the released code does. ``step`` 0 is training on both images, ``meta`` 0 FedAvg, bit for bit.

    Each site shares the amplitudes in the window of a share ``bank`` of its images, one at least; with the first round
    they go up once, and all of them down to every site. Images are pixels from 0 on, which the network takes as
    they are. Raises ValueError for numbers out of range, an augmentation, raw images, fewer than two sites, and sites
    that are sampled: then somebody would not have the bank.
    """

    def __init__(
        self,
        window: int = 1,
        ratio: tuple[float, float] = (0.0, 1.0),
        step: float = 0.1,
        gamma: float = 0.1,
        meta: float = 1.0,
        temperature: float = 0.05,
        bank: float = 0.125,
        printed: bool = True,
    ):
        low, high = (require.real("ratio", r, least=0, most=1) for r in ratio)
        if low > high:
            raise ValueError(f"ratio: the lower end first, got {ratio}")
        self.window, self.low, self.high = require.whole("window", window), low, high
        self.step, self.gamma = require.real("step", step, least=0), require.real("gamma", gamma, least=0)
        self.meta, self.bank = require.real("meta", meta, least=0), require.real("bank", bank, above=0, most=1)
        self.temperature, self.printed = require.real("temperature", temperature, above=0), bool(printed)

    def setup(self, fed: Federation) -> None:
        """Fill the bank: ``fed.memory["bank"]``, by site."""
        super().setup(fed)
        if not self.meta:
            return
        if fed.local.augment or fed.prepare or fed.clients < 2 or fed.participation < 1:
            raise ValueError(
                "FedDG takes pixels as they are, of all of two sites or more in every round: no augment, no prepare, "
                f"participation 1; got {fed.clients} sites, participation {fed.participation}"
            )
        fed.memory["bank"] = {f"{k}": self.shared_styles(fed, k) for k in range(fed.clients)}

    def shared_styles(self, fed: Federation, client: int) -> Tensor:
        """What a site puts into the bank: centred amplitudes [m, C, 2 b + 1, 2 b + 1] of a share of its images."""
        rows = fed.split[client]
        count = max(1, int(self.bank * len(rows)))
        chosen = torch.randperm(len(rows), generator=rng.stream(fed.seed, "bank", client))[:count]
        return fourier.amplitude(fed.x[rows[chosen.to(rows.device)]], self.window).clone()

    def broadcast(self, fed: Federation) -> State:
        """The server's model, and with the first round the bank."""
        first = self.meta and fed.round == 0
        return super().broadcast(fed) | ({f"bank {k}": t for k, t in fed.memory["bank"].items()} if first else {})

    def upload(self, fed: Federation, client: int, state: State) -> State:
        """The client's model, and with the first round its own part of the bank."""
        first = self.meta and fed.round == 0
        return super().upload(fed, client, state) | ({"bank": fed.memory["bank"][f"{client}"]} if first else {})

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        """FedAvg's mean; styles have no mean."""
        super().aggregate(fed, [{n: t for n, t in u.items() if n != "bank"} for u in uploads], weights)

    def phases(self, fed: Federation) -> list[Phase]:
        """Targets of a round [N, 3 S + C, H, W]: masks, their contours, the rings around them, and restyled images."""
        (plain,) = super().phases(fed)
        if not self.meta:
            return [plain]
        masks = fed.y.to(fed.x)
        edges = [contours.contour(masks), contours.ring(masks)]
        return [replace(plain, y=torch.cat([masks, *edges, self.restyled(fed)], 1))]

    def restyled(self, fed: Federation) -> Tensor:
        """All images of the federation, each in the style of an image of another site, drawn for this round."""
        t = torch.zeros_like(fed.x)
        for k, rows in enumerate(fed.split):
            draws = rng.stream(fed.seed, "styles", fed.round, k)
            others = torch.cat([own for site, own in fed.memory["bank"].items() if site != f"{k}"])
            chosen = others[torch.randint(len(others), (len(rows),), generator=draws).to(fed.device)]
            ratio = self.low + (self.high - self.low) * torch.rand(len(rows), 1, generator=draws, dtype=torch.float64)
            t[rows] = fourier.low_frequency_mix(fed.x[rows], chosen, self.window, ratio.to(fed.x))
        return t

    @per_sample
    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """L(x; w) + meta (L(t; w') + gamma boundary(x, t; w')) of a batch."""
        if not self.meta:
            return super().objective(net, state, x, y, context)
        structures = (y.shape[-3] - x.shape[-3]) // 3
        masks, edges, t = y.split([structures, 2 * structures, x.shape[-3]], -3)
        loss = segmentation(net(state, x, train=True), masks)
        ahead, loss = stepped(net, state, loss, self.step)
        maps = net(ahead, t, train=True, features=True)
        later = segmentation(head(ahead, maps), masks)
        if self.gamma:
            before = net(ahead, x, train=True, features=True)
            later = later + self.gamma * self.apart(before, maps, edges)
        return loss + self.meta * later

    def apart(self, maps: Tensor, styled: Tensor, edges: Tensor) -> Tensor:
        """Boundary loss of maps [..., B, F, H, W] of an image and of it restyled, for contours and rings
        [..., B, 2 S, H, W], mean over the batch: each image contrasts its own two contours and backgrounds.
        """
        structures = edges.shape[-3] // 2
        found = [contours.averages(m, edges).unflatten(-2, (2, structures)) for m in (maps, styled)]
        features = torch.stack(found, -4).transpose(-2, -4).flatten(-3, -2)  # [..., B, S, 4, F]
        labels = torch.arange(4, device=maps.device) // 2  # two contours, two backgrounds
        return contours.contrast(features, labels, self.temperature, self.printed).mean((-2, -1))


def stepped(net: Net, state: State, loss: Tensor, step: float) -> tuple[State, Tensor]:
    """The state after a step of gradient descent on a loss, w - step grad, through which gradients flow to w as if the
    step were a constant (first order), and the loss, whose gradient is known by then and not computed again.

    Statistics are those of the state. ``step`` 0 leaves both as they are.
    """
    if not step:
        return state, loss
    weights = net.weights(state)
    grads = torch.autograd.grad(mean(net, loss).sum(), list(weights.values()))
    slope = type(weights)(dict(zip(weights, grads, strict=True)))
    ahead = {n: w - step * slope[n] for n, w in weights.items()}
    along = inner(weights, slope)
    return type(state)({**state, **ahead}), loss.detach() + (along - along.detach())
