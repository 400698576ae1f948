"""Equal terms: what methods of a comparison may have of their own, and what of that needs a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from fedlib.algorithms import FedAvg
from fedlib.federation import Local
from fedlib.study.setting import Setting, described, vary
from fedlib.training import Objective

Way: TypeAlias = FedAvg | Objective  # what is compared: an algorithm of a federation, or what one network learns
LOCAL = tuple(f.name for f in fields(Local))  # how a client trains: a method may have its own


class Method:
    """An algorithm in a comparison, with its own way of local training: ``Method(FedAvg(), lr=0.01)``. Where nothing is
    federated, it is an :class:`~fedlib.training.Objective`.

    ``algorithm`` may be a function of the seed: one that needs samples of its own, say. Other changes of the setting
    make terms unequal (another budget, another task): they need ``unequal``, the reason. All of them become evidence.
    Raises ValueError without a reason, TypeError for what is no algorithm.
    """

    def __init__(self, algorithm: Way | Callable[[int], Way], *, unequal: str = "", **changes: Any) -> None:
        if isinstance(algorithm, type) or not (isinstance(algorithm, Way) or callable(algorithm)):
            raise TypeError(
                f"expected an algorithm such as FedAvg(), or a function of the seed; got {_shown(algorithm)}"
            )
        check(changes, unequal)
        self.algorithm, self.changes, self.unequal = algorithm, changes, unequal.strip()

    def of(self, seed: int) -> Way:
        """The algorithm for a seed: one object for all, unless it is a function of the seed."""
        if isinstance(self.algorithm, Way):
            return self.algorithm
        if not isinstance(made := self.algorithm(seed), Way):
            raise TypeError(f"expected an algorithm of the function of the seed; for {seed} it gave {_shown(made)}")
        return made

    def differs(self, setting: Setting) -> dict[str, Any]:
        """What the method has of its own in a setting, in plain values, with the reason; empty if it has nothing."""
        own = differing(setting, self.changes)
        return own | ({"unequal": self.unequal} if self.unequal else {})


def named(name: str, method: Any) -> Method:
    """The method of that name in a comparison. Raises TypeError, with the name, for what is none."""
    return method if isinstance(method, Method) else made(name, Method, method)


def made(name: str, make: Callable[[Any], Method], what: Any) -> Method:
    """``make(what)``, a method; a TypeError tells its name."""
    try:
        return make(what)
    except TypeError as error:
        raise TypeError(f"method {name!r}: {error}") from error


def check(changes: Mapping[str, Any], unequal: str) -> None:
    """Raises ValueError when a method's own changes of the setting make its terms unequal, and no reason is given."""
    fixed(changes)
    other = [n for n, value in changes.items() if n not in LOCAL and value is not None]
    if other and not unequal.strip():
        raise ValueError(
            f"{', '.join(other)}: a method on equal terms has its own parameters and those of local training "
            f"({', '.join(LOCAL)}); change the setting for all methods, or say why it is another (unequal=)"
        )


def fixed(changes: Mapping[str, Any]) -> None:
    """Raises ValueError for a change of the seeds, which are those of the whole run."""
    if changes.get("seeds") is not None:
        raise ValueError(f"seeds = {changes['seeds']!r}: all of a run has the same seeds; give them to study.begin")


def differing(setting: Setting, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that changes make different, in plain values (:func:`~fedlib.study.setting.described`)."""
    before, after = described(setting), described(vary(setting, **changes))
    asked = {n for n, value in changes.items() if value is not None}  # a model of the same name may be another
    return {n: v for n, v in after.items() if n in asked or n not in before or before[n] != v}


def _shown(thing: Any) -> str:
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    return repr(thing) if thing is None or isinstance(thing, str | int | float) else f"a {type(thing).__name__}"
