"""The picture of verdicts shows what the judge says, where the intervals lie."""

import re

import pytest

from book.site import elements, words
from fedlib import verdicts


def test_the_picture_has_every_word_that_a_measured_claim_can_get():
    assert {one.verdict.word for one in words.examples()} == set(verdicts.VERDICTS) - {"not run"}


def test_every_bar_is_the_interval_of_its_dots():
    spans = re.findall(r'<line class="span [^"]*" x1="([^"]*)" x2="([^"]*)"', words.drawn())
    assert len(spans) == len(words.examples())
    for one, ends in zip(words.examples(), spans, strict=True):
        seen = verdicts.judge(one.values, "above", words.LEAST, 0.0).interval
        assert tuple(map(float, ends)) == (words.across(seen.low), words.across(seen.high))
        assert words.LEFT < float(ends[0]) < float(ends[1]) < words.WIDE - 130, "it keeps clear of the words"


@pytest.mark.parametrize("word", [w for w in verdicts.VERDICTS if w != "not run"])
def test_a_reader_without_colours_or_without_the_picture_reads_the_same(word):
    picture = words.drawn()
    assert f">{elements.SIGNS[word].replace('<', '&lt;')} {word}</text>" in picture
    assert f"{word}: from " in re.search(r'aria-label="([^"]*)"', picture)[1]
