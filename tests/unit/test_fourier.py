"""Fourier mixing: its identities in float64, what the released code does instead, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlib import fourier, rng
from fedlib.fourier import amplitude, amplitude_only, central, low_frequency_mix, phase_only, spectrum

CASES = settings(deadline=None, max_examples=30)
FLOAT = torch.float64
SIZES = st.tuples(st.integers(3, 9), st.integers(3, 9))


def images(seed, *shape):
    return torch.rand(*shape, generator=rng.stream(seed, "images"), dtype=FLOAT)


def wrapped(phase):
    """Phases in (-pi, pi]."""
    return torch.remainder(phase + math.pi, 2 * math.pi) - math.pi


@CASES
@given(st.integers(0, 99), SIZES)
def test_nothing_of_another_image_is_the_image_itself(seed, size):
    x, other = images(seed, 2, *size), amplitude(images(seed + 1, 2, *size))
    torch.testing.assert_close(low_frequency_mix(x, other, 1, 0.0), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(low_frequency_mix(x, amplitude(x), 1, 0.7), x, rtol=0, atol=1e-12)


@CASES
@given(st.integers(0, 99), SIZES, st.floats(0, 1))
def test_amplitudes_are_mixed_in_the_window_alone_and_the_phase_stays(seed, size, ratio):
    x, y = images(seed, *size), images(seed + 1, *size)
    mixed = spectrum(low_frequency_mix(x, amplitude(y), 1, ratio))
    own, other = spectrum(x), spectrum(y)
    row, column = (n // 2 for n in size)
    for i in range(size[0]):
        for j in range(size[1]):
            inside = abs(i - row) <= 1 and abs(j - column) <= 1
            a, b = own[i, j].abs(), other[i, j].abs()
            expected = (1 - ratio) * a + ratio * b if inside else a
            torch.testing.assert_close(mixed[i, j].abs(), expected, rtol=1e-9, atol=1e-10)
    turned = wrapped(mixed.angle() - own.angle()).abs()
    assert float(turned[(own.abs() > 1e-6) & (mixed.abs() > 1e-6)].max()) < 1e-6


def test_amplitudes_are_those_of_the_definition():
    """|sum_hw x(h, w) exp(-2 pi j (h u / H + w v / W))|, with the mean in the middle."""
    x, found = images(3, 4, 5), amplitude(images(3, 4, 5))
    h, w = (torch.arange(n, dtype=FLOAT) for n in (4, 5))
    for u in range(-2, 2):
        for v in range(-2, 3):
            wave = torch.exp(-2j * math.pi * (h[:, None] * u / 4 + w * v / 5))
            torch.testing.assert_close(found[u + 2, v + 2], (x * wave).sum().abs(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (6, 7)])
def test_window_zero_exchanges_the_mean_alone(size):
    """What the released code trains with: t = x - mean(x) + mean(y), a shift of brightness and colour."""
    x, y = images(1, 3, *size), images(2, 3, *size)
    shifted = x - x.mean((-2, -1), keepdim=True) + y.mean((-2, -1), keepdim=True)
    torch.testing.assert_close(low_frequency_mix(x, amplitude(y), 0, 1.0), shifted, rtol=0, atol=1e-13)
    assert (low_frequency_mix(x, amplitude(y), 1, 1.0) - shifted).abs().max() > 0.01


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_slope_of_light_is_in_the_window_and_brightness_in_its_middle(size):
    """So a mean that is exchanged cannot take a slope over, and a window can."""
    x = images(1, *size)
    slope = torch.cos(2 * math.pi * torch.arange(size[1], dtype=FLOAT) / size[1]).expand(size)
    changed = (amplitude(x + 0.3 * slope) - amplitude(x)).abs() > 1e-9
    assert changed.sum() == 2
    assert bool(central(changed, 1).sum() == 2)
    assert not bool(central(changed, 0).any())


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 9)])
def test_the_mixture_is_real(size):
    """A window that is not symmetric around the mean leaves an imaginary part, which is then thrown away."""
    x, y = images(1, *size), images(2, *size)
    own = spectrum(x)
    size_ = own.abs()
    central(size_, 1).copy_(central(amplitude(y), 1))
    whole = torch.fft.ifft2(torch.fft.ifftshift(torch.polar(size_, own.angle())))
    assert float(whole.imag.abs().max()) < 1e-14
    torch.testing.assert_close(low_frequency_mix(x, amplitude(y), 1, 1.0), whole.real, rtol=0, atol=1e-13)


def test_only_the_window_need_be_known():
    x, y = images(1, 2, 3, 8, 9), images(2, 2, 3, 8, 9)
    whole = low_frequency_mix(x, amplitude(y), 2, 0.6)
    assert amplitude(y, 2).shape == (2, 3, 5, 5)
    for window in (amplitude(y, 2), amplitude(y, 3)):
        torch.testing.assert_close(low_frequency_mix(x, window, 2, 0.6), whole, rtol=0, atol=1e-13)


def test_each_image_may_have_a_ratio_of_its_own():
    x, y = images(1, 3, 2, 6, 6), amplitude(images(2, 3, 2, 6, 6))
    ratio = torch.tensor([[0.0], [0.4], [1.0]], dtype=FLOAT)
    found = low_frequency_mix(x, y, 1, ratio)
    for i in range(3):
        alone = low_frequency_mix(x[i], y[i], 1, float(ratio[i]))
        torch.testing.assert_close(found[i], alone, rtol=0, atol=1e-13)


def test_the_form_that_is_recalled_from_print_loses_high_frequencies():
    """(1 - ratio) A (1 - M) + ratio A' M shrinks what is outside the window; ours leaves it."""
    x, y = images(1, 8, 8), amplitude(images(2, 8, 8))
    mask = torch.zeros(8, 8, dtype=FLOAT)
    central(mask, 1).fill_(1)
    printed = fourier.image(torch.polar(0.6 * amplitude(x) * (1 - mask) + 0.4 * y * mask, spectrum(x).angle()))
    ours = low_frequency_mix(x, y, 1, 0.4)
    outside = (1 - mask).bool()
    torch.testing.assert_close(amplitude(ours)[outside], amplitude(x)[outside], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(amplitude(printed)[outside], 0.6 * amplitude(x)[outside], rtol=1e-9, atol=1e-10)


def test_a_standardised_image_has_no_sign_of_its_mean_left():
    """Pixels from 0 on keep the mean that they are given; an image below 0 turns it round: it is mixed before."""
    x, y = images(1, 6, 6), images(2, 6, 6)
    assert low_frequency_mix(x, amplitude(y), 0, 1.0).mean() > 0
    below = low_frequency_mix(x - 1, amplitude(y), 0, 1.0).mean()
    torch.testing.assert_close(below, -y.mean(), rtol=1e-10, atol=0)


def test_phase_alone_and_amplitude_alone():
    x = images(1, 7, 8)
    one, zero = phase_only(x), amplitude_only(x)
    torch.testing.assert_close(amplitude(one), torch.ones(7, 8, dtype=FLOAT), rtol=0, atol=1e-10)
    torch.testing.assert_close(amplitude(zero), amplitude(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(spectrum(zero).imag, torch.zeros(7, 8, dtype=FLOAT), rtol=0, atol=1e-10)


X, A = images(1, 2, 6, 7), amplitude(images(2, 2, 6, 7))
ODD = A.clone()
ODD[0, 3, 2] *= 2
NONSENSE = {
    r"images \[..., H, W\] of a floating-point type": (X.long(), A, 1, 0.5),
    r"images are finite; 84 of 84 numbers": (torch.full_like(X, math.nan), A, 1, 0.5),
    r"window: 7 x 7 frequencies do not fit into 6 x 7": (X, A, 3, 0.5),
    r"window must be a whole number of at least 0, got -1": (X, A, -1, 0.5),
    r"window must be a whole number of at least 0, got 0.5": (X, A, 0.5, 0.5),
    r"window: 5 x 5 frequencies do not fit into 3 x 3": (X, amplitude(X, 1), 2, 0.5),
    r"amplitude: a whole spectrum \[6, 7\] or a window of it, .* got \[2, 5, 7\]": (X, A[:, :5], 1, 0.5),
    r"amplitude: a whole spectrum \[6, 7\] or a window of it, .* got \[2, 6, 6\]": (X, A[..., :6], 1, 0.5),
    r"amplitude: \[..., h, w\] of torch.float64 is needed, got torch.float32": (X, A.float(), 1, 0.5),
    r"amplitude: sizes are finite, and none is negative": (X, -A, 1, 0.5),
    r"amplitude: that of a real image is the same at a frequency": (X, ODD, 1, 0.5),
    r"ratio must lie in \[0, 1\], got 1.5": (X, A, 1, 1.5),
    r"ratio must lie in \[0, 1\], got nan": (X, A, 1, math.nan),
    r"ratio: one for each image of \[2, 6, 7\], got \[3\]": (X, A, 1, torch.rand(3, dtype=FLOAT)),
}  # fmt: skip


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        low_frequency_mix(*NONSENSE[message])


def test_an_amplitude_that_is_not_centred_is_refused():
    """Its largest value, the mean's, would stand in a corner."""
    with pytest.raises(ValueError, match="centre it"):
        low_frequency_mix(X, torch.fft.fft2(X).abs(), 1, 0.5)
