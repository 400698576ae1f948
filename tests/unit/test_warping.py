"""Warps, flows of masks and maps, bends with their Jacobians, equivariance: identities, directions and gradients."""

import pytest
import torch
from torch.nn import functional as F

from fedlib import planar, rng, warping

FLOAT = torch.float64


def image(channels=2, height=7, width=9, count=3, seed=0):
    return torch.rand(count, channels, height, width, generator=rng.stream(seed), dtype=FLOAT)


def maps(count, regions, seed=0, by=0.2):
    noise = torch.randn(count, regions, 2, 3, generator=rng.stream(seed, "maps"), dtype=FLOAT)
    return planar.identity(count, regions, like=noise) + by * noise


def masks(count, regions, height, width, seed=0):
    return torch.randn(count, regions, height, width, generator=rng.stream(seed, "m"), dtype=FLOAT).softmax(1)


def test_the_identity_leaves_an_image_bit_for_bit_near():
    x = image()
    field = warping.fields(planar.identity(3, like=x), 7, 9)
    torch.testing.assert_close(warping.warp(x, field), x, rtol=1e-12, atol=1e-12)
    moved = F.grid_sample(x, field, align_corners=False)  # torch's default: the trap
    assert float((moved - x).abs().max()) > 0.01


def test_x_is_to_the_right():
    """Pixels of the result look one pixel further right in the image: it moves left."""
    x = image(1, 5, 6)
    shift = planar.identity(3, like=x).clone()
    shift[:, 0, 2] = 2 / 5
    torch.testing.assert_close(warping.warp(x, warping.fields(shift, 5, 6))[..., :-1], x[..., 1:], rtol=1e-9, atol=1e-9)


def test_the_same_frame_gives_the_identity_for_all_masks():
    x = image()
    frames = maps(3, 4)
    still = torch.cat([planar.identity(3, 1, like=x), planar.between(frames, frames)], 1)
    field = warping.flow(masks(3, 5, 7, 9), still)
    torch.testing.assert_close(field, planar.places(7, 9, x).expand(3, 7, 9, 2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(warping.warp(x, field), x, rtol=1e-8, atol=1e-8)


def test_flow_is_the_mean_of_the_maps_by_the_masks():
    w, t = masks(2, 3, 4, 5), maps(2, 3)
    field = warping.flow(w, t)
    z = planar.places(4, 5, w)
    for b, i, j in ((0, 0, 0), (1, 3, 2), (1, 2, 4)):
        told = sum(w[b, k, i, j] * (t[b, k, :, :2] @ z[i, j] + t[b, k, :, 2]) for k in range(3))
        torch.testing.assert_close(field[b, i, j], told, rtol=1e-12, atol=1e-12)
    only = torch.zeros_like(w)
    only[:, 1] = 1
    torch.testing.assert_close(warping.flow(only, t), warping.fields(t[:, 1], 4, 5), rtol=1e-12, atol=1e-12)


def test_blobs_are_gaussians_of_the_regions():
    sigma = torch.tensor([[0.1, 0.04], [0.04, 0.05]], dtype=FLOAT)
    frame = planar.affine(planar.principal_root(sigma), torch.tensor([0.2, -0.4], dtype=FLOAT))
    found = warping.blobs(frame[None], 6, 8)[0]
    z = planar.places(6, 8, sigma) - frame[:, 2]
    q = torch.einsum("hwi,ij,hwj->hw", z, torch.linalg.inv(sigma), z)
    torch.testing.assert_close(found, torch.exp(-q / 2), rtol=1e-3, atol=1e-4)
    fine = warping.blobs(frame[None], 101, 101)
    mean, covariance = planar.moments(fine / fine.sum((1, 2), keepdim=True))
    assert mean[0].tolist() == pytest.approx([0.2, -0.4], abs=0.03)
    assert float(covariance[0, 0, 1]) > 0.02  # leans the same way


# Bends


def bent(count=3, spline=0.02):
    return warping.bend(count, rng.stream("bend"), affine=0.1, spline=spline, like=torch.zeros((), dtype=FLOAT))


def test_the_jacobian_is_that_of_autograd():
    by = bent()
    z = (torch.rand(3, 4, 2, generator=rng.stream(1), dtype=FLOAT) * 2 - 1).requires_grad_()
    value = by.at(z)
    rows = [torch.autograd.grad(value[..., i].sum(), z, retain_graph=True)[0] for i in range(2)]
    torch.testing.assert_close(by.jacobian(z.detach()), torch.stack(rows, -2), rtol=1e-9, atol=1e-9)


def test_a_bend_at_its_own_centres_is_finite():
    by = bent()
    z = by.centres.expand(3, -1, 2).clone().requires_grad_()
    by.at(z).sum().backward()
    assert bool(by.at(z).isfinite().all())
    assert bool(by.jacobian(z).isfinite().all())
    assert bool(z.grad.isfinite().all())


def test_no_deviation_is_no_bend():
    still = warping.bend(2, rng.stream(0), affine=0.0, spline=0.0, like=torch.zeros((), dtype=FLOAT))
    x = image(count=2)
    torch.testing.assert_close(still.image(x), x, rtol=1e-9, atol=1e-9)


def test_bends_follow_from_their_stream():
    one, two, other = (warping.bend(2, rng.stream(s)) for s in (0, 0, 1))
    assert torch.equal(one.maps, two.maps)
    assert torch.equal(one.weights, two.weights)
    assert not torch.equal(one.weights, other.weights)


def followed(by, frames):
    """Frames of regions in the bent image that follow the bend exactly: A = J A', mu = T(mu')."""
    centre = frames[..., 2]
    return planar.affine(by.jacobian(centre) @ frames[..., :2], by.at(centre))


def test_regions_that_follow_a_bend_cost_nothing_and_others_do():
    by, moved = bent(), maps(3, 4)
    before = followed(by, moved)
    shift, shape = warping.equivariance(before, moved, by)
    assert float(shift) < 1e-12
    assert float(shape) < 1e-12
    turned = planar.affine(-before[..., :2], before[..., 2])  # an axis may point either way
    assert float(warping.equivariance(turned, moved, by)[1]) < 1e-12
    wrong = warping.equivariance(moved, before, by)  # the other way round
    assert min(map(float, wrong)) > 0.01


def test_a_real_blob_follows_an_affine_bend():
    """From images: the blob in the bent image, led through the bend, is the blob in the image."""
    by = warping.bend(1, rng.stream(3), affine=0.15, spline=0.0, like=torch.zeros((), dtype=FLOAT))
    sigma = torch.tensor([[0.03, 0.01], [0.01, 0.01]], dtype=FLOAT)
    frame = planar.affine(planar.principal_root(sigma), torch.tensor([0.1, -0.1], dtype=FLOAT))[None, None]
    picture = warping.blobs(frame, 81, 81)
    found = []
    for x in (picture, by.image(picture)):
        mean, covariance = planar.moments(x / x.sum((2, 3), keepdim=True))
        found.append(planar.affine(planar.principal_root(covariance), mean))
    shift, shape = warping.equivariance(*found, by)
    assert float(shift) < 2e-3
    # an affine map shears: the axes of what it gives are not those it had, so J A' is a root of Sigma, another one
    left = by.jacobian(found[1][..., 2]) @ found[1][..., :2]
    torch.testing.assert_close(left @ left.mT, found[0][..., :2] @ found[0][..., :2].mT, rtol=2e-2, atol=1e-4)
    assert float(shape) < 0.2


# Pictures


def test_the_pyramid_is_zero_for_equal_images_and_sees_coarse_errors():
    x, y = image(height=8, width=8), image(height=8, width=8, seed=1)
    assert float(warping.pyramid(x, x)) == 0
    one = warping.pyramid(x, y, (1,))
    off = x - y
    told = (
        off.abs().mean()
        + (off[..., 1:] - off[..., :-1]).abs().mean()
        + (off[..., 1:, :] - off[..., :-1, :]).abs().mean()
    )
    torch.testing.assert_close(one, told, rtol=1e-12, atol=0)
    stripes = torch.ones_like(x)
    stripes[..., ::2] = -1
    assert float(warping.pyramid(x, x + stripes, (2,))) == pytest.approx(0, abs=1e-12)
    assert float(warping.pyramid(x, x + 1.0, (4,))) == pytest.approx(1.0)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="expected images"):
        warping.warp(image(), torch.zeros(2, 7, 9, 2))
    with pytest.raises(ValueError, match="expected images"):
        warping.warp(image()[0], torch.zeros(3, 7, 9, 2))
    with pytest.raises(ValueError, match="as many masks as maps"):
        warping.flow(masks(2, 3, 4, 5), maps(2, 2))
    for numbers, message in (
        ({"count": 0}, "count must be"),
        ({"affine": -0.1}, "affine must be"),
        ({"spline": float("nan")}, "spline must be"),
        ({"points": 1}, "points must be"),
    ):
        with pytest.raises(ValueError, match=message):
            warping.bend(**{"count": 1, "draws": rng.stream(0)} | numbers)
    with pytest.raises(ValueError, match="images of one shape"):
        warping.pyramid(image(), image(1))
    with pytest.raises(ValueError, match="images of one shape and a scale"):
        warping.pyramid(image(), image(), ())
