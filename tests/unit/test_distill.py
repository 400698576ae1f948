"""Distillation on the server, against torch.optim.Adam, CosineAnnealingLR and F.kl_div."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedlib.distill import Distillation, Student, distil, ensemble_logits
from fedlib.models import MLP
from fedlib.models.net import Net, clone


def setup(samples=50, classes=4, seed=0):
    torch.manual_seed(seed)
    net = Net(MLP(6, (8, 5), classes), dtype=torch.float64)
    x = torch.randn(samples, 6, dtype=torch.float64)
    teacher = 3 * torch.randn(samples, classes, dtype=torch.float64)
    return net, x, teacher


def derived(net, start, x, teacher, how, generator, reduction="batchmean", swap=False, train=True):
    """The same fit with PyTorch's own parts; ``reduction`` and ``swap`` allow for the usual mistakes."""
    module = MLP(6, (8, 5), teacher.shape[1]).double().train(train)
    module.load_state_dict(start)
    adam = torch.optim.Adam(module.parameters(), lr=how.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=how.steps)
    order = []
    for _ in range(how.steps):
        if not order:
            order = list(torch.randperm(len(x), generator=generator).split(how.batch_size))
        rows = order.pop(0)
        z, t = module(x[rows]) / how.temperature, teacher[rows] / how.temperature
        a, b = (t, z) if swap else (z, t)
        loss = how.temperature**2 * F.kl_div(a.log_softmax(1), b.softmax(1), reduction=reduction)
        adam.zero_grad()
        loss.backward()
        if how.max_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), how.max_norm)
        adam.step()
        schedule.step()
    return module.state_dict()


def distance(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in a)


@pytest.mark.parametrize(
    "how",
    [
        Distillation(steps=23, batch_size=16),
        Distillation(steps=11, batch_size=128, lr=0.05, temperature=3.0),
        Distillation(steps=9, batch_size=50, lr=0.01, max_norm=None),
        Distillation(steps=12, batch_size=8, lr=0.01, max_norm=0.05),
    ],
    ids=["uneven batches", "one batch, temperature 3", "no clipping", "clipped hard"],
)
def test_distil_is_adam_with_cosine_on_kl_div(how):
    net, x, teacher = setup()
    start = net.initial()
    ours = distil(net, start, x, teacher, how, torch.Generator().manual_seed(7))
    theirs = derived(net, start, x, teacher, how, torch.Generator().manual_seed(7))
    assert distance(ours, theirs) < 1e-12
    assert distance(ours, start) > 1e-3


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("mistake", [{"reduction": "mean"}, {"swap": True}], ids=["mean", "arguments swapped"])
def test_the_usual_mistakes_give_another_student(mistake):
    # Adam forgives a constant factor, clipping does not: with a tight norm the two reductions part.
    how = Distillation(steps=20, batch_size=50, lr=0.02, max_norm=0.1)
    net, x, teacher = setup()
    right = distil(net, net.initial(), x, teacher, how, torch.Generator().manual_seed(7))
    wrong = derived(net, net.initial(), x, teacher, how, torch.Generator().manual_seed(7), **mistake)
    assert distance(right, wrong) > 1e-5


def test_no_step_returns_the_start_bit_for_bit():
    net, x, teacher = setup()
    start = net.initial()
    result = distil(net, start, x, teacher, Distillation(steps=0), torch.Generator())
    assert all(torch.equal(result[n], start[n]) for n in start)
    assert all(result[n].data_ptr() != start[n].data_ptr() for n in start)


def test_start_and_teacher_are_left_alone():
    net, x, teacher = setup()
    start = net.initial()
    before, said = clone(start), teacher.clone()
    distil(net, start, x, teacher, Distillation(steps=5), torch.Generator().manual_seed(0))
    assert all(torch.equal(before[n], start[n]) for n in start)
    assert torch.equal(said, teacher)


def test_the_loss_falls():
    net, x, teacher = setup()
    how = [Distillation(steps=n, lr=0.02) for n in (0, 60, 200)]
    students = [distil(net, net.initial(), x, teacher, h, torch.Generator().manual_seed(0)) for h in how]
    losses = [float(F.kl_div(net(s, x).log_softmax(1), teacher.softmax(1), reduction="batchmean")) for s in students]
    assert all(b < 0.9 * a for a, b in pairwise(losses))


def test_every_sample_is_seen_once_per_pass():
    """A student that is a table of logits, one row per input, moves exactly where its inputs were drawn."""
    net = Net(nn.Linear(12, 3, bias=False), dtype=torch.float64)
    x, teacher = torch.eye(12, dtype=torch.float64), torch.arange(36.0, dtype=torch.float64).view(12, 3)
    start = {"weight": torch.zeros(3, 12, dtype=torch.float64)}
    half = distil(net, start, x, teacher, Distillation(steps=2, batch_size=3, lr=0.1), torch.Generator().manual_seed(1))
    full = distil(net, start, x, teacher, Distillation(steps=4, batch_size=3, lr=0.1), torch.Generator().manual_seed(1))
    assert int(half["weight"].ne(0).any(0).sum()) == 6
    assert int(full["weight"].ne(0).any(0).sum()) == 12


def test_the_rate_starts_full_and_ends_near_zero():
    """Adam's first step has length lr in each coordinate, the last one about lr (1 - cos(pi / N)) / 2."""
    net = Net(nn.Linear(1, 2, bias=False), dtype=torch.float64)
    x, teacher = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[50.0, -50.0]], dtype=torch.float64)
    start = {"weight": torch.zeros(2, 1, dtype=torch.float64)}

    def weight(steps):
        how = Distillation(steps=steps, batch_size=1, lr=1e-3, max_norm=None)
        return float(distil(net, start, x, teacher, how, torch.Generator())["weight"][0])

    assert weight(1) == pytest.approx(1e-3, rel=1e-6)
    # a steady gradient: every step is as long as its rate, and the rates of the cosine sum to lr (N + 1) / 2
    assert weight(20) == pytest.approx(1e-3 * sum(0.5 * (1 + math.cos(math.pi * j / 20)) for j in range(20)), rel=1e-3)


def test_divergence_is_an_error():
    net, x, teacher = setup()
    teacher[3, 1] = math.nan
    with pytest.raises(ArithmeticError, match="distillation diverged"):
        distil(net, net.initial(), x, teacher, Distillation(steps=3), torch.Generator().manual_seed(0))


# --- several students at once ---------------------------------------------------------------------


def students(how, network=lambda: MLP(6, (8, 5), 4), number=3, samples=50):
    torch.manual_seed(1)
    net = Net(network(), dtype=torch.float64)
    g = torch.Generator().manual_seed(4)
    for k in range(number):
        start = {
            n: t + 0.1 * torch.randn(t.shape, generator=g, dtype=t.dtype) if n in net.parameters else t.clone()
            for n, t in net.initial().items()
        }
        x = torch.randn(samples, 6, generator=g, dtype=torch.float64)
        teacher = 3 * torch.randn(samples, 4, generator=g, dtype=torch.float64)
        yield Student(net, start, x, teacher, how, torch.Generator().manual_seed(k))


def with_norm():  # no bias before BatchNorm: its gradient is nothing but rounding, which Adam would blow up
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize("network", [lambda: MLP(6, (8, 5), 4), with_norm], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_students_together_are_students_alone(network, max_norm):
    how = Distillation(steps=17, batch_size=16, lr=0.02, temperature=2.0, max_norm=max_norm)
    alone = [
        distil(s.net, s.state, s.x, s.teacher_logits, how, torch.Generator().manual_seed(k))
        for k, s in enumerate(students(how, network))
    ]
    first, *others = students(how, network)
    before = clone(first.state)
    kept = first.state
    assert all(first.fits(other) for other in others)
    first.do(others)
    for expected, student in zip(alone, [first, *others], strict=True):
        assert distance(expected, student.state) < 1e-11
        assert distance(expected, before) > 1e-3
    assert distance(kept, before) == 0, "the start is left as it is"


def test_students_that_differ_do_not_fit():
    how = Distillation(steps=3)
    (one,) = students(how, number=1)
    (other_size,) = students(how, number=1, samples=49)
    (other_way,) = students(Distillation(steps=4), number=1)
    (other_net,) = students(how, with_norm, number=1)
    (other_answers,) = students(how, number=1)
    other_answers.teacher_logits = other_answers.teacher_logits.float()
    assert not any(one.fits(other) for other in (other_size, other_way, other_net, other_answers, object()))


def test_divergence_of_one_of_several_students_is_noticed():
    first, *others = students(Distillation(steps=4, lr=1e300, max_norm=None))
    with pytest.raises(ArithmeticError, match="distillation diverged"):
        first.do(others)


def test_an_ensembles_probabilities_are_the_mean_of_its_members():
    z = 5 * torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = ensemble_logits(list(z))
    assert torch.allclose(found.exp(), z.softmax(-1).mean(0), rtol=1e-12)
    assert torch.allclose(found.logsumexp(-1), torch.zeros(7, dtype=torch.float64), atol=1e-12)
    assert not torch.allclose(found.exp(), z.mean(0).softmax(-1), atol=1e-2)  # that is the geometric mean


def test_an_ensemble_of_one_is_its_member_and_extreme_logits_stay_finite():
    z = torch.tensor([[900.0, 0.0, -900.0]], dtype=torch.float64)
    assert torch.equal(ensemble_logits([z]), z.log_softmax(-1))
    assert bool(ensemble_logits([z, -z]).isfinite().all())


def test_an_ensemble_of_none_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        ensemble_logits([])
