"""scikit-learn's 1,797 handwritten digits, 8 x 8 pixels: real data that needs no file and no network.

The set is the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998),
pixels 0..16.
"""

from __future__ import annotations

import numpy as np

from .packs import content_sha256

TEST = 360


def arrays() -> dict[str, np.ndarray]:
    """x_train uint8 [1437, 8, 8], y_train uint8 [1437], x_test [360, 8, 8], y_test [360], class_names [10].

    The split is a rule, not a draw, so no random generator's version can move it: every class gives its
    share of the 360 test images, evenly spaced in the order in which scikit-learn keeps them.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    test = split(labels, TEST)
    return {
        "x_train": images[~test],
        "y_train": labels[~test],
        "x_test": images[test],
        "y_test": labels[test],
        "class_names": np.array([str(c) for c in range(10)]),
    }


def checksum(raw: dict[str, np.ndarray]) -> str:
    """The checksum that a run records for the set: that of its contents."""
    return content_sha256(raw)


def split(labels: np.ndarray, test: int) -> np.ndarray:
    """Mask [N], true for `test` samples: stratified over classes, evenly spaced within each class.

    Class shares are rounded by largest remainder (the lower class first among equals).
    """
    counts = np.bincount(labels)
    shares, remainders = np.divmod(counts * test, len(labels))
    short = test - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:short]] += 1
    mask = np.zeros(len(labels), dtype=bool)
    for c, (count, share) in enumerate(zip(counts.tolist(), shares.tolist(), strict=True)):
        places = (2 * np.arange(share) + 1) * count // (2 * share) if share else np.arange(0)
        mask[np.flatnonzero(labels == c)[places]] = True
    return mask
