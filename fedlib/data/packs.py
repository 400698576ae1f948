"""Packs: one data set as `<name>.npz`, found, verified by the checksum of its contents, and written by rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .registry import Card, DataCorrupt

# What reading a damaged archive raises, depending on where the damage is.
DAMAGE = (
    ValueError, TypeError, AttributeError, KeyError, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
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


def content_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the sorted arrays' names, types, shapes and bytes: equal data, equal checksum, however zipped."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        digest.update(f"{key}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a pack; `DataCorrupt` when it is unreadable or not a pack. Pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except DAMAGE as error:
        raise DataCorrupt(f"{path} cannot be read as a pack, it is truncated or damaged ({error}).") from error
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise DataCorrupt(f"{path} lacks {', '.join(missing)}; a pack holds {', '.join(REQUIRED)}.")
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or len(x) != len(y):
            raise DataCorrupt(
                f"{path}: x_{part} is {x.dtype} {x.shape} with {len(y)} labels; "
                "expected uint8 [N, H, W] or [N, H, W, C] with N labels."
            )
    return arrays


def verified(path: Path, card: Card) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a pack and their checksum, once this is a known one of `card` or the one of the file's sidecar.

    Raises `DataCorrupt` otherwise. A damaged file in fedlib's own cache is kept aside as
    `<name>.npz.corrupt`; a file in a folder of the user is never touched.
    """
    try:
        arrays = read(path)
        # The zip archive's own CRC was checked just now, so a file seen before and unchanged need not be hashed again.
        sha = _remembered(path) or content_sha256(arrays)
        accepted = [*card.sha256, *_sidecar(path)]
        if sha not in accepted:
            raise DataCorrupt(
                f"{path} is not a known pack of {card.name}: its contents have sha256\n  {sha}\nexpected one of\n  "
                + "\n  ".join(accepted)
                + f"\n(or the one in {path.with_suffix('.sha256').name} beside it)."
            )
    except DataCorrupt as error:
        raise DataCorrupt(f"{error} {_set_aside(path)}") from error
    _remember(path, sha)
    return arrays, sha


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


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _known() -> dict[str, list]:
    try:
        known = json.loads((cache_dir() / ".verified.json").read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remembered(path: Path) -> str | None:
    entry = _known().get(str(path.resolve()))
    return entry[2] if isinstance(entry, list) and len(entry) == 3 and entry[:2] == _stamp(path) else None


def _remember(path: Path, sha: str) -> None:
    known, key, entry = _known(), str(path.resolve()), [*_stamp(path), sha]
    if known.get(key) == entry:
        return
    # Only a shortcut: where it cannot be written, the pack is hashed again next time.
    with contextlib.suppress(OSError):
        cache_dir().mkdir(parents=True, exist_ok=True)
        _replace(
            cache_dir() / ".verified.json",
            json.dumps({**known, key: entry}, indent=1, sort_keys=True).encode(),
        )


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
