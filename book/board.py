"""How a run is shown: a live table or plain lines while it goes on, and what became of each chapter at the end."""

from __future__ import annotations

import collections
import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from book import chapters, records
from book.jobs import Job


class Board:
    """Shows the jobs: a live table on a terminal, otherwise one plain line when a chapter is done."""

    def __init__(self, jobs: list[Job], console: Console):
        self.jobs, self.console = jobs, console
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self.told: set[tuple[str, str, str]] = set()

    @contextmanager
    def shown(self) -> Iterator[None]:
        if self.live is None:
            yield
            return
        with self.live:
            yield

    def update(self) -> None:
        """Show what has changed since the last call."""
        if self.live is not None:
            self.live.update(self._table())
            return
        for job in self.jobs:
            if job.status == "running" and (text := job.progress()).startswith("waits for"):
                self._say(job, text)
            elif job.status in ("ok", "partly", "failed", "error"):
                self._say(job, f"{job.status}{took(job)}{f'  {job.message}' if job.message else ''}")

    def _say(self, job: Job, text: str) -> None:
        if (job.slug, job.stem, text) not in self.told:
            self.told.add((job.slug, job.stem, text))
            self.console.print(f"{job.slug}  {job.stem}  {text}", highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for job in self.jobs:
            if job.status == "running":
                elapsed = f"{time.monotonic() - job.since:.0f} s of about {job.expected:.0f}"
                table.add_row(job.slug, escape(job.title), "[cyan]running[/]", elapsed, escape(job.progress()))
            elif job.status != "fresh":
                table.add_row(job.slug, escape(job.title), styled(job.status), took(job), escape(job.message))
        return table


def styled(status: str) -> str:
    """A status word in its colour."""
    colours = {
        "ok": "green",
        "fresh": "green",
        "failed": "red",
        "error": "red",
        "stopped": "yellow",
        "stale": "yellow",
    }
    return f"[{colours[status]}]{status}[/]" if status in colours else status


def took(job: Job) -> str:
    """Seconds and memory of a finished job, "" before."""
    if job.seconds is None:
        return ""
    return f"  {job.seconds:.1f} s  {job.memory or 0:.0f} MB"


def report(jobs: list[Job], console: Console) -> None:
    """The table at the end, and for each chapter that failed its traceback and where its files are."""
    table = Table("chapter", "run", "status", "seconds", "peak MB", box=None, padding=(0, 2, 0, 0))
    for job in jobs:
        seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
        memory = "" if job.memory is None else f"{job.memory:.0f}"
        table.add_row(job.slug, escape(job.title), styled(job.status), seconds, memory)
    console.print(table)
    for job in jobs:
        notebook = chapters.executed_path(job.slug, job.stem)
        if job.status == "failed":
            with suppress(OSError, ValueError):
                lines = job.trace.read_text(encoding="utf-8").rstrip().splitlines()[-25:]
                console.print("\n" + "\n".join(lines), highlight=False, markup=False, soft_wrap=True)
            kept = ", the last good one is kept and counts as stale" if notebook.exists() else ""
            text = f"\n{job.slug} failed: {job.message}\n  notebook   {notebook.with_suffix('.failed.ipynb')}{kept}\n"
            console.print(f"{text}  traceback  {job.trace}", highlight=False, markup=False, soft_wrap=True)
        elif job.status == "error":
            where = f"\n  traceback  {job.trace}" if job.died else ""
            console.print(f"\n{job.slug}: {job.message}{where}", highlight=False, markup=False, soft_wrap=True)


def explain(jobs: list[Job], console: Console) -> None:
    """Which executors trained the clients of each chapter, how often, and why: from the records of the runs."""
    for job in jobs:
        evidence = (records.read(job.slug, job.stem) or {}).get("evidence") or {}
        console.print(f"\n{job.slug}  {job.title}", highlight=False, markup=False)
        taken = sorted(evidence.get("executors", {}).items(), key=lambda pair: -pair[1])
        for reason, times in taken:
            console.print(f"{times:>8} x  {reason}", highlight=False, markup=False, soft_wrap=True)
        if not taken:
            console.print("  no federation was played", highlight=False, markup=False)


def summary(jobs: list[Job], started: float) -> str:
    """One line: how many chapters ran, were fresh, did not make it, and the wall time."""
    counts = collections.Counter(job.status for job in jobs)
    words = [f"{counts[s]} {s}" for s in ("ok", "fresh", "failed", "error", "stopped") if counts[s]]
    took = dt.timedelta(seconds=round(time.monotonic() - started))
    return f"{', '.join(words) or 'nothing to run'} in {took}"
