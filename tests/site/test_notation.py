"""The notation page: a symbol has one meaning on any page, and no chapter uses a letter that the page does not explain.

What cannot be checked is whether a chapter *means* by a letter what its row says; what can is that every letter of
every equation has a row which holds in that chapter, that no two rows which hold there share a symbol, and that no row
is left over from a chapter that no longer uses it. Letters that papers use in different ways have no row for all
chapters, so a new chapter must say what it means by them.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from book import chapters
from book.site import symbols

# A chapter may keep a letter of its paper against the tables for all, and says so on the page.
KEPT = {("moon", "c"), ("moon", r"\sigma"), ("frskd", r"\alpha"), ("per-fedavg", r"\alpha")}
GREEK = (
    r"alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi"
    r"|varphi|chi|psi|omega|ell|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega"
)
WORDS = (
    r"\\(?:mathrm|text|operatorname)\*?(?:\s*\{[^{}]*\}|\s[A-Za-z])"
    r"|\\(?:begin|end)\{[^}]*\}|[_^]\{[A-Za-z]{2,}\}|\\mathbf\{[^{}]*\}"
)
ACCENTS = r"\\(?:hat|tilde|bar|mathcal|mathbb)\s*(?:\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z])"
TOKEN = re.compile(rf"{ACCENTS}|\\[A-Za-z]+|[A-Za-z]")
CODE = re.compile(r"^```\{code-(?:cell|of)\}.*?^```$", re.MULTILINE | re.DOTALL)
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)


def letters(tex: str) -> set[str]:
    """Letters of a formula with accent or font: ``\\bar z`` is not ``z``. Words, as in ``\\text``, do not count."""
    found = re.findall(TOKEN, re.sub(WORDS, " ", tex))
    plain = (re.sub(r"[\s{}]", "", token) for token in found)
    return {t for t in plain if re.match(rf"[A-Za-z]|\\(?:(?:{GREEK})$|hat|tilde|bar|math)", t)}


def formulas(text: str) -> list[str]:
    """Every formula in the prose of a page."""
    prose = re.sub(r"`[^`\n]*`", "", CODE.sub("", text))
    return [displayed or inline for displayed, inline in MATH.findall(prose)]


def explained(slug: str, rows: list[symbols.Row]) -> set[str]:
    """The letters that have a row in this chapter; the arguments of a function are letters of other rows."""
    return {letter for name in symbols.known(slug, rows) for letter in letters(name.split("(")[0] or name)}


def unexplained(slug: str, text: str, rows: list[symbols.Row]) -> dict[str, str]:
    """Letters of a chapter without a row, each with a formula where it stands."""
    known = explained(slug, rows)
    return {letter: tex for tex in formulas(text) for letter in letters(tex) - known}


def doubles(rows: list[symbols.Row]) -> set[tuple[str, str]]:
    """Symbols with two meanings on one page, as (chapter or "all", symbol)."""
    shared = Counter(s for row in rows if not row.chapters for s in row.symbols)
    found = {("all", s) for s, n in shared.items() if n > 1}
    for slug in {slug for row in rows for slug in row.chapters}:
        own = Counter(s for row in rows if slug in row.chapters for s in row.symbols)
        found |= {(slug, s) for s, n in own.items() if n > 1 or s in shared}
    return found


@pytest.fixture(scope="module")
def rows() -> list[symbols.Row]:
    return symbols.rows((chapters.ROOT / f"{symbols.PAGE}.md").read_text(encoding="utf-8"))


def test_a_symbol_has_one_meaning_on_any_page(rows):
    kept = {(slug, s) for row in rows if row.kept for slug in row.chapters for s in row.symbols}
    assert kept == KEPT, "the table of letters kept from a paper changed: could the chapter not use another letter?"
    assert doubles(rows) == KEPT


def test_greek_letters_for_all_chapters_are_those_that_mean_the_same_in_all(rows):
    """Weights and temperatures are named after the paper at hand: their rows name the chapters that they hold for."""
    shared = {letter for row in rows if not row.chapters for name in row.symbols for letter in letters(name)}
    greek = {letter for letter in shared if re.fullmatch(rf"\\(?:{GREEK})", letter)}
    assert greek == {r"\alpha", r"\eta", r"\pi", r"\sigma", r"\Delta"}


@pytest.mark.parametrize(
    ("slug", "letter", "meaning"),
    [
        ("moon", r"\mu", "the contrast in MOON"),
        ("moon", r"\tau", "temperature of the contrast"),
        ("moon", r"\sigma", "logistic function"),
        ("fedntd", r"\tau", "temperature of a distillation"),
        ("fedopt", r"\tau", "adaptivity"),
        ("ccvr", r"\tau", "exponent"),
        ("feddf-experiments", r"\mu", "proximal term"),
        ("fedgen", r"\beta", "generated features"),
        ("fedbn", r"\beta", "BatchNorm"),
        ("fedlsd-forgetting", r"\beta", "weight of the distillation"),
        ("ccvr", "d", "number of features"),
        ("fedavg", "d", "number of parameters"),
        ("fedgen", "g", "predictor"),
        ("fedopt", "m", "first and second moment"),
        ("fedavg", "m", "size of $S_t$"),
    ],
)
def test_a_letter_that_papers_share_means_in_a_chapter_what_that_chapter_means(slug, letter, meaning, rows):
    assert meaning in symbols.known(slug, rows)[letter].meaning


def test_a_row_that_names_a_chapter_is_what_its_symbols_lead_to_there(rows):
    for row in rows:
        for slug in row.chapters:
            assert {symbols.known(slug, rows)[name] for name in row.symbols} == {row}


@pytest.mark.parametrize("slug", sorted(p.parent.name for p in (chapters.ROOT / "papers").glob("*/chapter.md")))
def test_a_chapter_uses_only_letters_that_the_page_explains(slug, rows):
    text = (chapters.ROOT / "papers" / slug / "chapter.md").read_text(encoding="utf-8")
    lacking = unexplained(slug, text, rows)
    assert not lacking, f"papers/{slug}: no row of {symbols.PAGE}.md explains these letters: {lacking}"


def test_every_row_of_one_chapter_is_used_there(rows):
    for row in rows:
        for slug in row.chapters:
            path = chapters.ROOT / "papers" / slug / "chapter.md"
            assert path.is_file(), f"{symbols.PAGE}.md names a chapter {slug!r} that does not exist"
            used = {letter for tex in formulas(path.read_text(encoding="utf-8")) for letter in letters(tex)}
            unused = {letter for name in row.symbols for letter in letters(name.split("(")[0] or name)} - used
            assert not unused, f"{symbols.PAGE}.md gives {slug} {unused}, which it does not use"


TABLE = """
| $w$; $w_t$ | parameters | |
| $\\bar z = f(x)$ | mean logits | |
| $a$ | a share | [One](../../papers/one/chapter.md) |
"""


def test_the_checks_can_fail():
    rows = symbols.rows(TABLE)
    assert [row.symbols for row in rows] == [("w", "w_t"), (r"\barz",), ("a",)]
    assert unexplained("one", "With $a w_t$ and $\\bar z$, `$q$`, and $\\text{words}$.", rows) == {}
    assert set(unexplained("two", "$a w$", rows)) == {"a"}
    assert set(unexplained("one", "$$\nz + \\beta\n$$", rows)) == {"z", "\\beta"}
    assert doubles(rows) == set()
    assert doubles(symbols.rows(TABLE + "| $w$ | width | [One](../../papers/one/chapter.md) |\n")) == {("one", "w")}
    assert doubles(symbols.rows(TABLE + "| $w_t$ | again | |\n")) == {("all", "w_t")}
