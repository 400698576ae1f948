"""A chapter's process or kernel that dies: the press says why, keeps what was said, and goes on with the others."""

import os
import signal

import pytest

from book import chapters, execute, jobs, records

# A child finds this module before all others, because its tree comes first on PYTHONPATH.
HOOK = """
import os, sys
if "book.execute" in " ".join(sys.orig_argv) and "dying" in " ".join(sys.orig_argv):
    {what}
"""
MISSING = """
    import importlib.abc
    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "papermill":
                raise ModuleNotFoundError("No module named 'papermill'", name=name)
    sys.meta_path.insert(0, Missing())
"""
ABORTS = """
    import faulthandler
    faulthandler.enable()
    os.abort()
"""


@pytest.fixture
def dying(tree):
    """Run the chapter `dying`, whose process does something before all else. Returns what was shown and kept of it."""

    def run(what):
        tree.add("dying")
        (tree.root / "sitecustomize.py").write_text(HOOK.format(what=what.strip()))
        status, output = tree.press("run")
        assert status == 1
        assert records.read("dying", "quick") is None
        kept = chapters.executed_path("dying", "quick").with_suffix(".traceback.txt")
        assert str(kept) in output
        (line,) = [line for line in output.splitlines() if line.startswith("dying: ")]
        return line.removeprefix("dying: "), kept.read_text()

    return run


def test_a_missing_package_is_named_and_stops_no_other_chapter(tree, dying):
    tree.add("fine")
    line, kept = dying(MISSING)
    assert line == "ModuleNotFoundError: No module named 'papermill'"
    assert records.read("fine", "quick")["status"] == "ok"
    assert "Traceback (most recent call last)" in kept
    assert "book/execute.py" in kept
    assert "<no Python frame>" not in kept, "the interpreter ended without a fatal error of its own"


def test_an_old_record_is_not_taken_for_the_result_of_a_process_that_died(tree):
    """Python's own exit status after an exception is 1."""
    tree.add("dying")
    tree.pretend("dying")
    (job,) = jobs.plan([], "quick", [])
    job.tail.extend(["Traceback (most recent call last):", '  File "x", line 1', "ImportError: cannot import y"])
    job.finish(1)
    assert (job.status, job.message) == ("error", "ImportError: cannot import y (its process ended with status 1)")


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (ABORTS, "Fatal Python error: Aborted (its process was ended by SIGABRT)"),
        (
            "os.kill(os.getpid(), 9)",
            "its process was ended by SIGKILL: killed by the system, perhaps for want of memory",
        ),
        ("os.kill(os.getpid(), 15)", "its process was ended by SIGTERM, without a word"),
        ("os._exit(5)", "its process ended with status 5, without a word"),
        ("os._exit(0)", "its process left no record that can be read: "),
        ("print('so long'); sys.stdout.flush(); os._exit(6)", "so long (its process ended with status 6)"),
    ],
    ids=["abort", "sigkill", "sigterm", "status", "no record", "last line"],
)
def test_a_process_that_dies_is_said_to(dying, what, line):
    assert dying(what)[0].startswith(line)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ""),
        (["runs", "  "], "runs"),
        (["Traceback (most recent call last):", "  File", "    x", "KeyError: 'a'", "", "During handling", "", ""]
         + ["Traceback (most recent call last):", "  File", "ValueError: b", "more of it"], "ValueError: b"),
        (["KeyError: 1", "Fatal Python error: Aborted", "", "Current thread (most recent call first):"]
         + ["  <no Python frame>"], "Fatal Python error: Aborted"),
        (["Traceback (most recent call last):", "  cut off"], "  cut off"),
    ],
)  # fmt: skip
def test_last_words_are_the_exception_not_the_last_line(lines, words):
    assert execute.last_words(lines) == words


def kernel(tree, code):
    """Make every kernel of the tree run `code` first."""
    text = f'import os, sys\nif "ipykernel_launcher" in " ".join(sys.orig_argv):\n    {code}\n'
    (tree.root / "sitecustomize.py").write_text(text)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('no ipykernel here', file=sys.stderr); os._exit(1)", "no ipykernel here"),
        ("sys.modules['zmq'] = None", "ModuleNotFoundError: No module named 'zmq"),
        ("os.kill(os.getpid(), 9)", "it may have been killed for want of memory"),
    ],
    ids=["says why", "lacks a package", "killed"],
)
def test_a_kernel_that_dies_at_its_start_leaves_its_last_words(tree, code, words):
    tree.monkeypatch.setattr(execute, "STARTS", 1)
    kernel(tree, code)
    tree.add("demo")
    record = tree.run("demo")
    assert record["status"] == "failed"
    assert words in record["error"]["message"], record["error"]
    assert "\n" not in record["error"]["message"]
    if "killed" not in words:
        assert "Standard error of the kernel" in record["error"]["traceback"]


def test_a_warning_of_every_kernel_is_not_the_reason_why_one_died(tree):
    tree.add("demo", work="import os; os.write(2, b'[IPKernelApp] WARNING | as always\\n'); os.kill(os.getpid(), 9)")
    error = tree.run("demo")["error"]
    assert error["message"].endswith("it may have been killed for want of memory")


def test_what_a_kernel_says_on_standard_error_reaches_the_log_as_well(tree):
    tree.add("demo", work="import os; os.write(2, b'a warning of C\\n')")
    assert tree.run("demo")["status"] == "ok"
    assert "a warning of C" in tree.capfd.readouterr().err


def test_without_a_kernel_the_package_is_named(tree):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(self, name):
        raise NoSuchKernel(name)

    tree.monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    tree.add("demo")
    assert "install it" in tree.run("demo")["error"]["message"]


def test_entries_of_the_search_path_hold_in_every_folder(tree, monkeypatch):
    """A kernel starts in its chapter's folder."""
    monkeypatch.chdir(tree.root)
    (tree.root / "offline").mkdir()
    (tree.root / "offline" / "carried.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["offline", ".", "", str(tree.root)]))
    tree.add("demo", work="import carried")
    status, output = tree.press("run", "demo")
    assert status == 0, output
    given = jobs.child_environment(1)["PYTHONPATH"].split(os.pathsep)
    assert given[0] == str(tree.root)
    assert str(tree.root / "offline") in given
    assert len(given) == len(set(given)) == 3


def test_signals_are_named():
    assert jobs.signal_name(signal.SIGSEGV) == "SIGSEGV"
    assert jobs.signal_name(250) == "signal 250"
