"""Drawn identities: views and cameras do what they say, and nonsense is refused."""

import math

import pytest
import torch
from federations import FLOAT

from fedlib import rng
from fedlib.data.identities import Look, cameras, smooth, views

PLAIN = Look(size=9, shift=0.0, turn=0.0, noise=0.0)


def test_the_same_stream_draws_the_same_people_and_another_draws_others():
    one, again, other = (smooth(3, 9, 4, rng.stream(s)) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (3, 1, 9, 9)


def test_a_view_without_change_is_the_pattern():
    patterns = smooth(4, 9, 4, rng.stream(0))
    torch.testing.assert_close(views(patterns, PLAIN, rng.stream(1)), patterns, rtol=0, atol=1e-12)


def test_noise_has_the_deviation_that_is_asked_for():
    patterns = smooth(400, 9, 4, rng.stream(0))
    noise = views(patterns, Look(size=9, shift=0.0, turn=0.0, noise=0.3), rng.stream(1)) - patterns
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)


def test_a_view_is_turned_about_the_middle():
    """A ramp, turned: its slope keeps its length, and its angle is at most the largest."""
    ramp = torch.linspace(-1, 1, 9, dtype=FLOAT).expand(1, 1, 9, 9).repeat(50, 1, 1, 1)
    seen = views(ramp, Look(size=9, shift=0.0, turn=20.0, noise=0.0), rng.stream(1))[:, 0, 3:6, 3:6]
    across, down = (seen[:, 1, 2] - seen[:, 1, 0]), (seen[:, 2, 1] - seen[:, 0, 1])
    slope = 2 * (ramp[0, 0, 0, 1] - ramp[0, 0, 0, 0])
    torch.testing.assert_close(torch.hypot(across, down), slope.expand(50), rtol=0, atol=1e-12)
    angles = torch.atan2(down, across).rad2deg()
    assert 10 < float(angles.abs().max()) <= 20
    # A turn and not a shear: a ramp from top to bottom tilts the other way round.
    tilt = torch.zeros(1, 1, 9, 9, dtype=FLOAT) + torch.linspace(-1, 1, 9, dtype=FLOAT)[:, None]
    turned = views(tilt.repeat(50, 1, 1, 1), Look(size=9, shift=0.0, turn=20.0, noise=0.0), rng.stream(1))[:, 0]
    torch.testing.assert_close((turned[:, 4, 5] - turned[:, 4, 3]), -down, rtol=0, atol=1e-12)


def test_a_view_is_shifted_by_at_most_so_many_pixels():
    ramp = torch.arange(9, dtype=FLOAT).expand(1, 1, 9, 9).repeat(200, 1, 1, 1)
    seen = views(ramp, Look(size=9, shift=1.5, turn=0.0, noise=0.0), rng.stream(1))
    moved = seen[:, 0, 4, 4] - 4
    assert 1.4 < float(moved.abs().max()) <= 1.5


def test_a_camera_is_contrast_brightness_and_light():
    style, x = cameras(3, 9, rng.stream(0), channels=2), torch.randn(4, 2, 9, 9, dtype=FLOAT)
    camera = torch.tensor([2, 0, 1, 1])
    for i, c in enumerate(camera.tolist()):
        expected = x[i] * style.contrast[c] + style.brightness[c] + style.light[c]
        torch.testing.assert_close(style(x, camera)[i], expected, rtol=0, atol=0)
    assert float(style.light.std()) > 0.1
    none = cameras(3, 9, rng.stream(0), strength=0.0, channels=2)
    assert torch.equal(none(x, camera), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Look(size=1), "size must be a whole number of at least 2, got 1"),
        (lambda: Look(detail=0), "detail must be a whole number"),
        (lambda: Look(turn=math.nan), "turn must be a finite number >= 0, got nan"),
        (lambda: Look(noise=-1.0), "noise must be a finite number >= 0, got -1.0"),
        (lambda: cameras(0, 9, rng.stream(0)), "count must be a whole number of at least 1, got 0"),
        (lambda: cameras(1, 9, rng.stream(0), -1.0), "strength must be a finite number >= 0"),
        (lambda: views(torch.zeros(0, 1, 9, 9), PLAIN, rng.stream(0)), r"patterns \[M, 1, H, W\] with M >= 1, got \[0"),
        (lambda: cameras(2, 9, rng.stream(0))(torch.zeros(1, 1, 9, 9), torch.tensor([2])), "a camera from 0 to 1"),
        (lambda: cameras(2, 9, rng.stream(0))(torch.zeros(2, 1, 9, 9), torch.tensor([1])), r"got \[2, 1, 9, 9\] and"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
