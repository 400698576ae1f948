"""Nested values in two parts that files can hold: JSON, and tensors under the path by which they were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def pack(value: Any, device: torch.device) -> tuple[Any, dict[str, Tensor]]:
    """``value`` as JSON, and its tensors by name, contiguous on the host and sharing no memory with one another.

    A tensor kept on the host while the work is done on ``device`` is marked, to be left there. Raises TypeError,
    naming the place, for anything that would not come back as it was.
    """
    tensors: dict[str, Tensor] = {}
    entries: dict[int, dict[str, Any]] = {}  # by identity: what was one tensor comes back as one
    storages: set[int] = set()

    def put(tensor: Tensor, where: str) -> dict[str, Any]:
        name = where
        while name in tensors:  # 3 and "3" are different keys, and so are "a/b" and "b" in "a"
            name += "'"
        stored, turned = tensor.detach(), {}
        if not stored.is_contiguous():
            # The order of the dimensions in memory is kept: a matrix product's last bits depend on it.
            turned = {"order": sorted(range(stored.dim()), key=lambda d: -stored.stride()[d])}
            stored = stored.permute(turned["order"]).contiguous()
        stored = stored.cpu()
        if stored.untyped_storage().data_ptr() in storages:
            stored = stored.clone()
        storages.add(stored.untyped_storage().data_ptr())
        tensors[name] = stored
        host = {"host": True} if tensor.device.type == "cpu" != device.type else {}
        return {"tensor": name, **turned, **host}

    def walk(value: Any, where: str) -> Any:
        if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_complex():
            if id(value) not in entries:
                entries[id(value)] = put(value, where)
            return entries[id(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if type(value) in (list, tuple):
            items = [walk(v, f"{where}/{i}") for i, v in enumerate(value)]
            return items if type(value) is list else {"tuple": items}
        if type(value) is dict and all(type(k) in (str, int) for k in value):
            return {"dict": [[k, walk(v, f"{where}/{k}" if where else str(k))] for k, v in value.items()]}
        kind = "dict with keys other than text and integers" if type(value) is dict else type(value).__qualname__
        raise TypeError(
            f"{where} is a {kind}, which cannot be saved; expected dense real tensors, numbers, text, None, or lists, "
            "tuples and dicts of them: convert it (float(...), .tolist(), dict(...)) where it is kept"
        )

    return walk(value, ""), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """What :func:`pack` packed, its tensors on ``device`` but for those that were kept on the host."""
    there: dict[str, Tensor] = {}

    def get(entry: Mapping[str, Any]) -> Tensor:
        name = entry["tensor"]
        if name not in there:
            tensor = tensors[name].to("cpu" if entry.get("host") else device)
            if order := entry.get("order"):
                tensor = tensor.permute(sorted(range(len(order)), key=order.__getitem__))
            there[name] = tensor
        return there[name]

    def walk(packed: Any) -> Any:
        if isinstance(packed, list):
            return [walk(v) for v in packed]
        if not isinstance(packed, dict):
            return packed
        if "tensor" in packed:
            return get(packed)
        if "tuple" in packed:
            return tuple(walk(v) for v in packed["tuple"])
        return {k: walk(v) for k, v in packed["dict"]}

    return walk(packed)
