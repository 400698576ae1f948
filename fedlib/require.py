"""Numbers that are numbers: arguments are checked where they enter, results before anybody records them."""

from __future__ import annotations

import cmath
import math
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors  # the fastest way to lay many small tensors end to end

SMALL = 4096  # numbers in a tensor that is copied beside others, so that one sum is taken of many


class NotFinite(ArithmeticError):
    """A NaN or an infinity, where a result would be made of it."""


def whole(name: str, value: Any, least: int | None = 0) -> int:
    """The value as an int. Raises ValueError unless it is a whole number of whatever type, of at least ``least``."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r}")
    return number


def real(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """The value as a float. Raises ValueError unless it is a finite number, > ``above``, >= ``least``, < ``below`` and
    <= ``most``.
    """
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and above < number < below and least <= number <= most):
        bounds = ((">", above), (">=", least), ("<", below), ("<=", most))
        wanted = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))
        raise ValueError(f"{name} must be a finite number{' ' * bool(wanted)}{wanted}, got {value!r}")
    return number


def one_of(name: str, value: Any, allowed: Iterable[str]) -> Any:
    """The value itself. Raises ValueError unless it is one of the names allowed."""
    names = list(allowed)
    if value not in names:
        raise ValueError(f"{name} must be {' or '.join(map(repr, names))}, got {value!r}")
    return value


def finite(name: str, *tensors: Tensor) -> None:
    """Raises NotFinite, naming what the tensors are, when one of them has a NaN or an infinity."""
    if not all_finite(tensors):
        raise NotFinite(f"{name}: {share_of_nonsense(*tensors)}")


def share_of_nonsense(*tensors: Tensor) -> str:
    """How many numbers of some tensors are none, in words."""
    bad = sum(int((~t.isfinite()).sum()) for t in tensors)
    return f"{bad} of {sum(t.numel() for t in tensors)} numbers are NaN or infinite"


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite.

    Cheap, for it is asked after every round: a finite sum has finite terms, and the terms are looked at one by one only
    where the sum is not, which may have overflowed.
    """
    kinds: dict[tuple, list[Tensor]] = {}
    for t in tensors:
        if t.is_floating_point() or t.is_complex():
            t = t if t.layout is torch.strided else t.to_dense()
            kinds.setdefault((t.dtype, t.device.type, t.get_device()), []).append(t)
    for group in kinds.values():
        sums = [t.sum() for t in group if t.numel() > SMALL]
        if small := [t for t in group if t.numel() <= SMALL]:
            sums.append(_flatten_dense_tensors(small).sum())
        total = sums[0] if len(sums) == 1 else torch.stack(sums).sum()
        if not cmath.isfinite(total.item()) and not all(bool(t.isfinite().all()) for t in group):
            return False
    return True


def tensors_in(*values: Any) -> list[Tensor]:
    """The tensors in nested dictionaries, lists and tuples."""
    found: list[Tensor] = []

    def walk(value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict | list | tuple):
            for inner in value.values() if isinstance(value, dict) else value:
                walk(inner)

    walk(values)
    return found


def named_tensors(value: Any, where: str = "") -> Iterator[tuple[str, Tensor]]:
    """The same, each with its path, such as ``control/head.bias``."""
    if isinstance(value, Tensor):
        yield where, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from named_tensors(inner, f"{where}/{key}" if where else str(key))
