"""What an author says on a claim whose verdicts differ must name the profile or the data that it speaks of."""

from __future__ import annotations

import re

import pytest

from book import reference
from book.site import press

# Profiles, and the data of the book by the names that prose gives them.
SPOKEN_OF = re.compile(
    r"\b(?:smoke|quick|real|full|digits|MNIST|MNIST-M|Fashion-MNIST|CIFAR-10|CIFAR-100|USPS|AG News|TREC"
    r"|letters|texts|photographs|words)\b"
    r"|\b(?:both|all) (?:profiles|data sets)\b"
)


def differs(slug, claim):
    """Whether the committed profiles disagree: authors wrote for these; here another processor may decide otherwise."""
    seen = [reference.committed(slug, profile) for profile in press.PROFILES if profile in claim.profiles]
    return len({evidence["claims"][claim.id]["verdict"] for evidence in seen if evidence}) > 1


DIFFERING = [
    (slug, claim)
    for slug in press.slugs()
    for claim in press.card(slug).claims
    if claim.explanation and differs(slug, claim)
]


@pytest.mark.parametrize(("slug", "claim"), DIFFERING, ids=[f"{slug}/{claim.id}" for slug, claim in DIFFERING])
def test_an_explanation_of_verdicts_that_differ_says_of_what_it_speaks(slug, claim):
    assert SPOKEN_OF.search(claim.explanation), (
        f"papers/{slug}/paper.yml: the explanation of {claim.id} names neither a profile nor data, "
        "but the profiles came to different verdicts"
    )


def test_the_rule_finds_what_was_written_for_one_profile_alone():
    assert not SPOKEN_OF.search("With three seeds the interval is wide.")
    assert SPOKEN_OF.search("On digits the interval is wide.")
