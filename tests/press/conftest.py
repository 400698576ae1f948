"""Throw-away trees: a miniature chapter that needs neither torch nor data, and the press working on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from book import chapters, cli, execute, freshness, parameters, records

REPOSITORY = Path(__file__).parents[2]

CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A miniature

```{{code-cell}} ipython3
:tags: [parameters]

profile = "quick"
seed = 0
seeds: int | None = None
rate = 0.5
label = "plain"
```

The text between the cells.

```{{code-cell}} ipython3
from fedlib import evidence, toy

n_seeds = seeds or (1 if profile == "smoke" else 3)
run = evidence.Run(profile, seeds=range(seed, seed + n_seeds))
{work}
for s in run.seeds:
    run.record("score/ours", s, toy.score(s, rate))
    run.record("score/base", s, toy.score(s, 0.0))
```

```{{code-cell}} ipython3
:tags: [nbval-check-output]

print(run.table())
```

```{{code-cell}} ipython3
run.publish()
```
"""

TOY = '''"""What the miniature chapter computes with."""


def score(seed: int, rate: float) -> float:
    """A number that depends on the seed and the rate."""
    return 0.01 * seed + rate  # the larger the rate, the better
'''


def card(slug: str, /, **changes: Any) -> dict[str, Any]:
    """A card that is right, but for the changes."""
    claim = {
        "id": "ours-wins",
        "statement": "Ours is better by 0.3.",
        "source": "Table 1",
        "paper": "+0.4",
        "metric": "score/ours",
        "against": "score/base",
        "direction": "above",
        "least": 0.3,
        "unit": "score",
        "profiles": ["quick"],
    }
    needs = {"seconds": 1, "memory_mb": 200}
    return {
        "slug": slug,
        "entry": None,
        "title": slug.capitalize(),
        "summary": "A miniature.",
        "noted": [],
        "part": "Foundations",
        "citation": slug,
        "authors": "Nobody",
        "venue": "Nowhere",
        "profiles": {"smoke": needs, "quick": needs, "real": needs},
        "claims": [claim],
    } | changes


class Tree:
    """A small book in a temporary folder, and ways to change it and to run the press on it."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self.root, self.capfd, self.monkeypatch = root, capfd, monkeypatch
        package = root / "fedlib"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copy(REPOSITORY / "fedlib" / "evidence.py", package)
        (package / "toy.py").write_text(TOY)
        (root / "papers").mkdir()
        (root / "requirements.txt").write_text("numpy==2.0\n")

    def add(self, slug: str, /, work: str = "", **changes: Any) -> Path:
        """A chapter whose second cell also does `work`; returns the path of its source."""
        path = chapters.chapter_path(slug)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CHAPTER.format(work=work))
        chapters.card_path(slug).write_text(yaml.safe_dump(card(slug, **changes)))
        return path

    def edit(self, path: Path | str, old: str, new: str) -> None:
        """Replace a text that must be there."""
        path = self.root / path
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def run(self, slug: str, profile: str = "quick", **options: Any) -> records.Record:
        """Execute a chapter in this process (the kernel is its own)."""
        return execute.run_chapter(slug, profile, options.pop("overrides", {}), **options)

    def pretend(self, slug: str, profile: str = "quick", shift: float = 0.0, **evidence: Any) -> records.Record:
        """Leave what a run would have left, without a kernel: enough where only the files matter."""
        values = {name: {str(s): 0.01 * s + base for s in range(3)} for name, base in _BASES.items()}
        values["score/ours"] = {s: v + shift for s, v in values["score/ours"].items()}
        values["score/base"] |= {"1": 0.02, "2": 0.01}  # the differences have a spread
        published = {
            "profile": profile,
            "seeds": [0, 1, 2],
            "metrics": values,
            "modules": ["fedlib", "fedlib.evidence", "fedlib.toy"],
            "data": {},
            "device": "cpu",
            "processor": "cpu of this test",
            "executors": {},
            "versions": {"python": "3"},
            "peak_memory_mb": 1.0,
            "glue": {},
        } | evidence
        notebook = chapters.read(slug)
        self.monkeypatch.setattr(execute, "_execute", lambda *_: (_with(notebook, published), None))
        return execute.run_chapter(slug, profile, {}, force=True)

    def press(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of a command, called in this process."""
        self.capfd.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["fedbook", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        seen = self.capfd.readouterr()
        return status, seen.out + seen.err

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The press as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "book", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "FEDBOOK_ROOT": str(self.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


_BASES = {"score/ours": 0.5, "score/base": 0.0}


def _with(notebook: Any, published: dict[str, Any]) -> Any:
    """The notebook as if its last two cells had been executed."""
    notebook.cells[-1].outputs = [nbformat.v4.new_output("display_data", data={records.EVIDENCE: published})]
    notebook.cells[-2].outputs = [nbformat.v4.new_output("stream", text="score/base  0.000  n=1\n")]
    return notebook


@pytest.fixture
def tree(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tree:
    """An empty book on which the press works for the length of a test."""
    for name in ("FEDLIB_DATA", "FEDLIB_CACHE", "FEDLIB_RESUME", "FEDLIB_PROGRESS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    root = (tmp_path / "tree").resolve()
    monkeypatch.setattr(chapters, "ROOT", root)
    monkeypatch.setenv("FEDBOOK_ROOT", str(root))
    monkeypatch.setenv("PYTHONPATH", str(root))
    return Tree(root, capfd, monkeypatch)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], Any], str], None]:
    """Wait for a condition of another process, and fail with its name when it does not come."""

    def wait(condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, f"waited in vain until {what}"
            time.sleep(0.02)

    return wait


@pytest.fixture
def state() -> Callable[..., str]:
    """State of a chapter's quick run."""

    def of(slug: str, profile: str = "quick", overrides: dict[str, Any] | None = None) -> str:
        return freshness.state(slug, parameters.stem(profile, overrides or {}))

    return of
