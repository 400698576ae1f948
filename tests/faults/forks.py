"""A process that has torch and pytest in memory, but not fedlib, and runs unit tests in a fork of itself for each job.

``python forks.py TREE`` reads lines of JSON, ``{"tests": [ids], "once": true or false}``, and answers each with one:
the exit status of pytest, and for each test that failed, where and by which exception. With ``once`` a test that is
named without its parameters ends at the first with which it fails by what it asserts. Every fork imports the fedlib of
TREE afresh, as it lies there at that moment: importing torch and the like, which costs more than most tests, is paid
for once.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

PRELOADED = ("numpy.random", "safetensors.torch", "scipy.stats", "sklearn.datasets", "sympy", "yaml")
LIMIT = 120  # seconds; a fault may make a loop that does not end


class Seen:
    """A plugin that notes how each test ended, and what could not be collected."""

    def __init__(self, once: Collection[str]) -> None:
        self.once = once
        self.asserted: set[str] = set()
        self.passed: list[str] = []
        self.failed: dict[str, dict[str, Any]] = {}
        self.broken: list[str] = []

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """One of ``once`` that has failed by what it asserts need not do so again with other parameters."""
        test = item.nodeid.partition("[")[0]
        return True if test in self.once and test in self.asserted else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if report.failed and call.excinfo is not None:
            error = call.excinfo.value
            asserted = call.when == "call" and isinstance(error, AssertionError | pytest.fail.Exception)
            if asserted:
                self.asserted.add(item.nodeid.partition("[")[0])
            text = next(iter(str(error).splitlines()), "")
            self.failed[item.nodeid] = {"asserted": asserted, "error": f"{type(error).__name__}: {text}"[:200]}
        elif call.when == "call" and report.passed:
            self.passed.append(item.nodeid)
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.append(str(report.longrepr).strip().splitlines()[-1])


def run(tree: Path, tests: list[str], once: bool) -> dict[str, Any]:
    """Run the tests in this process."""
    import fedlib

    home = Path(fedlib.__file__).parents[1]
    assert home == tree, f"the fedlib of {home} is imported instead of that of {tree}"
    os.chdir(tree)
    seen = Seen(tests if once else ())
    quiet = ["-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir", str(tree)]
    status = pytest.main([*quiet, *tests], plugins=[seen])
    return {"status": int(status), "passed": seen.passed, "failed": seen.failed, "broken": seen.broken}


def forked(tree: Path, tests: list[str], once: bool) -> dict[str, Any]:
    """Run them in a fork; what a test prints is lost."""
    read, write = os.pipe()
    if not (child := os.fork()):
        signal.alarm(LIMIT)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        try:
            answer = run(tree, tests, once)
        except BaseException as error:
            answer = {"status": -1, "passed": [], "failed": {}, "broken": [f"{type(error).__name__}: {error}"]}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, ended = os.waitpid(child, 0)
    return json.loads(text) if text else {
        "status": -1, "passed": [], "failed": {}, "broken": [f"the process ended with status {ended}"],
    }  # fmt: skip


def main() -> None:
    """Answer until the input ends."""
    tree = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    for name in PRELOADED:  # what tests or torch import when they first need it
        import_module(name)
    # The same examples in every fork, and no search for the smallest: that one fails is enough.
    hypothesis.settings.register_profile(
        "planted",
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )
    hypothesis.settings.load_profile("planted")
    gc.freeze()  # pytest collects garbage at its end, and would walk through all of torch
    for line in sys.stdin:
        print(json.dumps(forked(tree, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
