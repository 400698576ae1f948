"""What makes a run stale, and what does not."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from book import chapters, definitions, freshness, parsed, records

CODE_EDITS = {
    "a cell": ("papers/demo/chapter.md", "toy.score(s, rate)", "toy.score(s, 2 * rate)"),
    "a default": ("papers/demo/chapter.md", "rate = 0.5", "rate = 0.25"),
    "a tag that changes what a cell does": (
        "papers/demo/chapter.md",
        ":tags: [nbval-check-output]",
        ":tags: [raises-exception]",
    ),
    "an output hidden by a semicolon": ("papers/demo/chapter.md", "run.publish()\n", "run.publish();\n"),
    "an imported module": ("fedlib/toy.py", "0.01 * seed", "0.02 * seed"),
    "what a package offers under a used name": ("fedlib/__init__.py", "", "from . import evidence as toy\n"),
    "a pinned requirement": ("requirements.txt", "numpy==2.0", "numpy==2.1"),
}
PROSE_EDITS = {
    "prose": ("papers/demo/chapter.md", "The text between", "Another text between"),
    "a comment in a cell": ("papers/demo/chapter.md", "run.publish()", "run.publish()  # the end"),
    "the layout of a cell": (
        "papers/demo/chapter.md",
        "toy.score(s, rate)",
        "toy.score(\n        s,\n        rate,\n    )",
    ),
    "a module's comment": ("fedlib/toy.py", "# the larger the rate, the better", "# monotone"),
    "a docstring": ("fedlib/toy.py", "A number that", "Something that"),
    "a package that computes nothing": ("requirements.txt", "numpy==2.0", "numpy==2.0\nsphinx==7.4"),
    "a comment on the requirements": ("requirements.txt", "numpy==2.0", "numpy==2.0  # arrays"),
    "a package's re-exports of what is not used": ("fedlib/__init__.py", "", "from .toy import score as other\n"),
}


@pytest.fixture
def demo(tree):
    tree.add("demo")
    tree.pretend("demo")
    return tree


def test_a_run_is_fresh_after_it_and_never_before(tree, state):
    tree.add("demo")
    assert state("demo") == "never"
    tree.pretend("demo")
    assert state("demo") == "fresh"


@pytest.mark.parametrize("edit", CODE_EDITS.values(), ids=CODE_EDITS.keys())
def test_code_edits_make_stale_and_undoing_them_fresh(demo, state, edit):
    path, old, new = edit
    demo.edit(path, old, new)
    assert state("demo") == "stale"
    demo.edit(path, new, old)
    assert state("demo") == "fresh"


@pytest.mark.parametrize("edit", PROSE_EDITS.values(), ids=PROSE_EDITS.keys())
def test_prose_edits_do_not(demo, state, edit):
    demo.edit(*edit)
    assert state("demo") == "fresh"


UNREACHED = {
    "a new function": "def another():\n    return score\n",
    "a new class": "class Other:\n    x: int\n",
    "a helper of a new function": "def _help():\n    return 1\n\n\ndef another():\n    return _help()\n",
}
REACHED = {
    "a statement": "print()\n",
    "a definition that registers itself": "def keep(f):\n    return f\n\n\n@keep\ndef another():\n    return 1\n",
    "a module's own lookup": "def __getattr__(name):\n    return 1\n",
    "a second definition of the same name": "def score(seed, rate):\n    return rate\n",
}


@pytest.mark.parametrize("text", UNREACHED.values(), ids=UNREACHED.keys())
def test_what_the_chapter_cannot_reach_does_not_count(demo, state, text):
    """Neither its arrival nor later edits: many chapters share a module."""
    demo.edit("fedlib/toy.py", "\n\ndef score", f"\n\n{text}\n\ndef score")
    assert state("demo") == "fresh"
    for old, new in (("return 1", "return 2"), ("return score", "return 3"), ("x: int", "x: str")):
        if old in text:
            demo.edit("fedlib/toy.py", old, new)
    assert state("demo") == "fresh"


@pytest.mark.parametrize("text", REACHED.values(), ids=REACHED.keys())
def test_what_importing_a_module_runs_counts(demo, state, text):
    demo.edit("fedlib/toy.py", "\n\ndef score", f"\n\n{text}\n\ndef score")
    assert state("demo") == "stale"


@pytest.mark.parametrize("way", ["_base(seed)", "globals()['_base'](seed)", "LATER(seed)"])
def test_what_a_reached_definition_calls_counts(demo, state, way):
    """By its name, by a string, or through a table that is made when the module is imported."""
    helpers = (
        "def _deep(seed):\n    return 0.01 * seed\n\n\ndef _base(seed):\n    return _deep(seed)\n\n\nLATER = _base\n"
    )
    demo.edit("fedlib/toy.py", "0.01 * seed", way)
    demo.edit("fedlib/toy.py", "\n\ndef score", f"\n\n{helpers}\n\ndef score")
    demo.pretend("demo")
    assert state("demo") == "fresh"
    demo.edit("fedlib/toy.py", "return 0.01", "return 0.02")
    assert state("demo") == "stale"


def test_a_cell_that_reaches_further_is_another_cell(demo, state):
    demo.edit("fedlib/toy.py", "\n\ndef score", "\n\ndef other():\n    return 1\n\n\ndef score")
    demo.edit("papers/demo/chapter.md", "run.publish()\n", "run.publish()\ntoy.other()\n")
    assert freshness.why("demo", "quick").endswith("the chapter's code cells")
    demo.pretend("demo")
    demo.edit("fedlib/toy.py", "return 1", "return 2")
    assert freshness.why("demo", "quick").endswith("fedlib.toy")


def test_what_was_not_imported_does_not_count(demo, state):
    (demo.root / "fedlib" / "unused.py").write_text("x = 1\n")
    assert state("demo") == "fresh"


def test_a_module_that_is_gone_makes_stale(demo, state):
    (demo.root / "fedlib" / "toy.py").unlink()
    assert state("demo") == "stale"


def test_a_bare_string_in_a_cell_is_output_not_a_docstring(demo, state):
    demo.edit("papers/demo/chapter.md", "run.publish()\n", 'run.publish()\n```\n\n```{code-cell} ipython3\n"one"\n')
    demo.pretend("demo")
    demo.edit("papers/demo/chapter.md", '"one"', '"two"')
    assert state("demo") == "stale"


def test_notebook_magic_is_code(demo, state):
    demo.edit("papers/demo/chapter.md", "run.publish()\n", "%precision 3\nrun.publish()\n")
    demo.pretend("demo")
    demo.edit("papers/demo/chapter.md", "%precision 3", "%precision 4")
    assert state("demo") == "stale"


@pytest.fixture
def methods(tree):
    """A package that is loaded by need, as fedlib.algorithms is, and a chapter that uses one name of it."""
    package = tree.root / "fedlib" / "methods"
    package.mkdir()
    (package / "__init__.py").write_text(
        'import importlib\n\n_HOME = {\n    "Plain": "plain",\n}\n\n\n'
        "def __getattr__(name):\n"
        '    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)\n\n\n'
        "def __dir__():\n    return sorted(_HOME)\n"
    )
    (package / "plain.py").write_text("class Plain:\n    gain = 1\n")
    modules = ["fedlib", "fedlib.evidence", "fedlib.methods", "fedlib.methods.plain", "fedlib.toy"]
    tree.add("one", work="from fedlib import methods\nprint(methods.Plain.gain)")
    tree.add("all", work="from fedlib import methods\nprint([getattr(methods, name) for name in dir(methods)])")
    for slug in ("one", "all"):
        tree.pretend(slug, modules=modules)
    return tree


def test_what_is_added_to_a_package_counts_for_whoever_looks_at_all_of_it(methods, state):
    """A leaderboard takes its rows from the package: a new algorithm makes it stale, and nobody else."""
    (methods.root / "fedlib" / "methods" / "better.py").write_text("class Better:\n    gain = 2\n")
    assert (state("one"), state("all")) == ("fresh", "stale")
    assert freshness.why("all", "quick").endswith("fedlib.methods.better")
    methods.edit("fedlib/methods/__init__.py", '"Plain": "plain",', '"Plain": "plain",\n    "Better": "better",')
    assert (state("one"), state("all")) == ("fresh", "stale")
    (methods.root / "fedlib" / "methods" / "better.py").unlink()
    assert (state("one"), state("all")) == ("fresh", "stale"), "the table of exports is part of it"


def test_a_new_line_whose_word_stands_by_chance_in_the_chapter_makes_nothing_stale(tree, methods, state):
    """Labels of figures name methods, too. Had the run used the line, it would have imported what it leads to."""
    tree.add("label", work="from fedlib import methods\nprint(methods.Plain.gain, 'Better', 'Best')")
    tree.pretend("label", modules=["fedlib", "fedlib.evidence", "fedlib.methods", "fedlib.methods.plain", "fedlib.toy"])
    lines = '"Plain": "plain",\n    "Better": "better",\n    "Best": "best",'
    methods.edit("fedlib/methods/__init__.py", '"Plain": "plain",', lines)
    assert state("label") == "fresh"
    methods.edit("fedlib/methods/__init__.py", '"Best": "best"', '"Best": "plain"')
    assert state("label") == "stale", "what the run imported may be used by another name"
    methods.edit("fedlib/methods/__init__.py", lines.replace('"Best": "best"', '"Best": "plain"'), "")
    assert state("label") == "stale", "a line that is gone"


@pytest.mark.parametrize("slug", ["one", "all"])
def test_a_name_that_a_package_resolves_elsewhere_counts(methods, state, slug):
    (methods.root / "fedlib" / "methods" / "other.py").write_text("class Plain:\n    gain = 3\n")
    methods.edit("fedlib/methods/__init__.py", '"Plain": "plain"', '"Plain": "other"')
    assert state(slug) == "stale"


RENAMES = {
    "a module in a package": [
        ("fedlib/methods/plain.py", "fedlib/methods/simple.py"),
        ("fedlib/methods/__init__.py", '"Plain": "plain"', '"Plain": "simple"'),
    ],
    "a module that another imports from": [
        ("fedlib/toy.py", "fedlib/play.py"),
        ("fedlib/methods/plain.py", "from fedlib.toy import score", "from fedlib.play import score"),
        ("fedlib/methods/plain.py", "from .. import toy", "from .. import play"),
        ("fedlib/methods/plain.py", "toy.score(2", "play.score(2"),
        ("papers/one/chapter.md", "from fedlib import evidence, toy", "from fedlib import evidence, play"),
        ("papers/one/chapter.md", "toy.score(s", "play.score(s"),
    ],
    "a package": [
        ("fedlib/methods", "fedlib/ways"),
        ("papers/one/chapter.md", "from fedlib import methods", "from fedlib import ways"),
        ("papers/one/chapter.md", "methods.Plain", "ways.Plain"),
    ],
}


@pytest.mark.parametrize("moves", RENAMES.values(), ids=RENAMES.keys())
def test_another_name_of_a_module_changes_nothing_but_another_content_does(methods, state, moves):
    plain = (
        "from fedlib.toy import score\nfrom .. import toy\n\n\nclass Plain:\n    gain = score(1, 1) + toy.score(2, 1)\n"
    )
    (methods.root / "fedlib" / "methods" / "plain.py").write_text(plain)
    modules = ["fedlib", "fedlib.evidence", "fedlib.methods", "fedlib.methods.plain", "fedlib.toy"]
    methods.pretend("one", modules=modules)
    for move in moves:
        if len(move) == 2:
            (methods.root / move[0]).rename(methods.root / move[1])
        else:
            methods.edit(*move)
    assert state("one") == "fresh", freshness.why("one", "quick")
    changed = next(p for p in (methods.root / "fedlib").rglob("*.py") if "class Plain" in p.read_text())
    methods.edit(changed, "score(1, 1)", "score(1, 2)")
    assert state("one") == "stale"


@pytest.fixture
def pack(demo, monkeypatch):
    folder = demo.root / "packs"
    folder.mkdir()
    monkeypatch.setenv("FEDLIB_DATA", str(folder))
    path = folder / "stars.npz"
    path.write_bytes(b"one")
    demo.pretend("demo", data={"stars": "checksum by fedlib"})
    return path


def test_a_changed_data_file_makes_stale(pack, state):
    assert state("demo") == "fresh"
    pack.write_bytes(b"two")
    assert state("demo") == "stale"
    assert freshness.why("demo", "quick").endswith("data set stars")


def test_a_data_file_touched_but_equal_stays_fresh_and_an_absent_one_cannot_tell(pack, state):
    os.utime(pack, (1, 1))
    assert state("demo") == "fresh"
    pack.unlink()
    assert state("demo") == "fresh"


def test_a_data_file_whose_size_and_time_lie_makes_stale(pack, state):
    before = pack.stat()
    pack.write_bytes(b"two")
    os.utime(pack, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (pack.stat().st_size, pack.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert state("demo") == "stale"


def test_the_executed_notebook_itself_counts(demo, state):
    notebook = chapters.executed_path("demo", "quick")
    demo.edit(notebook, "0.000", "9.999")
    assert state("demo") == "stale"
    notebook.unlink()
    assert state("demo") == "never"


def test_a_damaged_record_is_no_record(demo, state):
    chapters.record_path("demo", "quick").write_text('{"status": "o')
    assert state("demo") == "never"


def test_the_reason_is_said(demo):
    assert freshness.why("demo", "quick") == ""
    demo.edit("fedlib/toy.py", "0.01", "0.02")
    assert freshness.why("demo", "quick") == "changed since it was executed: fedlib.toy"


def test_an_edit_while_the_chapter_runs_makes_stale(tree, state, monkeypatch):
    tree.add("demo")
    take = freshness.Sources.take

    def take_then_edit(slug):
        sources = take(slug)
        tree.edit("fedlib/toy.py", "0.01", "0.02")
        return sources

    with monkeypatch.context() as patch:
        patch.setattr(freshness.Sources, "take", staticmethod(take_then_edit))
        tree.pretend("demo")
    assert state("demo") == "stale"


def test_the_record_says_what_the_run_depended_on(demo):
    record = records.read("demo", "quick")
    assert sorted(record["dependencies"]["modules"]) == ["fedlib", "fedlib.evidence", "fedlib.toy"]
    assert record["dependencies"]["parameters"] == {"profile": "quick"}
    assert record["hash"] == freshness.digest(record["dependencies"])


RUN_ON_IMPORT = {
    "a class body": "class _Patch:\n    score.__defaults__ = None\n    setattr(score, 'x', 1)\n",
    "a default": "def _patch(x=setattr(score, 'x', 1)):\n    return x\n",
    "a base class": "class _Patch(type('Base', (), {})):\n    pass\n",
    "a loop in a class": "class _Patch:\n    for i in range(3):\n        pass\n",
}


@pytest.mark.parametrize("text", RUN_ON_IMPORT.values(), ids=RUN_ON_IMPORT.keys())
def test_what_a_definition_does_when_it_is_imported_counts(demo, state, text):
    """Nobody names it, and yet it can change what others compute."""
    with (demo.root / "fedlib" / "toy.py").open("a") as file:
        file.write(f"\n\n{text}")
    assert state("demo") == "stale"


@pytest.mark.parametrize(
    "line", ["from fedlib import patch\n", "from fedlib.patch import *\n", "import fedlib.patch\n"]
)
def test_a_module_that_a_package_imports_counts(demo, state, line):
    (demo.root / "fedlib" / "patch.py").write_text("from fedlib import toy\n\ntoy.score = None\n")
    (demo.root / "fedlib" / "__init__.py").write_text(line)
    assert state("demo") == "stale"


COPIES = {"another profile": ("demo", "quick", "demo", "real"), "another chapter": ("demo", "quick", "second", "quick")}


@pytest.mark.parametrize(("slug", "profile", "other", "at"), COPIES.values(), ids=COPIES.keys())
def test_a_run_does_not_pass_for_another(demo, state, slug, profile, other, at):
    demo.add("second")
    target = chapters.executed_path(other, at)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(chapters.executed_path(slug, profile).read_bytes())
    chapters.record_path(other, at).write_bytes(chapters.record_path(slug, profile).read_bytes())
    assert state(other, at) == "never"
    assert demo.press("accept", other, "--profile", at)[0] == 2


def test_a_run_with_other_parameters_does_not_pass_for_the_usual_one(demo, state):
    record = records.read("demo", "quick")
    records.write("demo", "quick", record | {"parameters": {"profile": "quick", "rate": 0.9}})
    assert state("demo") == "never"


def test_an_f_string_has_one_tree_under_every_python():
    """Python 3.12 reads an empty piece behind a nested format, which 3.11 and 3.13 do not."""
    lean = ast.parse('f"{x:{width}}"', mode="eval").body
    fuller = ast.parse('f"{x:{width}}"', mode="eval").body
    spec = fuller.values[0].format_spec
    spec.values = [v for v in spec.values if not isinstance(v, ast.Constant)] + [ast.Constant("")]
    assert freshness._tree(fuller) == freshness._tree(lean)
    spec.values.append(ast.Constant("d"))
    assert freshness._tree(fuller) != freshness._tree(lean)


def test_nodes_are_those_of_a_walk():
    tree = ast.parse(Path(freshness.__file__).read_text())
    kinds = (ast.Load, ast.Store, ast.Del)
    assert definitions.nodes(tree) == [node for node in ast.walk(tree) if not isinstance(node, kinds)]


def test_reading_notebooks_builds_no_grammar():
    """It took most of the time that a command needs to begin."""
    code = "import book, nbformat, jupytext, papermill, sys; sys.exit('lark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(freshness.__file__).parents[1]).returncode == 0


def another_process():
    """Forget what this process has in memory."""
    freshness._module.cache_clear()
    parsed.shelf.cache_clear()


def taken():
    another_process()
    return freshness.Sources.take("demo").modules


def test_another_process_need_not_take_modules_apart_again(demo, monkeypatch):
    first = taken()
    monkeypatch.setattr(freshness, "_taken_apart", lambda *_: pytest.fail("it is kept"))
    assert taken() == first


def test_what_is_kept_counts_for_the_same_text_only(demo, monkeypatch):
    first = taken()
    demo.edit("fedlib/toy.py", "0.01 * seed", "0.02 * seed")
    second = taken()
    assert [name for name in first if first[name] != second[name]] == ["fedlib.toy"]
    there, read = {"fedlib.toy"}, freshness._taken_apart
    monkeypatch.setattr(parsed, "_code", lambda: "read in another way")
    monkeypatch.setattr(freshness, "_taken_apart", lambda *given: there.add(given[2]) or read(*given))
    assert taken() == second
    assert there == set(second), "another way of reading takes all apart anew"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"fedlib.toy": 1}', '{"fedlib.toy": {"key": ["KEY"]}}', "\x00"]
    + ['{"fedlib.toy": {"key": ["KEY"], "sum": "1", "parts": {"always": [], "definitions": {}}}}'],
)
def test_a_damaged_file_of_kept_parts_costs_time_only(demo, text):
    first = taken()
    path = chapters.build_folder() / parsed.NAME
    key = parsed.Shelf(path.parent).kept["fedlib.toy"]["key"]
    path.write_text(text.replace('["KEY"]', f'"{key}"'))
    assert taken() == first
    assert "fedlib.toy" in parsed.Shelf(path.parent).kept, "it was made anew"


def test_where_nothing_can_be_kept_modules_are_read_all_the_same(demo):
    first = taken()
    path = chapters.build_folder() / parsed.NAME
    path.unlink()
    path.mkdir()
    assert taken() == first
