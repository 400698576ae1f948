"""Local training on many machines: a round's clients are dealt out to Ray actors with one thread (or a GPU share) each.

Weights travel; data do not: samples and other large tensors are put into the cluster's object store once, and an actor
keeps the samples that it was given as long as the federation has them. One that was changed in place is sent anew, if
torch has counted the change: it does not see what is written through ``.data`` or NumPy. Every machine of the cluster
needs fedlib.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fedlib import _ray, choice
from fedlib.executors import Executor, Objective, Task
from fedlib.models.net import Net
from fedlib.optim import SGD
from fedlib.threads import deal

LARGE = 1 << 16  # bytes: from here on a tensor goes to the object store instead of into every message
PATIENCE = 120  # seconds that the first actors may take to start
LOSSES = 10  # actors that may die during one call before something other than bad luck must be the reason


class RayActors:
    """An executor that spreads the clients over ``actors`` Ray actors (None: as many as the cluster has room for now).

    ``inner`` names the executor that trains them there; the bits are those of ``inner`` with one thread, if it computes
    clients one by one. An actor that dies with its machine loses nothing: its clients are trained again by the others,
    and a new one takes its place as soon as there is room. Raises ImportError without Ray, ValueError for settings that
    cannot work, RuntimeError when there is no room for a single actor; errors of the objective come through.
    """

    team: list[Any]
    _coming: dict[Any, Any]  # actors that start, by what they will say when they are there

    def __init__(self, actors: int | None = None, inner: str | Executor = "sequential", gpus_per_actor: float = 0.0):
        if actors is not None and actors < 1:
            raise ValueError(f"at least one actor is needed, got {actors}")
        if choice.require(inner) == "ray":
            raise ValueError("actors train with another executor than 'ray'; inner='sequential' is the usual one")
        self.actors, self.inner, self.gpus = actors, inner, float(gpus_per_actor)
        self._forget()

    def __call__(self, net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float) -> list[float]:
        """Train the tasks; returns each one's mean batch loss."""
        ray = self._gather()
        shares = deal([sum(t.sizes) for t in tasks], len(self.team))
        samples = {id(t) for task in tasks for t in (task.x, task.y)}
        orders = [self._order(ray, net, [tasks[i] for i in s], objective, optimiser, lr, samples) for s in shares]
        flying = {a.train.remote(*order): (a, i) for i, (a, order) in enumerate(zip(self.team, orders, strict=False))}
        answers: dict[int, Any] = {}
        lost = 0
        try:
            while flying:
                (ready,), _ = ray.wait(list(flying), num_returns=1)
                actor, i = flying.pop(ready)
                try:
                    answers[i] = _load(ray.get(ready), net.device)
                except ray.exceptions.RayError as error:
                    if isinstance(error, ray.exceptions.RayTaskError):
                        raise
                    lost += 1  # the actor is gone, or its answer with its machine
                    if lost > LOSSES:
                        raise RuntimeError(f"{lost} Ray actors died while training one round: {error}") from error
                    self.team = [a for a in self.team if a is not actor]
                    ray.kill(actor)  # it may live, and only its answer be lost
                    if not self.team:
                        self._gather()
                    actor = self.team[i % len(self.team)]
                    flying[actor.train.remote(*orders[i])] = actor, i
        except BaseException:
            self.close()  # the others may be in the middle of their work
            raise
        if failed := [a for a in answers.values() if isinstance(a, Exception)]:  # raise what one machine would have met
            places = {t.client: i for i, t in reversed(list(enumerate(tasks)))}
            raise min(failed, key=lambda e: places.get(getattr(e, "client", -1), 0))
        losses: dict[int, float] = {}
        for i, share in enumerate(shares):
            for position, loss, state in zip(share, *answers[i], strict=True):
                losses[position], tasks[position].state = loss, state
        return [losses[i] for i in range(len(tasks))]

    def close(self) -> None:
        """End the actors; the next call starts new ones. Ray itself ends with this process."""
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            for actor in [*self.team, *self._coming.values()]:
                ray.kill(actor)
        self._forget()

    def _forget(self) -> None:
        self.team = []
        self._coming = {}
        self._keys = itertools.count()
        self._stored: Any = WeakIdKeyDictionary()  # large tensors: version, key, reference, whether it holds samples
        self._nets: Any = weakref.WeakKeyDictionary()  # networks: key, reference

    def _gather(self) -> Any:
        """Bring the team to strength as far as there is room. Only who has nobody at all waits; others join later."""
        ray, new = _ray.connect()
        if new:
            self._forget()
        free = ray.available_resources()
        room = int(free.get("GPU", 0) / self.gpus if self.gpus else free.get("CPU", 0))
        if self.actors is None:
            self.actors = max(1, room)
        missing = self.actors - len(self.team) - len(self._coming)
        hire = ray.remote(num_cpus=1, num_gpus=self.gpus)(_Actor)
        for _ in range(max(not (self.team or self._coming), min(room, missing))):
            actor = hire.remote(self.inner, "cuda" if self.gpus else "cpu")
            self._coming[actor.ready.remote()] = actor
        fault = None
        signs = list(self._coming)
        for sign in ray.wait(signs, num_returns=len(signs), timeout=0 if self.team else PATIENCE)[0] if signs else []:
            actor = self._coming.pop(sign)
            try:
                ray.get(sign)
                self.team.append(actor)
            except ray.exceptions.RayError as error:
                fault = error
        if not self.team:
            needs = f"a free CPU{f' and {self.gpus:g} of a GPU' if self.gpus else ''}"
            why = fault or f"{needs} did not come up in {PATIENCE} s (does another executor hold them? close() it)"
            raise RuntimeError(f"no Ray actor could start: {why}")
        return ray

    def _order(
        self, ray: Any, net: Net, tasks: list[Task], objective: Objective, optimiser: SGD, lr: float, samples: set[int]
    ) -> tuple:
        """Arguments of :meth:`_Actor.train`: the message, what it refers to, and which samples are still in use."""
        if net not in self._nets:
            self._nets[net] = next(self._keys), ray.put((copy.deepcopy(net.module).cpu(), net.dtype, net.precision))
        number, module = self._nets[net]
        used = {number: [module]}  # in lists, so that Ray hands the references over and not what they refer to

        def store(t: Tensor) -> int | None:
            if t.nbytes < LARGE:
                return None
            version, key, reference, sample = self._stored.get(t, (None, 0, None, False))
            if version != t._version:
                key, reference = next(self._keys), ray.put(_bytes(t))
            self._stored[t] = t._version, key, reference, sample or id(t) in samples
            used[key] = [reference]
            return key

        message = _dump((tasks, objective, optimiser, lr), net.device, store, ray.cloudpickle.Pickler)
        keep = [number, *(key for _, key, _, sample in list(self._stored.values()) if sample)]
        return message, number, used, keep


class _Actor:
    """One process on some machine of the cluster: trains what it is sent, and keeps the network and the samples."""

    def __init__(self, inner: str | Executor, device: str):
        torch.set_num_threads(1)
        self.inner, self.device, self.kept = inner, torch.device(device), dict[int, Any]()

    def ready(self) -> bool:
        return True

    def train(self, message: bytes, number: int, used: dict[int, list], keep: list[int]) -> bytes:
        """The losses and new states of the tasks in the message, or the exception that they ended with."""
        import ray

        self.kept = {key: thing for key, thing in self.kept.items() if key in keep}
        if number not in self.kept:
            module, dtype, precision = ray.get(used[number][0])
            self.kept[number] = Net(module, self.device, dtype, precision)

        def fetch(key: int, make: Callable[[Any], Tensor]) -> Tensor:
            if key in self.kept:
                return self.kept[key]
            thing = make(ray.get(used[key][0]))  # in read-only memory that all actors of this machine share
            if key not in keep:
                return thing.clone()
            self.kept[key] = thing
            return thing

        tasks, objective, optimiser, lr = _load(message, self.device, fetch)
        net = self.kept[number]
        try:
            with net.arithmetic():
                train = choice.choose(self.inner, net, tasks, objective).executor
                losses = train(net, tasks, objective, optimiser, lr)
            return _dump((losses, [task.state for task in tasks]), self.device)
        except Exception as error:
            error.add_note(traceback.format_exc())
            try:
                return _dump(error, self.device, pickler=ray.cloudpickle.Pickler)
            except Exception:  # an error that cannot travel
                return _dump(RuntimeError(f"{type(error).__name__}: {error}"), self.device)


@lru_cache(maxsize=1)
def ray_executor() -> RayActors:
    """The executor that the name "ray" stands for: one team of sequential actors, shared by all federations here."""
    return RayActors()


def _turned(t: Tensor) -> list[int]:
    """Dimensions as they lie in memory, the slowest first: the last bits of a product depend on that order."""
    return sorted(range(t.dim()), key=lambda d: -t.stride()[d])


def _bytes(t: Tensor) -> Any:
    return t.detach().permute(_turned(t)).cpu().contiguous().flatten().view(torch.uint8).numpy()


def _dump(thing: Any, home: torch.device, store: Any = None, pickler: Any = pickle.Pickler) -> bytes:
    """Pickled, with tensors as plain bytes: torch's own way takes along all the memory that a tensor is a view of.

    ``store(tensor)`` gives the key of one that is to travel otherwise. What is on ``home`` moves to where it arrives.
    """

    def by_name(t: Any) -> tuple | None:
        if type(t) is not Tensor or t.layout is not torch.strided:
            return None
        key = store(t) if store else None
        raw = _bytes(t) if key is None else None
        return key, raw, t.dtype, tuple(t.shape), _turned(t), t.device.type == home.type

    out = io.BytesIO()
    writer = pickler(out, protocol=pickle.HIGHEST_PROTOCOL)
    writer.persistent_id = by_name
    writer.dump(thing)
    return out.getvalue()


def _load(message: bytes, home: torch.device, fetch: Callable[[int, Callable], Tensor] | None = None) -> Any:
    """What :func:`_dump` pickled, with its tensors on ``home``."""

    def by_name(known: tuple) -> Tensor:
        key, raw, dtype, shape, turned, at_home = known

        def make(raw: Any) -> Tensor:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
                t = torch.from_numpy(raw).view(dtype).reshape([shape[d] for d in turned])
            t = t.permute([turned.index(d) for d in range(len(turned))])
            return t.to(home) if at_home else t

        # Copies lie in memory as torch aligns it: where numbers lie may decide the last bit of a sum.
        return make(raw).clone() if key is None or fetch is None else fetch(key, make)

    reader = pickle.Unpickler(io.BytesIO(message))
    reader.persistent_load = by_name  # type: ignore[method-assign]
    return reader.load()
