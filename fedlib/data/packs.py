"""Packs: one data set as `<name>.npz`, found, verified by the checksum of its contents, and written by rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .registry import Card, DataCorrupt

# What reading a damaged archive raises, depending on where the damage is.
DAMAGE = (
    ValueError, TypeError, AttributeError, KeyError, EOFError, MemoryError, NotImplementedError, struct.error,
    zipfile.BadZipFile, zlib.error, SyntaxError, tokenize.TokenError,
)  # fmt: skip
LARGEST = 4 * 2**30  # bytes of a pack in memory; the largest set known here has 0.2 * 2^30
REQUIRED = ("x_train", "y_train", "x_test", "y_test", "class_names")


def cache_dir() -> Path:
    """Where fedlib keeps what it downloads: $FEDLIB_CACHE, else data/cache of a checkout, else ~/.cache/fedlib."""
    if chosen := os.environ.get("FEDLIB_CACHE"):
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedlib"


def folders(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """The folders searched for packs, in order: `root` or else $FEDLIB_DATA, then the cache."""
    first = root if root is not None else os.environ.get("FEDLIB_DATA")
    found = [Path(first).expanduser()] if first else []
    return [*found, cache_dir()]


def find(name: str, root: str | os.PathLike[str] | None = None) -> Path | None:
    """The first `<name>.npz` in `folders(root)`, or None."""
    for folder in folders(root):
        path = folder / f"{name}.npz"
        if path.is_file():
            return path
    return None


def unfit(name: str, root: str | os.PathLike[str] | None = None) -> list[str]:
    """What lies in `folders(root)` under nearly the name of a pack, and why it is none, a sentence each."""
    found = []
    for folder in filter(Path.is_dir, folders(root)):
        for path in sorted(folder.iterdir()):
            if path.name.lower() == f"{name}.npz" and path.name != f"{name}.npz":
                found.append(f"{path} is there: rename it to {name}.npz.")
            elif path.name == f"{name}.npz" and not path.is_file():
                found.append(f"{path} is {'a link to nothing' if path.is_symlink() else 'no file'}.")
    return found


def content_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the sorted arrays' names, types, shapes and bytes: equal data, equal checksum, however zipped."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        digest.update(f"{key}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def samples_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over class names and samples with their labels, in whatever order these stand in either part."""
    total = hashlib.sha256(json.dumps([str(c) for c in arrays["class_names"]]).encode())
    for part in ("train", "test"):
        x, y = np.ascontiguousarray(arrays[f"x_{part}"]), arrays[f"y_{part}"].astype("<i8")
        each = sorted(hashlib.sha256(i.tobytes() + c.tobytes()).digest() for i, c in zip(x, y, strict=True))
        total.update(f"{part}\0{list(x.shape)}\0".encode() + b"".join(each))
    return total.hexdigest()


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a pack; `DataCorrupt` when it is unreadable or not a pack. Pickled objects are refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST:
            raise DataCorrupt(f"{path} unpacks to {size:,} bytes; a pack has {LARGEST:,} at most.")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is a place before the file's beginning
            raise
        raise DataCorrupt(f"{path} cannot be read as a pack, it is truncated or damaged ({error}).") from error
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise DataCorrupt(f"{path} lacks {', '.join(missing)}; a pack holds {', '.join(REQUIRED)}.")
    odd = [f"{key} ({value.dtype})" for key, value in arrays.items() if value.dtype.kind not in "biufU"]
    if odd:
        raise DataCorrupt(f"{path}: {', '.join(odd)}; a pack holds numbers and text alone.")
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
            raise DataCorrupt(
                f"{path}: x_{part} is {x.dtype} {x.shape}, y_{part} {y.dtype} {y.shape}; "
                "expected uint8 [N, H, W] or [N, H, W, C] with N integer labels [N]."
            )
        short = [k for k, v in arrays.items() if k.endswith(f"_{part}") and v.shape[:1] != y.shape]
        if short:
            raise DataCorrupt(f"{path}: {', '.join(short)} should have one entry for each of {len(y)} samples.")
    return arrays


def fits(arrays: Mapping[str, np.ndarray], card: Card, where: str) -> None:
    """Raises `DataCorrupt` unless arrays have the form that the card says: shape, sizes, classes, labels in range."""
    names = [str(c) for c in np.atleast_1d(arrays["class_names"])]
    if len(names) != card.classes or len(set(names)) < len(names):
        raise DataCorrupt(f"{where} names the classes {names[:12]}; {card.name} has {card.classes}, all different.")
    channels, *image = card.shape
    sizes = tuple(len(arrays[f"y_{part}"]) for part in ("train", "test"))
    wanted = [card.sizes] + ([card.whole] if card.whole else [])
    if sizes not in wanted:
        expected = " or ".join(f"{train} + {test}" for train, test in wanted)
        raise DataCorrupt(f"{where} has {sizes[0]} + {sizes[1]} samples; {card.name} has {expected}.")
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if list(x.shape[1:]) not in ([*image, channels], *([image] if channels == 1 else [])):
            raise DataCorrupt(f"{where}: x_{part} is {x.shape}; images of {card.name} are {(*image, channels)}.")
        if y.min() < 0 or y.max() >= card.classes:
            raise DataCorrupt(
                f"{where}: y_{part} holds labels {y.min()} to {y.max()}; {card.name} has 0 to {card.classes - 1}."
            )


def verified(path: Path, card: Card) -> tuple[dict[str, np.ndarray], str, bool]:
    """The arrays of a pack, their checksum, and whether the card knows them; all bytes are read and hashed every time.

    Known are the card's packs, and the card's samples in another order. Others have the form that the card says, and
    the checksum of the file's own sidecar. Raises `DataCorrupt` otherwise. A damaged file in fedlib's own cache is
    kept aside as `<name>.npz.corrupt`; a file in a folder of the user is never touched.
    """
    try:
        arrays = read(path)
        fits(arrays, card, str(path))
        sha = content_sha256(arrays)
        known = sha in card.sha256 or (
            set(arrays) == set(REQUIRED) and bool(card.samples_sha256) and samples_sha256(arrays) in card.samples_sha256
        )
        accepted = [*card.sha256, *_sidecar(path)]
        if not known and sha not in accepted:
            raise DataCorrupt(
                f"{path} is not a known pack of {card.name}: its contents have sha256\n  {sha}\nexpected one of\n  "
                + "\n  ".join(accepted)
                + f"\n(or the one in {path.with_suffix('.sha256').name} beside it)."
            )
    except DataCorrupt as error:
        raise DataCorrupt(f"{error} {_set_aside(path)}") from error
    return arrays, sha, known


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Writes a pack and its sidecar `<name>.sha256` (first, and each by rename); returns the checksum."""
    sha = content_sha256(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path.with_suffix(".sha256"), f"{sha}\n".encode())
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]
        Path(part).chmod(0o644)  # mkstemp keeps files to their owner; a cache may be shared
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return sha


def _sidecar(path: Path) -> list[str]:
    try:
        words = path.with_suffix(".sha256").read_text().split()
    except (OSError, UnicodeDecodeError):
        return []
    return words[:1]


def _set_aside(path: Path) -> str:
    ours = path.parent.resolve() == cache_dir().resolve()
    if not ours:
        return "The file was left as it is: replace it by an intact copy, or unset FEDLIB_DATA to have it downloaded."
    aside = path.with_name(path.name + ".corrupt")
    try:
        os.replace(path, aside)
    except OSError as error:
        return f"It could not be moved aside ({error}); remove it by hand."
    return f"It was kept as {aside}; load the set again to fetch a fresh copy."


def _replace(path: Path, content: bytes) -> None:
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(part).chmod(0o644)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
