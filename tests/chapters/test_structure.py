"""Every chapter keeps the contract: card, sections, parameters, equations with code and tests, evidence, golden."""

import re

import jupytext
import pytest

from book import cards, chapters, contents, form, golden, judging, prose as typed, reference

EVERYTHING = chapters.slugs()
SLUGS = [slug for slug in EVERYTHING if not cards.load(slug).page]
WRITTEN = [slug for slug in SLUGS if not cards.load(slug).draft]

executed = pytest.mark.parametrize("slug", EVERYTHING)
chapter = pytest.mark.parametrize("slug", SLUGS)
written = pytest.mark.parametrize("slug", WRITTEN)


def text_of(slug):
    return chapters.chapter_path(slug).read_text(encoding="utf-8")


def section(slug, title):
    parts = re.split(r"^## (.+)$", text_of(slug), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def prose(text):
    """The text without code cells and other fenced blocks."""
    return re.sub(r"^(`{3,}|~{3,}).*?^\1`*$", "", text, flags=re.M | re.S)


def code_cells(slug):
    return chapters.code_cells(chapters.read(slug))


def test_the_four_first_chapters_are_written():
    assert {"fedavg", "gradient-dropping", "feddf", "fedntd"} <= set(WRITTEN)


def test_every_page_is_in_the_table_of_contents():
    assert contents.problems() == []


def test_no_function_is_written_in_several_chapters():
    assert form.shared_functions(EVERYTHING) == {}


@chapter
def test_sections_stand_in_order(slug):
    assert re.findall(r"^## (.+)$", text_of(slug), flags=re.M) == chapters.SECTIONS


@executed
def test_source_is_as_jupytext_writes_it(slug):
    text = text_of(slug)
    assert not list(chapters.chapter_path(slug).parent.glob("*.ipynb"))
    again = jupytext.writes(jupytext.reads(text, fmt="md:myst"), fmt="md:myst")
    assert text.split("---\n", 2)[2] == again.split("---\n", 2)[2]


@chapter
def test_card_agrees_with_the_register(slug):
    card = cards.load(slug)
    by_slug = {entry.slug: entry for entry in cards.entries()}
    if card.entry is None:
        assert slug not in by_slug
        return
    assert card.entry == by_slug[slug].number
    assert by_slug[slug].noted in card.noted
    assert card.part == by_slug[slug].part


@executed
def test_parameters_are_declared_first(slug):
    first = code_cells(slug)[0]
    assert "parameters" in chapters.tags(first)
    values = {}
    exec(first.source, values)
    assert values["profile"] == "quick"
    assert values["seed"] == 0
    assert values["device"] == "auto"
    assert "seeds" in values


@executed
def test_the_last_cell_publishes_and_one_cell_guards_the_golden(slug):
    cells = code_cells(slug)
    assert cells[-1].source.rstrip().endswith(".publish()")
    assert any("nbval-check-output" in chapters.tags(cell) for cell in cells)


@chapter
def test_directives_of_the_contract_are_there(slug):
    assert "```{card}" in text_of(slug).split("## In short")[0]
    assert "```{claims}" in section(slug, "Claims")
    at_scale = section(slug, "On real data, and at the paper's scale")
    assert "```{evidence} real" in at_scale
    assert "```{evidence} full" in at_scale
    assert "make run P=" + slug in section(slug, "Try it")


@written
def test_there_is_a_chinese_summary(slug):
    folded = re.search(r"```\{dropdown\} 中文\n(.+?)```", section(slug, "In short"), flags=re.S)
    assert folded
    assert len(re.findall(r"[\u4e00-\u9fff]", folded.group(1))) > 100


@written
def test_every_equation_of_the_method_is_numbered_and_code_is_linked_to_tests(slug):
    method = section(slug, "Method")
    shown = [line[2:] for line in method.splitlines() if line.startswith("$$")][1::2]  # what follows each closing $$
    assert shown
    assert all(re.fullmatch(rf" \({slug}-[a-z0-9-]+\)", label) for label in shown)
    blocks = re.findall(r"```\{code-of\} (\S+)\n(.*?)```", method, flags=re.S)
    assert blocks
    assert all(":test:" in options for _, options in blocks), [
        name for name, options in blocks if ":test:" not in options
    ]


@written
def test_prose_asks_the_evidence_for_its_numbers(slug):
    assert re.search(r"\{(measured|glue:\w+)\}`", prose(text_of(slug)))


@chapter
def test_labels_and_keys_are_the_chapters_own(slug):
    keys = re.findall(r"\{glue:\w+\}`([^`]+)`|^```\{caption\} (\S+)", text_of(slug), flags=re.M)
    assert [key for pair in keys for key in pair if key and not key.startswith(f"{slug}-")] == []


@executed
def test_no_result_is_typed_in_prose(slug):
    """Numbers are asked for by name: of the run, of its setting, of the paper (`book/prose.py` says what counts)."""
    assert typed.typed_numbers(text_of(slug)) == []


@written
def test_quick_and_real_evidence_are_committed_and_judged_as_the_card_says(slug):
    card = cards.load(slug)
    for profile in ("quick", "real"):
        evidence = reference.committed(slug, profile)
        assert evidence, f"{slug} has no {profile} evidence"
        assert len(evidence["seeds"]) >= 3
        wanted = [claim for claim in card.claims if profile in claim.profiles]
        assert set(evidence["claims"]) == {claim.id for claim in wanted}
        judged = judging.judge(wanted, evidence["metrics"])
        for claim in wanted:
            assert evidence["claims"][claim.id]["verdict"] == judged[claim.id].verdict


@pytest.mark.parametrize("slug", [s for s in EVERYTHING if not cards.load(s).draft])
def test_golden_is_executed_tagged_and_of_this_chapter(slug):
    assert golden.problems(slug) == []


@written
def test_every_claim_names_where_the_paper_makes_it(slug):
    for claim in cards.load(slug).claims:
        assert claim.source
        assert claim.statement.endswith(".")


WORDS = {"half a": 0.5, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "ten": 10}
AMOUNT = re.compile(rf"(\d+(?:\.\d+)?|\b(?:{'|'.join(WORDS)}))[ -](points?|times|percent|%)|\b(half) of\b")


def told(claim):
    """The least effects that the words of a claim speak of, in its unit: "at least 1.5 points" are 0.015."""
    found = set()
    for amount, unit, half in AMOUNT.findall(claim.statement):
        size = 0.5 if half else WORDS.get(amount) or float(amount)
        if claim.unit == "accuracy":
            found |= {size / 100} if unit in ("point", "points", "percent", "%") else set()
        elif claim.scale == "log":
            found |= {size} if half or unit == "times" else {1 - size / 100, 1 + size / 100}
        else:
            found |= {size} if half or unit == "times" else {size / 100}
    return found


@pytest.mark.parametrize("slug", [s for s in SLUGS if cards.load(s).claims])
def test_the_amount_in_a_statement_is_the_least_effect_that_is_judged(slug):
    """A claim of "at least 1.5 points" cannot be judged by another number.

    What is to lie beyond a mark of its own (60 % of a gain) has a least effect of 0, what is told "in units of its own
    threshold" one of 1.
    """
    for claim in cards.load(slug).claims:
        if "in units of its own threshold" in claim.statement:
            continue
        amounts = told(claim)
        fits = any(abs(abs(claim.least) - amount) < 1e-9 for amount in amounts)
        assert fits or not amounts or claim.least == 0 or claim.kind == "identity", (claim.id, amounts, claim.least)


def test_a_statement_and_its_least_effect_can_disagree():
    claim = next(c for c in cards.load("moon").claims if c.id == "beats-fedavg")
    assert told(claim) == {0.015}
    assert -0.2 not in told(claim)
