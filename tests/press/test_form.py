"""The form of a chapter is measured on what a reader of its page meets."""

import math

import pytest

from book import form

HEAD = "---\nkernelspec: {name: python3}\n---\n\n# Title\n"


@pytest.fixture
def measured(tree):
    """The form of a chapter of this text."""

    def measure(text, slug="demo"):
        tree.add(slug).write_text(HEAD + text)
        return form.measure(slug)

    return measure


def cell(code, *tags):
    head = f":tags: [{', '.join(tags)}]\n\n" if tags else ""
    return f"\n```{{code-cell}} ipython3\n{head}{code}\n```\n"


def test_code_is_counted_in_lines_with_something_on_them_and_folded_cells_apart(measured):
    found = measured(cell("a = 1\n\n# why\nb = 2") + cell("c = 3", "hide-input") + cell("d = 4\nd", "remove-cell"))
    assert (found.code_lines, found.open_lines, found.cells, found.longest_cell) == (6, 3, 3, 3)


def test_words_are_those_that_stand_open_on_the_page(measured):
    text = (
        "\nOne {term}`two words <term>` $a + b = c$.\n\n$$\nE = m c^2\n$$ (demo-energy)\n\n{measured}`a - b` "
        "[link](there.md)\n"
        "\n```{margin}\nIn the margin.\n```\n\n```{dropdown} Folded\nNot to be seen.\n```\n\n```bash\nmake run\n```\n"
        "\n## Deviations\n\nLong and complete.\n\n## Try it\n\nAgain.\n\n## References\n\nMany.\n"
    )
    outside = ["Title", "One", "two", "words", "a+b=c", "a-b", "link", "In", "the", "margin", "Try", "it", "Again"]
    assert measured(text).words == len(outside)
    assert measured(text + cell("x = 1  # not read aloud")).words == len(outside)


@pytest.mark.parametrize(
    ("paragraph", "count"),
    [
        ("Three of 10 clients lose 2.5 points in 1,000 rounds.", 3),
        (
            "It gains {measured}`accuracy/moon - accuracy/fedavg`, of {published}`72.1`, on {setting}`clients`.",
            3,
        ),
        ("In {glue:text}`moon-gain` of 4 rounds on {setting}`data`.", 2),
        ("Of $2n + 1$ layers, `rate=0.1`, LeNet5, {cite:t}`li2021model` and [three](page-3.md).", 0),
        ("$$\n1 + 1 = 2\n$$ (demo-sum)", 0),
    ],
)
def test_numbers_are_those_that_a_reader_meets_in_a_sentence(paragraph, count):
    assert form.numbers(paragraph) == count


def test_a_crowded_paragraph_has_more_than_three_numbers_and_items_of_a_list_count_apart(measured):
    assert measured("\nOf 1, 2 and 3.\n\n- 4 and 5,\n- 6, 7 and 8.\n").crowded == 0
    assert measured("\nOf 1, 2, 3 and 4.\n").crowded == 1
    assert measured("\n## Deviations\n\nOf 1, 2, 3 and 4.\n").crowded == 0


def test_a_figure_comes_the_later_the_more_stands_open_before_it(measured):
    figure = cell("fig, ax = plots.figure()", "hide-input")
    text, code = "word " * 500, "\n".join(f"a{n} = {n}" for n in range(100))
    first = measured(figure).first_figure
    assert first < form.AIMS["first_figure"]
    assert measured(text + figure).first_figure > first + 1
    assert measured(cell(code) + figure).first_figure > first + 1
    assert measured(cell(code, "hide-input") + figure).first_figure < first + 0.5
    assert measured(figure + text).first_figure == first
    assert measured(text).first_figure == math.inf


@pytest.mark.parametrize(
    "picture",
    [
        "\n```{lead} demo-accuracy\n```\n",
        "\n```{explore} demo-alpha\n```\n",
        cell('study.curves(runs, "accuracy")', "hide-input"),
        cell('study.differences(\n    experiment, "accuracy/{}", ["ours"], to="fedavg"\n)', "hide-input"),
    ],
)
def test_whatever_draws_is_a_figure(measured, picture):
    assert measured(picture).first_figure < form.AIMS["first_figure"]


def test_lines_that_the_column_cuts_off_are_counted(measured):
    assert measured(cell(f"x = '{'a' * (form.COLUMN - 6)}'")).wide_lines == 0
    assert measured(cell(f"x = '{'a' * (form.COLUMN - 5)}'")).wide_lines == 1


def test_a_function_that_two_chapters_define_is_found_by_its_name_and_by_its_body(measured):
    measured(cell('def points(a):\n    """Points."""\n    return 100 * a\n\n\ndef own(a):\n    return a'), "one")
    measured(cell("def points(a):\n    return a - 1\n\n\nclass Other:\n    pass"), "two")
    measured(cell("def percent(a):  # the same as points of one\n    return 100*a"), "three")
    shared = form.shared_functions(["one", "two", "three"])
    assert shared == {"points": ["one", "two"], "percent = points": ["one", "three"]}
    assert form.shared_functions(["one"]) == {}


def test_list_shows_measures_beside_the_aims(tree, measured):
    measured(cell("\n".join(["x = 1"] * 151)))
    measured(cell("def same():\n    return 1"), "one")
    measured(cell("def same():\n    return 2"), "two")
    status, output = tree.press("list", "--form")
    assert status == 0
    lines = [line.split() for line in output.splitlines()]
    assert lines[1][:3] == ["aim", "150", "2000"]
    assert next(line for line in lines if line[0] == "demo")[1:3] == ["151", "151"]
    assert "functions that several chapters define: 1 (aim: 0)" in output
    assert "  same: one, two" in output
