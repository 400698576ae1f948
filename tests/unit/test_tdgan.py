"""TDGAN: a stage against plain PyTorch in float64, its identities, what crosses the wire; and the traps, shown."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedlib import rng
from fedlib.abreast import Abreast, Spectral, abreast
from fedlib.models.conditional import Judge, Maker, MapMaker, PatchJudge
from fedlib.require import NotFinite
from fedlib.tdgan import TDGAN, Centre, Recipe, digesting, reminding, stage_bytes, telling

FLOAT, SEEDS, CLASSES, SIZE = torch.float64, (3, 5), 4, 6
RECIPE = Recipe(steps=4, batch_size=5, noise=2, lr=0.01)
MAKER, JUDGE = partial(Maker, CLASSES + 2, SIZE, (7,)), partial(Judge, CLASSES + SIZE, (5, 3))
DOUBLE = {"dtype": FLOAT}


def centre(number, classes, n=9, seeds=SEEDS):
    """Images of some classes, for each seed others."""
    draws = rng.stream("centre", number)
    labels = torch.tensor(classes)[torch.randint(len(classes), (len(seeds), n), generator=draws)]
    images = torch.randn(len(seeds), n, SIZE, generator=draws, dtype=FLOAT).tanh()
    return Centre(F.one_hot(labels, CLASSES).to(FLOAT), images)


FIRST, SECOND, THIRD = centre(0, (0, 1)), centre(1, (2,), 7), centre(2, (3,))


def made(remind=(0.5,), kind=TDGAN, recipe=RECIPE, seeds=SEEDS):
    return kind(MAKER, JUDGE, recipe, seeds, remind, **DOUBLE)


def weights(way):
    return [w.detach().clone() for w in way.generator.weights]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Plain:
    """One run in plain PyTorch, client code and all: modules, losses of logits, Adam, the power method by hand."""

    def __init__(self, row, remind, recipe=RECIPE):
        self.row, self.seed, self.remind, self.recipe = row, SEEDS[row], remind, recipe
        self.generator = rng.build(MAKER, self.seed, "generator").double()
        self.past, self.stages = [], 0

    def logits(self, judge, memory, x):
        for i, layer in enumerate(m for m in judge.layers if isinstance(m, nn.Linear)):
            w = layer.weight
            with torch.no_grad():
                v, steps = memory.get(i, (torch.linspace(0, 3, w.shape[1], dtype=FLOAT).cos(), 10))
                for _ in range(steps):
                    u = w @ v / (w @ v).norm()
                    v = w.T @ u / (w.T @ u).norm()
                memory[i] = v, 1
            x = F.linear(x, w / (u @ w @ v), layer.bias)
            x = F.leaky_relu(x, 0.2) if i < 2 else x
        return x

    def stage(self, *centres):
        r, adam = self.recipe, partial(torch.optim.Adam, lr=self.recipe.lr, betas=(0.5, 0.999))
        before = rng.build(MAKER, self.seed, "generator").double()
        before.load_state_dict(self.generator.state_dict())
        judges = [rng.build(JUDGE, self.seed, f"judge {self.stages} {k}").double() for k in range(len(centres))]
        memories, own = [{} for _ in centres], [adam(judge.parameters()) for judge in judges]
        server = adam(self.generator.parameters())
        draws = [rng.stream(self.seed, "stage", self.stages, "centre", k) for k in range(len(centres))]
        earlier = rng.stream(self.seed, "stage", self.stages, "earlier centres")
        shares = [len(c.images[0]) for c in centres]
        for _ in range(r.steps):
            total = torch.zeros((), dtype=FLOAT)
            for k, (c, judge) in enumerate(zip(centres, judges, strict=True)):
                rows = torch.randint(len(c.images[0]), (r.batch_size,), generator=draws[k])
                x, y = c.conditions[self.row, rows], c.images[self.row, rows]
                fake = self.generator(
                    torch.cat([x, torch.randn(r.batch_size, r.noise, generator=draws[k]).double()], 1)
                )
                both = self.logits(judge, memories[k], torch.cat([torch.cat([x, x]), torch.cat([y, fake.detach()])], 1))
                target = torch.cat([torch.ones(r.batch_size, 1), torch.zeros(r.batch_size, 1)]).double()
                own[k].zero_grad()
                (2 * F.binary_cross_entropy_with_logits(both, target)).backward()
                own[k].step()
                z = self.logits(judge, memories[k], torch.cat([x, fake], 1))
                loss = F.binary_cross_entropy_with_logits(z, torch.ones_like(z)) + r.paired * F.l1_loss(fake, y)
                total = total + shares[k] / sum(shares) * loss
            if self.past:
                rows = [torch.randint(len(x), (r.batch_size,), generator=earlier) for x in self.past]
                noise = torch.randn(len(self.past) * r.batch_size, r.noise, generator=earlier).double()
                for x, i, u in zip(self.past, rows, noise.split(r.batch_size), strict=True):
                    given = torch.cat([x[i], u], 1)
                    total = total + self.remind * F.mse_loss(self.generator(given), before(given).detach())
            server.zero_grad()
            total.backward()
            server.step()
        self.past += [c.conditions[self.row] for c in centres]
        self.stages += 1


# Losses


def test_losses_are_cross_entropies_of_real_and_generated():
    real, generated = torch.randn(2, 3, 5, 1, dtype=FLOAT, generator=rng.stream("logits"))
    for row in range(3):
        ones, zeros = torch.ones(5, 1, dtype=FLOAT), torch.zeros(5, 1, dtype=FLOAT)
        bce = F.binary_cross_entropy_with_logits
        torch.testing.assert_close(telling(real, generated)[row], bce(real[row], ones) + bce(generated[row], zeros))
        torch.testing.assert_close(digesting(generated)[row], bce(generated[row], ones))


def test_digesting_pulls_hardest_where_the_judge_is_sure():
    """The printed form log(1 - D) has hardly any gradient there: generators would not begin to learn."""
    z = torch.full((1, 1), -8.0, dtype=FLOAT, requires_grad=True)
    (pull,) = torch.autograd.grad(digesting(z).sum(), z)
    (printed,) = torch.autograd.grad(F.logsigmoid(-z).sum(), z)
    assert pull < -0.99
    assert abs(printed) < 0.001


def test_reminding_is_a_squared_distance_that_moves_the_new_generator_alone():
    now, before = (torch.randn(2, 3, 4, dtype=FLOAT, generator=rng.stream(n)).requires_grad_() for n in (1, 2))
    loss = reminding(now, before)
    torch.testing.assert_close(loss, ((now - before) ** 2).mean((1, 2)))
    loss.sum().backward()
    torch.testing.assert_close(now.grad, 2 * (now - before).detach() / 12)
    assert before.grad is None
    with pytest.raises(ValueError, match=r"one shape, got \[2, 3, 4\] and \[2, 3\]"):
        reminding(now, before[..., 0])


# Stages


@pytest.mark.parametrize("paired", [0.0, 2.0])
def test_stages_are_those_of_plain_pytorch(paired):
    """Three stages, the last with two centres of different size at once."""
    recipe = Recipe(steps=4, batch_size=5, noise=2, lr=0.01, paired=paired)
    way = made((0.0, 0.5), recipe=recipe)
    for stage in ((FIRST,), (SECOND,), (THIRD, SECOND)):
        way.stage(*stage)
    for s in range(2):
        for i, remind in enumerate((0.0, 0.5)):
            plain = Plain(s, remind, recipe)
            for stage in ((FIRST,), (SECOND,), (THIRD, SECOND)):
                plain.stage(*stage)
            for w, p in zip(way.generator.weights, plain.generator.parameters(), strict=True):
                torch.testing.assert_close(w[2 * s + i], p, rtol=1e-9, atol=1e-11)


def test_without_reminding_it_is_fine_tuning_bit_for_bit():
    class Forgetful(TDGAN):
        def stage(self, *centres):
            self.past = []
            return super().stage(*centres)

    a, b, kept = made((0.0,)), made((3.0,), Forgetful), made((3.0,))
    for way in (a, b, kept):
        way.stage(FIRST)
        way.stage(SECOND)
    assert same(weights(a), weights(b))
    assert not same(weights(a), weights(kept))


def test_reminding_and_its_gradient_are_zero_at_the_first_step_of_a_stage():
    recipe = Recipe(steps=1, batch_size=5, noise=2, lr=0.01)
    way = made((0.0, 1e6), recipe=recipe)
    way.stage(FIRST)
    losses = way.stage(SECOND)
    assert torch.equal(losses["reminding"][0], torch.zeros(4, dtype=FLOAT))
    assert all(torch.equal(w[::2], w[1::2]) for w in weights(way))


def test_reminding_looks_at_conditions_of_earlier_centres_alone_and_adds_centres_up():
    seen = []

    class Watched(TDGAN):
        def compared(self, before, x, u, draws):
            loss = super().compared(before, x, u, draws)
            with torch.no_grad():
                both = [reminding(self.generator(g), before(g)) for g in torch.cat([x, u], 2).split(5, 1)]
            seen.append((x, loss.detach(), both))
            return loss

    way = made(kind=Watched)
    way.stage(FIRST)
    assert seen == []
    way.stage(SECOND)
    assert {int(c) for x, *_ in seen for c in x.argmax(-1).flatten()} <= {0, 1}
    seen.clear()
    losses = way.stage(THIRD)
    x, _, both = seen[-1]
    assert len(both) == 2
    assert {int(c) for c in x[:, :5].argmax(-1).flatten()} <= {0, 1}
    assert {int(c) for c in x[:, 5:].argmax(-1).flatten()} == {2}
    torch.testing.assert_close(losses["reminding"][-1], both[0] + both[1])


class Independent(TDGAN):
    """The wrong version: the old generator gets noise of its own."""

    def compared(self, before, x, u, draws):
        with torch.no_grad():
            target = before(torch.cat([x, self._noise(x, draws)], 2))
        return reminding(self.generator(torch.cat([x, u], 2)), target)


def diversity(way):
    x = torch.eye(CLASSES, dtype=FLOAT)[:2].repeat_interleave(200, 0).expand(2, -1, -1)
    return way.made(x).unflatten(1, (2, 200)).var(2).sum(-1).mean()


@pytest.mark.parametrize(("kind", "least", "most"), [(TDGAN, 0.8, 1.2), (Independent, 0.0, 0.5)])
def test_with_other_noise_for_each_generator_diversity_collapses(kind, least, most):
    """E |G(u) - G'(u')|^2 = |difference of means|^2 + both variances: least where G has none."""
    recipe = Recipe(steps=60, batch_size=16, noise=2, lr=0.05)
    way = made((100.0,), kind, recipe)
    way.generator.weights[0].data *= 3  # differs from noise to noise
    before = diversity(way)
    way.past, way.stages = [FIRST.conditions], 1
    way.stage(SECOND)
    assert least <= diversity(way) / before <= most


def test_a_judge_is_new_in_every_stage_and_the_generator_is_not():
    keys = []

    class Watched(TDGAN):
        def _judges(self, k):
            judges = super()._judges(k)
            keys.append([w.detach().clone() for w in judges.weights])
            return judges

    way = made(kind=Watched)
    way.stage(FIRST)
    after = weights(way)
    recipe = Recipe(steps=1, batch_size=5, noise=2, lr=1e-9)
    way.recipe = recipe
    way.stage(FIRST)
    assert not same(*keys)
    for w, now in zip(after, weights(way), strict=True):
        torch.testing.assert_close(w, now, rtol=0, atol=1e-8)


def test_runs_of_a_seed_are_paired_and_do_not_see_one_another():
    many, one = made((0.5, 2.0, 0.5)), made((2.0,))
    for way in (many, one):
        way.stage(FIRST)
        way.stage(SECOND)
    for w, alone in zip(weights(many), weights(one), strict=True):
        torch.testing.assert_close(w[::3], w[2::3], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(w[1::3], alone, rtol=1e-10, atol=1e-12)


# The wire


def test_no_image_leaves_a_centre_and_bytes_are_the_formula():
    way = made((0.0, 0.5))
    way.wire.end_round = lambda: None  # keep the messages
    way.stage(FIRST)
    messages = way.wire.messages
    assert {(m.name, m.direction, m.shape) for m in messages} == {
        ("conditions", "up", (9, CLASSES)),
        ("images", "down", (5, SIZE)),
        ("their conditions", "down", (5, CLASSES)),
        ("gradient of images", "up", (5, SIZE)),
    }
    assert sum(m.bytes for m in messages) == 4 * stage_bytes(FIRST, RECIPE, each=8)
    way.stage(SECOND)
    assert way.wire.total == 4 * (stage_bytes(FIRST, RECIPE, each=8) + stage_bytes(SECOND, RECIPE, each=8))


def test_steps_are_booked_one_by_one():
    way = made()
    way.stage(FIRST)
    assert way.wire.messages == []
    assert len(way.wire.ledger.up) == RECIPE.steps
    assert way.wire.total == 2 * stage_bytes(FIRST, RECIPE, each=8)


# Maps


def test_masks_to_images_with_patches_train_and_keep_their_shape():
    draws = rng.stream("maps")
    masks = (torch.rand(2, 6, 1, 8, 8, generator=draws) > 0.5).double()
    own = Centre(masks, torch.randn(2, 6, 1, 8, 8, generator=draws, dtype=FLOAT).tanh())
    recipe = Recipe(steps=2, batch_size=3, noise=1, paired=1.0)
    way = TDGAN(partial(MapMaker, 2, 1, 2, 1), partial(PatchJudge, 2, 4), recipe, SEEDS, [1.0], **DOUBLE)
    way.stage(own)
    losses = way.stage(own)
    assert way.made(masks).shape == (2, 6, 1, 8, 8)
    assert (losses["reminding"][1] > 0).all()


def test_made_images_depend_on_the_seed_the_key_and_the_noise():
    way, x = made(), FIRST.conditions[:, :1].expand(-1, 3, -1)
    one = way.made(x)
    assert torch.equal(one, way.made(x))
    assert not torch.equal(one, way.made(x, "others"))
    assert not torch.equal(one[:, 0], one[:, 1])


# Nonsense


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "much"])
@pytest.mark.parametrize("name", ["steps", "batch_size", "noise", "lr", "beta", "paired"])
def test_a_recipe_of_nonsense_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a "):
        Recipe(**{name: value})


@pytest.mark.parametrize("remind", [(-1.0,), (math.nan,), (0.5, math.inf)])
def test_lambda_is_a_number_from_zero_on(remind):
    with pytest.raises(ValueError, match="remind must be a finite number >= 0"):
        made(remind)


def test_nobody_and_nothing_are_refused():
    with pytest.raises(ValueError, match=r"one seed and one lambda at least are needed, got \[\] and \[0\.5\]"):
        made(seeds=())
    with pytest.raises(ValueError, match=r"got \[3, 5\] and \[\]"):
        made(())
    with pytest.raises(ValueError, match="a stage needs one centre at least"):
        made().stage()


def test_centres_of_nonsense_are_refused_by_number():
    bad = FIRST.images.clone()
    bad[1, 2, 0] = math.nan
    with pytest.raises(ValueError, match="centre 1: 1 of 180 numbers are NaN or infinite"):
        made().stage(FIRST, Centre(FIRST.conditions, bad))
    for x, y in ((FIRST.conditions[:1], FIRST.images[:1]), (FIRST.conditions[:, :0], FIRST.images[:, :0])):
        with pytest.raises(ValueError, match=r"centre 0: conditions .* of 2 seeds are needed"):
            made().stage(Centre(x, y))
    with pytest.raises(ValueError, match=r"centre 0: .* got \[2, 9, 4\] and \[2, 7, 6\]"):
        made().stage(Centre(FIRST.conditions, SECOND.images))


def test_a_generator_that_diverges_says_so():
    with pytest.raises((NotFinite, ValueError), match="NaN or infinite"):
        made(recipe=Recipe(steps=30, batch_size=5, noise=2, lr=1e308)).stage(FIRST)


# Copies abreast


def test_each_row_is_its_module():
    x = torch.randn(3, 5, CLASSES + 2, dtype=FLOAT, generator=rng.stream("x"))
    modules = [rng.build(MAKER, k).double() for k in range(3)]
    rows = Abreast(modules)(x)
    for row, one, own in zip(rows, modules, x, strict=True):
        torch.testing.assert_close(row, one(own), rtol=1e-12, atol=1e-14)
    every = Abreast([modules[0], modules[0], modules[1], modules[1]])(x[:2], 2)
    torch.testing.assert_close(every, rows[:2])


def test_what_is_frozen_stays_and_has_no_gradient():
    own = abreast(Abreast, MAKER, SEEDS, 2, "key", **DOUBLE)
    twin, x = own.frozen(), torch.ones(4, 1, CLASSES + 2, dtype=FLOAT)
    before = twin(x)
    assert not before.requires_grad
    with torch.no_grad():
        for w in own.weights:
            w += 1
    assert torch.equal(before, twin(x))
    assert not torch.equal(before, own(x))


@pytest.mark.parametrize("make", [JUDGE, partial(PatchJudge, 2, 4)])
def test_spectral_weights_have_norm_one_and_the_gradient_of_the_quotient(make):
    own = abreast(Spectral, make, SEEDS, 1, "key", **DOUBLE)
    for _ in range(300):
        found = own.effective()
    for w, normal in zip(own.weights, found, strict=True):
        if w.ndim > 2:
            norms = torch.linalg.matrix_norm(normal.flatten(2), 2)
            torch.testing.assert_close(norms, torch.ones(2, dtype=FLOAT), rtol=1e-6, atol=0)
            probe = torch.randn(w.shape, dtype=FLOAT, generator=rng.stream("probe"))
            (grad,) = torch.autograd.grad((normal * probe).sum(), w, retain_graph=True)
            exact = w / torch.linalg.matrix_norm(w.flatten(2), 2).view(-1, *[1] * (w.ndim - 1))
            (expected,) = torch.autograd.grad((exact * probe).sum(), w)
            torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(w, normal)


def test_the_power_method_goes_on_from_where_it_was():
    own = abreast(Spectral, JUDGE, SEEDS, 1, "key", **DOUBLE)
    name, w = own.names[0], own.weights[0].detach()
    first = [float(own._norm(name, w)[0]) for _ in range(30)]
    assert first[-1] > first[0]
    assert first[-1] <= float(torch.linalg.matrix_norm(w[0], 2)) * (1 + 1e-9)
