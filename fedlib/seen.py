"""What a function looks at, and what it may depend on beside its arguments: to know how long a trial of it holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedlib.models.net import Net

_SMALL = 4096  # bytes of a tensor of integers or an array that is told by its content
_VALUES = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_OPAQUE = (type, ModuleType, torch.Generator)
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)


class Watch(TorchFunctionMode):
    """Notes in ``read`` when a function looks at the values of a tensor: how it did, in words.

    What is decided by a value, or has a shape that depends on values, is decided on a stack once for all clients, and
    no trial can tell what other values would have decided.
    """

    READERS = (
        "__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__array__", "item", "tolist",
        "numpy", "equal", "allclose", "is_nonzero", "nonzero", "argwhere", "masked_select", "unique",
        "unique_consecutive", "bincount", "histc", "to_sparse", "__format__", "__dlpack__",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.read = ""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in self.READERS:
            self.read = name
        elif name == "where" and len(args) + len(kwargs or {}) == 1:
            self.read = "where with a condition alone"
        elif name == "one_hot" and len(args) + len(kwargs or {}) == 1:
            self.read = "one_hot without a number of classes"
        elif name == "repeat_interleave" and any(isinstance(a, Tensor) for a in (*args[1:], *(kwargs or {}).values())):
            self.read = "repeat_interleave by a tensor"
        elif name == "__getitem__":
            places = args[1] if isinstance(args[1], tuple) else args[1:]
            if any(isinstance(p, Tensor) and p.dtype in (torch.bool, torch.uint8) for p in places):
                self.read = "a mask"
        return function(*args, **(kwargs or {}))

    def around(self, function: Callable, *given: Any) -> Any:
        """The function's value; what it looks at on the way is noted."""
        with self:
            return function(*given)


def facts(*things: Any, captured: bool = False) -> list:
    """What functions and objects hold, in a flat list: numbers and words by value, tensors and objects by identity.

    Bound methods lead to the attributes of their object and its class, functions to their closure, and so on inwards; a
    tensor counts as another when it was changed in place, unless it holds few integers, which are told themselves, as
    small arrays are. Of networks only what is neither a tensor nor a layer counts. The list keeps what is in it alive:
    no other object can take its place unnoticed.

    For what is ``captured`` and replayed without Python, all tensors count by their place in memory, those of networks,
    too, and functions lead on to the global variables that they name, objects to all attributes of their classes.
    """
    found: list = []
    seen: dict[int, tuple[int, Any]] = {}  # alive, so that nothing made on the way takes another one's identity

    def visit(thing: Any) -> None:
        if isinstance(thing, _VALUES):
            found.append(thing)
            return
        if isinstance(thing, MethodType):
            visit(thing.__self__)
            visit(thing.__func__)
            return
        frozen = is_dataclass(thing) and not isinstance(thing, type) and thing.__dataclass_params__.frozen  # type: ignore[attr-defined]
        by_value = frozen or isinstance(thing, (*_CONTAINERS, partial))
        found.append(type(thing) if by_value else thing)
        if isinstance(thing, Tensor) and not captured and not thing.is_floating_point() and 0 < thing.nbytes <= _SMALL:
            found[-1] = Tensor
            found.extend((thing.dtype, thing.shape, str(thing.tolist())))
            return
        if isinstance(thing, np.ndarray) and not thing.dtype.hasobject and thing.nbytes <= _SMALL:
            found.append(thing.tobytes())
        if id(thing) in seen:  # which of those before it is: one list twice is not two lists
            found.append(seen[id(thing)][0])
            return
        seen[id(thing)] = len(seen), thing
        if isinstance(thing, _OPAQUE) or (captured and _of_torch(thing)):
            return
        if isinstance(thing, Tensor):
            found.extend(_place(thing) if captured else [None if thing.is_inference() else thing._version])
        elif isinstance(thing, bytearray):
            found.append(bytes(thing))
        elif isinstance(thing, _CONTAINERS):
            found.append(len(thing))
            for value in thing.items() if isinstance(thing, Mapping) else thing:
                visit(value)
            visit(getattr(thing, "__dict__", None))
        elif isinstance(thing, partial):
            visit((thing.func, thing.args, thing.keywords))
        elif isinstance(thing, FunctionType):
            visit((thing.__defaults__, thing.__kwdefaults__, vars(thing), *map(_content, thing.__closure__ or ())))
            visit(list(_globals(thing)) if captured else None)
        elif frozen:
            visit([getattr(thing, f.name) for f in fields(thing) if f.metadata.get("told", True)])
        elif isinstance(thing, nn.Module):
            visit([{n: v for n, v in vars(m).items() if not n.startswith("_")} for m in thing.modules()])
            visit([*thing.parameters(), *thing.buffers()] if captured else None)
        elif isinstance(thing, Net):
            visit(thing.form)
        else:
            visit(attributes(thing, captured))

    for thing in things:
        visit(thing)
    return found


def attributes(thing: Any, every: bool = False) -> dict[str, Any]:
    """What an object holds, in slots, too, and of its classes plain values, or ``every`` attribute."""
    classes = [c for c in reversed(type(thing).__mro__) if c is not object]
    held = {
        n: v
        for c in classes
        for n, v in vars(c).items()
        if (every or isinstance(v, _VALUES)) and not (n.startswith("__") and n.endswith("__"))
    }
    for slots in (vars(c).get("__slots__", ()) for c in classes):
        names = [slots] if isinstance(slots, str) else slots
        held |= {n: getattr(thing, n) for n in names if hasattr(thing, n)}
    return held | getattr(thing, "__dict__", {})


def _of_torch(thing: Any) -> bool:
    """Whether PyTorch or NumPy wrote a function, which then reads nothing of anybody's."""
    return isinstance(thing, FunctionType) and (thing.__module__ or "").partition(".")[0] in ("torch", "numpy")


def _globals(function: FunctionType) -> Iterator[Any]:
    """What the global names in a function's code stand for, those of functions inside it, too."""
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
        yield from (function.__globals__[n] for n in code.co_names if n in function.__globals__)


def _place(t: Tensor) -> list:
    """Where a tensor lies; of a single number on the host, which is handed on by value, that number, too."""
    try:
        place: list = [t.data_ptr()]
    except RuntimeError:  # it has no memory
        return [None]
    return [*place, str(t.item())] if t.device.type == "cpu" and t.ndim == 0 else place


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
