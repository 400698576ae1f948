"""Planted faults: small, plausible slips in fedlib, each with the tests that must find it.

A fault replaces a piece of text that stands exactly once in its file. The tests run on a copy of fedlib in a temporary
folder, so nothing here ever touches the tree itself. To add one: write it into a list of ``test_*_faults.py``, then

    python tests/faults/planting.py ID [FILE ...]

plants it and says which tests of the files (by default those that the fault names) report it. A fault that nobody
reports is a hole in the tests: write the test first.

Planting all takes longer than the unit tests. With ``FAULTS=turn``, as ``make test`` has it, every third is planted;
which, turns with each change of fedlib or of its tests and with the version of Python, so that three versions side by
side plant all. Otherwise, as in ``make test FAULTS=all`` or ``pytest tests/faults``, all are planted.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest

REPOSITORY = Path(__file__).parents[2]
PARTS = {
    "server step": {"aggregate", "weighting"},
    "objective": {"objective", "contrast", "distance", "phases"},
    "state": {"setup", "personal", "context", "keep", "upload", "broadcast"},
}
"""What an algorithm may say of its own, by the part of a round to which it belongs."""


@dataclass(frozen=True)
class Fault:
    """One slip. ``right`` in ``file`` (below fedlib/) becomes ``wrong``; ``why`` says in a sentence what is wrong then.

    ``tests`` below tests/unit, each of which must fail with it, by an assertion of its own. ``chapter``: whose run at
    ``profile`` `check` must report. ``hook``: ``"FedOpt.aggregate"``, when it is the slip of an algorithm's own hook.
    """

    id: str
    file: str
    right: str
    wrong: str
    why: str
    tests: tuple[str, ...] = ()
    chapter: str = ""
    profile: str = "smoke"
    hook: str = ""


@contextmanager
def planted(fault: Fault, tree: Path) -> Iterator[None]:
    """The fault in a copy of the tree, for as long as the context lasts. AssertionError when it does not fit."""
    path = tree / "fedlib" / fault.file
    before = path.read_text(encoding="utf-8")
    number = before.count(fault.right)
    assert number == 1, (
        f"the fault {fault.id!r} no longer fits: its text stands {number} times in fedlib/{fault.file}, not once. "
        f"Its lines have moved; plant it anew:\n{fault.right}"
    )
    assert fault.wrong != fault.right, f"the fault {fault.id!r} changes nothing"
    path.write_text(before.replace(fault.right, fault.wrong), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


@functools.cache
def _turn() -> int:
    """Which third has its turn: by the code as it stands, and the version of Python."""
    files = sorted(p for folder in ("fedlib", "tests/unit") for p in (REPOSITORY / folder).rglob("*.py"))
    state = functools.reduce(lambda state, path: zlib.crc32(path.read_bytes(), state), files, 0)
    return (state + sys.version_info.minor) % 3


def planted_today(faults: Sequence[Fault]) -> Sequence[Fault]:
    """Those that are planted in this run: all, or every third. ValueError when FAULTS says neither."""
    if (wish := os.environ.get("FAULTS") or "all") not in {"all", "turn"}:
        raise ValueError(f"FAULTS must be 'all' or 'turn', not {wish!r}")
    return faults if wish == "all" else [f for f in faults if zlib.crc32(f.id.encode()) % 3 == _turn()]


class UnitTests:
    """Unit tests on a copy of fedlib in ``tree``; a context."""

    def __init__(self, tree: Path):
        self.tree = tree.resolve()
        # Compiled tests may come along, for they stay as they are; a module compiled without its fault must not.
        shutil.copytree(REPOSITORY / "fedlib", self.tree / "fedlib", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(REPOSITORY / "tests" / "unit", self.tree / "tests" / "unit")
        shutil.copytree(REPOSITORY / "data", self.tree / "data", ignore=shutil.ignore_patterns("cache"))
        shutil.copy(REPOSITORY / "pyproject.toml", self.tree)

    def __enter__(self) -> UnitTests:
        told = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST_", "PYTHONPATH"))}
        self._forks = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forks.py")), str(self.tree)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.tree,
            env=told | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._forks.communicate()

    def run(self, tests: Sequence[str], once: bool = False) -> dict[str, Any]:
        """How the tests end, given as ``test_losses.py::test_temperature_must_be_positive``: see ``forks.py``."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        asked = {"tests": [f"tests/unit/{t}" for t in tests], "once": once}
        self._forks.stdin.write(json.dumps(asked) + "\n")
        self._forks.stdin.flush()
        return json.loads(self._forks.stdout.readline())


class Planted:
    """The tests of a list of faults; a subclass is one unit of work for pytest-xdist."""

    faults: ClassVar[tuple[Fault, ...]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test a fault."""
        if "fault" in metafunc.fixturenames:
            metafunc.parametrize("fault", planted_today(metafunc.cls.faults), ids=lambda fault: fault.id)

    def test_without_a_fault_the_named_tests_pass(self, unit_tests: UnitTests) -> None:
        """Otherwise they would report anything."""
        named = dict.fromkeys(t for fault in planted_today(self.faults) for t in fault.tests)
        if not named:
            pytest.skip("none of these faults has its turn")
        seen = unit_tests.run(list(named))
        assert not seen["broken"], seen["broken"]
        assert not seen["failed"], seen["failed"]
        assert len(seen["passed"]) >= len(named)

    def test_it_is_reported(self, fault: Fault, unit_tests: UnitTests) -> None:
        """Each test that the fault names fails, and by what it asserts: not because nothing works any more."""
        with planted(fault, unit_tests.tree):
            seen = unit_tests.run(fault.tests, once=True)
        assert not seen["broken"], f"{fault.id}: a fault that cannot be imported is none: {seen['broken']}"
        for test in fault.tests:
            name = f"tests/unit/{test}"
            failed = [f for n, f in seen["failed"].items() if n == name or n.startswith(f"{name}[")]
            assert failed, f"nobody noticed: {fault.why} ({fault.id}); {test} passes"
            assert any(f["asserted"] for f in failed), f"{fault.id}: {test} fails by {failed[0]['error']}"


def catalogue() -> list[Fault]:
    """The faults of all lists."""
    lists = [
        kind.faults
        for path in sorted(Path(__file__).parent.glob("test_*_faults.py"))
        for kind in vars(import_module(path.stem)).values()
        if isinstance(kind, type) and getattr(kind, "faults", None)
    ]
    return [fault for faults in lists for fault in faults]


def _survey(ids: list[str], files: list[str]) -> None:
    """Print for each fault which tests of the files report it."""
    known = {fault.id: fault for fault in catalogue()}
    with tempfile.TemporaryDirectory() as folder, UnitTests(Path(folder)) as tests:
        for name in ids:
            fault = known[name]
            asked = files or list(dict.fromkeys(t.partition("::")[0] for t in fault.tests))
            with planted(fault, tests.tree):
                seen = tests.run(asked)
            print(f"{name}: {len(seen['failed'])} of {len(seen['failed']) + len(seen['passed'])} tests report it")
            for test, failed in seen["failed"].items():
                print("   ", test.removeprefix("tests/unit/"), "" if failed["asserted"] else f"(by {failed['error']})")
            for line in seen["broken"]:
                print("    broken:", line)


if __name__ == "__main__":
    sys.modules["planting"] = sys.modules["__main__"]  # the lists know this module by its name
    _survey([a for a in sys.argv[1:] if not a.startswith("test_")], [a for a in sys.argv[1:] if a.startswith("test_")])
