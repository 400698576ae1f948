"""FedDG: the objective from its formula in float64, its off-switches, what is shared; and the traps, each shown."""

import math
from functools import partial

import pytest
import torch
from federations import FLOAT, everything, same
from tape import count, tapes  # noqa: F401
from torch.func import functional_call, grad
from torch.nn.functional import conv2d

from fedlib import losses, rng
from fedlib.contours import boundary, contour, ring
from fedlib.feddg import FedDG, Segmenting, segmentation, stepped
from fedlib.federation import Federation, Local
from fedlib.fourier import amplitude, low_frequency_mix
from fedlib.ledger import payload_bytes
from fedlib.models import Net, UNet
from fedlib.models.unet import head

NET = partial(UNet, 1, 2, 4, 1)
SIZES = (5, 8, 3)
REST = {"device": "cpu", "dtype": FLOAT, "seed": 3}


def samples(sizes=SIZES, side=8, channels=1):
    draws = rng.stream("sites", side)
    n = sum(sizes)
    axis = torch.arange(side, dtype=FLOAT)
    middle = 2 + (side - 4) * torch.rand(n, 2, 1, 1, generator=draws, dtype=FLOAT)
    apart = (axis[:, None] - middle[:, 0]).square() + (axis - middle[:, 1]).square()
    y = torch.stack([apart < 8, apart < 3], 1).to(FLOAT)
    gain = torch.tensor([1.0, 0.6, 0.3][: len(sizes)]).repeat_interleave(torch.tensor(sizes))[:, None, None]
    light = gain * (0.3 + 0.3 * y.sum(1)) + 0.05 * torch.rand(n, side, side, generator=draws)
    return light[:, None].expand(-1, channels, -1, -1).to(FLOAT), y, list(torch.arange(n).split(list(sizes)))


def federation(algorithm=None, *, model=NET, executor="sequential", local=None, data=None, **options):
    x, y, split = data or samples()
    local = local or Local(1, 4, 0.1)
    return Federation(model, x, y, split, algorithm or FedDG(), local=local, executor=executor, **REST | options)


def played(algorithm, rounds=2, **options):
    fed = federation(algorithm, **options)
    fed.run(rounds)
    return fed


# The loss of masks


def test_soft_dice_is_dice_of_logits_and_the_formula():
    z = torch.randn(3, 4, 5, generator=rng.stream("z"), dtype=FLOAT)
    t = (torch.rand(3, 4, 5, generator=rng.stream("t")) > 0.5).to(FLOAT)
    p = z.sigmoid()
    torch.testing.assert_close(losses.soft_dice(p, t, 0.3), losses.dice(z, t, 0.3), rtol=1e-14, atol=0)
    each = [1 - (2 * (a * b).sum() + 0.3) / (a.sum() + b.sum() + 0.3) for a, b in zip(p, t, strict=True)]
    torch.testing.assert_close(losses.soft_dice(p, t, 0.3), torch.stack(each).mean())
    assert float(losses.soft_dice(t, t)) == 0
    nothing = torch.zeros(1, 4, 5, dtype=FLOAT)
    assert float(losses.soft_dice(nothing, nothing)) == 0
    assert torch.autograd.gradcheck(lambda p: losses.soft_dice(p, t), p.clone().requires_grad_())


@pytest.mark.parametrize(
    ("p", "t", "smooth", "message"),
    [
        (torch.full((2, 3, 3), 1.5), torch.ones(2, 3, 3), 1.0, "probabilities: shares in"),
        (torch.full((2, 3, 3), math.nan), torch.ones(2, 3, 3), 1.0, "probabilities: shares in"),
        (torch.ones(2, 3, 3), -torch.ones(2, 3, 3), 1.0, "mask: shares in"),
        (torch.ones(2, 3, 3), torch.ones(3, 3), 1.0, r"of one shape are needed, got \[2, 3, 3\] and \[3, 3\]"),
        (torch.ones(0, 3, 3), torch.ones(0, 3, 3), 1.0, "of one shape are needed"),
        (torch.ones(3, 3), torch.ones(3, 3), 1.0, "of one shape are needed"),
        (torch.ones(2, 3, 3), torch.ones(2, 3, 3), 0.0, "smooth must be a finite number > 0"),
    ],
)
def test_shares_of_nonsense_are_refused(p, t, smooth, message):
    with pytest.raises(ValueError, match=message):
        losses.soft_dice(p, t, smooth)


# The network


def test_a_sum_of_two_convolutions_is_that_of_what_is_concatenated():
    net = rng.build(NET, 0).double()
    up = net.up[0]
    below, beside = (torch.randn(2, c, 8, 8, generator=rng.stream(c), dtype=FLOAT) for c in (8, 4))
    whole = torch.cat([up.below.weight, up.beside.weight], 1)
    joined = up.rest(conv2d(torch.cat([below, beside], 1), whole, padding=1))
    torch.testing.assert_close(up(below, beside), joined, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_maps_are_as_large_as_the_image_and_the_head_is_the_last_layer(depth):
    net = rng.build(lambda: UNet(3, 2, 4, depth), depth).double()
    x = torch.rand(2, 3, 8, 16, generator=rng.stream("x"), dtype=FLOAT)
    maps = net(x, features=True)
    assert maps.shape == (2, 4, 8, 16)
    torch.testing.assert_close(head(net.state_dict(), maps), net(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_norms_of_one_image_do_not_see_its_gain(norm):
    net = rng.build(lambda: UNet(1, 1, 4, 1, norm), 0).double()
    x = torch.rand(2, 1, 8, 8, generator=rng.stream("x"), dtype=FLOAT)
    torch.testing.assert_close(net(1e3 * x), net(2e3 * x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNet(norm="layer"), "norm must be 'instance' or 'group'"),
        (lambda: UNet(width=0), "width must be a whole number of at least 1"),
        (lambda: UNet(depth=-1), "depth must be a whole number of at least 0"),
        (lambda: UNet(outputs=1.5), "outputs must be"),
        (lambda: UNet(depth=2)(torch.ones(1, 1, 6, 8)), r"sides must be multiples of 4, got images of \[6, 8\]"),
    ],
)
def test_a_network_of_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The objective


def objective(weights, x, y, t, *, step, gamma, temperature=0.05):
    """From the formula, in plain PyTorch: gradients of one batch, first order."""
    net = NET().double()

    def seg(w, images):
        p = functional_call(net, w, (images,)).sigmoid()
        each = [1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for q, m in zip(p, y, strict=True)
                for a, b in zip(q, m, strict=True)]  # fmt: skip
        return torch.stack(each).mean()

    def later(w):
        maps = [functional_call(net, w, (images,), {"features": True}) for images in (x, t)]
        values = []
        for b in range(len(x)):
            for s in range(y.shape[1]):
                edges = contour(y[b, s]), ring(y[b, s])
                h = [(m[b] * e).sum((1, 2)) / e.sum() for e in edges for m in maps]
                values.append(boundary(torch.stack(h), torch.tensor([0, 0, 1, 1]), temperature))
        return seg(w, t) + gamma * torch.stack(values).mean()

    first = grad(lambda w: seg(w, x))(weights)
    ahead = {n: w - step * first[n] for n, w in weights.items()}
    second = grad(later)(ahead)
    return {n: first[n] + second[n] for n in weights}, seg(weights, x) + later(ahead)


@pytest.mark.parametrize(("step", "gamma"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.1), (0.0, 0.1)])
def test_a_step_is_the_formula_to_first_order(step, gamma):
    x, y, split = samples((4, 4))
    fed = federation(FedDG(step=step, gamma=gamma), data=(x, y, split), local=Local(1, 4, 0.1))
    t = fed.algorithm.phases(fed)[0].y[:, 6:]
    found = {}
    for k, rows in enumerate(split):
        found[k], loss = objective(fed.state, x[rows], y[rows], t[rows], step=step, gamma=gamma)
        found[k] = found[k], float(loss)
    before = {n: w.clone() for n, w in fed.state.items()}
    fed.play_round()
    for n, w in fed.state.items():
        expected = before[n] - 0.1 * (found[0][0][n] + found[1][0][n]) / 2
        torch.testing.assert_close(w, expected, rtol=1e-9, atol=1e-12)
    assert fed.history[0]["loss"] == pytest.approx((found[0][1] + found[1][1]) / 2, rel=1e-10)


def test_the_step_ahead_is_gradient_descent_and_a_constant():
    """Through what create_graph would keep, a curvature term would flow: first order leaves it out."""
    net = Net(rng.build(NET, 0), dtype=FLOAT)
    state = {n: w.requires_grad_() for n, w in net.initial().items()}
    x, y, _ = samples((3,))
    loss = segmentation(net(state, x, train=True), y)
    plain = torch.autograd.grad(loss, list(state.values()), retain_graph=True)
    ahead, told = stepped(net, state, loss, 0.3)
    assert float(told.detach()) == float(loss.detach())
    for (n, w), g, known in zip(state.items(), plain, torch.autograd.grad(told, list(state.values())), strict=True):
        torch.testing.assert_close(ahead[n].detach(), w.detach() - 0.3 * g)
        torch.testing.assert_close(known, g)
        (one,) = torch.autograd.grad(ahead[n].sum(), w, retain_graph=True)
        assert torch.equal(one, torch.ones_like(w))
    same_state, same_loss = stepped(net, state, loss, 0.0)
    assert same_state is state
    assert same_loss is loss


def test_without_meta_it_is_fedavg_bit_for_bit():
    same(everything(played(FedDG(meta=0.0))), everything(played(Segmenting())))


def test_with_nothing_mixed_and_no_step_it_is_fedavg_with_twice_the_loss():
    """t = x up to rounding: gradients are twice FedAvg's, so half the rate gives its weights."""
    twice = played(FedDG(ratio=(0.0, 0.0), step=0.0, gamma=0.0), local=Local(1, 4, 0.05))
    once = played(Segmenting(), local=Local(1, 4, 0.1))
    same(twice.state, once.state, 1e-9)
    assert twice.history[0]["loss"] == pytest.approx(2 * once.history[0]["loss"])


@pytest.mark.parametrize("executor", ["batched", "threads", "auto"])
@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_executors_agree(executor, gamma):
    one, other = (played(FedDG(step=0.2, gamma=gamma), executor=e) for e in ("sequential", executor))
    same(everything(one), everything(other), 1e-10)


@pytest.mark.usefixtures("tapes")
def test_captured_steps_agree():
    """What is recorded once and replayed: objects of the host would stand still."""
    one = played(FedDG(step=0.2), 3, local=Local(2, 4, 0.1))
    other = played(FedDG(step=0.2), 3, local=Local(2, 4, 0.1), executor="batched")
    same(everything(one), everything(other), 1e-10)
    captures, replays = count()
    assert captures > 0
    assert replays > captures


def test_networks_with_statistics_agree_too():
    model = partial(UNet, 1, 2, 4, 1, "batch")
    one, other = (
        played(FedDG(step=0.2), executor=e, model=model, data=samples((4, 8, 6))) for e in ("sequential", "batched")
    )
    same(everything(one), everything(other), 1e-10)


def test_an_empty_cup_breaks_nothing():
    x, y, split = samples()
    y[0, 1] = 0
    fed = played(FedDG(step=0.2), data=(x, y, split))
    assert all(bool(w.isfinite().all()) for w in fed.state.values())


def test_it_learns():
    """Three sites of one shape; the loss of the first image falls."""
    fed = federation(FedDG(step=0.2, gamma=0.0), local=Local(1, 4, 0.3, momentum=0.9))
    fed.run(6)
    assert fed.history[-1]["loss"] < 0.8 * fed.history[0]["loss"]


# Styles


def test_images_take_the_style_of_another_site_and_keep_their_own_phase():
    x, y, split = samples((3, 3, 3))
    fed = federation(FedDG(window=0, ratio=(1.0, 1.0), bank=1.0), data=(x, y, split))
    t = fed.algorithm.restyled(fed)
    means, sources = t.mean((1, 2, 3)), x.mean((1, 2, 3))
    for k, rows in enumerate(split):
        others = [int(i) for j, own in enumerate(split) if j != k for i in own]
        for i in rows.tolist():
            assert min(abs(means[i] - sources[o]) for o in others) < 1e-12
            shape = x[i] - x[i].mean() + means[i]
            torch.testing.assert_close(t[i], shape, rtol=0, atol=1e-12)


def test_ratios_lie_in_their_range_and_every_round_draws_anew():
    x, y, split = samples((3, 3, 3))
    fed = federation(FedDG(window=0, ratio=(0.2, 0.6), bank=0.1), data=(x, y, split))
    one = fed.algorithm.restyled(fed)
    assert torch.equal(one, fed.algorithm.restyled(fed))
    bank = [float(fed.memory["bank"][f"{k}"][0, 0, 0, 0]) / 64 for k in range(3)]
    for k, rows in enumerate(split):
        for i in rows.tolist():
            a, b = float(x[i].mean()), float(one[i].mean())
            shares = [(b - a) / (bank[j] - a) for j in range(3) if j != k]
            assert any(0.2 - 1e-9 <= s <= 0.6 + 1e-9 for s in shares)
    fed.play_round()
    assert not torch.equal(one, fed.algorithm.restyled(fed))


def test_each_image_has_a_style_and_a_ratio_of_its_own():
    x, y, split = samples((8, 8))
    fed = federation(FedDG(window=0, ratio=(1.0, 1.0), bank=1.0), data=(x, y, split))
    for rows in split:
        means = fed.algorithm.restyled(fed)[rows].mean((1, 2, 3))
        assert len({round(float(m), 9) for m in means}) > 2, "all have the style of one image"
    fed = federation(FedDG(window=0, ratio=(0.0, 1.0), bank=0.1), data=(x, y, split))
    t = fed.algorithm.restyled(fed)
    for k, rows in enumerate(split):
        other = float(fed.memory["bank"][f"{1 - k}"][0, 0, 0, 0]) / 64
        before, after = (part[rows].mean((1, 2, 3)) for part in (x, t))
        shares = (after - before) / (other - before)
        assert len({round(float(share), 6) for share in shares}) == len(rows), "all are mixed by one ratio"


def test_images_carry_their_masks_contours_and_rings():
    x, y, _ = samples()
    fed = federation(FedDG(window=2))
    (phase,) = fed.algorithm.phases(fed)
    expected = torch.cat([y, contour(y), ring(y)], 1)
    assert torch.equal(phase.y[:, :6], expected)
    assert phase.y.shape == (16, 7, 8, 8)
    for k, rows in enumerate(fed.split):
        assert fed.memory["bank"][f"{k}"].shape == (1, 1, 5, 5)
        own = amplitude(x[rows], 2)
        assert any(torch.equal(fed.memory["bank"][f"{k}"][0], a) for a in own)


def test_with_all_of_the_ratio_the_window_is_the_other_sites():
    x, y, split = samples((2, 2))
    fed = federation(FedDG(window=1, ratio=(1.0, 1.0), bank=0.5), data=(x, y, split))
    t = fed.algorithm.restyled(fed)
    for k, rows in enumerate(split):
        other = fed.memory["bank"][f"{1 - k}"]
        expected = low_frequency_mix(x[rows], other, 1, 1.0)
        torch.testing.assert_close(t[rows], expected, rtol=0, atol=1e-13)


def test_bytes_are_the_model_and_once_the_bank():
    fed = played(FedDG(window=2, bank=0.5))
    own = payload_bytes(fed.state)
    shared = [max(1, n // 2) * 1 * 5 * 5 * 8 for n in SIZES]
    assert fed.ledger.up == [3 * own + sum(shared), 3 * own]
    assert fed.ledger.down == [3 * (own + sum(shared)), 3 * own]


# Nonsense


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": (0.6, 0.2)}, "ratio: the lower end first"),
        ({"ratio": (-0.1, 0.2)}, "ratio must be a finite number >= 0 and <= 1"),
        ({"ratio": (0.0, math.nan)}, "ratio must be a finite number >= 0 and <= 1"),
        ({"bank": 1.5}, "bank must be a finite number > 0 and <= 1"),
        ({"window": 0.5}, "window must be a whole number"),
    ],
)
def test_a_method_of_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FedDG(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"participation": 0.5},
        {"data": samples((16,))},
        {"local": Local(1, 4, 0.1, augment=lambda x, draws: x)},
        {"prepare": lambda x: x / 2},
    ],
)
def test_who_cannot_share_styles_is_refused(options):
    with pytest.raises(ValueError, match="FedDG takes pixels as they are, of all of two sites or more in every round"):
        federation(**options)


def test_masks_are_masks_of_the_images():
    x, y, split = samples()
    for masks, message in (
        (y[:, 0], r"got \[16, 1, 8, 8\] and \[16, 8, 8\]"),
        (y[..., :4], "masks .* are needed"),
        (y / 2, "masks consist of 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            federation(Segmenting(), data=(x, masks, split))
    with pytest.raises(ValueError, match="window: 9 x 9 frequencies do not fit into 8 x 8"):
        federation(FedDG(window=4))
