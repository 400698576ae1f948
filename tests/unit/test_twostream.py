"""Two streams: identities at the start, what shared and untied layers are moved by, the regulariser, and training."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from fedlib import losses, require, rng, streams, twostream
from fedlib.data import shifts
from fedlib.models import MLP, NormedCNN
from fedlib.optim import Adam
from fedlib.twostream import Batch, How, TwoStream

FLOAT = torch.float64
CASES = settings(deadline=None, max_examples=20)
make = partial(MLP, 6, (5, 4), 3)


def weights(seed=0):
    return {n: p.detach().to(FLOAT) for n, p in rng.build(make, seed, "init").named_parameters()}


PLAN = streams.layers(make())
NONE, ALL = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)


def apart(seed=0, by=0.1):
    """Two streams that have moved away from one another."""
    draws = rng.stream(seed, "apart")
    state = streams.begin(weights(seed), PLAN)
    return {n: w + by * torch.randn(w.shape, generator=draws, dtype=FLOAT) for n, w in state.items()}


def batch(seed=0, few=4):
    draws = rng.stream(seed, "batch")
    x, x_target, x_few = (torch.randn(n, 6, generator=draws, dtype=FLOAT) for n in (7, 8, few))
    y, y_few = (torch.randint(3, (n,), generator=draws) for n in (7, few))
    return Batch(x, y, x_target, x_few, y_few) if few else Batch(x, y, x_target)


def net():
    return make().to(FLOAT)


def gradients(objective, state, untied, at=None):
    state = {n: w.clone().requires_grad_() for n, w in state.items()}
    loss = objective.loss(net(), PLAN, state, untied, batch() if at is None else at)
    found = torch.autograd.grad(loss, list(state.values()), allow_unused=True)
    return {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(state.items(), found, strict=True)}


def domains(seed=0, few=6):
    draws = rng.stream(seed, "domains")
    x = [torch.randn(n, 6, generator=draws, dtype=FLOAT) for n in (30, 20, few, 10)]
    y = [torch.randint(3, (n,), generator=draws) for n in (30, few, 10)]
    return shifts.Domains(x[0], y[0], x[1], x[2], y[1], x[3], y[2])


def critic(state, seed=0):
    return twostream.with_critic(state, 4, seed)


# Streams


def test_layers_are_those_with_weights_in_their_order():
    assert list(PLAN) == ["body.1", "body.3", "head"]
    assert PLAN["body.3"] == ("body.3.weight", "body.3.bias")
    found = streams.masks(3)
    assert found.tolist()[:3] == [[False] * 3, [False, False, True], [False, True, False]]
    assert len({tuple(m) for m in found.tolist()}) == 8
    assert found[-1].all()


def test_statistics_of_two_domains_are_not_shared_silently():
    with pytest.raises(ValueError, match=r"is a buffer; statistics of two domains"):
        streams.layers(NormedCNN())
    with pytest.raises(ValueError, match="no layer has weights"):
        streams.layers(nn.Sequential(nn.ReLU()))


def test_at_the_start_the_relation_costs_nothing_and_moves_nothing():
    state = streams.begin(weights(), PLAN)
    assert streams.gaps(state, PLAN).tolist() == [0.0] * 3
    for form in streams.FORMS:
        off, on = (gradients(TwoStream(related=w, form=form), state, ALL) for w in (0.0, 5.0))
        assert all(torch.equal(off[n], on[n]) for n in off)


def test_shared_layers_are_one_tensor_and_untied_ones_two():
    state = apart()
    for mask in streams.masks(3):
        own = streams.target(state, PLAN, mask)
        grads = gradients(TwoStream(), state, mask)
        for j, names in enumerate(PLAN.values()):
            for n in names:
                assert torch.equal(own[n], state[f"{'target' if mask[j] else 'source'}.{n}"])
                assert (float(grads[f"target.{n}"].abs().max()) > 0) == bool(mask[j])


def test_no_untied_layer_is_one_network_bit_for_bit():
    """Deep domain confusion: with all layers shared, the target's labels and both features move the same weights."""
    state, at = apart(), batch()
    grads = gradients(TwoStream(related=0.7, discrepancy=0.3), state, NONE)
    network = net()
    network.load_state_dict(streams.source(state, PLAN))
    f, g = (F.normalize(network(x, features=True), dim=1) for x in (at.x, at.x_target))
    loss = losses.cross_entropy(network(at.x), at.y) + losses.cross_entropy(network(at.x_few), at.y_few)
    (loss + 0.3 * losses.mmd(f, g, twostream.BANDWIDTHS)).backward()
    for n, p in network.named_parameters():
        torch.testing.assert_close(grads[f"source.{n}"], p.grad, rtol=1e-12, atol=1e-15)
    assert all(float(g.abs().max()) == 0 for n, g in grads.items() if not n.startswith("source."))


def test_sharing_does_not_depend_on_what_the_idle_stream_holds():
    state, other = apart(), apart(1)
    other = {n: state[n] if n.startswith("source.") else w for n, w in other.items()}
    objective, at = TwoStream(related=1.0, discrepancy=1.0), batch()
    first, second = (objective.loss(net(), PLAN, s, NONE, at) for s in (state, other))
    assert torch.equal(first, second)


def test_a_change_of_contrast_is_undone_in_the_first_layer_at_no_cost():
    """x' = c x + d: weights over c, a scale of 1/c relates them, and the bias takes the rest."""
    c, d = 0.3, 0.5
    state, x = streams.begin(weights(), PLAN), batch().x
    weight, bias = state["source.body.1.weight"], state["source.body.1.bias"]
    state["target.body.1.weight"] = weight / c
    state["target.body.1.bias"] = bias - d / c * weight.sum(1)
    own, other = streams.source(state, PLAN), streams.target(state, PLAN, torch.tensor([True, False, False]))
    f, g = twostream.features(net(), own, x), twostream.features(net(), other, c * x + d)
    torch.testing.assert_close(f, g, rtol=1e-12, atol=1e-12)
    alone = {n: w for n, w in state.items() if not n.endswith("body.1.bias")}
    alone["scale.body.1"] = torch.tensor(1 / c, dtype=FLOAT)
    only = {"body.1": ("body.1.weight",)}
    assert float(streams.gaps(alone, only)) == pytest.approx(0, abs=1e-25)


# The relation of weights


@CASES
@given(st.integers(0, 10**6))
def test_best_scale_and_shift_leave_what_correlation_says(seed):
    draws = torch.Generator().manual_seed(seed)
    s, t = torch.randn(2, 4, 5, generator=draws, dtype=FLOAT).unbind()
    a, b, left = streams.fitted(s, t)
    rho = torch.corrcoef(torch.stack([s.flatten(), t.flatten()]))[0, 1]
    expected = (1 - rho**2) * (t - t.mean()).square().sum()
    torch.testing.assert_close(left, expected, rtol=1e-10, atol=1e-12)
    for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert float(((a + da) * s + b + db - t).square().sum()) > float(left)
    state = {"source.w": s, "target.w": t, "scale.j": a, "shift.j": b}
    torch.testing.assert_close(streams.gaps(state, {"j": ("w",)})[0], left, rtol=1e-10, atol=1e-12)


def test_units_in_another_order_look_unrelated():
    """Why the target begins as a copy of the source: the same function may be far away in weights."""
    own = weights()
    order = torch.tensor([3, 4, 0, 1, 2])
    swapped = dict(own) | {"body.1.weight": own["body.1.weight"][order], "body.1.bias": own["body.1.bias"][order]}
    swapped["body.3.weight"] = own["body.3.weight"][:, order]
    x = batch().x
    torch.testing.assert_close(*(twostream.features(net(), w, x) for w in (own, swapped)), rtol=1e-12, atol=1e-12)
    w = own["body.1.weight"]
    _, _, left = streams.fitted(w, swapped["body.1.weight"])
    assert float(left) > 0.5 * float((w - w.mean()).square().sum())


def test_the_exponential_is_that_of_the_paper_until_it_is_continued():
    gap = torch.tensor([0.0, 1e-12, 0.5, 3.0, 9.9], dtype=FLOAT)
    expected = torch.tensor([math.expm1(float(v)) for v in gap], dtype=FLOAT)
    torch.testing.assert_close(streams.regulariser(gap, "exp"), expected, rtol=1e-12, atol=0)
    assert torch.equal(streams.regulariser(gap, "l2"), gap)
    assert float(streams.regulariser(gap, "exp")[1]) == pytest.approx(1e-12, rel=1e-9)  # exp(r) - 1 would lose it


def test_the_exponential_does_not_overflow_and_keeps_its_gradient():
    """Beyond 88.7 the printed form is infinite in float32; a clamp alone would let go of the weights."""
    gap = torch.tensor([5.0, 50.0, 200.0], requires_grad=True)
    assert bool(torch.exp(gap.detach() - 1).isinf().any())
    found = streams.regulariser(gap, "exp", 10.0)
    assert bool(found.isfinite().all())
    found.sum().backward()
    assert gap.grad.tolist() == pytest.approx([math.exp(5), math.exp(10), math.exp(10)], rel=1e-5)
    at = torch.tensor([10 - 1e-6, 10 + 1e-6], dtype=FLOAT)
    low, high = streams.regulariser(at, "exp", 10.0).tolist()
    assert (high - low) / 2e-6 == pytest.approx(math.exp(10), rel=1e-5)


@pytest.mark.parametrize("objective", [
    TwoStream(related=0.5, discrepancy=0.5), TwoStream(related=0.5, form="l2", discrepancy=0.5, unit=False),
    TwoStream(frozen=True, related=0.5, discrepancy=0.2),
])  # fmt: skip
@pytest.mark.parametrize("mask", [[True, False, False], [True, True, True]])
def test_gradients_are_those_of_finite_differences(objective, mask):
    state, mask = apart(), torch.tensor(mask)
    grads = gradients(objective, state, mask)
    for name in ("source.body.1.weight", "target.body.1.weight", "target.head.bias", "scale.body.1", "shift.head"):
        if objective.frozen and name.startswith("source."):
            assert float(grads[name].abs().max()) == 0
            continue
        values = []
        for step in (1e-6, -1e-6):
            moved = dict(state)
            nudge = torch.zeros_like(state[name])
            nudge.view(-1)[0] = step
            moved[name] = state[name] + nudge
            values.append(float(objective.loss(net(), PLAN, moved, mask, batch())))
        slope = (values[0] - values[1]) / 2e-6
        assert float(grads[name].reshape(-1)[0]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


# What counts


def test_without_target_labels_their_loss_is_left_out():
    at = batch(few=0)
    loss = TwoStream().loss(net(), PLAN, apart(), ALL, at)
    expected = losses.cross_entropy(twostream._answer(net(), streams.source(apart(), PLAN), at.x), at.y)
    assert torch.equal(loss, expected)


def test_an_untied_head_without_target_labels_learns_by_the_relation_alone():
    state = apart()
    alone = gradients(TwoStream(discrepancy=1.0), state, ALL, batch(few=0))
    assert float(alone["target.head.weight"].abs().max()) == 0
    assert float(alone["target.body.1.weight"].abs().max()) > 0
    both = gradients(TwoStream(discrepancy=1.0, related=1.0), state, ALL, batch(few=0))
    assert float(both["target.head.weight"].abs().max()) > 0


def test_only_untied_layers_are_related():
    state = apart()
    base, at = TwoStream(), batch()
    gaps = streams.gaps(state, PLAN)
    for mask in streams.masks(3):
        more = TwoStream(related=2.0, form="l2").loss(net(), PLAN, state, mask, at)
        rise = more - base.loss(net(), PLAN, state, mask, at)
        torch.testing.assert_close(rise, 2 * (gaps * mask).sum(), rtol=1e-9, atol=1e-12)


def test_a_frozen_source_stands_still_and_its_loss_says_nothing():
    grads = gradients(TwoStream(frozen=True, related=1.0, discrepancy=1.0), apart(), torch.tensor([True, False, True]))
    assert all(float(g.abs().max()) == 0 for n, g in grads.items() if n.startswith("source."))
    assert float(grads["scale.body.1"].abs()) > 0
    assert float(grads["target.body.1.weight"].abs().max()) > 0
    loss = TwoStream(frozen=True).loss(net(), PLAN, apart(), ALL, batch())
    own = twostream._answer(net(), streams.target(apart(), PLAN, ALL), batch().x_few)
    assert torch.equal(loss, losses.cross_entropy(own, batch().y_few))


def test_unit_features_do_not_feel_their_scale():
    f, g = (torch.rand(5, 4, generator=rng.stream(i), dtype=FLOAT) for i in range(2))
    assert float(TwoStream().distance(3 * f, 0.1 * g)) == pytest.approx(float(TwoStream().distance(f, g)), rel=1e-9)
    raw = TwoStream(unit=False, bandwidths=(1.0,))
    assert torch.equal(raw.distance(f, g), losses.mmd(f, g, 1.0))


def test_reversed_gradients_are_the_negative_and_the_numbers_stay():
    h = torch.randn(4, 3, generator=rng.stream(0), dtype=FLOAT, requires_grad=True)
    turned = twostream.reverse(h, 0.7)
    assert torch.equal(turned, h)
    come = torch.randn(4, 3, generator=rng.stream(1), dtype=FLOAT)
    (turned * come).sum().backward()
    torch.testing.assert_close(h.grad, -0.7 * come, rtol=1e-12, atol=0)


def test_the_critic_descends_and_the_features_climb():
    """One loss, two directions: the critic gets its own gradient, the features -reversal times theirs."""
    state = critic(apart())
    at, strength = batch(few=0), 0.4
    grads = gradients(TwoStream(reversal=strength), state, ALL, at)
    plain = gradients(TwoStream(), state, ALL, at)
    leaf = {n: w.clone().requires_grad_() for n, w in state.items()}
    own, other = streams.source(leaf, PLAN), streams.target(leaf, PLAN, ALL)
    z = torch.cat([twostream.critic(twostream.features(net(), w, x), leaf)
                   for w, x in ((own, at.x), (other, at.x_target))])  # fmt: skip
    where = torch.tensor([0.0] * 7 + [1.0] * 8, dtype=FLOAT)
    loss = -(where * F.logsigmoid(z) + (1 - where) * F.logsigmoid(-z)).mean()
    names = ["critic.out.weight", "critic.in.bias", "target.body.1.weight", "source.body.3.weight"]
    told = dict(zip(names, torch.autograd.grad(loss, [leaf[n] for n in names]), strict=True))
    for n in names[:2]:
        torch.testing.assert_close(grads[n], told[n], rtol=1e-9, atol=1e-14)
    for n in names[2:]:
        torch.testing.assert_close(grads[n] - plain[n], -strength * told[n], rtol=1e-8, atol=1e-14)


# Training


def started(seeds):
    return [streams.begin(weights(s), PLAN) for s in seeds]


def test_pairs_side_by_side_are_each_alone():
    seeds, masks = [0, 0, 1], streams.masks(3)[[0, 5, 7]]
    objective, how = TwoStream(related=0.1, discrepancy=0.5), How(5, 8, 4)
    own = {s: domains(s) for s in (0, 1)}
    ended = twostream.train(net(), objective, started(seeds), masks, [own[s] for s in seeds], seeds, how)
    for i, s in enumerate(seeds):
        (alone,) = twostream.train(net(), objective, started([s]), masks[i : i + 1], [own[s]], [s], how)
        for n, w in alone.items():
            torch.testing.assert_close(ended[i][n], w, rtol=1e-9, atol=1e-12)
    assert not torch.equal(ended[0]["source.head.weight"], started([0])[0]["source.head.weight"])


def test_training_is_plain_pytorch_with_adadelta():
    how, d = How(4, 8, 4), domains()
    mask = torch.tensor([True, False, True])
    objective = TwoStream(related=0.1, discrepancy=0.5)
    (ended,) = twostream.train(net(), objective, started([0]), mask[None], [d], [0], how)
    state = {n: w.clone().requires_grad_() for n, w in started([0])[0].items()}
    optimiser = torch.optim.Adadelta(state.values(), lr=1.0)
    draws = rng.stream(0, "adapt", "batches")
    rows = [torch.randint(n, (4, b), generator=draws) for n, b in ((30, 8), (20, 8), (6, 4))]
    for step, (i, j, k) in enumerate(zip(*rows, strict=True)):
        optimiser.param_groups[0]["lr"] = 0.5 + 0.5 * math.cos(math.pi * step / 4)
        at = Batch(d.x[i], d.y[i], d.x_target[j], d.x_few[k], d.y_few[k])
        optimiser.zero_grad()
        objective.loss(net(), PLAN, state, mask, at).backward()
        optimiser.step()
    for n, w in state.items():
        torch.testing.assert_close(ended[n], w.detach(), rtol=1e-9, atol=1e-12)


def test_training_leaves_what_it_is_given_and_idle_weights_alone():
    first = started([0])
    kept = {n: w.clone() for n, w in first[0].items()}
    mask = torch.tensor([[True, False, False]])
    (ended,) = twostream.train(net(), TwoStream(related=1.0), first, mask, [domains()], [0], How(3, 8, 4))
    assert all(torch.equal(first[0][n], w) for n, w in kept.items())
    for n in ("target.body.3.weight", "target.head.bias", "scale.head", "shift.body.3"):
        assert torch.equal(ended[n], kept[n])
    for n in ("target.body.1.weight", "source.head.weight", "scale.body.1", "shift.body.1"):
        assert not torch.equal(ended[n], kept[n])


def test_training_without_target_labels_works_and_batches_do_not_depend_on_the_objective():
    d = domains(few=0)
    mask = ALL[None]
    (ended,) = twostream.train(net(), TwoStream(discrepancy=1.0), started([0]), mask, [d], [0], How(3, 8, 4))
    assert require.all_finite(ended.values())
    (plain,) = twostream.train(net(), TwoStream(), started([0]), mask, [d], [0], How(3, 8, 4, Adam(0.01)))
    (with_labels,) = twostream.train(
        net(), TwoStream(), started([0]), mask, [domains()._replace(x=d.x, y=d.y)], [0], How(3, 8, 4, Adam(0.01))
    )
    assert torch.equal(plain["source.head.weight"], with_labels["source.head.weight"])


def test_divergence_names_the_seed():
    state = started([0, 7])
    state[1]["source.head.bias"] = state[1]["source.head.bias"] * float("nan")
    with pytest.raises(require.NotFinite, match="diverged for the seeds 7"):
        twostream.train(net(), TwoStream(), state, NONE.expand(2, 3), [domains()] * 2, [0, 7], How(1, 4, 4))


def test_the_distance_by_which_masks_are_chosen_needs_no_labels_and_no_scale():
    d, state = domains(), apart()
    found = twostream.discrepancy(net(), state, ALL, d.x, d.x_target)
    f = twostream.features(net(), streams.source(state, PLAN), d.x)
    g = twostream.features(net(), streams.target(state, PLAN, ALL), d.x_target)
    f, g = (h / h.norm(dim=1, keepdim=True).clamp(min=1e-12) for h in (f, g))
    assert found == pytest.approx(sum(float(losses.mmd(f, g, b)) for b in twostream.BANDWIDTHS), rel=1e-9)
    larger = dict(state)
    for n in ("source.body.3.weight", "source.body.3.bias"):
        larger[n] = 5 * state[n]
    assert twostream.discrepancy(net(), larger, ALL, d.x, d.x_target) == pytest.approx(found, rel=1e-9)


def test_each_stream_answers_for_its_domain():
    state, x = apart(), batch().x
    assert torch.equal(
        twostream.logits(net(), state, ALL, x, "source"), twostream._answer(net(), streams.source(state, PLAN), x)
    )
    assert not torch.equal(twostream.logits(net(), state, ALL, x), twostream.logits(net(), state, NONE, x))
    with pytest.raises(ValueError, match="domain must be 'source' or 'target'"):
        twostream.logits(net(), state, ALL, x, "other")


def test_nonsense_is_refused():
    for name in ("related", "discrepancy", "reversal"):
        for wrong in (-0.1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{name} must be"):
                TwoStream(**{name: wrong})
    with pytest.raises(ValueError, match="form must be 'l2' or 'exp'"):
        TwoStream(form="l1")
    with pytest.raises(ValueError, match="bandwidths: at least one"):
        TwoStream(bandwidths=())
    for name, wrong in (("steps", -1), ("batch", 1), ("few", 0)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            How(**{name: wrong})
    with pytest.raises(ValueError, match="most must be"):
        streams.regulariser(torch.ones(1), "exp", 0.0)
    with pytest.raises(ValueError, match="count must be"):
        streams.masks(0)
    with pytest.raises(ValueError, match=r"differing in head.bias"):
        streams.begin({n: w for n, w in weights().items() if n != "head.bias"}, PLAN)
    with pytest.raises(ValueError, match="weights: 20 of"):
        streams.begin(weights() | {"body.3.weight": torch.full((4, 5), float("nan"), dtype=FLOAT)}, PLAN)
    with pytest.raises(ValueError, match="as many weights"):
        streams.fitted(torch.ones(3), torch.ones(4))
    with pytest.raises(ValueError, match="one number"):
        streams.fitted(torch.ones(3), torch.rand(3))
    with pytest.raises(ValueError, match="as many of each"):
        twostream.train(net(), TwoStream(), started([0]), NONE[None], [domains()], [0, 1], How(1))
    with pytest.raises(ValueError, match=r"untied: expected bool \[1, 3\]"):
        twostream.train(net(), TwoStream(), started([0]), NONE[None].long(), [domains()], [0], How(1))
    with pytest.raises(ValueError, match="some have labelled target samples and some have none"):
        twostream.train(
            net(), TwoStream(), started([0, 1]), NONE.expand(2, 3), [domains(), domains(few=0)], [0, 1], How(1)
        )


# Domains


def test_no_digit_stands_in_two_parts_and_classes_are_even():
    d = shifts.digits("unchanged", 3, source=400, target=300, few=30, test=200)
    parts = [d.x, d.x_target, d.x_few, d.x_test]
    assert [len(p) for p in parts] == [400, 300, 30, 200]
    rows = torch.cat(parts).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert d.y_few.bincount().tolist() == [3] * 10
    assert max(d.y.bincount()) - min(d.y.bincount()) <= 2
    other = shifts.digits("unchanged", 4, source=400, target=300, few=30, test=200)
    assert not torch.equal(d.x, other.x)
    again = shifts.digits("faint", 3, source=400, target=300, few=30, test=200)
    assert torch.equal(d.x, again.x)
    torch.testing.assert_close(again.x_test, 0.5 + 0.3 * d.x_test)


def test_changes_are_what_they_say():
    draws, x = rng.stream(0), torch.rand(3, 1, 8, 8, generator=rng.stream(1), dtype=FLOAT)
    assert torch.equal(shifts.inverted(x, draws), 1 - x)
    torch.testing.assert_close(shifts.turned(x, draws, 90.0), x.rot90(1, (2, 3)), rtol=1e-6, atol=1e-6)
    assert torch.equal(shifts.quarter(x, draws)[..., 0, :], x[..., :, -1]), "the right column is on top"
    torch.testing.assert_close(shifts.quarter(x, draws), shifts.turned(x, draws, 90.0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(shifts.turned(x, draws, 0.0), x, rtol=1e-6, atol=1e-6)
    mixed = shifts.shuffled(x, draws)
    assert torch.equal(mixed.flatten(1).sort().values, x.flatten(1).sort().values)
    assert not torch.equal(mixed, x)
    flat = torch.ones(400, 1, 8, 8, dtype=FLOAT)
    soft = shifts.blurred(flat, draws)[..., 1:-1, 1:-1]
    assert float(soft.mean()) == pytest.approx(1, abs=0.01)
    assert float(soft.std()) == pytest.approx(0.1, rel=0.05)
    labels = [shifts.digits(c, 0) for c in ("unchanged", "relabelled")]
    assert torch.equal(labels[0].x_test, labels[1].x_test)
    assert torch.equal((labels[0].y_test + 1) % 10, labels[1].y_test)
    assert torch.equal(labels[0].y, labels[1].y)


def test_two_domains_by_name_are_apart_and_judged_by_test_images():
    d = shifts.pair("digits", "inverted", 0, source=200, target=100, few=20, test=50, size=8)
    assert [len(t) for t in d] == [200, 200, 100, 20, 20, 50, 50]
    assert float(d.x.mean()) < 0 < float(d.x_test.mean())
    with pytest.raises(ValueError, match="expected two domains"):
        shifts.pair("digits", "digits", 0)


@pytest.mark.parametrize(
    ("change", "numbers", "message"),
    [
        ("faint", {"source": 0}, "source must be a whole number of at least 1"),
        ("faint", {"few": -1}, "few must be a whole number of at least 0"),
        ("faint", {"target": 1.5}, "target must be"),
        ("faint", {"test": 5000}, "there are 1797 digits"),
        ("darker", {}, "change must be 'faint' or"),
        ("faint+darker", {}, "change must be"),
    ],
)
def test_domains_that_cannot_be_are_refused(change, numbers, message):
    with pytest.raises(ValueError, match=message):
        shifts.digits(change, 0, **numbers)


def test_few_labels_of_a_pair_are_of_training_samples_and_those_that_judge_are_not(monkeypatch):
    def numbered(names, train, test, **_):
        first = {"one": 0, "two": 1000}[names[0]]
        parts = (torch.arange(first, first + train), torch.arange(first + 500, first + 500 + test))
        return [shifts.domains.Digits(names, n.view(-1, 1, 1, 1).double(), n, []) for n in parts]

    monkeypatch.setattr(shifts.domains, "digits", numbered)
    made = shifts.pair("one", "two", 0, source=4, target=3, few=2, test=2, dtype=torch.float64)
    assert made.x.flatten().tolist() == made.y.tolist() == [0, 1, 2, 3]
    assert made.x_target.flatten().tolist() == [1000, 1001, 1002]
    assert made.x_few.flatten().tolist() == made.y_few.tolist() == [1003, 1004]
    assert made.x_test.flatten().tolist() == made.y_test.tolist() == [1500, 1501]
