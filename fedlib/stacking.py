"""One network for many clients at once: each has weights of its own, and every layer is computed for all together.

A network with convolutions or BatchNorm keeps the clients side by side in dimension 1 of its activations,
[B, K F, ...]: a convolution becomes a grouped one, BatchNorm and GroupNorm see K times their channels, and a linear
layer becomes a batched matrix product. Any other keeps them one after the other in dimension 0, [K B, F]: nothing is
turned around between matrix products, which is faster. Elementwise layers, pooling and flattening need no change. So
the module's own ``forward`` runs as it is written; only its layers with parameters are computed in another way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import costs, layers, rng, seen
from fedlib.models.net import Net, Resident, State


class Stack(State):
    """States of K clients in one: every tensor has a leading dimension of K."""


def take(states: Sequence[Mapping[str, Tensor]]) -> Stack:
    """States of the same network as one stack, in their order."""
    return Stack({n: torch.stack([s[n] for s in states]) for n in states[0]})


def first(stack: Mapping[str, Tensor], k: int) -> Stack:
    """The first k clients of a stack, sharing its memory."""
    return Stack({n: t[:k] for n, t in stack.items()})


class StackedNet:
    """The network of :class:`~fedlib.models.net.Net`, with the same names, for a :class:`Stack` of K clients.

    Inputs [B, K, 1, ...] give outputs [B, K, 1, ...]: sample b of client k as a batch of one. A plain state is taken
    as common to all clients: a shared teacher. Raises ValueError for a network that has no stacked form; see
    :func:`obstacle`.
    """

    def __init__(self, net: Net):
        if reason := obstacle(net):
            raise ValueError(reason)
        self._one, self.parameters, self.buffers = net, net.parameters, net.buffers
        self.device, self.dtype = net.device, net.dtype
        #: How activations lie: one client's samples after the other's, or the clients' channels side by side.
        self.clients_first = not any(type(m) in _SIDE_BY_SIDE for m in net.module.modules())
        self._train, self._eval = (Resident(self._convert(net.module, mode)) for mode in (True, False))
        self._clients, self._share = 0, Tensor()
        self._counts: Tensor | None = None
        self._least = 0

    def weigh(self, share: Tensor, counts: Tensor | None, least: int | None = None) -> None:
        """Announce the next batch: ``share`` [B, K] says how much each sample counts in its client's batch (columns
        sum to one, padding has zero), ``counts`` [K] how many samples are real, None when all are. ``least`` is the
        smallest count, for whoever knows it: to find it out, the host waits for the device.
        """
        self._share, self._counts = share, counts
        self._least = int(counts.min()) if least is None and counts is not None else least or 0

    def weights(self, state: Mapping[str, Tensor]) -> State:
        """The parameters in a state, without the buffers; a stack stays a stack."""
        kept = {n: state[n] for n in self.parameters}
        return Stack(kept) if isinstance(state, Stack) else kept

    def __call__(self, state: Mapping[str, Tensor], x: Tensor, train: bool = False, **options: Any) -> Tensor:
        """Outputs [B, K, 1, ...] for inputs [B, K, 1, ...]."""
        self._clients = x.shape[1]
        lying = x.transpose(0, 1) if self.clients_first else x
        resident = partial(self._one.answer, self._train if train else self._eval)
        if not isinstance(state, Stack):
            out = self._one(state, lying.flatten(0, 2), train, **options).unflatten(0, lying.shape[:3])
        elif self.clients_first:
            out = resident(state, lying.flatten(0, 2), **options).unflatten(0, lying.shape[:3])
        else:
            out = resident(state, x.reshape(len(x), -1, *x.shape[4:]), **options)
            return out.unflatten(1, (self._clients, -1)).unsqueeze(2)
        return out.transpose(0, 1) if self.clients_first else out

    def linear(self, state: Mapping[str, Tensor], z: Tensor, layer: str = "head") -> Tensor:
        """The linear layer of that name alone, of each client or of a shared state: [B, K, 1, D] gives [B, K, 1, C]."""
        if not isinstance(state, Stack):
            return self._one.linear(state, z, layer)
        out = self._one.answer(torch.einsum, "bkid,kcd->bkic", z, state[f"{layer}.weight"])
        return out + state[f"{layer}.bias"].unsqueeze(1) if f"{layer}.bias" in state else out

    def _convert(self, module: nn.Module, train: bool) -> nn.Module:
        copied = layers.quicken(copy.deepcopy(module).train(train))
        for layer in copied.modules():
            if form := _FORMS.get(type(layer)):
                layer.forward = partial(form, self, layer)
        return copied


def stacked(net: Net) -> StackedNet:
    """The stacked form of a network, made once."""
    if StackedNet not in net.notes:
        net.notes[StackedNet] = StackedNet(net)
    return net.notes[StackedNet]


def obstacle(net: Net) -> str:
    """Why the network has no stacked form, in words; empty when it has one."""
    layer: nn.Module
    for name, layer in net.module.named_modules():
        odd = None
        if type(layer) in _FORMS:
            odd = _unusual(layer)
        elif type(layer) in _PLAIN:
            odd = "flattening from another dimension than 1" if getattr(layer, "start_dim", 1) != 1 else None
        elif not list(layer.children()):
            odd = "which has no stacked form"
        elif any(t is not None for home in (layer._parameters, layer._buffers) for t in home.values()):
            odd = "which has parameters of its own beside its layers"
        if odd:
            return f"layer {name or 'itself'} is a {type(layer).__name__}, {odd}"
    return ""


def pays(net: Net, xs: Sequence[Tensor]) -> bool:
    """Whether several states answer faster together: on an accelerator always, on a CPU when overhead rules."""
    if obstacle(net) or not len(xs[0]):
        return False
    if net.device.type == "cpu" and max(map(len, xs)) * costs.work(net, xs[0][:1]).products >= 2_000_000:
        return False
    return faithful(net, xs[0])


def exact(net: Net) -> Net:
    """The network in double precision, to see what rounding would hide, where the device has it; made once."""
    if net.dtype == torch.float64 or net.device.type == "mps":
        return net
    if exact not in net.notes:
        net.notes[exact] = Net(net.module, net.device, torch.float64)
    return net.notes[exact]


def tolerance(net: Net) -> float:
    """What two ways to compute the same may differ by, as a share of the largest value."""
    return {torch.float64: 1e-9}.get(net.dtype) or {"tf32": 1e-2, "bf16": 1e-1}.get(net.precision, 1e-3)


def faithful(net: Net, x: Tensor) -> bool:
    """Whether the stacked form answers as the network does for inputs like x, in training and in evaluation.

    Tried once: between its layers a forward pass may do what only a batch of one client allows, such as concatenating
    or a softmax over dimension 1. One that looks at the values of its activations is never taken for faithful.
    """
    key = ("faithful", x.shape[1:])
    if key not in net.notes:
        net.notes[key] = all(_alike(exact(net), x[0], train) for train in (False, True))
    return net.notes[key]


def _alike(net: Net, sample: Tensor, train: bool) -> bool:
    """Whether two models answer together as alone, and leave the same statistics behind."""
    generator = rng.stream("does the stacked form answer as the network does?")

    def draw(like: Tensor, *shape: int) -> Tensor:
        return torch.rand(*shape, *like.shape, generator=generator).to(like)

    start = net.initial().items()
    states = [{n: t + draw(t) if t.is_floating_point() else t.clone() for n, t in start} for _ in "ab"]
    inputs, together = (2 * draw(sample, 3, 2) - 1).to(net.dtype), take(states)
    watch = seen.Watch()
    try:
        form = stacked(net)
        form.weigh(torch.full((3, 2), 1 / 3, device=net.device, dtype=net.dtype), None)
        found = form(together, inputs.unsqueeze(2), train).squeeze(2)
        expected = torch.stack([watch.around(net, s, inputs[:, k], train) for k, s in enumerate(states)], 1)
        pairs = [(found, expected), *((together[n], torch.stack([s[n] for s in states])) for n in together)]
        near = all(bool(((a - b).abs() <= tolerance(net) * b.abs().max()).all()) for a, b in pairs)
    except Exception:  # whatever it makes of the additional dimensions
        return False
    return near and not watch.read


def predict_each(
    net: Net, states: Sequence[Mapping[str, Tensor]], xs: Sequence[Tensor], batch: int = 2048
) -> list[Tensor]:
    """Outputs of every state for its own inputs, in one computation; see :meth:`Net.predict_each`."""
    together, all_ = stacked(net), take(states)
    if all(x is xs[0] for x in xs):
        whole = xs[0].unsqueeze(1).expand(-1, len(xs), *xs[0].shape[1:])
    else:
        whole = torch.nn.utils.rnn.pad_sequence(list(xs))
    parts = [together(all_, part.unsqueeze(2)).squeeze(2) for part in whole.split(max(1, batch // len(xs)))]
    return [out[: len(x)] for out, x in zip(torch.cat(parts).unbind(1), xs, strict=True)]


def _unusual(layer: nn.Module) -> str | None:
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return "with padding other than zeros"
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) != 1:
        return "over more than one dimension"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.momentum is None or not layer.track_running_stats):
        return "without the usual running statistics"
    return None


def _linear(stacked: StackedNet, layer: nn.Linear, h: Tensor) -> Tensor:
    if stacked.clients_first:
        each = h.reshape(stacked._clients, -1, h.shape[-1])
    else:
        each = h.view(len(h), stacked._clients, -1).transpose(0, 1)
    out = _Affine.apply(*(_as_autocast(t) for t in (each, layer.weight, layer.bias)))
    return out.view(*h.shape[:-1], -1) if stacked.clients_first else out.transpose(0, 1).flatten(1)


def _as_autocast(t: Tensor | None) -> Tensor | None:
    """A factor in the type that autocast computes products in, if it is at work: it does not look into a Function."""
    if t is None or not torch.is_autocast_enabled(t.device.type):
        return t
    return t.to(torch.get_autocast_dtype(t.device.type))


class _Affine(torch.autograd.Function):
    """x [K, B, in] times weight [K, out, in], plus bias [K, out]: [K, B, out].

    What autograd makes of ``baddbmm`` leaves the weights' gradient turned in memory, and that makes their update slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        across = weight.transpose(1, 2)
        return torch.bmm(x, across) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, across)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight), (to_x, to_weight, to_bias) = grads, ctx.saved_tensors, ctx.needs_input_grad
        return (
            torch.bmm(g, weight) if to_x else None,
            torch.bmm(g.transpose(1, 2), x) if to_weight else None,
            g.sum(1) if to_bias else None,
        )


def _conv(stacked: StackedNet, layer: nn.Conv1d | nn.Conv2d, h: Tensor) -> Tensor:
    weight, bias = layer.weight.flatten(0, 1), None if layer.bias is None else layer.bias.flatten()
    convolve: Callable[..., Tensor] = F.conv2d if isinstance(layer, nn.Conv2d) else F.conv1d
    return convolve(h, weight, bias, layer.stride, layer.padding, layer.dilation, stacked._clients * layer.groups)


def _group_norm(stacked: StackedNet, layer: nn.GroupNorm, h: Tensor) -> Tensor:
    return F.group_norm(h, stacked._clients * layer.num_groups, *_affine(layer), layer.eps)


def _layer_norm(stacked: StackedNet, layer: nn.LayerNorm, h: Tensor) -> Tensor:
    clients, (weight, bias) = stacked._clients, _affine(layer, flat=False)
    each = h.reshape(clients, -1, h.shape[-1]) if stacked.clients_first else h.unflatten(1, (clients, -1))
    normal = F.layer_norm(each, layer.normalized_shape, eps=layer.eps)
    if stacked.clients_first:
        weight, bias = (t if t is None else t.unsqueeze(1) for t in (weight, bias))
    normal = normal if weight is None else normal * weight
    return (normal if bias is None else normal + bias).view(h.shape)


def _batch_norm(stacked: StackedNet, layer: nn.BatchNorm2d, h: Tensor) -> Tensor:
    mean, var = layer.running_mean, layer.running_var
    assert mean is not None
    assert var is not None
    assert layer.momentum is not None
    if layer.training and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    if not layer.training or stacked._counts is None:
        flat = mean.view(-1), var.view(-1)  # views: the running statistics change in place
        return F.batch_norm(h, *flat, *_affine(layer), layer.training, layer.momentum, layer.eps)
    # Padding must not count: the mean over samples is a weighted one, and n_k differs from client to client.
    places = h[0, 0].numel()
    count = (stacked._counts * places).unsqueeze(1)
    if (least := stacked._least * places) < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got {least} in a client's last batch")
    each = h.view(len(h), stacked._clients, -1, places)
    share = stacked._share[:, :, None, None] / places
    centre = (each * share).sum((0, 3))
    spread = ((each - centre[..., None]).square() * share).sum((0, 3))
    with torch.no_grad():
        mean.lerp_(centre, layer.momentum)
        var.lerp_(spread * count / (count - 1), layer.momentum)
    normal = (each - centre[..., None]) * (spread + layer.eps).rsqrt()[..., None]
    weight, bias = _affine(layer, flat=False)
    if weight is not None and bias is not None:
        normal = normal * weight[..., None] + bias[..., None]
    return normal.view_as(h)


def _affine(layer: Any, flat: bool = True) -> tuple[Tensor | None, Tensor | None]:
    pair = layer.weight, layer.bias
    return tuple(t if t is None else t.flatten() for t in pair) if flat else pair  # type: ignore[return-value]


_FORMS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}

_SIDE_BY_SIDE = (nn.Conv1d, nn.Conv2d, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)

_PLAIN = (
    nn.Identity, nn.Sequential, nn.Flatten, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh,
    nn.Sigmoid, nn.Hardtanh, nn.ReLU6,
)  # fmt: skip
