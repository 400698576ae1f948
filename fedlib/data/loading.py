"""`load`: one name in, one verified `Dataset` out, from wherever it can be had."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib import import_module

import numpy as np
import torch

from . import packs
from .dataset import Dataset, from_arrays
from .registry import Card, DataCorrupt, DataUnavailable, card, names

UNKNOWN = "unknown:"
_used: dict[str, str] = {}


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    normalise: bool = True,
    raw: bool = False,
) -> Dataset:
    """Loads a data set by name.

    Embedded sets (`digits`, `glyphs`, `mnist1d`) need no file. Others are searched for as `<name>.npz` in `root`
    (default: $FEDLIB_DATA), then in fedlib's cache, then downloaded by torchvision's loaders; contents are
    verified by sha256 and by the form that the set's card says. A pack whose checksum stands in a file beside it alone
    is unknown data: it is loaded, with a warning, and :func:`used` says so.

    normalise: standardise each channel with the fixed statistics of the training part; otherwise pixels are
    in [0, 1].
    raw: leave the pixels as bytes, a quarter of the memory; the set's `prepare` gives batches the form asked for. A
    set of real numbers (`mnist1d`) has neither pixels nor bytes; asking for them raises ValueError.
    Raises `DataUnavailable` for an unknown name or a set that cannot be had, `DataCorrupt` for a damaged
    pack.
    """
    facts = card(name)
    arrays, sha, known = _embedded(facts) if facts.loader == "embedded" else _pack(facts, root)
    if not known and _used.get(name) != f"{UNKNOWN}{sha}":
        warnings.warn(
            f"The pack of {name!r} is unknown data: its card does not name {sha}, for which the file beside the pack "
            "alone vouches. Numbers measured on it say so in their evidence.",
            UserWarning,
            stacklevel=2,
        )
    _used[name] = sha if known else f"{UNKNOWN}{sha}"
    return from_arrays(
        name,
        arrays,
        sha,
        mean=facts.mean,
        std=facts.std,
        scale=facts.scale,
        dtype=dtype,
        normalise=normalise,
        raw=raw,
        known=known,
    )


def available(root: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Where `load` would take each known set from: "embedded", the path of a pack, "download" or "absent".

    Nothing is read and no network is touched.
    """
    found = {}
    for name in names():
        facts, path = card(name), packs.find(name, root)
        if facts.loader == "embedded":
            found[name] = "embedded"
        elif path is not None:
            found[name] = str(path)
        else:
            found[name] = "download" if facts.loader == "torchvision" else "absent"
    return found


def used() -> dict[str, str]:
    """Name and sha256 of every set that this process has loaded; ``unknown:<sha256>`` of data that no card knows."""
    return dict(sorted(_used.items()))


def _embedded(facts: Card) -> tuple[Mapping[str, np.ndarray], str, bool]:
    # Imported by need: the modules in memory are part of a run's provenance.
    source = import_module(f"{__package__}.{facts.name}")
    arrays = source.arrays()
    sha = source.checksum(arrays)
    if facts.sha256 and sha not in facts.sha256:
        raise DataCorrupt(
            f"The embedded set {facts.name!r} has sha256\n  {sha}\nexpected\n  " + "\n  ".join(facts.sha256) + "\n"
            "The package that carries it has other data than expected: install the versions in requirements.txt."
        )
    packs.fits(arrays, facts, f"The embedded set {facts.name!r}")
    return arrays, sha, True


def _pack(facts: Card, root: str | os.PathLike[str] | None) -> tuple[Mapping[str, np.ndarray], str, bool]:
    path = packs.find(facts.name, root)
    if path is None:
        if facts.loader != "torchvision":
            raise DataUnavailable(absent(facts, root))
        from . import download

        path = download.fetch(facts, packs.cache_dir())
    return packs.verified(path, facts)


def absent(facts: Card, root: str | os.PathLike[str] | None = None) -> str:
    """The message for a set that is not there and has no download."""
    looked = "\n".join(f"  {folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in packs.folders(root))
    channels, height, width = facts.shape
    image = f"[N, {height}, {width}]" if channels == 1 else f"[N, {height}, {width}, {channels}]"
    odd = "".join(f"{reason}\n" for reason in packs.unfit(facts.name, root))
    return (
        f"The data set {facts.name!r} has no automatic download and {facts.name}.npz was not found in\n{looked}\n{odd}"
        f"Put {facts.name}.npz (arrays {', '.join(packs.REQUIRED)}; images uint8 {image}) into a folder and set "
        f"FEDLIB_DATA to that folder, for example: export FEDLIB_DATA=~/fedlib-data"
    )
