"""Moments, 2 x 2 roots and affine chains: identities, gradients where regions are round, and the sign of an axis."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlib import planar

FLOAT = torch.float64
CASES = settings(deadline=None, max_examples=30)
ANGLE = st.floats(-math.pi, math.pi)
SIZE = st.floats(0.05, 1.0)


def matrix(values):
    return torch.tensor(values, dtype=FLOAT)


def turn(angle):
    return planar.turn(torch.tensor(angle, dtype=FLOAT))


def oblong(angle, long, short):
    """A covariance with that first axis."""
    u = turn(angle)
    return u @ torch.diag(matrix([long, short])) @ u.T


def heat(covariance, mean=(0.0, 0.0), size=101):
    z = planar.places(size, size, covariance) - matrix(mean)
    q = torch.einsum("hwi,ij,hwj->hw", z, torch.linalg.inv(covariance), z)
    return (-q / 2).exp() / (-q / 2).exp().sum()


# Moments


def test_places_are_x_then_y_with_pixels_at_the_corners():
    z = planar.places(3, 5)
    assert z.shape == (3, 5, 2)
    assert z[0, 0].tolist() == [-1, -1]
    assert z[-1, -1].tolist() == [1, 1]
    assert z[0, -1].tolist() == [1, -1]  # to the right is x
    assert z[1, 2].tolist() == [0, 0]


def test_moments_are_those_of_two_pixels_by_hand():
    m = torch.zeros(1, 3, 3, dtype=FLOAT)
    m[0, 0, 2], m[0, 2, 2] = 0.25, 0.75  # both at x = 1, y = -1 and 1
    mean, covariance = planar.moments(m)
    assert mean.tolist() == [[1.0, 0.5]]
    torch.testing.assert_close(covariance, matrix([[[0.0, 0.0], [0.0, 0.75]]]))


@CASES
@given(st.integers(0, 10**6))
def test_moments_are_sums_over_pixels(seed):
    m = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)
    m = m / m.sum((1, 2), keepdim=True)
    mean, covariance = planar.moments(m)
    z = planar.places(5, 6, m)
    for k in range(2):
        mu = sum(m[k, i, j] * z[i, j] for i in range(5) for j in range(6))
        sigma = sum(m[k, i, j] * torch.outer(z[i, j] - mu, z[i, j] - mu) for i in range(5) for j in range(6))
        torch.testing.assert_close(mean[k], mu, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(covariance[k], sigma, rtol=1e-12, atol=1e-12)


def test_a_turned_heat_map_has_a_turned_covariance():
    sigma, r = oblong(0.4, 0.04, 0.01), turn(0.7)
    _, first = planar.moments(heat(sigma))
    _, second = planar.moments(heat(r @ sigma @ r.T))
    torch.testing.assert_close(second, r @ first @ r.T, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(first, sigma, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrong", [
    torch.ones(3, 3), torch.zeros(3, 3), torch.full((3, 3), float("nan")), torch.ones(3, 3, dtype=torch.long),
    torch.tensor([[2.0, -1.0], [0.0, 0.0]]), torch.ones(4), torch.ones(0, 3, 3),
])  # fmt: skip
def test_heat_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="heat: "):
        planar.moments(wrong)


def test_images_of_one_pixel_have_no_places():
    with pytest.raises(ValueError, match="height must be"):
        planar.places(1, 4)
    with pytest.raises(ValueError, match="width must be"):
        planar.places(4, 1)


# Roots


@CASES
@given(ANGLE, SIZE, SIZE)
def test_the_closed_form_is_that_of_eigh(angle, long, short):
    sigma = oblong(angle, long, short)
    values, u = planar.eigen(sigma)
    told, axes = torch.linalg.eigh(sigma)
    torch.testing.assert_close(values, told.flip(0), rtol=1e-7, atol=1e-6)
    if abs(long - short) > 0.01:
        overlap = (u.T @ axes.flip(1)).abs()
        torch.testing.assert_close(overlap, torch.eye(2, dtype=FLOAT), rtol=1e-6, atol=1e-6)
    assert float(torch.linalg.det(u)) == pytest.approx(1)  # a turn, never a mirror


@CASES
@given(ANGLE, SIZE, SIZE)
def test_roots_are_roots(angle, long, short):
    sigma = oblong(angle, long, short)
    wanted = sigma + planar.LEAST * torch.eye(2, dtype=FLOAT)
    for root in (planar.principal_root(sigma), planar.symmetric_root(sigma)):
        torch.testing.assert_close(root @ root.T, wanted, rtol=1e-3, atol=1e-5)
    s = planar.symmetric_root(sigma)
    torch.testing.assert_close(s, s.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(s @ s, wanted, rtol=1e-9, atol=1e-12)


def test_gradients_of_roots_are_those_of_finite_differences():
    raw = torch.stack([oblong(0.5, 0.3, 0.1), oblong(-1.2, 0.9, 0.2)]).requires_grad_()

    def symmetric(a):
        return (a + a.mT) / 2

    assert torch.autograd.gradcheck(lambda a: planar.principal_root(symmetric(a)), (raw,))
    assert torch.autograd.gradcheck(lambda a: planar.symmetric_root(symmetric(a)), (raw,))


@pytest.mark.parametrize("at", [[[0.1, 0.0], [0.0, 0.1]], [[0.0, 0.0], [0.0, 0.0]], [[0.2, 1e-9], [1e-9, 0.2]]])
def test_round_regions_have_finite_gradients_where_eigh_has_none(at):
    """The backward pass of an eigenvector divides by the difference of the variances."""
    for root in (planar.principal_root, planar.symmetric_root):
        sigma = matrix(at).requires_grad_()
        root(sigma).sum().backward()
        assert bool(sigma.grad.isfinite().all())
        assert float(sigma.grad.abs().max()) < 1e4
    sigma = torch.eye(2, dtype=FLOAT).requires_grad_()
    values, axes = torch.linalg.eigh(sigma)
    (axes * values.sqrt()).sum().backward()
    assert not bool(sigma.grad.isfinite().all())


def test_the_gradient_of_an_axis_grows_as_one_over_the_difference():
    def slope(difference):
        sigma = matrix([[0.1 + difference, 0.0], [0.0, 0.1]]).requires_grad_()
        planar.eigen(sigma)[1][1, 0].backward()
        return float(sigma.grad.abs().max())

    assert slope(1e-3) == pytest.approx(10 * slope(1e-2), rel=1e-3)
    assert slope(1e-7) == 0.0


# Affine maps


@CASES
@given(st.integers(0, 10**6))
def test_maps_compose_invert_and_apply_as_matrices_do(seed):
    draws = torch.Generator().manual_seed(seed)
    f, g = torch.randn(2, 3, 2, 3, generator=draws, dtype=FLOAT).unbind()
    z = torch.randn(3, 5, 2, generator=draws, dtype=FLOAT)
    last = matrix([[[0.0, 0.0, 1.0]]]).expand(3, 1, 3)
    whole = torch.cat([f, last], 1) @ torch.cat([g, last], 1)
    torch.testing.assert_close(planar.compose(f, g), whole[:, :2], rtol=1e-10, atol=1e-10)
    one = torch.cat([z, torch.ones(3, 5, 1, dtype=FLOAT)], -1)
    torch.testing.assert_close(planar.apply(f, z), one @ f.mT, rtol=1e-10, atol=1e-10)
    if float(planar.determinant(f[..., :2]).abs().min()) > 0.05:
        back = planar.compose(planar.invert(f), f)
        torch.testing.assert_close(back, planar.identity(3, like=f), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(planar.inverse(f[..., :2]), torch.linalg.inv(f[..., :2]), rtol=1e-7, atol=1e-7)


@CASES
@given(ANGLE, ANGLE, SIZE, SIZE, st.floats(-1, 1), st.floats(-1, 1))
def test_there_and_back_is_nowhere_and_a_region_onto_itself_stays(first, second, a, b, x, y):
    s = planar.affine(planar.principal_root(oblong(first, a, b)), matrix([x, y]))
    d = planar.affine(planar.principal_root(oblong(second, b, a + 0.1)), matrix([y, -x]))
    there, back = planar.between(s, d), planar.between(d, s)
    linear = planar.compose(there, back)
    if abs(float(there[0, 0] + there[1, 1])) < 1e-6:  # a quarter turn is as small as its negative: rounding decides
        torch.testing.assert_close(linear[:, :2].abs(), torch.eye(2, dtype=FLOAT), rtol=1e-6, atol=1e-6)
    else:
        torch.testing.assert_close(linear, planar.identity(like=s), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(planar.between(s, s), planar.identity(like=s), rtol=1e-6, atol=1e-6)


@CASES
@given(ANGLE, ANGLE, SIZE)
def test_flipping_an_axis_of_both_frames_or_one_axis_pair_changes_nothing(first, second, a):
    s = planar.affine(planar.principal_root(oblong(first, a, 0.02)), matrix([0.1, 0.2]))
    d = planar.affine(planar.principal_root(oblong(second, a, 0.01)), matrix([-0.3, 0.4]))
    flips = [torch.diag(matrix(f)) for f in ([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0])]

    def flipped(frame, by):
        return planar.affine(frame[:, :2] @ by, frame[:, 2])

    once = planar.between(s, d)
    for f in flips:  # in both frames alike
        torch.testing.assert_close(planar.between(flipped(s, f), flipped(d, f)), once, rtol=1e-7, atol=1e-7)
    if abs(float(once[0, 0] + once[1, 1])) > 1e-6:  # both axes of one frame: the sign alone
        torch.testing.assert_close(planar.between(flipped(s, flips[0]), d), once, rtol=1e-7, atol=1e-7)


@CASES
@given(ANGLE, st.floats(-1.5, 1.5), st.floats(0.5, 2.0), st.floats(0.1, 0.4))
def test_a_turn_of_less_than_a_quarter_and_a_growth_are_found_exactly(angle, by, growth, long):
    """A_S A_D^(-1) is the map M of the plane where M keeps the axes at right angles: turns, and growth along them."""
    sigma = oblong(angle, long, 0.2 * long)
    m = growth * turn(by)
    d = planar.affine(planar.principal_root(sigma), matrix([0.0, 0.0]))
    s = planar.affine(planar.principal_root(m @ sigma @ m.T), matrix([0.5, -0.5]))
    torch.testing.assert_close(planar.between(s, d)[:, :2], m, rtol=1e-3, atol=1e-4)


def test_shear_is_not_seen():
    sigma, shear = oblong(0.3, 0.3, 0.05), matrix([[1.0, 0.6], [0.0, 1.0]])
    d, s = (planar.affine(planar.principal_root(c), matrix([0.0, 0.0])) for c in (sigma, shear @ sigma @ shear.T))
    found = planar.between(s, d)[:, :2]
    assert float((found - shear).abs().max()) > 0.1
    torch.testing.assert_close(found @ sigma @ found.T, shear @ sigma @ shear.T, rtol=1e-3, atol=1e-4)


def test_symmetric_roots_lose_the_turn():
    sigma, r = oblong(0.0, 0.3, 0.03), turn(0.8)
    roots = [planar.symmetric_root(c) for c in (r @ sigma @ r.T, sigma)]
    assert float((roots[0] @ planar.inverse(roots[1]) - r).abs().max()) > 0.5
    roots = [planar.principal_root(c) for c in (r @ sigma @ r.T, sigma)]
    torch.testing.assert_close(roots[0] @ planar.inverse(roots[1]), r, rtol=1e-4, atol=1e-4)


def test_the_sign_is_that_of_the_smaller_turn_where_the_first_entry_errs():
    """A region that grew fourfold and turned by 60 degrees over the cut at 90: the first entry keeps the half turn."""
    driving, source = oblong(math.radians(60), 0.02, 0.01), oblong(math.radians(-60), 0.32, 0.01)
    d, s = (planar.affine(planar.principal_root(c), matrix([0.0, 0.0])) for c in (driving, source))
    raw = planar.between(s, d, turned=False)[:, :2]
    assert float(raw[0, 0]) > 0  # the released rule leaves it
    assert float(raw[0, 0] + raw[1, 1]) < 0
    found = planar.between(s, d)[:, :2]
    u, _, v = torch.linalg.svd(found)
    assert math.degrees(math.acos(float((u @ v)[0, 0]))) == pytest.approx(60, abs=0.5)


def test_a_map_may_be_the_identity_of_any_leading_shape():
    assert planar.identity(2, 3).shape == (2, 3, 2, 3)
    z = torch.rand(4, 7, 2)
    assert torch.equal(planar.apply(planar.identity(4), z), z)
