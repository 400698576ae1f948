"""A chapter's text in plain words: every role and directive that quotes evidence, and code left alone."""

from __future__ import annotations

import pytest

from book import quoting

EVIDENCE = {
    "quick": {
        "metrics": {
            "accuracy/a": {"0": 0.7, "1": 0.72},
            "accuracy/b": {"0": 0.68, "1": 0.70},
            "bytes/a": {"0": 1000.0, "1": 1000.0},
        },
        "setting": {"rounds": 40},
    }
}
FOLDED = "```{dropdown} 中文\n"
TABLE = """```{measures}
rows: {FedA: a, FedB: b}
columns: {Accuracy: "accuracy/{}", Bytes: "bytes/{}"}
against: b
caption: Both
```
"""


def plain(text: str, **more) -> str:
    return quoting.resolve(text, EVIDENCE, {}, **more).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It is {measured}`accuracy/a`.", "It is 71.0 %."),
        ("by {measured}`accuracy/a -\naccuracy/b` in all", "by +2.0 points [2.0, 2.0] in all"),
        ("after {setting}`rounds` rounds", "after 40 rounds"),
        ("the paper's {published}`69.1 ± 0.4 % (Table 1)`", "the paper's 69.1 ± 0.4 % (Table 1)"),
        ("{measured}`accuracy/a @real`", "[not run]"),
        ("```python\n{measured}`x`\n```\n", "```python\n{measured}`x`\n```\n"),
        ("```{code-cell} ipython3\n{measured}`x`\n```\n", "```{code-cell} ipython3\n{measured}`x`\n```\n"),
        ("```{margin}\n{setting}`rounds`\n```\n", "```{margin}\n40\n```\n"),
        (f"{FOLDED}差 {{measured}}`accuracy/a - accuracy/b`。\n```", f"{FOLDED}差 +2.0 个百分点 [2.0, 2.0]。\n```"),
        ("```{lead} a\n```\n```{caption} a\nOne.\n```\n", "*Figure 1.* One.\n"),
        ("{glue:text}`x` and {eq}`y`", "{glue:text}`x` and {eq}`y`"),
    ],
)  # fmt: skip
def test_roles_become_words(text, words):
    assert plain(text) == words


def test_figures_are_numbered_by_the_order_of_their_captions():
    text = "See {figure-ref}`b`.\n\n```{caption} a\nOne.\n```\n\n```{caption} b\nTwo: {setting}`rounds`.\n```\n"
    assert plain(text) == "See Figure 2.\n\n*Figure 1.* One.\n\n*Figure 2.* Two: 40.\n"
    assert plain("{figure-ref}`b`", figures=quoting.figure_numbers(text)) == "Figure 2"


def test_verdicts_are_those_that_are_handed_over():
    assert plain("{verdict}`one`", verdicts={"one": "✓ holds (real)"}) == "✓ holds (real)"


def test_a_table_has_paired_differences_and_a_dash_where_nothing_was_measured():
    assert plain(TABLE).splitlines() == [
        "*Both*",
        "",
        "|  | Accuracy | Bytes |",
        "| --- | ---: | ---: |",
        "| FedA | 71.0 % (+2.0 points [2.0, 2.0]) | 1 kB |",
        "| FedB | 69.0 % | – |",
    ]


def test_emphasis_within_a_caption_does_not_nest():
    assert plain(TABLE.replace("Both", "'What *both* give'")).splitlines()[0] == "*What both give*"


def test_a_table_of_a_profile_that_was_not_run_says_so():
    assert plain(TABLE.replace("against: b", "profile: real")) == "*Both*\n\n[not run]\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{figure-ref}`c`", "no caption 'c'"),
        ("```{lead} c\n```\n", "no caption 'c'"),
        ("{verdict}`c`", "no claim 'c'"),
        ("{setting}`round`", "most like it: rounds"),
        (TABLE.replace("FedB: b", "FedB: c"), "no metric 'accuracy/c' at quick; most like it: accuracy/"),
        (TABLE.replace("bytes/{}", "bites/{}"), "no metric 'bites/a' at quick; most like it: bytes/a"),
        (TABLE.replace("columns", "colums"), "no field 'colums'. Did you mean 'columns'"),
        (TABLE.replace("against: b", "profile: rael"), "no profile 'rael'"),
        (TABLE.replace("rows: {FedA: a, FedB: b}", "rows: FedA"), "rows: expected a mapping"),
        ("```{measures}\n```\n", "needs rows and columns"),
        ("```{measures}\nrows: {a: a}\n```\n", "the field 'columns' is missing"),
    ],
)
def test_what_does_not_exist_is_named(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        plain(text)
