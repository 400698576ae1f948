"""Checkpoints of a federation: one safetensors file, its JSON in the header, resumable to the same bits.

Randomness is keyed by round and client, so weights, what clients and server keep, the ledger and the history are all
there is to save. :func:`play` plays rounds so that an interruption costs no completed round.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from fedlib.federation import Federation
from fedlib.identity import digest, settings
from fedlib.packing import pack, unpack

_KEPT = ("state", "own", "memory", "history")
_FORMAT = "fedlib-federation-3"
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
                fed.play_round()
        except BaseException:
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
    about = {"format": _FORMAT, "settings": settings(fed), "round": fed.round, "kept": kept}
    text = json.dumps(about | {"down": fed.ledger.down, "up": fed.ledger.up})
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder, for the library that writes the file makes another one beside it while it does.
        with tempfile.TemporaryDirectory(
            prefix=f"{target.name}.", suffix=".part", dir=target.parent, ignore_cleanup_errors=True
        ) as folder:
            beside = Path(folder) / "checkpoint"
            save_file(tensors, beside, metadata={"json": text, "sha256": digest(tensors, text)})
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
    algorithm, seed, model or setting, or to other data (:mod:`fedlib.identity`).
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
    if header["sha256"] != digest(tensors, header["json"]):
        raise ValueError(f"checkpoint {path} is damaged: its contents do not have the checksum it names; {_AFRESH}")
    about = json.loads(header["json"])
    if about["format"] != _FORMAT:
        raise ValueError(
            f"checkpoint {path} is of form {about['format']!r}, and this version of fedlib goes on from {_FORMAT!r} "
            f"alone, which says what data it is of: finish with the version that wrote it, or {_AFRESH}"
        )
    here, there = json.loads(json.dumps(settings(fed))), about["settings"]
    other = [
        f"{n}: {there.get(n, 'nothing')!r} there, {here.get(n, 'nothing')!r} here"
        for n in dict.fromkeys([*here, *there])
        if json.dumps(here.get(n, "nothing")) != json.dumps(there.get(n, "nothing"))
    ]
    if other:
        raise ValueError(f"checkpoint {path} is of another federation ({'; '.join(other)}); {_AFRESH}")
    kept = unpack(about["kept"], tensors, fed.device)
    if {n: t.shape for n, t in kept["state"].items()} != {n: t.shape for n, t in fed.state.items()}:
        raise ValueError(f"checkpoint {path} holds another model: its tensors do not fit in name or shape; {_AFRESH}")
    for name in _KEPT:
        setattr(fed, name, kept[name])
    fed.round, fed.ledger.down, fed.ledger.up = about["round"], about["down"], about["up"]


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


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
