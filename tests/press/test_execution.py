"""Chapters executed for real: outputs, failures, interruptions, two presses at once."""

import io
import json
import os
import signal

import nbformat
import psutil
import pytest
from rich.console import Console

from book import board, chapters, execute, files, freshness, jobs, records, reference

# The chapter says which kernel it is and waits there; a second seed is computed only when the file `hold` is gone.
WAITING = """
import os, pathlib, time
here = pathlib.Path(os.environ["FEDBOOK_ROOT"])
def slow(s):
    with (here / "calls").open("a") as calls:
        calls.write(f"{s} ")
    while s == 1 and (here / "hold").exists():
        (here / "kernel").write_text(str(os.getpid()))
        time.sleep(0.01)
    return s
for s in run.seeds:
    run.once(f"slow/{s}", lambda s=s: slow(s))
"""


def outputs(path):
    """Outputs of an executed notebook, without what one run legitimately has other than the next: its memory."""
    cells = nbformat.read(path, as_version=4).cells
    found = [json.loads(json.dumps(o)) for c in cells if c.cell_type == "code" for o in c.outputs]
    for output in found:
        output.get("data", {}).get(records.EVIDENCE, {}).pop("peak_memory_mb", None)
    return found


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def waiting(tree, until):
    """A press that stands in the middle of a chapter, and the process id of the chapter's kernel."""
    tree.add("demo", work=WAITING)
    (tree.root / "hold").touch()
    press = tree.start("run", "demo")
    until(lambda: (tree.root / "kernel").exists() and (tree.root / "kernel").read_text(), "the kernel is at work")
    yield press, int((tree.root / "kernel").read_text())
    press.kill()
    press.communicate()


def test_a_run_leaves_notebook_record_and_evidence(tree, state):
    tree.add("demo", work='print("made here")')
    record = tree.run("demo")
    assert record["status"] == "ok"
    assert record["seconds"] > 0
    assert record["peak_memory_mb"] > 10
    assert record["evidence"]["metrics"]["score/ours"] == {"0": 0.5, "1": 0.51, "2": 0.52}
    assert state("demo") == "fresh"
    assert {"name": "stdout", "output_type": "stream", "text": "made here\n"} in outputs(
        chapters.executed_path("demo", "quick")
    )
    assert not list((tree.root / "_build").rglob("*.part"))
    assert not execute.resume_folder("demo", "quick").exists(), "a finished run keeps no partial results"


def test_other_parameters_reach_the_chapter_and_touch_neither_evidence_nor_site(tree, state):
    tree.add("demo")
    tree.pretend("demo")
    before = chapters.executed_path("demo", "quick").read_bytes(), reference.evidence_for("demo", "quick")
    tree.monkeypatch.undo()
    tree.monkeypatch.setattr(chapters, "ROOT", tree.root)
    tree.monkeypatch.setenv("PYTHONPATH", str(tree.root))
    record = tree.run("demo", overrides={"rate": 2.0, "seeds": 2})
    assert record["evidence"]["metrics"]["score/ours"] == {"0": 2.0, "1": 2.01}
    assert state("demo", overrides={"rate": 2.0, "seeds": 2}) == "fresh"
    assert (chapters.executed_path("demo", "quick").read_bytes(), reference.evidence_for("demo", "quick")) == before


def test_same_bits_whatever_the_number_of_jobs(tree):
    tree.add("one")
    tree.add("two")
    seen = []
    for count in ("1", "2"):
        status, output = tree.press("run", "--jobs", count, "--force")
        assert status == 0, output
        seen.append([outputs(chapters.executed_path(slug, "quick")) for slug in ("one", "two")])
    assert seen[0] == seen[1]
    assert tree.press("run")[1].count("fresh") == 3, (
        "a second call runs nothing: one word a chapter, one in the summary"
    )


def test_a_chapter_that_raises_stops_nobody_else_and_keeps_its_last_good_outputs(tree, state):
    source = tree.add("bad")
    tree.add("good")
    tree.pretend("bad")
    kept = chapters.executed_path("bad", "quick").read_bytes()
    tree.edit(source, "\n\nfor s in run.seeds", "\n\n1 / 0\nfor s in run.seeds")
    status, output = tree.press("run")
    assert status == 1
    assert state("good") == "fresh"
    assert state("bad") == "failed"
    assert "ZeroDivisionError: division by zero" in output
    assert "1 / 0" in output, "the traceback is shown"
    assert str(chapters.executed_path("bad", "quick").with_suffix(".failed.ipynb")) in output
    assert str(chapters.executed_path("bad", "quick").with_suffix(".traceback.txt")) in output
    assert chapters.executed_path("bad", "quick").read_bytes() == kept
    assert records.read("bad", "quick")["last_good"]["status"] == "ok"
    assert "bad: failed: ZeroDivisionError" in tree.press("build")[1]
    tree.edit(source, "1 / 0\n", "")
    assert state("bad") == "fresh", "back at the sources of the last good run"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("run.publish()", "pass", "no evidence was published"),
        ("evidence.Run(profile,", 'evidence.Run("smoke",', "published for profile 'smoke'"),
        ("run.publish()", "import os; os.kill(os.getpid(), 9)", "died"),
    ],
)
def test_a_chapter_that_publishes_nothing_right_has_failed(tree, state, old, new, message):
    tree.edit(tree.add("demo"), old, new)
    record = tree.run("demo")
    assert record["status"] == "failed"
    assert message in record["error"]["message"]
    assert state("demo") == "failed"


@pytest.mark.parametrize("times", [2, 3])
def test_a_kernel_that_dies_before_it_runs_anything_is_started_again(tree, times):
    import papermill

    tree.add("demo")
    real, tried = papermill.execute_notebook, []

    def execute_notebook(*arguments, **options):
        tried.append(1)
        if len(tried) <= times:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return real(*arguments, **options)

    tree.monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    assert tree.run("demo", "smoke")["status"] == ("ok" if times == 2 else "failed")
    assert len(tried) == 3


def test_a_killed_press_takes_its_kernel_along_and_the_next_call_resumes(tree, waiting, until, state):
    press, kernel = waiting
    assert (tree.root / "calls").read_text() == "0 1 "
    os.kill(press.pid, signal.SIGKILL)
    until(lambda: gone(kernel), "the kernel has ended")
    assert state("demo") == "never"
    until(lambda: not list((tree.root / "_build" / "executed").rglob("*.ipynb")), "no half file is left")
    (tree.root / "hold").unlink()
    status, output = tree.press("run", "demo")
    assert status == 0, output
    assert (tree.root / "calls").read_text() == "0 1 1 2 ", "seed 0 was not computed again"
    assert state("demo") == "fresh"


def test_partial_results_of_other_code_are_not_taken_up(tree, waiting, until):
    press, kernel = waiting
    os.kill(press.pid, signal.SIGKILL)
    until(lambda: gone(kernel), "the kernel has ended")
    (tree.root / "hold").unlink()
    tree.edit("fedlib/toy.py", "0.01", "0.02")
    assert tree.run("demo")["status"] == "ok"
    assert (tree.root / "calls").read_text() == "0 1 0 1 2 "


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_an_interrupted_press_ends_its_kernels(waiting, until, signal_sent):
    press, kernel = waiting
    press.send_signal(signal_sent)
    output, _ = press.communicate(timeout=30)
    assert press.returncode == 130
    assert "the same call goes on from here" in output
    assert "Traceback" not in output
    until(lambda: gone(kernel), "the kernel has ended")


def test_a_second_press_on_the_same_chapter_says_who_is_at_it_and_takes_over_the_result(tree, waiting, until):
    first, _ = waiting
    second = tree.start("run", "demo")
    line = second.stdout.readline()
    assert "demo  quick  waits for pid" in line
    assert "since" in line
    (tree.root / "hold").unlink()
    assert first.wait(timeout=60) == 0
    assert second.wait(timeout=60) == 0
    assert (tree.root / "calls").read_text() == "0 1 2 ", "the chapter ran once"
    second.communicate()


def test_clean_does_not_pull_the_floor_from_under_a_run(tree, waiting):
    status, output = tree.press("clean", "--all")
    assert status == 2
    assert "cannot clean now: pid" in output
    assert (tree.root / "_build" / "resume").exists()


def test_the_longest_chapters_start_first(tree):
    for slug, seconds in (("short", 1), ("long", 50), ("middle", 9)):
        needs = {"seconds": seconds, "memory_mb": 1}
        tree.add(slug, profiles={"smoke": needs, "quick": needs})
    assert [job.slug for job in jobs.plan([], "quick", [])] == ["long", "middle", "short"]


def test_the_terminal_shows_each_chapters_own_line_as_it_is(tree):
    tree.add("demo")
    (job,) = jobs.plan([], "quick", [])
    job.status = "running"
    files.write(execute.progress_path("demo", "quick"), "[3/10] seed 2 [/nothing]\n")
    screen = io.StringIO()
    shown = board.Board([job], Console(file=screen, force_terminal=True, width=100))
    with shown.shown():
        shown.update()
    assert "[3/10] seed 2 [/nothing]" in screen.getvalue()


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    assert jobs.threads("quick", 1) == jobs.threads("quick", 8) == 1, "the numbers must not depend on --jobs"
    assert [jobs.threads("full", n) for n in (1, 2, 16)] == [8, 4, 1]
    assert jobs.default_jobs("quick", 4) == 4
    assert jobs.default_jobs("full", 4) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert jobs.threads("full", 1) == 2, "a limit set by the user stands"


def test_ray_is_asked_for_by_name_when_it_is_missing(tree, monkeypatch):
    tree.add("demo")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    status, output = tree.press("run", "demo", "--on", "ray")
    assert status == 2
    assert "pip install ray" in output


def test_parts_left_by_a_killed_press_are_swept(tree):
    tree.add("demo")
    folder = chapters.executed_path("demo", "quick").parent
    part, others = folder / ".quick.1.part.ipynb", folder / ".quick-0a1b2c3d.2.part.ipynb"
    for path in (part, others):
        files.write(path, "half")
    tree.pretend("demo")
    assert not part.exists()
    assert others.exists(), "another press may be at it: it is a run with other parameters"
    assert freshness.state("demo", "quick") == "fresh"


def test_explain_says_how_clients_were_trained(tree):
    tree.add("demo")
    status, output = tree.press("run", "demo", "--explain")
    assert (status, "no federation was played" in output) == (0, True)
    record = records.read("demo", "quick")
    record["evidence"]["executors"] = {
        "batched: 5 clients share the overhead of a step": 12,
        "sequential: one client": 3,
    }
    records.write("demo", "quick", record)
    _, output = tree.press("run", "demo", "--explain")
    assert output.index("12 x  batched: 5 clients share the overhead of a step") < output.index("3 x  sequential")


def test_a_run_reads_no_file_that_nobody_hashes(tree, tmp_path):
    """Neither what lies beside the chapter nor the person's own start-up files can change a number."""
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("from fedlib import toy\ntoy.score = lambda *_: 7.0\n")
    tree.monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    tree.add("demo", work="import statistics\nassert statistics.mean([1, 2]) == 1.5")
    (chapters.folder("demo") / "statistics.py").write_text("mean = lambda _: 7.0\n")
    assert tree.press("run", "demo")[0] == 0
    assert records.read("demo", "quick")["evidence"]["metrics"]["score/ours"] == {"0": 0.5, "1": 0.51, "2": 0.52}
