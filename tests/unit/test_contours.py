"""Contours and rings against scipy, averages over them, and the boundary loss: printed, and with the positive below."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from fedlib import contours, rng
from fedlib.contours import averages, boundary, contour, dilated, eroded, ring

CASES = settings(deadline=None, max_examples=40)
FLOAT = torch.float64
LABELS = torch.tensor([0, 0, 1, 1])


def masks(seed, *shape):
    return (torch.rand(*shape, generator=rng.stream(seed, "masks")) > 0.35).to(FLOAT)


@CASES
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 8), st.integers(1, 3))
def test_they_are_those_of_scipy(seed, height, width, times):
    mask = masks(seed, 2, height, width)
    for found, own in zip(zip(eroded(mask, times), dilated(mask, times), strict=True), mask, strict=True):
        expected = (f(own.numpy() > 0, iterations=times) for f in (ndimage.binary_erosion, ndimage.binary_dilation))
        assert [torch.equal(a, torch.from_numpy(b).to(FLOAT)) for a, b in zip(found, expected, strict=True)] == [
            True
        ] * 2


def test_a_square_has_a_contour_and_a_ring():
    mask = torch.zeros(9, 9, dtype=FLOAT)
    mask[3:6, 3:6] = 1
    assert contour(mask).sum() == 8
    assert contour(mask)[4, 4] == 0
    assert ring(mask, 1).sum() == 12
    assert not bool((ring(mask) * mask).any())
    assert torch.equal(ring(mask, 5) + mask, dilated(mask, 5))


def test_a_mask_at_the_border_has_a_contour_there():
    """Beyond the border lies background; otherwise a mask that fills the image would have no contour."""
    full = torch.ones(1, 4, 4, dtype=FLOAT)
    assert contour(full).sum() == 12


def test_averages_over_masks_and_over_none():
    maps = torch.randn(2, 3, 4, 4, generator=rng.stream("maps"), dtype=FLOAT)
    own = masks(0, 2, 2, 4, 4)
    own[1, 1] = 0
    found = averages(maps, own)
    assert found.shape == (2, 2, 3)
    for b in range(2):
        for s in range(2):
            chosen = maps[b][:, own[b, s] > 0]
            expected = chosen.mean(1) if chosen.numel() else torch.zeros(3, dtype=FLOAT)
            torch.testing.assert_close(found[b, s], expected)


def pairs(h, labels, temperature, printed):
    """The formula, pair by pair."""
    total, count = 0.0, len(labels)
    s = torch.nn.functional.cosine_similarity(h[:, None], h[None], dim=-1) / temperature
    for m in range(count):
        for p in range(m + 1, count):
            if labels[m] == labels[p]:
                below = sum(float(s[m, q].exp()) for q in range(count) if labels[q] != labels[m])
                total += -float(s[m, p]) + math.log(below + (0 if printed else float(s[m, p].exp())))
    return total / (math.comb(count, 2) * 2)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.3, 1.0]), st.booleans())
def test_boundary_is_the_sum_over_pairs(seed, temperature, printed):
    h = torch.randn(3, 5, 4, generator=rng.stream(seed), dtype=FLOAT)
    labels = torch.tensor([0, 1, 0, 1, 1])
    found = boundary(h, labels, temperature, printed)
    for row, one in zip(h, found, strict=True):
        assert float(one) == pytest.approx(pairs(row, labels.tolist(), temperature, printed), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_as_printed_it_is_negative_for_perfect_features_and_with_the_positive_below_it_is_not(temperature):
    """Two pairs of four features, opposite: l = -2 / T + log 2 for each; NT-Xent's l is above 0."""
    h = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]], dtype=FLOAT)
    least = 2 * (-2 / temperature + math.log(2)) / 12
    assert float(boundary(h, LABELS, temperature)) == pytest.approx(least)
    assert least < 0
    above = float(boundary(h, LABELS, temperature, printed=False))
    assert above == pytest.approx(2 * math.log1p(2 * math.exp(-2 / temperature)) / 12)
    assert above >= 0
    draws = torch.randn(100, 4, 2, generator=rng.stream("h"), dtype=FLOAT)
    assert bool((boundary(draws, LABELS, temperature, printed=False) > 0).all())
    assert bool((boundary(draws, LABELS, temperature) >= least - 1e-9).all())


def test_like_features_attract_and_unlike_repel():
    """With F taken the other way round (a note states it so) the sign of the pull would turn."""
    h = torch.randn(4, 3, generator=rng.stream("pull"), dtype=FLOAT).requires_grad_()
    (grad,) = torch.autograd.grad(boundary(h, LABELS, 0.2), h)
    h = h.detach()
    moved = h - 1e-3 * grad

    def cosine(h, i, j):
        return float(torch.nn.functional.cosine_similarity(h[i], h[j], dim=0))

    assert cosine(moved, 0, 1) + cosine(moved, 2, 3) > cosine(h, 0, 1) + cosine(h, 2, 3)
    unlike = [(i, j) for i in (0, 1) for j in (2, 3)]
    nearest = max(unlike, key=lambda p: cosine(h, *p))
    assert cosine(moved, *nearest) < cosine(h, *nearest)


@pytest.mark.parametrize("printed", [True, False])
def test_its_gradient_is_a_finite_difference(printed):
    h = torch.randn(2, 4, 3, generator=rng.stream("grad"), dtype=FLOAT).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: boundary(h, LABELS, 0.7, printed), h)


@pytest.mark.parametrize("printed", [True, False])
def test_features_of_no_pixel_count_for_nothing(printed):
    """An empty cup: its contour and ring have no features, and gradients stay finite."""
    h = torch.randn(4, 3, generator=rng.stream("h"), dtype=FLOAT)
    h[1] = 0
    h.requires_grad_()
    value = boundary(h, LABELS, 0.05, printed)
    (grad,) = torch.autograd.grad(value, h)
    assert bool(grad.isfinite().all())
    kept = h.detach()[[0, 2, 3]]
    one = boundary(kept, torch.tensor([0, 1, 1]), 0.05, printed)
    torch.testing.assert_close(value.detach() * 12, one * 6)
    assert float(boundary(torch.zeros(4, 3, dtype=FLOAT), LABELS)) == 0


def test_lengths_of_features_do_not_matter():
    h = torch.randn(4, 3, generator=rng.stream("h"), dtype=FLOAT)
    torch.testing.assert_close(boundary(h, LABELS), boundary(h * torch.tensor([[1.0], [5], [0.1], [3]]), LABELS))


NONSENSE = {
    "temperature must be a finite number > 0, got 0": lambda: boundary(torch.ones(4, 2), LABELS, 0),
    "temperature must be a finite number > 0, got nan": lambda: boundary(torch.ones(4, 2), LABELS, math.nan),
    "features .* and labels": lambda: boundary(torch.ones(3, 2), LABELS),
    "labels: two alike and two others": lambda: boundary(torch.ones(2, 2), torch.tensor([0, 1])),
    r"two others at least, got \[0, 0\]": lambda: boundary(torch.ones(2, 2), torch.tensor([0, 0])),
    "masks consist of 0 and 1": lambda: contours.contour(torch.full((2, 2), 0.5)),
    "floating-point type are needed, got torch.int64": lambda: contours.ring(torch.ones(2, 2).long()),
    "times must be a whole number of at least 0, got -1": lambda: eroded(torch.ones(2, 2), -1),
    r"got torch.float32 \[0, 4\]": lambda: dilated(torch.ones(0, 4)),
}


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        NONSENSE[message]()
