"""Run many chapters side by side on this machine: one process and one kernel each."""

from __future__ import annotations

import collections
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from book import chapters
from book.board import Board
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
            encoding="utf-8",
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
    try:
        with stoppable(), board.shown():
            while queue or children:
                while queue and len(children) < at_once:
                    job = queue.popleft()
                    children.append(Child(job, threads(job.profile, at_once)))
                time.sleep(0.05)
                children = [child for child in children if not child.done()]
                board.update()
    finally:
        for child in children:
            child.stop()
    return all(job.status in ("ok", "fresh") for job in jobs)


@contextmanager
def stoppable() -> Iterator[None]:
    """A polite kill of the press (SIGTERM) is taken like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
