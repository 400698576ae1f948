"""Chapters that run on a copy of fedlib with a planted fault, and what `check` then says."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import pytest
from planting import REPOSITORY, Fault, planted, planted_today

from book import checks, comparing, drift, execute, reference
from fedlib import devices


class Chapters:
    """A copy of the book, as far as runs and `check` need it, in the folder ``tree``."""

    def __init__(self, tree: Path):
        self.tree = tree.resolve()
        for folder in ("fedlib", "data"):
            left = shutil.ignore_patterns("__pycache__", "cache")
            shutil.copytree(REPOSITORY / folder, self.tree / folder, ignore=left)
        for name in ("requirements.txt", "book/entries.yml", "book/references.bib"):
            (self.tree / name).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / name, self.tree / name)

    def planted(self, fault: Fault) -> AbstractContextManager[None]:
        """The fault in this copy of fedlib."""
        return planted(fault, self.tree)

    def problems(self, slug: str, profile: str = "smoke") -> list[str]:
        """Metrics and verdicts of the chapter's run, made anew, that `check` reports.

        AssertionError when the chapter does not run: a fault that stops it is none.
        """
        self._run(slug, profile)
        found = checks.check([slug], profile).problems
        return [problem for problem in found if problem.startswith(f"{slug}, {profile}, ")]

    def moved_elsewhere(self, slug: str, profile: str) -> list[comparing.Moved]:
        """Metrics of the chapter's last run that `check` would report on another processor, too."""
        was, fresh = reference.committed(slug, profile), reference.run_evidence(slug, profile)
        measured = drift.committed(slug, profile)
        assert was
        assert fresh
        assert measured, f"how far numbers of {slug} move elsewhere was not measured: python -m book drift {slug}"
        return comparing.compare(was, fresh, comparing.tolerances(was, measured["metrics"]))

    def add(self, slug: str, profile: str = "smoke") -> None:
        """The chapter with its evidence; to be called before a fault is planted.

        Without evidence at this profile, what the right code gives here is taken for it. Skips where the evidence is
        from another kind of processor: only on the same kind are numbers compared to the last digit.
        """
        home = self.tree / "papers" / slug
        if home.exists():
            return
        shutil.copytree(REPOSITORY / "papers" / slug, home)
        golden = Path("tests", "golden", f"{slug}.ipynb")
        (self.tree / golden).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / golden, self.tree / golden)
        was = reference.committed(slug, profile)
        if was is not None and was["provenance"]["processor"] != devices.processor():
            shutil.rmtree(home)  # so that the next fault under this chapter comes here, too
            pytest.skip(f"{slug}'s {profile} evidence was measured on another kind of processor")
        if was is None:
            self._run(slug, profile)
            reference.accept(slug, profile)

    def _run(self, slug: str, profile: str) -> None:
        record = execute.run_chapter(slug, profile, {}, force=True)
        assert record["status"] == "ok", f"{slug} does not run: {record['error']}"


class PlantedUnderChapters:
    """The tests of a list of such faults; a subclass is one unit of work for pytest-xdist."""

    faults: ClassVar[tuple[Fault, ...]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test a fault."""
        if "fault" in metafunc.fixturenames:
            metafunc.parametrize("fault", planted_today(metafunc.cls.faults), ids=lambda fault: fault.id)

    def test_check_reports_it(self, fault: Fault, copied: Chapters) -> None:
        """`check` names the chapter, and metrics or verdicts that moved."""
        copied.add(fault.chapter, fault.profile)
        with copied.planted(fault):
            problems = copied.problems(fault.chapter, fault.profile)
            assert problems, f"check says nothing: {fault.why} ({fault.id})"
            if fault.profile == "quick":
                elsewhere = copied.moved_elsewhere(fault.chapter, fault.profile)
                assert elsewhere, f"check says nothing on another processor: {fault.why} ({fault.id})"
