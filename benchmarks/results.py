"""What was measured: kept in one JSON file, and summed up in one row per contender.

The file has one entry per workload, each with the machine it was measured on:
``{"workloads": {name: {"title", "data", "rounds", "test_samples", "machine", "contenders": {name: run}}}}``, where a
run is ``{"seconds": [[...], ...], ...}`` with one list per repetition, or ``{"skipped": why}`` or ``{"error": why}``.
Beside them stands, under "gpu", what a machine with a GPU showed: ``{"machine", "device", "versions", "parts",
"seconds"}``, with a table's rows in each part.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.environments import ROOT
from benchmarks.errors import BenchmarkError
from benchmarks.gpu import report

PATH = ROOT / "benchmarks" / "results.json"
Results = dict[str, Any]


def read(path: Path = PATH) -> Results:
    """The results in a file; none when it is not there. Raises BenchmarkError when it cannot be read or understood."""
    try:
        if not path.exists():
            return {"workloads": {}}
        found = json.loads(path.read_text(encoding="utf-8"))
        for entry in found["workloads"].values():
            rows(entry)
        if "gpu" in found:
            report.check(found["gpu"])
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read ({error.strerror or error}); name another file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise BenchmarkError(f"{path} is not a file of results ({what}); move it away and measure again") from error
    return dict(found)


def write(results: Results, path: Path = PATH) -> None:
    """Save beside, then rename: an interrupted call leaves the last whole file. Raises BenchmarkError when the file
    cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be written ({error.strerror or error}); name another file") from error


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine, its software, and the commit that is measured."""
    described = {
        "cpu": _processor(),
        "cores": measure.cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(terse=True),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _git("rev-parse", "--short=10", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }
    if device == "cuda":
        import torch

        described["gpu"] = torch.cuda.get_device_name()
    return described


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*words: str) -> str:
    with suppress(OSError):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()
    return ""


@dataclass(frozen=True)
class Row:
    """One contender on one workload.

    ``seconds`` per round: the median over all rounds but the first of each repetition, ``low`` and ``high`` their
    quartiles, ``first`` the median first round. ``faster``: how many times as fast as the plain loop. ``over_floor``:
    seconds in units of the floor's. ``agrees``: whether the accuracy is that of the others within noise; None where it
    is not compared. ``problem`` says why there is no measurement.
    """

    contender: Contender
    seconds: float = math.nan
    low: float = math.nan
    high: float = math.nan
    first: float = math.nan
    faster: float = math.nan
    over_floor: float = math.nan
    memory_mb: float = math.nan
    accuracy: float = math.nan
    agrees: bool | None = None
    steps: float = math.nan
    cores: int = 1
    problem: str = ""


def rows(entry: dict[str, Any]) -> list[Row]:
    """One row per contender of a workload's entry, in the order of the list of contenders."""
    runs: dict[str, dict[str, Any]] = entry["contenders"]
    known = {name: run for name, run in runs.items() if "seconds" in run}
    times = {name: steady(run["seconds"]) for name, run in known.items()}
    middle = {name: median(each) for name, each in times.items()}
    typical, tolerance = agreement(entry)
    found = []
    for name, contender in CONTENDERS.items():
        if name in runs and name not in known:
            found.append(Row(contender, problem=runs[name].get("skipped") or f"failed: {runs[name]['error']}"))
        if name not in known:
            continue
        run, accuracy = known[name], median(known[name]["accuracy"])
        low, high = quartiles(times[name])
        found.append(
            Row(
                contender,
                middle[name],
                low,
                high,
                median(each[0] for each in run["seconds"]),
                middle["plain"] / middle[name] if "plain" in middle else math.nan,
                middle[name] / middle["floor"] if "floor" in middle else math.nan,
                max(run["memory_mb"]),
                accuracy,
                abs(accuracy - typical) <= tolerance if contender.compared else None,
                median(run["steps"]),
                run["cores"],
            )
        )
    return found


def steady(seconds: list[list[float]]) -> list[float]:
    """All rounds but the first of each repetition, pooled."""
    return [s for each in seconds for s in each[1:]]


def quartiles(values: list[float]) -> tuple[float, float]:
    """First and third quartile, by linear interpolation between order statistics."""
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return at(0.25), at(0.75)


def agreement(entry: dict[str, Any]) -> tuple[float, float]:
    """The median accuracy of those that are compared, and how far from it is still noise: three binomial standard
    errors of an accuracy on the test set.
    """
    runs = entry["contenders"].items()
    compared = [median(run["accuracy"]) for name, run in runs if "accuracy" in run and CONTENDERS[name].compared]
    if not compared:
        return math.nan, math.nan
    typical = median(compared)
    return typical, 3 * math.sqrt(typical * (1 - typical) / entry["test_samples"])
