"""Layers in a faster order or form, with results and gradients of the same value: for the copies that networks compute
with. (Only the sign of a zero, and where the gradient of a NaN goes, may be others.)

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

LARGE = 32_000  # numbers in a batch of maps from about which slices are faster, measured on one core of a server


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
    """Maxima of windows of 2 x 2 [..., H, W]: [..., H // 2, W // 2]. Of equals the first row's first gets the gradient,
    by PyTorch's own function, which is given the places.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        height, width = (n // 2 * 2 for n in x.shape[-2:])
        left, right = x[..., :height, :width:2], x[..., :height, 1:width:2]
        larger, second = torch.maximum(left, right), right > left
        top, bottom = larger[..., ::2, :], larger[..., 1::2, :]
        lower, above = bottom > top, second[..., ::2, :]
        across = above ^ (lower & (above ^ second[..., 1::2, :]))
        rows, columns = (torch.arange(0, n, 2) for n in (height, width))
        ctx.shape = x.shape
        ctx.save_for_backward((rows[:, None] * x.shape[-1] + columns) + across + lower * x.shape[-1])
        return torch.maximum(top, bottom)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (g,), (places,) = grads, ctx.saved_tensors
        like = g.new_empty(1).expand(ctx.shape)  # only its shape is looked at
        return torch.ops.aten.max_pool2d_with_indices_backward(g, like, [2, 2], [2, 2], [0, 0], [1, 1], False, places)
