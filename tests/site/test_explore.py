"""Figures that a reader turns: what the directive refuses, what a frame says, and that it works without JavaScript."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from miniature import PAGE, Book, text_of

from book import chapters
from book.site import explore

BODY = """
parameter: Local epochs
values: {E1: 1, E2: 2}
unit: accuracy
rows:
  FedAvg: accuracy/{}/fedavg
  other: accuracy/{}/other
baseline: {central: accuracy/central}
"""
METRICS = {
    name: {"mean": mean, "sd": 0.01, "ci95": [mean - 0.02, mean + 0.02], "values": {"0": mean - 0.01, "1": mean + 0.01}}
    for name, mean in {
        "accuracy/E1/fedavg": 0.5,
        "accuracy/E2/fedavg": 0.75,
        "accuracy/E1/other": 0.4,
        "accuracy/E2/other": 0.6,
        "accuracy/central": 0.9,
    }.items()
}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("parameter:", "paramter:", "Did you mean 'parameter'"),
        ("parameter: Local epochs\n", "", "'parameter' is missing"),
        ("{E1: 1, E2: 2}", "[E1]", "got 1, expected 2 to 8"),
        ("accuracy/{}/other", "accuracy/other", "has no {} for the value"),
        ("rows:", "rows: [", "not YAML"),
    ],
)
def test_a_body_that_is_wrong_is_refused_with_what_was_expected(old, new, complaint):
    assert old in BODY
    with pytest.raises(ValueError, match=re.escape(complaint)):
        explore.read(BODY.replace(old, new))


def frames() -> list[ElementTree.Element]:
    html = explore.drawn(explore.read(BODY), METRICS, "accuracy", "figure", "Title")
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html)]


def test_every_frame_says_in_words_what_it_shows():
    first, second = frames()
    assert first.find("title").text == "Local epochs: 1"
    said = [frame.find("desc").text.replace("\u00a0", " ") for frame in (first, second)]
    assert "FedAvg 50.0 % [48.0, 52.0]; other 40.0 % [38.0, 42.0]; central 90.0 %" in said[0]
    assert "FedAvg 75.0 %" in said[1]
    for frame in (first, second):
        assert frame.get("aria-labelledby").split() == [frame.find("title").get("id"), frame.find("desc").get("id")]
        assert "FedAvg" in [text.text for text in frame.iter("text")]


def test_marks_stand_where_their_values_are_on_one_axis_for_all_frames():
    def places(frame):
        """Horizontal places of the first row's mean, of its seeds, and of the other frame's mean."""
        row = next(g for g in frame.iter("g"))
        mean = next(mark for mark in row if mark.get("class") == "mean")
        seeds = [float(mark.get("cx")) for mark in row if mark.get("class") == "seed"]
        ghost = next(mark for mark in row if mark.get("class") == "ghost")
        return float(mean.get("cx")), seeds, float(re.match(r"M([\d.]+)", ghost.get("d")).group(1))

    (mean1, seeds1, ghost1), (mean2, seeds2, ghost2) = map(places, frames())
    assert mean1 < mean2
    assert (ghost1, ghost2) == (mean2, mean1)
    assert sum(seeds1) / 2 == pytest.approx(mean1, abs=0.1)
    assert seeds2[1] - seeds2[0] == pytest.approx(seeds1[1] - seeds1[0], abs=0.2)
    per_unit = (mean2 - mean1) / 0.25
    assert seeds1[1] - seeds1[0] == pytest.approx(0.02 * per_unit, abs=0.2)


@pytest.mark.parametrize(("low", "high"), [(0.31, 0.97), (0.0, 15.7), (-0.6, 1.1), (0.9, 0.93), (100.0, 1000.0)])
def test_ticks_are_few_and_round(low, high):
    found = explore.ticks(low, high)
    assert 3 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    assert all(len(f"{tick:g}".replace("-", "").replace(".", "").strip("0")) <= 3 for tick in found)


@pytest.mark.parametrize("colour", ["#0072B2", "#332288", "#000000", "#E69F00"])
def test_colours_are_seen_on_a_dark_page(colour):
    page = explore.luminance([int(explore.DARK[i : i + 2], 16) for i in (1, 3, 5)])
    made = explore.on_dark(colour)
    assert (explore.luminance([int(made[i : i + 2], 16) for i in (1, 3, 5)]) + 0.05) / (page + 0.05) >= 4.5


@pytest.fixture
def book(tmp_path, monkeypatch) -> Book:
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    return Book(tmp_path)


def with_figure(book: Book, body: str) -> None:
    book.edit(
        "papers/mini/chapter.md", "```{claims}\n```\n", f"```{{explore}} By $R$\n{body}```\n\n```{{claims}}\n```\n"
    )


def test_the_directive_draws_the_evidence_of_its_chapter(book):
    with_figure(book, "parameter: which\nvalues: {ize: one, ize2: two}\nrows:\n  small: s{}\n")
    book.execute()
    assert "mini has no metric 'size2'; most like it: size" in book.build()[1]
    book.edit("papers/mini/chapter.md", "{ize: one, ize2: two}", "{ize: one, size: two}")
    book.edit("papers/mini/chapter.md", "s{}", "{}")
    assert "mini has no metric 'ize'" in book.build()[1]


def test_without_evidence_it_says_how_to_get_some(book):
    with_figure(book, "parameter: which\nvalues: [a, b]\nrows:\n  small: s/{}\n")
    assert text_of(book.build()[0][PAGE]).count("No evidence at the quick profile") == 2  # {evidence} says so, too


# The built book.

SHOWN = "boxes => boxes.map(box => [...box.querySelectorAll('.explore-frame')].map(f => f.checkVisibility()))"


@pytest.fixture(scope="module")
def pages(site) -> list[str]:
    found = [
        p for p in sorted(site.glob("papers/*/chapter.html")) if 'class="explore"' in p.read_text(encoding="utf-8")
    ]
    assert len(found) >= 4, "figures that a reader turns are wanted in at least four chapters"
    return [p.as_uri() for p in found]


@pytest.mark.site
def test_frames_switch_without_javascript_and_all_are_printed(pages, browser):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    for page in pages[:4]:
        tab.emulate_media(media="screen")
        tab.goto(page)
        tab.locator(".explore input").nth(1).check(force=True)
        for shown in tab.eval_on_selector_all(".explore", SHOWN)[:1]:
            assert shown == [i == 1 for i in range(len(shown))], page
        tab.emulate_media(media="print")
        assert all(all(shown) for shown in tab.eval_on_selector_all(".explore", SHOWN)), page
    context.close()


@pytest.mark.site
def test_arrow_keys_turn_the_figure_and_the_values_are_announced(pages, browser):
    tab = browser.new_page()
    tab.goto(pages[0])
    tab.locator(".explore input").first.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.eval_on_selector_all(".explore", SHOWN)[0][:2] == [False, True]
    said = tab.locator(".explore [role=status]").first.text_content()
    assert said == tab.locator(".explore input").nth(1).get_attribute("data-said")
    assert re.search(r"\d", said)
    tab.close()


MEASURE = """svgs => svgs.filter(s => s.checkVisibility()).flatMap(svg => {
  const box = svg.getBoundingClientRect();
  const end = [...svg.querySelectorAll('.name')].map(e => [e, e.nextElementSibling.getBoundingClientRect().left]);
  return [...svg.querySelectorAll('text')].map(text => {
    const b = text.getBoundingClientRect();
    const limit = end.find(pair => pair[0] === text)?.[1] ?? box.right + 2;
    const size = parseFloat(getComputedStyle(text).fontSize) * box.width / svg.viewBox.baseVal.width;
    return [text.textContent, b.left >= box.left - 2 && b.right <= limit, size];
  });
})"""


@pytest.mark.site
def test_text_of_a_frame_stays_inside_it_and_can_be_read(pages, browser):
    tab = browser.new_page()
    tab.route("**/tex-svg-full.js", lambda route: route.abort())  # typesetting takes a second, and frames have no maths
    for page in pages:
        tab.goto(page)
        for width in (390, 820, 1440):
            tab.set_viewport_size({"width": width, "height": 900})
            for text, inside, size in tab.eval_on_selector_all(".explore-frame svg", MEASURE):
                assert inside, f"{page}: {text!r} leaves its place at {width} px"
                assert size >= 8.5, f"{page}: {text!r} is {size:.1f} px high at {width} px"
    tab.close()
