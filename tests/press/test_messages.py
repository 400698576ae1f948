"""What a person reads who has mistyped something."""

from __future__ import annotations

import pytest

from book import chapters
from book.errors import nearest

MANY = [f"test_number_{n}" for n in range(60)]


def test_no_suggestion_is_unlike_what_was_typed():
    assert nearest("nosuch", ("feddf-extensions", "moon")) == " Known: feddf-extensions, moon."
    assert nearest("mooon", ("feddf", "moon")) == " Did you mean 'moon'? Known: feddf, moon."


def test_of_many_names_only_the_nearest_are_listed():
    told = nearest("test_numbr_7", MANY)
    assert told.startswith(" Did you mean 'test_number_7'? Of 60 known, the nearest: test_number_7, ")
    assert told.count("test_number_") == 5


def test_a_parameter_without_a_name_is_told_as_such(tree):
    tree.add("demo")
    status, output = tree.press("run", "demo", "-p", "=3")
    assert status == 2
    assert "-p '=3': expected name=value" in output


@pytest.mark.parametrize("slugs", [("demo", "demo")])
def test_a_chapter_named_twice_is_accepted_once(tree, slugs):
    tree.add("demo")
    status, output = tree.press("accept", *slugs)
    assert status == 2
    assert output.count("error") == output.count("never executed") == 1
    assert not chapters.evidence_path("demo", "quick").exists()
