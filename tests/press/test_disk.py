"""A full or read-only disk: one line that names path and cause, and what was there before stays."""

import errno
import os

import pytest

from book import chapters, files, locking, reference
from book.errors import PressError

CAUSES = {errno.ENOSPC: "No space left on device", errno.EROFS: "Read-only file system"}


@pytest.fixture(params=CAUSES)
def broken_disk(request, monkeypatch):
    """From the call on, no file can be renamed into place."""

    def start():
        def refuse(source, target):
            raise OSError(request.param, os.strerror(request.param), str(target))

        monkeypatch.setattr(files.os, "replace", refuse)
        return CAUSES[request.param]

    return start


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path, broken_disk):
    path = tmp_path / "file"
    files.write(path, "old")
    cause = broken_disk()
    with pytest.raises(PressError, match=f"cannot write {path}: {cause}; "):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_accept_on_a_broken_disk_is_one_line(tree, broken_disk):
    tree.add("demo")
    tree.pretend("demo")
    cause = broken_disk()
    status, output = tree.press("accept", "demo")
    assert status == 2
    assert output.count("\n") == 1
    assert output.startswith(f"error: cannot write {chapters.evidence_path('demo', 'quick')}: {cause}; ")
    assert reference.committed("demo", "quick") is None


def test_a_run_on_a_broken_disk_keeps_the_last_one(tree, broken_disk, state):
    tree.add("demo")
    tree.pretend("demo")
    before = chapters.executed_path("demo", "quick").read_bytes()
    cause = broken_disk()
    with pytest.raises(PressError, match=cause):
        tree.pretend("demo", shift=1.0)
    assert chapters.executed_path("demo", "quick").read_bytes() == before
    assert state("demo") == "fresh"


def test_papermill_failing_to_write_is_said_in_the_same_way(tree, monkeypatch):
    tree.add("demo")
    import papermill

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(papermill, "execute_notebook", full)
    with pytest.raises(PressError, match=r"cannot write .*quick\..*: No space left on device"):
        tree.run("demo")


def test_a_folder_that_cannot_be_made_is_named(tree):
    tree.add("demo")
    (tree.root / "_build").write_text("a file where the folder should be")
    status, output = tree.press("run", "demo")
    assert status == 2
    assert output.startswith(f"error: cannot make the folder {tree.root}/_build/executed/demo: ")
    assert "Traceback" not in output


def test_a_lock_that_cannot_be_taken_is_named(tree, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(locking.FileLock, "acquire", refuse)
    with (
        pytest.raises(PressError, match=r"cannot lock .*demo\.lock: Read-only file system"),
        locking.hold("demo", "run"),
    ):
        pass
