"""Dataset distillation: the gradient through all steps, what is sent, and what each part is when it is turned off."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedlib import condense, prescribed, rng
from fedlib.condense import Condensation, Source, distil, in_turn, outer_loss
from fedlib.ledger import payload_bytes
from fedlib.models import MLP, LeNet5
from fedlib.models.net import Net
from fedlib.prescribed import Distilled, follow, one_after_another

HOW = Condensation(batches=2, images=4, passes=2, rate=0.3, updates=5, real_batch=8)
SMALL = Condensation(batches=2, images=3, passes=1, updates=2, real_batch=4)


@pytest.fixture
def net():
    return Net(rng.build(lambda: MLP(6, (5,), 3), 0, "init"), dtype=torch.float64)


def source(net, k=0, n=20, **options):
    draws = rng.stream(k, "samples")
    x = torch.randn(n, 6, generator=draws, dtype=torch.float64)
    return Source(x, x[:, :3].argmax(1), 3, net.initial(), ("test", k), **options)


def fresh(update):
    return Net(rng.build(lambda: MLP(6, (5,), 3), "hard", update), dtype=torch.float64).initial()


def gap(a, b):
    return max(float((s - t).abs().max()) for s, t in zip(a, b, strict=True))


def same(a, b):
    return all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


@pytest.mark.parametrize("part", Distilled._fields)
def test_the_outer_gradient_equals_central_differences(net, part):
    own = source(net)
    data = distil(net, [own], replace(HOW, updates=2))[0]  # not where labels are one-hot

    def loss(value):
        return outer_loss(net, data._replace(**{part: value}), own.start, own.x, own.y)

    value, step = getattr(data, part), 1e-6
    leaf = value.clone().requires_grad_()
    slope = torch.autograd.grad(loss(leaf), leaf)[0]
    for place in range(0, value.numel(), 3):
        shift = torch.zeros_like(value).flatten()
        shift[place] = step
        shift = shift.reshape(value.shape)
        difference = (loss(value + shift) - loss(value - shift)) / (2 * step)
        assert float(slope.flatten()[place]) == pytest.approx(float(difference), rel=1e-4, abs=1e-9)


def test_the_gradient_of_the_distilled_loss_itself_is_another(net):
    """The mistake of a public version: the gradient left over from training on the distilled data."""
    own = source(net)
    data = distil(net, [own], replace(HOW, updates=2))[0]
    images = data.images.clone().requires_grad_()
    true = torch.autograd.grad(outer_loss(net, data._replace(images=images), own.start, own.x, own.y), images)[0]
    end = follow(net, own.start, data.prescription())
    left_over = prescribed.soft_cross_entropy(net(end, images.flatten(0, 1)), data.labels.flatten(0, 1))
    wrong = torch.autograd.grad(left_over, images)[0]
    assert float(torch.cosine_similarity(true.flatten(), wrong.flatten(), dim=0)) < 0.9


def test_the_steps_are_those_of_plain_gradient_descent(net):
    own = source(net)
    data = distil(net, [own], HOW)[0]
    module = MLP(6, (5,), 3).double()
    module.load_state_dict(own.start)
    rates = nn.functional.softplus(data.rates)
    for m, rate in enumerate(rates.tolist()):
        x, soft = data.images[m % 2], data.labels[m % 2].softmax(-1)
        module.zero_grad()
        nn.functional.cross_entropy(module(x), soft).backward()
        with torch.no_grad():
            for w in module.parameters():
                w -= rate * w.grad
    reached = follow(net, own.start, data.prescription())
    assert max(float((w.detach() - reached[n]).abs().max()) for n, w in module.named_parameters()) < 1e-12


def test_rates_of_zero_leave_the_weights_and_rates_are_never_negative(net):
    own = source(net)
    data = own.first(HOW)
    still = data._replace(rates=torch.full_like(data.rates, -1e4))
    reached = follow(net, own.start, still.prescription())
    assert all(torch.equal(reached[n], w) for n, w in own.start.items())
    assert torch.allclose(data.prescription().rates, torch.full_like(data.rates, HOW.rate))
    wild = data._replace(rates=torch.linspace(-9, 9, len(data.rates), dtype=torch.float64))
    assert (wild.prescription().rates > 0).all()


def test_data_are_learnt(net):
    own = source(net, n=60)
    how = replace(HOW, updates=60)
    before, after = own.first(how), distil(net, [own], how)[0]
    assert float(outer_loss(net, after, own.start, own.x, own.y)) < 0.9 * float(
        outer_loss(net, before, own.start, own.x, own.y)
    )
    assert all(not torch.equal(b, a) for b, a in zip(before, after, strict=True))


def test_the_outer_steps_are_those_of_adam_written_by_hand(net):
    """A first moment of 0.5, gradients clipped jointly, a rate that is halved, batches drawn with replacement."""
    how, own = replace(HOW, halve=2, max_norm=0.05, real_batch=5), source(net)
    data = own.first(how)._asdict()
    assert float(data["labels"].max()) == 5
    first, second = ({n: torch.zeros_like(t) for n, t in data.items()} for _ in range(2))
    draws = own.draws("batches")
    for update in range(5):
        rows = torch.randint(20, (5,), generator=draws)
        leaves = {n: t.clone().requires_grad_() for n, t in data.items()}
        loss = outer_loss(net, Distilled(**leaves), own.start, own.x[rows], own.y[rows])
        grads = torch.autograd.grad(loss, list(leaves.values()))
        norm = sum(float(g.square().sum()) for g in grads) ** 0.5
        assert norm > 0.05
        for n, g in zip(data, grads, strict=True):
            g = g * 0.05 / (norm + 1e-6)
            first[n] = 0.5 * first[n] + 0.5 * g
            second[n] = 0.999 * second[n] + 0.001 * g**2
            mean, square = first[n] / (1 - 0.5 ** (update + 1)), second[n] / (1 - 0.999 ** (update + 1))
            data[n] = data[n] - 0.05 * 0.5 ** (update // 2) * mean / (square.sqrt() + 1e-8)
    assert gap(distil(net, [own], how)[0], data.values()) < 1e-9


def test_one_update_follows_the_gradient_through_all_steps(net):
    """Unrolled here by hand; through the last step only, it would point elsewhere."""
    how, own = replace(HOW, updates=1, max_norm=None), source(net)
    first = own.first(how)
    rows = torch.randint(20, (8,), generator=own.draws("batches"))
    leaves = Distilled(*(t.clone().requires_grad_() for t in first))

    def slopes(learnt):
        """Gradients of the loss at the end, where the steps from ``learnt`` on are differentiated."""
        weights = {n: w.clone().requires_grad_() for n, w in own.start.items()}
        for m in range(4):
            images, labels = leaves.images[m % 2], leaves.labels[m % 2].softmax(-1)
            loss = nn.functional.cross_entropy(torch.func.functional_call(net.module, weights, images), labels)
            grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            rate = nn.functional.softplus(leaves.rates[m])
            weights = {n: w - rate * g for (n, w), g in zip(weights.items(), grads, strict=True)}
            if m < learnt:
                weights = {n: w.detach().requires_grad_() for n, w in weights.items()}
        end = torch.func.functional_call(net.module, weights, own.x[rows])
        loss = nn.functional.cross_entropy(end, own.y[rows])
        return torch.autograd.grad(loss, list(leaves), materialize_grads=True)

    def moved(grads):  # Adam's first step: both moments without their bias
        return [t - how.outer_lr * g / (g.abs() + 1e-8) for t, g in zip(first, grads, strict=True)]

    found = distil(net, [own], how)[0]
    assert gap(found, moved(slopes(0))) < 1e-9
    assert gap(found, moved(slopes(3))) > how.outer_lr


@pytest.mark.parametrize("part", Distilled._fields)
def test_what_is_fixed_stays_as_it_was(net, part):
    own = source(net)
    kept = distil(net, [own], replace(HOW, fixed=(part,)))[0]
    for name, first, last in zip(Distilled._fields, own.first(HOW), kept, strict=True):
        assert torch.equal(first, last) == (name == part)


def test_many_sources_at_once_are_each_alone(net):
    how = replace(HOW, reset="soft", spread=0.1, masked=0.25)
    own = [source(net, k, n=20 + k) for k in range(3)]
    for alone, together in zip(own, distil(net, own, how), strict=True):
        assert gap(distil(net, [alone], how)[0], together) < 1e-10


def test_convolutions_one_by_one():
    net = Net(rng.build(LeNet5, 0, "init"), dtype=torch.float64)
    draws = rng.stream("images")
    x, y = torch.randn(8, 1, 28, 28, generator=draws, dtype=torch.float64), torch.arange(8) % 10
    own = [Source(x, y, 10, net.initial(), (k,)) for k in range(2)]
    found = distil(net, own, SMALL)
    together = condense.distil_all(net, own, SMALL)
    assert max(gap(a, b) for a, b in zip(found, together, strict=True)) < 1e-10


def test_resets_and_masks_that_are_off_change_no_bit(net):
    own, plain = source(net, fresh=fresh), replace(HOW)
    expected = distil(net, [own], plain)[0]
    for off in ({"reset": "soft", "spread": 0.0}, {"masked": 0.0}, {"reset": "none", "spread": 0.5}):
        assert same(distil(net, [own], replace(HOW, **off))[0], expected)
    for on in ({"reset": "soft", "spread": 0.1}, {"masked": 0.5}, {"reset": "hard"}):
        assert not same(distil(net, [own], replace(HOW, **on))[0], expected)


def test_a_soft_reset_starts_around_the_weights_and_a_hard_one_anew(net):
    own = source(net, fresh=fresh)
    common, streams = prescribed.stacked([own.start]), [{"resets": own.draws("resets")}]
    starts = [condense._starts([own], common, streams, replace(HOW, reset="soft", spread=0.2), u) for u in range(200)]
    moved = torch.cat([(s[n] - common[n]).flatten() for s in starts for n in s])
    assert float(moved.mean()) == pytest.approx(0, abs=0.005)
    assert float(moved.std()) == pytest.approx(0.2, rel=0.02)
    hard = condense._starts([own], common, streams, replace(HOW, reset="hard"), 7)
    assert all(torch.equal(hard[n][0], w) for n, w in fresh(7).items())


def test_masks_hide_that_share_of_the_images_anew_in_each_update(net):
    own = source(net)
    images = torch.full((1, 5, 4, 6), 9.0, dtype=torch.float64)
    streams = [{use: own.draws(use) for use in ("masks", "noise")}]
    first, second = (condense._masked(images, streams, replace(HOW, masked=0.3)) for _ in range(2))
    for seen in (first, second):
        assert int((seen != images).all(-1).sum()) == int((seen != images).any(-1).sum()) == 6  # 0.3 of 20
    assert not torch.equal(first, second)


def test_a_hidden_image_is_not_learnt_where_all_are_hidden(net):
    own = source(net)
    data = distil(net, [own], replace(HOW, masked=1.0))[0]
    assert torch.equal(data.images, own.first(HOW).images)


def test_one_client_in_turn_is_the_parallel_protocol_is_plain_distillation(net):
    own = source(net)
    assert same(in_turn(net, [[own]], HOW)[0][0], distil(net, [own], HOW)[0])
    data = distil(net, [own], HOW)
    for alternating in (False, True):
        assert same(one_after_another(data, alternating), data[0].prescription())


def test_in_turn_each_client_starts_where_the_others_data_lead(net):
    own = [source(net, k) for k in range(3)]
    first, second, third = in_turn(net, [own], HOW)[0]
    here = follow(net, own[0].start, one_after_another([first, second]))
    alone = distil(net, [replace(own[2], start=here)], HOW)[0]
    assert gap(alone, third) < 1e-10
    assert gap(distil(net, [own[2]], HOW)[0], third) > 1e-3


def test_in_turn_a_hard_reset_takes_fresh_weights_where_the_others_data_lead(net):
    """Fresh weights alone would be the parallel protocol: nobody would know of those before."""
    own, how = [source(net, k, fresh=fresh) for k in range(2)], replace(HOW, reset="hard")
    first, second = in_turn(net, [own], how)[0]
    assert same(first, distil(net, [own[0]], how)[0])

    def arrived(update):
        return follow(net, fresh(update), first.prescription())

    assert gap(distil(net, [replace(own[1], fresh=arrived)], how)[0], second) < 1e-10
    assert gap(distil(net, [own[1]], how)[0], second) > 1e-3


def test_order_of_the_steps(net):
    a, b = distil(net, [source(net, 0), source(net, 1)], HOW)
    blocks, woven = one_after_another([a, b]), one_after_another([a, b], alternating=True)
    assert torch.equal(blocks.x, torch.cat([a.images, a.images, b.images, b.images]))
    assert torch.equal(woven.x[:4], torch.stack([a.images[0], b.images[0], a.images[1], b.images[1]]))
    assert torch.equal(woven.rates[::2], a.prescription().rates)
    half = follow(net, net.initial(), blocks, 4)
    whole = follow(net, net.initial(), a.prescription())
    assert all(torch.equal(half[n], whole[n]) for n in half)


def test_bytes_are_those_of_images_labels_and_rates(net):
    data = distil(net, [source(net)], HOW)[0]
    numbers = HOW.batches * HOW.images * (6 + 3) + HOW.batches * HOW.passes
    assert payload_bytes(data.payload()) == 8 * numbers


def test_labels_begin_with_the_classes_that_are_there(net):
    own = source(net)
    only = replace(own, y=torch.where(own.y == 1, 2, own.y))
    assert set(only.first(HOW).labels.argmax(-1).flatten().tolist()) == {0, 2}


def test_networks_whose_training_is_no_function_are_refused():
    for layer, word in ((nn.BatchNorm1d(6), "buffers"), (nn.Dropout(0.5), "dropout")):
        net = Net(nn.Sequential(layer, nn.Linear(6, 3)), dtype=torch.float64)
        with pytest.raises(ValueError, match=word):
            distil(net, [source(net)], HOW)


def test_a_hard_reset_needs_fresh_weights(net):
    with pytest.raises(ValueError, match="fresh"):
        distil(net, [source(net)], replace(HOW, reset="hard"))


@pytest.mark.parametrize(
    "wrong",
    [{"batches": 0}, {"images": 0}, {"passes": 0}, {"rate": 0.0}, {"outer_lr": -1.0}, {"masked": 1.5}, {"spread": -0.1},
     {"reset": "warm"}, {"fixed": ("x",)}, {"halve": 0}, {"max_norm": 0.0}],
)  # fmt: skip
def test_numbers_that_cannot_work(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Condensation(**wrong)


def test_what_diverges_is_said(net):
    with pytest.raises(ArithmeticError):
        distil(net, [source(net)], replace(HOW, rate=1e300, max_norm=None))
