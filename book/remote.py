"""What a machine of a cluster does for one task of `run --on ray`: a chapter's process, and its files as the answer.

This module travels to the machine by value and knows nothing but the standard library: there may be no tree there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

SHOWN = 200  # last lines of output that are kept


@dataclass
class Errand:
    """One task: the order for `book.execute`, and what that needs where the tree is not at hand.

    ``root`` is the tree's path, ``press`` that of the folder with the package `book`, and ``sign`` a file in the tree:
    a machine that sees it there shares the tree. ``defaults`` are variables of the environment that the machine may
    set otherwise, ``settings`` those that it must not; of its own it forgets ``unwanted``. The answer holds the files
    of ``results``, paths in the tree, as far as there are any.
    """

    order: str
    root: str
    press: str
    sign: str
    results: list[str]
    unwanted: tuple[str, ...] = ()
    defaults: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


@dataclass
class Answer:
    """What became of an errand: exit status, last lines of output, and files by their paths in the tree."""

    status: int
    output: list[str]
    files: dict[str, bytes]


def run(errand: Errand, *contents: dict[str, bytes]) -> Answer:
    """Run the errand in the tree, where it is shared, or else in a copy made of ``contents`` (files by path)."""
    if Path(errand.root, errand.sign).exists():
        return _run(errand, Path(errand.root), errand.press)
    copy = Path(tempfile.mkdtemp(prefix="fedbook-"))
    try:
        for files in contents:
            for name, content in files.items():
                path = copy / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return _run(errand, copy, str(copy))
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _run(errand: Errand, root: Path, press: str) -> Answer:
    # Ray's variables describe this worker, not the process that it starts.
    own = {k: v for k, v in os.environ.items() if k not in errand.unwanted and not k.startswith("RAY_")}
    given = [str(Path(p).absolute()) for p in own.get("PYTHONPATH", "").split(os.pathsep) if p]
    search = dict.fromkeys([str(root), press, *given])
    places = {"PYTHONPATH": os.pathsep.join(search), "FEDBOOK_ROOT": str(root)}
    # The process leaves, and takes its kernel along, when its standard input closes: that is when this worker ends,
    # because Ray was told to stop it or because its machine is lost to the cluster.
    with subprocess.Popen(
        [sys.executable, "-m", "book.execute", errand.order],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        cwd=root,
        env=errand.defaults | own | errand.settings | places,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read().splitlines()[-SHOWN:]
        status = process.wait()
    found = {name: (root / name).read_bytes() for name in errand.results if (root / name).exists()}
    return Answer(status, output, found)
