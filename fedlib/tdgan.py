"""TDGAN: a generator on the server that learns from centres which come one after another, each with a discriminator of
its own that goes with it.

At stage t the server minimises, over its generator G_t, a digesting loss, judged by the discriminator D_t of the
centre that is there, plus lambda times a reminding loss, sum over earlier centres i of E |G_t(x, u) - G_{t-1}(x, u)|^2
for conditions x of centre i (Qu, Zhang et al. 2020). Images never leave a centre; conditions do, and the server keeps
them. Each step sends generated images down and the gradient with respect to them up (:mod:`fedlib.split`).

Several runs train side by side, as stacks: those of a seed have the same first weights, samples, batches and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fedlib import require, rng
from fedlib.abreast import Abreast, Spectral, abreast
from fedlib.split import Cut, Part, Wire, back

Makes = Callable[[], nn.Module]


class Centre(NamedTuple):
    """What a centre has, for S seeds: conditions x [S, n, C, ...] and images y [S, n, D, ...]."""

    conditions: Tensor
    images: Tensor


@dataclass(frozen=True)
class Recipe:
    """How a stage trains: Adam, the same rate for generator and discriminators, vanilla GAN losses.

    ``noise``: numbers, or maps, of noise beside a condition. ``paired`` is the weight of |G(x, u) - y|, mean over
    entries, for the image y that belongs to the condition; 0 where none does.
    """

    steps: int = 600  # of a stage
    batch_size: int = 64  # of each centre's images, real and generated, and of conditions of each earlier centre
    noise: int = 16
    lr: float = 1e-3
    beta: float = 0.5  # how long Adam's mean remembers
    paired: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "noise"):
            require.whole(name, getattr(self, name), 1)
        require.real("lr", self.lr, above=0)
        require.real("beta", self.beta, least=0, below=1)
        require.real("paired", self.paired, least=0)

    def adam(self, weights: Iterable[nn.Parameter]) -> torch.optim.Adam:
        """The optimiser, fresh."""
        return torch.optim.Adam(weights, lr=self.lr, betas=(self.beta, 0.999), fused=True)


def telling(real: Tensor, generated: Tensor) -> Tensor:
    """What a discriminator minimises, for logits [R, B, ...] of real and of generated images: [R].

    -log sigmoid(real) - log(1 - sigmoid(generated)), mean over all but the first dimension.
    """
    return each(softplus(-real)) + each(softplus(generated))


def digesting(generated: Tensor) -> Tensor:
    """What the generator minimises, for logits [R, B, ...] of what it made: -log sigmoid, the "non-saturating" form,
    which the released code has in place of log(1 - sigmoid): [R].
    """
    return each(softplus(-generated))


def reminding(now: Tensor, before: Tensor) -> Tensor:
    """Squared distance of images [R, B, ...] that two generators make of the same conditions and noise, mean over
    entries: [R]. No gradient flows to ``before``. Raises ValueError for shapes that differ.
    """
    if now.shape != before.shape:
        raise ValueError(f"images of two generators have one shape, got {list(now.shape)} and {list(before.shape)}")
    return each((now - before.detach()).square())


def each(values: Tensor) -> Tensor:
    """The mean of each run's numbers [R, ...]: [R]."""
    return values.flatten(1).mean(1)


class TDGAN:
    """A generator and its stages. ``remind`` has a lambda for each run of a seed: [0, 10] are two runs, of which the
    first is fine-tuning, centre after centre. Runs are ordered by seed, and within a seed as ``remind``.

    ``generator`` and ``judge`` make modules without buffers: of condition and noise [B, C + E, ...] to images
    [B, D, ...], and of condition and image [B, C + D, ...] to logits [B, ...]. ``wire`` counts what all runs send.
    Raises ValueError for no seed, no lambda, or one that is negative.
    """

    def __init__(
        self,
        generator: Makes,
        judge: Makes,
        recipe: Recipe,
        seeds: Sequence[int],
        remind: Sequence[float] = (10.0,),
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ):
        if not seeds or not remind:
            raise ValueError(f"one seed and one lambda at least are needed, got {list(seeds)} and {list(remind)}")
        weights = [require.real("remind", w, least=0) for w in remind]
        self.recipe, self.seeds, self.copies = recipe, list(seeds), len(weights)
        self.where: dict[str, Any] = {"dtype": dtype, "device": device}
        self.remind = torch.tensor(weights * len(seeds), **self.where)
        self.judge, self.wire, self.stages = judge, Wire(), 0
        self.generator: Abreast = abreast(Abreast, generator, seeds, self.copies, "generator", **self.where)
        self.past: list[Tensor] = []  # conditions of earlier centres, [S, n, C, ...] each

    def stage(self, *centres: Centre) -> dict[str, list[Tensor]]:
        """Learn from centres that are there together; as a rule it is one. Returns the losses of all steps, [R] each.

        The generator goes on from where it is; discriminators and all optimisers are new, and go afterwards. Conditions
        go up once, and stay. Raises ValueError for no centre, and for samples that cannot work.
        """
        check(centres, len(self.seeds))
        conditions = [self._receive(k, centre) for k, centre in enumerate(centres)]
        images = [centre.images.to(**self.where) for centre in centres]
        own = [Part(self._judges(k), self.recipe.adam) for k in range(len(centres))]
        server, before = Part(self.generator, self.recipe.adam), self.generator.frozen()
        shares = [len(x[0]) / sum(len(x[0]) for x in conditions) for x in conditions]
        draws = [self._draws("centre", k) for k in range(len(centres))]
        memories = self._draws("earlier centres")
        losses: dict[str, list[Tensor]] = {"digesting": [], "reminding": []}
        for _ in range(self.recipe.steps):
            digest = torch.zeros(len(self.remind), **self.where)
            for k, judge in enumerate(own):
                digest += self._digest(k, shares[k], conditions[k], images[k], judge, draws[k])
            losses["digesting"].append(digest)
            losses["reminding"].append(self._remind(before, memories))
            server.step()
            self.wire.end_round()
        require.finite("the generator's weights after a stage", *self.generator.weights)
        self.past += conditions
        self.stages += 1
        return losses

    def _digest(
        self, k: int, share: float, conditions: Tensor, images: Tensor, judge: Part, draws: list[torch.Generator]
    ) -> Tensor:
        """One step of a centre's discriminator, and the gradient that the generator gets through it."""
        rows = self._rows(len(images[0]), draws)
        x, y = self._taken(conditions, rows), self._taken(images, rows)
        cut = Cut(self.wire, "images", "down", [k] * len(x))
        made = self.generator(torch.cat([x, self._noise(x, draws)], 2))
        arrived = cut.cross(made)
        there = self.wire.send("their conditions", x, "down", [k] * len(x))

        both = judge(torch.cat([torch.cat([there, images], 2) for images in (y, arrived.detach())], 1))
        telling(*both.chunk(2, 1)).sum().backward()
        judge.step()

        judge.module.requires_grad_(False)
        loss = digesting(judge(torch.cat([there, arrived], 2)))
        if self.recipe.paired:
            loss = loss + self.recipe.paired * each((arrived - y).abs())
        (share * loss).sum().backward()
        judge.module.requires_grad_(True)
        back(cut)
        return share * loss.detach()

    def _remind(self, before: Abreast, draws: list[torch.Generator]) -> Tensor:
        """The reminding loss of a step, and its gradient: over conditions of *earlier* centres only."""
        if not self.past:
            return torch.zeros(len(self.remind), **self.where)
        rows = [self._rows(len(x[0]), draws) for x in self.past]
        x = torch.cat([self._taken(own, r) for own, r in zip(self.past, rows, strict=True)], 1)
        u = self._noise(x, draws)
        loss = len(self.past) * self.compared(before, x, u, draws)  # the sum over centres of equal batches
        (self.remind * loss).sum().backward()
        return loss.detach()

    def compared(self, before: Abreast, x: Tensor, u: Tensor, draws: list[torch.Generator]) -> Tensor:
        """What both generators make of the same conditions and of the *same* noise."""
        given = torch.cat([x, u], 2)
        with torch.no_grad():
            target = before(given)
        return reminding(self.generator(given), target)

    @torch.no_grad()
    def made(self, conditions: Tensor, key: str = "made") -> Tensor:
        """Images [R, m, D, ...] for conditions [S, m, C, ...] of each seed, with noise from a stream of that name."""
        x = self._copied(conditions.to(**self.where))
        return self.generator(torch.cat([x, self._noise(x, [rng.stream(s, key) for s in self.seeds])], 2))

    def _receive(self, k: int, centre: Centre) -> Tensor:
        """A centre's conditions, as the server keeps them; each run is sent them."""
        x = centre.conditions.to(**self.where)
        arrived = self.wire.send("conditions", self._copied(x), "up", [k] * len(self.remind))
        return arrived[:: self.copies]

    def _judges(self, k: int) -> Spectral:
        return abreast(Spectral, self.judge, self.seeds, self.copies, f"judge {self.stages} {k}", **self.where)

    def _draws(self, *use: int | str) -> list[torch.Generator]:
        """A stream for each seed: that of another use moves nobody's draws."""
        return [rng.stream(s, "stage", self.stages, *use) for s in self.seeds]

    def _rows(self, n: int, draws: list[torch.Generator]) -> Tensor:
        """Rows of a batch of each seed, with putting back: [S, B]."""
        return torch.stack([torch.randint(n, (self.recipe.batch_size,), generator=g) for g in draws])

    def _taken(self, values: Tensor, rows: Tensor) -> Tensor:
        """Rows of each seed's values [S, n, ...] for all its runs: [R, B, ...]."""
        rows = rows.to(values.device)
        return self._copied(values[torch.arange(len(rows), device=rows.device)[:, None], rows])

    def _noise(self, x: Tensor, draws: list[torch.Generator]) -> Tensor:
        """Gaussian noise beside conditions [R, B, C, ...]: [R, B, E, ...], the same for all runs of a seed."""
        shape = (x.shape[1], self.recipe.noise, *x.shape[3:])
        return self._copied(torch.stack([torch.randn(shape, generator=g) for g in draws]).to(x))

    def _copied(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(self.copies, 0)


def check(centres: Sequence[Centre], seeds: int) -> None:
    """Raises ValueError unless there is a centre, and each has finite conditions and images for so many seeds."""
    if not centres:
        raise ValueError("a stage needs one centre at least, got none")
    for k, (x, y) in enumerate(centres):
        if x.ndim < 3 or y.ndim < 3 or x.shape[:2] != y.shape[:2] or len(x) != seeds or not x.numel():
            raise ValueError(
                f"centre {k}: conditions [{seeds}, n, C, ...] and images [{seeds}, n, D, ...] of {seeds} seeds are "
                f"needed; got {list(x.shape)} and {list(y.shape)}"
            )
        if not require.all_finite([x, y]):
            raise ValueError(f"centre {k}: {require.share_of_nonsense(x, y)}")


def stage_bytes(centre: Centre, recipe: Recipe, each: int = 4) -> int:
    """What a stage with one centre sends for one run: its conditions up; each step B images and their conditions down,
    and the gradient with respect to the images up. ``each``: bytes of a number.
    """
    condition, image = (t[0, 0].numel() for t in centre)
    down_and_up = recipe.batch_size * (2 * image + condition)
    return each * (len(centre.conditions[0]) * condition + recipe.steps * down_and_up)
