"""Streams are named by what they are for: nothing else moves them."""

import torch
from hypothesis import given, strategies as st

from fedlib import rng

parts = st.lists(st.one_of(st.integers(0, 99), st.text("abc", max_size=2)), max_size=3)


@given(parts, parts)
def test_different_keys_give_different_seeds(a, b):
    assert (rng.key(*a) == rng.key(*b)) == (a == b)


def test_a_number_is_not_its_text_and_borders_count():
    assert len({rng.key(1, 2), rng.key("1", 2), rng.key(12), rng.key("12"), rng.key("1", "2")}) == 5


def test_the_streams_are_pinned():
    # A change here would silently change every number of the book.
    assert rng.key(0, "batches", 1, 2) == 5379977259474545159
    assert torch.randperm(5, generator=rng.stream(0, "split")).tolist() == [0, 4, 3, 1, 2]


def test_building_a_model_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b = (
        rng.build(lambda: torch.nn.Linear(3, 2), 7, "init"),
        rng.build(lambda: torch.nn.Linear(3, 2), 7, "init"),
    )
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(a.weight, b.weight)
    assert not torch.equal(a.weight, rng.build(lambda: torch.nn.Linear(3, 2), 8, "init").weight)
