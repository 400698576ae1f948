"""The value that `load` returns: images and labels of one data set, with the statistics of its normal form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test part of one set of labelled images.

    x_train [N, C, H, W] and x_test [M, C, H, W] are floating point, y_train [N] and y_test [M] int64. When
    `normalised`, each channel of the training part has about mean 0 and standard deviation 1: x = (pixel -
    mean) / std with pixels in [0, 1]; otherwise x holds those pixels. Of a raw set, x_* are the bytes as stored,
    uint8 in [0, scale], and `prepare` gives batches of them that form, in `dtype`.

    `extra` holds what else the set knows: arrays named `*_train` and `*_test` have one entry per sample and follow
    every subset. `sha256` is the checksum of the set as it was read; it stays the same under `subset`, whose result
    the generator determines. `known` says whether it is one that the set's card names; otherwise nobody but whoever
    put the pack there knows what it is.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    sha256: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    normalised: bool = True
    scale: float = 255.0
    dtype: torch.dtype = torch.float32
    extra: Mapping[str, Any] = field(default_factory=dict)
    known: bool = True

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, such as (3, 32, 32)."""
        return tuple(self.x_train.shape[1:])

    def prepare(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Raw pixels of this set, uint8 [..., C, H, W] (of a flat one [..., D]), in the form that `load` gives.

        In `dtype`, or else in that with which the set was loaded, on the device of `x`. The bits are those of `load`,
        so batches can be prepared when they are needed: `Federation(..., x=raw.x_train, prepare=raw.prepare)`.
        Raises ValueError for anything but bytes of this set's shape.
        """
        if x.dtype != torch.uint8 or x.shape[-len(self.shape) :] != self.shape:
            raise ValueError(
                f"{self.name}: samples to prepare are {x.dtype} {list(x.shape)}; expected raw pixels, torch.uint8 "
                f"[..., {', '.join(map(str, self.shape))}], as load(..., raw=True) gives them. "
                "Floating-point samples of a set are prepared already."
            )
        mean, std = (self.mean, self.std) if self.normalised else (None, None)
        return normal_form(x, self.shape, dtype or self.dtype, self.scale, mean, std)

    def standardise(self, pixels: Tensor) -> Tensor:
        """Brings foreign pixels [B, C, H, W] in [0, 1] into this set's normal form.

        Unlabelled images from elsewhere must enter a model in the form that the model was trained on.
        """
        return standardise(pixels, self.mean, self.std)

    def flat(self) -> Dataset:
        """The same set with every sample as one row [N, D]; no pixel is copied."""
        return replace(self, x_train=self.x_train.flatten(1), x_test=self.x_test.flatten(1))

    def to(self, device: torch.device | str) -> Dataset:
        """The same set on another device, per-sample extras included."""
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.extra.items()}
        return replace(
            self,
            x_train=self.x_train.to(device),
            y_train=self.y_train.to(device),
            x_test=self.x_test.to(device),
            y_test=self.y_test.to(device),
            extra=moved,
        )

    def subset(
        self,
        train: int | None = None,
        test: int | None = None,
        *,
        rng: torch.Generator,
        balanced: bool = True,
    ) -> Dataset:
        """Draws `train` and `test` samples without replacement (None keeps a part whole), in shuffled order.

        balanced: equally many of each class, the remainder going to the first classes; otherwise uniform
        over samples.
        Raises ValueError when a part, or one of its classes, has fewer samples than wanted.
        """
        parts: dict[str, Any] = {}
        extra = dict(self.extra)
        for part, count in (("train", train), ("test", test)):
            if count is None:
                continue
            labels: Tensor = getattr(self, f"y_{part}")
            where = f"{self.name}, {part} part"
            index = draw(labels, count, len(self.classes), rng, balanced=balanced, where=where)
            parts[f"x_{part}"] = getattr(self, f"x_{part}")[index]
            parts[f"y_{part}"] = labels[index]
            for key in [k for k in extra if k.endswith(f"_{part}")]:
                extra[key] = take(extra[key], index)
        return replace(self, extra=extra, **parts)

    def redraw(self, rng: torch.Generator) -> Dataset:
        """The same samples, of both parts together, drawn into a training and a test part of the same sizes anew: with
        a generator for each seed, test sets differ as training sets do, and an interval over seeds counts both. The
        statistics of the normal form stay those of the set's own training part.
        """
        cut, total = len(self.y_train), len(self.y_train) + len(self.y_test)
        order = torch.randperm(total, generator=rng, device=rng.device).to(self.y_train.device)

        def both(train: Any, test: Any) -> dict[str, Any]:
            every = torch.cat([train, test]) if isinstance(train, Tensor) else (*train, *test)
            return {"train": take(every, order[:cut]), "test": take(every, order[cut:])}

        x, y, extra = both(self.x_train, self.x_test), both(self.y_train, self.y_test), dict(self.extra)
        for key in [k.removesuffix("_train") for k in extra if k.endswith("_train")]:
            extra |= {f"{key}_{part}": v for part, v in both(extra[f"{key}_train"], extra[f"{key}_test"]).items()}
        parts = {"x_train": x["train"], "x_test": x["test"], "y_train": y["train"], "y_test": y["test"]}
        return replace(self, extra=extra, **parts)


def draw(
    labels: Tensor,
    count: int,
    num_classes: int,
    rng: torch.Generator,
    *,
    balanced: bool,
    where: str = "labels",
) -> Tensor:
    """Indices [count] into `labels`, drawn without replacement and in random order, on the device of `labels`."""
    if not 0 < count <= len(labels):
        raise ValueError(f"{where}: {count} samples wanted, 1 to {len(labels)} can be drawn.")
    order = torch.randperm(len(labels), generator=rng, device=rng.device).to(labels.device)
    if not balanced:
        return order[:count]
    each, rest = divmod(count, num_classes)
    shuffled = labels[order]
    chosen = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    for c in range(num_classes):
        wanted, members = each + (c < rest), (shuffled == c).nonzero().flatten()
        if len(members) < wanted:
            raise ValueError(
                f"{where}: {wanted} samples of class {c} wanted for a balanced draw of {count}, {len(members)} there. "
                "Ask for fewer or pass balanced=False."
            )
        chosen[members[:wanted]] = True
    return order[chosen]


def take(values: Any, index: Tensor) -> Any:
    """Entries of a per-sample tensor or sequence at `index`."""
    return values[index] if isinstance(values, Tensor) else tuple(values[i] for i in index.tolist())


def standardise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(pixels - mean) / std per channel; pixels [B, C, H, W]. One mean serves all channels when only one is given."""
    if pixels.dim() != 4 or not pixels.is_floating_point():
        raise ValueError(
            f"Images are {pixels.dtype} {list(pixels.shape)}; expected floating point [B, C, H, W] in [0, 1]. "
            "Bytes of a raw set go through its `prepare`."
        )
    _matching(pixels.shape[1], mean)
    shift = torch.tensor(mean, dtype=pixels.dtype, device=pixels.device).view(1, -1, 1, 1)
    scale = torch.tensor(std, dtype=pixels.dtype, device=pixels.device).view(1, -1, 1, 1)
    return (pixels - shift) / scale


def _matching(channels: int, mean: Sequence[float]) -> None:
    if len(mean) not in (1, channels):
        raise ValueError(f"Images have {channels} channels, the statistics {len(mean)}; convert the images first.")


def normal_form(
    x: Tensor,
    sample: Sequence[int],
    dtype: torch.dtype,
    scale: float,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Tensor:
    """((x / scale) - mean) / std per channel for bytes [..., *sample], computed in place on one copy in `dtype`.

    `sample` is (C, H, W), or (D,) with channel after channel. Without mean and std the pixels are left in [0, 1].
    """

    def constant(values: Sequence[float]) -> Tensor:
        # On the device: dividing by a number of the host is a product with its reciprocal on a GPU, and other bits.
        return _constant(tuple(values), dtype, x.device)[:, None]

    out = x.to(dtype=dtype, memory_format=torch.contiguous_format).div_(constant((scale,)).squeeze())
    if mean is not None and std is not None:
        lead = x.shape[: x.dim() - len(sample)]
        channels = out.view(*lead, len(mean), math.prod(sample) // len(mean))
        channels.sub_(constant(mean)).div_(constant(std))
    return out


@lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def from_arrays(
    name: str,
    arrays: Mapping[str, np.ndarray],
    sha256: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 255.0,
    dtype: torch.dtype = torch.float32,
    normalise: bool = True,
    raw: bool = False,
    known: bool = True,
) -> Dataset:
    """A `Dataset` out of raw arrays: x_* uint8 [N, H, W] or [N, H, W, C] in [0, scale], y_* integers, class_names.

    Samples that are real numbers, x_* floating point, have no bytes: ValueError with `raw`.

    Pixels stay bytes until this last step, and with `raw` for good; the conversion works in place on the one
    floating-point copy.
    """

    def images(array: np.ndarray) -> Tensor:
        if raw and array.dtype != np.uint8:
            raise ValueError(f"{name} has no bytes, its samples are {array.dtype}: leave raw out")
        pixels = torch.from_numpy(array)
        pixels = pixels.unsqueeze(1) if array.ndim == 3 else pixels.permute(0, 3, 1, 2)
        _matching(pixels.shape[1], mean)
        if raw:
            return pixels.contiguous()
        return normal_form(pixels, pixels.shape[1:], dtype, scale, *((mean, std) if normalise else ()))

    def labels(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).reshape(-1)

    core = {"x_train", "y_train", "x_test", "y_test", "class_names"}
    extra = {
        key: tuple(value.tolist()) if value.dtype.kind == "U" else torch.from_numpy(value)
        for key, value in arrays.items()
        if key not in core
    }
    return Dataset(
        name=name,
        x_train=images(arrays["x_train"]),
        y_train=labels(arrays["y_train"]),
        x_test=images(arrays["x_test"]),
        y_test=labels(arrays["y_test"]),
        classes=tuple(str(c) for c in arrays["class_names"]),
        sha256=sha256,
        mean=tuple(mean),
        std=tuple(std),
        normalised=normalise,
        scale=scale,
        dtype=dtype,
        extra=extra,
        known=known,
    )
