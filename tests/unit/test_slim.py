"""A network at reduced width is the small network with the corner of its weights, for many clients at once, too."""

import pytest
import torch
from federations import FLOAT
from torch import nn
from torch.nn import functional as F

from fedlib import rng
from fedlib.models.net import Net
from fedlib.models.slim import Block, SlimResNet
from fedlib.stacking import StackedNet, obstacle, take


def slim(widths=(4, 8), blocks=2, **options):
    given = {"channels": 1, "classes": 3, "group": 2} | options
    net = rng.build(lambda: SlimResNet(widths, blocks, **given), 3).to(FLOAT)
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):  # scales and shifts of normalisations, too
            p.add_(0.2 * torch.randn(p.shape, generator=rng.stream("moved", i), dtype=FLOAT))
    return net


def pictures(*shape, seed=1):
    return torch.randn(*shape, generator=rng.stream("pictures", seed), dtype=FLOAT)


def corner(wide, small):
    """The small network with the leading corner of the wide one's weights, by index arithmetic of its own."""
    with torch.no_grad():
        for (_, w), (_, s) in zip(wide.named_parameters(), small.named_parameters(), strict=True):
            s.copy_(w[tuple(slice(0, n) for n in s.shape)])
    return small


# --- width ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2])
def test_reduced_width_is_the_small_network_with_the_corner_of_the_weights(blocks):
    wide, x = slim(blocks=blocks), pictures(5, 1, 6, 4)
    small = corner(wide, SlimResNet((2, 4), blocks, 1, 3, 2).to(FLOAT))
    torch.testing.assert_close(wide(x, width=0.5), small(x), rtol=0, atol=1e-13)
    torch.testing.assert_close(wide(x, width=0.5, features=True), small(x, features=True), rtol=0, atol=1e-13)


def test_full_width_is_the_plain_network_bit_for_bit():
    net, x = slim(), pictures(5, 1, 6, 4)
    assert torch.equal(net(x, width=1.0), net(x))
    plain = net.head(net.stages[1](net.stages[0](F.relu(net.norm(net.stem(x))))).mean((2, 3)))
    assert torch.equal(net(x), plain)


def test_the_network_is_wide_again_after_a_narrow_pass_and_after_one_that_failed():
    net, x = slim(), pictures(5, 1, 6, 4)
    before, groups = net(x), [m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)]
    net(x, width=0.5)
    assert torch.equal(net(x), before)
    with pytest.raises(RuntimeError):
        net(pictures(5, 2, 6, 4), width=0.5)
    with pytest.raises(ValueError, match="whole groups"):
        net(x, width=0.3)
    assert torch.equal(net(x), before)
    assert [m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)] == groups
    assert all(isinstance(p, nn.Parameter) for m in net.modules() for p in m._parameters.values() if p is not None)


def test_a_narrow_pass_reaches_the_corner_alone():
    net, x = slim(), pictures(5, 1, 6, 4)
    net(x, width=0.5).square().sum().backward()
    for name, p in net.named_parameters():
        g = p.grad.clone()
        cut = [n if name.startswith("head") and d == 0 else -(-n // 2) for d, n in enumerate(p.shape)]
        cut = [n if name == "stem.weight" and d == 1 else c for d, (n, c) in enumerate(zip(p.shape, cut, strict=True))]
        cut = [n if d > 1 else c for d, (n, c) in enumerate(zip(p.shape, cut, strict=True))]
        inside = tuple(slice(0, c) for c in cut)
        assert bool(g[inside].any()), name
        g[inside] = 0
        assert not bool(g.any()), name


def test_groups_keep_their_channels_where_a_number_of_groups_would_not():
    """GroupNorm(G, C) cut to C / 2 channels has other groups than the wide one: its statistics are others, too."""
    h, wide = pictures(3, 8, 5, 5), nn.GroupNorm(4, 8).to(FLOAT)
    kept = F.group_norm(h[:, :4], 2)
    torch.testing.assert_close(wide(h)[:, :4], kept, rtol=0, atol=1e-13)
    assert not torch.allclose(wide(h)[:, :4], F.group_norm(h[:, :4], 4))


def test_widths_are_never_rounded():
    """Snapping to multiples of 8 would run a stage of 16 channels at half its width where a quarter is asked for."""
    net = slim((8, 16), 1, group=2)
    assert net.narrow(16, 0.25) == 4
    assert net(pictures(2, 1, 6, 4), width=0.25, features=True).shape == (2, 4)
    with pytest.raises(ValueError, match=r"width 0\.25 keeps 2 of 8 channels; expected whole groups of 4"):
        slim((8, 16), 1, group=4)(pictures(2, 1, 6, 4), width=0.25)


# --- parts ---------------------------------------------------------------------------------------------------------


def test_the_parts_are_the_whole():
    net, x = slim((4, 6, 8)), pictures(5, 1, 8, 8)
    before = net(x, part="before")
    assert before.shape == (5, 6, 4, 4)
    last = net(before, part="last")
    assert last.shape == (5, 8, 2, 2)
    assert torch.equal(net.head(last.mean((2, 3))), net(x))
    assert torch.equal(last.mean((2, 3)), net(x, features=True))


def test_the_narrow_last_stage_is_a_small_stage_on_the_first_maps():
    net, x = slim(), pictures(5, 1, 8, 8)
    h = net(x, part="before")
    small = corner(net.stages[-1], nn.Sequential(Block(2, 4, 2, (3, 3)), Block(4, 4, 2, (3, 3))).to(FLOAT))
    narrow = net(h[:, :2], part="last", width=0.5)
    torch.testing.assert_close(narrow, small(h[:, :2]), rtol=0, atol=1e-13)


def test_lines_are_pictures_of_one_row():
    net = slim(kernel=(1, 3), height=1)
    assert net(pictures(2, 1, 1, 9), part="before").shape == (2, 4, 1, 9)
    assert net(net(pictures(2, 1, 1, 9), part="before"), part="last").shape == (2, 8, 1, 5)


def test_rows_below_the_height_are_not_read():
    net, x = slim(height=6), pictures(5, 1, 6, 4)
    margin = torch.full((5, 1, 1, 4), 1e6, dtype=FLOAT)
    assert torch.equal(net(torch.cat([x, margin], 2)), net(x))
    assert not torch.equal(slim()(torch.cat([x, margin], 2)), net(x))


def test_branches_end_in_a_normalisation_that_scales_them():
    """relu(c branch + shortcut): with 0 a block is its shortcut, with the scale p the released code's test rule."""
    net, h = slim(), pictures(5, 4, 6, 4)
    assert net.branches == ["stages.0.0.norm2", "stages.0.1.norm2", "stages.1.0.norm2", "stages.1.1.norm2"]
    block = net.stages[1][0]
    branch = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(h)))))
    for c in (0.0, 0.3):
        expected = F.relu(c * branch + block.shortcut(h))
        scaled = Block(4, 8, 2, (3, 3)).to(FLOAT)
        scaled.load_state_dict(block.state_dict())
        with torch.no_grad():
            scaled.norm2.weight.mul_(c), scaled.norm2.bias.mul_(c)
        torch.testing.assert_close(scaled(h), expected, rtol=0, atol=1e-13)


# --- many clients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"width": 0.5}, {"part": "before"}, {"features": True, "width": 0.5}])
def test_clients_side_by_side_get_what_each_gets_alone(options):
    net = Net(slim(), dtype=FLOAT)
    assert obstacle(net) == ""
    states = [{n: t + 0.1 * k for n, t in net.initial().items()} for k in range(3)]
    x = pictures(4, 3, 1, 6, 4)
    together = StackedNet(net)(take(states), x.unsqueeze(2), train=True, **options).squeeze(2)
    for k, state in enumerate(states):
        torch.testing.assert_close(together[:, k], net(state, x[:, k], train=True, **options), rtol=0, atol=1e-12)


def test_a_narrow_stage_of_many_clients_takes_maps():
    net = Net(slim(), dtype=FLOAT)
    states, h = [{n: t * (1 + k) for n, t in net.initial().items()} for k in range(2)], pictures(4, 2, 2, 6, 4)
    together = StackedNet(net)(take(states), h.unsqueeze(2), train=True, part="last", width=0.5).squeeze(2)
    for k, state in enumerate(states):
        alone = net(state, h[:, k], train=True, part="last", width=0.5)
        torch.testing.assert_close(together[:, k], alone, rtol=0, atol=1e-12)


# --- nonsense ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (8,)}, "two stages at least"),
        ({"widths": (8, 8)}, "each wider than the one before"),
        ({"widths": (8, 15)}, r"widths\[1\] = 15: expected whole groups of 4"),
        ({"blocks": 0}, "blocks must be a whole number of at least 1"),
        ({"classes": 0}, "classes must be a whole number of at least 1"),
        ({"channels": -1}, "channels must be a whole number of at least 1"),
        ({"group": 0}, "group must be a whole number of at least 1"),
        ({"kernel": 2}, "kernel: expected odd sizes"),
        ({"height": 0}, "height must be a whole number of at least 1"),
    ],
)
def test_sizes_that_cannot_work_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SlimResNet(**{"widths": (8, 16)} | options)


@pytest.mark.parametrize("width", [0.0, -0.5, 1.5, float("nan"), "half"])
def test_a_width_is_a_share(width):
    with pytest.raises(ValueError, match="width must be a finite number > 0 and <= 1"):
        slim()(pictures(1, 1, 6, 4), width=width)


def test_a_part_is_one_of_three():
    with pytest.raises(ValueError, match="part must be 'whole' or 'before' or 'last', got 'first'"):
        slim()(pictures(1, 1, 6, 4), part="first")
