"""FRSKD: who gets a gradient from what, off-switches, invariances, and the traps of its two losses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedlib import losses, rng
from fedlib.data import mixing
from fedlib.models.bifpn import SelfTeacher
from fedlib.models.staged import StagedResNet
from fedlib.selfdistil import FRSKD, CutMix, Heads, Mixup, Reversed, attention, attention_gap
from fedlib.training import Objective, Trainer, Training, predict, recordable

WIDTHS = (4, 6, 8)


def network():
    return StagedResNet(WIDTHS, 1, 1, 5)


def samples(count=24):
    draws = rng.stream("frskd")
    return torch.randn(count, 1, 8, 8, generator=draws, dtype=torch.float64), torch.arange(count) % 5


def trainer(objective, epochs=2, **options):
    how = Training(epochs=epochs, batch_size=8, lr=0.1, weight_decay=1e-3)
    return Trainer(network, *samples(), objective, how, dtype=torch.float64, device="cpu", **options)


def weights(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def gradients(objective, part=None):
    """Gradients of network and self-teacher on one batch: of the whole loss, or of one ``part``."""
    t = trainer(objective)
    x, y = samples()
    net, teacher = t.network, t.objective.modules["teacher"]
    if part is None:
        loss = t.objective.loss(net, x, y)
    else:
        logits, maps = net(x, maps=True)
        teacher_logits, refined = teacher(maps)
        loss = part(t.objective, logits, maps, teacher_logits, refined)
    loss.backward()
    return [[p.grad for p in m.parameters()] for m in (net, teacher)]


def drawn(channels=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(3, channels, 4, 6, generator=g, dtype=torch.float64)


# The loss of the maps


def test_a_map_that_is_a_multiple_costs_nothing():
    f = drawn()
    assert float(attention_gap([f], [-3.0 * f])) == pytest.approx(0, abs=1e-30)
    assert float(losses.attention_transfer([f], [0.01 * f])) == pytest.approx(0, abs=1e-14)
    assert float(attention_gap([f], [f.flip(3)])) > 1e-4


def test_the_order_and_the_number_of_channels_do_not_matter():
    f, t = drawn(), drawn(seed=1)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    once = attention_gap([f], [t])
    torch.testing.assert_close(attention_gap([f[:, order]], [t]), once, rtol=1e-12, atol=0)
    torch.testing.assert_close(attention_gap([f], [torch.cat([t, t], 1)]), once, rtol=1e-12, atol=0)


def test_the_released_loss_is_the_squared_norm_over_the_places():
    """So the paper's weight of 100 belongs to the released form, and shrinks with the size of the map."""
    f, t = drawn(), drawn(seed=1)
    squares = (attention(f) - attention(t)).norm(dim=1).square().mean()
    torch.testing.assert_close(attention_gap([f], [t]), squares / (4 * 6), rtol=1e-12, atol=0)
    norm = (attention(f) - attention(t)).norm(dim=1).mean()
    torch.testing.assert_close(losses.attention_transfer([f], [t]), norm, rtol=1e-12, atol=0)


def test_attention_from_the_definition():
    """Squares first, then the mean: channels of opposite sign do not cancel."""
    f = torch.tensor([3.0, 0.0, -3.0, 4.0], dtype=torch.float64).view(1, 2, 1, 2)  # channels (3, 0) and (-3, 4)
    expected = torch.tensor([[9.0, 8.0]], dtype=torch.float64) / 145**0.5
    torch.testing.assert_close(attention(f), expected, rtol=1e-12, atol=0)


def test_attention_has_unit_length_and_a_dead_map_stays_finite():
    torch.testing.assert_close(attention(drawn()).norm(dim=1), torch.ones(3, dtype=torch.float64))
    dead = torch.zeros(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    attention_gap([dead], [torch.ones(2, 3, 4, 4, dtype=torch.float64)]).backward()
    assert bool(torch.isfinite(dead.grad).all())


def test_maps_before_the_relu_have_another_attention():
    """The trap: squares do not see a sign."""
    g = torch.Generator().manual_seed(0)
    f = torch.randn(3, 5, 4, 6, generator=g, dtype=torch.float64)
    assert float((attention(f) - attention(f.relu())).abs().max()) > 0.05


def test_the_gap_has_the_gradient_of_finite_differences():
    f, t = drawn(2).requires_grad_(), drawn(3, seed=1)
    assert torch.autograd.gradcheck(lambda m: attention_gap([m], [t]), (f,))


# Who is moved by what


@pytest.mark.parametrize("part", ["logits", "maps"])
def test_distillation_moves_the_network_alone(part):
    """dL_KD / d theta_t = 0 and dL_F / d theta_t = 0: else the teacher would chase its student."""

    def loss(objective, logits, maps, teacher_logits, refined):
        return objective.logit_loss(logits, teacher_logits) if part == "logits" else objective.map_loss(maps, refined)

    net, teacher = gradients(FRSKD(), loss)
    assert all(g is None for g in teacher)
    assert any(g is not None and bool((g != 0).any()) for g in net)


def test_a_teacher_that_is_not_held_fixed_would_move():
    """The wrong version of the test above."""

    def loss(objective, logits, maps, teacher_logits, refined):
        return sum((attention(f) - attention(t)).square().mean() for f, t in zip(maps, refined, strict=True))

    _, teacher = gradients(FRSKD(), loss)
    assert any(g is not None and bool((g != 0).any()) for g in teacher)


def test_the_self_teachers_labels_reach_the_network_unless_the_maps_are_detached():
    """The trap: alpha = beta = 0 is deep supervision, not the baseline."""

    def plain(objective, logits, maps, teacher_logits, refined):
        return losses.cross_entropy(logits, samples()[1])

    base, _ = gradients(FRSKD(0, 0), plain)
    deep, _ = gradients(FRSKD(0, 0))
    alone, taught = gradients(FRSKD(0, 0, detached=True))
    assert max(float((a - b).abs().max()) for a, b in zip(deep, base, strict=True)) > 1e-3
    assert all(torch.equal(a, b) for a, b in zip(alone, base, strict=True))
    assert any(bool((g != 0).any()) for g in taught)


def test_everything_off_and_detached_is_the_plain_network_bit_for_bit():
    """With BatchNorm, weight decay, and another module in the optimiser: its first weights have their own stream."""
    plain, off = trainer(Objective()), trainer(FRSKD(0, 0, detached=True))
    plain.run()
    off.run()
    assert torch.equal(weights(plain.network), weights(off.network))
    deep = trainer(FRSKD(0, 0))
    deep.run()
    assert not torch.equal(weights(plain.network), weights(deep.network))


def test_inference_does_not_ask_the_self_teacher():
    t = trainer(FRSKD(), epochs=1)
    t.run()
    before = predict(t.network, samples()[0])
    for p in t.objective.modules["teacher"].parameters():
        p.data.normal_()
    assert torch.equal(predict(t.network, samples()[0]), before)


def test_the_loss_is_the_sum_of_its_four_parts():
    t = trainer(FRSKD(0.7, 30.0, 3.0))
    x, y = samples()
    logits, maps = t.network(x, maps=True)
    teacher_logits, refined = t.objective.modules["teacher"](maps)
    z, q = logits / 3, teacher_logits / 3
    divergence = (q.softmax(1) * (q.log_softmax(1) - z.log_softmax(1))).sum(1).mean()
    gaps = []
    for f, r in zip(maps, refined, strict=True):
        a, b = ((m**2).mean(1).flatten(1) for m in (f, r))
        gaps.append(((a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)) ** 2).mean())
    expected = F.cross_entropy(logits, y) + F.cross_entropy(teacher_logits, y) + 0.7 * 9 * divergence + 30 * sum(gaps)
    torch.testing.assert_close(t.objective.loss(t.network, x, y), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_both_directions_from_the_formula(temperature):
    """The released one has the teacher first, the printed one the network; both here times the squared temperature."""
    g = torch.Generator().manual_seed(0)
    z, taught = (3 * torch.randn(2, 7, 5, generator=g, dtype=torch.float64)).unbind()
    z.requires_grad_(), taught.requires_grad_()
    p, q = ((v.detach() / temperature).exp() for v in (z, taught))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    released = temperature**2 * (q * (q / p).log()).sum(1).mean()
    printed = temperature**2 * (p * (p / q).log()).sum(1).mean()
    assert abs(released - printed) > 1e-4 * released
    for objective, expected in ((FRSKD, released), (Reversed, printed)):
        found = objective(temperature=temperature).logit_loss(z, taught)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        gradient = torch.autograd.grad(found, [z, taught], allow_unused=True)
        assert gradient[1] is None
        assert bool((gradient[0] != 0).any())


def test_the_printed_direction_is_another_loss_and_agrees_to_second_order():
    """Student first or teacher first: equal near agreement, not far from it."""
    g = torch.Generator().manual_seed(0)
    q, step = torch.randn(2, 4, 6, generator=g, dtype=torch.float64).unbind()
    near = [float(losses.kl(q, q + 1e-3 * step)), float(losses.kl(q + 1e-3 * step, q))]
    far = [float(losses.kl(q, q + 3 * step)), float(losses.kl(q + 3 * step, q))]
    assert near[0] == pytest.approx(near[1], rel=1e-2)
    assert abs(far[0] - far[1]) > 0.05 * far[0]


# What stands beside it


def test_cutmix_off_is_cross_entropy_bit_for_bit():
    plain, off = trainer(Objective()), trainer(CutMix(0.0))
    plain.run()
    off.run()
    assert torch.equal(weights(plain.network), weights(off.network))


@pytest.mark.parametrize(("kind", "mix"), [(CutMix, mixing.cutmix), (Mixup, mixing.mixup)])
def test_labels_weigh_as_much_as_what_is_there_of_their_images(kind, mix):
    """Each image is a grey of its own, so that the mean of a mixed one tells its shares."""
    t, y = trainer(kind(1.0)), samples()[1]
    grey = torch.arange(24, dtype=torch.float64)
    x = grey.view(-1, 1, 1, 1).expand(24, 1, 8, 8)
    mixed, fit = t.objective.mixed(x, y)
    _, other, stays = mix(x, rng.stream(0, "network", "mix"), 1.0)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), stays * grey + (1 - stays) * grey[other])
    logits = torch.randn(24, 5, generator=rng.stream("logits"), dtype=torch.float64)
    expected = stays * F.cross_entropy(logits, y) + (1 - stays) * F.cross_entropy(logits, y[other])
    assert 0.05 < stays < 0.95
    torch.testing.assert_close(fit(logits), expected, rtol=1e-12, atol=0)


def test_the_self_teacher_learns_mixed_labels_too():
    t, (x, y) = trainer(FRSKD(0, 0, cutmix=1.0)), samples()
    mixed, other, stays = mixing.cutmix(x, rng.stream(0, "network", "mix"), 1.0)
    logits, maps = t.network(mixed, maps=True)
    both = logits, t.objective.modules["teacher"](maps)[0]
    expected = sum(stays * F.cross_entropy(z, y) + (1 - stays) * F.cross_entropy(z, y[other]) for z in both)
    assert 0.05 < stays < 0.95
    torch.testing.assert_close(t.objective.loss(t.network, x, y), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (3, 2)])
def test_the_self_teacher_is_as_wide_and_deep_as_it_is_asked_to_be(width, depth):
    made = trainer(FRSKD(width=width, depth=depth)).objective.modules["teacher"]
    assert weights(made).shape == weights(SelfTeacher(WIDTHS, 5, width, depth)).shape


def test_only_steps_without_draws_may_be_recorded():
    assert recordable(FRSKD(detached=True))
    assert not recordable(FRSKD(cutmix=1.0))
    assert not recordable(Mixup())


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_heads_teach_the_stages_before_the_last_and_take_the_network_as_given(weight):
    t = trainer(Heads(weight, 2.0))
    x, y = samples()
    logits, maps = t.network(x, maps=True)
    early = [h(m.mean((2, 3))) for h, m in zip(t.objective.modules["heads"], maps[:-1], strict=True)]
    expected = F.cross_entropy(logits, y) + sum(
        (1 - weight) * F.cross_entropy(e, y) + weight * losses.kd(e, logits, 2.0) for e in early
    )
    torch.testing.assert_close(t.objective.loss(t.network, x, y), expected, rtol=1e-12, atol=0)
    gradient = torch.autograd.grad(sum(losses.kd(e, logits, 2.0) for e in early), [*t.network.head.parameters()],
                                   allow_unused=True)  # fmt: skip
    assert gradient == (None, None)


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"beta": float("nan")}, {"temperature": 0.0}, {"cutmix": -1.0}])
def test_numbers_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FRSKD(**wrong)
