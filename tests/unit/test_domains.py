"""Digits in several looks: one form for all, nothing shared in training, balanced, the same for the same seed."""

from collections import Counter

import pytest
import torch

from fedlib import rng
from fedlib.data import available, load
from fedlib.data.domains import LOOKS, NAMES, SETS, digits, in_turns

HERE = ("digits", "inverted", "faint", "striped", "speckled", *LOOKS)


def draw(names=HERE, train=40, test=20, size=8, channels=1, seed=0):
    return digits(names, train, test, size=size, channels=channels, seed=seed)


def test_all_domains_have_one_form():
    for part, count in zip(draw(size=12, channels=3), (40, 20), strict=True):
        assert part.x.shape == (count * len(HERE), 3, 12, 12)
        assert -1 <= float(part.x.min()) <= float(part.x.max()) <= 1
        assert [len(rows) for rows in part.rows] == [count] * len(HERE)
        assert torch.equal(torch.cat(part.rows), torch.arange(len(part.y)))


def test_classes_take_turns():
    for part in draw():
        for rows in part.rows:
            assert part.y[rows].bincount(minlength=10).tolist() == [len(rows) // 10] * 10
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    order = in_turns(labels, rng.stream(0, "turns"))
    assert sorted(order.tolist()) == list(range(7))
    assert sorted(labels[order][:3].tolist()) == [0, 1, 2]
    assert sorted(labels[order][3:5].tolist()) == [0, 1]


def test_domains_of_one_set_share_no_training_sample():
    train, _ = draw(("digits", "inverted", "faint"), train=400)
    plain, inverted, faint = (train.of(n)[0] for n in train.names)
    undone = [plain, -inverted, ((faint + 1) / 2 - 0.55) / 0.3 * 2 - 1]
    seen = [{tuple(i.flatten().mul(8).round().int().tolist()) for i in x} for x in undone]
    whole = load("digits", normalise=False).x_train * 2 - 1
    there = [tuple(i.flatten().mul(8).round().int().tolist()) for i in whole]
    twice = {i for i, count in Counter(there).items() if count > 1}  # the set itself may have equal images
    assert all(s <= set(there) for s in seen)
    assert not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]) - twice


def test_rules_of_the_changed_domains():
    _, test = draw(("digits", "inverted", "faint", "striped", "speckled"))
    plain, *others = (test.of(n)[0] for n in test.names)  # test samples are the same
    p, inverted, faint, striped, speckled = ((x + 1) / 2 for x in (plain, *others))
    torch.testing.assert_close(inverted, 1 - p)
    torch.testing.assert_close(faint, 0.55 + 0.3 * p)
    torch.testing.assert_close(striped[..., 1::2], p[..., 1::2])
    torch.testing.assert_close(striped[..., ::2], (1 + p[..., ::2]) / 2)
    assert float(((speckled > 0.5) == (p > 0.5)).float().mean()) > 0.9


def test_same_seed_same_samples_and_others_beside_them_do_not_matter():
    one, again, other = draw(seed=1)[0], draw(seed=1)[0], draw(seed=2)[0]
    assert torch.equal(one.x, again.x)
    assert not torch.equal(one.x, other.x)
    alone = draw(("rendered",), seed=1)[0]
    torch.testing.assert_close(alone.x, one.of("rendered")[0])
    more = draw(("digits", "rendered", "inverted"), seed=1)[0]
    torch.testing.assert_close(more.of("inverted")[0], one.of("inverted")[0])


def test_domains_are_not_standardised_one_by_one():
    """Whoever does that has removed most of the shift before FedBN could."""
    train, _ = draw()
    means = {n: float(train.of(n)[0].mean()) for n in train.names}
    assert max(means.values()) - min(means.values()) > 0.5, means


def test_every_name_is_a_set_or_a_look_and_bad_wishes_are_refused():
    assert set(NAMES) == set(SETS) | set(LOOKS)
    with pytest.raises(ValueError, match="no domain is called svhn; there are digits, inverted"):
        draw(("digits", "svhn"))
    with pytest.raises(ValueError, match=r"domain 'inverted': 1600 train samples of digits are wanted for 2 domains"):
        draw(("digits", "inverted"), train=800)


@pytest.mark.parametrize("name", ["mnist", "usps", "mnist_m"])
def test_real_sets_are_brought_to_the_form(name):
    if not available()[name].endswith(".npz"):
        pytest.skip(f"{name} is not at hand")
    train, test = digits((name,), 20, 10, size=16, channels=3)
    assert train.x.shape == (20, 3, 16, 16)
    assert float(test.x.std()) > 0.2
    assert train.y.bincount(minlength=10).tolist() == [2] * 10
