"""What a federation is given: samples, targets and who holds what, checked before anything is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedlib import require
from fedlib.models.net import Net, State

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check(x: Tensor, y: Tensor, split: Sequence[Tensor], dtype: torch.dtype, lr: float) -> None:
    """Raises ValueError unless ``x`` [N, ...] and ``y`` [N, ...] are finite samples and targets, and ``split`` lists
    rows of them: at least one for each client, in [0, N), none held twice by one client.

    Integer targets are classes [N], counted from 0; targets of other objectives are floating point or [N, D].
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    if lr > torch.finfo(dtype).max:
        raise ValueError(f"lr is {lr}, which {dtype} cannot hold: at most {torch.finfo(dtype).max:g}")
    for name, values in (("x", x), ("y", y)):
        if not isinstance(values, Tensor) or values.ndim == 0:
            raise ValueError(f"{name} must be a tensor [N, ...], got {_form(values)}")
        if not require.all_finite([values]):
            rows = (~values.flatten(1).isfinite()).any(1) if values.ndim > 1 else ~values.isfinite()
            raise ValueError(f"{name} must be finite; NaN or infinite in rows {_some(rows.nonzero().flatten())}")
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x and y need one row for each of N >= 1 samples, got {len(x)} and {len(y)} rows")
    if y.dtype in INTEGERS:
        if y.ndim == 2 and y.shape[1] == 1:
            raise ValueError(f"classes must be [N], got {_form(y)}: give y.squeeze(1)")
        if y.ndim == 1 and int(y.min()) < 0:
            raise ValueError(
                f"classes are counted from 0, got {int(y.min())} (in rows {_some((y < 0).nonzero()[:, 0])})"
            )
    _check_rows(list(split), len(x))


def _check_rows(split: list[Tensor], n: int) -> None:
    for k, part in enumerate(split):
        if not isinstance(part, Tensor) or part.dtype not in INTEGERS or part.ndim != 1:
            if isinstance(part, Tensor) and part.shape == (0,):
                continue  # said below, for all clients at once
            raise ValueError(f"split[{k}] must be row numbers, an integer tensor [n], got {_form(part)}")
    if not split or any(len(part) == 0 for part in split):
        empty = [k for k, part in enumerate(split) if len(part) == 0]
        raise ValueError(f"every client needs at least one sample; without any: {empty or 'no client at all'}")
    rows = torch.cat([labels(part).cpu() for part in split])
    holder = torch.arange(len(split)).repeat_interleave(torch.tensor([len(part) for part in split]))
    outside = (rows < 0) | (rows >= n)
    if bool(outside.any()):
        k = int(holder[outside][0])
        raise ValueError(f"split[{k}] holds row {int(rows[outside][0])}; there are rows 0 to {n - 1}")
    order = (holder * n + rows).sort().values
    twice = order[1:][order[1:] == order[:-1]]
    if len(twice):
        k, row = divmod(int(twice[0]), n)
        raise ValueError(f"split[{k}] holds row {row} more than once: a client has a sample once")


def labels(values: Tensor) -> Tensor:
    """Integers of any type as int64, as losses and indexing want them; whatever else as it is."""
    return values.long() if values.dtype in INTEGERS else values


def check_classes(net: Net, state: State, x: Tensor, y: Tensor, ready: Callable[[Tensor], Tensor]) -> None:
    """Raises ValueError when integer targets ``y`` [N] name classes that the network has no output for.

    An output as large as the sample ``x`` [1, ...] is an autoencoder's: its labels only say who holds what.
    """
    if y.ndim != 1 or y.is_floating_point():
        return
    try:
        out = net.predict(state, ready(x))
    except Exception:  # a network that takes something else than samples: whoever trains it knows
        return
    if out.ndim == 2 and out.numel() != x.numel() and int(y.max()) >= out.shape[1]:
        raise ValueError(
            f"the network has {out.shape[1]} outputs, classes 0 to {out.shape[1] - 1}; y has {int(y.max())}"
        )


def _form(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _some(rows: Tensor) -> str:
    shown = ", ".join(map(str, rows[:5].tolist()))
    return f"{shown}{', ...' if len(rows) > 5 else ''}"
