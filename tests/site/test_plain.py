"""What becomes of MyST in the notebooks that readers download."""

from __future__ import annotations

import nbformat
import pytest

from book.site import plain, press

SITE = "https://example.org/book/"
PAGE = f"{SITE}papers/feddf/chapter.html"
TOLD = f"*On the page: [code and test of the equation]({PAGE}#equation-feddf-one)*"
OTHER = f"[(fedbn-layer)]({SITE}papers/fedbn/chapter.html#equation-fedbn-layer)"
EQUATION = "$$\na = b . % cheap\n$$ (feddf-one)"


@pytest.fixture(scope="module")
def tell() -> plain.Plain:
    """Of a notebook with one quoted number and one equation."""
    scrap = {"scrapbook": {"name": "gain", "mime_prefix": press.GLUE_PREFIX}}
    output = nbformat.v4.new_output(
        "display_data", {f"{press.GLUE_PREFIX}text/plain": "'-1.2 points of 1-2, pre-2'"}, metadata=scrap
    )
    cells = [nbformat.v4.new_code_cell("1", outputs=[output]), nbformat.v4.new_markdown_cell(EQUATION)]
    return plain.Plain("feddf", nbformat.v4.new_notebook(cells=cells), SITE)


@pytest.mark.parametrize(
    ("myst", "expected"),
    [
        ("It is {glue:text}`gain`.", "It is −1.2 points of 1-2, pre-2."),
        ("{cite:t}`mcmahan2017communication`", "McMahan et al. (2017)"),
        ("{cite}`mcmahan2017communication,lin2020ensemble`", "(McMahan et al., 2017; Lin et al., 2020)"),
        ("{term}`Rounds <round>` and a {term}`server`", "Rounds and a server"),
        ("in {eq}`feddf-one` and {eq}`fedbn-layer`", f"in (1) and {OTHER}"),
        (EQUATION, "$$\na = b . % cheap \\tag{1}\n$$"),
        ("see [FedBN](../fedbn/chapter.md#method)", f"see [FedBN]({SITE}papers/fedbn/chapter.html#method)"),
        ("[first](#claims) and [text](https://a.org/b.md)", "[first](#claims) and [text](https://a.org/b.md)"),
        ("{doc}`the primer </papers/fedavg/chapter>`", f"[the primer]({SITE}papers/fedavg/chapter.html)"),
        ("(here)=\n## Here", "## Here"),
        ("[x]{.theirs}", "[x]"),
        ("```{card}\n```", f"*On the page: [card]({PAGE})*"),
        ("```{evidence} real\n:metrics: a/*\n```", f"*On the page: [evidence real]({PAGE})*"),
        ("  ```{equation} feddf-one\n  :test: t\n  ```", f"  {TOLD}"),
        ("```{code-of} fedlib.losses.kd\n:test: t\n```", f"Code: [`fedlib.losses.kd`]({SITE}fedlib/losses.html#kd)"),
        ("```{dropdown} Answer\nNo: {glue:text}`gain`.\n```", "**Answer**\n\nNo: −1.2 points of 1-2, pre-2."),
        ("````{admonition} Two\n```{claims}\n```\n````", f"**Two**\n\n*On the page: [claims]({PAGE})*"),
        ("```bash\nmake book\n```", "```bash\nmake book\n```"),
    ],
)  # fmt: skip
def test_myst_becomes_plain_markdown(tell, myst, expected):
    assert tell(myst) == expected


def test_a_number_that_the_run_did_not_give_is_an_error(tell):
    with pytest.raises(KeyError, match="loss"):
        tell("{glue:text}`loss`")
