"""The map of the book: boxes of all notes by part, arrows from the cards, and the same as a list."""

import re

import pytest

from book.site import concept_map, press


@pytest.fixture
def small(monkeypatch):
    """Three chapters in two parts, and a note without a chapter."""

    class Card:
        def __init__(self, title, part, builds_on):
            self.title, self.part, self.builds_on, self.page = title, part, builds_on, False

    class Entry:
        def __init__(self, slug, part):
            self.slug, self.part = slug, part

    first, second = press.PARTS[0], press.PARTS[3]
    known = {
        "base": Card(f"{first}: the base", first, []),
        "one": Card("One: and more", second, ["base"]),
        "two": Card("Two & a half", second, ["one", "base", "unknown"]),
    }
    monkeypatch.setattr(press, "slugs", lambda: list(known))
    monkeypatch.setattr(press, "card", known.__getitem__)
    monkeypatch.setattr(press, "entries", lambda: [Entry("one", second), Entry("two", second), Entry("later", second)])


def test_boxes_stand_by_part_and_do_not_overlap(small):
    boxes, captions, height = concept_map.lay_out()
    assert [part for part, _ in captions] == [press.PARTS[0], press.PARTS[3]]
    assert {s: (b.name, b.written) for s, b in boxes.items()} == {
        "base": ("the base", True),
        "one": ("One", True),
        "two": ("Two & a half", True),
        "later": ("later", False),
    }
    assert boxes["base"].y < boxes["one"].y == boxes["two"].y < height
    places = [(b.x, b.y) for b in boxes.values()]
    assert len(set(places)) == len(places)


def test_arrows_are_those_of_the_cards(small):
    svg = concept_map.drawn(lambda slug: f"to/{slug}.html")
    arrows = re.findall(r'class="arrow at-(\S+) at-(\S+)"', svg)
    assert sorted(arrows) == [("base", "one"), ("base", "two"), ("one", "two")]
    assert "3 arrows" in svg
    assert re.findall(r'href="(\S+)"', svg) == ["to/base.html", "to/one.html", "to/two.html"]
    assert "Two &amp; a half" in svg
    assert "not yet written" in svg


def test_a_long_part_goes_on_in_another_row(monkeypatch, small):
    class Entry:
        def __init__(self, number):
            self.slug, self.part = f"note-{number}", press.PARTS[1]

    monkeypatch.setattr(press, "entries", lambda: [Entry(i) for i in range(7)])
    boxes, _, _ = concept_map.lay_out()
    rows = [boxes[f"note-{i}"].y for i in range(7)]
    assert rows == sorted(rows)
    assert len(set(rows)) == 2
    assert max(b.x for b in boxes.values()) == (concept_map.COLUMNS - 1) * (concept_map.WIDE + concept_map.ACROSS)
