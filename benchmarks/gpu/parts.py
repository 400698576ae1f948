"""What is tried, in which order, and for how long; and the playing of it, in which no failure ends the rest."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks import results
from benchmarks.errors import BenchmarkError
from benchmarks.gpu import equality, floors, rates, variants
from benchmarks.gpu.setting import PRECISIONS, TINY, Bench, NeedsCuda
from fedlib import devices, precision
from fedlib.models import ResNet8, SmallCNN

Row = dict[str, Any]
FAILED, UNFINISHED, PASSED = "failed", "unfinished", "passed"
KEPT = 0.5  # of its own time, a part keeps so much when earlier ones took too long


@dataclass(frozen=True)
class Case:
    """One line of a table: what it is, and what finds out the rest of it. ``skipped`` says why it is not tried."""

    what: Row
    find: Callable[[], Row]
    skipped: str = ""


@dataclass(frozen=True)
class Part:
    """One table. ``share`` of the time is its own, with what earlier parts have left; half of it stays where they took
    too long. Without a part that is ``needed``, whole, nothing has passed.
    """

    name: str
    title: str
    share: float
    cases: Callable[[Bench], list[Case]]
    needed: bool = False


def _equality(bench: Bench) -> list[Case]:
    # The types take turns: where time runs out, neither is lost.
    compared = [(s, t) for s in equality.SETTINGS[: equality.ROUNDED] for t in (torch.float64, torch.float32)]
    compared += [(s, torch.float64) for s in equality.SETTINGS[equality.ROUNDED :]]
    return [
        Case(
            {"setting": setting.name, "type": str(dtype).removeprefix("torch.")},
            partial(equality.executors, bench, setting, dtype),
        )
        for setting, dtype in compared
    ]


def _gradients(bench: Bench) -> list[Case]:
    models = {"SmallCNN": lambda: SmallCNN(3, equality.SIDE), "ResNet8, BatchNorm": ResNet8}
    return [
        Case({"setting": f"{name}, {words}", "type": "float64"}, partial(equality.gradient, bench, model, sizes))
        for name, model in models.items()
        for words, sizes in (("even", equality.EVEN), ("uneven", equality.UNEVEN))
    ]


def _rates(bench: Bench) -> list[Case]:
    return [
        Case(
            {
                "network": setting.network,
                "way": setting.way,
                "precision": precision.in_effect(setting.precision, bench.device),
                "clients": bench.sizes.clients[setting.many],
                "seeds": setting.seeds,
                "crop and flip": "yes" if setting.augmented else "no",
            },
            partial(rates.rate, bench, setting),
        )
        for setting in rates.settings()
    ]


def _floors(bench: Bench) -> list[Case]:
    found = []
    for network in ("ResNet8", "SmallCNN"):
        each: list[tuple[str, str, Callable[[], Row]]] = [
            ("plain loop", "float32", partial(floors.plain_loop, bench, network, "float32")),
            *(
                (f"one network, captured{words}", p, partial(floors.one_network, bench, network, p, True, last))
                for p in PRECISIONS
                for words, last in (("", False), (", channels last", True))
            ),
            ("one network, eager", "tf32", partial(floors.one_network, bench, network, "tf32", False)),
            ("plain loop", "tf32", partial(floors.plain_loop, bench, network, "tf32")),
            *(("memory traffic", p, partial(floors.memory_traffic, bench, network, p)) for p in ("float32", "bf16")),
        ]
        found += [
            Case({"network": network, "way": way, "precision": precision.in_effect(p, bench.device)}, find)
            for way, p, find in each
        ]
    return found


def _variants(bench: Bench) -> list[Case]:
    each: list[tuple[str, str, Callable[[], Row]]] = [
        (change, p, partial(variants.changed, bench, change, p))
        for p in ("tf32", "bf16")
        for change in variants.CHANGES
    ]
    search = partial(variants.changed, bench, "as it is", "tf32", True)
    each.insert(len(variants.CHANGES), ("cuDNN tries its ways", "tf32", search))
    each += [
        (f"one network, {k} steps in a graph", "tf32", partial(variants.launches, bench, "ResNet8", k)) for k in (1, 4)
    ]
    return [
        Case({"change": change, "precision": precision.in_effect(p, bench.device)}, find) for change, p, find in each
    ]


PARTS = (
    Part("equality", "Executors against sequential", 0.3, _equality, needed=True),
    Part("gradients", "One batched step against finite differences", 0.06, _gradients, needed=True),
    Part("rates", "Milliseconds of one client's step", 0.4, _rates),
    Part("floors", "The same without a federation, by client", 0.12, _floors),
    Part("variants", "Changes that were not made, ResNet8", 0.12, _variants),
)


def bench_of(device: str) -> Bench:
    """The bench of a device; tiny on anything but a GPU. Raises BenchmarkError where it is not there."""
    try:
        made = Bench(devices.pick(device))
    except ValueError as error:
        raise BenchmarkError(f"{error}; --device cpu rehearses") from error
    return made if made.cuda else replace(made, sizes=TINY)


def play(bench: Bench, seconds: float, parts: tuple[Part, ...] = PARTS) -> Iterator[dict[str, Any]]:
    """Play the parts in their order; after each, the entry of the file of results as far as it has come."""
    began, due, total = time.monotonic(), 0.0, sum(part.share for part in parts)
    entry: dict[str, Any] = {
        "machine": results.machine(bench.device.type),
        "device": bench.device.type,
        "versions": versions(bench),
        "parts": {},
    }
    for part in parts:
        own = seconds * part.share / total
        due += own
        entry["parts"][part.name] = one_part(part, bench, max(began + due, time.monotonic() + KEPT * own))
        entry["seconds"] = time.monotonic() - began
        yield entry


def one_part(part: Part, bench: Bench, due: float) -> dict[str, Any]:
    """Try the part's cases until the clock (time.monotonic) says ``due``; a case that has begun is finished."""
    began = time.monotonic()
    rows: list[Row] = []
    left = 0
    for case in part.cases(bench):
        if time.monotonic() >= due:
            left += 1
            continue
        bench.clear()
        rows.append(case.what | tried(case))
    failed = [row for row in rows if row.get("passed") is False]
    status = FAILED if failed else UNFINISHED if left else PASSED
    return {"title": part.title, "status": status, "left": left, "rows": rows, "seconds": time.monotonic() - began}


def tried(case: Case) -> Row:
    """What came of a case; whatever it raises is the answer."""
    if case.skipped:
        return {"note": case.skipped}
    try:
        return case.find()
    except NeedsCuda:
        return {"note": "needs CUDA"}
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return {"passed": False, "note": f"{type(error).__name__}: {lines[0][:200]}"}


def versions(bench: Bench) -> dict[str, str]:
    """Of Python, of PyTorch, and of what it has for the device."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if bench.cuda:
        found |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    return found


def all_passed(entry: dict[str, Any]) -> bool:
    """Whether every part was played, none failed, and those that are needed were finished."""
    played = entry["parts"]
    failed = any(part["status"] == FAILED for part in played.values())
    return played.keys() >= {part.name for part in PARTS} and not failed and not out_of_time(entry)


def out_of_time(entry: dict[str, Any]) -> list[str]:
    """The names of parts that are needed and of which something was not tried."""
    played = entry["parts"]
    return [part.name for part in PARTS if part.needed and part.name in played and played[part.name]["left"]]
