"""The squared maximum mean discrepancy: definition, limits, gradient, and the bandwidth that tells nothing."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from fedlib import losses

CASES = settings(deadline=None, max_examples=20)
FLOAT = torch.float64


def drawn(n=5, d=3, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=FLOAT) + shift


def by_hand(x, y, widths):
    def mean(u, v):
        return sum(sum(float(torch.exp(-(a - b).square().sum() / w)) for a in u for b in v) for w in widths) / (
            len(u) * len(v)
        )

    return mean(x, x) - 2 * mean(x, y) + mean(y, y)


@CASES
@given(
    st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.lists(st.floats(0.1, 10), min_size=1, max_size=3)
)
def test_mmd_is_its_definition_pair_by_pair(seed, n, m, widths):
    x, y = drawn(n, seed=seed), drawn(m, seed=seed + 1, shift=0.5)
    assert float(losses.mmd(x, y, widths)) == pytest.approx(by_hand(x, y, widths), abs=1e-12)


def test_equal_samples_are_no_distance_apart_exactly():
    x = drawn(7)
    assert float(losses.mmd(x, x, (0.3, 1.0))) == 0.0
    assert float(losses.mmd(x, x.flip(0), 1.0)) == pytest.approx(0, abs=1e-14)


@CASES
@given(st.integers(0, 10**6), st.floats(0.2, 5))
def test_mmd_is_symmetric_not_negative_and_blind_to_a_common_motion(seed, width):
    x, y = drawn(4, seed=seed), drawn(6, seed=seed + 1)
    found = float(losses.mmd(x, y, width))
    assert found >= -1e-13
    turn = torch.linalg.qr(drawn(3, 3, seed)).Q
    for u, v in ((y, x), (x @ turn + 2, y @ turn + 2), (x * 3, y * 3)):
        scaled = width * (9 if u is not y and torch.equal(u, x * 3) else 1)
        assert float(losses.mmd(u, v, scaled)) == pytest.approx(found, abs=1e-11)


def test_a_sum_of_kernels_is_the_sum_of_their_distances():
    x, y = drawn(), drawn(seed=1)
    parts = sum(float(losses.mmd(x, y, b)) for b in (0.5, 1.0, 4.0))
    assert float(losses.mmd(x, y, (0.5, 1.0, 4.0))) == pytest.approx(parts, abs=1e-14)


def test_a_wide_kernel_compares_means():
    """b MMD^2 -> 2 |mean x - mean y|^2 as b grows: of higher moments it sees less and less."""
    x, y, b = drawn(8), drawn(9, seed=1, shift=1.0), 1e7
    expected = 2 * (x.mean(0) - y.mean(0)).square().sum()
    assert b * float(losses.mmd(x, y, b)) == pytest.approx(float(expected), rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    x, y = drawn().requires_grad_(), drawn(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: losses.mmd(u, v, (0.5, 2.0)), (x, y))


def test_bandwidth_1_tells_nothing_of_wide_features_unless_they_have_unit_length():
    """The paper's sigma: in 64 dimensions no two samples are near. 1/N + 1/M is all that is left, shift or none."""
    n = 50
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 64, generator=g) for _ in range(2))
    for shift in (0.0, 1.0):
        moved = (y + shift).requires_grad_()
        found = losses.mmd(x, moved, 1.0)
        assert float(found.detach()) == pytest.approx(2 / n, abs=1e-6)
        found.backward()
        assert float(moved.grad.abs().max()) < 1e-20
    same, apart = (losses.mmd(F.normalize(x, dim=1), F.normalize(y + s, dim=1), 1.0) for s in (0.0, 1.0))
    assert float(apart) > 5 * float(same)
    low = [float(losses.mmd(x[:, :2], y[:, :2] + s, 1.0)) for s in (0.0, 1.0)]
    assert low[1] > 3 * low[0]


def test_leading_dimensions_are_kept():
    x, y = drawn(12).view(2, 6, 3), drawn(8, seed=1).view(2, 4, 3)
    both = losses.mmd(x, y, 1.0)
    assert both.tolist() == pytest.approx([float(losses.mmd(a, b, 1.0)) for a, b in zip(x, y, strict=True)])


@pytest.mark.parametrize(
    ("x", "y", "widths", "message"),
    [
        (drawn(), drawn(), 0.0, "a bandwidth must be a finite number > 0"),
        (drawn(), drawn(), -1.0, "a bandwidth must be"),
        (drawn(), drawn(), float("nan"), "a bandwidth must be"),
        (drawn(), drawn(), (1.0, float("inf")), "a bandwidth must be"),
        (drawn(), drawn(), (), "bandwidths: at least one"),
        (drawn()[:0], drawn(), 1.0, "x must be samples"),
        (drawn(), drawn()[0], 1.0, "y must be samples"),
        (drawn(), torch.ones(3, 3, dtype=torch.long), 1.0, "y must be samples"),
        (drawn(d=2), drawn(), 1.0, "of one width"),
    ],
)
def test_mmd_refuses_nonsense(x, y, widths, message):
    with pytest.raises(ValueError, match=message):
        losses.mmd(x, y, widths)
