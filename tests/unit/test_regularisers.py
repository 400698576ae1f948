"""Mixup, stochastic depth and GradAug as local training: what each does to a batch, and that off means FedAvg."""

import math

import pytest
import torch
from federations import FLOAT, everything, same
from hypothesis import given, settings, strategies as st
from slimmed import federation, pictures, slim
from torch.nn import functional as F

from fedlib import losses, rng
from fedlib.algorithms import FedAvg
from fedlib.data import margin
from fedlib.executors import Context, Task
from fedlib.federation import Local
from fedlib.models import MLP
from fedlib.regularised.gradaug import GradAug, resized
from fedlib.regularised.mixup import Mixup
from fedlib.regularised.stochasticdepth import StochasticDepth, scaled, survival

CASES = settings(deadline=None, max_examples=15)
METHODS = {
    "mixup": lambda: Mixup(0.4),
    "stochastic depth": lambda: StochasticDepth(0.6),
    "gradaug": lambda: GradAug(0.7, (0.5, 1.0), 1, (1.0, 0.5)),
}


def shifted(x, generator):
    return x + 1


# --- mixing --------------------------------------------------------------------------------------------------------


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 5.0]))
def test_mixup_is_a_convex_mixture_with_a_shuffled_batch(seed, gamma):
    x, y = torch.randn(9, 2, 3, 4, generator=rng.stream(seed), dtype=FLOAT), torch.arange(9)
    mixed, own, other, lam = margin.mixup(x, y, gamma, rng.stream(seed))
    assert torch.equal(own, y)
    assert torch.equal(other.sort().values, y)  # a permutation: labels are rows here
    assert 0 <= lam <= 1
    torch.testing.assert_close(mixed, lam * x + (1 - lam) * x[other], rtol=0, atol=1e-14)


def test_one_lambda_for_the_batch_from_beta():
    """Beta(gamma, gamma) has the mean 1/2 and the variance 1 / (4 (2 gamma + 1))."""
    x, y = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.long)
    lams = torch.tensor([margin.mixup(x, y, 0.5, rng.stream("beta", i))[3] for i in range(2000)])
    assert float(lams.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(lams.var()) == pytest.approx(1 / 8, abs=0.01)


def test_gamma_zero_mixes_and_draws_nothing():
    """The released code's default: then it is FedAvg under another name."""
    x, y, source = *pictures()[:2], rng.stream(0)
    before = source.get_state()
    mixed, own, other, lam = margin.mixup(x, y, 0.0, source)
    assert mixed is x
    assert own is other is y
    assert lam == 1
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize("gamma", [-1.0, math.nan, math.inf])
def test_gamma_is_a_size(gamma):
    with pytest.raises(ValueError, match="gamma must be a finite number >= 0"):
        margin.mixup(torch.ones(2, 1), torch.zeros(2), gamma, rng.stream(0))
    with pytest.raises(ValueError, match="gamma must be a finite number >= 0"):
        Mixup(gamma)


@pytest.mark.parametrize("sizes", [(0, 0), (3, 2)])
def test_a_batch_has_a_label_for_each_sample(sizes):
    with pytest.raises(ValueError, match="x and y: expected a label for each of B >= 1 samples"):
        margin.mixup(torch.ones(sizes[0], 1, 2, 2), torch.zeros(sizes[1]), 1.0, rng.stream(0))


def test_the_objective_is_the_mixture_of_two_cross_entropies():
    fed = federation(Mixup(1.0))
    x, y, _ = pictures(5)
    batch = margin.Mixing(1.0)(margin.noted(x[:8], y[:8, None]), rng.stream("batch"))
    mixed, own, other, lam = margin.mixup(x[:8], y[:8], 1.0, rng.stream("batch"))
    logits = fed.net(fed.state, mixed)
    expected = lam * F.cross_entropy(logits, own) + (1 - lam) * F.cross_entropy(logits, other)
    found = fed.algorithm.objective(fed.net, fed.state, batch, y[:8], Context(fed.state))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_partners_are_the_clients_own_and_change_from_step_to_step():
    """Margins hold labels in 3 classes; here rows, so that partners can be told apart."""
    fed = federation(Mixup(1.0))
    (phase,) = fed.algorithm.phases(fed)
    client = 3
    x = phase.x.clone()
    x[:, 0, -1, 0] = torch.arange(40, dtype=FLOAT)
    order = torch.arange(16).expand(2, 16)
    task = Task(client, fed.state, Context({}), x, fed.y, fed.split[client], order, 16, augment=phase.augment, key=(1,))
    partners = [margin.note(batch, 0).long() for batch, _ in task.batches()]
    for found in partners:
        assert sorted(found.tolist()) == sorted(fed.split[client].tolist())
    assert not torch.equal(*partners)


def test_what_clients_do_to_pictures_comes_before_mixing_and_spares_the_margin():
    x, y, _ = pictures()
    batch = margin.noted(x[:6], y[:6, None])
    one = margin.Mixing(1.0, shifted)(batch, rng.stream(1))
    two = margin.Mixing(1.0)(batch, rng.stream(1))
    torch.testing.assert_close(one[..., :-1, :], two[..., :-1, :] + 1, rtol=0, atol=1e-13)
    assert torch.equal(one[..., -1, :], two[..., -1, :])


# --- the margin ----------------------------------------------------------------------------------------------------


def test_notes_are_read_as_they_were_written():
    x, notes = pictures()[0], torch.rand(40, 3, generator=rng.stream(0), dtype=FLOAT)
    both = margin.noted(x, notes)
    assert torch.equal(both[..., :-1, :], x)
    assert torch.equal(margin.note(both, 2), notes[:, 2])
    assert float(margin.first_note(both, 1)) == float(notes[0, 1])
    stack = both.unflatten(0, (20, 2)).unsqueeze(2)
    assert torch.equal(margin.first_note(stack, 1), notes[:2, 1:2])


@pytest.mark.parametrize("shape", [(40, 7), (39, 1), (40,)])
def test_notes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="notes: expected up to 6 numbers for each of 40 pictures"):
        margin.noted(pictures()[0], torch.zeros(shape))
    with pytest.raises(ValueError, match="a margin is below pictures"):
        margin.noted(torch.zeros(3, 4), torch.zeros(3, 1))


def test_draws_are_named_by_step_and_row_whoever_makes_them():
    keys = rng.rows(torch.tensor([5, 6]), 0, 4)
    drawing, x = margin.Drawing(2), pictures()[0]
    both = drawing(x[:8], rng.Rows(keys.flatten())).unflatten(0, (4, 2))
    one = drawing(x[0:8:2], rng.Rows(keys[:, 0]))
    assert torch.equal(both[:, 0], one)
    assert drawing.several
    assert not margin.Drawing(2, shifted).several
    with pytest.raises(ValueError, match="count must be a whole number of at least 1"):
        margin.Drawing(0)


@pytest.mark.parametrize("name", ["mixup", "stochastic depth"])
def test_a_network_that_reads_the_margin_is_refused(name):
    with pytest.raises(ValueError, match="the network looks at the margin"):
        federation(METHODS[name](), model=lambda: slim(height=None))


def test_samples_that_are_no_pictures_are_refused():
    x, y, split = pictures()
    flat = x.flatten(1), y, split
    with pytest.raises(ValueError, match="Mixup leaves notes below pictures"):
        federation(Mixup(0.2), model=lambda: MLP(24, (4,), 3), data=flat)
    with pytest.raises(ValueError, match="stochastic depth leaves out branches"):
        federation(StochasticDepth(0.9), model=lambda: MLP(24, (4,), 3), data=flat)
    with pytest.raises(ValueError, match="GradAug runs networks at several widths"):
        federation(GradAug(), model=lambda: MLP(24, (4,), 3), data=flat)


# --- stochastic depth ----------------------------------------------------------------------------------------------


def test_survival_falls_in_a_line_from_one_to_keep():
    assert survival(5, 0.6) == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])
    assert survival(1, 0.6) == [1.0]
    assert survival(3, 1.0) == [1.0] * 3


def coins(values, x):
    return margin.noted(x, torch.tensor(values, dtype=FLOAT).expand(len(x), -1))


def test_a_block_whose_coin_falls_is_its_shortcut_and_has_no_gradient():
    fed = federation(StochasticDepth(0.5))
    x, y, _ = pictures(5)
    state = {n: t.clone().requires_grad_() for n, t in fed.state.items()}
    values = [0.0, 0.99, 0.0, 0.99]  # p is 1, 5/6, 4/6, 1/2: blocks 1 and 3 fall
    loss = fed.algorithm.objective(fed.net, state, coins(values, x[:8]), y[:8], Context(state))
    net, h = fed.net.module.load_state_dict(fed.state) and fed.net.module, x[:8]
    h = F.relu(net.norm(net.stem(h)))
    for b, (block, p) in enumerate(zip([*net.stages[0], *net.stages[1]], survival(4, 0.5), strict=True)):
        branch = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(h)))))
        h = F.relu((values[b] < p) * branch / p + block.shortcut(h))
    torch.testing.assert_close(loss, F.cross_entropy(net.head(h.mean((2, 3))), y[:8]), rtol=0, atol=1e-13)
    grads = dict(zip(state, torch.autograd.grad(loss, list(state.values())), strict=True))
    for n in ("conv1.weight", "conv2.weight", "norm2.weight", "norm2.bias"):
        assert not bool(grads[f"stages.0.1.{n}"].any())
        assert bool(grads[f"stages.0.0.{n}"].any())
    assert bool(grads["stages.1.0.shortcut.0.weight"].any())


def test_on_average_a_linear_block_is_what_the_rule_for_tests_says():
    """E[1_b] F = p F (the released rule for tests), and E[1_b / p] F = F (the rule here): a block before its ReLU."""
    p, f, s = 0.7, torch.tensor([3.0, -2.0], dtype=FLOAT), torch.tensor([1.0, 1.0], dtype=FLOAT)
    kept, left = f + s, s
    torch.testing.assert_close(p * kept + (1 - p) * left, p * f + s, rtol=0, atol=1e-15)
    torch.testing.assert_close(p * (f / p + s) + (1 - p) * left, f + s, rtol=0, atol=1e-15)


def test_the_released_network_for_tests_is_the_plain_one_with_scaled_branches():
    fed = federation(FedAvg())
    net, x = fed.net.module, pictures()[0]
    h = F.relu(net.norm(net.stem(x)))
    for block, p in zip([*net.stages[0], *net.stages[1]], survival(4, 0.6), strict=True):
        branch = block.norm2(block.conv2(F.relu(block.norm1(block.conv1(h)))))
        h = F.relu(p * branch + block.shortcut(h))
    found = fed.net(scaled(fed.state, net.branches, survival(4, 0.6)), x)
    torch.testing.assert_close(found, net.head(h.mean((2, 3))), rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="factors: expected one for each of 4 branches, got 3"):
        scaled(fed.state, net.branches, [1.0] * 3)


def test_coins_fall_as_often_as_they_should_and_not_together():
    draws = margin.Drawing(4)
    keys = rng.rows(torch.tensor([9]), 0, 3000)[:, 0]
    u = draws(torch.zeros(3000, 1, 2, 4, dtype=FLOAT), rng.Rows(keys))[:, 0, -1, :4]
    fallen = (u >= torch.tensor(survival(4, 0.6), dtype=FLOAT)).double()
    torch.testing.assert_close(fallen.mean(0), 1 - torch.tensor(survival(4, 0.6), dtype=FLOAT), rtol=0, atol=0.03)
    assert abs(float(torch.corrcoef(fallen[:, 1:].T)[0, 2])) < 0.08


# --- gradaug -------------------------------------------------------------------------------------------------------


def test_the_objective_is_the_plain_loss_and_the_distances_of_sub_networks():
    fed = federation(GradAug(0.7, (0.5, 1.0), 2, (1.0, 0.5)))
    x, y, _ = pictures(5)
    teacher = fed.net(fed.state, x)
    expected = F.cross_entropy(teacher, y)
    rounds = [fed.algorithm.subnetworks(i) for i in range(6)]
    assert any(r != rounds[0] for r in rounds)
    for width, resolution in rounds[2]:
        student = fed.net(fed.state, F.interpolate(x, (4, 6), mode="bilinear") if resolution == 1 else
                          F.interpolate(x, (2, 3), mode="bilinear", align_corners=True), width=width)  # fmt: skip
        expected = expected + 0.7 * F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")
    found = fed.algorithm.objective(fed.net, fed.state, x, y, Context(fed.state, round=2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_every_round_has_the_narrowest_and_as_many_others_as_were_asked_for():
    for number in range(20):
        subnets = GradAug(draws=2).subnetworks(number)
        widths = [w for w, _ in subnets]
        assert len(widths) == 3
        assert widths[-1] == 0.25
        assert widths == sorted(widths, reverse=True)
    drawn = {w for i in range(60) for w, _ in GradAug(draws=2).subnetworks(i)}
    assert drawn == {0.25, 0.5, 0.75, 1.0}
    assert {r for i in range(60) for _, r in GradAug(draws=2).subnetworks(i)} == {1.0, 0.875, 0.75, 0.625}
    assert GradAug(seed=1).subnetworks(0) != GradAug(seed=2).subnetworks(0) or (
        GradAug(seed=1).subnetworks(1) != GradAug(seed=2).subnetworks(1)
    )


def test_at_full_width_and_resolution_it_is_fedavg():
    """KL is 0 there, and so is its gradient: a student that is its own teacher learns nothing."""
    fed = federation(GradAug(3.0, (1.0,), 1, (1.0,)))
    plain = federation(FedAvg())
    fed.run(2), plain.run(2)
    same(everything(fed), everything(plain), 1e-12)


def test_the_teacher_gets_no_gradient():
    fed = federation(GradAug(1.0, (0.5,), 0, (1.0,)))
    x, y, _ = pictures(5)
    state = {n: t.clone().requires_grad_() for n, t in fed.state.items()}
    found = torch.autograd.grad(
        fed.algorithm.objective(fed.net, state, x, y, Context(state)) - losses.cross_entropy(fed.net(state, x), y),
        state["stages.1.1.conv2.weight"],
    )[0]
    assert bool(found[:4, :4].any())
    assert float(found[4:].abs().max()) < 1e-15


def test_pictures_get_smaller_and_keep_their_corners():
    x = torch.arange(12, dtype=FLOAT).view(1, 1, 3, 4)
    assert resized(x, 1.0) is x
    small = resized(x, 0.6)
    assert small.shape == (1, 1, 2, 2)
    assert small.flatten().tolist() == [0, 3, 8, 11]
    stack = resized(x.expand(2, 3, 1, 1, 3, 4), 0.6)
    assert torch.equal(stack[1, 2], small)
    assert resized(torch.zeros(1, 1, 1, 40), 0.75).shape == (1, 1, 1, 30)


# --- all of them ---------------------------------------------------------------------------------------------------


OFF = {
    "mixup": lambda: Mixup(0.0),
    "stochastic depth": lambda: StochasticDepth(1.0),
    "gradaug": lambda: GradAug(0.0),
}


@pytest.mark.parametrize("name", OFF)
def test_switched_off_it_is_fedavg_bit_for_bit(name):
    one, two = federation(OFF[name]()), federation(FedAvg())
    one.run(3), two.run(3)
    same(everything(one), everything(two))


@pytest.mark.parametrize("name", METHODS)
def test_switched_on_it_is_not(name):
    one, two = federation(METHODS[name]()), federation(FedAvg())
    one.run(1), two.run(1)
    assert not torch.equal(one.state["head.weight"], two.state["head.weight"])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("local", [Local(2, 8, 0.1), Local(2, 8, 0.1, 0.5, 0.01, augment=shifted)])
def test_executors_agree(name, local):
    one, two = (federation(METHODS[name](), local=local, executor=e) for e in ("sequential", "batched"))
    one.run(3), two.run(3)
    same(everything(one), everything(two), 1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_what_travels_is_fedavgs(name):
    one, two = federation(METHODS[name]()), federation(FedAvg())
    one.run(2), two.run(2)
    assert (one.ledger.up, one.ledger.down) == (two.ledger.up, two.ledger.down)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name):
    one, two, other = (federation(METHODS[name](), seed=s) for s in (3, 3, 4))
    for fed in (one, two, other):
        fed.run(2)
    same(everything(one), everything(two))
    assert not torch.equal(one.state["head.weight"], other.state["head.weight"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: StochasticDepth(v), "keep"),
        (lambda v: GradAug(v), "weight"),
        (lambda v: GradAug(widths=(0.5, v)), r"widths\[1\]"),
        (lambda v: GradAug(resolutions=(v,)), r"resolutions\[0\]"),
        (lambda v: GradAug(draws=v), "draws"),
    ],
)
def test_settings_that_cannot_work_are_named(make, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a"):
        make(value)


def test_no_width_and_no_block_are_refused():
    with pytest.raises(ValueError, match="widths: expected shares of the whole, got none"):
        GradAug(widths=())
    with pytest.raises(ValueError, match="keep must be a finite number > 0 and <= 1"):
        StochasticDepth(0.0)
    with pytest.raises(ValueError, match="blocks must be a whole number of at least 1"):
        survival(0, 0.5)
    with pytest.raises(ValueError, match=r"width 0\.25 keeps 1 of 4 channels"):
        federation(GradAug())
