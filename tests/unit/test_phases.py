"""Phase retrieval: what an amplitude tells, with and without a border of zeros, and how alike two images are."""

import math

import pytest
import torch

from fedlib import rng
from fedlib.fourier import amplitude, amplitude_only, phase_only
from fedlib.phases import correlation, likeness, padded, retrieved

FLOAT = torch.float64


def image(seed, *size):
    """Some bright dots of several sizes, off the middle."""
    x = torch.rand(*size, generator=rng.stream(seed, "image"), dtype=FLOAT)
    return torch.where(x > 0.6, x, 0.02 * x)


def test_a_border_of_zeros_gives_the_image_away_and_an_amplitude_without_does_not():
    x = image(0, 6, 6)
    with_border = retrieved(amplitude(padded(x)), 6, 6, steps=600, starts=8)
    without = retrieved(amplitude(x), 6, 6, steps=600, starts=8)
    assert likeness(with_border, x) > 0.98
    assert likeness(without, x) < 0.9
    torch.testing.assert_close(amplitude(padded(with_border)), amplitude(padded(x)), rtol=0.2, atol=0.5)


def test_of_several_starts_the_nearest_is_taken():
    x = image(6, 5, 5)
    size = amplitude(padded(x))

    def apart(starts):
        found = [retrieved(size, 5, 5, steps=10, starts=starts, draws=rng.stream(i)) for i in range(6)]
        return sum(float((amplitude(padded(own)) - size).square().sum()) for own in found)

    assert apart(8) < 0.9 * apart(1)


def test_the_padded_amplitude_is_that_of_the_autocorrelation():
    """Its square transformed back holds the sums of products at every shift, none of which wraps around."""
    x = image(1, 4, 5)
    square = amplitude(padded(x)).square()
    found = torch.fft.ifft2(torch.fft.ifftshift(square)).real
    for i in range(4):
        for j in range(5):
            torch.testing.assert_close(found[i, j], (x[i:, j:] * x[: 4 - i, : 5 - j]).sum(), rtol=1e-9, atol=1e-10)


def test_what_is_found_lies_in_the_image_and_is_not_negative():
    x = image(2, 5, 4)
    found = retrieved(amplitude(padded(x, 3)), 5, 4, steps=20, starts=2)
    assert found.shape == (5, 4)
    assert bool((found >= 0).all())
    again = retrieved(amplitude(padded(x, 3)), 5, 4, steps=20, starts=2)
    assert torch.equal(found, again)


def test_likeness_forgives_what_an_amplitude_cannot_tell():
    x = image(3, 6, 7)
    for same in (x, 2 * x + 1, x.roll((2, 3), (0, 1)), x.flip((0, 1)), x.flip((0, 1)).roll(1, 0)):
        assert likeness(same, x) == pytest.approx(1.0, abs=1e-12)
        torch.testing.assert_close(amplitude(same - same.mean()), amplitude(same - same.mean()))
    assert likeness(x.flip(0), x) < 0.99
    assert correlation(x.roll(1, 0), x) < 0.9
    assert correlation(x, x) == pytest.approx(1.0)


def test_likeness_is_the_best_of_all_correlations():
    a, b = image(4, 4, 5), image(5, 4, 5)
    each = [
        correlation(turned.roll((i, j), (0, 1)), b)
        for turned in (a, a.flip((0, 1)))
        for i in range(4)
        for j in range(5)
    ]
    assert likeness(a, b) == pytest.approx(max(each), abs=1e-12)


def test_the_phase_is_the_image_and_the_amplitude_is_not():
    """A disc on a ground: edges stand in the phase."""
    axis = torch.linspace(-1, 1, 24, dtype=FLOAT)
    x = ((axis[:, None] - 0.3).square() + (axis + 0.2).square() < 0.2).to(FLOAT) + 0.3
    assert correlation(phase_only(x), x) > 0.3
    assert correlation(amplitude_only(x), x) < 0.2


X = torch.ones(4, 4, dtype=FLOAT)
NONSENSE = {
    "size: the amplitude .* of one canvas, from 0 on": lambda: retrieved(-X, 2, 2),
    r"got \[2, 4, 4\]": lambda: retrieved(X.expand(2, 4, 4), 2, 2),
    "height must be at most 4, that of the canvas, got 5": lambda: retrieved(X, 5, 2),
    "width must be a whole number of at least 1, got 0": lambda: retrieved(X, 2, 0),
    "steps must be": lambda: retrieved(X, 2, 2, steps=0),
    "starts must be": lambda: retrieved(X, 2, 2, starts=1.5),
    "feedback must be a finite number >= 0, got nan": lambda: retrieved(X, 2, 2, feedback=math.nan),
    "factor must be": lambda: padded(X, 0),
    "an image of one grey has no correlation": lambda: likeness(X, image(0, 4, 4)),
    "two images .* of one size": lambda: likeness(X, X[:2]),
    "images are finite": lambda: likeness(X * math.nan, X),
}


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        NONSENSE[message]()
