"""What a GPU machine without a network is given is all that a run needs there: no package more is ever imported."""

import ast
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from book import chapters, offline
from book.errors import PressError

ROOT = Path(__file__).parents[2]
OPTIONAL = {"torchvision": "only downloads need it", "ray": "only a cluster needs it"}

# Every process of the run finds this before anything else: to it, what is not on the list is not installed.
ABSENT = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    names = set(json.loads({names!r}))

    def find_spec(self, name, path=None, target=None):
        if path is None and name in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def owners():
    """Distributions of each module that can be imported here."""
    found = metadata.packages_distributions()
    return {name: {canonicalize_name(d) for d in distributions} for name, distributions in found.items()}


@pytest.fixture(scope="module")
def carried():
    """The list for a machine with PyTorch; taken before a test puts another tree in the place of this one."""
    return set(offline.packages())


@pytest.fixture
def machine(tree):
    """Run a chapter where nothing is installed but some distributions; returns exit status and output."""

    def run(distributions):
        absent = sorted(name for name, of in owners().items() if not of & {*distributions, "fedlib"})
        assert {"sphinx", "pytest", "ray"} <= set(absent)
        (tree.root / "sitecustomize.py").write_text(ABSENT.format(names=json.dumps(absent)))
        tree.add("demo")
        press = tree.start("run", "demo")
        output, _ = press.communicate(timeout=120)
        return press.returncode, output

    return run


def test_a_run_needs_no_package_that_is_not_on_the_list(carried, machine):
    status, output = machine(carried)
    assert status == 0, output


def test_a_package_that_is_not_carried_is_named(carried, machine):
    status, output = machine(carried - {"entrypoints"})
    assert status == 1
    assert "demo: ModuleNotFoundError: No module named 'entrypoints'" in output


def imported(tree):
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


def test_what_fedlib_and_the_chapters_import_is_on_the_list(carried):
    known = owners()
    texts = {str(path): path.read_text(encoding="utf-8") for path in (ROOT / "fedlib").rglob("*.py")}
    for path in ROOT.glob("papers/*/chapter.md"):
        cells = chapters.code_cells(chapters._read(path, 0, 0))
        texts |= {f"{path}, {cell['id']}": cell.source for cell in cells}
    for place, text in texts.items():
        names = {name.partition(".")[0] for name in imported(ast.parse(text))}
        for name in names - sys.stdlib_module_names - {"fedlib"} - set(OPTIONAL):
            assert known.get(name, set()) & {*carried, "torch"}, (
                f"{place} imports {name}, which a GPU machine is not given"
            )


def test_what_the_other_machine_has_is_not_carried_but_what_others_need_too_is():
    everything, rest = offline.packages(), offline.packages(there=["torch", "numpy", "scipy", "scikit-learn"])
    assert {"numpy", "scipy", "scikit-learn", "joblib"} <= set(everything) - set(rest)
    assert "torch" not in everything
    assert rest["typing-extensions"] == everything["typing-extensions"], "pydantic may want a newer one than torch"
    assert {"papermill", "entrypoints", "click", "ipykernel", "pydantic-core", "psutil", "opacus"} <= set(rest)
    assert not {"sphinx", "pytest", "ray", "playwright"} & set(rest)


def test_packages_that_only_another_python_needs_are_carried_there():
    assert {"aiohttp", "yarl"} <= set(offline.packages("3.12"))
    assert not {"aiohttp", "yarl"} & set(offline.packages("3.13"))


def test_every_pydantic_goes_with_its_own_core():
    wanted = [text for text in metadata.requires("pydantic") if text.startswith("pydantic-core==")]
    assert wanted == [f"pydantic-core=={offline.packages()['pydantic-core']}"]


def test_the_command_prints_a_file_for_pip(capsys):
    offline.main(["--python", "3.12", "--has", "torch", "numpy"])
    lines = capsys.readouterr().out.splitlines()
    assert "papermill==2.7.0" in lines
    assert not any(line.startswith(("torch==", "numpy==")) for line in lines)


@pytest.mark.parametrize(
    ("pins", "there", "message"),
    [
        (None, ["rumpelstilzchen"], "--has rumpelstilzchen: no run needs it"),
        ("numpy==2.0\n", ["torch"], "requirements.txt does not pin .*, which a run needs under Python"),
        ("nonsense here\n", [], "requirements.txt: "),
    ],
)
def test_what_cannot_be_listed_is_said(tree, pins, there, message):
    for name in ("pyproject.toml", "requirements.txt"):
        (tree.root / name).write_text((ROOT / name).read_text())
    if pins:
        (tree.root / "requirements.txt").write_text(pins)
    with pytest.raises(PressError, match=message):
        offline.packages(there=there)
