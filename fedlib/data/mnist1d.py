"""MNIST-1D (Greydanus 2020, "Scaling down deep learning"): ten shapes drawn in one dimension, generated from a seed.

The recipe and its ten templates are those of the author's package ``mnist1d`` (Apache License 2.0), whose numbers come
out here to rounding; the seed 42 gives its default set. The package itself is no dependency: it imports a web client
and a drawing library, and draws from NumPy's global generator alone.

A sample: a template, padded at its end by 36 to 60 zeros, drawn out to 72 points, scaled, rotated by up to 47 points,
given correlated noise where it is zero and white noise everywhere, sheared, and reduced to 40 points.
"""

from __future__ import annotations

import numpy as np
import torch

from .dataset import Dataset, from_arrays
from .packs import content_sha256

PUBLISHED = 42  # the seed of the package's default set
POINTS, WIDE = 40, 72
PADDING = 36, 60
SHIFTS = 48
SCALE, SHEAR = 0.4, 0.75  # ranges of the factors
CORRELATED, WHITE = 0.25, 2e-2  # standard deviations of the noise
SMOOTHING = 2.0  # points: standard deviation of the kernel that correlates noise
DIGITS = 4  # decimals that a checksum looks at: rounding differs by machine

TEMPLATES = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)


def arrays(train: int = 4000, test: int = 1000, seed: int = PUBLISHED) -> dict[str, np.ndarray]:
    """x_* float64 [N, 1, 40], y_* int64 [N], class_names [10]: equally many of each class in both parts together.

    All samples are shifted and scaled together to mean 0 and standard deviation 1, as the package does. Raises
    ValueError unless both sizes are positive and their sum is a multiple of ten.
    """
    if min(train, test) < 1 or (train + test) % 10:
        raise ValueError(
            f"mnist1d: {train} training and {test} test samples; both must be positive and their sum a multiple of 10"
        )
    # The legacy generator: NumPy promises that its streams never change.
    draw = np.random.RandomState(seed)
    labels = np.repeat(np.arange(10), (train + test) // 10)
    x = _samples(labels, draw)
    order = draw.permutation(len(labels))
    x, labels = x[order], labels[order]
    x = ((x - x.mean()) / x.std())[:, None]
    return {
        "x_train": x[:train],
        "y_train": labels[:train],
        "x_test": x[train:],
        "y_test": labels[train:],
        "class_names": np.array([str(c) for c in range(10)]),
    }


def dataset(train: int = 4000, test: int = 1000, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Dataset:
    """A set of its own for each seed, test part included: x_* [N, 1, 1, 40]. Raises ValueError as :func:`arrays`."""
    raw = arrays(train, test, seed)
    return from_arrays("mnist1d", raw, checksum(raw), mean=(0.0,), std=(1.0,), scale=1.0, dtype=dtype)


def checksum(raw: dict[str, np.ndarray]) -> str:
    """The checksum that a run records for the set: that of its contents, samples rounded to four decimals."""

    def rounded(values: np.ndarray) -> np.ndarray:
        return np.rint(values * 10**DIGITS).astype("<i4") if values.dtype.kind == "f" else values

    return content_sha256({name: rounded(values) for name, values in raw.items()})


def _samples(labels: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
    """One sample [N, 40] for each label [N]; draws are made sample by sample, in the order of the package."""
    centred = TEMPLATES - TEMPLATES.mean(1, keepdims=True)
    shapes = centred / TEMPLATES.std(1, keepdims=True)
    shapes = (shapes - shapes[:, :1]) / 6 + 1e-8  # begins and ends at (nearly) zero: only padding is zero
    wide, noise = np.empty((2, len(labels), WIDE))
    shears = np.empty((len(labels), 1))
    low, high = PADDING
    for i, label in enumerate(labels):
        padded = np.pad(shapes[label], (0, low + int(draw.rand() * (high - low + 1))))
        drawn_out = _resampled(padded, WIDE) * (1 + SCALE * (draw.rand() - 0.5))
        shift = draw.choice(SHIFTS)
        wide[i] = np.concatenate([drawn_out[-shift:], drawn_out[:-shift]])
        noise[i] = CORRELATED * draw.randn(WIDE)
        noise[i] = np.where(wide[i] == 0, _smooth(noise[i]), 0) + WHITE * draw.randn(WIDE)
        shears[i] = SHEAR * (draw.rand() - 0.5)
    sheared = wide + noise - shears * np.linspace(-0.5, 0.5, WIDE)
    return np.stack([_resampled(row, POINTS) for row in sheared])


def _resampled(values: np.ndarray, points: int) -> np.ndarray:
    """The same curve on another number of evenly spaced points, by linear interpolation."""
    return np.interp(np.linspace(0, 1, points), np.linspace(0, 1, len(values)), values)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A Gaussian mean over neighbours, cut off at four standard deviations; the ends are mirrored."""
    reach = int(4 * SMOOTHING + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SMOOTHING) ** 2)
    return np.convolve(np.pad(values, reach, mode="symmetric"), kernel / kernel.sum(), mode="valid")
