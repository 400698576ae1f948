"""What a run measured: one number per metric and seed, and intervals.

This module needs neither torch nor a notebook. A chapter makes one :class:`Run`, records numbers in it
and publishes it once; whoever executes the chapter finds the numbers in the executed notebook, as an
output of type :data:`MIME`.

Statistics are the plain ones: mean over seeds and a 95% interval from Student's t. Two methods are
compared seed by seed (same split, same client draws), so the interval is that of the paired difference.
Other scales stand in :mod:`fedlib.scales`, verdicts on claims in :mod:`fedlib.verdicts`.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

MIME = "application/vnd.fedlib.evidence+json"
GLUE_PREFIX = "application/papermill.record/"
PROFILES = ("smoke", "quick", "real", "full")

_QUOTABLE = re.compile(r"[^\s@|`]+")  # what may be the name of a metric

T = TypeVar("T")


class Interval(NamedTuple):
    """Mean of n values with its two-sided confidence interval [low, high] and sample deviation sd."""

    mean: float
    low: float
    high: float
    sd: float
    n: int


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Student-t confidence interval of the mean of ``values`` (one per seed).

    With one value the interval is the whole line: one seed says nothing about spread.
    Raises ValueError when there is no value or one is not finite.
    """
    x = [float(v) for v in values]
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if not x or not all(map(math.isfinite, x)):
        raise ValueError(f"an interval needs at least one value, all finite; got {x}")
    n, mean = len(x), math.fsum(x) / len(x)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, math.nan, 1)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / (n - 1))
    from scipy.stats import t  # slow to import, wanted only here

    half = float(t.ppf(0.5 + level / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n)


def paired(a: Mapping[Any, float], b: Mapping[Any, float]) -> list[float]:
    """Differences a - b seed by seed, over the seeds that both have. Raises ValueError when there is none."""
    common = [s for s in a if s in b]
    if not common:
        raise ValueError(f"no seed in common: {sorted(map(str, a))} against {sorted(map(str, b))}")
    return [a[s] - b[s] for s in common]


class NothingToDo(Exception):
    """There is no seed for this process: more processes than seeds share them out."""


class Run:
    """The numbers of one execution of a chapter.

    ``profile`` names the scale (smoke, quick, real, full); ``seeds`` are the seeds that every metric is
    recorded for. When the environment variable FEDLIB_RESUME names a folder, results of :meth:`once` are
    kept there, so that a run that was killed goes on where it stopped; FEDLIB_PROGRESS names a file that
    holds one line on how far the run is. FEDLIB_PART, such as ``2/3``, leaves only every third of the seeds, from the
    second one: several processes share the seeds out. Raises NothingToDo when none is left.
    """

    def __init__(self, profile: str, seeds: Iterable[int]):
        if profile not in PROFILES:
            raise ValueError(f"profile {profile!r} is unknown; use {', '.join(PROFILES)}")
        self.profile = profile
        self.seeds = [index(s) for s in seeds]
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a run needs at least one seed, and each once, got {self.seeds}")
        if part := os.environ.get("FEDLIB_PART"):
            number, count = map(int, part.split("/"))
            if not 1 <= number <= count:
                raise ValueError(f"FEDLIB_PART is {part!r}; expected a part and their number, such as 2/3")
            self.seeds = self.seeds[number - 1 :: count]
            if not self.seeds:
                raise NothingToDo(f"part {part} of the seeds is empty")
        self._began = time.monotonic()
        self.metrics: dict[str, dict[str, float]] = {}
        self.glued: dict[str, str] = {}
        self.setting: dict[str, Any] = {}  # names and plain values (:func:`fedlib.study.described`)
        self.tuning: dict[str, Any] = {}  # method -> its grid, scores and choice (:func:`fedlib.study.tune`)
        self._precisions: set[str] = set()  # of results that are kept, by whichever process
        self._done = 0
        self._asked: set[str] = set()
        self._folder = Path(os.environ["FEDLIB_RESUME"]) if os.environ.get("FEDLIB_RESUME") else None

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """Result of ``compute()`` for one (setting, seed), JSON-able; read back from disk where it is already kept.

        Raises ValueError for a key that this run has used before: the first result would answer for the second.
        """
        self._ask(key)
        progress(f"{self._done} done, {key}")
        if (kept := self._kept(key)) is None:
            start = time.perf_counter()
            kept = self._keep(key, compute(), time.perf_counter() - start)
        self._done += 1
        return kept["result"]

    def each(
        self,
        name: str,
        compute: Callable[[list[int]], Sequence[T]],
        seeds: Iterable[int] | None = None,
        at_once: int | None = None,
    ) -> dict[int, T]:
        """Results of one setting by seed, JSON-able, for all seeds of the run or some of them.

        ``compute(some)`` gives the results of some seeds in their order, and may train them side by side
        (:func:`fedlib.federation.together`): of all that are not kept on disk, or of ``at_once`` at most. Each is kept
        as :meth:`once` keeps ``name/seed``, and may come from another process that had only some of the seeds: it must
        depend on its own seed alone. Raises ValueError for a name and seed that this run has used before.
        """
        wanted = self.seeds if seeds is None else [index(s) for s in seeds]
        if at_once is not None and at_once < 1:
            raise ValueError(f"at_once must be at least 1, got {at_once}")
        for s in wanted:
            self._ask(f"{name}/{s}")
        found = {s: kept for s in wanted if (kept := self._kept(f"{name}/{s}")) is not None}
        missing = [s for s in wanted if s not in found]
        while missing:
            some, missing = missing[:at_once], missing[at_once or len(missing) :]
            progress(f"{self._done} done, {name}, seeds {', '.join(map(str, some))}")
            start = time.perf_counter()
            results = compute(some)
            seconds = (time.perf_counter() - start) / len(some)
            for s, result in zip(some, results, strict=True):
                found[s] = self._keep(f"{name}/{s}", result, seconds, seed=s)
        self._done += len(wanted)
        progress(f"{self._done} done")
        return {s: found[s]["result"] for s in wanted}

    def _ask(self, key: str) -> None:
        if key in self._asked:
            raise ValueError(f"the key {key!r} is used twice in this run; give every setting and seed a key of its own")
        self._asked.add(key)

    def _path(self, key: str) -> Path | None:
        return self._folder / f"{_safe(key)}.json" if self._folder else None

    def _kept(self, key: str) -> dict[str, Any] | None:
        """What is kept for a key; None when there is nothing, or not what was written: it is computed again."""
        path = self._path(key)
        if path and path.exists():
            with suppress(ValueError, OSError):
                kept = json.loads(path.read_text())
                mine = isinstance(kept, dict) and (kept.get("key"), kept.get("profile")) == (key, self.profile)
                if mine and kept.pop("sha256", None) == _sha256(kept):
                    self._precisions.update(kept.get("precisions", ()))
                    return kept
        return None

    def _keep(self, key: str, result: Any, seconds: float, **more: Any) -> dict[str, Any]:
        # The round trip makes a fresh result the same object that a resumed run would read (lists, string keys).
        about = {"key": key, "profile": self.profile, "seconds": round(seconds, 3), "precisions": _precisions(), **more}
        kept = json.loads(json.dumps(about | {"result": result}))
        if path := self._path(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(f".{os.getpid()}.part")
            beside.write_text(json.dumps(kept | {"sha256": _sha256(kept)}))
            os.replace(beside, path)
        return kept

    def record(self, metric: str, seed: int, value: float) -> None:
        """Note one number. Raises ValueError when it is not finite, the name cannot be quoted, the seed is foreign, or
        it was noted already, TypeError for what is no number or no seed.
        """
        if not _QUOTABLE.fullmatch(metric):
            raise ValueError(f"{metric!r} is no name of a metric: prose quotes it, so no space, @, | or ` stands in it")
        if value is None or isinstance(value, str | bytes) or type(value).__name__ in ("bool", "bool_"):
            raise TypeError(f"metric {metric!r}, seed {seed}: expected a number, got {value!r}")
        value, seed = float(value), index(seed)
        if not math.isfinite(value):
            raise ValueError(f"metric {metric!r}, seed {seed}: {value} is not a finite number")
        if seed not in self.seeds:
            raise ValueError(f"metric {metric!r}: seed {seed} is not one of this run's seeds {self.seeds}")
        row = self.metrics.setdefault(metric, {})
        if str(seed) in row:
            raise ValueError(f"metric {metric!r}, seed {seed} was recorded already; a metric has one value per seed")
        row[str(seed)] = value

    def values(self, metric: str, against: str | None = None) -> list[float]:
        """One value per seed of a metric, or of its paired difference to another metric."""
        for name in (metric, against):
            if name is not None and name not in self.metrics:
                raise KeyError(f"metric {name!r} was not recorded; recorded: {', '.join(sorted(self.metrics))}")
        if against is None:
            return list(self.metrics[metric].values())
        return paired(self.metrics[metric], self.metrics[against])

    def interval(self, metric: str, against: str | None = None) -> Interval:
        """Mean and 95% interval over the seeds of a metric, or of its paired difference to another metric."""
        return interval(self.values(metric, against))

    def table(self, metrics: Iterable[str] | None = None, digits: int = 3) -> str:
        """Plain text table of means (and sd where there are several seeds), rounded: the same on every machine."""
        rows = sorted(self.metrics) if metrics is None else list(metrics)
        width = max(map(len, rows), default=0)
        lines = []
        for name in rows:
            seen = self.interval(name)
            spread = f"  sd {seen.sd:.{digits}f}" if seen.n > 1 else ""
            lines.append(f"{name:<{width}}  {seen.mean:.{digits}f}{spread}  n={seen.n}")
        return "\n".join(lines)

    def glue(self, key: str, text: Any) -> None:
        """Give ``text`` a name under which the prose of the book can quote it (``{glue:text}``)."""
        from IPython.display import display

        self.glued[key] = str(text)
        data = {f"{GLUE_PREFIX}text/plain": repr(str(text))}
        display(data, raw=True, metadata={"scrapbook": {"name": key, "mime_prefix": GLUE_PREFIX}})

    def evidence(self) -> dict[str, Any]:
        """Everything measured and what it depends on, JSON-able.

        ``changed`` names the definitions of fedlib that were not the book's while it ran
        (:mod:`fedlib.study.method`), or are not at its end, however that came (:mod:`fedlib.original`); it is there
        only if there are some, and no such run can become a reference.
        """
        loaded = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "fedlib" and m is not None}
        loading = loaded.get("fedlib.data.loading")
        torch = sys.modules.get("torch")
        devices, choice = loaded.get("fedlib.devices"), loaded.get("fedlib.choice")
        precisions = sorted(self._precisions.union(_precisions()))
        method = loaded.get("fedlib.study.method")
        told = method.changed(since=self._began) if method else []
        original = loaded.get("fedlib.original")
        replaced = original.changed() if original else []
        changed = sorted({*told, *(n for n in replaced if not n.startswith(tuple(f"{t}." for t in told)))})
        versions = {"python": platform.python_version()}
        versions |= {n: m.__version__ for n in ("torch", "numpy", "sklearn") if (m := sys.modules.get(n))}
        return {
            "profile": self.profile,
            "seeds": self.seeds,
            "metrics": {k: dict(v) for k, v in sorted(self.metrics.items())},
            "modules": sorted(loaded),
            "data": dict(loading.used()) if loading else {},
            "device": devices.describe() if devices and torch else platform.machine(),
            "processor": devices.processor() if devices and torch else platform.machine(),
            "precision": ", ".join(precisions) or None,
            "executors": dict(sorted(choice.taken.items())) if choice else {},
            "versions": versions,
            "peak_memory_mb": round(_peak_memory_mb(), 1),
            "glue": dict(sorted(self.glued.items())),
            "setting": self.setting,
            "tuning": self.tuning,
        } | ({"changed": changed} if changed else {})

    def publish(self) -> None:
        """Emit the evidence as an output of the current cell, with a table for the reader; a notebook that knows the
        book's numbers (:mod:`fedlib.study.beside`) shows this run beside them. Raises ValueError for a metric that
        lacks a seed, or when there is none.
        """
        from IPython.display import display

        if not self.metrics:
            raise ValueError("nothing to publish: no metric was recorded")
        missing = {m: sorted(set(map(str, self.seeds)) - set(v)) for m, v in self.metrics.items()}
        gaps = [f"{m} (seeds {', '.join(s)})" for m, s in missing.items() if s]
        if gaps:
            raise ValueError(f"these metrics lack a value for some seeds: {'; '.join(gaps)}")
        content = self.evidence()
        display({MIME: content, "text/plain": self.table(), "text/html": self._html()}, raw=True)
        if beside := sys.modules.get("fedlib.study.beside"):
            beside.show(self)

    def _html(self) -> str:
        body = []
        for name in sorted(self.metrics):
            s = self.interval(name)
            span = f"{s.low:.4g} to {s.high:.4g}" if s.n > 1 else "one seed"
            body.append(
                f"<tr><td><code>{html.escape(name)}</code></td><td>{s.mean:.4g}</td><td>{span}</td><td>{s.n}</td></tr>"
            )
        head = "<tr><th>metric</th><th>mean</th><th>95% interval</th><th>seeds</th></tr>"
        return f'<table class="run-metrics"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'


def progress(line: str) -> None:
    """Say how far a run is: in the file that FEDLIB_PROGRESS names, or else below the cell of a notebook that runs."""
    path = os.environ.get("FEDLIB_PROGRESS")
    if path:
        with suppress(OSError):  # progress is a courtesy: it never stops a run
            Path(path).write_text(line[:120] + "\n")
    elif (python := sys.modules.get("IPython")) and (shell := python.get_ipython()) and hasattr(shell, "kernel"):
        from IPython.display import display

        place = f"fedlib-progress-{shell.execution_count}"  # one line for each cell, written over and over
        display({"text/plain": line}, raw=True, display_id=place, update=place in _lines)
        _lines.add(place)


_lines: set[str] = set()


def _precisions() -> list[str]:
    """What this process has computed in so far (:data:`fedlib.precision.used`)."""
    precision = sys.modules.get("fedlib.precision")
    return sorted(precision.used) if precision else []


def _safe(key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", key)[:80] + "-" + digest


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _peak_memory_mb() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
