"""A trained start: what travels of it, that it was trained, and that it is one for everybody."""

import numpy as np
import pytest
import torch

from fedlib import starts
from fedlib.data.dataset import from_arrays
from fedlib.models import SmallCNN


def net():
    return SmallCNN(3, 8, 5)


def photos(monkeypatch):
    y = np.arange(60) % 3
    x = (80 * y[:, None, None, None] + np.random.default_rng(0).integers(0, 40, (60, 16, 16, 3))).astype(np.uint8)
    arrays = {"x_train": x, "y_train": y, "x_test": x[:3], "y_test": y[:3]}
    own = from_arrays(
        "photos", arrays | {"class_names": np.array(list("abc"))}, "", mean=[0.5] * 3, std=[0.3] * 3, raw=True
    )
    monkeypatch.setattr(starts, "load", lambda name, raw: own)
    starts.trained.cache_clear()
    return own


def test_all_but_the_head_is_trained_and_the_same_for_everybody(monkeypatch):
    own = photos(monkeypatch)
    found = starts.trained("photos", net, 2)
    assert set(found) == {n for n in net().state_dict() if not n.startswith("head.")}
    assert starts.trained("photos", net, 2) is found
    module = net()
    module.load_state_dict(found, strict=False)
    x = torch.nn.functional.avg_pool2d(own.prepare(own.x_train), 2)
    h = module(x, features=True).detach()
    means = torch.stack([h[own.y_train == c].mean(0) for c in range(3)])
    assert bool((torch.cdist(h, means).argmin(1) == own.y_train).all())
    starts.trained.cache_clear()
    again = starts.trained("photos", net, 2, count=30)
    assert any(not torch.equal(again[n], t) for n, t in found.items())
    starts.trained.cache_clear()


@pytest.mark.parametrize("change", [{"pool": 0}, {"count": 0}])
def test_nonsense_is_refused(monkeypatch, change):
    photos(monkeypatch)
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be a whole number of at least 1"):
        starts.trained("photos", net, **change)
