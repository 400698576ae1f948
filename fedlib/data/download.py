"""Downloads: torchvision's own loaders fetch, check and parse the original files; the result is written as a pack.

A downloaded set keeps the original order of samples, so its pack has another checksum than the ones in the registry. It
is known by its samples, or its checksum is written beside it: its originals were verified (md5 by torchvision, archives
with pickles by sha256 too), and later loads are held to that, as to unknown data.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import socket
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from . import packs
from .registry import Card, DataUnavailable

TIMEOUT = 30.0  # seconds without an answer before a connection counts as dead

FAILURES = (
    OSError,
    HTTPException,
    RuntimeError,
    EOFError,
    tarfile.TarError,
)  # no network (URLError is an OSError), ...


def fetch(facts: Card, into: Path) -> Path:
    """Downloads one of torchvision's sets and writes its pack to `into`; returns the path of the pack.

    A second process that wants the same set waits for the first. Raises `DataUnavailable` when torchvision
    is missing, there is no network, a checksum differs or the disk does not take the files; nothing
    half-done stays behind.
    """
    from filelock import FileLock  # a dependency of torch itself

    target = into / f"{facts.name}.npz"
    try:
        into.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(into / f".{facts.name}.lock"),
            tempfile.TemporaryDirectory(dir=into, prefix=f".{facts.name}-", ignore_cleanup_errors=True) as work,
        ):
            if not target.is_file():
                with _patience(), _quiet():
                    packs.write(target, originals(facts, Path(work)))
    except ImportError as error:
        cause = f"torchvision is needed for its loader ({error}): pip install torchvision"
        raise DataUnavailable(_message(facts, into, cause)) from error
    except FAILURES as error:
        raise DataUnavailable(_message(facts, into, f"{type(error).__name__}: {error}")) from error
    return target


def originals(facts: Card, work: Path) -> dict[str, np.ndarray]:
    """Fetches the original files of a set into `work` and parses them into a pack's arrays; files there are kept."""
    from fedlib import _torchvision

    reader: Any = getattr(_torchvision.datasets(), str(facts.reader))
    if facts.archive_sha256:
        archive = work / reader.filename
        if not archive.is_file():
            _download(reader.url, archive, reader.tgz_md5)
        _check_sha256(archive, facts.archive_sha256)
        unpack(archive, work)
    parts = {
        part: reader(str(work), train=part == "train", download=not facts.archive_sha256) for part in ("train", "test")
    }
    arrays = {}
    for part, data in parts.items():
        arrays[f"x_{part}"] = np.ascontiguousarray(np.asarray(data.data), dtype=np.uint8)
        arrays[f"y_{part}"] = np.asarray(data.targets).astype(np.uint8)
    numerals = facts.name in ("mnist", "usps")
    names = [str(c) for c in range(10)] if numerals else list(parts["train"].classes)
    return {**arrays, "class_names": np.array(names)}


def unpack(archive: Path, into: Path) -> None:
    """Unpacks a tar archive whose members are plain files and folders inside `into`.

    Absolute paths, paths that climb out, links and devices raise `tarfile.TarError` before anything is
    written.
    """
    base = into.resolve()
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            inside = (base / member.name).resolve().is_relative_to(base)
            if not inside or not (member.isfile() or member.isdir()):
                raise tarfile.TarError(
                    f"{archive.name} holds {member.name!r}, which is not a plain file or folder inside the archive; "
                    "nothing was unpacked."
                )
        for member in members:
            path = base / member.name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source is not None:
                with source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)


def _download(url: str, path: Path, md5: str) -> None:
    from torchvision.datasets.utils import download_url

    download_url(url, str(path.parent), path.name, md5)


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise RuntimeError(f"{path.name} has sha256 {found}, expected {expected}; it was not opened.")


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """torchvision sets no time limit of its own: a network that swallows packets would hang a run for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Shows the download's progress bar on a terminal only."""
    if sys.stderr.isatty():
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def _message(facts: Card, into: Path, cause: str) -> str:
    where = os.environ.get("FEDLIB_DATA")
    looked = f"FEDLIB_DATA={where}" if where else "FEDLIB_DATA is not set"
    odd = "".join(f"{reason}\n" for reason in packs.unfit(facts.name))
    return (
        f"The data set {facts.name!r} is not here ({looked}; cache {into}) and could not be downloaded.\n"
        f"Cause: {cause}\n{odd}"
        f"With a network, call fedlib.data.load({facts.name!r}) again. Without one, make the same "
        f"call elsewhere, "
        f"copy {facts.name}.npz and {facts.name}.sha256 from that cache into a folder, and set FEDLIB_DATA to it:\n"
        "  export FEDLIB_DATA=~/fedlib-data"
    )
