"""A network as a function of its state, so that one network serves the server and every client."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlib import layers, precision as precisions

State = dict[str, Tensor]
"""Parameters and buffers of a network by name."""


class Resident:
    """One module whose tensors are put in their places for every call: a dictionary assignment each, no copy.

    That is what ``torch.func.functional_call`` does, without its bookkeeping, which costs more than a small step. One
    thread at a time: others wait, such as clients in several threads that ask one teacher.
    """

    def __init__(self, module: nn.Module):
        self.module, self._lock = module, threading.RLock()
        first: dict[int, str] = {}
        self._places: list[tuple[str, dict[str, Any], str, Tensor]] = []
        for prefix, owner in module.named_modules():
            for home in (owner._parameters, owner._buffers):
                for key, tensor in home.items():
                    if tensor is not None:  # tied tensors answer to the name of the first
                        name = first.setdefault(id(tensor), f"{prefix}.{key}" if prefix else key)
                        self._places.append((name, home, key, tensor))

    def __call__(self, state: Mapping[str, Tensor], *args: Any, **options: Any) -> Tensor:
        """The module's output with the tensors of ``state``; what ``state`` lacks is the module's own."""
        with self._lock:
            try:
                for name, home, key, own in self._places:
                    home[key] = state.get(name, own)
                return self.module(*args, **options)
            finally:  # keep nobody's tensors alive
                for _, home, key, own in self._places:
                    home[key] = own

    def __reduce__(self) -> tuple:
        return Resident, (self.module,)


class Net:
    """A module seen as a function ``net(state, x)``.

    ``state`` is a dictionary of tensors with the module's parameters and buffers. With ``train=True`` BatchNorm
    normalises by the batch and updates the running statistics *inside the given state, in place*. ``precision`` says
    how exactly products are computed (:mod:`fedlib.precision`; None: as the type says); outputs are of type ``dtype``.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        precision: str | None = None,
    ):
        self.precision = precisions.pick(precision, dtype)
        self.module = copy.deepcopy(module).to(device, dtype).train()
        self.parameters: tuple[str, ...] = tuple(n for n, _ in self.module.named_parameters())
        self.buffers: tuple[str, ...] = tuple(n for n, _ in self.module.named_buffers())
        self.device, self.dtype = torch.device(device), dtype
        self._train = Resident(layers.quicken(copy.deepcopy(self.module)))
        self._eval = Resident(layers.quicken(copy.deepcopy(self.module).eval()))
        if self.device.type == "cuda":
            precisions.exactly()
        self._in_effect = precisions.in_effect(self.precision, self.device)
        self.notes: dict[Any, Any] = {}  # what executors have found out about this network

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "notes": {}}

    @property
    def form(self) -> str:
        """Two networks of the same form compute the same function of a state."""
        if "form" not in self.notes:
            kept = self.module.state_dict()
            shapes = {n: tuple(t.shape) for n, t in kept.items()}
            fixed = {n: t for n, t in self.module.named_buffers() if n not in kept}  # no part of any state
            plain = [(type(m), vars(m) | dict.fromkeys(_IN_STATES)) for m in self.module.modules()]
            names = self.parameters, self.buffers  # of tied tensors only the first
            told = f"{self.module} {shapes} {names} {_told(fixed)} {_told(plain)}"
            self.notes["form"] = f"{told} {self.device} {self.dtype} {self.precision}"
        return self.notes["form"]

    @property
    def convolutional(self) -> bool:
        """Whether the network has convolutions."""
        return any(isinstance(m, nn.modules.conv._ConvNd) for m in self.module.modules())

    def initial(self) -> State:
        """A fresh copy of the module's own parameters and buffers."""
        return {n: t.detach().clone() for n, t in self.module.state_dict().items()}

    def weights(self, state: Mapping[str, Tensor]) -> State:
        """The parameters in a state, without the buffers."""
        return {n: state[n] for n in self.parameters}

    def __call__(self, state: Mapping[str, Tensor], x: Tensor, train: bool = False, **options: Any) -> Tensor:
        """Output of the network: logits [B, C] for a classifier; ``options`` go to the module's forward."""
        return self.answer(self._train if train else self._eval, state, x, **options)

    def arithmetic(self) -> AbstractContextManager[None]:
        """What has to be around all computations with this network, gradients above all, for products to be computed
        as ``precision`` says. A federation has it around its rounds; training by other means needs it, too::

            with net.arithmetic():
                loss = criterion(net(state, x, train=True), y)
                grads = torch.autograd.grad(loss, weights)

        Raises RuntimeError inside ``torch.autocast``, unless the precision is bf16.
        """
        if torch.is_autocast_enabled(self.device.type) and self.precision != "bf16":
            raise RuntimeError(
                f"torch.autocast is on, and this network computes in {self.precision}: leave autocast, and give the "
                "federation (or Net) precision='bf16' instead"
            )
        return precisions.tf32(self.precision == "tf32")

    def answer(self, compute: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What ``compute`` gives for the arguments in this network's precision, as tensors of its type."""
        precisions.used.add(self._in_effect)
        if self._in_effect != "bf16":
            with self.arithmetic() if self.device.type == "cuda" else nullcontext():
                return compute(*args, **options)
        # Nothing is cached: what a graph on a device has recorded must not refer to copies made elsewhere.
        with self.arithmetic(), torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            out = compute(*args, **options)
        return tuple(t.to(self.dtype) for t in out) if isinstance(out, tuple) else out.to(self.dtype)

    def linear(self, state: Mapping[str, Tensor], z: Tensor, layer: str = "head") -> Tensor:
        """The linear layer of that name alone, for its inputs z [B, D]: with ``features=True`` before, one pass gives
        representations and logits.
        """
        return self.answer(functional.linear, z, state[f"{layer}.weight"], state.get(f"{layer}.bias"))

    @torch.no_grad()
    def predict(self, state: Mapping[str, Tensor], x: Tensor, batch: int = 2048, **options: Any) -> Tensor:
        """Outputs in evaluation mode for a whole set, ``batch`` samples at a time; no gradient."""
        return torch.cat([self(state, part, **options) for part in x.split(batch)])

    @torch.no_grad()
    def predict_all(self, states: Sequence[Mapping[str, Tensor]], x: Tensor, batch: int = 2048) -> Tensor:
        """Outputs of several states of this network for the same inputs: [len(states), N, ...]."""
        return torch.stack(self.predict_each(states, [x] * len(states), batch))

    @torch.no_grad()
    def predict_each(
        self, states: Sequence[Mapping[str, Tensor]], xs: Sequence[Tensor], batch: int = 2048
    ) -> list[Tensor]:
        """Outputs [N_k, ...] of every state for its own inputs [N_k, ...], in evaluation mode; no gradient.

        Small networks answer for all states in one computation.
        """
        from fedlib import stacking  # which is made of networks

        if len(states) > 1 and stacking.pays(self, xs):
            return stacking.predict_each(self, states, xs, batch)
        return [self.predict(s, x, batch) for s, x in zip(states, xs, strict=True)]


_IN_STATES = ("_parameters", "_buffers", "_modules")  # of a module: told by names and shapes


def _told(thing: Any) -> str:
    """In words what a forward pass may read: numbers and tensors by value, anything else as this one object."""
    if isinstance(thing, Tensor):
        raw = thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{thing.dtype} {tuple(thing.shape)} {hashlib.sha256(raw).hexdigest()}"
    if isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
        return f"{thing.dtype} {thing.shape} {hashlib.sha256(np.ascontiguousarray(thing).tobytes()).hexdigest()}"
    if isinstance(thing, Mapping):
        return f"{{{', '.join(f'{_told(k)}: {_told(v)}' for k, v in thing.items())}}}"
    if isinstance(thing, list | tuple):
        return f"[{', '.join(map(_told, thing))}]"
    if isinstance(thing, partial):
        return f"partial {_told([thing.func, thing.args, thing.keywords])}"
    if isinstance(thing, bool | int | float | complex | str | bytes | None):
        return repr(thing)
    return "{}" if isinstance(thing, set) and not thing else f"{type(thing).__name__} at {id(thing)}"


def clone(state: Mapping[str, Tensor]) -> State:
    """A copy of a state that shares no memory with it."""
    return {n: t.clone() for n, t in state.items()}
