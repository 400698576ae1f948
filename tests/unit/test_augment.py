"""Augmentations: laws that hold for every batch."""

import inspect

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlib.data import augment
from fedlib.rng import Rows, rows

seeds = st.integers(0, 1000)


@st.composite
def batches(draw):
    shape = [draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12))]
    return torch.rand(shape, generator=rng(draw(seeds)), dtype=torch.float64) + 0.5  # no pixel is zero


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ALL = {
    "random_crop": lambda x, g: augment.random_crop(x, 4, g),
    "horizontal_flip": augment.horizontal_flip,
    "cutout": lambda x, g: augment.cutout(x, 3, g),
    "crop_and_flip": augment.crop_and_flip,
}


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=30)
@given(x=batches(), seed=seeds)
def test_same_generator_same_bits_and_the_input_stays(name, x, seed):
    before = x.clone()
    first, second = (ALL[name](x, rng(seed)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(x, before)
    assert (first.shape, first.dtype) == (x.shape, x.dtype)


@settings(deadline=None)
@given(batches(), seeds)
def test_crop_without_padding_is_the_identity_and_draws_nothing(x, seed):
    g = rng(seed)
    assert torch.equal(augment.random_crop(x, 0, g), x)
    assert torch.equal(g.get_state(), rng(seed).get_state())


@settings(deadline=None)
@given(batches(), st.integers(1, 5), seeds)
def test_crop_is_a_shift_with_zeros(x, padding, seed):
    """Each output equals its image moved by some (dy, dx) of at most `padding`, derived by trying all of them."""
    _, _, height, width = x.shape
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    for before, after in zip(padded, augment.random_crop(x, padding, rng(seed)), strict=True):
        places = [(r, c) for r in range(2 * padding + 1) for c in range(2 * padding + 1)]
        assert any(torch.equal(after, before[:, r : r + height, c : c + width]) for r, c in places)


def test_every_crop_place_is_equally_likely():
    x = torch.arange(1.0, 10).view(1, 1, 3, 3).expand(9000, -1, -1, -1)
    centre = augment.random_crop(x, 1, rng(0))[:, 0, 1, 1].long()
    assert torch.allclose(centre.bincount(minlength=10)[1:] / 1000, torch.ones(9), atol=0.12)


@settings(deadline=None)
@given(batches(), seeds, st.floats(0, 1))
def test_flipping_twice_with_the_same_draws_is_the_identity(x, seed, probability):
    once = augment.horizontal_flip(x, rng(seed), probability)
    assert torch.equal(augment.horizontal_flip(once, rng(seed), probability), x)


@settings(deadline=None)
@given(batches(), seeds)
def test_flip_never_and_always(x, seed):
    assert torch.equal(augment.horizontal_flip(x, rng(seed), 0.0), x)
    assert torch.equal(augment.horizontal_flip(x, rng(seed), 1.0), x.flip(-1))


def test_about_half_are_flipped_each_on_its_own():
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(4000, -1, -1, -1)
    assert float(augment.horizontal_flip(x, rng(0))[:, 0, 0, 0].mean()) == pytest.approx(0.5, abs=0.03)


@settings(deadline=None)
@given(batches(), st.integers(0, 16), seeds)
def test_cutout_clears_one_rectangle_of_bounded_area(x, size, seed):
    _, _, height, width = x.shape
    out = augment.cutout(x, size, rng(seed))
    hole = out == 0
    assert torch.equal(out[~hole], x[~hole])
    assert (hole == hole[:, :1]).all()  # the same in all channels
    for one in hole[:, 0]:
        area, rows, columns = int(one.sum()), int(one.any(1).sum()), int(one.any(0).sum())
        assert area == rows * columns
        assert rows <= min(size, height)
        assert columns <= min(size, width)
        # The centre lies inside the image, so at least about a quarter of the square does.
        assert area >= min((size + 1) // 2, height) * min((size + 1) // 2, width)


def test_cutout_fills_with_what_is_asked():
    out = augment.cutout(torch.zeros(3, 1, 32, 32), 16, rng(0), fill=2.0)
    assert set(out.unique().tolist()) == {0.0, 2.0}


# --- the batches of several clients at once


def by_row(count: int, seed: int, step: int = 0) -> Rows:
    return Rows(rows(torch.tensor([seed]), step, count)[:, 0])


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=40)
@given(
    clients=st.integers(1, 4),
    width=st.integers(0, 5),
    step=st.integers(0, 9),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_batches_of_many_clients_at_once_have_the_bits_of_one_by_one(name, clients, width, step, shape, dtype):
    x = torch.randn(width, clients, *shape, generator=rng(step)).to(dtype)
    found = ALL[name](x.flatten(0, 1), Rows(rows(torch.arange(clients), step, width).flatten()))
    assert found.dtype == dtype
    for k in range(clients):
        for n in range(width + 1):  # padding after the client's n rows changes nothing for them
            alone = ALL[name](x[:n, k], by_row(n, k, step))
            assert torch.equal(found.view_as(x)[:n, k], alone)


@pytest.mark.parametrize("name", ALL)
def test_draws_by_row_differ_between_images_clients_and_steps(name):
    x = torch.arange(1.0, 1 + 64).view(1, 1, 8, 8).expand(60, -1, -1, -1)
    out = ALL[name](x, by_row(60, 0))
    assert len({tuple(o.flatten().tolist()) for o in out}) > 1
    for other in (by_row(60, 1), by_row(60, 0, step=1)):
        assert not torch.equal(ALL[name](x, other), out)


def test_laws_hold_for_draws_by_row():
    """Every place, every side and every centre, each as often as another."""
    number = 9000
    x = torch.arange(1.0, 10).view(1, 1, 3, 3).expand(number, -1, -1, -1)
    centre = augment.random_crop(x, 1, by_row(number, 0))[:, 0, 1, 1].long()
    assert torch.allclose(centre.bincount(minlength=10)[1:] / 1000, torch.ones(9), atol=0.12)
    hole = (augment.cutout(x, 1, by_row(number, 0)) == 0).flatten(1).double()
    assert torch.equal(hole.sum(1), torch.ones(number, dtype=torch.float64))
    assert torch.allclose(hole.sum(0) / 1000, torch.ones(9, dtype=torch.float64), atol=0.12)
    flipped = augment.horizontal_flip(x, by_row(number, 0), 0.25)[:, 0, 0, 0] == 3
    assert float(flipped.double().mean()) == pytest.approx(0.25, abs=0.02)


def test_every_augmentation_is_marked():
    functions = {n: f for n, f in vars(augment).items() if inspect.isfunction(f) and f.__module__ == augment.__name__}
    found = {n for n, f in functions.items() if not n.startswith("_") and "rng" in inspect.signature(f).parameters}
    assert found == ALL.keys(), "and each is among those that are tried here"
    assert all(functions[n].several is True for n in found)


def test_a_composed_augmentation_keeps_the_mark_when_it_says_so():
    def plain(x, source):
        return augment.cutout(augment.crop_and_flip(x, source), 3, source)

    marked = augment.by_row(lambda x, source: plain(x, source))
    assert (marked.several, hasattr(plain, "several")) == (True, False)
    x = torch.randn(6, 1, 8, 8)
    found = marked(x, Rows(rows(torch.arange(2), 0, 3).T.flatten()))  # client after client
    assert torch.equal(found[3:], plain(x[3:], by_row(3, 1)))
    assert torch.equal(marked(x, rng(0)), plain(x, rng(0)))


def test_many_images_are_cut_in_parts_with_the_same_bits(monkeypatch):
    x = torch.randn(300, 2, 5, 6)
    whole = augment.random_crop(x, 2, rng(1))
    monkeypatch.setattr(augment, "CACHED", 1000)
    assert torch.equal(augment.random_crop(x, 2, rng(1)), whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ALL)
def test_a_gpu_gives_the_same_bits(name):
    x = torch.randn(300, 3, 32, 32)
    assert torch.equal(ALL[name](x.cuda(), rng(1)).cpu(), ALL[name](x, rng(1)))
    there = Rows(rows(torch.tensor([1], device="cuda"), 2, 300)[:, 0])
    assert torch.equal(ALL[name](x.cuda(), there).cpu(), ALL[name](x, by_row(300, 1, step=2)))


def test_gradients_pass_through_the_augmentations():
    x = torch.randn(200, 2, 4, 4, requires_grad=True)
    for change in ALL.values():
        (grad,) = torch.autograd.grad(change(x, rng(0)).sum(), x)
        assert set(grad.unique().tolist()) == {0.0, 1.0} or change is augment.horizontal_flip


PINNED = {
    "random_crop": [0.0, 1692.0, 0.0, 3844.0],
    "horizontal_flip": [1496.0, 3632.0, 5848.0, 8024.0],
    "cutout": [750.0, 3182.0, 4005.0, 3853.0],
    "crop_and_flip": [0.0, 1692.0, 0.0, 3844.0],
}


@pytest.mark.parametrize("name", ALL)
def test_the_bits_are_pinned(name):
    # A change here would silently change every number of the book that rests on augmented images.
    x = torch.arange(1.0, 4 * 16 + 1).view(4, 1, 4, 4)
    out = ALL[name](x, rng(7))
    weights = torch.arange(1.0, 17).view(4, 4)
    assert (out[:, 0] * weights).sum((1, 2)).tolist() == PINNED[name]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augment.horizontal_flip(torch.zeros(4, 1, 4, 4), by_row(3, 0)), "3 rows.*has 4"),
        (lambda: augment.random_crop(torch.zeros(4, 1, 4, 4), 1, by_row(3, 0)), "3 rows.*has 4"),
        (lambda: augment.random_crop(torch.zeros(2, 3, 4), 1, rng(0)), r"expected floating point \[B, C, H, W\]"),
        (lambda: augment.cutout(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 1, rng(0)), "uint8"),
        (lambda: augment.random_crop(torch.zeros(1, 1, 4, 4), -1, rng(0)), "padding is -1"),
        (lambda: augment.cutout(torch.zeros(1, 1, 4, 4), -1, rng(0)), "size is -1"),
        (lambda: augment.horizontal_flip(torch.zeros(1, 1, 4, 4), rng(0), 1.5), "probability is 1.5"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
