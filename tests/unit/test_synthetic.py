"""What generated samples are good for: training side by side, accuracy by class, diversity and the Fréchet distance."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.linalg import sqrtm
from torch import nn
from torch.nn import functional as F

from fedlib import losses, rng
from fedlib.models import MLP
from fedlib.synthetic import accuracies, conditions, drawn, fitted, frechet, spread, worth

FLOAT, SEEDS = torch.float64, (3, 5)
MAKE = partial(MLP, 4, (5,), 3)
CASES = settings(deadline=None, max_examples=20)


def normal(key, *shape):
    return torch.randn(*shape, generator=rng.stream("synthetic", key), dtype=FLOAT)


X, Y = normal("x", 4, 20, 4), torch.randint(3, (4, 20), generator=rng.stream("y"))


def test_labels_are_conditions():
    assert torch.equal(conditions(torch.tensor([[2, 0]]), 3), torch.tensor([[[0.0, 0, 1], [1, 0, 0]]]))
    for wrong in (torch.tensor([3]), torch.tensor([-1]), torch.tensor([1.0]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(ValueError, match="labels: whole numbers from 0 to 2"):
            conditions(wrong, 3)


def test_no_sample_is_learnt_from_and_tested_on():
    x, y = torch.arange(60.0)[:, None], torch.arange(60) % 3
    own, test, labels = drawn(x, y, (2, 0), (5, 4), SEEDS)
    assert own.shape == (2, 2, 5, 1)
    assert labels.tolist() == [[2] * 4 + [0] * 4] * 2
    assert (own % 3 == torch.tensor([2, 0]).view(1, 2, 1, 1)).all()
    assert (test[..., 0] % 3 == labels).all()
    for seed in range(2):
        assert len({*own[seed].flatten().tolist(), *test[seed].flatten().tolist()}) == 18
    assert own[0].tolist() != own[1].tolist()
    assert torch.equal(drawn(x, y, (2, 0), (5, 4), SEEDS[1:])[0], own[1:])
    with pytest.raises(ValueError, match="class 2 has 20 samples, 21 are needed"):
        drawn(x, y, (2, 0), (17, 4), SEEDS)


def test_each_is_trained_as_alone_in_plain_pytorch():
    own = fitted(MAKE, X, Y, losses.cross_entropy, SEEDS, steps=6, batch_size=7, lr=0.01)
    for r in range(4):
        seed = SEEDS[r // 2]
        one, draws = rng.build(MAKE, seed, "trained on samples").double(), rng.stream(seed, "rows of samples")
        adam = torch.optim.Adam(one.parameters(), lr=0.01)
        for _ in range(6):
            rows = torch.randint(20, (7,), generator=draws)
            adam.zero_grad()
            F.cross_entropy(one(X[r, rows]), Y[r, rows]).backward()
            adam.step()
        torch.testing.assert_close(own(X)[r], one(X[r]), rtol=1e-9, atol=1e-10)


def test_images_are_worth_what_networks_tell_of_real_ones_of_their_own_seed():
    x, y = normal("real", 2, 30, 4), torch.arange(30).expand(2, -1) % 3
    own, found = fitted(MAKE, X, Y, losses.cross_entropy, SEEDS, steps=6), worth(MAKE, X, Y, x, y, 3, SEEDS, 6)
    for r in range(4):
        seed = r // 2
        expected = accuracies(own, x[seed].expand(4, -1, -1), y[seed].expand(4, -1), 3)[r]
        assert torch.equal(found[r], expected)


def test_it_learns_targets_of_any_kind():
    """Masks, with a loss of pixels."""
    x = normal("maps", 2, 12, 1, 4, 4)
    y = (x > 0).to(FLOAT)

    def pixels(z, y):
        return F.binary_cross_entropy_with_logits(z, y, reduction="none").flatten(1).mean(1)

    own = fitted(partial(nn.Conv2d, 1, 1, 1), x, y, pixels, SEEDS, steps=120, lr=0.1)
    assert bool((((own(x) > 0) == (y > 0)).double().mean((1, 2, 3, 4)) > 0.9).all())


def test_accuracy_is_that_of_each_class():
    class Echo:
        def __call__(self, x):
            return x

    y = torch.tensor([[0, 0, 1, 2], [2, 1, 1, 0]])
    said = torch.tensor([[0, 1, 1, 2], [2, 1, 0, 1]])
    found = accuracies(Echo(), F.one_hot(said, 3), y, 3)
    assert torch.equal(found, torch.tensor([[0.5, 1, 1], [0, 0.5, 1]], dtype=FLOAT))
    with pytest.raises(ValueError, match="y: 2 is a class of which some run has none"):
        accuracies(Echo(), F.one_hot(said, 3), torch.tensor([[0, 0, 1, 2], [1, 1, 1, 0]]), 3)


def test_spread_is_the_variance_within_classes():
    labels = torch.tensor([[0] * 6 + [2] * 14] * 2)
    images = normal("images", 2, 20, 5) + 10 * labels[..., None]
    for row, own in zip(spread(images, labels, 4), images, strict=True):
        expected = (own[:6].var(0).sum() + own[6:].var(0).sum()) / 2
        torch.testing.assert_close(row, expected)
    still = torch.ones(1, 4, 3, dtype=FLOAT) * torch.tensor([[[1.0], [1], [7], [7]]])
    assert float(spread(still, torch.tensor([[0, 0, 1, 1]]), 2)) == 0
    with pytest.raises(ValueError, match="a class with a single sample"):
        spread(still, torch.tensor([[0, 0, 0, 1]]), 2)
    with pytest.raises(ValueError, match=r"images \[R, m, D\] and labels"):
        spread(still, torch.tensor([0, 0, 0, 1]), 2)


@CASES
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(6, 20))
def test_frechet_is_the_formula_with_a_matrix_root(seed, size, count):
    a, b = normal(seed, count, size), 2 * normal(seed + 1, count + 3, size) + 1
    covariances = [torch.cov(t.T).reshape(size, size).numpy() for t in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + sum(c.trace() for c in covariances) - 2 * root.trace()
    assert frechet(a, b) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_frechet_in_a_few_cases_that_are_known():
    a = normal("a", 30, 3)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 2) == pytest.approx(12)
    assert frechet(a, 3 * a) == pytest.approx(float(4 * a.var(0).sum() + 4 * a.mean(0).square().sum()))
    assert frechet(a, a[torch.randperm(30, generator=rng.stream(0))]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("a", "b"), [((1, 3), (4, 3)), ((4, 3), (4, 2)), ((4,), (4, 3))])
def test_frechet_needs_two_samples_of_one_size(a, b):
    with pytest.raises(ValueError, match=r"features \[n, D\] and \[m, D\]"):
        frechet(torch.ones(*a), torch.ones(*b))
    with pytest.raises(ArithmeticError, match="features"):
        frechet(torch.full((2, 2), math.nan), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"lr": math.nan}, "lr must be a finite number > 0"),
        ({"seeds": (1, 2, 3)}, "a multiple of 3 runs"),
        ({"seeds": ()}, "a multiple of 0 runs"),
        ({"x": X[:, :10]}, r"got \[4, 10, 4\] and \[4, 20\]"),
        ({"x": X[:, :0], "y": Y[:, :0]}, r"got \[4, 0, 4\]"),
    ],
)
def test_nonsense_is_refused(change, message):
    own = {"x": X, "y": Y, "seeds": SEEDS} | change
    with pytest.raises(ValueError, match=message):
        fitted(MAKE, own.pop("x"), own.pop("y"), losses.cross_entropy, **own)


def test_nonsense_numbers_are_refused():
    with pytest.raises(ArithmeticError, match="samples to train on"):
        fitted(MAKE, X * math.nan, Y, losses.cross_entropy, SEEDS)
