"""One copy of fedlib for all planted faults that a worker takes, and one of the book for those under chapters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chapters_of_faults import Chapters
from planting import UnitTests

from book import chapters


@pytest.fixture(scope="session")
def unit_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnitTests]:
    """Runs unit tests on a copy of fedlib, in which faults may be planted."""
    with UnitTests(tmp_path_factory.mktemp("planted")) as tests:
        yield tests


@pytest.fixture(scope="session")
def _copy(tmp_path_factory: pytest.TempPathFactory) -> Chapters:
    return Chapters(tmp_path_factory.mktemp("book"))


@pytest.fixture
def copied(_copy: Chapters, monkeypatch: pytest.MonkeyPatch) -> Chapters:
    """A copy of the book on which the press works for the length of a test; kernels import its fedlib."""
    for name in ("FEDLIB_DATA", "FEDLIB_CACHE", "FEDLIB_RESUME", "FEDLIB_PROGRESS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(chapters, "ROOT", _copy.tree)
    monkeypatch.setenv("FEDBOOK_ROOT", str(_copy.tree))
    monkeypatch.setenv("PYTHONPATH", str(_copy.tree))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # a module compiled without its fault must not be kept
    return _copy
