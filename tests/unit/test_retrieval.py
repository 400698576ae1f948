"""Retrieval: rank-1 and mean average precision against lists sorted by hand, and what is refused."""

import math

import pytest
import torch
from federations import FLOAT, federation
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score

from fedlib import metrics, require, retrieval

CASES = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 10**6)


def case(seed, queries=7, entries=15, people=3, cameras=2):
    """Random features, ids and cameras, in which every query has a match of another camera."""
    g = torch.Generator().manual_seed(seed)
    q, e = (torch.randn(n, 4, generator=g, dtype=FLOAT) for n in (queries, entries))
    ids = torch.randint(people, (queries,), generator=g), torch.arange(entries) % people
    seen_by = torch.randint(cameras, (queries,), generator=g), torch.arange(entries) // people % cameras
    return (q, ids[0], e, ids[1]), seen_by


def by_hand(query, query_ids, gallery, gallery_ids, query_cameras=None, gallery_cameras=None):
    """Rank-1 and mAP from sorted lists, one query after the other, in plain Python."""
    first, precisions = [], []
    for i, q in enumerate(query.tolist()):
        rows = []
        for j, e in enumerate(gallery.tolist()):
            same = int(query_ids[i]) == int(gallery_ids[j])
            if same and query_cameras is not None and int(query_cameras[i]) == int(gallery_cameras[j]):
                continue
            cosine = sum(a * b for a, b in zip(q, e, strict=True)) / math.hypot(*q) / math.hypot(*e)
            rows.append((-cosine, same))
        hits = [same for _, same in sorted(rows)]
        first.append(hits[0])
        found = [sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit]
        precisions.append(sum(found) / len(found))
    return sum(first) / len(first), sum(precisions) / len(precisions)


@CASES
@given(SEEDS, st.booleans())
def test_both_measures_are_those_of_lists_sorted_by_hand(seed, with_cameras):
    given_, cameras = case(seed)
    cameras = cameras if with_cameras else ()
    rank1, precision = by_hand(*given_, *cameras)
    assert metrics.rank1(*given_, *cameras) == pytest.approx(rank1, abs=1e-14)
    assert metrics.mean_average_precision(*given_, *cameras) == pytest.approx(precision, abs=1e-14)
    both = retrieval.scores(*given_, *cameras)
    assert both == pytest.approx({"rank1": rank1, "map": precision}, abs=1e-14)


@CASES
@given(SEEDS)
def test_average_precision_is_that_of_scikit_learn(seed):
    (q, ids, e, gallery_ids), _ = case(seed)
    similarity = torch.nn.functional.cosine_similarity(q[:, None], e[None], dim=-1)
    each = [
        average_precision_score((gallery_ids == i).numpy(), s.numpy()) for i, s in zip(ids, similarity, strict=True)
    ]
    assert metrics.mean_average_precision(q, ids, e, gallery_ids) == pytest.approx(sum(each) / len(each), abs=1e-12)


@CASES
@given(SEEDS)
def test_the_length_of_a_feature_does_not_matter_and_that_of_a_unit_is_one(seed):
    (q, ids, e, gallery_ids), cameras = case(seed)
    longer = q * torch.rand(len(q), 1, dtype=FLOAT) * 50 + q * 1e-3
    other = e * (1 + torch.rand(len(e), 1, dtype=FLOAT))
    assert metrics.rank1(longer, ids, other, gallery_ids, *cameras) == metrics.rank1(q, ids, e, gallery_ids, *cameras)
    torch.testing.assert_close(retrieval.unit("x", longer).norm(dim=1), torch.ones(len(q), dtype=FLOAT))


@pytest.mark.parametrize("place", [1, 2, 5])
def test_one_match_at_a_place_has_the_precision_of_that_place(place):
    angles = torch.linspace(0.1, 1.5, 6, dtype=FLOAT)
    gallery = torch.stack([angles.cos(), angles.sin()], 1)
    ids = (torch.arange(6) == place - 1).long()
    query = torch.tensor([[1.0, 0.0]], dtype=FLOAT)
    assert metrics.mean_average_precision(query, torch.tensor([1]), gallery, ids) == pytest.approx(1 / place)
    assert metrics.rank1(query, torch.tensor([1]), gallery, ids) == (place == 1)


def test_a_picture_of_the_same_camera_is_no_find():
    """The easy match, nearly the query itself, would make rank-1 perfect; without it somebody else stands first."""
    query, ids, camera = torch.tensor([[1.0, 0.0]]), torch.tensor([3]), torch.tensor([0])
    gallery = torch.tensor([[1.0, 0.01], [0.9, 0.3], [0.5, 0.9]])
    gallery_ids, cameras = torch.tensor([3, 7, 3]), torch.tensor([0, 0, 1])
    assert metrics.rank1(query, ids, gallery, gallery_ids) == 1
    assert metrics.rank1(query, ids, gallery, gallery_ids, camera, cameras) == 0
    assert metrics.mean_average_precision(query, ids, gallery, gallery_ids, camera, cameras) == pytest.approx(1 / 2)


def test_others_of_the_same_camera_stay_in_the_gallery():
    query, ids, camera = torch.tensor([[1.0, 0.0]]), torch.tensor([3]), torch.tensor([0])
    gallery, cameras = torch.tensor([[1.0, 0.1], [0.5, 0.9]]), torch.tensor([0, 1])
    assert metrics.rank1(query, ids, gallery, torch.tensor([7, 3]), camera, cameras) == 0


def test_features_that_are_all_equal_find_nothing():
    """Equal similarities: in the order of the gallery the match would stand first."""
    same, ids = torch.ones(4, 3), torch.tensor([0, 1, 2, 3])
    assert metrics.rank1(same[:1], ids[:1], same, ids) == 0
    assert metrics.mean_average_precision(same[:1], ids[:1], same, ids) == pytest.approx(1 / 4)


GIVEN, CAMERAS = case(0)


def without(place, value):
    return tuple(value if i == place else v for i, v in enumerate(GIVEN))


@pytest.mark.parametrize(
    ("given_", "cameras", "message"),
    [
        (without(0, torch.zeros(7, 0)), (), r"query must be features \[N, D\] with N, D >= 1, got \[7, 0\]"),
        (without(0, torch.zeros(0, 4)), (), r"query must be features .*got \[0, 4\]"),
        (without(2, torch.ones(15)), (), r"gallery must be features .*got \[15\]"),
        (without(2, torch.ones(15, 5)), (), "features of one width, got 4 and 5"),
        (without(1, torch.zeros(6).long()), (), r"query_ids must be integers \[7\], .*got torch.int64 \[6\]"),
        (without(3, torch.zeros(15)), (), r"gallery_ids must be integers \[15\], .*got torch.float32"),
        (without(3, torch.zeros(15, 1).long()), (), r"gallery_ids must be integers \[15\]"),
        (GIVEN, (CAMERAS[0][:-1], CAMERAS[1]), r"query_cameras must be integers \[7\]"),
        (GIVEN, (CAMERAS[0], CAMERAS[1][:, None]), r"gallery_cameras must be integers \[15\]"),
        (GIVEN, (CAMERAS[0],), "give both, or neither"),
        (without(1, torch.full((7,), 9)), (), "needs a match in the gallery; without one: query 0, 1, 2, 3, 4, ..."),
        (GIVEN, (CAMERAS[0] * 0, CAMERAS[1] * 0), "a match in the gallery of another camera; without one"),
    ],
)
@pytest.mark.parametrize("measure", [metrics.rank1, metrics.mean_average_precision])
def test_nonsense_is_refused(measure, given_, cameras, message):
    with pytest.raises(ValueError, match=message):
        measure(*given_, *cameras)


@pytest.mark.parametrize("measure", [retrieval.found_first, retrieval.average_precision])
@pytest.mark.parametrize(
    "matches",
    [
        torch.ones(0, 3).bool(),
        torch.ones(3, 0).bool(),
        torch.ones(3).bool(),
        torch.ones(2, 3),
        torch.tensor([[True], [False]]),
    ],
)
def test_what_is_no_ranking_has_no_score(measure, matches):
    with pytest.raises(ValueError, match=r"matches must be rankings, bool \[Q, G\] .*got torch"):
        measure(matches)


def test_complex_features_are_no_features():
    with pytest.raises(ValueError, match=r"query must be features .*got \[7, 4\], torch.complex"):
        metrics.rank1(*without(0, GIVEN[0] + 0j))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_features_that_collapsed_or_are_not_finite_are_no_features(place, value):
    poisoned = GIVEN[place].clone()
    poisoned[1] = value
    with pytest.raises(require.NotFinite, match=("query", "", "gallery")[place]):
        metrics.rank1(*without(place, poisoned))


@pytest.mark.parametrize("clients", [3, 1])
def test_a_federation_is_looked_at_by_its_server_and_by_its_clients(clients):
    g = torch.Generator().manual_seed(0)
    x, people = torch.randn(24, 5, generator=g, dtype=FLOAT), torch.arange(24) // 4 % 4
    cameras, rows = torch.arange(24) % 2, list(torch.arange(24).split(8))
    tests = retrieval.Tests(x, people, cameras, rows)
    y, split = torch.arange(24) % 3, list(torch.arange(24).chunk(clients))
    looks, rounds = [retrieval.by_server(tests), retrieval.by_clients(tests)], []
    fed = federation(data=(x, y, split), participation=1.0, observers=[*looks, lambda f, s: rounds.append(s)])
    fed.run(1)
    row = fed.history[-1]
    states = {"": [fed.state] * 3, "own_": rounds[0].states * (3 // clients)}
    for name, of in states.items():
        each = []
        for state, own in zip(of, rows, strict=True):
            h = fed.net(state, x[own], features=True)
            each.append(by_hand(h, people[own], h, people[own], cameras[own], cameras[own]))
        assert row[f"{name}rank1_clients"] == pytest.approx([first for first, _ in each], abs=1e-14)
        assert row[f"{name}rank1"] == pytest.approx(sum(first for first, _ in each) / 3, abs=1e-14)
        assert row[f"{name}map"] == pytest.approx(sum(precision for _, precision in each) / 3, abs=1e-12)
