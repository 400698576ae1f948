"""Two streams: one network twice, for a source and for a target domain, whose layers are shared or only related.

Weights of both stand in one dictionary, a *state*: ``source.<name>``, ``target.<name>``, and of each layer the scale
``scale.<layer>`` and the shift ``shift.<layer>`` that relate the two (Rozantsev, Salzmann and Fua 2019, "Beyond sharing
weights for deep domain adaptation", section 3). Which layers are untied is a mask [L] of bools, in the order of
:func:`layers`. Functions are for one network; :mod:`fedlib.twostream` maps them over many.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor, nn

from fedlib import require

State = Mapping[str, Tensor]
Layers = Mapping[str, tuple[str, ...]]
"""Layer -> the names of its weights."""

FORMS = ("l2", "exp")


def layers(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """The layers of a network that have weights, in their order: what can be shared or untied.

    Raises ValueError for a network without weights, or with buffers: running statistics of one layer would silently be
    those of both domains.
    """
    found = {
        prefix: tuple(f"{prefix}.{n}" for n, _ in module.named_parameters(recurse=False))
        for prefix, module in network.named_modules()
        if prefix and next(module.parameters(recurse=False), None) is not None
    }
    if not found:
        raise ValueError("network: no layer has weights, there is nothing to share")
    if names := [n for n, _ in network.named_buffers()]:
        raise ValueError(f"network: {names[0]} is a buffer; statistics of two domains cannot be told apart here")
    return found


def masks(count: int) -> Tensor:
    """All 2^L masks of untied layers, bool [2^L, L]: the first has none, the last all. Raises ValueError for L < 1."""
    require.whole("count", count, 1)
    return torch.tensor(list(product((False, True), repeat=count)))


def begin(weights: State, plan: Layers) -> dict[str, Tensor]:
    """Both streams at ``weights``, all layers related by scale 1 and shift 0.

    Raises ValueError for weights that are not those of the layers, or not finite.
    """
    if odd := sorted(set(weights) ^ {n for names in plan.values() for n in names}):
        raise ValueError(f"weights: expected those of the layers; differing in {', '.join(odd)}")
    if not require.all_finite(weights.values()):
        raise ValueError(f"weights: {require.share_of_nonsense(*weights.values())}")
    one = next(iter(weights.values())).new_ones(())
    state = {f"{stream}.{n}": w.detach().clone() for stream in ("source", "target") for n, w in weights.items()}
    return state | {f"scale.{j}": one.clone() for j in plan} | {f"shift.{j}": one * 0 for j in plan}


def source(state: State, plan: Layers) -> dict[str, Tensor]:
    """Weights of the source's stream."""
    return {n: state[f"source.{n}"] for names in plan.values() for n in names}


def target(state: State, plan: Layers, untied: Tensor) -> dict[str, Tensor]:
    """Weights of the target's stream: its own where a layer is ``untied`` [L], else the source's, which both train."""
    return {
        n: torch.where(untied[j], state[f"target.{n}"], state[f"source.{n}"])
        for j, names in enumerate(plan.values())
        for n in names
    }


def gaps(state: State, plan: Layers) -> Tensor:
    """||a_j theta^s_j + b_j - theta^t_j||^2 of each layer j: [L].

    Scale a_j and shift b_j are one number each for all weights of the layer, biases too.
    """
    found = []
    for j, names in plan.items():
        a, b = state[f"scale.{j}"], state[f"shift.{j}"]
        found.append(sum((a * state[f"source.{n}"] + b - state[f"target.{n}"]).square().sum() for n in names))
    return torch.stack(found)  # type: ignore[arg-type]


def regulariser(gap: Tensor, form: str = "exp", most: float = 10.0) -> Tensor:
    """r_w of squared distances ``gap`` >= 0, entry by entry: gap itself ("l2"), or e^gap - 1 ("exp"), from ``most`` on
    along its tangent.

    (Rozantsev, Salzmann and Fua 2019, equations 4 and 5.) As printed the exponential overflows float32 beyond 88.7; a
    plain clamp would have no gradient there. Raises ValueError for another form, or ``most`` <= 0.
    """
    require.one_of("form", form, FORMS)
    require.real("most", most, above=0)
    if form == "l2":
        return gap
    bounded = gap.clamp(max=most)
    return torch.expm1(bounded) + bounded.new_tensor(most).exp() * (gap - bounded)


def fitted(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and shift that relate weights best, and the gap that is left: least squares of target on source, all flat.

    The gap is (1 - rho^2) sum (target - its mean)^2 with rho the correlation of the two, so a layer whose units are in
    another order looks unrelated. Raises ValueError for sizes that differ, fewer than two weights, or a source that is
    all one number.
    """
    s, t = source.flatten(), target.flatten()
    if s.shape != t.shape or len(s) < 2:
        raise ValueError(f"source and target: expected as many weights, two at least; got {len(s)} and {len(t)}")
    centred, other = s - s.mean(), t - t.mean()
    if not float(spread := centred.square().sum()) > 0:
        raise ValueError("source: all its weights are one number, no scale can be fitted")
    scale = (centred * other).sum() / spread
    shift = t.mean() - scale * s.mean()
    return scale, shift, (scale * s + shift - t).square().sum()
