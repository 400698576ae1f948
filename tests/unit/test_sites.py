"""Procedural sites: what is drawn, that styles are of low frequency, and what is refused."""

import math

import pytest
import torch

from fedlib import rng
from fedlib.data.sites import Site, drawn, eyes, four_sites
from fedlib.fourier import central, spectrum

FLOAT = torch.float64
STILL = {"noise": 0.0, "spread": 0.0}


def some(site, seed=0, count=40, side=16):
    return eyes(count, site, side=side, rng=rng.stream(seed, "eyes"), dtype=FLOAT)


def test_cup_in_disc_in_image_and_every_one_another():
    images, masks = some(Site())
    assert images.shape == (40, 1, 16, 16)
    assert masks.shape == (40, 2, 16, 16)
    assert bool(((masks == 0) | (masks == 1)).all())
    assert bool((masks[:, 1] <= masks[:, 0]).all())
    assert bool(((images >= 0) & (images <= 1)).all())
    sizes = masks.sum((2, 3))
    assert bool((sizes[:, 0] > 15).all())
    assert bool((sizes[:, 1] > 0).all())
    assert len(masks[:, 0].flatten(1).unique(dim=0)) == 40


def test_the_stream_decides_and_nothing_else():
    before = torch.random.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(some(Site()), some(Site()), strict=True))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(some(Site()).masks, some(Site(), 1).masks)


def test_structures_are_lighter_than_their_ground():
    images, masks = some(Site(**STILL))
    disc, cup = masks[:, :1].bool(), masks[:, 1:].bool()
    assert images[cup].mean() > images[disc & ~cup].mean() + 0.1
    assert images[disc & ~cup].mean() > images[~disc].mean() + 0.1


def test_a_site_changes_no_shape_and_only_slow_frequencies():
    """A site without noise: gain scales all of them, brightness moves the mean, and the slope is in the first rows."""
    plain, bright = (some(Site(gain=0.5, brightness=b, **STILL)) for b in (0.0, 0.2))
    assert torch.equal(plain.masks, bright.masks)
    torch.testing.assert_close(bright.images, plain.images + 0.2)
    sloping = some(Site(gain=0.5, brightness=0.2, slope=0.2, **STILL))
    power = (spectrum(sloping.images) - spectrum(bright.images)).abs().square()[0, 0]
    assert central(power, 1).sum() / power.sum() > 0.55
    assert central(power, 3).sum() / power.sum() > 0.85


@pytest.mark.parametrize(("towards", "more", "less"), [(0.0, (8, 15), (8, 0)), (0.25, (15, 8), (0, 8))])
def test_light_falls_from_where_it_is_said(towards, more, less):
    even = Site(gain=0.5, brightness=0.2, **STILL)
    lit = some(Site(gain=0.5, brightness=0.2, slope=0.2, towards=towards, **STILL))
    gained = (lit.images - some(even).images)[0, 0]
    assert float(gained[more]) == pytest.approx(0.1, abs=0.01)
    assert float(gained[less]) == pytest.approx(-0.1, abs=0.01)


def test_directions_differ_within_the_turn_that_is_given():
    even = Site(gain=0.5, brightness=0.2, **STILL)

    def towards(turning):
        light = Site(gain=0.5, brightness=0.2, slope=0.2, towards=0.5, turning=turning, **STILL)
        gained = (some(light).images - some(even).images)[:, 0]
        right, down = gained[:, :, -1].mean(1) - gained[:, :, 0].mean(1), gained[:, -1].mean(1) - gained[:, 0].mean(1)
        return torch.remainder(torch.atan2(down, right) / (2 * math.pi), 1)

    assert bool((towards(0.0) - 0.5).abs().max() < 0.01)
    some_turns = (towards(0.2) - 0.5).abs()
    assert bool(some_turns.max() < 0.11)
    assert bool(some_turns.max() > 0.06)
    assert len((towards(1.0) * 4).floor().unique()) == 4


def test_tints_are_channels_and_noise_is_of_each():
    site = Site(gain=0.8, tint=(1.0, 0.5, 0.8), **STILL)
    images = some(site).images
    torch.testing.assert_close(images[:, 1], 0.5 * images[:, 0])
    noisy = some(Site(gain=0.8, tint=(1.0, 0.5, 0.8), noise=0.05, spread=0.0)).images
    rest = noisy - images
    assert float(rest.std()) == pytest.approx(0.05, rel=0.05)
    assert abs(float(torch.corrcoef(rest.transpose(0, 1).flatten(1))[0, 1])) < 0.05


def test_images_of_a_site_differ_by_its_spread():
    base = some(Site(gain=0.5, brightness=0.2, **STILL)).images
    moved = some(Site(gain=0.5, brightness=0.2, noise=0.0, spread=0.05)).images
    shift = (moved - base).mean((1, 2, 3))
    assert 0.02 < float(shift.std()) < 0.12


def test_shapes_are_what_their_equations_say():
    disc, cup, vessels = drawn(50, 32, rng.stream("shapes"))
    for t in (disc, cup, vessels):
        assert t.shape == (50, 32, 32)
        assert bool(((t == 0) | (t == 1)).all())
    assert bool(((cup.sum((1, 2)) / disc.sum((1, 2))) < 0.6).all())
    share = disc.mean((1, 2)) * 4 / math.pi  # of half axes r and r / squeeze, on a square of side 2
    assert bool((share > 0.4**2 / 1.2 * 0.9).all())
    assert bool((share < 0.6**2 / 0.8 * 1.1).all())


def test_four_sites_differ():
    for channels in (1, 3):
        sites = four_sites(channels)
        assert len(set(sites)) == 4
        assert all(len(s.tint) == channels for s in sites)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        four_sites(2)


@pytest.mark.parametrize("value", [math.nan, math.inf, "much"])
@pytest.mark.parametrize("name", ["gain", "brightness", "slope", "towards", "turning", "noise", "spread"])
def test_a_site_of_nonsense_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a finite number"):
        Site(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("gain", 0.0), ("noise", -0.1), ("spread", -1), ("tint", (1.0, 0.0))])
def test_what_no_light_does_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a finite number"):
        Site(**{name: value})


@pytest.mark.parametrize(
    ("count", "side", "message"),
    [(0, 16, "count must be"), (3, 18, "side must be a multiple of 4"), (3, 4, "side must be a whole number of at")],
)
def test_no_image_is_refused(count, side, message):
    with pytest.raises(ValueError, match=message):
        eyes(count, Site(), side=side, rng=rng.stream(0))
    with pytest.raises(ValueError, match="tint: one number for each channel"):
        Site(tint=())
