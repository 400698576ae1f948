"""What a function looks at, and what it may depend on beside its arguments: to know how long a trial of it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_VALUES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_OPAQUE = (type, ModuleType, nn.Module, torch.Generator)


class Watch(TorchFunctionMode):
    """Notes in ``read`` when a function looks at the values of a tensor: how it did, in words.

    What is decided by a value, or has a shape that depends on values, is decided on a stack once for all clients, and
    no trial can tell what other values would have decided.
    """

    READERS = (
        "__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__array__", "item", "tolist",
        "numpy", "equal", "allclose", "is_nonzero", "nonzero", "argwhere", "masked_select", "unique",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.read = ""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in self.READERS:
            self.read = name
        elif name == "__getitem__":
            places = args[1] if isinstance(args[1], tuple) else args[1:]
            if any(isinstance(p, Tensor) and p.dtype == torch.bool for p in places):
                self.read = "a mask"
        return function(*args, **(kwargs or {}))

    def around(self, function: Callable, *given: Any) -> Any:
        """The function's value; what it looks at on the way is noted."""
        with self:
            return function(*given)


def facts(*things: Any) -> list:
    """What functions and objects hold, in a flat list: numbers and words by value, tensors and objects by identity.

    Bound methods lead to their object's attributes, functions to their closure, and so on inwards; a tensor counts as
    another when it was changed in place. Networks are taken as they are. The list keeps what is in it alive: no other
    object can take its place unnoticed.
    """
    found: list = []
    seen: set[int] = set()

    def visit(thing: Any) -> None:
        if isinstance(thing, _VALUES):
            found.append(thing)
            return
        if isinstance(thing, MethodType):
            visit(thing.__self__)
            visit(thing.__func__)
            return
        frozen = is_dataclass(thing) and not isinstance(thing, type) and thing.__dataclass_params__.frozen  # type: ignore[attr-defined]
        by_value = frozen or isinstance(thing, Mapping | list | tuple | set | frozenset | partial)
        found.append(type(thing) if by_value else thing)
        if id(thing) in seen or isinstance(thing, _OPAQUE):
            return
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found.append(None if thing.is_inference() else thing._version)
        elif isinstance(thing, Mapping):
            for key, value in thing.items():
                visit(key)
                visit(value)
        elif isinstance(thing, list | tuple | set | frozenset):
            found.append(len(thing))
            for value in thing:
                visit(value)
        elif isinstance(thing, partial):
            visit((thing.func, thing.args, thing.keywords))
        elif isinstance(thing, FunctionType):
            visit((thing.__defaults__, thing.__kwdefaults__, vars(thing), *map(_content, thing.__closure__ or ())))
        elif frozen:
            visit([getattr(thing, f.name) for f in fields(thing) if f.compare])
        elif hasattr(thing, "__dict__"):
            visit(vars(thing))

    for thing in things:
        visit(thing)
    return found


def same(a: list, b: list) -> bool:
    """Whether two lists of :func:`facts` tell the same."""
    return len(a) == len(b) and all(map(_one, a, b))


def _one(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _VALUES) and a == b)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that nothing is bound to yet
        return None
