"""What the repository promises about itself: commands exist, versions are pinned, no file names a machine."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from sys import stdlib_module_names

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "book/pages/reproduce.md",
    "book/pages/contributing.md",
    "book/pages/index.md",
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BINARY = {".png", ".ico", ".woff", ".woff2", ".npz", ".gz", ".safetensors"}
# In pieces, so that this file does not find itself.
MACHINE_PATHS = re.compile(
    "|".join(
        [
            r"/ro" + r"ot/",
            r"/ho" + r"me/[a-z]",
            r"/Us" + r"ers/[A-Za-z]",
            r"(?<![\w.$}-])/wo" + r"rk/",
            r"C:\\\\Us" + r"ers",
        ]
    )
)


@cache
def tracked() -> tuple[Path, ...]:
    """Files that git has; in a tree without a commit, those that it would take."""
    for which in ("--cached", "--others"):
        call = ["git", "-C", str(ROOT), "ls-files", which, "--exclude-standard", "-z"]
        done = subprocess.run(call, capture_output=True, check=False)
        if done.returncode:
            pytest.skip("not a git checkout")
        if found := [ROOT / name for name in done.stdout.decode().split("\0") if name]:
            return tuple(path for path in found if path.is_file())
    raise AssertionError("git lists no file at all")


def code_of(document: str) -> str:
    """What stands in a document as code: fenced blocks and inline spans."""
    text = (ROOT / document).read_text(encoding="utf-8")
    fences = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*fences, *inline])


def requirements() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line]


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[=<>!~;]", requirement)[0]).lower()


@cache
def targets() -> frozenset[str]:
    rules = re.findall(r"^([a-z][a-z -]*):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    return frozenset(name for rule in rules for name in rule.split())


@pytest.mark.parametrize("folder", ["book", "papers", "fedlib", "data", "tests"])
def test_folder_is_where_the_readme_says(folder):
    assert (ROOT / folder).is_dir()


@pytest.mark.parametrize(
    "name",
    ["_config.yml", "_toc.yml", "requirements.txt", "pyproject.toml", "README.md", "CONTRIBUTING.md", "Makefile"]
    + ["CITATION.cff", "LICENSE", "LICENSE-TEXT", ".ci/run"],
)
def test_file_is_where_the_readme_says(name):
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_named_in_documents_exist(document):
    named = re.findall(r"\bmake ((?:[A-Z]+=\S+ )*)([a-z][a-z-]*(?: [a-z][a-z-]*)*)", code_of(document))
    asked = {word for _, words in named for word in words.split()}
    assert asked <= targets(), f"{document} names what the Makefile does not have: {sorted(asked - targets())}"


def test_every_public_target_is_in_the_help():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in targets() - {"help", "setup"}:
        assert re.search(rf"\bmake {target}\b", done.stdout), f"make help does not mention {target}"


@pytest.mark.parametrize("document", [*DOCUMENTS, "Makefile", ".ci/run", ".github/workflows/full.yml"])
def test_press_commands_named_in_documents_exist(document):
    from typer.main import get_command

    from book.cli import app

    text = code_of(document) if document.endswith(".md") else (ROOT / document).read_text()
    asked = set(re.findall(r"(?:-m book|fedbook) ([a-z]+)", text))
    known = set(get_command(app).commands)
    assert asked <= known, f"{document} names what the press does not have: {sorted(asked - known)}"


def test_every_requirement_is_pinned_once_and_from_no_other_place():
    lines = requirements()
    unpinned = [
        line
        for line in lines
        if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+( *; *[a-z_]+ == \"[a-z0-9.]+\")?", line)
    ]
    assert not unpinned, f"requirements.txt: not of the form name==version: {unpinned}"
    names = [name_of(line) for line in lines]
    assert len(names) == len(set(names))


def test_the_lock_covers_the_projects_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {name_of(r) for r in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]}
    missing = wanted - {project["name"]} - {name_of(line) for line in requirements()}
    assert not missing, f"pyproject.toml asks for what requirements.txt does not pin: {sorted(missing)}"


def imports_of(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, inside functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in plain + named}


@pytest.mark.parametrize("package", ["fedlib", "book"])
def test_what_the_packages_import_is_in_the_lock(package):
    """A fresh machine has no other packages."""
    owners, pinned = packages_distributions(), {name_of(line) for line in requirements()}
    for path in sorted((ROOT / package).rglob("*.py")):
        for module in imports_of(path) - stdlib_module_names - {"fedlib", "book", "benchmarks"}:
            found = {name_of(owner) for owner in owners.get(module, [module])}
            assert found & pinned, f"{path.relative_to(ROOT)} imports {module}, which requirements.txt does not pin"


def test_there_are_workflows_for_ci_the_full_run_and_the_website():
    assert {path.stem for path in WORKFLOWS} == {"ci", "full", "pages"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_pins_actions_and_asks_for_little(path):
    flow = yaml.safe_load(path.read_text())
    assert flow["permissions"] == {"contents": "read"}, "rights beyond reading belong to the job that needs them"
    assert "concurrency" in flow
    for job in flow["jobs"].values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step.get("uses", "a/b@v1.2.3")), step["uses"]


def test_no_file_names_one_persons_machine():
    for path in tracked():
        if path.suffix in BINARY or "vendor" in path.parts:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not MACHINE_PATHS.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"


def test_no_notebook_is_committed_but_the_goldens():
    stray = [p for p in tracked() if p.suffix == ".ipynb" and p.parent != ROOT / "tests" / "golden"]
    assert not stray, f"chapters are chapter.md; found {stray}"


def test_fedlib_never_imports_the_book():
    offending = [p.relative_to(ROOT) for p in (ROOT / "fedlib").rglob("*.py") if "book" in imports_of(p)]
    assert not offending
