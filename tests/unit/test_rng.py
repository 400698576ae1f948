"""Streams are named by what they are for: nothing else moves them."""

import pytest
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


# --- draws by row: SplitMix64

MASK = 2**64 - 1
# The first numbers of the published C program (Vigna 2015) for two seeds.
PUBLISHED = {
    0: [16294208416658607535, 7960286522194355700, 487617019471545679, 17909611376780542444, 1961750202426094747],
    1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821],
}
key64 = st.integers(-(2**63), 2**63 - 1)


def after(seed: int, n: int) -> int:
    """Number n of SplitMix64 in Python's integers, one state after the other being the seed plus n gammas."""
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def chi_squared(found: torch.Tensor, cells: int) -> float:
    """How far counts are from equal, in standard deviations of the chi-squared distribution with cells - 1 degrees."""
    counts = found.flatten().bincount(minlength=cells).double()
    expected = found.numel() / cells
    assert len(counts) == cells
    return float(((counts - expected).square() / expected).sum() - (cells - 1)) / (2 * (cells - 1)) ** 0.5


@pytest.mark.parametrize("seed", PUBLISHED)
def test_the_generator_gives_its_published_numbers(seed):
    assert [after(seed, n) for n in range(5)] == PUBLISHED[seed]
    assert [v & MASK for v in rng.splitmix(ints(seed), torch.arange(5)).tolist()] == PUBLISHED[seed]


@given(key64, st.integers(0, 2**63 - 2))
def test_the_generator_agrees_with_integers_that_do_not_wrap(seed, n):
    assert int(rng.splitmix(ints(seed), ints(n))) & MASK == after(seed, n)


@given(st.lists(key64, min_size=1, max_size=4), st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_keys_of_rows_depend_on_client_step_and_row_alone(keys, step, width):
    found = rng.rows(ints(*keys), step, width)
    assert [[v & MASK for v in row] for row in found.tolist()] == [
        [after(k, step * 2**32 + b) for k in keys] for b in range(width)
    ]
    for cursor in (torch.tensor(step), torch.tensor([step])):  # as a graph on a device has it
        assert torch.equal(rng.rows(ints(*keys), cursor, width), found)


@given(key64, st.integers(1, 2**31), st.integers(1, 4))
def test_draws_are_the_top_bits_of_the_numbers_of_their_call_and_place(key, below, calls):
    source = rng.Rows(ints(key))
    for call in range(calls):
        bits = [after(key, call * 2**32 + place) for place in range(3)]
        if call % 2:
            assert rng.uniform(source, (1, 3)).tolist() == [[b / 2**64 - b % 2**40 / 2**64 for b in bits]]
        else:
            assert rng.integers(source, below, (3, 1), rows=1).tolist() == [[(b >> 32) * below >> 32] for b in bits]


@given(st.lists(key64, min_size=1, max_size=6), st.data())
def test_a_row_draws_what_it_would_draw_alone(keys, data):
    some = data.draw(st.lists(st.integers(0, len(keys) - 1), min_size=1))
    whole, part = rng.Rows(ints(*keys)), rng.Rows(ints(*keys)[some])
    for _ in range(2):
        here, there = (rng.integers(s, 1000, (2, len(s.keys), 3), rows=1) for s in (whole, part))
        assert torch.equal(here[:, some], there)
        here, there = (rng.uniform(s, (len(s.keys),)) for s in (whole, part))
        assert torch.equal(here[some], there)


@pytest.mark.parametrize("below", [2, 3, 9, 10, 32, 100])
def test_integers_are_uniform_over_keys_steps_rows_and_calls(below):
    draws = []
    for step in range(10):
        source = rng.Rows(rng.rows(torch.arange(100), step, 40).flatten())  # neighbouring keys, the hardest
        draws += [rng.integers(source, below, (4000,)), rng.integers(source, below, (4000, 2))[:, 1]]
    for found in (torch.stack(draws), torch.stack(draws[::2]), torch.stack(draws[1::2])):
        assert (found.min(), found.max()) == (0, below - 1)
        assert abs(chi_squared(found, below)) < 4


def test_uniform_numbers_have_mean_variance_and_bounds_and_stay_below_one():
    found = rng.uniform(rng.Rows(rng.rows(torch.arange(500), 3, 200).flatten()), (100_000, 3)).double()
    assert float(found.min()) >= 0
    assert float(found.max()) < 1
    assert abs(float(found.mean()) - 1 / 2) < 4 * (1 / 12 / found.numel()) ** 0.5
    assert abs(float(found.var()) - 1 / 12) < 4 * (1 / 180 / found.numel()) ** 0.5
    assert abs(chi_squared((found * 64).long(), 64)) < 4


def test_the_largest_bits_give_less_than_one_and_the_smallest_plain_zero(monkeypatch):
    source = rng.Rows(ints(0, 0, 0, 0))
    monkeypatch.setattr(rng.Rows, "bits", lambda *_: ints(-1, 0, 2**63 - 1, -(2**63)))
    found = rng.uniform(source, (4,))
    assert found.tolist() == [1 - 2**-24, 0.0, 0.5 - 2**-24, 0.5]
    assert not found.signbit().any()
    assert rng.integers(source, 2**31, (4,)).tolist() == [2**31 - 1, 0, 2**30 - 1, 2**30]
    assert rng.integers(source, 1, (4,)).tolist() == [0] * 4


@pytest.mark.parametrize("other", ["key", "step", "row", "call", "place"])
def test_neighbours_are_unrelated(other):
    """Joint counts of two draws that differ in one thing alone are those of independent draws."""

    def draw(key: int = 0, step: int = 0, row: int = 0, call: int = 0, place: int = 0) -> torch.Tensor:
        keys = torch.stack([rng.rows(torch.arange(1000) + key, s + step, 21)[row : 20 + row] for s in range(10)])
        source = rng.Rows(keys.flatten())
        for _ in range(call):
            rng.uniform(source, (len(source.keys),))
        return rng.integers(source, 8, (len(source.keys), 2))[:, place]

    a, b = draw(), draw(**{other: 1})
    assert abs(chi_squared(a * 8 + b, 64)) < 4
    assert float((a == b).double().mean()) == pytest.approx(1 / 8, abs=4 * (7 / 64 / len(a)) ** 0.5)


def test_the_draws_by_row_are_pinned():
    # A change here would silently change every number of the book that rests on augmented images.
    source = rng.Rows(rng.rows(ints(rng.key(0, "augment", 1, 2, 0)), 3, 4)[:, 0])
    assert rng.integers(source, 1000, (4,)).tolist() == [189, 231, 570, 233]
    assert (rng.uniform(source, (4,)) * 2**24).tolist() == [7074943, 9541075, 2968821, 14518684]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_by_row():
    keys = rng.rows(ints(*range(-50, 50)), 7, 64)
    assert torch.equal(rng.rows(ints(*range(-50, 50)).cuda(), torch.tensor([7], device="cuda"), 64).cpu(), keys)
    here, there = rng.Rows(keys.flatten()), rng.Rows(keys.flatten().cuda())
    for _ in range(2):
        assert torch.equal(rng.integers(there, 9, (6400, 2)).cpu(), rng.integers(here, 9, (6400, 2)))
        assert torch.equal(rng.uniform(there, (6400,)).cpu(), rng.uniform(here, (6400,)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rng.Rows(torch.zeros(2)), r"int64 key is needed for each row, got torch.float32 \[2\]"),
        (lambda: rng.Rows(ints(1, 2)[:, None]), r"got torch.int64 \[2, 1\]"),
        (lambda: rng.uniform(rng.Rows(ints(1, 2)), (3,)), "the keys are for 2 rows, the batch has 3"),
        (lambda: rng.integers(rng.Rows(ints(1, 2)), 5, (2, 4), rows=1), "2 rows, the batch has 4"),
        (lambda: rng.integers(rng.Rows(ints(1)), 0, (1,)), "below 0 were asked for"),
        (lambda: rng.integers(rng.Rows(ints(1)), 2**31 + 1, (1,)), "expected 1 to 2.31"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
