"""Run chapters on a Ray cluster: a task is one chapter with one set of parameters, with all its seeds or some of them.

Ray decides where and when. A task is the same process that `runner` starts here (:mod:`book.execute`), on some machine
of the cluster: in this very tree where that machine shares it, otherwise in a copy of what the chapter needs. Either
way its files come back to this tree. When a machine is lost, Ray runs its tasks again elsewhere; a chapter that fails
by itself has an answer, and is not run again.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from book import chapters, execute, files, freshness, jobs, records, remote
from book.board import Board
from book.errors import PressError
from book.jobs import Job
from book.runner import stoppable

LOSSES = 10  # machines that a task may lose before its chapter must be the reason


def run_on_ray(planned: list[Job], console: Console, parts: int = 1) -> bool:
    """Run what is not fresh on the cluster; True when nothing failed. One chapter that fails never stops the others.

    With ``parts`` above one, each chapter's seeds are shared out among that many tasks, and when these are done the
    chapter itself runs from their results and computes what they lack. Raises PressError, before anything runs, when
    there is no cluster or it has not what a chapter needs. KeyboardInterrupt (Ctrl-C, or a polite kill of the press)
    stops the tasks and is passed on.
    """
    with _cluster() as cluster:
        todo = [(whole, whole.split(parts) if parts > 1 else []) for whole in jobs.pending(planned)]
        for whole, _ in todo:
            cluster.needs(whole)  # raises
        shares = [part for _, share in todo for part in share]
        board = Board(planned + shares, console)
        with stoppable(), board.shown():
            for part in jobs.pending(shares):
                cluster.submit(part)
            while todo or cluster.flying:
                ready = [pair for pair in todo if all(part.status not in ("waiting", "running") for part in pair[1])]
                for whole, share in ready:
                    if share:
                        _merge(whole, share)
                    cluster.submit(whole, share)
                todo = [pair for pair in todo if pair not in ready]
                cluster.collect(0.2)
                board.update()
    return all(job.status in ("ok", "fresh") for job in planned)


def _merge(whole: Job, parts: list[Job]) -> None:
    """Put what the parts have computed for single seeds where the chapter looks for what it has computed already.

    That holds for parts that did not come to their end, too: a chapter may want a seed that one of them has not.
    """
    sources = freshness.Sources.take(whole.slug)  # before the parts are found fresh, so that no edit slips between
    everything = sources.dependencies({"profile": whole.profile, **whole.overrides})
    if whole.force:
        shutil.rmtree(execute.resume_folder(whole.slug, whole.stem), ignore_errors=True)
    whole.merged = True
    folder = execute.kept_folder(whole.slug, whole.stem, everything)
    for part in parts:
        record = records.read(whole.slug, part.stem)
        if record and not freshness.record_changes(whole.slug, record):
            for name, text in record["kept"].items():
                files.write(folder / name, text)


class _Cluster:
    """The machines, what all tasks are given, and the tasks in flight, each with the parts that it was made from."""

    def __init__(self, ray: Any):
        self.ray, self.flying = ray, dict[Any, tuple[Job, list[Job]]]()
        self.machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.sign = chapters.build_folder() / f"cluster-{uuid.uuid4().hex}"
        press, root = Path(__file__).parent, chapters.ROOT
        modules = [(path, press.parent) for path in press.rglob("*.py")]
        modules += [(path, root) for path in (root / "fedlib").rglob("*.py")]
        self.common = ray.put(_contents([*modules, (root / "requirements.txt", root)]))
        files.write(self.sign, "")

    def needs(self, job: Job) -> tuple[int, int]:
        """CPUs and GPUs of a task: one CPU where numbers must not depend on threads, else all that one machine has (or
        has for each of its GPUs). Raises PressError when no machine of the cluster has that.
        """
        fit = [m for m in self.machines if m.get("CPU", 0) >= 1 and m.get("GPU", 0) >= job.gpu]
        if not fit:
            lacking = f"no machine of the cluster has a CPU{' and a GPU' if job.gpu else ''} to give"
            raise PressError(
                f"{job.slug} cannot run at profile {job.profile!r}: {lacking}; add one, or leave out --on ray"
            )
        cpus = max(int(m["CPU"] / (max(1, m.get("GPU", 0)) if job.gpu else 1)) for m in fit)
        return jobs.threads(job.profile, 1, max(1, cpus)), int(job.gpu)

    def submit(self, job: Job, parts: list[Job] | None = None) -> None:
        """Hand a task to Ray, which runs it when there is room."""
        cpus, gpus = self.needs(job)
        root, target = chapters.ROOT, chapters.executed_path(job.slug, job.stem)
        results = [target, target.with_suffix(".failed.ipynb"), target.with_suffix(".traceback.txt")]
        errand = remote.Errand(
            job.order,
            str(root),
            str(Path(__file__).parents[1]),
            str(self.sign.relative_to(root)),
            [_name(path, root) for path in [*results, chapters.record_path(job.slug, job.stem)]],
            jobs.UNWANTED,
            {name: os.environ[name] for name in ("FEDLIB_DATA", "FEDLIB_CACHE") if name in os.environ},
            jobs.settings(cpus) | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""}),
        )
        task = self.ray.remote(remote.run).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=LOSSES,  # of the machine; an exception of ours is never tried again
            scheduling_strategy="SPREAD",
            name=f"{job.slug} {job.stem}",
        )
        self.flying[task.remote(errand, self.common, _own(job))] = job, parts or []

    def collect(self, seconds: float) -> None:
        """Wait a little, take over the results that have come, and see who is at work."""
        done = []
        if self.flying:
            done, _ = self.ray.wait(list(self.flying), num_returns=len(self.flying), timeout=seconds)
        for task in done:
            job, parts = self.flying.pop(task)
            try:
                answer = self.ray.get(task)
            except self.ray.exceptions.RayError as error:
                lines = [line for line in str(error).splitlines() if line.strip()] or [""]
                job.status, job.message = "error", f"Ray gave up on it ({type(error).__name__}): {lines[-1].strip()}"
            else:
                _store(job, answer.files, parts)
                job.tail.extend(answer.output)
                job.finish(answer.status)
            if job.status == "ok":
                _clear(parts)
            elif job.part is not None:
                job.status, job.message = "partly", f"ended early ({job.message}); the chapter computes the rest"
        for job, _ in self.flying.values():
            if job.status == "waiting" and job.progress():
                job.status, job.since = "running", time.monotonic()

    def stop(self) -> None:
        """End what is in flight, kernels included; what was kept of it in a shared tree stays."""
        for task, (job, _) in self.flying.items():
            job.status = "stopped"
            with suppress(Exception):  # it may have ended by itself
                self.ray.cancel(task, force=True)
        self.flying = {}
        self.sign.unlink(missing_ok=True)


def _own(job: Job) -> dict[str, bytes]:
    """What a machine without this tree needs for one task, besides the packages: the chapter and what is done of it."""
    resume = execute.resume_folder(job.slug, job.stem)
    paths = [p for p in chapters.chapter_path(job.slug).parent.rglob("*") if "evidence" not in p.parts]
    paths += [chapters.record_path(job.slug, job.stem), *(resume.rglob("*") if job.merged or not job.force else [])]
    return _contents([(path, chapters.ROOT) for path in paths])


def _contents(paths: list[tuple[Path, Path]]) -> dict[str, bytes]:
    """The files among ``paths`` by name; each comes with the folder that its name starts from."""
    return {_name(path, home): path.read_bytes() for path, home in paths if path.is_file()}


def _name(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix()


def _store(job: Job, results: dict[str, bytes], parts: list[Job]) -> None:
    """Put the files of a task into this tree, its record last; where the tree is shared they are there already."""
    for name in sorted(results, key=lambda n: n.endswith(".json")):
        path = chapters.ROOT / name
        if not path.exists() or path.read_bytes() != results[name]:
            files.write(path, results[name])
    record = records.read(job.slug, job.stem)
    if record is None:
        return
    amended = dict(record)
    if record["commit"] is None:  # it ran in a copy, which is no git checkout
        amended["commit"], amended["dirty"] = records.commit(job.slug)
    if parts and record["status"] == "ok":
        amended |= _credit(record, [r for part in parts if (r := records.read(part.slug, part.stem))])
    if amended != record:
        records.write(job.slug, job.stem, amended)


def _credit(record: records.Record, parts: list[records.Record]) -> records.Record:
    """What a chapter and the parts that it was made from took together, and all the places where they ran."""
    runs = [record, *parts]
    seen = [run["evidence"] for run in runs if run["evidence"]]
    names = sorted({name for evidence in seen for name in evidence["versions"]})
    evidence = record["evidence"] | {
        "device": _joined(e["device"] for e in seen),
        "processor": _joined(e["processor"] for e in seen),
        "precision": ", ".join(sorted({p for e in seen for p in (e.get("precision") or "").split(", ") if p})) or None,
        "versions": {n: _joined(e["versions"].get(n) for e in seen) for n in names},
        "executors": dict(sorted(sum((Counter(e.get("executors")) for e in seen), Counter()).items())),
    }
    seconds, memory = round(sum(r["seconds"] for r in runs), 2), max(r["peak_memory_mb"] for r in runs)
    return {"evidence": evidence, "seconds": seconds, "peak_memory_mb": memory}


def _joined(values: Iterator[str | None]) -> str:
    return " + ".join(dict.fromkeys(v for v in values if v))


def _clear(parts: list[Job]) -> None:
    """Delete the notebooks and records of parts, whose results their chapter has taken over."""
    for part in parts:
        path = chapters.executed_path(part.slug, part.stem)
        for leftover in path.parent.glob(f"{part.stem}.*"):
            leftover.unlink(missing_ok=True)


@contextmanager
def _cluster() -> Iterator[_Cluster]:
    """The cluster, for as long as the press needs it. Raises PressError when there is none to be had."""
    from fedlib import _ray

    try:
        ray, ours = _ray.connect()
    except ImportError:
        raise PressError("--on ray needs Ray, which is not installed: pip install ray, or leave out --on ray") from None
    except ConnectionError as error:
        raise PressError(str(error)) from None
    ray.cloudpickle.register_pickle_by_value(remote)  # a machine without this tree has no `book`
    try:
        cluster = _Cluster(ray)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        ray.cloudpickle.unregister_pickle_by_value(remote)
        if ours:
            ray.shutdown()
