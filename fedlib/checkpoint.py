"""Checkpoints of a federation: one safetensors file, its JSON in the header, resumable to the same bits.

Randomness is keyed by round and client, so weights, what clients and server keep, the ledger and the history are all
there is to save.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from fedlib.federation import Federation

_FORMAT = "fedlib-federation-1"


def save(fed: Federation, path: str | os.PathLike) -> None:
    """Write ``fed`` beside ``path`` and rename, so that a kill at any moment leaves the old file or the new one."""
    from safetensors.torch import save_file

    memory = {n: v for n, v in fed.memory.items() if isinstance(v, Tensor)}
    plain = {n: v for n, v in fed.memory.items() if n not in memory}
    tensors = {f"state/{n}": t for n, t in fed.state.items()} | {f"memory/{n}": t for n, t in memory.items()}
    tensors |= {f"own/{k}/{n}": t for k, kept in fed.own.items() for n, t in kept.items()}
    about = {
        "format": _FORMAT,
        "algorithm": type(fed.algorithm).__name__,
        "seed": fed.seed,
        "round": fed.round,
        "memory": plain,
        "history": fed.history,
        "down": fed.ledger.down,
        "up": fed.ledger.up,
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}.part")
    copies = {n: t.detach().contiguous().clone() for n, t in tensors.items()}
    save_file(copies, beside, metadata={"json": json.dumps(about)})
    os.replace(beside, target)


def restore(fed: Federation, path: str | os.PathLike) -> None:
    """Bring ``fed``, made with the same settings, to where :func:`save` left it.

    Raises ValueError when the file belongs to another algorithm or seed, or its tensors do not fit the model.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(fed.device)) as file:
        about: dict[str, Any] = json.loads((file.metadata() or {}).get("json", "{}"))
        tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 (not a dictionary)
    found = {key: about.get(key) for key in ("format", "algorithm", "seed")}
    wanted = {"format": _FORMAT, "algorithm": type(fed.algorithm).__name__, "seed": fed.seed}
    if found != wanted:
        raise ValueError(f"checkpoint {path} is of {found}, this federation is {wanted}")
    state = {n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}
    if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in fed.state.items()}:
        raise ValueError(f"checkpoint {path} holds another model: its tensors do not fit in name or shape")
    fed.state, fed.own = state, {}
    for name, tensor in tensors.items():
        if name.startswith("own/"):
            _, client, entry = name.split("/", 2)
            fed.own.setdefault(int(client), {})[entry] = tensor
    fed.memory = about["memory"] | {n.removeprefix("memory/"): t for n, t in tensors.items() if n.startswith("memory/")}
    fed.history, fed.round = about["history"], about["round"]
    fed.ledger.down, fed.ledger.up = about["down"], about["up"]
