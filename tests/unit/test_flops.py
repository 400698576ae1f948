"""Operations as by hand, forward and backward, and what is no classifier refused."""

import dataclasses
from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn

from fedlib import costs, flops
from fedlib.losses import cross_entropy
from fedlib.models import MLP, Body, Edge, Net
from fedlib.models.cut import Whole


def test_a_linear_network_costs_what_its_matrices_say():
    seen = flops.load(MLP(6, (4,), 3), torch.randn(2, 6))
    assert seen.forward == 2 * (6 * 4 + 4 * 3)
    assert seen.training == seen.forward + 2 * (6 * 4) + 2 * 2 * (4 * 3)  # no gradient of the samples is needed
    assert seen.parameters == 6 * 4 + 4 + 4 * 3 + 3


def test_a_convolution_costs_its_products_at_each_place():
    seen = flops.load(Edge(hidden=16), torch.randn(1, 1, 8, 8))
    first, second, head = 2 * 72 * 64, 2 * 1152 * 16, 2 * 160
    assert seen.forward == first + second + head
    assert seen.training == seen.forward + first + 2 * second + 2 * head


def whole():
    return Whole(Edge, Body)


@pytest.mark.parametrize("make", [Edge, whole])
def test_two_ways_to_count_agree(make):
    """Hooks on layers, and the operations that PyTorch dispatches."""
    x = torch.randn(1, 1, 8, 8)
    assert flops.load(make(), x).forward == 2 * costs.work(Net(make()), x).products


def hooked(network, x):
    """Operations forward, in a training step, and parameters, by hooks on the layers that run: backwards a layer does
    its products once for its weights, and once more where its input is no image."""
    seen, products, met = Counter(), {}, []

    def forward(layer, _, out):
        met.extend(layer.parameters())
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            products[layer] = 2 * out[0].numel() * layer.weight[0].numel()
            seen["forward"] += products[layer]

    def backward(layer, inputs, _):
        seen["backward"] += products.get(layer, 0) * (1 + (inputs[0] is not None))

    for layer in network.eval().modules():
        if not list(layer.children()):
            layer.register_forward_hook(forward)
            layer.register_full_backward_hook(backward)
    cross_entropy(network(x), torch.zeros(len(x), dtype=torch.int64)).backward()
    parameters = {id(p): p.numel() for p in met}
    return seen["forward"], seen["forward"] + seen["backward"], sum(parameters.values())


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # images need no gradient
@pytest.mark.parametrize(("channels", "size", "width", "hidden"), [(1, 12, 6, None), (3, 32, 4, None), (3, 32, 16, 16)])
def test_hooks_on_layers_count_what_is_dispatched_forward_and_backward(channels, size, width, hidden):
    """The networks of the FedGKT chapter: its edge, and the whole, with either of its bodies."""
    edge = partial(Edge, channels, size, width, hidden)
    body = partial(Body, width, (16, 32), 1) if hidden else partial(MLP, width * size * size, (64, 48))
    for make in (edge, partial(Whole, edge, body)):
        x = torch.randn(1, channels, size, size)
        assert hooked(make(), x) == dataclasses.astuple(flops.load(make(), x))


def test_parts_add_up_and_a_round_is_its_passes():
    x = torch.randn(1, 1, 8, 8)
    all_of_it, edge = flops.load(whole(), x), Edge()
    features = edge(x, features=True).detach()
    assert all_of_it.forward == flops.load(Body(), features).forward + 2 * 72 * 64
    assert all_of_it.round(10, 3) == 30 * all_of_it.training
    assert all_of_it.round(10, 3, 2) == 30 * all_of_it.training + 20 * all_of_it.forward


def test_the_network_stays_as_it_was():
    network = whole().train()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    flops.load(network, torch.randn(1, 1, 8, 8))
    assert network.training
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("x", [torch.zeros(0, 6), torch.zeros(6)])
def test_no_batch_is_refused(x):
    with pytest.raises(ValueError, match="x must be a batch of samples"):
        flops.load(MLP(6), x)


def test_what_is_no_classifier_is_refused():
    with pytest.raises(ValueError, match=r"logits \[B, C\], got \[1, 2, 8, 8\]"):
        flops.load(nn.Conv2d(1, 2, 3, padding=1), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("given", "message"),
    [((-5, 2), "samples must be a whole"), ((2.5, 2), "samples must be a whole"), ((5, -2), "epochs must be a whole"),
     ((5, 2, -1), "passes must be a whole")],
)  # fmt: skip
def test_a_round_of_nonsense_has_no_load(given, message):
    with pytest.raises(ValueError, match=message):
        flops.Load(1, 3, 4).round(*given)
