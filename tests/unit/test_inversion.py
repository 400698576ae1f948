"""Images from features: exact where features lose nothing, nothing where they say nothing, and nonsense refused."""

import math

import pytest
import torch
from federations import FLOAT
from torch import nn

from fedlib import require, rng
from fedlib.inversion import explained, invert
from fedlib.models import MLP, Edge, Net


class Turned(nn.Module):
    """Features that are a rotation of the image: nothing is lost."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Linear(9, 9, bias=False)
        nn.init.orthogonal_(self.turn.weight)

    def forward(self, x, features=False):
        return self.turn(x.flatten(1))


def images(*shape):
    return torch.randn(*shape, generator=rng.stream(0, "images"), dtype=FLOAT)


def test_features_that_lose_nothing_give_the_image_back():
    net, x = Net(rng.build(Turned, 1), dtype=FLOAT), images(4, 1, 3, 3)
    state = net.initial()
    found = invert(net, state, net.predict(state, x, features=True), (1, 3, 3), steps=2000, lr=0.02)
    inverse = (net.predict(state, x, features=True) @ state["turn.weight"]).view_as(x)
    torch.testing.assert_close(inverse, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-3)
    assert explained(x, found) > 0.999


def test_with_the_right_weights_images_come_back_and_with_others_they_do_not():
    net = Net(rng.build(Edge, 2), dtype=FLOAT)
    own, other, x = net.initial(), Net(rng.build(Edge, 3), dtype=FLOAT).initial(), images(6, 1, 8, 8)
    features = net.predict(own, x, features=True)
    right, wrong = (explained(x, invert(net, state, features, (1, 8, 8))) for state in (own, other))
    assert right > 0.99
    assert wrong < 0.5


def test_each_image_is_found_by_itself():
    net, x = Net(rng.build(Edge, 2), dtype=FLOAT), images(3, 1, 8, 8)
    features = net.predict(net.initial(), x, features=True)
    together = invert(net, net.initial(), features, (1, 8, 8), steps=20)
    alone = [invert(net, net.initial(), f[None], (1, 8, 8), steps=20) for f in features]
    torch.testing.assert_close(together, torch.cat(alone))


def test_no_step_is_the_same_noise_for_all():
    net = Net(rng.build(Edge, 2), dtype=FLOAT)
    features = net.predict(net.initial(), images(2, 1, 8, 8), features=True)
    first, second = invert(net, net.initial(), features, (1, 8, 8), steps=0)
    assert torch.equal(first, second)
    assert 0 < float(first.abs().max()) < 1


def test_explained_variance_by_hand():
    x = images(5, 4)
    mean = x.mean(0).expand_as(x)
    assert explained(x, x) == 1
    assert explained(x, mean) == pytest.approx(0, abs=1e-12)
    assert explained(x, mean + (x - mean) / 2) == pytest.approx(0.75)
    assert explained(x, 2 * mean - x) == pytest.approx(-3)
    moved = explained(x + 7, (mean + x) / 2 + 7)
    assert moved == pytest.approx(0.75)  # a shift of all changes nothing


@pytest.mark.parametrize("guesses", [torch.zeros(5, 4, 1), torch.zeros(5, 1), torch.zeros(4), torch.zeros(6, 4)])
def test_shapes_that_differ_are_refused_and_not_broadcast(guesses):
    with pytest.raises(ValueError, match="images and guesses must have one shape"):
        explained(images(5, 4), guesses)


def test_one_image_or_equal_ones_have_no_variance():
    with pytest.raises(ValueError, match="with N >= 2"):
        explained(images(1, 4), images(1, 4))
    with pytest.raises(ValueError, match="images and guesses must be real, got torch"):
        explained(images(3, 4) + 0j, images(3, 4))
    with pytest.raises(ValueError, match="all are equal"):
        explained(torch.ones(3, 4), torch.zeros(3, 4))


def test_no_numbers_are_refused():
    x = images(3, 4)
    with pytest.raises(require.NotFinite, match="guesses"):
        explained(x, x / 0)
    with pytest.raises(require.NotFinite, match="images"):
        explained(x * math.nan, x)
    net = Net(rng.build(Edge, 2), dtype=FLOAT)
    with pytest.raises(require.NotFinite, match="features"):
        invert(net, net.initial(), torch.full((2, 8, 8, 8), math.nan, dtype=FLOAT), (1, 8, 8))


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.zeros(2, 5), {}, r"images of shape \[9\] have features \[6\], got \[5\]"),
        (torch.zeros(0, 6), {}, "features must be .* N >= 1"),
        (torch.zeros(6), {}, "features must be"),
        (torch.zeros(2, 6), {"shape": ()}, "shape: an image has one dimension at least, got none"),
        (torch.zeros(2, 6), {"shape": (0,)}, "shape must be a whole number of at least 1, got 0"),
        (torch.zeros(2, 6), {"shape": (8,)}, r"shape: the network cannot read an image of shape \[8\]"),
        (torch.zeros(2, 6), {"steps": -1}, "steps must be a whole number"),
        (torch.zeros(2, 6), {"lr": math.nan}, "lr must be a finite number"),
    ],
)
def test_nonsense_is_named(features, options, message):
    net = Net(MLP(9, (6,), 3))
    with pytest.raises(ValueError, match=message):
        invert(net, net.initial(), features, **{"shape": (9,)} | options)
