"""Rendered letters: fixed by their seed, balanced, and changed by each field of a domain as the field says."""

import pytest
import torch

from fedlib import data
from fedlib.data import glyphs
from fedlib.data.glyphs import Domain

STILL = Domain(fonts=("sans",), blur=(0, 0), rotation=0, scale=(1, 1), shift=0)


def draw(letters="AB", count=8, seed=0, domain=STILL, **options):
    return glyphs.render(letters, count, domain=domain, rng=torch.Generator().manual_seed(seed), **options)


def test_same_seed_same_bits_other_seed_other_images():
    first, again, other = (draw(domain=Domain(noise=0.1, jitter=0.2), seed=s) for s in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 1), (16, 3), (28, 1), (28, 3), (64, 1)])
def test_shapes_and_range(size, channels):
    x, y = draw("ABC", 7, size=size, channels=channels, domain=Domain(background="texture", noise=0.5))
    assert (x.shape, x.dtype) == ((7, channels, size, size), torch.float32)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert y.bincount().tolist() == [3, 2, 2]


def test_still_letters_differ_only_by_class():
    x, y = draw("AB", 10)
    for c in (0, 1):
        assert (x[y == c] == x[y == c][0]).all()
    assert float((x[y == 0][0] - x[y == 1][0]).abs().mean()) > 0.05


def test_every_font_draws_every_letter_inside_the_image():
    masters = glyphs._masters("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", tuple(glyphs.FONTS))
    assert (masters.sum((2, 3)) > 50).all()
    assert float(masters[..., 0].max() + masters[..., -1].max() + masters[..., 0, :].max()) == 0
    for axis in (2, 3):
        used = (masters.sum(axis) > 0).byte()
        first, last = used.argmax(2), glyphs.CANVAS - 1 - used.flip(2).argmax(2)
        assert int((first + last - (glyphs.CANVAS - 1)).abs().max()) <= 1  # centred to half a pixel


def test_colours_are_those_of_the_domain():
    look = Domain(fonts=("sans-bold",), ink=(1, 0, 0), paper=(0, 0, 1), blur=(0, 0), shift=0)
    x, _ = draw("I", 1, channels=3, domain=look)
    assert torch.allclose(x[0, :, 14, 14], torch.tensor([1.0, 0, 0]), atol=1e-3)
    assert torch.allclose(x[0, :, 0, 0], torch.tensor([0.0, 0, 1]), atol=1e-6)
    gray, _ = draw("I", 1, channels=1, domain=look)
    assert float(gray[0, 0, 0, 0]) == pytest.approx(0.114)


def change(**fields):
    """Mean absolute difference that fields make to still images, and the still and changed images."""
    still, other = draw("E", 6)[0], draw("E", 6, domain=still_but(**fields))[0]
    return float((still - other).abs().mean()), still, other


def still_but(**fields):
    return Domain(**{**STILL.__dict__, **fields})


def test_each_field_does_what_it_says():
    assert change()[0] == 0
    for fields in ({"rotation": 40.0}, {"shift": 0.2}, {"scale": (0.5, 0.5)}, {"fonts": ("roman",)}):
        assert change(**fields)[0] > 0.01, fields
    _, still, blurred = change(blur=(1.5, 1.5))
    assert float(blurred.diff(dim=-1).abs().sum()) < 0.8 * float(still.diff(dim=-1).abs().sum())
    assert float(blurred.mean()) == pytest.approx(float(still.mean()), rel=0.01)  # blur moves ink, it loses none
    _, still, noisy = change(noise=0.1)
    inside = (still > 0.3) & (still < 0.7)  # away from the ends, where pixels are clipped
    assert float((noisy - still)[inside].std()) == pytest.approx(0.1, rel=0.3)
    _, still, halved = change(scale=(0.5, 0.5))
    assert float(halved.sum()) == pytest.approx(float(still.sum()) / 4, rel=0.05)


@pytest.mark.parametrize("background", ["gradient", "texture"])
def test_backgrounds_vary_within_an_image(background):
    x, _ = draw("I", 4, channels=3, domain=still_but(background=background))
    assert (x[:, :, 0, :].std(-1).amax(1) > 0.01).all()


def test_as_a_data_set():
    d = glyphs.dataset("XYZ", train=30, test=9, size=16, channels=3, seed=5)
    assert (d.x_train.shape, d.y_test.bincount().tolist(), d.classes) == ((30, 3, 16, 16), [3, 3, 3], ("X", "Y", "Z"))
    assert torch.allclose(d.x_train.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(d.x_train.std((0, 2, 3)), torch.ones(3), atol=1e-3)
    loaded = data.load("glyphs")
    assert (loaded.shape, loaded.classes[0], len(loaded.y_train)) == ((1, 28, 28), "A", 2000)
    assert float(loaded.x_train.mean()) == pytest.approx(0, abs=1e-2)
    assert float(loaded.x_train.std()) == pytest.approx(1, abs=1e-2)


def test_letters_can_be_told_apart():
    """A nearest-centroid rule gets most rendered letters right: the classes mean something."""
    d = glyphs.dataset("ABCDEFGHIJ", train=400, test=100, size=16, seed=1).flat()
    centres = torch.stack([d.x_train[d.y_train == c].mean(0) for c in range(10)])
    assert float((torch.cdist(d.x_test, centres).argmin(1) == d.y_test).double().mean()) > 0.6


def test_images_serve_as_unlabelled_data_of_another_set():
    pixels, _ = draw("ABCDEFGHIJ", 20, size=8, domain=Domain(scale=(1.2, 1.4)))
    foreign = data.load("digits").standardise(pixels)
    assert foreign.shape[1:] == (1, 8, 8)
    assert abs(float(foreign.mean())) < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Domain(fonts=("comic",)), "comic.*choose from sans"),
        (lambda: Domain(fonts=()), "empty"),
        (lambda: Domain(background="stripes"), "stripes"),
        (lambda: Domain(blur=(2, 1)), "blur"),
        (lambda: Domain(scale=(0, 1)), "scale"),
        (lambda: draw("AA"), "different visible characters"),
        (lambda: draw("A "), "different visible characters"),
        (lambda: draw(size=4), "size in 8..128"),
        (lambda: draw(channels=2), "1 or 3 channels"),
    ],
)
def test_bad_wishes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
