"""Parameters are checked before anything runs."""

import pytest

from book import jobs, parameters
from book.errors import PressError


@pytest.fixture
def demo(tree):
    return tree.add("demo")


def test_names_defaults_and_types_come_from_the_cell(demo):
    known = parameters.of("demo")
    assert {n: p.default for n, p in known.items()} == {
        "profile": "quick",
        "seed": 0,
        "seeds": None,
        "rate": 0.5,
        "label": "plain",
    }
    assert known["seeds"].describe() == "int or None"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("rate=0.25", {"rate": 0.25}),
        ("rate=1e-3", {"rate": 1e-3}),
        ("rate=2", {"rate": 2.0}),
        ("rate=-1.5", {"rate": -1.5}),
        ("seed=7", {"seed": 7}),
        ("seeds=5", {"seeds": 5}),
        ("seeds=None", {}),
        ("label=fancy", {"label": "fancy"}),
        ("label='a = b'", {"label": "a = b"}),
        ("label=7", {"label": "7"}),
        ("label=", {"label": ""}),
        ("rate=0.5", {}),
    ],
)
def test_values_are_read_as_the_parameter_has_them(demo, text, value):
    checked = parameters.check("demo", [text])
    assert checked == value
    assert [type(v) for v in checked.values()] == [type(v) for v in value.values()]


@pytest.mark.parametrize(
    "text", ["seed=0.5", "seed=True", "seed=one", "rate=fast", "rate=None", "rate=True", "seeds=2.0"]
)
def test_another_type_is_an_error_that_says_what_was_expected(demo, text):
    with pytest.raises(PressError, match=r"'demo', -p .*expected (int|float).*got"):
        parameters.check("demo", [text])


def test_a_number_must_be_finite(demo):
    with pytest.raises(PressError, match="finite"):
        parameters.check("demo", ["rate=1e999"])


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("0.5", 0.5), ("true", True), ("word", "word"), ("none", None)])
def test_a_parameter_that_is_none_and_says_no_more_takes_any_literal(tree, demo, text, value):
    tree.edit(demo, "rate = 0.5", "rate = None")
    assert parameters.check("demo", [f"rate={text}"]) == ({} if value is None else {"rate": value})


def test_an_unknown_name_is_an_error_that_names_the_nearest(demo):
    with pytest.raises(PressError, match=r"no parameter 'rat'.* mean 'rate'"):
        parameters.check("demo", ["rat=1"])


@pytest.mark.parametrize(("text", "message"), [("rate", "expected name=value"), ("profile=real", "--profile")])
def test_a_misused_option_says_how_it_is_meant(demo, text, message):
    with pytest.raises(PressError, match=message):
        parameters.check("demo", [text])


def test_seeds_option(demo):
    assert parameters.check("demo", [], seeds=4) == {"seeds": 4}
    with pytest.raises(PressError, match="at least one"):
        parameters.check("demo", [], seeds=0)


def test_several_values_of_a_name_are_a_run_each():
    assert parameters.grid([]) == [[]]
    assert parameters.grid(["a=1"]) == [["a=1"]]
    assert parameters.grid(["a=1", "b=x", " a =2", "b=y", "a=1"]) == [
        ["a=1", "b=x"],
        ["a=1", "b=y"],
        [" a =2", "b=x"],
        [" a =2", "b=y"],
    ]


def test_a_grid_is_planned_once_for_each_setting(demo):
    planned = jobs.plan(["demo"], "quick", ["rate=1", "rate=1.0", "rate=0.5", "seed=7"])
    assert sorted(job.title.split(" ", 1)[1] for job in planned) == ["rate=1.0 seed=7", "seed=7"]
    assert len({job.stem for job in planned}) == 2


def test_parts_have_files_of_their_own(demo):
    (job,) = jobs.plan(["demo"], "quick", ["rate=1"])
    assert [part.stem for part in job.split(2)] == [f"{job.stem}-1of2", f"{job.stem}-2of2"]
    assert parameters.stem("real", {}, (2, 3)) == "real-2of3"


@pytest.mark.parametrize("line", ["rate = 2 * 3", "rate = [1]", "import os", "rate += 1"])
def test_only_literals_stand_in_the_cell(tree, demo, line):
    tree.edit(demo, "rate = 0.5", line)
    with pytest.raises(PressError, match="parameters cell, line 4"):
        parameters.of("demo")


def test_a_chapter_without_parameters_cell_is_an_error(tree, demo):
    tree.edit(demo, ":tags: [parameters]\n", "")
    with pytest.raises(PressError, match="exactly one code cell"):
        parameters.of("demo")


def test_other_parameters_have_files_of_their_own():
    assert parameters.stem("quick", {}) == "quick"
    one, two = parameters.stem("quick", {"rate": 1.0}), parameters.stem("quick", {"rate": 2.0})
    assert one != two
    assert one.startswith("quick-")
    assert len(one) == len("quick-") + 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dmo"], "Did you mean 'demo'?"),
        (["run", "demo", "-p", "rat=1"], "Did you mean 'rate'?"),
        (["run", "demo", "-p", "rate=fast"], "expected float"),
        (["run", "demo", "--profile", "quik"], "Did you mean 'quick'?"),
        (["run", "demo", "--profile", "full"], "has no profile 'full'"),
        (["run", "demo", "--on", "moon"], "only 'ray' is known"),
        (["accept", "dmo"], "Did you mean 'demo'?"),
        (["show", "dmo"], "Did you mean 'demo'?"),
    ],
)
def test_nothing_runs_when_something_asked_for_is_wrong(tree, demo, arguments, message):
    tree.add("another")
    status, output = tree.press(*arguments)
    assert status == 2
    assert message in output
    assert "Traceback" not in output
    assert not (tree.root / "_build" / "executed").exists()
