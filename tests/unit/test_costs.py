"""What a step costs, by estimate: counts as by hand, sums over steps, and an order that makes sense."""

import pytest
import torch
from federations import FLOAT, same
from torch import nn

from fedlib import costs
from fedlib.models import MLP, LeNet5, Net, ResNet8, SmallCNN

WORK = costs.Work(layers=3, convolutions=1, products=1000, awkward=200, outputs=50, parameters=70)


def test_counting_work_leaves_the_networks_statistics_alone():
    net = Net(ResNet8(), dtype=FLOAT)
    before = {n: t.clone() for n, t in net.module.state_dict().items()}
    inner = [{n: t.clone() for n, t in r.module.state_dict().items()} for r in (net._train, net._eval)]
    costs.work(net, torch.randn(1, 3, 8, 8, dtype=FLOAT))
    same(dict(net.module.state_dict()), before)
    for resident, kept in zip((net._train, net._eval), inner, strict=True):
        same(dict(resident.module.state_dict()), kept)
    assert net.module.training
    assert not net.module.stem[0]._forward_hooks
    same(net.initial(), before)


@pytest.mark.parametrize(
    ("make", "shape", "products", "awkward", "convolutions", "layers"),
    [
        (lambda: MLP(64, (32,)), (64,), 64 * 32 + 32 * 10, 0, 0, 4),
        (SmallCNN, (1, 8, 8), 64 * 16 * 9 + 16 * 32 * 16 * 9 + 128 * 128 + 1280, 0, 2, 10),
        (
            LeNet5,
            (1, 28, 28),
            784 * 6 * 25 + 100 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10,
            784 * 6 * 25 + 100 * 16 * 6 * 25,
            2,
            12,
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.Flatten()),
            (4, 7, 7),
            9 * 8 * 2 * 9,
            9 * 8 * 2 * 9,
            1,
            2,
        ),
    ],
)
def test_work_is_counted_as_by_hand(make, shape, products, awkward, convolutions, layers):
    net = Net(make())
    found = costs.work(net, torch.zeros(1, *shape))
    assert (found.products, found.awkward, found.convolutions, found.layers) == (
        products,
        awkward,
        convolutions,
        layers,
    )
    assert found.parameters == sum(p.numel() for p in net.module.parameters())
    assert costs.work(net, torch.ones(1, *shape)) is found, "counted once"


def test_outputs_of_all_layers_are_counted():
    found = costs.work(Net(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))), torch.zeros(1, 5))
    assert found.outputs == 4 + 4 + 3


def test_a_round_is_the_sum_of_its_steps():
    tasks = [(8, 8, 3), (8, 2), (5,)]
    one = [costs.alone(WORK, n) for sizes in tasks for n in sizes]
    assert costs.one_by_one(WORK, tasks) == pytest.approx(sum(one))
    steps = [(3, 8), (2, 8), (1, 3)]  # clients at work, samples of the largest batch
    assert costs.together(WORK, tasks) == pytest.approx(sum(costs.stacked(WORK, k, n) for k, n in steps))


def test_waste_counts_what_is_computed():
    # batches of 3 3 1 3 3 1, of 3 3 and of 1 1: the first two steps are three clients wide, then one is left
    tasks = [(3, 3, 1, 3, 3, 1), (3, 3), (1, 1)]
    assert costs.waste(tasks) == pytest.approx((9 + 9 + 1 + 3 + 3 + 1) / (14 + 6 + 2))


def test_more_of_anything_takes_longer():
    plain = costs.alone(WORK, 16), costs.stacked(WORK, 5, 16)
    for name in ("layers", "convolutions", "products", "outputs", "parameters"):
        more = costs.Work(**vars(WORK) | {name: 2 * getattr(WORK, name)})
        assert costs.alone(more, 16) > plain[0]
        assert costs.stacked(more, 5, 16) > plain[1]
    assert costs.stacked(WORK, 6, 16) > plain[1]
    assert costs.stacked(WORK, 5, 17) > plain[1]
    assert costs.stacked(costs.Work(awkward=9), 5, 16) > costs.stacked(costs.Work(), 5, 16)
    assert costs.in_threads(WORK, 1.0, 10) > costs.in_threads(WORK, 1.0, 9) > 1.0
