"""Who holds what: laws that every split obeys, limits of its parameter, and bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlib import metrics, partition, rng

laws = settings(deadline=None, max_examples=30)
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(torch.tensor)


def balanced(each=60, classes=10):
    return torch.arange(classes).repeat_interleave(each)[torch.randperm(each * classes, generator=rng.stream(7))]


def is_a_split(split, labels, clients):
    assert len(split) == clients
    assert torch.equal(torch.cat(split).sort().values, torch.arange(len(labels))), "disjoint and covering"
    for part in split:
        assert part.dtype == torch.int64
        assert torch.equal(part, part.sort().values)


def held(labels, part):
    return len(labels[part].unique())


@laws
@given(LABELS, st.data(), st.integers(0, 99))
def test_iid_is_an_even_split(labels, data, seed):
    clients = data.draw(st.integers(1, len(labels)))
    split = partition.iid(labels, clients, rng.stream(seed))
    is_a_split(split, labels, clients)
    sizes = [len(part) for part in split]
    assert max(sizes) - min(sizes) <= 1


@laws
@given(LABELS, st.data(), st.integers(0, 99), st.sampled_from([1e-3, 0.1, 1.0, 1e3]), st.booleans())
def test_dirichlet_is_a_split_and_nobody_is_left_empty(labels, data, seed, alpha, cap):
    clients = data.draw(st.integers(1, len(labels)))
    least = data.draw(st.integers(0, len(labels) // clients))
    split = partition.dirichlet(labels, clients, alpha, rng.stream(seed), min_size=least, cap=cap)
    is_a_split(split, labels, clients)
    assert min(len(part) for part in split) >= least


@laws
@given(LABELS, st.data(), st.integers(0, 99))
def test_shards_is_an_even_split(labels, data, seed):
    clients = data.draw(st.integers(1, len(labels)))
    per_client = data.draw(st.integers(1, len(labels) // clients))
    split = partition.shards(labels, clients, per_client, rng.stream(seed))
    is_a_split(split, labels, clients)
    sizes = [len(part) for part in split]
    assert max(sizes) - min(sizes) <= per_client


@laws
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 8), st.integers(0, 99))
def test_shards_within_classes_give_at_most_that_many_classes(per_class, per_client, size, seed):
    """When shards do not straddle classes, a client holds at most as many classes as it has shards."""
    classes = 10
    shards = per_class * classes
    if shards % per_client:
        shards *= per_client
    labels = torch.arange(classes).repeat_interleave(shards // classes * size)
    split = partition.shards(labels, shards // per_client, per_client, rng.stream(seed))
    assert max(held(labels, part) for part in split) <= per_client


@laws
@given(LABELS, st.data(), st.integers(0, 99))
def test_shards_that_straddle_give_at_most_two_classes_each_when_long_enough(labels, data, seed):
    """A shard shorter than every class but perhaps its own touches at most two classes."""
    counts = torch.bincount(labels)
    shortest = int(counts[counts > 0].min())
    clients = data.draw(st.integers(1, len(labels)))
    split = partition.shards(labels, clients, 1, rng.stream(seed))
    if max(len(part) for part in split) <= shortest:
        assert max(held(labels, part) for part in split) <= 2


def test_shards_of_the_paper():
    """100 clients, 200 shards of 300, two each: 600 samples, at most two digits when classes are equal."""
    labels = balanced(6000)
    split = partition.shards(labels, 100, 2, rng.stream(0))
    assert {len(part) for part in split} == {600}
    classes = [held(labels, part) for part in split]
    assert max(classes) == 2
    assert sum(c == 2 for c in classes) > 70, "most clients hold two digits, a few one"


@pytest.mark.parametrize("make", [
    lambda y, g: partition.iid(y, 12, g),
    lambda y, g: partition.shards(y, 12, 2, g),
    lambda y, g: partition.dirichlet(y, 12, 0.3, g),
    lambda y, g: partition.dirichlet(y, 12, 0.3, g, cap=True),
])  # fmt: skip
def test_same_stream_same_split(make):
    labels = balanced()
    a, b, other = (make(labels, rng.stream(s, "split")) for s in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(a, other, strict=True))


def emd(labels, split):
    return sum(len(part) * metrics.label_emd(labels[part], labels) for part in split) / len(labels)


def test_alpha_goes_from_one_class_to_iid():
    """Label distance (0 for all, 1.8 for one of ten equal classes) falls as alpha grows, to IID's own."""
    labels = balanced(200)
    seen = [
        sum(emd(labels, partition.dirichlet(labels, 10, alpha, rng.stream(s))) for s in range(5)) / 5
        for alpha in (1e-3, 0.1, 1.0, 10.0, 1e5)
    ]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > 1.3
    assert seen[-1] < 0.05, "proportions become exact, below the sampling noise of a shuffled split"


def test_alpha_to_zero_gives_each_class_to_one_client():
    labels = balanced(50)
    split = partition.dirichlet(labels, 10, 1e-4, rng.stream(3), min_size=0)
    counts = partition.label_counts(labels, split, 10)
    assert ((counts > 0).sum(0) == 1).all()


def test_dirichlet_proportions_have_the_right_moments():
    """A client's share of a class has mean 1/K and variance (K - 1) / (K^2 (K alpha + 1))."""
    clients, alpha, each = 5, 0.5, 1000
    labels = balanced(each)
    splits = [partition.dirichlet(labels, clients, alpha, rng.stream(s), min_size=0) for s in range(60)]
    shares = torch.cat([partition.label_counts(labels, split, 10).flatten() for split in splits]).double() / each
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert float(shares.mean()) == pytest.approx(1 / clients, abs=1e-3)
    assert float(shares.var()) == pytest.approx(variance, rel=0.1)


def test_cap_makes_sizes_more_even():
    labels = balanced(100)

    def spread(cap):
        sizes = [[len(p) for p in partition.dirichlet(labels, 10, 0.1, rng.stream(s), cap=cap)] for s in range(10)]
        return torch.tensor(sizes).double().std(1).mean()

    assert spread(True) < 0.7 * spread(False)


def test_tiny_alpha_and_many_clients_end():
    labels = balanced(20)
    split = partition.dirichlet(labels, 200, 1e-6, rng.stream(0))
    assert {len(part) for part in split} == {1}


@laws
@given(LABELS, st.data())
def test_label_counts_add_up(labels, data):
    clients = data.draw(st.integers(1, len(labels)))
    counts = partition.label_counts(labels, partition.iid(labels, clients, rng.stream(0)), 7)
    assert torch.equal(counts.sum(0), torch.bincount(labels, minlength=7))


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match="alpha must be a finite number > 0, got"):
        partition.dirichlet(balanced(), 4, alpha, rng.stream(0))


CALLS = {
    "iid": lambda y, k: partition.iid(y, k, rng.stream(0)),
    "dirichlet": lambda y, k: partition.dirichlet(y, k, 1.0, rng.stream(0)),
    "shards": lambda y, k: partition.shards(y, k, 1, rng.stream(0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_more_clients_than_samples_is_an_error(name):
    with pytest.raises(ValueError, match="6 clients cannot share 5 samples"):
        CALLS[name](torch.arange(5), 6)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("clients", [0, -3])
def test_no_clients_is_an_error(name, clients):
    with pytest.raises(ValueError, match=f"clients must be a whole number of at least 1, got {clients}"):
        CALLS[name](torch.arange(5), clients)


@pytest.mark.parametrize("name", CALLS)
def test_labels_must_be_a_vector(name):
    with pytest.raises(ValueError, match="one-dimensional"):
        CALLS[name](torch.zeros(5, 2), 2)


def test_more_shards_than_samples_is_an_error():
    with pytest.raises(ValueError, match="2 clients with 3 shards each cannot share 5 samples"):
        partition.shards(torch.arange(5), 2, 3, rng.stream(0))


LABELS = torch.arange(40) % 4
WRONG = {
    "alpha must be a finite number > 0, got '1'": lambda: partition.dirichlet(LABELS, 4, "1", rng.stream(0)),
    "alpha = 1e\\+308 is too large": lambda: partition.dirichlet(LABELS, 4, 1e308, rng.stream(0)),
    "min_size must be a whole number of at least 0, got 1.5": lambda: partition.dirichlet(
        LABELS, 4, 1.0, rng.stream(0), min_size=1.5
    ),
    "min_size must be a whole number of at least 0, got -1": lambda: partition.dirichlet(
        LABELS, 4, 1.0, rng.stream(0), min_size=-1
    ),
    "clients must be a whole number of at least 1, got 2.5": lambda: partition.iid(LABELS, 2.5, rng.stream(0)),
    "per_client must be a whole number of at least 1, got 0": lambda: partition.shards(LABELS, 2, 0, rng.stream(0)),
    "classes must be a whole number of at least 1, got 1.5": lambda: partition.classes_per_client(
        LABELS, 4, 1.5, rng.stream(0)
    ),
    "labels must be integers from 0 on, got torch.float32": lambda: partition.iid(LABELS.float(), 2, rng.stream(0)),
    "labels must be integers from 0 on, got -1": lambda: partition.dirichlet(LABELS - 1, 2, 1.0, rng.stream(0)),
    "there are 3 classes, 0 to 2, and a sample of class 3": lambda: partition.label_counts(LABELS, [LABELS], 3),
    "a table of clients needs at least one": lambda: partition.label_counts(LABELS, [], 4),
    "held counts 3 classes, and there is a test sample of class 3": lambda: partition.matching(
        LABELS, torch.ones(2, 3, dtype=torch.int64), rng.stream(0)
    ),
    r"held must be counts of samples \[K, C\], got torch.float32": lambda: partition.matching(
        LABELS, torch.ones(2, 4), rng.stream(0)
    ),
    "most must be a whole number of at least 1, got 0": lambda: partition.matching(
        LABELS, torch.ones(2, 4, dtype=torch.int64), rng.stream(0), most=0
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_split_is_named(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


def test_min_size_beyond_the_samples_is_an_error():
    with pytest.raises(ValueError, match="min_size = 3 for 2 clients needs more than the 5 samples"):
        partition.dirichlet(torch.arange(5), 2, 1.0, rng.stream(0), min_size=3)
