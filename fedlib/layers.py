"""Layers in a faster order or form, with the same results to the last bit: for the copies that networks compute with.

PyTorch pools maps that lie channel by channel one value at a time on a CPU: a third of a step of LeNet-5. Maxima of
shifted slices are taken by whole registers. And where ReLU stands before a pooling layer, three of its four values are
thrown away; the maximum of what is cut off below is what is cut off of the maximum, so pooling goes first.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGE = 32_000  # numbers in a batch of maps from which slices are faster (measured: benchmarks)


def quicken(module: nn.Module) -> nn.Module:
    """The module itself, its pooling layers and the sequences that contain them in a faster form."""
    for layer in module.modules():
        if type(layer) is nn.MaxPool2d and _halves(layer):
            layer.forward = partial(_max_pool, layer)  # type: ignore[method-assign]
        elif type(layer) is nn.Sequential and any(map(_exchange, layer, list(layer)[1:])):
            layer.forward = partial(_in_turn, layer)  # type: ignore[method-assign]
    return module


def _halves(layer: nn.MaxPool2d) -> bool:
    """Whether windows of 2 x 2 lie side by side."""
    wanted = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1}
    plain = all(getattr(layer, name) in (n, (n, n)) for name, n in wanted.items())
    return plain and not layer.ceil_mode and not layer.return_indices


def _exchange(first: nn.Module, then: nn.Module) -> bool:
    """Whether the order of two layers makes no difference, and the other one is cheaper. Hooks would see it."""
    if not (type(first) is nn.ReLU and type(then) is nn.MaxPool2d) or first.inplace or then.return_indices:
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in (first, then))


def _in_turn(layers: nn.Sequential, x: Tensor) -> Tensor:
    """The layers one after the other, but pooling before ReLU."""
    waiting: nn.Module | None = None
    for layer in layers:
        if waiting is not None:
            x, waiting = (waiting(layer(x)), None) if _exchange(waiting, layer) else (waiting(x), waiting)
            if waiting is None:
                continue
        if type(layer) is nn.ReLU:
            waiting = layer
        else:
            x, waiting = layer(x), None
    return x if waiting is None else waiting(x)


def _max_pool(layer: nn.MaxPool2d, x: Tensor) -> Tensor:
    fits = x.device.type == "cpu" and x.numel() >= LARGE and x.ndim == 4 and x.is_contiguous() and _stored(x)
    if fits and min(x.shape[-2:]) >= 2:
        return _MaxPool.apply(x)
    return functional.max_pool2d(x, layer.kernel_size, layer.stride)


def _stored(x: Tensor) -> bool:
    """Whether a tensor has memory of its own, and no transformation such as ``vmap`` is at work."""
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return True


class _MaxPool(torch.autograd.Function):
    """Maxima of windows of 2 x 2 [..., H, W]: [..., H // 2, W // 2]. Of equals the first row's first counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        height, width = (n // 2 * 2 for n in x.shape[-2:])
        left, right = x[..., :height, :width:2], x[..., :height, 1:width:2]
        larger = torch.maximum(left, right)
        top, bottom = larger[..., ::2, :], larger[..., 1::2, :]
        ctx.shape = x.shape
        ctx.save_for_backward(right > left, bottom > top)
        return torch.maximum(top, bottom)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Spread.apply(*grads, *ctx.saved_tensors, ctx.shape)


class _Spread(torch.autograd.Function):
    """Numbers [..., h, w] back at the places [..., H, W] that they were taken from: the gradient of pooling."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, right: Tensor, lower: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(right, lower)
        height, width = right.shape[-2], 2 * right.shape[-1]
        rows, out = g.new_empty(right.shape), (g.new_empty if (height, width) == shape[-2:] else g.new_zeros)(shape)
        _deal(g, lower, rows[..., ::2, :], rows[..., 1::2, :])
        _deal(rows, right, out[..., :height, :width:2], out[..., :height, 1:width:2])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (right, lower) = grads, ctx.saved_tensors
        height, width = right.shape[-2], 2 * right.shape[-1]
        rows = torch.where(right, g[..., :height, 1:width:2], g[..., :height, :width:2])
        return torch.where(lower, rows[..., 1::2, :], rows[..., ::2, :]), None, None, None


def _deal(g: Tensor, second: Tensor, one: Tensor, other: Tensor) -> None:
    """Put each number into ``other`` where ``second``, else into ``one``, and zero into the other of the two."""
    torch.mul(g, second, out=other)
    torch.sub(g, other, out=one)
