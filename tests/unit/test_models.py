"""Networks: published sizes, shapes, and the functional view."""

import pytest
import torch
from torch import nn

from fedlib import models, rng
from fedlib.models import Net

SIZES = [  # parameters as published (McMahan et al. 2017; FedNTD's CIFAR-10 network is the same one) or counted by hand
    (lambda: models.McMahanCNN(1, 28), 1_663_370, (1, 28, 28)),
    (lambda: models.McMahanCNN(3, 32), 2_156_490, (3, 32, 32)),
    (lambda: models.MLP(784, (200, 200)), 199_210, (1, 28, 28)),
    (lambda: models.MLP(64, (64,)), 64 * 64 + 64 + 650, (1, 8, 8)),
    (lambda: models.MLP(64, (32,), layer_norm=True), 64 * 32 + 32 + 64 + 330, (64,)),
    (lambda: models.SmallCNN(1, 8), 160 + 4640 + 128 * 128 + 128 + 1290, (1, 8, 8)),
    (lambda: models.LeNet5(1, 28), 61_706, (1, 28, 28)),
    (lambda: models.LeNet5(3, 32), 62_006, (3, 32, 32)),
    (lambda: models.Cnn1d(), 5 * 25 + 25 + 2 * (75 * 25 + 25) + 1260, (1, 1, 40)),
    (lambda: models.ResNet8(), 78_042, (3, 32, 32)),
    (lambda: models.ResNet8(norm="group"), 78_042, (3, 32, 32)),
    (lambda: models.NormedCNN(1, 8), 160 + 4640 + 128 * 64 + 64 + 650 + 2 * (16 + 32 + 64), (1, 8, 8)),
    (lambda: models.NormedCNN(1, 8, norm="none"), 160 + 4640 + 128 * 64 + 64 + 650, (1, 8, 8)),
    (
        lambda: models.ResNet(3),
        272_474,
        (3, 32, 32),
    ),  # ResNet-20: 269,722 as published, plus the projections' 2,752
]


@pytest.mark.parametrize(("make", "size", "shape"), SIZES)
def test_sizes_and_shapes(make, size, shape):
    module = rng.build(make, 0)
    assert sum(p.numel() for p in module.parameters()) == size
    net = Net(module)
    logits = net.predict(net.initial(), torch.randn(5, *shape), batch=2)
    assert logits.shape == (5, 10)
    features = net.predict(net.initial(), torch.randn(5, *shape), features=True)
    torch.testing.assert_close(
        net.predict(net.initial(), torch.zeros(1, *shape)), module.eval()(torch.zeros(1, *shape))
    )
    assert features.shape == (5, module.head.in_features)


def test_linear_features_can_be_negative_and_features_feed_the_head():
    net = Net(rng.build(lambda: models.MLP(4, (8, 2), 3, linear_features=True), 0))
    x, state = torch.randn(64, 4), net.initial()
    h = net.predict(state, x, features=True)
    assert h.shape == (64, 2)
    assert (h < 0).any()
    torch.testing.assert_close(h @ state["head.weight"].T + state["head.bias"], net.predict(state, x))


def test_training_mode_updates_the_statistics_in_the_state_given_and_nowhere_else():
    net = Net(rng.build(models.ResNet8, 0), dtype=torch.float64)
    one, two = net.initial(), net.initial()
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    net(one, x, train=True)
    assert not torch.equal(one["stem.1.running_mean"], two["stem.1.running_mean"])
    assert one["stem.1.num_batches_tracked"] == 1
    assert all(torch.equal(t, two[n]) for n, t in net.initial().items())
    before = {n: t.clone() for n, t in one.items()}
    net(one, x)
    assert all(torch.equal(t, before[n]) for n, t in one.items())


def test_batch_norm_in_training_mode_is_torchs():
    module = rng.build(models.ResNet8, 0).double()
    net, x = Net(module, dtype=torch.float64), torch.randn(6, 3, 8, 8, dtype=torch.float64)
    state = net.initial()
    torch.testing.assert_close(net(state, x, train=True), module.train()(x))
    for n, b in module.named_buffers():
        torch.testing.assert_close(state[n], b)


def test_residual_block_is_identity_plus_branch():
    module = rng.build(lambda: models.ResNet8(norm="group"), 0)
    block = module.blocks[0]
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 16, 4, 4)
    torch.testing.assert_close(block(x), x)


def test_wrong_settings_say_what_is_right():
    with pytest.raises(ValueError, match="'batch', 'group'"):
        models.ResNet8(norm="instance")
    with pytest.raises(ValueError, match="28 or 32"):
        models.LeNet5(1, 64)
    with pytest.raises(AttributeError, match="ResNet8"):
        models.ResNet9  # noqa: B018
