"""Pieces of retinas as pixels: which, of which site, and in what style."""

import numpy as np
import pytest
import torch

from fedlib import rng
from fedlib.data import packs, retinas, scans
from fedlib.data.sites import Site


@pytest.fixture
def folder(monkeypatch, tmp_path):
    draws = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 6), ("test", 1)):
        arrays[f"x_{part}"] = draws.integers(30, 256, (count, 128, 128)).astype(np.uint8)
        arrays[f"mask_{part}"] = draws.integers(0, 2, (count, 128, 128)).astype(np.uint8)
        arrays[f"domain_{part}"] = np.array([1, 0, 0, 0, 1, 0][:count], np.uint8)
    arrays["x_train"][1, :32, :32] = 0  # outside the eye
    np.savez(tmp_path / "fundus_vessels.npz", **arrays)
    monkeypatch.setitem(scans.PACKS, "fundus_vessels", packs.content_sha256(arrays))
    return tmp_path, arrays


def test_pieces_are_squares_of_the_images_with_their_masks_and_sites(folder):
    root, arrays = folder
    own = retinas.pieces("train", root)
    assert own.light.shape == own.masks.shape == (79, 32, 32), "the dark one is left out"
    assert own.sites.tolist() == [1] * 16 + [0] * 63
    for made, raw in ((own.light * 255, "x_train"), (own.masks, "mask_train")):
        square = arrays[raw][0, 32:64, 96:128].astype(np.float32)
        torch.testing.assert_close(made[4 + 3], torch.from_numpy(square))
    assert len(retinas.pieces("test", root).light) == 16
    held = retinas.pieces("held", root)
    assert held.sites.tolist() == [1] * 16
    torch.testing.assert_close(held.light[0] * 255, torch.from_numpy(arrays["x_train"][4, :32, :32].astype(np.float32)))


def test_a_site_sees_pieces_of_its_place_in_its_style(folder):
    own = retinas.pieces("train", folder[0])
    still = Site(gain=0.5, brightness=0.2, noise=0.0, spread=0.0)
    images, masks = retinas.seen(own, 1, still, 5, rng.stream(0))
    assert images.shape == masks.shape == (5, 1, 32, 32)
    light = (images - 0.2) / 0.5
    for one, mask in zip(light[:, 0], masks[:, 0], strict=True):
        (row,) = torch.nonzero((own.light - one).abs().amax((1, 2)) < 1e-5)[:, 0].tolist()
        assert own.sites[row] == 1
        assert torch.equal(own.masks[row], mask)
    assert len(retinas.seen(own, 0, still, None, rng.stream(0)).images) == 63


def test_what_is_not_there_is_refused(folder):
    own = retinas.pieces("train", folder[0])
    with pytest.raises(ValueError, match="count must be at most 63"):
        retinas.seen(own, 0, Site(), 64, rng.stream(0))
    with pytest.raises(ValueError, match="part"):
        retinas.pieces("all", folder[0])
