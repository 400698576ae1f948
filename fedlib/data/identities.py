"""Drawn identities, seen by cameras: each is a smooth random pattern, each picture another view of it, and every camera
has a style of its own. For retrieval, where pictures of persons are not to be had. A scene deals them, or the classes
of a set of photos in their place, out to clients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlib import require, rng
from fedlib.data.loading import load


@dataclass(frozen=True)
class Look:
    """How identities and their views are drawn. Raises ValueError for numbers that cannot work.

    ``size``: pixels a side; ``detail``: independent patches a side of a pattern; ``shift`` in pixels and ``turn`` in
    degrees: largest of a view; ``noise``: standard deviation of pixel noise, where that of a pattern is about one.
    """

    size: int = 12
    detail: int = 5
    shift: float = 1.5
    turn: float = 15.0
    noise: float = 0.3

    def __post_init__(self) -> None:
        require.whole("size", self.size, 2)
        require.whole("detail", self.detail, 2)
        for name in ("shift", "turn", "noise"):
            require.real(name, getattr(self, name), least=0)


@dataclass(frozen=True)
class Cameras:
    """Styles of cameras: contrast [N, C, 1, 1], brightness [N, C, 1, 1], and light falling in [N, 1, H, W]."""

    contrast: Tensor
    brightness: Tensor
    light: Tensor

    def __call__(self, x: Tensor, camera: Tensor) -> Tensor:
        """Pictures [M, C, H, W] as cameras [M] show them: x times contrast, plus brightness and light."""
        form = torch.broadcast_shapes(self.contrast.shape, self.light.shape)[1:]
        fits = x.ndim == 4 and len(x) > 0 and x.shape[1:] == form and camera.shape == (len(x),)
        if not fits or camera.dtype != torch.int64 or int(camera.min()) < 0 or int(camera.max()) >= len(self.light):
            raise ValueError(
                f"expected pictures [M, {', '.join(map(str, form))}] with M >= 1 and for each a camera from 0 to "
                f"{len(self.light) - 1}, got {list(x.shape)} and {camera.dtype} {list(camera.shape)}"
            )
        return x * self.contrast[camera] + self.brightness[camera] + self.light[camera]


def cameras(count: int, size: int, draws: torch.Generator, strength: float = 1.0, channels: int = 1) -> Cameras:
    """``count`` styles: log-contrast and brightness of each channel, and a smooth light, all normal; deviations are
    0.3, 0.5 and 0.5 times ``strength``, whose 0 is no style at all.
    """
    require.real("strength", strength, least=0)
    require.whole("channels", channels, 1)
    tone = torch.randn(2, require.whole("count", count, 1), channels, 1, 1, generator=draws, dtype=torch.float64)
    light = smooth(count, size, 2, draws)
    return Cameras((0.3 * strength * tone[0]).exp(), 0.5 * strength * tone[1], 0.5 * strength * light)


def smooth(count: int, size: int, detail: int, draws: torch.Generator) -> Tensor:
    """Patterns [count, 1, size, size], float64: normal numbers on a grid of ``detail`` a side, interpolated.

    Raises ValueError for numbers that are not whole, or below 1.
    """
    for name, value in {"count": count, "size": size, "detail": detail}.items():
        require.whole(name, value, 1)
    coarse = torch.randn(count, 1, detail, detail, generator=draws, dtype=torch.float64)
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)


def views(patterns: Tensor, look: Look, draws: torch.Generator) -> Tensor:
    """One view of each pattern [M, 1, H, W], shifted, turned and noisy; what comes in at the sides is mirrored."""
    if patterns.ndim != 4 or len(patterns) == 0:
        raise ValueError(f"expected patterns [M, 1, H, W] with M >= 1, got {list(patterns.shape)}")
    move = 2 * torch.rand(3, len(patterns), generator=draws, dtype=torch.float64) - 1
    turn, step = math.radians(look.turn) * move[0], 2 * look.shift / look.size * move[1:]
    rows = [[turn.cos(), -turn.sin(), step[0]], [turn.sin(), turn.cos(), step[1]]]
    place = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(place, list(patterns.shape), align_corners=False)
    seen = F.grid_sample(patterns, grid, padding_mode="reflection", align_corners=False)
    return seen + look.noise * torch.randn(seen.shape, generator=draws, dtype=torch.float64)


class Seen(NamedTuple):
    """What a scene shows: training pictures x [N, ...] with identities y [N] and the client that has them, ``home``
    [N]; the clients' test pictures with identities and cameras, client k's in ``rows[k]``; the server's pictures.
    """

    x: Tensor
    y: Tensor
    home: Tensor
    x_test: Tensor
    ids: Tensor
    cameras: Tensor
    rows: Sequence[Tensor]
    public: Tensor


@dataclass(frozen=True)
class Scene:
    """Who is seen by whom. Raises ValueError for numbers that cannot work.

    Client k trains on ``people[k]`` identities with ``shots[k]`` pictures of each, and is tested by ``looks`` pictures
    of each of ``others``, whom nobody trains on; the server has ``public`` pictures of still others. Pictures of a
    person are of a client's two cameras in turn. ``strength`` is that of the cameras' styles, ``noise`` that of drawn
    views. ``photos``: a set of square pictures, whose classes stand for people, ``pool`` pixels a side made one. Then
    all clients are tested on the same classes, drawn with their pictures for each seed; ``trials`` further ones, the
    same for all seeds, are for tuning alone.
    """

    people: tuple[int, ...]
    shots: tuple[int, ...]
    others: int = 24
    looks: int = 4
    public: int = 320
    noise: float = 0.3
    strength: float = 1.0
    photos: str = ""
    pool: int = 1
    trials: int = 8

    def __post_init__(self) -> None:
        if not (isinstance(self.people, tuple) and isinstance(self.shots, tuple)):
            raise ValueError(f"people and shots must be tuples, got {self.people!r} and {self.shots!r}")
        if len(self.people) != len(self.shots) or not self.people:
            raise ValueError(f"people and shots need one number for each client, got {self.people} and {self.shots}")
        for name, values in {"people": self.people, "shots": self.shots}.items():
            for value in values:
                require.whole(name, value, 1)
        for name, least in {"others": 1, "looks": 2, "public": 1, "pool": 1, "trials": 1}.items():
            require.whole(name, getattr(self, name), least)
        for name in ("noise", "strength"):
            require.real(name, getattr(self, name), least=0)

    @property
    def pictures(self) -> list[int]:
        """Training pictures of each client, n_k."""
        return [p * m for p, m in zip(self.people, self.shots, strict=True)]

    def draw(self, seed: int, dtype: torch.dtype = torch.float32, trial: bool = False) -> Seen:
        """What is seen with a seed; with ``trial`` tests show the classes of photos that are for tuning.

        Raises ValueError for a type that is not floating, and where the photos have too few classes.
        """
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        return _seen(self, seed, dtype, trial)


@lru_cache(maxsize=32)
def _seen(scene: Scene, seed: int, dtype: torch.dtype, trial: bool) -> Seen:
    (channels, size), clients, tests, server, take = (_photographed if scene.photos else _painted)(scene, seed, trial)
    count, people = len(scene.people), torch.tensor(scene.people)
    style = cameras(2 * count + 2, size, rng.stream(seed, "cameras"), scene.strength, channels)

    def pictures(who: Tensor, home: Tensor, shot: Tensor) -> Tensor:
        return style(take(who, shot).double(), 2 * home + shot % 2).to(dtype)

    each = torch.tensor(scene.shots).repeat_interleave(people)  # pictures of each person
    y = torch.arange(len(clients)).repeat_interleave(each)
    home = torch.arange(count).repeat_interleave(people)[y]
    x = pictures(clients[y], home, torch.cat([torch.arange(m) for m in each.tolist()]))
    who = tests.flatten().repeat_interleave(scene.looks)
    place, look = torch.arange(count).repeat_interleave(len(who) // count), torch.arange(len(who)) % scene.looks
    x_test, rows = pictures(who, place, look), torch.arange(len(who)).chunk(count)
    shot = torch.arange(len(server))
    public = pictures(server, torch.full_like(shot, count), shot)
    return Seen(x, y, home, x_test, who, look % 2, rows, public)


Taken = tuple[tuple[int, int], Tensor, Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]
"""Channels and pixels a side; people of the clients [P], of their tests [K, others] and of the server's pictures [U];
what takes pictures of people, a shot of each.
"""


def _painted(scene: Scene, seed: int, trial: bool) -> Taken:
    draws, look = rng.stream(seed, "people"), Look(noise=scene.noise)
    parts = [sum(scene.people), len(scene.people) * scene.others, scene.public]
    patterns = smooth(sum(parts), look.size, look.detail, draws)
    clients, tests, server = torch.arange(sum(parts)).split(parts)
    tests = tests.view(len(scene.people), -1)
    return (1, look.size), clients, tests, server, lambda who, shot: views(patterns[who], look, draws)


def _photographed(scene: Scene, seed: int, trial: bool) -> Taken:
    own = load(scene.photos)
    x, y = torch.cat([own.x_train, own.x_test]), torch.cat([own.y_train, own.y_test])
    held, left = scene.others + scene.trials, own.num_classes - scene.others - scene.trials
    if left <= sum(scene.people):
        raise ValueError(
            f"{scene.photos} has {own.num_classes} classes: {sum(scene.people)} for the clients and {held} for tests "
            "leave none for the server"
        )
    counts = torch.bincount(y)
    mixed = (y + torch.rand(len(y), generator=rng.stream(seed, "shots"), dtype=torch.float64)).argsort()
    photos = F.avg_pool2d(x[mixed], scene.pool)  # class by class, in each in an order of the seed
    order = torch.randperm(own.num_classes, generator=rng.stream(0, "classes"))  # those that tune judge no seed
    tune, rest = order.split([scene.trials, own.num_classes - scene.trials])
    rest = rest[torch.randperm(len(rest), generator=rng.stream(seed, "people"))]
    judge, clients, server = rest.split([scene.others, sum(scene.people), left - sum(scene.people)])
    tests = (tune if trial else judge).expand(len(scene.people), -1)
    server = server.repeat_interleave(counts[server])[: scene.public]
    first = counts.cumsum(0) - counts
    form = photos.shape[1], photos.shape[-1]
    return form, clients, tests, server, lambda who, shot: photos[first[who] + shot % counts[who]]
