"""Not-true distillation: its identities in float64, the off-switch, and the mistakes that are easily made."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from fedlib import losses, models, partition, rng
from fedlib.algorithms import FedAvg, FedLSD, FedNTD
from fedlib.executors import Context
from fedlib.federation import Federation, Local

CASES = settings(deadline=None, max_examples=30)


def logits(seed, batch=6, classes=5, scale=2.0):
    """Student and teacher logits [batch, classes] and labels."""
    g = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(batch, classes, generator=g, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(classes, (batch,), generator=g)


def others(row, y):
    """One sample's entries without the true class, the slow way."""
    return torch.stack([v for c, v in enumerate(row) if c != y])


def by_definition(student, teacher, target, tau):
    """tau^2 times the mean over samples of sum_{c != y} p log(p / q), written out."""
    total = 0.0
    for z, zg, y in zip(student, teacher, target.tolist(), strict=True):
        q, p = (torch.exp(others(v, y) / tau) / torch.exp(others(v, y) / tau).sum() for v in (z, zg))
        total = total + sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True))
    return tau**2 * total / len(student)


def masked_by_zero(student, teacher, target, tau):
    """The trap: the student's true logit times 0, the teacher's set to -1e5."""
    true = F.one_hot(target, student.shape[1]).bool()
    return losses.kd(torch.where(true, 0 * student, student), teacher.masked_fill(true, -1e5), tau)


def gradient(loss, student, *rest):
    leaf = student.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, *rest), leaf)[0]


def move_true(z, target, by):
    return z + by * F.one_hot(target, z.shape[1])


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 3.0]), st.integers(3, 8))
def test_value_from_the_definition(seed, tau, classes):
    z, zg, y = logits(seed, classes=classes)
    assert losses.not_true_distillation(z, zg, y, tau) == pytest.approx(float(by_definition(z, zg, y, tau)), abs=1e-12)


@CASES
@given(st.integers(0, 10**6))
def test_not_true_softmax_is_the_renormalised_softmax(seed):
    z, _, y = logits(seed)
    removed = losses.not_true_logits(z, y).softmax(1)
    q = z.softmax(1)
    for row, whole, label in zip(removed, q, y.tolist(), strict=True):
        rest = others(whole, label)  # its sum is 1 - q_y, of which a difference would keep fewer digits
        torch.testing.assert_close(row, rest / rest.sum(), rtol=0, atol=1e-14)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([1.0, 3.0]), st.floats(-30, 30), st.floats(-30, 30))
def test_true_class_logits_do_not_matter(seed, tau, student_by, teacher_by):
    z, zg, y = logits(seed)
    moved = move_true(z, y, student_by), move_true(zg, y, teacher_by)
    assert losses.not_true_distillation(*moved, y, tau) == losses.not_true_distillation(z, zg, y, tau)
    assert torch.equal(
        gradient(losses.not_true_distillation, moved[0], moved[1], y, tau),
        gradient(losses.not_true_distillation, z, zg, y, tau),
    )


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 3.0]))
def test_gradient_formula(seed, tau):
    z, zg, y = logits(seed)
    found = gradient(losses.not_true_distillation, z, zg, y, tau)
    for row, a, b, label in zip(found, z, zg, y.tolist(), strict=True):
        expected = tau * (others(a / tau, label).softmax(0) - others(b / tau, label).softmax(0)) / len(z)
        torch.testing.assert_close(others(row, label), expected, rtol=0, atol=1e-14)
        assert row[label] == 0  # exactly: the label is never argued with
    assert float(found.sum(1).abs().max()) < 1e-14  # only relative logits are held


def test_gradient_against_finite_differences():
    z, zg, y = logits(1)
    assert torch.autograd.gradcheck(lambda s: losses.not_true_distillation(s, zg, y, 2.0), z.clone().requires_grad_())


@CASES
@given(st.integers(0, 10**6), st.sampled_from([1.0, 3.0]))
def test_zero_where_not_true_logits_differ_by_a_constant_per_sample(seed, tau):
    _, zg, y = logits(seed)
    g = torch.Generator().manual_seed(seed)
    shift = 5 * torch.randn(len(zg), 1, generator=g, dtype=torch.float64)
    z = move_true(zg + shift, y, 7.0)
    assert float(losses.not_true_distillation(z, zg, y, tau)) == pytest.approx(0, abs=1e-13)
    assert float(gradient(losses.not_true_distillation, z, zg, y, tau).abs().max()) < 1e-14
    assert float(losses.kd(z, zg, tau)) > 1e-3  # plain distillation is not blind to the true class


@CASES
@given(st.integers(0, 10**6))
def test_divergence_decomposes(seed):
    z, zg, y = logits(seed, batch=1)
    q, p, label = z.softmax(1)[0], zg.softmax(1)[0], int(y)
    binary = sum(a * (a / b).log() for a, b in ((p[label], q[label]), (1 - p[label], 1 - q[label])))
    whole = binary + (1 - p[label]) * losses.not_true_distillation(z, zg, y)
    assert float(losses.kd(z, zg)) == pytest.approx(float(whole), abs=1e-12)


def test_two_classes_leave_nothing_to_distil():
    z, zg, y = logits(0, classes=2)
    assert losses.not_true_distillation(z, zg, y) == 0
    assert torch.equal(gradient(losses.not_true_distillation, z, zg, y), torch.zeros_like(z))


def test_the_label_is_removed_whether_or_not_the_teacher_is_right():
    zg = torch.tensor([[9.0, 1.0, 2.0], [9.0, 1.0, 2.0]], dtype=torch.float64)  # says class 0
    kept = losses.not_true_logits(zg, torch.tensor([0, 1]))
    assert kept.tolist() == [[1.0, 2.0], [9.0, 2.0]]


def test_squared_temperature_keeps_the_gradient_from_vanishing():
    z, zg, y = logits(2)
    with_it = gradient(losses.not_true_distillation, z, zg, y, 100.0)
    # For large tau the gradient tends to the gap of the centred logits over C - 1 (Hinton et al. 2015, section 2.1).
    for row, a, b, label in zip(with_it, z, zg, y.tolist(), strict=True):
        gap = others(a, label) - others(b, label)
        torch.testing.assert_close(others(row, label), (gap - gap.mean()) / len(gap) / len(z), rtol=0.05, atol=2e-3)
    without = gradient(lambda s: losses.not_true_distillation(s, zg, y, 100.0) / 100.0**2, z)
    assert float(without.norm()) < 1e-3 * float(with_it.norm())


def test_temperature_must_be_positive():
    z, zg, y = logits(0)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        losses.not_true_distillation(z, zg, y, 0)


def test_works_under_vmap_as_sample_by_sample():
    z, zg, y = (torch.stack(v) for v in zip(logits(0), logits(1), strict=True))
    together = torch.vmap(losses.not_true_distillation)(z, zg, y)
    apart = torch.stack([losses.not_true_distillation(*v) for v in zip(z, zg, y, strict=True)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-14)


# Traps: the wrong version must fail the identity that the right one passes.


def test_masking_by_zero_is_another_loss():
    z, zg, y = logits(3)
    right, wrong = losses.not_true_distillation(z, zg, y, 3.0), masked_by_zero(z, zg, y, 3.0)
    assert abs(float(right - wrong)) > 0.01
    same = gradient(masked_by_zero, zg, zg, y, 3.0)
    assert float(same.abs().max()) > 1e-3  # it pulls even where student and teacher agree
    assert bool((same.sum(1) < -1e-3).all())  # and lifts all not-true logits together, step after step
    shifted = move_true(zg + 4.0, y, 1.0)
    assert float(masked_by_zero(shifted, zg, y, 3.0)) != pytest.approx(float(masked_by_zero(zg, zg, y, 3.0)), abs=1e-3)


def test_masking_by_minus_infinity_gives_nan():
    z, zg, y = logits(4)
    true = F.one_hot(y, z.shape[1]).bool()
    masked = [v.masked_fill(true, -torch.inf) for v in (z, zg)]
    log_q, p = masked[0].log_softmax(1), masked[1].softmax(1)
    assert bool(torch.isnan((p * (p.log() - log_q)).sum()))  # 0 * (-inf + inf)
    assert bool(torch.isfinite(losses.not_true_distillation(z, zg, y)))


def test_argument_order_and_reduction_of_torchs_divergence():
    z, zg, y = logits(5)
    log_q, p = losses.not_true_logits(z, y).log_softmax(1), losses.not_true_logits(zg, y).softmax(1)
    ours = losses.not_true_distillation(z, zg, y)
    torch.testing.assert_close(ours, F.kl_div(log_q, p, reduction="batchmean"), rtol=0, atol=1e-14)
    with pytest.warns(UserWarning, match="batchmean"):
        mean = F.kl_div(log_q, p, reduction="mean")
    assert float(mean) == pytest.approx(float(ours) / (z.shape[1] - 1))  # "mean" divides by the classes as well
    swapped = F.kl_div(p.log(), log_q.exp(), reduction="batchmean")
    assert abs(float(swapped - ours)) > 0.01  # KL is not symmetric: the teacher stands first


# In the federation.


def federation(algorithm, rounds=2, epochs=2, batch_size=7, executor="sequential", momentum=0.9, classes=4):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 6, generator=g), torch.arange(80) % classes
    fed = Federation(
        lambda: models.MLP(6, (8,), classes),
        x,
        y,
        partition.shards(y, 5, 2, rng.stream(0, "split")),
        algorithm,
        local=Local(epochs, batch_size, 0.1, momentum),
        participation=0.6,
        executor=executor,
        device="cpu",
        dtype=torch.float64,
    )
    fed.run(rounds)
    return fed


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("executor", ["sequential", "batched"])
@pytest.mark.parametrize("off", [FedNTD(0.0, 3.0), FedLSD(0.0, 3.0), FedLSD(0.0, 3.0, convex=True)])
def test_beta_zero_is_fedavg_bit_for_bit(off, executor):
    assert same(federation(off, executor=executor).state, federation(FedAvg(), executor=executor).state)
    assert not same(federation(FedNTD(1.0), executor=executor).state, federation(FedAvg(), executor=executor).state)


@pytest.mark.parametrize("method", [FedNTD(5.0, 3.0), FedNTD(1.0, 1.0), FedLSD(1.0, 3.0)])
def test_first_local_step_is_fedavgs(method):
    one_step = {"rounds": 1, "epochs": 1, "batch_size": 100}
    ours, plain = federation(method, **one_step), federation(FedAvg(), **one_step)
    for n, w in plain.state.items():
        torch.testing.assert_close(ours.state[n], w, rtol=0, atol=1e-15)
    two_steps = {"rounds": 1, "epochs": 2, "batch_size": 100}
    ours, plain = (federation(a, **two_steps).state["head.weight"] for a in (method, FedAvg()))
    assert float((ours - plain).abs().max()) > 1e-6


def test_with_two_classes_fedntd_is_fedavg():
    ours, plain = federation(FedNTD(3.0), classes=2), federation(FedAvg(), classes=2)
    for n, w in plain.state.items():
        torch.testing.assert_close(ours.state[n], w, rtol=0, atol=1e-14)


def test_executors_agree():
    a, b = (federation(FedNTD(1.0, 3.0), executor=e).state for e in ("sequential", "batched"))
    for n, w in a.items():
        torch.testing.assert_close(b[n], w, rtol=0, atol=1e-10)


def test_bytes_are_fedavgs():
    assert federation(FedNTD()).ledger.total == federation(FedAvg()).ledger.total


def test_teacher_is_the_received_model_in_evaluation_mode_without_gradient():
    net = models.Net(models.ResNet8(channels=1), dtype=torch.float64)
    received = net.initial()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 1, 8, 8, generator=g, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    before = {n: t.clone() for n, t in received.items()}
    state = {n: t.clone() for n, t in received.items()}
    leaves = {n: state[n].requires_grad_() for n in net.parameters}
    frozen = {n: (t.clone().requires_grad_() if n in net.parameters else t) for n, t in received.items()}
    loss = FedNTD(2.0, 3.0).objective(net, state, x, y, Context(frozen))
    with torch.no_grad():
        student, teacher = net({n: t.clone() for n, t in before.items()}, x, train=True), net(before, x)
    expected = F.cross_entropy(student, y) + 2 * by_definition(student, teacher, y, 3.0)
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-12)
    grads = torch.autograd.grad(loss, [frozen[n] for n in net.parameters], allow_unused=True, retain_graph=True)
    assert all(v is None for v in grads)  # nothing flows into the teacher
    assert all(v is not None for v in torch.autograd.grad(loss, list(leaves.values())))
    assert all(torch.equal(frozen[n], before[n]) for n in net.buffers)  # its statistics stay


def test_convex_form_of_fedlsd():
    net = models.Net(models.MLP(6, (8,), 4), dtype=torch.float64)
    received, moved = net.initial(), {n: t + 0.3 for n, t in net.initial().items()}
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 4
    ce, kd = F.cross_entropy(net(moved, x), y), losses.kd(net(moved, x), net(received, x), 3.0)
    for method, expected in ((FedLSD(0.3, 3.0), ce + 0.3 * kd), (FedLSD(0.3, 3.0, convex=True), 0.7 * ce + 0.3 * kd)):
        assert float(method.objective(net, moved, x, y, Context(received))) == pytest.approx(float(expected), abs=1e-12)


def test_impossible_weights_are_errors():
    with pytest.raises(ValueError, match="beta must be a finite number >= 0, got"):
        FedNTD(-0.1)
    with pytest.raises(ValueError, match=r"beta must be a finite number >= 0 and <= 1, got 1\.5"):
        FedLSD(1.5, convex=True)
