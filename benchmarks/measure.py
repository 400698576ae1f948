"""Run one contender once: a child process, watched from outside in the same way for all."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

try:
    import psutil
except ImportError:  # a machine that is only borrowed may have it not
    psutil = None

from benchmarks import environments
from benchmarks.contenders import Contender
from benchmarks.errors import BenchmarkError, Skipped
from benchmarks.job import Job

PATIENCE = 900.0  # seconds after which a contender is given up
WATCH = 0.2  # seconds between two looks at the memory


def cores() -> int:
    """Cores that this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment_of(contender: Contender) -> dict[str, str]:
    """Environment variables of the child: one thread, no telemetry; fedlib is told how many cores it may use."""
    threads = str(cores() if contender.budget else 1)
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    return os.environ | counts | quiet | {"PYTHONPATH": str(environments.ROOT), "PYTHONHASHSEED": "0"}


def run(contender: Contender, job: Job, folder: Path, given: dict[str, str] | None = None) -> dict[str, Any]:
    """Seconds of every round, steps, accuracy, peak memory in MB and versions of one run of a contender.

    ``given`` holds what only a person can give, such as the path of a checkout. Raises Skipped where that is missing,
    BenchmarkError, with the child's last words and the path of its log, when it fails.
    """
    given = given or {}
    if contender.needs and not given.get(contender.needs):
        raise Skipped(f"needs a checkout: --{contender.needs} PATH")
    environments.install(contender.environment, given)
    stem = folder / f"{job.workload}-{contender.name}"
    path, log = stem.with_suffix(".json"), stem.with_suffix(".log")
    own = {"cores": cores(), "path": str(path), "scratch": str(folder / contender.name), **given}
    replace(job, options=contender.options | own).write(path)
    call = [environments.interpreter(contender.environment), "-m", "benchmarks.workers", contender.worker, str(path)]
    with log.open("w+") as errors, stem.with_suffix(".out").open("w+") as output:
        child = subprocess.Popen(
            call,
            cwd=folder,
            env=environment_of(contender),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            memory = watch(child)
        finally:
            end(child)
        output.seek(0)
        errors.seek(0)
        answers = [line for line in output if line.startswith("{")]
        if child.returncode or not answers:
            words = [line.strip() for line in errors if line.strip()]
            last = words[-1] if words else f"it ended with status {child.returncode} and said nothing"
            raise BenchmarkError(f"{last[:300]} (log: {log})")
    answer = json.loads(answers[-1])
    own_peak = answer.pop("peak_mb")
    return {**answer, "memory_mb": memory if psutil else own_peak}


def watch(child: subprocess.Popen[Any]) -> float:
    """Wait for the child; return the peak, in MB, of the memory of all its processes together.

    Pages that processes share count once (PSS, where the system knows it). Asking for that is slow, so it is asked only
    when the plain sum of resident memory has reached a new height. Without psutil it is NaN.
    """
    began, highest, peak = time.monotonic(), 0, 0
    process = psutil.Process(child.pid) if psutil else None
    while child.poll() is None:
        if time.monotonic() - began > PATIENCE:
            raise BenchmarkError(f"given up after {PATIENCE:.0f} s")
        family = _family(process)
        resident = sum(_memory(p, shared_once=False) for p in family)
        if resident > 1.02 * highest:
            highest = resident
            peak = max(peak, sum(_memory(p, shared_once=True) for p in family))
        with suppress(subprocess.TimeoutExpired):
            child.wait(WATCH)
    return peak / 1e6 if psutil else math.nan


def _family(process: Any) -> list[Any]:
    """A process, if there is one, and all that it has started; none once it has ended."""
    if process is not None:
        with suppress(psutil.Error):
            return [process, *process.children(recursive=True)]
    return []


def _memory(process: Any, shared_once: bool) -> int:
    with suppress(psutil.Error):
        if shared_once:
            full = process.memory_full_info()
            return int(getattr(full, "pss", full.rss))
        return int(process.memory_info().rss)
    return 0


def end(child: subprocess.Popen[Any]) -> None:
    """End the child and whatever it has started; without psutil, what has stayed in its group of processes."""
    family = []
    if psutil:
        with suppress(psutil.Error):
            family = _family(psutil.Process(child.pid))[1:]
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    child.wait()
