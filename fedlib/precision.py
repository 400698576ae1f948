"""How exactly products are computed: a setting of a run, with what torch must be told for it.

================  =====================================================================================================
the type's name   ``"float32"``, ``"float64"``: every product in the type of the weights. TF32, which PyTorch otherwise
                  uses in cuDNN's convolutions without being asked, is switched off for the whole process with the first
                  network on a GPU.
``"tf32"``        CUDA's matrix products and convolutions round their factors to 10 bits of mantissa, and sum in
                  float32. A device without TF32 computes in float32.
``"bf16"``        A network's forward pass and its gradient compute in bfloat16 (8 bits) under ``torch.autocast``;
                  weights, losses, gradients of weights and whatever is summed over clients stay float32.
================  =====================================================================================================

The last two are for float32 networks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fedlib import require

NARROW = ("tf32", "bf16")

used: set[str] = set()
"""What networks of this process computed in, as :func:`in_effect` says it."""

_cudnn: Any = torch.backends.cudnn
_onednn: Any = torch.backends.mkldnn
_PLACES = (torch.backends.cuda.matmul, _cudnn.conv, _cudnn.rnn, _onednn.matmul, _onednn.conv, _onednn.rnn)


def pick(precision: str | None, dtype: torch.dtype) -> str:
    """The name of a precision for networks of a type; None stands for the type itself. Raises ValueError for a name
    that is unknown, or not for this type.
    """
    own = str(dtype).removeprefix("torch.")
    if precision is None:
        return own
    if precision in NARROW and dtype != torch.float32:
        raise ValueError(f"precision {precision!r} is for networks with dtype=torch.float32, and this one's is {own}")
    allowed = (own, *NARROW) if dtype == torch.float32 else (own,)
    return require.one_of(f"precision of {own} networks", precision, allowed)


def in_effect(precision: str, device: torch.device) -> str:
    """What a precision comes to on a device: itself, or ``"tf32 (here: float32)"``."""
    if precision == "tf32":
        there = device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        there = precision != "bf16" or device.type in ("cpu", "cuda")
    return precision if there else f"{precision} (here: float32)"


def exactly() -> None:
    """Switch TF32 off for the process, unless somebody is within :func:`tf32`: gradients that are computed outside a
    federation are then exact, too.
    """
    with _lock:
        if not _active:
            _set(False)


_lock = threading.Lock()
_active: list[tuple[int, bool]] = []  # who is within, and whether with TF32
_before: list[Any] = []  # what the process had when the first came


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """TF32 in CUDA's products and cuDNN's convolutions, or exact float32 there and on the processor; afterwards the
    process has the settings that it had. Gradients, too, must be computed within.

    The settings are those of the whole process: a thread that wants others than one which is at work raises
    RuntimeError.
    """
    me = threading.get_ident(), allowed
    with _lock:
        if any(thread != me[0] and setting != allowed for thread, setting in _active):
            raise RuntimeError(
                "two threads compute in different precisions at the same time; that setting is the whole process's: "
                "play them one after the other, or in processes of their own"
            )
        if not _active:
            _before[:] = [[place.fp32_precision for place in _PLACES], _legacy()]
        _active.append(me)
        if len(_active) == 1 or _active[-2][1] != allowed:
            _set(allowed)
    try:
        yield
    finally:
        with _lock:
            _active.reverse()  # the last that this thread put in
            _active.remove(me)
            _active.reverse()
            if _active:
                if _active[-1][1] != allowed:
                    _set(_active[-1][1])
            else:
                before, legacy = _before
                if [place.fp32_precision for place in _PLACES] != before:
                    _tell(before, legacy or ("high" if before[0] == "tf32" else "highest"))


def _set(allowed: bool) -> None:
    wanted = ["tf32" if allowed and i < 3 else "ieee" for i in range(len(_PLACES))]
    _tell(wanted, "high" if allowed else "highest")


def _legacy() -> str | None:
    """What PyTorch's older setting says; None where it cannot be read beside the newer ones."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _tell(places: list[str], legacy: str) -> None:
    """The older settings first, which change the newer ones: who reads them finds both agree, or gets an error."""
    torch.set_float32_matmul_precision(legacy)
    _cudnn.allow_tf32 = places[1] == "tf32"
    for place, precision in zip(_PLACES, places, strict=True):
        place.fp32_precision = precision
