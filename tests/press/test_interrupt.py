"""Ctrl-C ends every command with one line and no traceback, wherever it falls."""

import importlib
import signal

import pytest

from book import chapters, website

# Where each command is when it is interrupted.
PLACES = {
    "list": "book.cards.load",
    "show": "book.cards.load",
    "check": "book.checks.check",
    "accept": "book.reference.accept",
    "run": "book.jobs.plan",
    "build": "book.website.inputs_digest",
    "zip": "book.archive.write",
    "pdf": "book.paper.write",
    "new": "book.scaffold.create",
    "clean": "book.clean.clean",
    "serve": "book.website.serve",
}


@pytest.mark.parametrize("command", PLACES)
def test_ctrl_c_ends_a_command_without_a_traceback(tree, monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    tree.add("demo")
    tree.pretend("demo")
    module, name = PLACES[command].rsplit(".", 1)
    monkeypatch.setattr(importlib.import_module(module), name, interrupted)
    status, output = tree.press(command, *(["demo"] if command in ("show", "accept", "new") else []))
    assert status == 130
    assert len(output.splitlines()) <= 2
    assert "Traceback" not in output


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_a_build_that_is_stopped_leaves_no_sphinx_behind(tree, until, sent):
    """Sphinx is a process of its own; a stand-in for it writes down which, and waits."""
    for name, text in {"_config.yml": "title: x\n", "_toc.yml": "root: index\nparts: []\n", "index.md": ""}.items():
        (tree.root / name).write_text(text)
    package = tree.root / "jupyter_book" / "cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    told = tree.root / "sphinx"
    (package / "main.py").write_text(
        f"import os, pathlib, time\ndef main():\n    pathlib.Path({str(told)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    press = tree.start("build", "--draft")
    until(lambda: told.exists() and told.read_text(), "Sphinx is at work")
    press.send_signal(sent)
    output, _ = press.communicate(timeout=60)
    assert press.returncode == 130
    assert "Traceback" not in output
    import psutil

    until(lambda: not psutil.pid_exists(int(told.read_text())), "Sphinx has ended")
    assert not website.index_page().exists()
    assert not (chapters.build_folder() / "site.json").exists()
