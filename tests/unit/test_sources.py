"""Sources of distillation data: identities in float64, and the mistakes of released code, which must fail here."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from federations import everything, federation, public, same
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fedlib import checkpoint, losses, rng, swa
from fedlib.algorithms import FedDF
from fedlib.distill import Distillation, distil
from fedlib.models import MLP, ResNet8
from fedlib.models.net import Net, clone
from fedlib.sources import (
    Adversarial,
    ConvGenerator,
    Given,
    Impressions,
    ImpressionsInTurn,
    MLPGenerator,
    SourcedFedDF,
    impressions as imp,
    noise,
)
from fedlib.sources.generator import disagreement
from fedlib.sources.server import Ensemble

F64 = torch.float64
CASES = settings(deadline=None, max_examples=30)
HOW = Distillation(steps=4, batch_size=6)
SMALL = {"per_class": 2, "steps": 5}


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def classifier_rows(seed=0, classes=10, width=16):
    """Rows of uneven length that have something in common, as those of a client's classifier."""
    draw = g(seed)
    rows = torch.randn(1, width, generator=draw, dtype=F64) + torch.randn(classes, width, generator=draw, dtype=F64)
    return rows * (0.2 + 3 * torch.rand(classes, 1, generator=draw))


def models_of(make, count=3, seed=0, spread=0.4):
    """A network, the same for the same seed whatever was drawn before, and a few states around its first one."""
    net, draw = Net(rng.build(make, seed), dtype=F64), g(seed)
    first = net.initial()
    return net, [
        {n: t + spread * torch.rand(t.shape, generator=draw, dtype=F64) if t.is_floating_point() else t.clone()
         for n, t in first.items()} for _ in range(count)
    ]  # fmt: skip


def mlp(inputs=6, classes=4):
    return MLP(inputs, (8,), classes)


class WithNorm(nn.Module):
    """A small convolutional network with BatchNorm and the usual head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.body(x))


# --- the plain sources -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"start": "previous"}, {"weighting": "uniform"}], ids=str)
def test_given_data_are_feddf_bit_for_bit(options):
    ours, theirs = (
        federation(method)
        for method in (SourcedFedDF(Given(public()), HOW, **options), FedDF(public(), HOW, **options))
    )
    ours.run(2)
    theirs.run(2)
    same(ours.state, theirs.state)
    assert ours.ledger == theirs.ledger


def test_every_source_sends_the_bytes_of_fedavg():
    sources = [
        Given(noise(9, (5,))),
        Impressions((5,), **SMALL),
        Adversarial(partial(MLPGenerator, (5,), 4, 6), latent=4, batches=2, student_steps=2, batch_size=7),
    ]
    plain = federation()
    plain.run(2)
    for source in sources:
        fed = federation(SourcedFedDF(source, HOW))
        fed.run(2)
        assert fed.ledger == plain.ledger
        assert any(not torch.equal(fed.state[n], plain.state[n]) for n in plain.state)


def test_noise_is_fresh_each_round_in_its_range_and_repeatable():
    fed = federation()
    first, again = noise(50, (1, 4, 4))(fed), noise(50, (1, 4, 4))(fed)
    assert torch.equal(first, again)
    assert first.shape == (50, 1, 4, 4)
    assert 0 <= float(first.min()) < 0.05 < 0.95 < float(first.max()) < 1
    fed.round += 1
    assert not torch.equal(first, noise(50, (1, 4, 4))(fed))
    assert float(noise(50, (4,), lambda x: x - 3)(fed).mean()) < -2
    assert float(noise(500, (4,), lambda x: x - 3, "normal")(fed).std()) == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="'uniform' or 'normal', got 'pink'"):
        noise(1, (1,), kind="pink")


@pytest.mark.parametrize("make", [mlp, WithNorm], ids=["stacked", "batchnorm"])
def test_the_ensemble_answers_as_its_members_do_and_lets_gradients_through(make):
    net, states = models_of(make)
    shape = (6,) if make is mlp else (1, 4, 4)
    x = torch.randn(5, *shape, generator=g(), dtype=F64, requires_grad=True)
    before = [clone(s) for s in states]
    ensemble = Ensemble(net, states, x[:1].detach())
    expected = torch.stack([net(s, x) for s in states]).mean(0)
    torch.testing.assert_close(ensemble(x), expected, rtol=0, atol=1e-12)
    a, b = (torch.autograd.grad(z.square().sum(), x)[0] for z in (ensemble(x), expected))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for s, old in zip(states, before, strict=True):
        same(s, old)


# --- data impressions ------------------------------------------------------------------------------


def by_frobenius_norm(rows):
    """The mistake of the released code: every product divided by the norm of the whole matrix."""
    return rows @ rows.T / rows.norm() ** 2


def test_class_similarity_is_the_cosine_of_rows_not_a_product_over_the_frobenius_norm():
    rows = classifier_rows()
    expected = torch.stack([F.cosine_similarity(row[None], rows, dim=1) for row in rows])
    torch.testing.assert_close(imp.class_similarity(rows), expected, rtol=0, atol=1e-14)
    scaled = rows * torch.arange(1.0, 11, dtype=F64)[:, None]
    torch.testing.assert_close(imp.class_similarity(scaled), imp.class_similarity(rows), rtol=0, atol=1e-14)
    assert float((by_frobenius_norm(scaled) - by_frobenius_norm(rows)).abs().max()) > 0.01
    assert bool((imp.class_similarity(rows).argmax(1) == torch.arange(10)).all())
    # Short rows look more like their long neighbours than like themselves, and min-max cannot tell.
    wrong = imp.concentrations(by_frobenius_norm(rows), 1.0)
    assert not bool((wrong.argmax(1) == torch.arange(10)).all())
    torch.testing.assert_close(wrong, imp.concentrations(rows @ rows.T, 1.0), rtol=0, atol=1e-12)


def test_with_the_frobenius_norm_a_class_may_never_come_out_on_top():
    rows = classifier_rows()
    wrong = imp.concentrations(by_frobenius_norm(rows), 0.1)
    worst = int((wrong.diagonal() / wrong.amax(1)).argmin())
    with pytest.raises(ValueError, match="is the similarity a cosine"):
        imp.soft_labels(wrong[worst], worst, 200, g(), tries=20)
    assert len(imp.soft_labels(imp.concentrations(imp.class_similarity(rows), 0.1)[worst], worst, 200, g(), 20)) == 200


@CASES
@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.1]), st.integers(2, 12))
def test_soft_labels_sum_to_one_and_have_their_class_on_top(seed, scale, classes):
    table = imp.concentrations(imp.class_similarity(classifier_rows(seed, classes)), scale)
    assert float(table.min()) >= imp.FLOOR
    torch.testing.assert_close(table.amax(1), torch.full((classes,), scale + imp.FLOOR, dtype=F64), rtol=0, atol=1e-12)
    c = seed % classes
    y = imp.soft_labels(table[c], c, 7, g(seed))
    assert y.shape == (7, classes)
    torch.testing.assert_close(y.sum(1), torch.ones(7, dtype=F64), rtol=0, atol=1e-12)
    assert bool((y.argmax(1) == c).all())
    assert bool((y >= 0).all())


def test_a_small_scale_makes_sharp_labels():
    table = {s: imp.concentrations(imp.class_similarity(classifier_rows()), s) for s in (1.0, 0.1)}
    top = {s: float(imp.soft_labels(t[3], 3, 400, g()).amax(1).mean()) for s, t in table.items()}
    assert top[1.0] < 0.75 < 0.85 < top[0.1]
    with pytest.raises(ValueError, match="scale must be positive"):
        imp.concentrations(torch.eye(3), 0.0)


def smoothed_without_assignment(classes, counts, epsilon):
    """The mistake of the released code: what should have been taken off the own class is computed and thrown away."""
    rows = []
    for c, count in enumerate(counts):
        p = torch.full((classes,), epsilon, dtype=F64)
        p[c] = 1.0
        p[c] - epsilon * (classes + 1)
        rows += [p] * count
    return rows  # and a list, where the other branch gives a tensor


def test_smoothed_labels_sum_to_one_and_are_a_tensor_like_the_others():
    counts = torch.tensor([2, 0, 3])
    y = imp.smoothed_labels(torch.zeros(3, 2), counts, g(), 0.05)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == imp.dirichlet_labels(classifier_rows(0, 3), counts, g()).dtype
    expected = [[0.9, 0.05, 0.05]] * 2 + [[0.05, 0.05, 0.9]] * 3
    torch.testing.assert_close(y, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-15)
    wrong = smoothed_without_assignment(3, [2, 0, 3], 0.05)
    assert isinstance(wrong, list)
    assert all(float(p.sum()) == pytest.approx(1.1) for p in wrong)
    assert float((y.sum(1) - 1).abs().max()) < 1e-15
    with pytest.raises(ValueError, match=r"epsilon must lie in \[0, 1/3\)"):
        imp.smoothed_labels(torch.zeros(3, 2), counts, g(), 0.4)


@CASES
@given(st.integers(1, 300), st.lists(st.floats(0.01, 100), min_size=2, max_size=12))
def test_allocation_is_whole_complete_and_near_the_shares(total, shares):
    given_shares = torch.tensor([shares, shares[::-1]], dtype=F64)
    counts = imp.allocate(total, given_shares)
    assert counts.sum(1).tolist() == [total, total]
    exact = total * given_shares / given_shares.sum(1, keepdim=True)
    assert float((counts - exact).abs().max()) < 1
    assert int(counts.min()) >= 0


@pytest.mark.parametrize("make", [mlp, WithNorm], ids=["stacked", "batchnorm"])
def test_an_impression_is_what_it_would_be_alone_and_in_the_range_of_pixels(make):
    net, states = models_of(make)
    shape = (6,) if make is mlp else (1, 4, 4)
    y = torch.rand(3, 5, 4, generator=g(1), dtype=F64).softmax(-1)
    before = [clone(s) for s in states]
    whole = imp.synthesise(net, states, y, shape, g(2), steps=20)
    assert whole.shape == (3, 5, *shape)
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1
    for s, old in zip(states, before, strict=True):
        same(s, old)  # BatchNorm statistics of the teachers are not touched
    # derived with PyTorch's own Adam, one image of one model at a time, from the same noise
    noise_ = torch.rand((15, *shape), generator=g(2), dtype=F64).view(3, 5, *shape)
    for k, i in ((0, 0), (1, 3), (2, 4)):
        x = noise_[k, i][None].clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=0.05)
        for _ in range(20):
            adam.zero_grad()
            F.kl_div(net(states[k], x).log_softmax(1), y[k, i][None], reduction="batchmean").backward()
            adam.step()
            x.data.clamp_(0, 1)
        torch.testing.assert_close(whole[k, i], x[0].detach(), rtol=0, atol=1e-8)


def synthesised_in_training_mode(net, state, y, shape, draw, steps=20):
    """The mistake of the released code: BatchNorm by the batch, and statistics moved by the images."""
    x = torch.rand((len(y), *shape), generator=draw, dtype=F64).requires_grad_()
    adam = torch.optim.Adam([x], lr=0.05)
    for _ in range(steps):
        adam.zero_grad()
        F.kl_div(net(state, x, train=True).log_softmax(1), y, reduction="batchmean").backward()
        adam.step()
    return x.detach()


def rescaled(x):
    """The mistake of the released code: minimum and maximum of the whole batch."""
    return (x - x.min()) / (x.max() - x.min())


def test_training_mode_pollutes_the_teacher_and_couples_images():
    net, states = models_of(WithNorm, 1)
    y = torch.rand(6, 4, generator=g(1), dtype=F64).softmax(-1)
    state = clone(states[0])
    whole = synthesised_in_training_mode(net, state, y, (1, 4, 4), g(2))
    assert float((state["body.1.running_mean"] - states[0]["body.1.running_mean"]).abs().max()) > 1e-3
    part = synthesised_in_training_mode(net, clone(states[0]), y[:3], (1, 4, 4), g(2))
    assert float((whole[:3] - part).abs().max()) > 1e-3
    ours = [imp.synthesise(net, states, y[None, :n], (1, 4, 4), g(2), steps=20)[0, :3] for n in (6, 3)]
    torch.testing.assert_close(ours[0], ours[1], rtol=0, atol=1e-10)


def test_a_rescaling_of_the_whole_batch_couples_images():
    x = torch.rand(4, 1, 3, 3, generator=g(), dtype=F64)
    with_outlier = torch.cat([x, 9 * torch.ones(1, 1, 3, 3, dtype=F64)])
    assert float((rescaled(with_outlier)[:4] - rescaled(x)).abs().max()) > 0.5
    assert torch.equal(with_outlier.clamp(0, 1)[:4], x)


def test_impressions_are_answered_as_they_were_asked_for():
    net, states = models_of(mlp, spread=1.5)
    y = imp.smoothed_labels(torch.zeros(4, 1), torch.full((4,), 3), g(), 0.02).expand(3, -1, -1)
    x = imp.synthesise(net, states, y, (6,), g(), steps=300, to_input=lambda p: 8 * p - 4)
    start = torch.rand((36, 6), generator=g(), dtype=F64).view(3, 12, 6)
    for k, s in enumerate(states):
        gap = [float(-(y[k] * net(s, 8 * v - 4).log_softmax(1)).sum(1).mean()) for v in (start[k], x[k])]
        assert gap[1] < 0.5 * gap[0]


def test_the_statistics_term_brings_batches_nearer_to_what_batchnorm_remembers():
    net, states = models_of(WithNorm, 2)
    y = imp.smoothed_labels(torch.zeros(4, 1), torch.full((4,), 4), g(), 0.02).expand(2, -1, -1)
    gap = {}
    for weight in (0.0, 1.0):
        x = imp.synthesise(net, states, y, (1, 4, 4), g(3), steps=60, statistics=weight)
        gap[weight] = float(imp.statistics_gap(net, states[0], x[0]))
    assert gap[1.0] < 0.9 * gap[0.0]
    by_hand = net._eval.module  # hooks are gone again
    assert all(not m._forward_pre_hooks for m in by_hand.modules())
    h = F.conv2d(x[0], states[0]["body.0.weight"], states[0]["body.0.bias"], padding=1).transpose(0, 1).flatten(1)
    expected = (h.mean(1) - states[0]["body.1.running_mean"]).norm()
    expected = expected + (h.var(1, correction=0) - states[0]["body.1.running_var"]).norm()
    assert gap[1.0] == pytest.approx(float(expected), abs=1e-10)


def test_a_pool_has_the_ensembles_answers_and_in_turn_each_teachers_own():
    fed = federation(SourcedFedDF(Impressions((5,), **SMALL), HOW))
    states = [{n: t + 0.3 * k for n, t in fed.state.items()} for k in range(3)]
    start, uploads = clone(fed.state), [clone(s) for s in states]
    fed.aggregate(uploads, torch.full((3,), 1 / 3, dtype=F64))
    mean = {n: sum(s[n] for s in states) / 3 for n in start}
    x, y = Impressions((5,), **SMALL).make(fed, states)
    assert x.shape == (3, 6, 5)
    assert y.argmax(-1).tolist() == [[0, 0, 1, 1, 2, 2]] * 3
    pool = x.flatten(0, 1)
    logits = torch.stack([fed.net(s, pool) for s in states]).mean(0)
    expected = distil(fed.net, mean, pool, logits, HOW, rng.stream(fed.seed, "distil", 0))
    same(fed.state, expected, 1e-9)
    in_turn = federation(SourcedFedDF(ImpressionsInTurn((5,), **SMALL), HOW))
    in_turn.aggregate(uploads, torch.full((3,), 1 / 3, dtype=F64))
    expected, draw = mean, rng.stream(fed.seed, "distil", 0)
    for steps, state, own in zip((2, 1, 1), states, x, strict=True):  # four steps for three teachers
        expected = distil(fed.net, expected, own, fed.net(state, own), Distillation(steps, 6), draw)
    same(in_turn.state, expected, 1e-9)


def test_classes_are_weighed_by_counts_or_by_rows():
    fed = federation(participation=1.0)
    states = [fed.state] * fed.clients
    counts = imp.label_counts(fed, states)
    assert counts.sum(1).tolist() == [len(part) for part in fed.split]
    x, y = Impressions((5,), per_class=4, steps=2, shares=imp.label_counts).make(fed, states)
    made = torch.stack([torch.bincount(own.argmax(1), minlength=3) for own in y])
    assert made.sum(1).tolist() == [12] * fed.clients
    assert bool((made[counts == 0] == 0).all())
    assert len(x) == fed.clients
    norms = imp.row_norms(fed, states[:1])
    torch.testing.assert_close(norms[0], fed.state["head.weight"].square().sum(1).sqrt())
    with pytest.raises(ValueError, match="whose labels are whose is not known"):
        imp.label_counts(fed, states[:2])


# --- the generator ---------------------------------------------------------------------------------


def test_the_generators_gradient_flows_through_teachers_and_student():
    net, states = models_of(mlp)
    student, x = models_of(mlp, 1, seed=5)[1][0], torch.randn(6, 6, generator=g(), dtype=F64, requires_grad=True)
    ensemble = Ensemble(net, states, x[:1].detach())
    found = torch.autograd.grad(disagreement(net, ensemble, student, x), x)[0]
    teacher = torch.stack([net(s, x) for s in states]).mean(0)
    p, q = teacher.softmax(1), net(student, x).softmax(1)
    expected = torch.autograd.grad((p * (p.log() - q.log())).sum(1).mean(), x)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    cut = torch.autograd.grad(losses.kd(net(student, x), teacher), x)[0]  # what trains the student cuts the teacher off
    assert float((cut - found).abs().max()) > 1e-3


def test_forward_divergence_from_the_teacher():
    net, states = models_of(mlp, 1)
    student, x = models_of(mlp, 1, seed=5)[1][0], torch.randn(6, 6, generator=g(), dtype=F64)
    value = float(disagreement(net, Ensemble(net, states, x[:1]), student, x))
    zt, zs = net(states[0], x), net(student, x)
    assert value == pytest.approx(float(F.kl_div(zs.log_softmax(1), zt.softmax(1), reduction="batchmean")), abs=1e-12)
    assert value != pytest.approx(float(F.kl_div(zt.log_softmax(1), zs.softmax(1), reduction="batchmean")), abs=1e-4)


def adversarial(**changes):
    options = {"latent": 4, "batches": 3, "student_steps": 2, "batch_size": 7}
    return Adversarial(partial(MLPGenerator, (5,), 4, 6), **(options | changes))


def test_the_adversarial_loop_against_torchs_own_parts():
    """One federation's server step, written out with modules and torch.optim."""
    source, rounds = adversarial(), 2
    fed = federation(SourcedFedDF(source))
    uploads = [{n: t + 0.2 * k for n, t in fed.state.items()} for k in range(3)]
    maker = rng.build(source.generator, fed.seed, "generator").double()
    for round_ in range(rounds):
        fed.round = round_
        fed.aggregate([clone(u) for u in uploads], torch.full((3,), 1 / 3, dtype=F64))
        student = MLP(5, (6,), 3).double()
        student.load_state_dict({n: sum(u[n] for u in uploads) / 3 for n in uploads[0]})
        adams = [torch.optim.Adam(m.parameters(), lr) for m, lr in ((maker, 1e-3), (student, 2e-3))]
        draw = rng.stream(fed.seed, "latent", round_)

        def kl(x, student=student):
            teacher = torch.stack([fed.net(u, x) for u in uploads]).mean(0)
            return F.kl_div(student(x).log_softmax(1), teacher.softmax(1), reduction="batchmean")

        for _ in range(3):
            latent = torch.randn(7, 4, generator=draw, dtype=F64)
            adams[0].zero_grad()
            (-kl(maker(latent))).backward()
            nn.utils.clip_grad_norm_(maker.parameters(), 5.0)
            adams[0].step()
            images = maker(latent).detach()  # the same latent batch, after the generator's step
            for _ in range(2):
                adams[1].zero_grad()
                kl(images).backward()
                nn.utils.clip_grad_norm_(student.parameters(), 5.0)
                adams[1].step()
        same(fed.state, student.state_dict(), 1e-9)
    kept = {n: fed.memory[f"generator.{n}"] for n in maker.state_dict()}
    same(kept, maker.state_dict(), 1e-9)  # it goes on from round to round


def test_the_generator_raises_disagreement_and_the_student_lowers_it():
    states = models_of(mlp, spread=1.5)[1]
    fed = federation(model=lambda: MLP(6, (8,), 4), data=(torch.randn(20, 6, dtype=F64), torch.arange(20) % 4,
                                                           list(torch.arange(20).split(5))))  # fmt: skip
    before = [clone(s) for s in states]
    measured = {}
    for student_steps in (0, 10):
        fed.memory.clear()
        # a student of no steps stays where it starts, and the generator finds ever worse inputs for it
        source = Adversarial(partial(MLPGenerator, (6,), 4, 8), 4, 60, student_steps, 32, lr=0.02,
                             to_input=lambda p: 6 * p - 3)  # fmt: skip
        jobs = source(fed, states, fed.net.initial(), HOW)
        with pytest.raises(StopIteration) as end:
            next(jobs)
        x = 6 * source.images(fed, 64) - 3
        measured[student_steps] = float(disagreement(fed.net, Ensemble(fed.net, states, x[:1]), end.value.value, x))
        if student_steps == 0:
            same(end.value.value, fed.net.initial())
            fed.memory.clear()
            fresh = 6 * source.images(fed, 64) - 3
            measured["fresh"] = float(
                disagreement(fed.net, Ensemble(fed.net, states, fresh[:1]), fed.net.initial(), fresh)
            )
    assert measured[0] > 1.2 * measured["fresh"]
    assert measured[10] < 0.5 * measured[0]
    for s, old in zip(states, before, strict=True):
        same(s, old)


def test_no_batches_leave_the_average():
    fed = federation(SourcedFedDF(adversarial(batches=0)))
    plain = federation()
    fed.run(2)
    plain.run(2)
    same(fed.state, plain.state)


def test_generators_make_images_of_their_shape():
    torch.manual_seed(0)
    small = MLPGenerator((1, 8, 8), 32)(torch.randn(3, 32))
    assert small.shape == (3, 1, 8, 8)
    assert 0 < float(small.detach().min()) < float(small.detach().max()) < 1
    large = ConvGenerator(3, 32)(torch.randn(5, 100))
    assert large.shape == (5, 3, 32, 32)
    torch.testing.assert_close(
        large.detach().mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5
    )  # BatchNorm stands last
    with pytest.raises(ValueError, match="multiple of 4, got 30"):
        ConvGenerator(3, 30)


def test_sources_work_on_a_residual_network_with_batchnorm():
    x, y = torch.randn(16, 3, 8, 8, dtype=F64, generator=g()), torch.arange(16) % 10
    for source in (
        Impressions((3, 8, 8), per_class=1, steps=2, statistics=0.1),
        Adversarial(partial(ConvGenerator, 3, 8, 10), 10, 1, 1, 8),
    ):
        fed = federation(SourcedFedDF(source, HOW), model=ResNet8, data=(x, y, [torch.arange(8), torch.arange(8, 16)]))
        fed.run(1)
        assert all(bool(t.isfinite().all()) for t in fed.state.values())


# --- SWAG and SWA ----------------------------------------------------------------------------------


def test_swag_without_scale_is_the_uniform_average_exactly():
    net, states = models_of(WithNorm, 4)
    drawn = swa.SWAG.of(states, net.parameters).sample(0.0, g())
    same(drawn, {n: torch.stack([s[n] for s in states]).mean(0) if t.is_floating_point() else t
                 for n, t in states[0].items()})  # fmt: skip


def test_moments_of_swag_samples():
    """Mean as fitted; variance half of the diagonal and half of the clients' unbiased covariance."""
    states = [{"w": torch.randn(5, generator=g(k), dtype=F64)} for k in range(4)]
    gaussian, draw = swa.SWAG.of(states, ["w"]), g(9)
    w = torch.stack([s["w"] for s in states])
    torch.testing.assert_close(gaussian.variance["w"], w.var(0, correction=0), rtol=0, atol=1e-14)
    many = torch.stack([gaussian.sample(0.7, draw)["w"] for _ in range(20_000)])
    torch.testing.assert_close(many.mean(0), w.mean(0), rtol=0, atol=0.03)
    expected = 0.49 * (torch.diag(w.var(0, correction=0)) + torch.cov(w.T)) / 2
    torch.testing.assert_close(torch.cov(many.T), expected, rtol=0.06, atol=0.03)


def test_a_variance_that_rounding_made_negative_gives_no_nan():
    w = torch.full((1000,), 1234.567) + 1e-4 * torch.rand(1000, generator=g())
    states = [{"w": w}, {"w": w.clone()}, {"w": w.clone()}]
    raw = torch.stack([s["w"] ** 2 for s in states]).mean(0) - torch.stack([s["w"] for s in states]).mean(0) ** 2
    assert bool(raw.sqrt().isnan().any())  # the formula as it is written
    assert bool(swa.SWAG.of(states, ["w"]).sample(1.0, g())["w"].isfinite().all())
    with pytest.raises(ValueError, match="two models, got 1"):
        swa.SWAG.of(states[:1], ["w"])


def test_swag_teachers_are_the_clients_and_samples_and_leave_buffers_averaged():
    fed = federation()
    uploads = [{n: t + k for n, t in fed.state.items()} for k in range(3)]
    ensemble = swa.SWAGTeachers(4, 0.5)(fed, uploads)
    assert len(ensemble) == 7
    assert ensemble[:3] == uploads
    assert len(swa.SWAGTeachers(4, 0.5, clients=False)(fed, uploads)) == 4
    same(ensemble[5], swa.SWAGTeachers(4, 0.5)(fed, uploads)[5])
    net, states = models_of(WithNorm, 3)
    drawn = swa.SWAG.of(states, net.parameters).sample(1.0, g())
    mean = torch.stack([s["body.1.running_var"] for s in states]).mean(0)
    torch.testing.assert_close(drawn["body.1.running_var"], mean, rtol=0, atol=0)


def test_swag_samples_below_chance_can_be_left_out():
    fed = federation()
    uploads = [{n: t + 0.1 * k for n, t in fed.state.items()} for k in range(3)]
    x, y = torch.randn(60, 5, generator=g(), dtype=F64), torch.arange(60) % 3
    always = {n: torch.zeros_like(t) for n, t in fed.state.items()}
    always["head.bias"] = torch.tensor([9.0, 0.0, 0.0], dtype=F64)  # says class 0: a third is right, the bar is 0.4
    useless = [always, {n: t.clone() for n, t in always.items()}]
    assert len(swa.SWAGTeachers(5, 0.5)(fed, useless)) == 7
    assert swa.SWAGTeachers(5, 0.5, validation=(x, y))(fed, useless) == useless
    assert swa.SWAGTeachers(5, 0.5, clients=False, validation=(x, y))(fed, useless) == useless  # nobody else is left
    taught = fed.net.predict(uploads[1], x).argmax(1)  # labels that the clients know
    assert len(swa.SWAGTeachers(5, 0.1, validation=(x, taught))(fed, uploads)) == 8


def test_the_generator_survives_a_checkpoint_to_the_bit(tmp_path):
    whole, first, second = (federation(SourcedFedDF(adversarial())) for _ in range(3))
    whole.run(4)
    first.run(2)
    checkpoint.save(first, tmp_path / "fed")
    checkpoint.restore(second, tmp_path / "fed")
    second.run(2)
    same(everything(whole), everything(second))


def student(how, make=mlp, seed=0):
    net, states = models_of(make, 2, seed)
    shape = (6,) if isinstance(net.module, MLP) else (1, 4, 4)
    x = torch.randn(20, *shape, generator=g(1), dtype=F64)
    return net, states[0], x, how(net, states[0], x, net.predict(states[1], x), g(2))


LARGE = partial(torch.optim.SGD, lr=0.1)


def test_swa_of_one_snapshot_is_that_snapshot():
    last = student(swa.SWA(steps=1, every=0, optimiser=LARGE))[3]
    same(student(swa.SWA(steps=1, every=1, optimiser=LARGE))[3], last)
    same(student(swa.SWA(steps=5, every=5, optimiser=LARGE))[3], last)  # taken at step 0 and not again


def test_swa_is_the_mean_of_the_snapshots():
    snapshots = [student(swa.SWA(steps=n, every=0, optimiser=LARGE))[3] for n in (1, 4, 7)]
    mean = {n: sum(s[n] for s in snapshots) / 3 for n in snapshots[0]}
    same(student(swa.SWA(steps=9, every=3, optimiser=LARGE))[3], mean, 1e-12)


def test_without_averaging_it_is_the_plain_optimiser():
    """SGD on the loss and the batches of FedDF's own solver."""
    net, start, x, found = student(swa.SWA(steps=6, every=0, optimiser=LARGE, batch_size=8))
    teacher, state, draw, order = net.predict(models_of(mlp, 2)[1][1], x), clone(start), g(2), []
    for _ in range(6):
        order = order or list(torch.randperm(20, generator=draw).split(8))
        rows = order.pop(0)
        leaves = {n: t.requires_grad_() for n, t in state.items()}
        grads = torch.autograd.grad(losses.kd(net(leaves, x[rows]), teacher[rows]), list(leaves.values()))
        state = {n: (t - 0.1 * d).detach() for (n, t), d in zip(leaves.items(), grads, strict=True)}
    same(found, state, 1e-12)


def test_averaged_weights_need_batchnorm_statistics_of_their_own():
    """The released code swaps the weights and keeps statistics; those of a forward pass over the inputs differ."""
    options = {"steps": 8, "every": 2, "optimiser": partial(torch.optim.SGD, lr=1.0)}
    net, _, x, fresh = student(swa.SWA(**options), WithNorm)
    stale = student(swa.SWA(**options, refresh=False), WithNorm)[3]
    h = F.conv2d(x, fresh["body.0.weight"], fresh["body.0.bias"], padding=1)
    torch.testing.assert_close(fresh["body.1.running_mean"], h.mean((0, 2, 3)), rtol=0, atol=1e-10)
    torch.testing.assert_close(fresh["body.1.running_var"], h.var((0, 2, 3)), rtol=0, atol=1e-10)
    assert float((stale["body.1.running_mean"] - h.mean((0, 2, 3))).abs().max()) > 1e-3
    same(net.weights(fresh), net.weights(stale))
    averaged = AveragedModel(nn.Linear(1, 1))  # torch's own leaves buffers of the first copy alone by default
    assert int(averaged.n_averaged) == 0


def test_swa_leaves_start_and_network_alone():
    net, states = models_of(mlp, 2)
    module, start = clone(net.initial()), clone(states[0])
    x = torch.randn(20, 6, generator=g(1), dtype=F64)
    swa.SWA(steps=3, every=1, optimiser=LARGE)(net, states[0], x, net.predict(states[1], x), g())
    same(net.initial(), module)
    same(states[0], start)
    nothing = swa.SWA(steps=0)(net, states[0], x, net.predict(states[1], x), g())
    same(nothing, start)


def test_divergence_of_the_student_is_an_error():
    with pytest.raises(ArithmeticError, match="diverged within 5 steps"):
        student(swa.SWA(steps=5, optimiser=partial(torch.optim.SGD, lr=math.inf)))
