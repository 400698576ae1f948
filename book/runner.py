"""Run many chapters side by side: one process and one kernel each, here or spread over a Ray cluster."""

from __future__ import annotations

import collections
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

from rich.console import Console

from book import chapters
from book.board import Board, took
from book.errors import PressError
from book.jobs import Job, child_environment, pending, threads


class Child:
    """A chapter's process. Its standard input is our hold on it: closing that stops it, and so does our death."""

    def __init__(self, job: Job, thread_count: int):
        job.status, job.since = "running", time.monotonic()
        self.job = job
        self.process = subprocess.Popen(
            [sys.executable, "-m", "book.execute", job.order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=chapters.ROOT,
            env=child_environment(thread_count),
            start_new_session=True,  # Ctrl-C on the terminal is for the press alone
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.job.tail.extend(line.rstrip() for line in self.process.stdout)

    def done(self) -> bool:
        """Whether the process has ended; the job then holds its result."""
        status = self.process.poll()
        if status is None:
            return False
        self.reader.join(timeout=2)
        self.job.finish(status)
        return True

    def stop(self) -> None:
        """End the process and its kernel."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            import psutil

            with suppress(psutil.Error):
                for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                    process.kill()
        self.job.status = "stopped"


def run_all(jobs: list[Job], at_once: int, console: Console) -> bool:
    """Run what is not fresh; True when nothing failed. One chapter that fails never stops the others.

    KeyboardInterrupt (Ctrl-C, or a polite kill of the press) stops the children, kernels included, and is passed on.
    """
    queue = collections.deque(pending(jobs))
    at_once = max(1, min(at_once, len(queue)))
    board = Board(jobs, console)
    children: list[Child] = []
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with board.shown():
            while queue or children:
                while queue and len(children) < at_once:
                    job = queue.popleft()
                    children.append(Child(job, threads(job.profile, at_once)))
                time.sleep(0.05)
                children = [child for child in children if not child.done()]
                board.update()
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in children:
            child.stop()
    return all(job.status in ("ok", "fresh") for job in jobs)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run_on_ray(jobs: list[Job], console: Console) -> bool:
    """Run every chapter as a Ray task, on machines that share this tree; True when nothing failed."""
    try:
        import ray
    except ImportError:
        raise PressError("--on ray needs Ray, which is not installed: pip install ray, or leave out --on ray") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    tasks = {}
    for job in pending(jobs):
        count = threads(job.profile, 1)
        task = ray.remote(num_cpus=count, num_gpus=float(job.gpu))(_ray_task)
        tasks[task.remote(job.order, child_environment(count), str(chapters.ROOT))] = job
    while tasks:
        done, _ = ray.wait(list(tasks), num_returns=1)
        job = tasks.pop(done[0])
        status, output = ray.get(done[0])
        job.tail.extend(output.splitlines())
        job.finish(status)
        console.print(f"{job.slug}  {job.stem}  {job.status}{took(job)}", highlight=False, markup=False)
    return all(job.status in ("ok", "fresh") for job in jobs)


def _ray_task(order: str, environment: dict[str, str], root: str) -> tuple[int, str]:
    """The chapter's process on whatever machine this is; it leaves when its standard input closes."""
    call = [sys.executable, "-m", "book.execute", order]
    pipe, join = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(call, stdin=pipe, stdout=pipe, stderr=join, cwd=root, env=environment, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        return process.wait(), output
