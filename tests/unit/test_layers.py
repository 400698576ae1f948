"""Faster layers give the same bits as PyTorch's: values, gradients, gradients of gradients, ties and odd sizes."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional

from fedlib import layers
from fedlib.models import LeNet5, Net, SmallCNN

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 7), st.integers(2, 7))


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(layers, "LARGE", 0)


def pool():
    return layers.quicken(nn.MaxPool2d(2))


@given(SIZES, st.integers(0, 2**32), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=80, deadline=None)
def test_pooling_and_its_gradient_have_the_same_bits(size, seed, dtype):
    """Few different values, so that windows are full of ties: the first of equals gets the gradient."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, size, generator=g).to(dtype).requires_grad_()
    out, expected = pool()(x), functional.max_pool2d(x, 2)
    assert torch.equal(out, expected)
    weight = torch.randn(out.shape, generator=g, dtype=dtype)
    assert torch.equal(torch.autograd.grad(out, x, weight)[0], torch.autograd.grad(expected, x, weight)[0])


def test_the_gradient_can_be_differentiated():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 4, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pool(), x)
    assert torch.autograd.gradgradcheck(pool(), x)

    def curvature(pooling):
        (slope,) = torch.autograd.grad(pooling(x.pow(3)).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    torch.testing.assert_close(curvature(pool()), curvature(nn.MaxPool2d(2)), rtol=1e-13, atol=1e-13)


def test_what_is_not_a_number_stays_visible():
    x = torch.tensor([[1.0, 2.0, torch.nan, 0.0], [0.0, -1.0, 3.0, 4.0]]).view(1, 1, 2, 4)
    out = pool()(x)
    assert out.flatten()[0] == 2
    assert out.flatten()[1].isnan()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_goes_to_one_place(value):
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(6)).requires_grad_()
    slopes = [
        torch.autograd.grad(f(x), x, torch.tensor([[[[value, 1.0], [1.0, 1.0]]]]))[0] for f in (pool(), nn.MaxPool2d(2))
    ]
    torch.testing.assert_close(*slopes, rtol=0, atol=0, equal_nan=True)
    assert int(slopes[0].isfinite().sum()) == 15


@pytest.mark.parametrize("shape", [(1, 1, 4, 1), (1, 1, 1, 4), (1, 1, 1, 1)])
def test_a_map_one_pixel_wide_is_refused_as_pytorch_does(shape):
    for pooling in (nn.MaxPool2d(2), pool()):
        with pytest.raises(RuntimeError, match="Output size is too small"):
            pooling(torch.zeros(shape))


def test_transformations_of_functions_work():
    x = torch.randn(4, 2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.vmap(pool())(x), torch.vmap(nn.MaxPool2d(2))(x), rtol=0, atol=0)
    slope = torch.func.grad(lambda x: pool()(x).square().sum())(x[0])
    torch.testing.assert_close(slope, torch.func.grad(lambda x: nn.MaxPool2d(2)(x).square().sum())(x[0]))


OTHER = [
    nn.MaxPool2d(3),
    nn.MaxPool2d(2, stride=1),
    nn.MaxPool2d(2, padding=1),
    nn.MaxPool2d(2, dilation=2),
    nn.MaxPool2d(2, ceil_mode=True),
    nn.MaxPool2d(2, return_indices=True),
]


@pytest.mark.parametrize("layer", OTHER, ids=str)
def test_other_windows_are_left_alone(layer):
    x = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(2))
    mine = layers.quicken(copy.deepcopy(layer))
    assert "forward" not in vars(mine)
    for a, b in zip(mine(x), layer(x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_before_pooling_changes_places_without_a_trace(inplace):
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace), nn.MaxPool2d(2), nn.ReLU(inplace), nn.Flatten())
    mine = layers.quicken(copy.deepcopy(plain))
    x = torch.randint(-1, 2, (3, 1, 8, 9), generator=torch.Generator().manual_seed(3)).float()
    slopes = []
    for net in (plain, mine):
        out = net(x)
        slopes.append((out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))))
    for a, b in zip(*slopes, strict=True):
        assert torch.equal(a, b)


def test_layers_that_somebody_takes_out_are_what_they_were():
    """A slice of the sequence, or a layer by its number, still answers as itself."""
    net = layers.quicken(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)))
    x = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(4))
    assert torch.equal(net[:2](x), net[0](x).relu())
    assert torch.equal(net[1](x), x.relu())


def test_a_hook_sees_its_layer_at_its_place():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    seen = []
    net[1].register_forward_hook(lambda layer, given, out: seen.append(out.shape))
    layers.quicken(net)(torch.zeros(1, 1, 6, 6))
    assert seen == [(1, 2, 4, 4)]


@pytest.mark.parametrize("make", [SmallCNN, LeNet5])
def test_a_network_computes_with_copies_and_stays_what_it_is(make):
    net = Net(make())
    x = torch.randn(3, 1, *(8, 8) if make is SmallCNN else (28, 28), generator=torch.Generator().manual_seed(5))
    state = net.initial()
    assert torch.equal(net(state, x), net.module.eval()(x))
    assert not [m for m in net.module.modules() if "forward" in vars(m)]
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again(state, x), net(state, x))
    assert torch.equal(copy.deepcopy(net)(state, x), net(state, x))
