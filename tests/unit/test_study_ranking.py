"""Tiers of methods that cannot be told apart."""

import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedlib.study import ranking


def by_seed(*values):
    return dict(enumerate(values))


def test_a_method_that_is_below_on_every_seed_by_as_much_is_in_a_lower_tier():
    a, b = (0.9, 0.8, 0.7, 0.9, 0.8, 0.7), (0.8, 0.7, 0.6, 0.8, 0.7, 0.6)
    assert ranking.tiers({"a": by_seed(*a), "b": by_seed(*b)}) == [["a"], ["b"]]
    few = {"a": by_seed(*a[:3]), "b": by_seed(*b[:3])}
    assert ranking.tiers(few) == [["a", "b"]], "three seeds without spread may be luck"


def test_equal_methods_share_a_tier():
    values = {"a": by_seed(0.9, 0.8, 0.7), "b": by_seed(0.9, 0.8, 0.7)}
    assert ranking.tiers(values) == [["a", "b"]]


def test_noise_tells_nobody_apart():
    values = {"a": by_seed(0.9, 0.5, 0.8), "b": by_seed(0.5, 0.9, 0.7)}
    assert ranking.tiers(values) == [["a", "b"]]


def test_one_seed_tells_nobody_apart():
    assert ranking.tiers({"a": by_seed(0.9), "b": by_seed(0.1)}) == [["a", "b"]]


def test_tiers_are_found_one_below_the_other_and_pairing_counts():
    hard = np.array([0.5, 0.9, 0.7, 0.6])  # seeds differ more than methods
    steps = np.array([0.0, 0.001, -0.001, 0.0005])
    values = {"low": hard - 0.1 + steps, "top": hard, "middle": hard - 0.05 - steps, "twin": hard - steps / 2}
    assert ranking.tiers({m: dict(enumerate(v)) for m, v in values.items()}) == [["top", "twin"], ["middle"], ["low"]]


@pytest.mark.parametrize(("methods", "draws"), [(5, 200), (17, 50)])  # 136 pairs of seventeen take their time
@pytest.mark.parametrize("seeds", [5, 8])
def test_equal_methods_are_rarely_told_apart(methods, draws, seeds):
    """At most 5 % of leaderboards of equal methods have a second tier, although the best is seen in the same values."""
    draw = np.random.default_rng(methods + seeds)
    split = 0
    for _ in range(draws):
        scores = draw.normal(0.7, 0.1, seeds) + draw.normal(0, 0.03, (methods, seeds))  # seeds differ for all alike
        split += len(ranking.tiers({str(m): dict(enumerate(row)) for m, row in enumerate(scores)})) > 1
    assert split / draws < 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_every_method_has_one_place_in_the_order_of_the_means(rows):
    values = {str(i): dict(enumerate(row)) for i, row in enumerate(rows)}
    flat = [m for tier in ranking.tiers(values) for m in tier]
    assert sorted(flat) == sorted(values)
    means = [sum(values[m].values()) for m in flat]
    assert means == sorted(means, reverse=True)


def test_the_table_tells_paired_differences_that_accuracies_can_have():
    values = {"FedAvg": by_seed(0.0, 1.0), "MOON": by_seed(1.0, 1.0)}
    text = ranking.table(values, "FedAvg", {"MB": lambda m: "1 & 2"}, "All")
    assert "+50.0 [−100.0, +100.0]" in text
    assert "1 &amp; 2" in text
    assert re.findall(r"<td>(\w+)</td><td>\d", text) == ["MOON", "FedAvg"]


def test_a_ranking_needs_the_method_that_it_compares_with():
    with pytest.raises(KeyError):
        ranking.table({"MOON": by_seed(0.5, 0.6)}, "FedAvg", {}, "All")
