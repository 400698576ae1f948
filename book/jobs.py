"""What is to be run: checked in full before anything runs, and ordered.

One job is one chapter at one profile with one set of parameters, and with all seeds or a share of them.
"""

from __future__ import annotations

import collections
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from book import cards, chapters, execute, files, freshness, parameters, records, remote
from book.errors import PressError

# At these profiles a chapter has one thread whatever the machine: its numbers must not depend on how many chapters run
# beside it (floating-point sums depend on the number of threads), and its models are too small to gain from more.
ONE_THREAD = ("smoke", "quick", "real")


def _tail() -> collections.deque[str]:
    return collections.deque(maxlen=remote.SHOWN)


@dataclass
class Job:
    """One chapter to be run, and, once it has been, what came of it. ``part`` (2, 3): the second third of the seeds."""

    slug: str
    profile: str
    overrides: dict[str, Any]
    expected: float  # seconds, by the card
    gpu: bool = False
    force: bool = False
    part: tuple[int, int] | None = None
    merged: bool = False  # what its parts have computed was put where the run looks for what is done already
    # Then running; in the end ok, fresh, failed, error (the press could not run it), stopped, or partly (a part only).
    status: str = "waiting"
    message: str = ""
    seconds: float | None = None
    memory: float | None = None
    since: float = 0.0
    died: bool = False  # without a record; its output is in the file `trace`
    tail: collections.deque[str] = field(default_factory=_tail)

    @property
    def stem(self) -> str:
        return parameters.stem(self.profile, self.overrides, self.part)

    @property
    def title(self) -> str:
        """The stem, with the parameters that it stands for."""
        return " ".join([self.stem, *(f"{name}={value}" for name, value in sorted(self.overrides.items()))])

    def split(self, count: int) -> list[Job]:
        """The same with its seeds shared out: jobs whose results make this one short."""
        return [
            replace(self, part=(k, count), expected=self.expected / count, tail=_tail()) for k in range(1, count + 1)
        ]

    @property
    def order(self) -> str:
        """What the child process is told."""
        asked = {"slug": self.slug, "profile": self.profile, "overrides": self.overrides, "force": self.force}
        return json.dumps(asked | {"part": self.part, "merged": self.merged})

    def progress(self) -> str:
        """The chapter's own line on how far it is, or whom it waits for."""
        if self.tail and self.tail[-1].startswith("waits for"):
            return self.tail[-1]
        with suppress(OSError, ValueError):
            return execute.progress_path(self.slug, self.stem).read_text(encoding="utf-8").strip()
        return ""

    def take_record(self) -> None:
        """Fill in seconds and memory from the record that the run has left."""
        record = records.read(self.slug, self.stem) or {}
        self.seconds, self.memory = record.get("seconds"), record.get("peak_memory_mb")

    def finish(self, status: int) -> None:
        """Read the result off the child's exit status and record."""
        if status in (0, execute.FAILED) and (record := records.read(self.slug, self.stem)):
            self.take_record()
            self.status = "ok" if status == 0 else "failed"
            if status != 0:
                error = record.get("error") or {}
                lines = [line for line in str(error.get("message", "")).splitlines() if line.strip()]
                self.message = f"{error.get('type', 'error')}: {lines[0] if lines else ''}".strip()
            return
        self.status, self.message = "error", self._cause(status)
        if status == execute.UNABLE and not any(line.startswith("Traceback") for line in self.tail):
            return  # a PressError, which says it all
        with suppress(PressError):  # on a full disk the message must do
            files.write(self.trace, "\n".join([self.message, "", "Output of its process:", *self.tail]) + "\n")
            self.died = True

    @property
    def trace(self) -> Path:
        """The file with the traceback of a run that failed, or with the output of a process that died."""
        return chapters.executed_path(self.slug, self.stem).with_suffix(".traceback.txt")

    def _cause(self, status: int) -> str:
        """Why the child ended without a result, in one line."""
        words = execute.last_words(self.tail)
        if status == execute.UNABLE and words:
            return words
        if status < 0:
            ended = f"its process was ended by {signal_name(-status)}"
            if status == -signal.SIGKILL:
                ended = f"{ended}: killed by the system, perhaps for want of memory, or by somebody"
        elif status == 0:
            ended = f"its process left no record that can be read: {chapters.record_path(self.slug, self.stem)}"
        else:
            ended = f"its process ended with status {status}"
        quiet = not words or words == "runs"  # what every child says when it begins
        return f"{ended}, without a word" if quiet else f"{words} ({ended})"


def signal_name(number: int) -> str:
    """Such as SIGKILL."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def cores() -> int:
    """Cores that this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(profile: str, jobs: int, available: int | None = None) -> int:
    """Threads of one chapter, so that all that run at once do not want more than there are cores (or ``available``)."""
    share = 1 if profile in ONE_THREAD else max(1, (available or cores()) // jobs)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdigit() and int(limit) > 0 else share


def default_jobs(profile: str, chapters_to_run: int) -> int:
    """As many chapters at once as there are cores; at the full profile one, which has the machine to itself."""
    return 1 if profile == "full" else max(1, min(cores(), chapters_to_run))


def plan(
    slugs: list[str], profile: str, given: list[str], seeds: int | None = None, *, force: bool = False
) -> list[Job]:
    """Check everything that was asked for, before anything runs; the longest chapters come first.

    No slug means all chapters that have the profile; a parameter given several times means a run for each combination
    of values. Raises PressError for an unknown slug, profile or parameter, an ill-typed value, or a chapter asked for
    by name whose card or parameters are not right. Among all chapters, such a one is a job that has failed already.
    """
    chapters.require_profile(profile)
    for slug in slugs:
        chapters.require(slug)
    known, jobs, faults = {}, dict[tuple[str, str], Job](), []
    for slug in dict.fromkeys(slugs or chapters.slugs()):
        try:
            known[slug] = cards.load(slug)
            parameters.of(slug)
        except PressError as error:
            faults.append(str(error))
            known.pop(slug, None)
            message = "; ".join(str(error).splitlines())
            jobs[slug, ""] = Job(slug, profile, {}, 0.0, status="error", message=message)
    if slugs and faults:
        raise PressError("\n".join(faults))
    if not known and not faults:
        raise PressError(f"there is no chapter in {chapters.ROOT / 'papers'}; `python -m book new <slug>` makes one")
    for slug, card in known.items():
        if profile not in card.profiles:
            if slugs:
                raise PressError(f"{chapters.card_path(slug)}: profiles: chapter {slug!r} has no profile {profile!r}")
            continue
        needs = card.profiles[profile]
        for texts in parameters.grid(given):
            job = Job(slug, profile, parameters.check(slug, texts, seeds), needs.seconds, needs.gpu, force)
            jobs[slug, job.stem] = job  # 0.5 and 5e-1 are one
    return sorted(jobs.values(), key=lambda j: (-j.expected, j.slug))


# Not for a chapter: where the press or a notebook draws, and what a chapter that starts another press was told itself.
UNWANTED = ("MPLBACKEND", "FEDLIB_RESUME", "FEDLIB_PROGRESS", "FEDLIB_PART")


def settings(thread_count: int) -> dict[str, str]:
    """What the environment of a chapter's process must say on every machine."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(thread_count))
    # Neither a file that lies beside a chapter, nor a start-up file of the person's own, is part of what is hashed.
    alone = {"PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0"}
    return counts | alone | {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}


def child_environment(thread_count: int) -> dict[str, str]:
    """Environment of a chapter's process and kernel."""
    env = {k: v for k, v in os.environ.items() if k not in UNWANTED}
    press = str(Path(__file__).parents[1])
    # A kernel starts in the chapter's folder, where an entry such as "offline" would lead nowhere.
    given = [str(Path(p).absolute()) for p in env.get("PYTHONPATH", "").split(os.pathsep) if p]
    search = os.pathsep.join(dict.fromkeys([str(chapters.ROOT), press, *given]))
    return env | settings(thread_count) | {"PYTHONPATH": search, "FEDBOOK_ROOT": str(chapters.ROOT)}


def pending(jobs: list[Job]) -> list[Job]:
    """The jobs that have to run; the others are marked fresh. Folders are made, which finds a read-only disk early."""
    for job in (job for job in jobs if job.status == "waiting"):
        files.make_folder(chapters.executed_path(job.slug, job.stem).parent)
        try:
            fresh = not job.force and freshness.state(job.slug, job.stem) == "fresh"
        except PressError as error:
            job.status, job.message = "error", "; ".join(str(error).splitlines())
        else:
            if fresh:
                job.status = "fresh"
                job.take_record()
    return [job for job in jobs if job.status == "waiting"]
