"""Scenes with a digit, a mask and a place; and medical images of three kinds in one form."""

import numpy as np
import pytest
import torch

from fedlib import data, rng
from fedlib.data import packs, scans
from fedlib.data.scenes import scenes


def test_scenes_say_what_where_and_which_pixels():
    own = scenes(300, side=12, move=2, noise=0.0, rng=rng.stream(0, "scenes"))
    digits = data.load("digits", normalise=False)
    x, y = torch.cat([digits.x_train, digits.x_test])[:, 0], torch.cat([digits.y_train, digits.y_test])
    seen = set()
    for image, digit, mask, place in zip(own.pixels[:, 0], own.digits, own.masks, own.places, strict=True):
        row, column = (2 + (2 * place).round().long()).tolist()
        piece = image[row : row + 8, column : column + 8]
        assert image.sum() == piece.sum()  # nothing lies elsewhere
        which = torch.nonzero((x == piece).all(-1).all(-1))[0].item()
        assert y[which] == digit
        assert torch.equal(mask, (image >= 0.5).float())
        seen.add((row, column))
    assert len(seen) == 25


def test_no_digit_comes_twice_and_noise_is_as_asked():
    clean, noisy = (scenes(1797, noise=n, rng=rng.stream(0, "scenes")) for n in (0.0, 0.25))
    assert (noisy.pixels - clean.pixels).std().item() == pytest.approx(0.25, rel=0.01)
    assert torch.equal(clean.masks, noisy.masks)
    assert clean.digits.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert torch.equal(clean.at(torch.tensor([5, 2])).digits, clean.digits[[5, 2]])


def test_scenes_are_of_those_digits_that_may_be_drawn():
    digits = data.load("digits", normalise=False)
    y = torch.cat([digits.y_train, digits.y_test])
    fours = torch.nonzero(y == 4)[:, 0]
    assert scenes(len(fours), rng=rng.stream(0), among=fours).digits.unique().tolist() == [4]
    with pytest.raises(ValueError, match="count must be 1 to 181"):
        scenes(182, rng=rng.stream(0), among=fours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count must be 1 to 1797"),
        ({"count": 1798}, "count must be 1 to 1797"),
        ({"side": 7}, "side must be a whole number of at least 8"),
        ({"side": 11}, "an even number of pixels, got 1 on 11"),
        ({"move": 3}, "move must be 1 to 2 on a canvas"),
        ({"move": 0}, "move must be 1 to 2"),
        ({"noise": -0.1}, "noise must be a finite number >= 0"),
        ({"noise": float("nan")}, "noise must be"),
    ],
)
def test_scenes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        scenes(**{"count": 3, "rng": rng.stream(0)} | change)


def small(monkeypatch, folder):
    """Packs in the form of the real ones, with an image or two in each part."""
    draws = np.random.default_rng(0)

    def pixels(n, side):
        return draws.integers(0, 256, (n, side, side)).astype(np.uint8)

    labels = {"y_train": np.array([2, 0], np.uint8), "y_test": np.array([1], np.uint8)}
    made = {
        "chest_xray": {"x_train": pixels(2, 96), "x_test": pixels(1, 96), **labels},
        "pneumonia_mnist": {"x_train": pixels(2, 28), "x_test": pixels(1, 28), **labels},
        "fundus_vessels": {
            "x_train": pixels(2, 128), "x_test": pixels(1, 128), "mask_train": pixels(2, 128) % 2,
            "mask_test": pixels(1, 128) % 2, "domain_train": np.array([1, 0], np.uint8),
        },
    }  # fmt: skip
    for name, arrays in made.items():
        np.savez(folder / f"{name}.npz", **arrays)
        monkeypatch.setitem(scans.PACKS, name, packs.content_sha256(arrays))
    return made


def test_scans_have_one_form(monkeypatch, tmp_path):
    made = small(monkeypatch, tmp_path)
    chest, pneumonia, (vessels, sites) = (f(tmp_path) for f in (scans.chest, scans.pneumonia, scans.vessels))
    for own, n in ((chest, 2), (pneumonia, 2), (vessels, 32)):
        assert own.x.shape == (n, 1, 32, 32)
        np.testing.assert_allclose(own.x.mean((1, 2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(own.x.std((1, 2, 3)), 1, atol=1e-5)
    thirds = made["chest_xray"]["x_train"].astype(float).reshape(2, 32, 3, 32, 3).mean((2, 4)) / 255
    edged = np.pad(made["pneumonia_mnist"]["x_train"] / 255, ((0, 0), (2, 2), (2, 2)))
    for own, raw in ((chest, thirds), (pneumonia, edged)):
        spread = raw.std((1, 2), ddof=1, keepdims=True)
        np.testing.assert_allclose(own.x[:, 0], (raw - raw.mean((1, 2), keepdims=True)) / spread, atol=1e-4)
    assert (chest.y.tolist(), pneumonia.y_test.tolist()) == ([2, 0], [1])
    piece = made["fundus_vessels"]["mask_train"][1, 32:64, 96:128]  # second row, last column of the second image
    assert torch.equal(vessels.y[16 + 4 + 3], torch.from_numpy(piece).float())
    assert sites.tolist() == [1] * 16 + [0] * 16
    assert data.used()["chest_xray"] == scans.PACKS["chest_xray"]


def test_one_grey_stays_near_nothing():
    x = torch.full((1, 1, 4, 4), 0.7)
    assert scans.standardised(x).abs().max() < 1e-3
    x[..., 0, 0] += 0.01
    assert scans.standardised(x).max() == pytest.approx(0.01 * 15 / 16 / 0.02, rel=1e-3)


def test_scans_that_are_not_there_or_others_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDLIB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(data.DataUnavailable, match=r"chest_xray.npz has no automatic download"):
        scans.chest(tmp_path)
    small(monkeypatch, tmp_path)
    monkeypatch.setitem(scans.PACKS, "chest_xray", "0" * 64)
    with pytest.raises(data.DataCorrupt, match="It was left as it is"):
        scans.chest(tmp_path)
    (tmp_path / "pneumonia_mnist.npz").write_bytes(b"no pack")
    with pytest.raises(data.DataCorrupt, match="truncated or damaged"):
        scans.pneumonia(tmp_path)
