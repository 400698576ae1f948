"""The staged classifier and the self-teacher over its maps: shapes, fusion, equation, what a size must be."""

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d, pad

from fedlib import rng
from fedlib.models.bifpn import EPSILON, SelfTeacher, fuse
from fedlib.models.staged import StagedResNet


def pair(widths=(4, 6, 8), width=2, depth=2, size=8):
    net = rng.build(lambda: StagedResNet(widths, 1, 1, 5), 0, "network").double()
    teacher = rng.build(lambda: SelfTeacher(widths, 5, width, depth), 0, "teacher").double()
    x = torch.randn(6, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return net, teacher, x


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_stage_gives_a_map_and_halves_it(blocks):
    net = StagedResNet((4, 6, 8), blocks, 3, 5)
    logits, maps = net(torch.randn(2, 3, 16, 16), maps=True)
    assert [tuple(m.shape) for m in maps] == [(2, 4, 16, 16), (2, 6, 8, 8), (2, 8, 4, 4)]
    assert all(bool((m >= 0).all()) for m in maps)  # after the ReLU: squares of negative entries would change attention
    assert logits.shape == (2, 5)


def test_logits_are_those_of_the_pooled_last_map():
    net, _, x = pair()
    net.eval()
    logits, maps = net(x, maps=True)
    torch.testing.assert_close(net(x), logits, rtol=0, atol=0)
    torch.testing.assert_close(net.head(maps[-1].mean((2, 3))), logits)
    torch.testing.assert_close(net(x, features=True), maps[-1].mean((2, 3)))


def test_the_papers_network_has_as_many_parameters_as_a_resnet_18_for_small_images():
    """Counted by hand: 3x3 convolutions without bias, BatchNorm of two numbers a channel, 1x1 shortcuts."""

    def block(a, b):
        return 9 * a * b + 9 * b * b + 4 * b + (a * b + 2 * b if a != b else 0)

    widths = (64, 128, 256, 512)
    expected = 27 * 64 + 2 * 64 + 512 * 100 + 100
    for before, width in zip((64, *widths), widths, strict=False):
        expected += block(before, width) + block(width, width)
    assert sum(p.numel() for p in StagedResNet(widths, 2, 3, 100).parameters()) == expected == 11220132


@pytest.mark.parametrize("widths", [(), (8, 4), (4, 4, 8)])
def test_stages_that_do_not_widen_are_refused(widths):
    with pytest.raises(ValueError, match="must rise"):
        StagedResNet(widths)
    with pytest.raises(ValueError, match="blocks"):
        StagedResNet((4, 8), -1)


@pytest.mark.parametrize("blocks", [0, 1])
def test_the_kind_of_normalisation_holds_everywhere(blocks):
    kinds = {type(m) for m in StagedResNet((4, 8), blocks, norm="group").modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds


def test_fusion_is_a_mean_with_positive_shares():
    maps = torch.randn(3, 2, 4, 5, 5, dtype=torch.float64).unbind()
    weights = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)
    expected = (maps[0] + 3 * maps[1]) / (4 + EPSILON)  # a negative weight counts as zero
    torch.testing.assert_close(fuse(weights, maps), expected, rtol=0, atol=1e-14)
    assert bool((fuse(-weights.abs(), maps) == 0).all())  # and all of them give no division by zero


def test_refined_maps_have_the_sizes_of_the_maps_and_wider_channels():
    net, teacher, x = pair(width=3)
    _, maps = net(x, maps=True)
    logits, refined = teacher(maps)
    assert [t.shape[1] for t in refined] == [12, 18, 24]
    assert [t.shape[2:] for t in refined] == [m.shape[2:] for m in maps]
    assert logits.shape == (6, 5)


def test_the_pyramid_from_its_equations():
    """P from the last to the first, T from the first to the last; T_1 is P_1, and T_n has no P."""
    net, teacher, x = pair(depth=1)
    with torch.no_grad():
        for w in (*teacher.down_weights, *teacher.up_weights):
            w.copy_(torch.rand(len(w), generator=torch.Generator().manual_seed(len(w))))
        _, (f1, f2, f3) = net.eval()(x, maps=True)
        t = teacher.eval()

        def mix(weights, *maps):
            w = [max(float(v), 0.0) for v in weights]
            return sum(v * m for v, m in zip(w, maps, strict=True)) / (sum(w) + 1e-6)

        def up(m):
            return m.repeat_interleave(2, 2).repeat_interleave(2, 3)

        def down(m):
            return max_pool2d(pad(m, (0, 1, 0, 1)), 3, stride=2)

        l1, l2, l3 = (conv(f) for conv, f in zip(t.lateral, (f1, f2, f3), strict=True))
        p2 = t.down[1](mix(t.down_weights[1], l2, up(t.from_above[1](l3))))
        p1 = t.down[0](mix(t.down_weights[0], l1, up(t.from_above[0](p2))))
        t2 = t.up[0](mix(t.up_weights[0], l2, p2, t.from_below[0](down(p1))))
        t3 = t.up[1](mix(t.up_weights[1], l3, t.from_below[1](down(t2))))
        logits, found = t((f1, f2, f3))
    for ours, expected in zip(found, (p1, t2, t3), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(logits, t.head(t3.mean((2, 3))), rtol=0, atol=1e-12)


def test_convolutions_are_separable_and_few():
    """A wide 3x3 convolution would cost nine times the products of a 1x1 one; here it is 9 + d against d for each."""
    _, teacher, _ = pair(widths=(4, 8), width=2, depth=2)
    squares = [m for m in teacher.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(squares) == 4
    assert all(m.groups == m.in_channels == m.out_channels for m in squares)


def test_every_part_of_the_pyramid_ends_in_a_normalisation_and_a_relu():
    _, t, _ = pair()
    parts = [part for group in (t.lateral, t.from_above, t.from_below, t.down, t.up) for part in group]
    assert len(parts) == 3 + 4 * 2
    assert all(isinstance(part[-2], nn.BatchNorm2d) and isinstance(part[-1], nn.ReLU) for part in parts)


def test_maps_that_do_not_halve_are_refused():
    _, teacher, _ = pair()
    maps = [torch.zeros(1, c, n, n, dtype=torch.float64) for c, n in ((4, 8), (6, 4), (8, 4))]
    with pytest.raises(ValueError, match="half as high"):
        teacher(maps)
    with pytest.raises(ValueError, match="expected 3 maps"):
        teacher(maps[:2])
    with pytest.raises(ValueError, match="two maps"):
        SelfTeacher((4,))
