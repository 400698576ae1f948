"""Checkpoints of a federation: one safetensors file, its JSON in the header, resumable to the same bits.

Randomness is keyed by round and client, so weights, what clients and server keep, the ledger and the history are all
there is to save. :func:`play` plays rounds so that an interruption costs no completed round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from fedlib.federation import Federation
from fedlib.packing import pack, unpack

_KEPT = ("state", "own", "memory", "history")
_FORMAT = "fedlib-federation-2"
_AFRESH = "move it away to start afresh, or name another path"


def play(fed: Federation, rounds: int, path: str | os.PathLike[str], every: int = 10) -> list[dict[str, Any]]:
    """Go on from ``path`` if it is there, play until ``rounds`` rounds are complete, and return the history.

    Saves after the first round (what cannot be saved is said at once), then every ``every`` rounds, and at the end.
    When anything stops it, a KeyboardInterrupt, a SIGTERM or an error in a round, ``fed`` goes back to the end of the
    last completed round, is saved, and the interruption goes on; a SIGTERM becomes SystemExit(143), unless the process
    has a handler of its own or this is not the main thread.

    A run resumed on the same machine has the bits of one that was never interrupted, but for the history's seconds,
    as long as an algorithm keeps what it needs in ``fed.own`` and ``fed.memory``, replaces the tensors there and never
    changes them in place, and observers remember nothing. One process at a time may play on a path. Raises ValueError
    as :func:`restore` does or when the file has more rounds than wanted, and what :func:`save` raises.
    """
    if rounds < 0 or every < 1:
        raise ValueError(f"rounds >= 0 and every >= 1 are needed, got rounds={rounds}, every={every}")
    target, saved = Path(path), 0
    if target.exists():
        restore(fed, target)
        saved = fed.round
    if fed.round > rounds:
        raise ValueError(f"{rounds} rounds wanted, but the federation has {fed.round}: ask for more, or {_AFRESH}")
    for left in target.parent.glob(f"{glob.escape(target.name)}.*.part"):  # by a process killed while it wrote
        shutil.rmtree(left)
    before = _Kept(fed)
    with _termination():
        try:
            while True:
                due = fed.round == rounds or fed.round - saved >= every or not target.exists()
                if due and fed.round > saved:
                    try:
                        save(fed, target)
                    except Exception:
                        saved = fed.round  # it would fail again
                        raise
                    saved = fed.round
                if fed.round == rounds:
                    return fed.history
                before = _Kept(fed)
                fed.play_round()
        except BaseException:
            before.bring_back(fed)
            if fed.round > saved:
                try:
                    save(fed, target)
                except Exception as failure:  # the interruption is what the caller must hear of
                    warnings.warn(
                        f"the state after {fed.round} rounds is not saved: {failure}", RuntimeWarning, stacklevel=2
                    )
            raise


def save(fed: Federation, path: str | os.PathLike[str]) -> None:
    """Write ``fed`` beside ``path``, to the disk, and rename: a kill at any moment leaves the old file or the new one.

    Raises TypeError for a value that cannot be saved, and OSError when the file cannot be written (a full disk): what
    stood at ``path`` is then as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kept, tensors = pack({name: getattr(fed, name) for name in _KEPT}, fed.device)
    about = {"format": _FORMAT, "settings": _settings(fed), "round": fed.round, "kept": kept}
    text = json.dumps(about | {"down": fed.ledger.down, "up": fed.ledger.up})
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder, for the library that writes the file makes another one beside it while it does.
        with tempfile.TemporaryDirectory(
            prefix=f"{target.name}.", suffix=".part", dir=target.parent, ignore_cleanup_errors=True
        ) as folder:
            beside = Path(folder) / "checkpoint"
            save_file(tensors, beside, metadata={"json": text, "sha256": _digest(text, tensors)})
            beside.chmod(0o644)
            _to_disk(beside)
            os.replace(beside, target)
        with contextlib.suppress(OSError):  # not every file system can; the rename is done
            _to_disk(target.parent)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"checkpoint {target} cannot be written ({error}); what stood there before is as it was. "
            "Make room or name another path"
        ) from error


def restore(fed: Federation, path: str | os.PathLike[str]) -> None:
    """Bring ``fed``, made with the same settings, to where :func:`save` left it; executor and device may differ.

    Raises ValueError, and leaves ``fed`` as it is, when the file is damaged, is no checkpoint, or belongs to another
    algorithm, seed, model or setting.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = Path(path).read_bytes()  # at once: a run that goes on may put another file in its place meanwhile
    try:
        # Copied into memory that is aligned as torch does it: on that, too, last bits may depend.
        tensors = {n: t.clone() for n, t in load(content).items()}
    except SafetensorError as error:
        raise ValueError(f"checkpoint {path} cannot be read ({error}); {_AFRESH}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    if not {"json", "sha256"} <= header.keys():
        raise ValueError(f"{path} is no checkpoint of a federation (of form {_FORMAT}); {_AFRESH}")
    if header["sha256"] != _digest(header["json"], tensors):
        raise ValueError(f"checkpoint {path} is damaged: its contents do not have the checksum it names; {_AFRESH}")
    about = json.loads(header["json"])
    here, there = {"format": _FORMAT, **_settings(fed)}, {"format": about["format"], **about["settings"]}
    if other := [f"{n}: {there[n]!r} there, {here[n]!r} here" for n in here if n in there and there[n] != here[n]]:
        raise ValueError(f"checkpoint {path} is of another federation ({'; '.join(other)}); {_AFRESH}")
    kept = unpack(about["kept"], tensors, fed.device)
    if {n: t.shape for n, t in kept["state"].items()} != {n: t.shape for n, t in fed.state.items()}:
        raise ValueError(f"checkpoint {path} holds another model: its tensors do not fit in name or shape; {_AFRESH}")
    for name in _KEPT:
        setattr(fed, name, kept[name])
    fed.round, fed.ledger.down, fed.ledger.up = about["round"], about["down"], about["up"]


class _Kept:
    """A federation between two rounds: its dictionaries and lists copied, its tensors by reference."""

    def __init__(self, fed: Federation):
        self.round = fed.round
        self.state, self.own, self.memory = _containers(fed.state), _containers(fed.own), _containers(fed.memory)
        self.history, self.down, self.up = list(fed.history), list(fed.ledger.down), list(fed.ledger.up)

    def bring_back(self, fed: Federation) -> None:
        """Undo what was done since; a round that was completed since stays."""
        if fed.round != self.round:
            return
        fed.state, fed.own, fed.memory = self.state, self.own, self.memory
        fed.history[:], fed.ledger.down[:], fed.ledger.up[:] = self.history, self.down, self.up


def _containers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _containers(v) for k, v in value.items()}
    return [_containers(v) for v in value] if isinstance(value, list) else value


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM unwinds the stack meanwhile, where it would end the process on the spot."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    home = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != home:  # a forked helper inherits this handler, but has nothing to save
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _settings(fed: Federation) -> dict[str, Any]:
    """What decides the numbers of a federation, as far as it can be written down."""
    split = {"sizes": torch.tensor([len(rows) for rows in fed.split]), "rows": torch.cat(list(fed.split)).cpu()}
    return dict(_plain("local", vars(fed.local))) | {
        "algorithm": type(fed.algorithm).__name__,
        **dict(_plain("algorithm", vars(fed.algorithm))),
        "seed": fed.seed,
        "dtype": str(fed.dtype),
        "participation": fed.participation,
        "buffers": fed.buffers,
        "split": _digest("", split)[:16],
    }


def _plain(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, bool | int | float | str):
            yield f"{prefix}.{name}", value
        elif dataclasses.is_dataclass(value):
            yield from _plain(f"{prefix}.{name}", vars(value))


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
