"""Who is measured, in which environment, with how many cores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from benchmarks.errors import Unknown


@dataclass(frozen=True)
class Contender:
    """A module of `benchmarks.workers` and how it is run.

    ``environment`` is empty for this interpreter. ``cores``: "all" or "one"; ``budget`` tells fedlib, by
    OMP_NUM_THREADS, that it may use all of them. ``compared``: whether its accuracy must agree with the others'.
    ``needs``: the option without which it cannot run.
    """

    name: str
    title: str
    worker: str
    environment: str = ""
    cores: str = "one"
    budget: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    compared: bool = True
    needs: str = ""

    @property
    def ours(self) -> bool:
        """Whether this is fedlib."""
        return self.worker == "fedlib"


def _fedlib(suffix: str, title: str, cores: str = "one", **options: Any) -> Contender:
    return Contender(f"fedlib{suffix}", title, "fedlib", cores=cores, budget=cores == "all", options=options)


_LISTED = (
    _fedlib("", "fedlib", "all", executor="auto"),
    _fedlib("-one-core", "fedlib, one core", executor="auto"),
    _fedlib("-sequential", "fedlib, sequential", executor="sequential"),
    _fedlib("-batched", "fedlib, batched", executor="batched"),
    _fedlib("-threads", "fedlib, threads", "all", executor="threads"),
    _fedlib("-3-seeds", "fedlib, 3 seeds", "all", executor="auto", seeds=3),
    _fedlib("-10-seeds", "fedlib, 10 seeds", "all", executor="auto", seeds=10),
    Contender("plain", "plain loop", "plain"),
    Contender("floor", "floor", "floor", compared=False),
    Contender("flower", "Flower", "flower", "flower", cores="all"),
    Contender("blazefl", "BlazeFL", "blazefl", "blazefl", cores="all"),
    Contender("fedlab", "FedLab", "fedlab", "fedlab"),
    Contender("pfllib", "PFLlib", "pfllib", "pfllib", needs="pfllib"),
)
CONTENDERS = {c.name: c for c in _LISTED}
SEEDED = ("fedlib-3-seeds", "fedlib-10-seeds")


def choose(asked: list[str], default: Iterable[str]) -> list[Contender]:
    """Contenders by name or pattern (``fedlib*``), else the workload's default, in the order of the list.

    A pattern leaves out those that play several seeds at once: they are named where they are wanted. Raises Unknown.
    """
    wanted: set[str] = set()
    for name in asked or default:
        plain = [n for n in CONTENDERS if n == name]
        found = plain or [n for n in CONTENDERS if fnmatch(n, name) and n not in SEEDED]
        if not found:
            raise Unknown("contender", name, CONTENDERS)
        wanted |= set(found)
    return [c for n, c in CONTENDERS.items() if n in wanted]
