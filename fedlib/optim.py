"""First-order optimisers as plain rules on dictionaries of tensors.

The rules are elementwise, so the same code updates one model or a stack of models with a leading dimension.
They agree with torch.optim to rounding (tested), without its import cost and with their memory in the open:
``memory`` is a dictionary that the caller keeps; pass an empty one to start afresh. Rules raise ValueError for
rates that cannot work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedlib import require
from fedlib.stacking import Stack

Memory = dict[str, Any]


@dataclass(frozen=True)
class SGD:
    """w <- w - lr v with v <- momentum v + (g + weight_decay w); heavy-ball momentum as torch.optim.SGD has it."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require.real("lr", self.lr, least=0)
        require.real("momentum", self.momentum, least=0, below=1)
        require.real("weight_decay", self.weight_decay, least=0)

    def start(self, params: Mapping[str, Tensor]) -> Memory:
        """The memory of weights that have taken no step yet."""
        return {"velocity": {n: torch.zeros_like(w) for n, w in params.items()}} if self.momentum else {}

    @torch.no_grad()
    def step(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        memory: Memory,
        lr: float | None = None,
    ) -> None:
        """Update ``params`` in place; ``lr`` overrides the rate for this step."""
        weights, direction = self._direction(params, grads, memory)
        torch._foreach_add_(weights, direction, alpha=-(self.lr if lr is None else lr))

    @torch.no_grad()
    def step_by(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        memory: Memory,
        rate: Tensor,
        fused: bool | None = None,
    ) -> None:
        """The same rule with its rate in a tensor [], of the type and on the device of the weights: nothing is read by
        the host. One fused update where that takes a rate of this type, which on a GPU is float32 only.
        """
        fused = (rate.dtype == torch.float32 or rate.device.type == "cpu") if fused is None else fused
        if not fused:
            weights, direction = self._direction(params, grads, memory)
            torch._foreach_sub_(weights, torch._foreach_mul(direction, rate))
            return
        memory |= {} if memory else self.start(params)
        velocity = [memory["velocity"][n] for n in params] if self.momentum else []
        torch._fused_sgd_(
            list(params.values()),
            [_laid_out_as(w, grads[n]) for n, w in params.items()],
            velocity,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )

    def _direction(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], memory: Memory
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Weights, and where they are to go with the rate before it; the velocity has changed."""
        weights, names = list(params.values()), list(params)
        direction = [grads[n] for n in names]
        if self.weight_decay:
            direction = list(torch._foreach_add(direction, weights, alpha=self.weight_decay))
        if self.momentum:
            memory |= {} if memory else self.start(params)
            velocity = [memory["velocity"][n] for n in names]
            torch._foreach_mul_(velocity, self.momentum)
            torch._foreach_add_(velocity, direction)
            direction = velocity
        return weights, direction


def _laid_out_as(weight: Tensor, grad: Tensor) -> Tensor:
    """The gradient in the same order in memory as its weight, as a fused update asks for."""
    return grad if grad.stride() == weight.stride() else torch.empty_like(weight).copy_(grad)


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma and Ba 2015, Algorithm 1)."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        require.real("lr", self.lr, least=0)
        require.real("beta1", self.beta1, least=0, below=1)
        require.real("beta2", self.beta2, least=0, below=1)
        require.real("eps", self.eps, above=0)

    @torch.no_grad()
    def step(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        memory: Memory,
        lr: float | None = None,
    ) -> None:
        """Update ``params`` in place; ``lr`` overrides the rate for this step."""
        if not memory:
            memory |= {"t": 0} | {m: {n: torch.zeros_like(w) for n, w in params.items()} for m in ("m", "v")}
        memory["t"] += 1
        rate = self.lr if lr is None else lr
        names, weights, g = list(params), list(params.values()), [grads[n] for n in params]
        m, v = ([memory[slot][n] for n in names] for slot in ("m", "v"))
        torch._foreach_mul_(m, self.beta1)
        torch._foreach_add_(m, g, alpha=1 - self.beta1)
        torch._foreach_mul_(v, self.beta2)
        torch._foreach_addcmul_(v, g, g, value=1 - self.beta2)
        scale = torch._foreach_div(v, 1 - self.beta2 ** memory["t"])
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, self.eps)
        torch._foreach_addcdiv_(weights, m, scale, value=-rate / (1 - self.beta1 ** memory["t"]))


@dataclass(frozen=True)
class AdaGrad:
    """AdaGrad (Duchi, Hazan and Singer 2011, diagonal form): w <- w - lr g / (sqrt(sum of g^2) + eps)."""

    lr: float = 0.01
    eps: float = 1e-10

    def __post_init__(self) -> None:
        require.real("lr", self.lr, least=0)
        require.real("eps", self.eps, above=0)

    @torch.no_grad()
    def step(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        memory: Memory,
        lr: float | None = None,
    ) -> None:
        """Update ``params`` in place; ``lr`` overrides the rate for this step."""
        if "sum" not in memory:
            memory["sum"] = {n: torch.zeros_like(w) for n, w in params.items()}
        for n, w in params.items():
            total = memory["sum"][n].addcmul_(grads[n], grads[n])
            w.addcdiv_(grads[n], total.sqrt().add_(self.eps), value=-(self.lr if lr is None else lr))


@dataclass(frozen=True)
class AdaDelta:
    """AdaDelta (Zeiler 2012, Algorithm 1): w <- w - lr d with d = sqrt(E[d^2] + eps) / sqrt(E[g^2] + eps) g.

    Both means decay by ``rho``, that of g^2 before and that of d^2 after the step. The paper has lr = 1; the size of
    the gradient does not matter, but for ``eps``, from which the first steps grow.
    """

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6

    def __post_init__(self) -> None:
        require.real("lr", self.lr, least=0)
        require.real("rho", self.rho, least=0, below=1)
        require.real("eps", self.eps, above=0)

    @torch.no_grad()
    def step(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        memory: Memory,
        lr: float | None = None,
    ) -> None:
        """Update ``params`` in place; ``lr`` overrides the rate for this step."""
        if not memory:
            memory |= {m: {n: torch.zeros_like(w) for n, w in params.items()} for m in ("squares", "moves")}
        names, weights, g = list(params), list(params.values()), [grads[n] for n in params]
        squares, moves = ([memory[slot][n] for n in names] for slot in ("squares", "moves"))
        torch._foreach_mul_(squares, self.rho)
        torch._foreach_addcmul_(squares, g, g, value=1 - self.rho)
        move = torch._foreach_div(torch._foreach_add(moves, self.eps), torch._foreach_add(squares, self.eps))
        torch._foreach_sqrt_(move)
        torch._foreach_mul_(move, g)
        torch._foreach_mul_(moves, self.rho)
        torch._foreach_addcmul_(moves, move, move, value=1 - self.rho)
        torch._foreach_add_(weights, move, alpha=-(self.lr if lr is None else lr))


def clip_norm(grads: Mapping[str, Tensor], most: float) -> dict[str, Tensor]:
    """Gradients scaled down together to a joint Euclidean norm of ``most`` at most; in a stack, each client's.

    Raises ValueError unless ``most`` is positive.
    """
    if not most > 0:
        raise ValueError(f"the largest norm must be positive, got {most}")
    keep = 1 if isinstance(grads, Stack) else 0
    squares = [torch.linalg.vector_norm(g.reshape(*g.shape[:keep], -1), dim=-1) for g in grads.values()]
    norm = torch.linalg.vector_norm(torch.stack(squares), dim=0)
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    return {n: g * factor.reshape(factor.shape + (1,) * (g.ndim - keep)) for n, g in grads.items()}
