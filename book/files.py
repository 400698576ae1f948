"""Files written whole or not at all: beside the target first, then renamed onto it."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from book.errors import PressError, cannot


def make_folder(path: Path) -> Path:
    """The folder, made if it is not there. Raises PressError naming it when that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cannot("make the folder", path, error)
    return path


def write(path: Path, content: str | bytes) -> None:
    """Replace the file in one step; a kill or a full disk at any moment leaves the old file as it was."""
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    data = content.encode() if isinstance(content, str) else content
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        cannot("write", path, error)


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys, one item a line."""
    write(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read(path: Path) -> bytes:
    """Content of a file. Raises PressError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        cannot("read", path, error)


def read_text(path: Path) -> str:
    """Content of a text file. Raises PressError when it cannot be read, or is not UTF-8."""
    try:
        return read(path).decode()
    except UnicodeDecodeError as error:
        raise PressError(f"{path} is not UTF-8 text ({error}); restore it from git, or mend it") from error


def read_json(path: Path) -> Any:
    """Content of a JSON file; None when it is not there. Raises PressError when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        cannot("read", path, error)
    except (ValueError, RecursionError) as error:  # not UTF-8 or not JSON, or brackets without an end
        raise PressError(f"{path} is not valid JSON ({error}); restore it from git, or delete it") from error


def remove_parts(folder: Path, stem: str) -> None:
    """Delete what a killed press left half-written of the files `stem.*`; its neighbours may be in the making."""
    for part in folder.glob(f".{stem}.*.part*"):
        with suppress(OSError):
            part.unlink()


def sha256(path: Path) -> str:
    """Checksum of a file's bytes. Raises PressError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        cannot("read", path, error)
