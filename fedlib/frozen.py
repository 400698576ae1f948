"""Many copies of one network side by side, each with weights of its own, of which a chosen part is trained.

States are *stacked*: each tensor has a leading dimension of the networks, [S, ...], as have their inputs. What is not
``free`` is never handed to an optimiser, so that neither weight decay nor momentum can move it; :func:`fingerprint`
tells. What goes before the input of a :class:`~fedlib.models.reader.Reader`, its ``prompt`` [S, p, width] or ``prefix``
[S, layers, 2, p, width], is trained along where it is given.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from fedlib import require

Weights = Mapping[str, Tensor]
BEFORE = ("prompt", "prefix")  # what may go before the input


@dataclass(frozen=True)
class Batch:
    """Inputs of S networks: words [S, B, L], the numbers of the right words [S, B] (or [S, B, K], where ``places``
    [S, B, K] ask for several), and rows of pixels [S, B, R, pixels] where there are images.
    """

    words: Tensor
    right: Tensor
    rows: Tensor | None = None
    places: Tensor | None = None


def stack(networks: Iterable[nn.Module]) -> dict[str, Tensor]:
    """The parameters of networks of one form, stacked. Raises ValueError for none, or for others."""
    states = [dict(one.named_parameters()) for one in networks]
    if not states:
        raise ValueError("networks: at least one is needed, and there is none")
    if other := [state for state in states if _form(state) != _form(states[0])]:
        raise ValueError(f"networks of one form can be stacked; got {_form(states[0])} and {_form(other[0])}")
    return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}


def beside(streams: Iterable[Iterable[Batch]]) -> Iterator[Batch]:
    """Batches of several networks, each of one's own ([B, ...]), as batches of all ([S, B, ...]), step by step.

    Raises ValueError where one has other parts than the others, or ends before them.
    """
    for parts in zip(*streams, strict=True):
        whole: dict[str, Tensor | None] = {}
        for f in fields(Batch):
            own = [getattr(part, f.name) for part in parts]
            if any(t is None for t in own) and not all(t is None for t in own):
                raise ValueError(f"{f.name}: the batches of some networks have it, those of others have not")
            whole[f.name] = None if own[0] is None else torch.stack(own)
        yield Batch(**whole)  # type: ignore[arg-type]


def answers(
    network: nn.Module,
    weights: Weights,
    words: Tensor,
    rows: Tensor | None = None,
    **more: Tensor | None,
) -> Tensor:
    """Logits of S networks on inputs of their own, [S, B, words] (or [S, B, K, words] at K places).

    ``more``: a ``prompt`` or ``prefix`` that goes before the input, and ``places``, as a Reader takes them. All go to
    the device of the weights. Raises ValueError for anything else, for no weights, and for a text that nowhere asks:
    its first word would be taken for the place.
    """
    if not weights:
        raise ValueError("weights: none are given")
    for name in more:
        require.one_of("what a network is given", name, (*BEFORE, "places"))
    ask = getattr(network, "ask", None)
    if more.get("places") is None and ask is not None and not bool((words == ask).any(-1).all()):
        raise ValueError(f"words: each text has a word that asks, {ask}, and some have none")
    where = next(iter(weights.values())).device
    given = {name: value.to(where) for name, value in {"rows": rows, **more}.items() if value is not None}

    def one(weights: Weights, words: Tensor, given: Weights) -> Tensor:
        return functional_call(network, dict(weights), (words,), dict(given))

    return vmap(one)(dict(weights), words.to(where), given)


def adapt(
    network: nn.Module,
    weights: Weights,
    batches: Iterable[Batch],
    lr: Callable[[int], float] | float,
    *,
    free: Collection[str] = (),
    before: Weights | None = None,
    weight_decay: float = 0.0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train S networks side by side, a step for each batch: the free weights, and what goes before the input.

    The loss is the cross-entropy of the right word among *all* words, a mean over a network's own batch; networks know
    nothing of one another. Steps are Adam's (decoupled weight decay), of a rate that may depend on the step, counted
    from 0. Returns all weights and what goes before, new where they were trained; what is given is left as it was. A
    network whose training diverges has NaN, and the others have not. Raises ValueError for names that are no weights,
    where nothing is trained, and for batches of other sizes.
    """
    own = dict(before or {})
    if unknown := [name for name in free if name not in weights] + [name for name in own if name not in BEFORE]:
        raise ValueError(f"{unknown[0]!r} is no weight of the network, nor one of {', '.join(BEFORE)}")
    if not free and not own:
        raise ValueError("nothing is trained: name free weights, or give a prompt or a prefix to go before the input")
    require.real("weight_decay", weight_decay, least=0)
    many = {len(t) for t in (*weights.values(), *own.values())}
    if len(many) > 1:
        raise ValueError(f"stacks of different numbers of networks: {sorted(many)}")
    trained = {name: weights[name].detach().clone().requires_grad_(True) for name in free}
    own = {name: t.detach().clone().requires_grad_(True) for name, t in own.items()}
    fixed = {name: t.detach() for name, t in weights.items() if name not in trained}
    optimiser = torch.optim.AdamW([*trained.values(), *own.values()], lr=0.0, weight_decay=weight_decay, fused=True)
    for step, batch in enumerate(batches):
        if len(batch.words) not in many or batch.right.shape[:2] != batch.words.shape[:2]:
            raise ValueError(f"batch {step}: words {list(batch.words.shape)} and right words "
                             f"{list(batch.right.shape)} for stacks of {many}")  # fmt: skip
        rate = lr(step) if callable(lr) else lr
        optimiser.param_groups[0]["lr"] = require.real("lr", rate, least=0)
        z = answers(network, fixed | trained, batch.words, batch.rows, places=batch.places, **own)
        right = batch.right.flatten().to(z.device)
        losses = cross_entropy(z.flatten(0, -2), right, reduction="none").unflatten(0, (len(z), -1))
        optimiser.zero_grad()
        losses.mean(1).sum().backward()
        optimiser.step()
    done = {name: t.detach() for name, t in own.items()}
    return fixed | {name: t.detach() for name, t in trained.items()}, done


def up_and_down(peak: float, last: int) -> Callable[[int], float]:
    """Rates of ``last`` steps, counted from 0: up in a straight line for a tenth of them, and down along a cosine from
    the first on, so that the largest is a little below ``peak``. Raises ValueError for numbers that cannot be.
    """
    require.real("peak", peak, least=0)
    require.whole("last", last, 1)
    return lambda step: peak * min(1, 10 * (step + 1) / last) * (1 + math.cos(math.pi * step / last)) / 2


def fingerprint(weights: Weights) -> str:
    """A hash of all weights, their names, shapes and types: equal before and after for whatever is frozen."""
    total = hashlib.sha256()
    for name in sorted(weights):
        t = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {t.dtype} {list(t.shape)}\n".encode())
        total.update(t.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _form(state: Weights) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in state.items()}
