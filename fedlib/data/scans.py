"""Medical images of three kinds in one form, for tasks of several hospitals: chest X-rays in three classes and in two,
and vessels of the retina with their masks.

Nothing clinical follows from numbers measured on them: the chest X-rays' classes come from different hospitals, so that
a network may tell hospitals apart in place of diseases, and images of one patient may stand in both parts; of the
retina there are 68 images in all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from . import loading, packs
from .registry import DataCorrupt, DataUnavailable

SIDE = 32  # pixels of an image
PACKS = {
    "chest_xray": "6c3447f7b118bdc75259f8cf99c12f5db4415818eec5909ddb1fddaf1fdad83a",
    "pneumonia_mnist": "178a64cefa0105b044be5f71db22ca2fb6ea636209da1a5f2081f94780cc543c",
    "fundus_vessels": "5d46dbb94747a49dd3aa220e241ad3d1c4e7207e0d023c84718ea8684509f4a5",
}
"""The packs and the checksums of their contents (:func:`packs.content_sha256`)."""


class Scans(NamedTuple):
    """Images [N, 1, 32, 32], each of mean 0 and deviation 1, with labels [N] or masks [N, 32, 32], and test images."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def chest(root: str | os.PathLike[str] | None = None) -> Scans:
    """899 + 225 chest X-rays: Covid-19, no finding, pneumonia; thirds of their 96 pixels a side are averaged.

    Raises DataUnavailable when ``chest_xray.npz`` is not there, DataCorrupt when it is another; so do the others.
    """
    own = _pack("chest_xray", root)
    return _labelled(own, lambda x: adaptive_avg_pool2d(x, SIDE))


def pneumonia(root: str | os.PathLike[str] | None = None) -> Scans:
    """3,882 + 624 chest X-rays of children, normal or pneumonia (PneumoniaMNIST), with a border of two pixels."""
    own = _pack("pneumonia_mnist", root)
    return _labelled(own, lambda x: pad(x, (2, 2, 2, 2)))


def vessels(root: str | os.PathLike[str] | None = None) -> tuple[Scans, Tensor]:
    """640 + 448 pieces of 40 + 28 images of the retina with their vessels' masks, and the site of each training piece:
    0 for CHASE_DB1, 1 for DRIVE. A piece is a sixteenth of an image.
    """
    own = _pack("fundus_vessels", root)
    pieces = {}
    for part in ("train", "test"):
        for what in ("x", "mask"):
            t = torch.from_numpy(own[f"{what}_{part}"].astype(np.float32))
            cells = t.unflatten(2, (-1, SIDE)).unflatten(1, (-1, SIDE)).permute(0, 1, 3, 2, 4)
            pieces[what, part] = cells.flatten(0, 2)
    x, x_test = (standardised(pieces["x", part][:, None] / 255) for part in ("train", "test"))
    sites = torch.from_numpy(own["domain_train"].astype(np.int64)).repeat_interleave(len(x) // len(own["x_train"]))
    return Scans(x, pieces["mask", "train"], x_test, pieces["mask", "test"]), sites


def _labelled(own: dict[str, np.ndarray], shrink: Callable[[Tensor], Tensor]) -> Scans:
    x, x_test = (shrink(torch.from_numpy(own[f"x_{p}"].astype(np.float32))[:, None] / 255) for p in ("train", "test"))
    y, y_test = (torch.from_numpy(own[f"y_{p}"].astype(np.int64)) for p in ("train", "test"))
    return Scans(standardised(x), y, standardised(x_test), y_test)


def standardised(x: Tensor) -> Tensor:
    """Images [N, C, H, W] with values in [0, 1], each less its mean and over its standard deviation, which counts as
    0.02 where it is less: what is all of one grey, such as the border of a retina, stays near 0.
    """
    return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True).clamp(min=0.02)


def _pack(name: str, root: str | os.PathLike[str] | None) -> dict[str, np.ndarray]:
    path = packs.find(name, root)
    if path is None:
        looked = "\n".join(f"  {folder}" for folder in packs.folders(root))
        raise DataUnavailable(f"{name}.npz has no automatic download and was not found in\n{looked}\nPut it there.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            own = {key: archive[key] for key in archive.files}
    except packs.DAMAGE as error:
        raise DataCorrupt(f"{path} cannot be read as a pack, it is truncated or damaged ({error}).") from error
    if (sha := packs.content_sha256(own)) != PACKS[name]:
        raise DataCorrupt(f"{path} has contents of sha256\n  {sha}\nexpected\n  {PACKS[name]}\nIt was left as it is.")
    loading._used[name] = sha  # part of a run's provenance, like every other set
    return own
