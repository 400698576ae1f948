"""Which numbers in prose are results that somebody typed, and which are none."""

from __future__ import annotations

import pytest

from book import chapters, prose


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It gains 2.1 points.", ["2.1 points"]),
        ("It reaches 68.3 % and 12%.", ["68.3 %", "12%"]),
        ("A cosine of 0.53, then −0.2.", ["0.53", "−0.2"]),
        ("It takes 40 rounds and 1,200 kB, three times as much.", ["40 rounds", "1,200 kB"]),
        ("MOON is two points ahead, or half a point below.", ["two points ahead", "half a point below"]),
        ("It gains +2.1pp, 7 percent, .5 and 1e-3.", ["+2.1pp", "7 percent", ".5", "1e-3"]),
        ("On 12 of 15 it is 3× faster, a factor of 3.", ["12 of 15", "3×", "factor of 3"]),
        ("It rises from 61 to 68, or by `2.1`.", ["from 61 to 68", "2.1"]),
        ("准确率高2.1个百分点，共40轮。", ["2.1个百分点", "40轮"]),
        ("A 10-point lead over 3 seeds.", ["10-point", "3 seeds"]),
        ("```{dropdown} 中文\n准确率 0.53。\n```", ["0.53"]),
        ("```{caption} a\nIt falls by 3 %.\n```", ["3 %"]),
    ],
)
def test_results_are_found(text, found):
    assert [hit for _, hit in prose.typed_numbers(text)] == found


@pytest.mark.parametrize(
    "text",
    [
        "Three layers, ten clients, 2 of 3, 64 inputs, 2021, [0, 1], the 4th, ResNet-8.",
        "{measured}`accuracy/a - accuracy/b` and {published}`69.1 ± 0.4 % (Table 1)` of {setting}`rounds` rounds",
        "At $\\alpha = 0.1$ and `rate=0.03` it is",
        "$$\na = 0.5 + 3.2\n$$ (label)",
        "```python\nx = 0.5\n```",
        "```{code-cell} ipython3\nlr = 0.1\n```",
        "```{measures}\nrows: {a: 0.1}\n```",
        "| a | 0.53 |\n|---|---|",
        "See section 4.7, Table 1 and Figure 3.2, or version 2.11, Python 3.11 and arXiv:2103.16257 or 1.2.3.",
        "[text](https://a.org/1.5) and https://a.org/2.5%20x",
        "from the grid {0.01, 0.1, 1.0}, with its 95 % interval",
        "---\njupytext: 0.13\n---\n",
        "## Deviations\n\nTrained for 40 rounds with rate 0.1.\n\n## References\n\n0.5\n",
        "```{admonition} Deviations\n40 rounds at 0.1\n```",
    ],
)
def test_what_is_no_result_is_left_alone(text):
    assert prose.typed_numbers(text) == []


def test_lines_are_counted_through_what_is_left_out():
    text = "---\na: 1.5\n---\n\n```python\n0.5\n```\n\nIt is 0.7.\n"
    assert prose.typed_numbers(text) == [(9, "0.7")]


def test_a_section_after_one_that_is_left_out_is_read():
    text = "## Try it\n\n0.1\n\n## More\n\n0.2\n"
    assert prose.typed_numbers(text) == [(7, "0.2")]


def test_only_the_sections_that_hold_settings_are_left_out():
    text = "".join(f"## {title}\n\nIt gains 2.1 points.\n\n" for title in chapters.SECTIONS)
    left = {"Deviations", "Try it", "References"}
    lines = [place for place, _ in prose.typed_numbers(text)]
    assert lines == [4 * n + 3 for n, title in enumerate(chapters.SECTIONS) if title not in left]
