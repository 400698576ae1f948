"""Statistics of BatchNorm layers: those that given inputs would leave, and those of several clients taken together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedlib.models.net import Net, State


def batchnorm_layers(net: Net) -> dict[str, float]:
    """Names of the network's BatchNorm layers, found by their type, in its order, each with its momentum.

    Only layers with running statistics count.
    """
    layers = {n: m for n, m in net.module.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    return {n: float(m.momentum or 0.0) for n, m in layers.items()}


@torch.no_grad()
def estimated(net: Net, state: Mapping[str, Tensor], x: Tensor) -> State:
    """The same state with BatchNorm statistics of the inputs x [N, ...] alone, which pass as one batch; no label used.

    Every layer sees what the layers before it give with these same statistics, as in training on this batch; variances
    are unbiased, as the running ones. Re-estimating statistics on a new domain is AdaBN (Li et al. 2018). Raises
    ValueError for a layer without momentum.
    """
    layers = batchnorm_layers(net)
    if without := [n for n, momentum in layers.items() if not momentum]:
        raise ValueError(f"the statistics of {', '.join(without)} cannot be read off one batch: no momentum")
    fresh = dict(state)
    for n in layers:
        for buffer in ("running_mean", "running_var"):
            fresh[f"{n}.{buffer}"] = torch.zeros_like(state[f"{n}.{buffer}"])
        fresh[f"{n}.num_batches_tracked"] = state[f"{n}.num_batches_tracked"].clone()
    net(fresh, x, train=True)  # from zero, one batch leaves the momentum's share of its statistics
    for n, momentum in layers.items():
        for buffer in ("running_mean", "running_var"):
            fresh[f"{n}.{buffer}"] /= momentum
    return fresh


def mixture(net: Net, states: Sequence[Mapping[str, Tensor]]) -> State:
    """Running statistics of an even mixture of the states' data, by name: mean of the means, and mean of the variances
    *plus the variance of the means*, which a plain average of variances lacks.

    Exact where the states agree on all that comes before a layer.
    """
    found = {}
    for n in batchnorm_layers(net):
        means, variances = (torch.stack([s[f"{n}.{b}"] for s in states]) for b in ("running_mean", "running_var"))
        found[f"{n}.running_mean"] = means.mean(0)
        found[f"{n}.running_var"] = variances.mean(0) + means.var(0, correction=0)
    return found
