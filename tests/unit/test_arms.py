"""Videos of arms: what is said of them is what is seen in them."""

import math
from itertools import pairwise

import pytest
import torch

from fedlib import planar, rng, warping
from fedlib.data import arms

FLOAT = torch.float64


def made(seed=0, **numbers):
    return arms.arms(**{"count": 3, "frames": 4, "draws": rng.stream(seed, "arms"), "dtype": FLOAT} | numbers)


def test_shapes_ranges_and_masks():
    own = made(links=3, size=24)
    assert own.frames.shape == (3, 4, 3, 24, 24)
    assert own.masks.shape == (3, 4, 4, 24, 24)
    assert own.links.shape == (3, 4, 3, 2, 3)
    assert float(own.frames.min()) >= 0
    assert float(own.frames.max()) <= 1
    torch.testing.assert_close(own.masks.sum(2), torch.ones(3, 4, 24, 24, dtype=FLOAT))
    assert 0.05 < float(own.masks[:, :, 1:].sum(2).mean()) < 0.4
    assert own.at(torch.tensor([2])).frames.shape[0] == 1
    again, other = made(links=3, size=24), made(1, links=3, size=24)
    assert torch.equal(own.frames, again.frames)
    assert not torch.equal(own.frames, other.frames)


def test_links_hang_together_and_keep_their_length():
    own = made(links=3)
    ends = []
    for link in range(3):
        half = (own.lengths[:, None, None, link] / 2).expand(3, 4, 1)
        zero = torch.zeros_like(half)
        tip = torch.stack([torch.cat([-half, half], -1), torch.cat([zero, zero], -1)], -1)
        ends.append(planar.apply(own.links[:, :, link], tip))
    for a, b in pairwise(ends):
        torch.testing.assert_close(a[..., 1, :], b[..., 0, :], rtol=1e-6, atol=1e-6)
    assert float(planar.determinant(own.links[..., :2]).sub(1).abs().max()) < 1e-6


def test_a_link_is_where_its_map_says():
    """The moments of its mask are those of a stick at the end of the chain, which nothing hides."""
    own = made(size=65, length=(0.5, 0.6), width=0.08, swing=0.3)
    mask = own.masks[:, :, -1]
    mean, covariance = planar.moments(mask / mask.sum((2, 3), keepdim=True))
    torch.testing.assert_close(mean, own.links[:, :, -1, :, 2], rtol=0, atol=0.01)
    axis = planar.eigen(covariance)[1][..., 0]
    assert float((axis * own.links[:, :, -1, :, 0]).sum(-1).abs().min()) > 0.995


def test_the_ground_is_one_texture_that_moves():
    own = made(size=33, drift=0.1)
    back = planar.compose(
        own.ground[:, 0], planar.invert(own.ground[:, 3])
    )  # from places of the last frame to the first
    seen = warping.warp(own.frames[:, 0], warping.fields(back, 33, 33))
    z = planar.apply(back, planar.places(33, 33, back).flatten(0, 1).expand(3, -1, 2)).unflatten(1, (33, 33))
    free = (own.masks[:, 3, 0] > 0.999) & (z.abs().amax(-1) < 0.95)
    hidden = warping.warp(own.masks[:, 0, :1], warping.fields(back, 33, 33))[:, 0]
    free &= hidden > 0.999
    error = (seen - own.frames[:, 3]).abs().amax(1)[free]
    assert int(free.sum()) > 300
    assert float(error.mean()) < 0.01
    still = (own.frames[:, 0] - own.frames[:, 3]).abs().amax(1)[free]
    assert float(still.mean()) > 5 * float(error.mean())


def test_the_contrast_of_the_ground_is_as_asked():
    for contrast in (0.0, 0.05, 0.1):
        own = made(count=40, frames=1, size=16, contrast=contrast)
        free = own.masks[:, :, :1] == 1
        assert float(own.frames[free.expand_as(own.frames)].std()) == pytest.approx(contrast, rel=0.1, abs=1e-6)


def test_a_later_link_hides_an_earlier_one():
    links = planar.identity(1, 2).clone()
    shares = arms.layers(links, torch.tensor([[0.8, 0.4]]), 0.2, 21)
    assert shares[0, :, 10, 10].tolist() == [0.0, 0.0, 1.0]
    assert shares[0, :, 10, 15].tolist() == [0.0, 1.0, 0.0]  # at x = 0.5 only the first is there
    assert float(shares[0, 0, 0, 0]) == 1


def test_frames_of_sticks_tell_their_lengths():
    own = made(links=2)
    frames = arms.frames_of(own.links, own.lengths[:, None], own.width)
    torch.testing.assert_close(arms.limb_lengths(frames), own.lengths[:, None].expand(3, 4, 2), rtol=1e-6, atol=1e-6)
    grid = torch.linspace(-1, 1, 201, dtype=FLOAT)
    x, y = torch.meshgrid(0.3 * grid, own.width * grid, indexing="ij")
    z = planar.apply(planar.affine(planar.turn(torch.tensor(0.4, dtype=FLOAT)), torch.tensor([0.1, 0.2], dtype=FLOAT)),
                     torch.stack([x.flatten(), y.flatten()], -1))  # fmt: skip
    frame = arms.frames_of(
        planar.affine(planar.turn(torch.tensor([0.4], dtype=FLOAT)), torch.tensor([[0.1, 0.2]], dtype=FLOAT)),
        torch.tensor([0.6], dtype=FLOAT), own.width,
    )[0]  # fmt: skip
    told = torch.cov(z.T, correction=0)
    torch.testing.assert_close(frame[:, :2] @ frame[:, :2].T, told, rtol=0.02, atol=1e-6)


def test_a_chain_from_angles_by_hand():
    links = arms.chain(torch.tensor([0.0, 0.0]), torch.tensor([0.0, math.pi / 2]), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(links[:, :, 2], torch.tensor([[0.5, 0.0], [1.0, 0.25]]), rtol=1e-6, atol=1e-6)
    assert links[1, :, 0].tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"count": 0}, "count must be"),
        ({"frames": 0}, "frames must be"),
        ({"size": 4}, "size must be"),
        ({"links": 0}, "links must be"),
        ({"links": 6}, "links must be at most 5"),
        ({"length": (0.6, 0.4)}, "length: expected a shortest and a longest"),
        ({"length": (0.0, 0.4)}, "length must be"),
        ({"width": float("nan")}, "width must be"),
        ({"swing": -1.0}, "swing must be"),
        ({"drift": float("inf")}, "drift must be"),
        ({"contrast": -0.1}, "contrast must be"),
    ],
)
def test_arms_that_cannot_be_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        made(**numbers)
