"""What becomes of MyST in the notebooks that readers download."""

from __future__ import annotations

import re

import nbformat
import pytest

from book.site import plain, press

SITE = "https://example.org/book/"
PAGE = f"{SITE}papers/feddf/chapter.html"
MCMAHAN, LIN = "https://arxiv.org/abs/1602.05629", "https://arxiv.org/abs/2006.07242"
OTHER = f"[(fedbn-layer)]({SITE}papers/fedbn/chapter.html#equation-fedbn-layer)"
TURNED = "parameter: a\nvalues: [fedavg, feddf]\nrows: {A: 'accuracy/{}'}"
EQUATION = "$$\na = b . % cheap\n$$ (feddf-one)"


@pytest.fixture(scope="module")
def tell() -> plain.Plain:
    """Of a notebook with one quoted number and one equation."""
    scrap = {"scrapbook": {"name": "gain", "mime_prefix": press.GLUE_PREFIX}}
    output = nbformat.v4.new_output(
        "display_data", {f"{press.GLUE_PREFIX}text/plain": "'-1.2 points of 1-2, pre-2'"}, metadata=scrap
    )
    cells = [nbformat.v4.new_code_cell("1", outputs=[output]), nbformat.v4.new_markdown_cell(EQUATION)]
    cells.append(nbformat.v4.new_markdown_cell("## How it is done\n\n{cite}`lin2020ensemble`"))
    return plain.Plain("feddf", nbformat.v4.new_notebook(cells=cells), SITE)


@pytest.mark.parametrize(
    ("myst", "expected"),
    [
        ("It is {glue:text}`gain`.", "It is −1.2 points of 1-2, pre-2."),
        ("{cite:t}`mcmahan2017communication`", f"[McMahan et al. (2017)]({MCMAHAN})"),
        (
            "{cite}`mcmahan2017communication,lin2020ensemble`",
            f"([McMahan et al., 2017]({MCMAHAN}); [Lin et al., 2020]({LIN}))",
        ),
        ("{term}`Rounds <round>` and a {term}`server`", "Rounds and a server"),
        ("in {eq}`feddf-one` and {eq}`fedbn-layer`", f"in (1) and {OTHER}"),
        (EQUATION, "$$\na = b . % cheap \\tag{1}\n$$"),
        (
            EQUATION.replace("a = b", r"a &= b \\ c &= d"),
            "$$\n\\begin{aligned}\na &= b \\\\ c &= d . % cheap\n\\end{aligned} \\tag{1}\n$$",
        ),
        ("see [FedBN](../fedbn/chapter.md#method)", f"see [FedBN]({SITE}papers/fedbn/chapter.html#method)"),
        ("[first](#how-it-is-done) and [text](https://a.org/b.md)", "[first](#How-it-is-done) and [text](https://a.org/b.md)"),
        ("{doc}`the primer </papers/fedavg/chapter>`", f"[the primer]({SITE}papers/fedavg/chapter.html)"),
        ("(here)=\n## Here", "## Here"),
        ("the paper's [$x$]{.theirs}", "the paper's $x$"),
        (f"```{{explore}} x\n{TURNED}\n```", f"*On the page: [a figure to turn]({PAGE})*"),
        ("a\n\n```{equation} feddf-one\n:test: t\n```\n\nb", "a\n\nb"),
        ("```{equation} feddf-one\n:cell: gap\n```", "*In code, (1) is `gap` in a cell of this notebook.*"),
        (
            "```{equation} feddf-one\n:code: fedlib.losses.kd\n```",
            f"*In code, (1) is [`fedlib.losses.kd`]({SITE}fedlib/losses.html#kd).*",
        ),
        (
            "```{dropdown} Answer\nNo: {glue:text}`gain`.\n```",
            "<details><summary>Answer</summary>\n\nNo: −1.2 points of 1-2, pre-2.\n\n</details>",
        ),
        ("```{margin}\nOne.\n\nTwo.\n```", "> One.\n>\n> Two."),
        (
            f"````{{admonition}} Two\n```{{explore}} x\n{TURNED}\n```\n````",
            f"**Two**\n\n*On the page: [a figure to turn]({PAGE})*",
        ),
        ("```bash\nmake book\n```", "```bash\nmake book\n```"),
    ],
)  # fmt: skip
def test_myst_becomes_plain_markdown(tell, myst, expected):
    assert tell(myst) == expected


def test_a_number_that_the_run_did_not_give_is_an_error(tell):
    with pytest.raises(ValueError, match="no output 'loss'"):
        tell("{glue:text}`loss`")


def test_what_the_chapter_cites_is_listed_with_links(tell):
    listed = tell("```{bibliography}\n:filter: docname in docnames\n```")
    assert listed.startswith("- Tao Lin, Lingjing Kong, Sebastian U. Stich and Martin Jaggi (2020). [Ensemble")
    assert f"({LIN})" in listed
    assert len(listed.splitlines()) == 1


def test_card_claims_and_evidence_are_tables(tell):
    card = tell("```{card}\n```")
    assert card.startswith("| About | this chapter |\n| --- | --- |\n| **Paper** | ")
    assert f"[this chapter, with previews and all runs]({PAGE})" in card
    claims = tell("```{claims}\n```").splitlines()
    assert claims[0].startswith("| Claim | The paper | ")
    assert sum(line.startswith("|") for line in claims) == 2 + len(press.card("feddf").claims)
    evidence = tell("```{evidence} real\n:metrics: accuracy/fed*\n```").splitlines()
    assert evidence[0] == "| Metric | Mean | 95% interval | Seeds |"
    assert {line.split("`")[1].split("/")[0] for line in evidence[2:] if line.startswith("|")} == {"accuracy"}


def test_a_pattern_that_no_metric_matches_is_an_error(tell):
    with pytest.raises(ValueError, match="no metric of feddf at the real profile matches 'nothing/"):
        tell("```{evidence} real\n:metrics: nothing/*\n```")


@pytest.mark.parametrize(
    ("myst", "complaint"),
    [
        ("{verdcit}`beats-fedavg`", "no role 'verdcit'; most like it: verdict"),
        ("It holds {verdict}``.", r"{verdict} is empty"),
        ("{term}`clientt`", r"no term 'clientt' in book/pages/glossary\.md; most like it: client"),
        (
            "{cite}`karimireddy2020scafold`",
            "cited work 'karimireddy2020scafold' is not in .* like it: karimireddy2020sca",
        ),
        ("{eq}`feddf-onne`", "no equation 'feddf-onne'; most like it: .*feddf-one"),
        ("{eq}`nowhere`", "no equation 'nowhere'"),
        ("```{evidence} reel\n```", "unknown profile 'reel': expected one of quick, real, full"),
        ("```{evidense} real\n```", "no directive 'evidense'; most like it: evidence"),
        ("```{claims} al\n```", r"{claims} al: expected nothing"),
        ("```{explore} x\nparameter: a\nvalues: [1, 2]\nrow: {A: 'a/{}'}\n```", "no field 'row'"),
        (
            "```{explore} x\nparameter: a\nvalues: [1, 2]\nrows: {A: 'accuracyy/{}'}\n```",
            "feddf has no metric 'accuracyy/1'; most like it: accuracy",
        ),
    ],
)
def test_what_does_not_exist_is_named_with_the_nearest(tell, myst, complaint):
    with pytest.raises((ValueError, LookupError), match=complaint):
        tell(myst)


def test_verdicts_of_all_profiles_stand_in_brackets():
    """Behind a sentence, in a notebook, they read as what they are."""
    claim = press.card("moon").claims[2].id
    text = plain.measured("moon", "")(f"MOON is ahead. {{verdict}}`{claim}`")
    assert re.fullmatch(r"MOON is ahead\. \*\((?:full|real|quick): [a-z ]+(?:; (?:real|quick): [a-z ]+)*\)\*", text)
