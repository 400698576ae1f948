"""Execute one chapter at one profile, in a process of its own: `python -m book.execute` is called by the runner.

The chapter becomes a notebook in memory (jupytext), runs in a kernel (papermill), and what came out is renamed into
place only when it is whole. A run that fails leaves the last good notebook where it is and says so in its record.
"""

from __future__ import annotations

import collections
import datetime as dt
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from book import chapters, files, freshness, locking, parameters, records, remote, schema
from book.errors import PressError, cannot

# Exit statuses, none of them one that Python or a shell gives to a process that fails by itself.
FAILED = 70  # the chapter raised, and the record says what
STOPPED = 71  # told to stop before the end
UNABLE = 72  # the press itself could not work; the last line of output says why
# Between the choice of a kernel's ports and their use, another program may take one. The kernel then dies before it has
# run anything, and a new one is as good.
_STILLBORN, STARTS = "died before replying to kernel_info", 3
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def progress_path(slug: str, stem: str) -> Path:
    """The file in which a running chapter says how far it is."""
    return chapters.build_folder() / "progress" / f"{slug}-{stem}.txt"


def resume_folder(slug: str, stem: str) -> Path:
    return chapters.build_folder() / "resume" / slug / stem


def kept_folder(slug: str, stem: str, everything: dict[str, Any]) -> Path:
    """Where a run finds what was computed before it. A killed run has not said which modules it needs: what it kept
    counts only while nothing in fedlib changes, hence ``everything`` that a run may depend on.
    """
    return resume_folder(slug, stem) / freshness.digest(everything)


def run_chapter(
    slug: str,
    profile: str,
    overrides: dict[str, Any],
    *,
    force: bool = False,
    part: tuple[int, int] | None = None,
    merged: bool = False,
) -> records.Record:
    """Run a chapter unless a fresh run is there, and return its record. Raises PressError when nothing can be written.

    Waits when another press is at the same chapter and profile, says so on standard output, and takes over its result.
    With ``part`` it has a share of its seeds only, and its record holds what was computed for each of them; ``merged``
    says that such results have been put in place for this run (``force`` then leaves them there).
    """
    stem = parameters.stem(profile, overrides, part)
    progress = progress_path(slug, stem)
    with locking.hold(f"{slug}-{stem}", f"run {slug} {stem}", lambda text: print(text, flush=True)):
        files.write(progress, "starting\n")
        print("runs", flush=True)
        record = records.read(slug, stem)
        if record and not force and freshness.state(slug, stem) == "fresh":
            return record
        try:
            return _run(slug, profile, overrides, part, anew=force and not merged)
        finally:
            with suppress(OSError):
                progress.unlink(missing_ok=True)


def _run(
    slug: str, profile: str, overrides: dict[str, Any], part: tuple[int, int] | None, *, anew: bool
) -> records.Record:
    stem = parameters.stem(profile, overrides, part)
    target = chapters.executed_path(slug, stem)
    files.make_folder(target.parent)
    files.remove_parts(target.parent, stem)
    notebook, sources = chapters.read(slug), freshness.Sources.take(slug)
    given = {"profile": profile, **overrides}
    everything = sources.dependencies(given)
    if anew:
        shutil.rmtree(resume_folder(slug, stem), ignore_errors=True)
    kept = files.make_folder(kept_folder(slug, stem, everything))
    commit, dirty = records.commit(slug)
    started, clock = dt.datetime.now(dt.UTC), time.perf_counter()
    told = {
        "FEDLIB_RESUME": str(kept),
        "FEDLIB_PROGRESS": str(progress_path(slug, stem)),
        "FEDLIB_PART": f"{part[0]}/{part[1]}" if part else "",
    }
    nobodys = tempfile.TemporaryDirectory(prefix="fedbook-ipython-")  # with no start-up files in it
    with nobodys as folder, _environment(told | {"IPYTHONDIR": folder}):
        executed, error = _execute(notebook, given, target)
    idle = part is not None and error is not None and error["type"] == "NothingToDo"  # there are fewer seeds than parts
    evidence = records.published(executed) if error is None else None
    if error is None and (error := _fault(evidence, profile)):
        evidence = None
    error = None if idle else error
    record: records.Record = {
        "slug": slug,
        "profile": profile,
        "parameters": given,
        "part": part,
        "status": "ok" if error is None else "failed",
        "seconds": round(time.perf_counter() - clock, 2),
        "started": started.isoformat(timespec="seconds"),
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "error": error,
        "evidence": evidence,
        "last_good": None,
    }
    if evidence is not None and error is None:
        record["dependencies"] = sources.dependencies(given, evidence["modules"], evidence["data"])
        record["packs"] = freshness.packs(list(evidence["data"]))
    else:
        record["dependencies"], record["packs"] = everything, {}
    if part is not None:
        record["kept"] = _of_single_seeds(kept)
    record["hash"] = freshness.digest(record["dependencies"])
    record["peak_memory_mb"] = max(_peak_memory_mb(), (evidence or {}).get("peak_memory_mb", 0.0))
    _store(record, executed, slug, stem)
    return record


def _of_single_seeds(kept: Path) -> dict[str, str]:
    """What a part has computed for each of its seeds, by file name. A damaged file is as good as none."""
    found = {}
    for path in sorted(kept.glob("*.json")):
        with suppress(PressError):
            content = files.read_json(path)
            if isinstance(content, dict) and "seed" in content:
                found[path.name] = files.read_text(path)
    return found


def _store(record: records.Record, executed: Any, slug: str, stem: str) -> None:
    """Put notebook and record in place. The record holds the notebook's checksum, which tells of a kill in between."""
    import nbformat

    target = chapters.executed_path(slug, stem)
    broken, trace = target.with_suffix(".failed.ipynb"), target.with_suffix(".traceback.txt")
    text = nbformat.writes(executed) + "\n"
    if record["status"] == "ok":
        record["notebook_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        files.write(target, text)
        records.write(slug, stem, record)
        for leftover in (broken, trace):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
        shutil.rmtree(resume_folder(slug, stem), ignore_errors=True)
        return
    record["last_good"] = records.good(records.read(slug, stem))
    files.write(broken, text)
    files.write(trace, record["error"]["traceback"] + "\n")
    records.write(slug, stem, record)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that a kernel is to find, for as long as it runs: papermill has no other way to tell it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _execute(notebook: Any, given: dict[str, Any], target: Path) -> tuple[Any, dict[str, str] | None]:
    """The executed notebook, and what went wrong in it."""
    import nbformat

    beside = target.with_name(f".{target.stem}.{os.getpid()}.part.ipynb")
    for _ in range(STARTS):
        error = _papermill(notebook, given, target, beside)
        if error is None or _STILLBORN not in error["message"]:
            break
    try:
        executed = nbformat.read(beside, as_version=4) if beside.exists() else notebook
        beside.unlink(missing_ok=True)
    except OSError as fault:
        cannot("read", beside, fault)
    return _tidy(executed), error


def _papermill(notebook: Any, given: dict[str, Any], target: Path, beside: Path) -> dict[str, str] | None:
    """Execute into the file ``beside``; returns what went wrong."""
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, not one in the home folder
    import papermill
    from papermill.exceptions import PapermillExecutionError

    said = collections.deque[str](maxlen=remote.SHOWN)
    try:
        with _overhearing(said):
            papermill.execute_notebook(
                notebook,
                str(beside).replace("{", "{{").replace("}", "}}"),  # papermill formats the path with the parameters
                parameters=given,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=str(chapters.folder(target.parent.name)),
            )
    except PapermillExecutionError as fault:
        trace = _COLOURS.sub("", "\n".join(fault.traceback or []))
        return {"type": str(fault.ename), "message": str(fault.evalue), "traceback": trace}
    except Exception as fault:  # no kernel, one that died or never answered, or no place to write to
        if isinstance(fault, OSError) and fault.errno and fault.filename in (None, str(beside)):
            beside.unlink(missing_ok=True)
            cannot("write", beside, fault)
        return _outside(fault, list(said))
    return None


def _outside(fault: Exception, said: list[str]) -> dict[str, str]:
    """What went wrong around the notebook, not in it: the fault, and what the kernel has said on its standard error."""
    name, message = type(fault).__name__, str(fault) or "the kernel stopped"
    if name == "NoSuchKernel":
        message += "; a chapter runs in ipykernel: install it where this Python finds it"
    elif "died" in message.lower():
        words = last_words(line for line in said if not line.startswith("[IPKernelApp] WARNING"))  # of every kernel
        message += f"; its last words: {words}" if words else "; it may have been killed for want of memory"
    trace = traceback.format_exc().rstrip()
    if said:
        trace += "\n\nStandard error of the kernel:\n" + "\n".join(said)
    return {"type": name, "message": message, "traceback": trace}


@contextmanager
def _overhearing(said: collections.deque[str]) -> Iterator[None]:
    """Append to ``said`` the lines that a kernel writes to the standard error that it has from this process. They go on
    to where they went before.
    """
    sys.stderr.flush()
    before = os.dup(2)
    heard, ours = os.pipe()
    os.dup2(ours, 2)
    os.close(ours)

    def listen() -> None:
        with os.fdopen(heard, "rb") as lines, os.fdopen(before, "wb", buffering=0) as through:
            for line in lines:
                said.append(_COLOURS.sub("", line.decode(errors="replace").rstrip()))
                with suppress(OSError):
                    through.write(line)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        listener.join(timeout=2)  # it ends when the kernel has, unless that has left somebody behind


def last_words(lines: Iterable[str]) -> str:
    """Why a process ended, as far as its output says: the exception of its last traceback, else its fatal error, else
    the last line; "" when there is none.
    """
    said = [line.rstrip() for line in lines if line.strip()]
    starts = [number for number, line in enumerate(said) if line.startswith("Traceback (most recent call last)")]
    if starts and (ends := [line for line in said[starts[-1] + 1 :] if not line[0].isspace()]):
        return ends[0]
    fatal = [line for line in said if line.startswith("Fatal Python error")]
    return (fatal or said or [""])[-1]


def _tidy(notebook: Any) -> Any:
    """Drop what differs from run to run: ids, times, paths. The same code then gives the same bytes."""
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    return notebook


def _fault(evidence: dict[str, Any] | None, profile: str) -> dict[str, str] | None:
    if evidence is None:
        text = "no evidence was published; the chapter's last cell must call run.publish()"
    elif evidence.get("profile") != profile:
        text = f"evidence was published for profile {evidence.get('profile')!r}, but {profile!r} was asked for"
    elif names := evidence.get("changed"):
        text = f"{', '.join(names)} changed while it ran (%%method); such a run can become no evidence"
    elif wrong := schema.faults(schema.Published, evidence):
        text = f"what was published is no evidence: {'; '.join(wrong[:5])}"
    else:
        return None
    return {"type": "Evidence", "message": text, "traceback": text}


def _peak_memory_mb() -> float:
    """Largest memory of any child process so far, the kernel among them, in MiB."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _abandon(target: Path) -> None:
    """Leave at once and take the kernel along; what it has kept so far stays for the next call."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    for part in target.parent.glob(f".*.{os.getpid()}.part*"):
        with suppress(OSError):
            part.unlink()
    os._exit(STOPPED)


def _leave_when_told(target: Path) -> None:
    """The press holds the other end of standard input: it closes it to stop this run, or dies and thereby closes it.

    Signals would not do: nbclient takes them over while a notebook runs.
    """
    while os.read(0, 1):  # sys.stdin would be locked by this thread, and an interpreter that ends would abort on that
        pass
    _abandon(target)


def main(arguments: list[str]) -> int:
    """Arguments: one JSON object, see `Job.order`. Returns the exit status."""
    order = json.loads(arguments[0])
    target = chapters.executed_path(order["slug"], order["profile"])
    threading.Thread(target=_leave_when_told, args=(target,), daemon=True).start()
    try:
        options = {"force": order["force"], "part": order["part"] and tuple(order["part"]), "merged": order["merged"]}
        record = run_chapter(order["slug"], order["profile"], order["overrides"], **options)
    except PressError as error:
        print(str(error).replace("\n", "; "), flush=True)  # the runner shows the last line
        return UNABLE
    except Exception:  # a package is missing, or the press is at fault: the runner shows the exception
        traceback.print_exc()
        return UNABLE
    return 0 if record["status"] == "ok" else FAILED


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the thread that watches standard input would make an ordinary exit wait
