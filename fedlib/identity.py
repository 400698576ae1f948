"""What decides a federation's numbers, written down so that another process can tell whether it has the same.

Values are told by content: tensors and the code of functions by checksum, what a function closes over and objects of
known kinds by their parts. Of other objects their representation or attributes are told, and of code only what a
function or method itself says, not what it calls.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlib.federation import Federation

_hashed: dict[int, tuple[weakref.ref, int, str]] = {}  # by identity: a set of images is read once, not at every save


def settings(fed: Federation) -> dict[str, Any]:
    """Everything that decides the numbers of a federation, as far as it can be written down as JSON.

    Left out are the executor and the device, which change no more than the last bits, and the observers, which change
    none. Attributes of an algorithm whose names begin with an underscore are its own business.
    """
    split = [torch.tensor([len(rows) for rows in fed.split]), torch.cat(list(fed.split)).cpu()]
    return {
        **{f"local.{n}": told(v) for n, v in vars(fed.local).items()},
        "algorithm": type(fed.algorithm).__name__,
        "objective": _class(type(fed.algorithm), lambda _, method: getattr(method, "per_sample", False)),
        **dict(_parts("algorithm", fed.algorithm)),
        "weighting": fed.algorithm.weighting,
        "personal": list(fed.personal),
        "seed": fed.seed,
        "dtype": str(fed.dtype),
        "precision": fed.net.precision,
        "participation": fed.participation,
        "buffers": fed.buffers,
        "split": digest({"sizes": split[0], "rows": split[1]})[:16],
        "x": told(fed.x),
        "y": told(fed.y),
        "prepare": told(fed.prepare),
        "network": f"{type(fed.net.module).__name__} {_short(repr(_network(fed.net.module)))}",
    }


def _parts(prefix: str, value: Any, within: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """An object's attributes by name, and those of the dataclasses and algorithms among them, so that a message can
    name the one that differs.
    """
    for name, inner in vars(value).items():
        if name.startswith("_"):
            continue
        if _has_parts(inner) and id(inner) not in within:
            yield f"{prefix}.{name}", type(inner).__name__
            yield from _parts(f"{prefix}.{name}", inner, (*within, id(value)))
        else:
            yield f"{prefix}.{name}", told(inner, (*within, id(value)))


def _has_parts(value: Any) -> bool:
    from fedlib.algorithms.fedavg import FedAvg

    return isinstance(value, FedAvg) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def told(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as JSON: itself if it is plain, else its kind and a checksum of its content.

    ``within`` are the identities of what it is a part of.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in within:
        return "itself"
    inner = functools.partial(told, within=(*within, id(value)))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)} {_checksum(value)[:16]}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype} {list(value.shape)} {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
    if isinstance(value, list | tuple):
        return [inner(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): inner(v) for k, v in value.items()}
    if isinstance(value, nn.Module):
        return _short(repr([_network(value), {n: _checksum(t) for n, t in value.state_dict().items()}]))
    if isinstance(value, functools.partial):
        return {"partial": [inner(v) for v in (value.func, value.args, value.keywords)]}
    if isinstance(value, types.MethodType):
        return {"method": value.__func__.__qualname__, "of": inner(value.__self__)}
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        about = [_code(value.__code__), inner(value.__defaults__), inner(value.__kwdefaults__), inner(cells)]
        return f"{value.__qualname__} {_short(repr(about))}"
    if _has_parts(value):
        return {"kind": type(value).__name__, **dict(_parts("", value, within))}
    if isinstance(value, type | types.BuiltinFunctionType | np.ufunc):
        return f"{getattr(value, '__module__', '')} {value.__name__}"
    if isinstance(value, set | frozenset):
        return {type(value).__name__: sorted(repr(inner(v)) for v in value)}
    if "__repr__" in {n for c in type(value).__mro__[:-1] for n in vars(c)}:
        return f"{type(value).__qualname__} {value!r}"
    attributes = {n: inner(v) for n, v in vars(value).items()} if hasattr(value, "__dict__") else {}
    return {"kind": type(value).__qualname__, "code": _class(type(value), lambda *_: True), **attributes}


def _code(code: types.CodeType) -> list[Any]:
    inner = [_code(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts]
    return [code.co_code.hex(), code.co_names, code.co_varnames, inner]


def _forward(name: str, _: Any) -> bool:
    return name == "forward"


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _class(kind: type, counts: Callable[[str, Any], bool]) -> str:
    """Checksum of what the methods that count say, of a class and of its bases, torch's own left out."""
    own = [c for c in kind.__mro__ if c.__module__.split(".")[0] != "torch"]
    methods = [(n, f) for c in own for n, f in vars(c).items() if hasattr(f, "__code__") and counts(n, f)]
    return _short(repr([(n, _code(f.__code__)) for n, f in methods]))


def _network(module: nn.Module) -> list[Any]:
    """What a network is beside its numbers: its layers, its tensors' names, types and shapes, what a forward pass may
    read beside them.
    """
    tensors = [(n, str(t.dtype).removeprefix("torch."), list(t.shape)) for n, t in module.state_dict().items()]
    plain = [
        (
            type(m).__qualname__,
            _class(type(m), _forward),
            {k: told(v) for k, v in vars(m).items() if not k.startswith("_")},
        )
        for m in module.modules()
    ]
    return [str(module), tensors, plain]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and numbers, wherever it lies; kept until it is changed or gone."""
    kept = _hashed.get(id(tensor))
    if kept is not None and kept[0]() is tensor and kept[1] == tensor._version:
        return kept[2]
    found = digest({"": tensor.detach().cpu()})
    key = id(tensor)
    _hashed[key] = weakref.ref(tensor, lambda _: _hashed.pop(key, None)), tensor._version, found
    return found


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 over a text and tensors on the host: names, types, shapes and numbers."""
    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
