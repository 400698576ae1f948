"""Operations as by hand, forward and backward, and what is no classifier refused."""

import pytest
import torch
from torch import nn

from fedlib import costs, flops
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
