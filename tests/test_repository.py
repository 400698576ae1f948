"""What the repository promises about itself: commands exist, versions are pinned, no file names a machine."""

import ast
import os
import re
import subprocess
import tomllib
from collections import Counter
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


def test_python_keeps_what_it_compiles_whatever_the_environment_says():
    """Hundreds of processes import torch, and each would compile it anew."""
    told = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    call = ["make", "-s", "--eval=probe: ; @echo said: $$PYTHONDONTWRITEBYTECODE", "probe"]
    done = subprocess.run(call, cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "said:"


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


def flow_of(path: Path) -> dict:
    flow = yaml.safe_load(path.read_text())
    return {**flow, "on": flow[True]}  # YAML 1.1 reads the key `on` as a truth


def steps_of(flow: dict) -> list[dict]:
    return [step for job in flow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_asks_for_little(path):
    flow = flow_of(path)
    assert flow["permissions"] == {"contents": "read"}, "rights beyond reading belong to the job that needs them"
    assert "concurrency" in flow
    assert all("timeout-minutes" in job for job in flow["jobs"].values())
    # Both would run what a stranger sends with the rights of this repository.
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(flow["on"])
    for name, job in flow["jobs"].items():
        pushes = "contents" in job.get("permissions", {})
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                kept = step.get("with", {}).get("persist-credentials", True)
                assert kept is pushes, f"{name}: only a job that pushes keeps the token beside the code"
            assert not (pushes and "python" in step.get("run", "")), f"{name}: no code of the project has that token"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_pins_every_action_by_commit(path):
    """A tag can be moved to other code; a commit cannot. The version behind it is for people, and for updates."""
    lines = [line.strip().removeprefix("- ") for line in path.read_text().splitlines()]
    uses = [line for line in lines if line.startswith("uses:")]
    assert len(uses) == sum("uses" in step for step in steps_of(flow_of(path)))
    for line in uses:
        assert re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    one_each = {line.split("@")[0]: line for line in uses}
    assert sorted(set(uses)) == sorted(one_each.values()), "one version of an action"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_workflow_pastes_anything_into_a_shell(path):
    for step in steps_of(flow_of(path)):
        assert "${{" not in step.get("run", ""), f"{step['run']}: pass it by env, and quote the variable"
        assert not re.search(r"\beval\b|\bmake\b.*\$", step.get("run", "")), step["run"]


def test_what_is_typed_into_the_form_of_the_full_run_is_words_for_the_press(full_run):
    """The step itself, run by bash with a stand-in for the press that writes down its arguments."""
    evil = "$(touch pwned) `touch pwned` ; touch pwned #"
    start = ["run", "--profile", "full"]
    assert full_run("", "") == [*start, "--"]
    assert full_run("feddf  moon", "--seeds 5") == [*start, "--seeds", "5", "--", "feddf", "moon"]
    assert full_run(f"feddf\n{evil} *", evil) == [*start, *evil.split(), "--", "feddf", *evil.split(), "*"]


@pytest.fixture
def full_run(tmp_path):
    (step,) = [s for s in steps_of(flow_of(ROOT / ".github/workflows/full.yml")) if "book run" in s.get("run", "")]
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nshift 2\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)

    def run(chapters: str, arguments: str) -> list[str]:
        env = {"PATH": "/usr/bin:/bin", "CHAPTERS": chapters, "ARGUMENTS": arguments}
        call = ["bash", "-e", "-c", step["run"]]
        done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".venv"], "nothing else was run"
        return done.stdout.splitlines()

    return run


def test_nothing_is_published_that_has_not_passed_all_of_ci():
    jobs = flow_of(ROOT / ".github/workflows/pages.yml")["jobs"]
    steps = jobs["build"]["steps"]
    (tested,) = [number for number, step in enumerate(steps) if step.get("run") == ".ci/run"]
    uploads = [number for number, step in enumerate(steps) if "upload" in step.get("uses", "")]
    assert uploads
    assert all(number > tested for number in uploads), "the bytes that were tested"
    assert jobs["build"]["if"] == "github.ref == 'refs/heads/main'"
    assert "cache" not in str(steps)
    for name, job in jobs.items():
        assert name == "build" or job["needs"] == "build"
        assert "if" not in job or name == "build"
        assert not any({"continue-on-error"} & set(step) or "if" in step for step in job["steps"])
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    ran = re.findall(r"^(?:run|beside) .*? (make [a-z]+|[a-z_]+)$", script, re.M)
    assert [call for call in ran if call == "tests" or call.startswith("make")] == [
        *(f"make {target}" for target in ("setup", "run", "check", "lint", "types", "book")),
        "tests",
    ]
    assert "  make test | tee" in script, "its failure is the step's: pipefail"
    steps_beside, joined = (re.findall(rf'^{word} "(.*?)"', script, re.M) for word in ("beside", "joined"))
    assert steps_beside == joined, "a step that nobody joins may fail unnoticed"


def test_no_file_names_one_persons_machine():
    for path in tracked():
        if path.suffix in BINARY or "vendor" in path.parts:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not MACHINE_PATHS.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"


def test_no_two_files_of_tests_have_one_name():
    names = [path.name for path in tracked() if re.fullmatch(r"test_.*\.py", path.name)]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    assert not twice, f"pytest imports a file of tests by its bare name; {twice} cannot be collected in one run"


def test_no_notebook_is_committed_but_the_goldens():
    stray = [p for p in tracked() if p.suffix == ".ipynb" and p.parent != ROOT / "tests" / "golden"]
    assert not stray, f"chapters are chapter.md; found {stray}"


def test_fedlib_never_imports_the_book():
    offending = [p.relative_to(ROOT) for p in (ROOT / "fedlib").rglob("*.py") if "book" in imports_of(p)]
    assert not offending
