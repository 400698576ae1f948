"""FedDF: identities of the server step, and the mistakes that are easily made."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from fedlib import losses, metrics, partition, rng
from fedlib.algorithms import FedAvg, FedDF
from fedlib.distill import Distillation, distil
from fedlib.federation import Federation, Local
from fedlib.models import MLP
from fedlib.models.net import Net, clone

F64 = torch.float64
SHIFTS = st.lists(st.floats(-50, 50), min_size=6, max_size=6)


def blobs(n=120, classes=4, inputs=6):
    g = torch.Generator().manual_seed(3)
    y = torch.arange(n) % classes
    return torch.randn(n, inputs, generator=g, dtype=F64) + 2 * F.one_hot(y, inputs).double(), y


X, Y = blobs()
U = torch.randn(40, 6, generator=torch.Generator().manual_seed(4), dtype=F64)


class WithNorm(nn.Sequential):
    """A network with BatchNorm, whose running statistics tell who was in training mode."""

    def __init__(self):
        super().__init__(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def small():
    return MLP(6, (8,), 4)


def federation(algorithm, model=small, clients=4, participation=0.5, executor="sequential"):
    split = partition.dirichlet(Y, clients, 0.5, torch.Generator().manual_seed(0), min_size=4)
    return Federation(
        model, X, Y, split, algorithm, local=Local(2, 10, 0.1), participation=participation, seed=5,
        device="cpu", dtype=F64, executor=executor,
    )  # fmt: skip


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


def uploads_of(fed, count=3, spread=0.3):
    """Made-up uploads around the federation's state."""
    g = torch.Generator().manual_seed(9)
    start = fed.net.initial()

    def moved(t):
        return t + spread * torch.randn(t.shape, generator=g, dtype=F64) if t.is_floating_point() else t.clone()

    return [{n: moved(t) for n, t in start.items()} for _ in range(count)]


@pytest.mark.parametrize("executor", ["sequential", "batched"])
@pytest.mark.parametrize("model", [small, WithNorm], ids=["mlp", "batchnorm"])
def test_no_steps_is_fedavg_bit_for_bit(model, executor):
    plain = federation(FedAvg(), model, executor=executor)
    fused = federation(FedDF(U, Distillation(steps=0)), model, executor=executor)
    plain.run(3)
    fused.run(3)
    assert same(plain.state, fused.state)
    assert (plain.ledger.down, plain.ledger.up) == (fused.ledger.down, fused.ledger.up)


def test_distillation_moves_the_server_and_no_byte():
    plain, fused = federation(FedAvg()), federation(FedDF(U, Distillation(steps=5)))
    plain.run(2)
    fused.run(2)
    assert not same(plain.state, fused.state)
    numbers = sum(t.numel() for t in plain.state.values())
    assert plain.ledger.down == plain.ledger.up == fused.ledger.down == fused.ledger.up == [2 * 8 * numbers] * 2


def test_one_client_is_a_fixed_point():
    """Student and only teacher are the same model: the KL gradient is zero, and plain SGD moves nothing.

    Adam may still walk: it divides a gradient of rounding size by its own size. So the law is stated for the gradient.
    """
    net = Net(MLP(6, (8,), 4), dtype=F64)
    state = net.initial()
    leaves = {n: t.requires_grad_() for n, t in clone(state).items()}
    loss = losses.kd(net(leaves, U, train=True), net(state, U))
    grads = torch.autograd.grad(loss, list(leaves.values()))
    assert abs(float(loss.detach())) < 1e-14
    assert max(float(g.abs().max()) for g in grads) < 1e-14
    moved = {n: (t - 0.1 * g).detach() for (n, t), g in zip(leaves.items(), grads, strict=True)}
    assert max(float((moved[n] - state[n]).abs().max()) for n in state) < 1e-14


def test_equal_teachers_are_one_teacher():
    fed = federation(FedDF(U, Distillation(steps=6)))
    upload = uploads_of(fed, 1)[0]
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    fed.algorithm.start = "previous"  # else the student would be its teacher
    start = fed.state
    fed.aggregate([clone(upload) for _ in range(3)], weights)
    three, fed.state = fed.state, start
    fed.aggregate([upload], torch.ones(1, dtype=F64))
    assert max(float((three[n] - fed.state[n]).abs().max()) for n in three) < 1e-10
    assert not same(fed.state, start)


def test_teachers_are_averaged_before_the_softmax():
    """The target is softmax(mean of logits), which is not the mean of softmaxes."""
    fed = federation(FedDF(U, Distillation(steps=4, batch_size=40)))
    uploads, start = uploads_of(fed), fed.state
    fed.aggregate(uploads, torch.full((3,), 1 / 3, dtype=F64))
    logits = torch.stack([fed.net(u, U) for u in uploads]).detach()
    mean = {n: sum(u[n] for u in uploads) / 3 for n in start}
    stream = [rng.stream(5, "distil", 0) for _ in range(2)]
    right = distil(fed.net, mean, U, logits.mean(0), fed.algorithm.distillation, stream[0])
    wrong = distil(fed.net, mean, U, logits.softmax(-1).mean(0).log(), fed.algorithm.distillation, stream[1])
    assert max(float((right[n] - fed.state[n]).abs().max()) for n in right) < 1e-12
    assert max(float((wrong[n] - fed.state[n]).abs().max()) for n in right) > 1e-5


@settings(max_examples=30, deadline=None)
@given(SHIFTS, SHIFTS, st.integers(0, 999))
def test_shift_of_logits_changes_nothing(of_student, of_teacher, seed):
    """A constant added to all logits of a sample, of student or teacher, leaves loss and gradient as they are."""
    g = torch.Generator().manual_seed(seed)
    z, t = (torch.randn(6, 4, generator=g, dtype=F64) * 3 for _ in range(2))
    a, b = (torch.tensor(v, dtype=F64)[:, None] for v in (of_student, of_teacher))
    z.requires_grad_()
    plain, shifted = losses.kd(z, t), losses.kd(z + a, t + b)
    assert abs(float((plain - shifted).detach())) < 1e-12
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (plain, shifted)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_the_teacher_stands_first():
    """F.kl_div takes the student's log-probabilities and the teacher's probabilities, in this order."""
    teacher, student = torch.tensor([[4.0, 0.0, -1.0]], dtype=F64), torch.tensor([[0.5, 0.0, 0.0]], dtype=F64)
    ours = losses.kd(student, teacher)
    right = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    swapped = F.kl_div(teacher.log_softmax(1), student.softmax(1), reduction="batchmean")
    pairs = zip(teacher.softmax(1)[0].tolist(), student.softmax(1)[0].tolist(), strict=True)
    by_hand = sum(p * math.log(p / q) for p, q in pairs)
    assert float(ours) == pytest.approx(by_hand, rel=1e-12) == float(right)
    assert abs(float(ours) - float(swapped)) > 0.1


@pytest.mark.filterwarnings("ignore:reduction")
def test_batchmean_is_not_mean():
    """PyTorch's default divides by samples x classes: a loss, and a gradient, C times too small."""
    g = torch.Generator().manual_seed(0)
    z, t = (torch.randn(8, 5, generator=g, dtype=F64) for _ in range(2))
    default = F.kl_div(z.log_softmax(1), t.softmax(1), reduction="mean")
    assert float(losses.kd(z, t)) == pytest.approx(5 * float(default), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.floats(0.1, 30))
def test_kl_is_a_divergence(seed, classes, size):
    """Never negative, zero for equal logits; its gradient is (softmax(student) - softmax(teacher)) / batch size."""
    g = torch.Generator().manual_seed(seed)
    z, t = (size * torch.randn(7, classes, generator=g, dtype=F64) for _ in range(2))
    z.requires_grad_()
    loss = losses.kd(z, t)
    assert float(loss.detach()) >= -1e-12
    assert abs(float(losses.kd(t, t))) < 1e-12
    expected = ((z.softmax(1) - t.softmax(1)) / 7).detach()
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected, atol=1e-10, rtol=1e-8)


def test_student_trains_and_teachers_do_not():
    """BatchNorm: the student's statistics move towards the unlabelled data, the teachers' stay where they were."""
    fed = federation(FedDF(U + 5, Distillation(steps=30)), WithNorm)
    start = fed.net.initial()
    uploads = [start | {n: t * 1.01 for n, t in start.items() if t.is_floating_point()} for _ in range(3)]
    before = [clone(u) for u in uploads]
    fed.aggregate(uploads, torch.full((3,), 1 / 3, dtype=F64))
    assert all(same(a, b) for a, b in zip(uploads, before, strict=True))
    moved = fed.state["1.running_mean"] - before[0]["1.running_mean"]
    assert float(moved.abs().max()) > 0.1
    assert int(fed.state["1.num_batches_tracked"]) == 30


def test_teachers_answer_in_evaluation_mode():
    """An answer that depends on who else is in the batch would show: training-mode logits give another student."""
    how = Distillation(steps=3, batch_size=40)
    fed = federation(FedDF(U, how), WithNorm)
    uploads, start = uploads_of(fed, 2, 0.1), clone(fed.state)
    fed.aggregate(uploads, torch.full((2,), 0.5, dtype=F64))
    mean = {n: (uploads[0][n] + uploads[1][n]) / 2 if start[n].is_floating_point() else start[n] for n in start}
    student = {}
    for mode in (False, True):
        logits = torch.stack([fed.net(clone(u), U, train=mode) for u in uploads]).mean(0).detach()
        student[mode] = distil(fed.net, mean, U, logits, how, rng.stream(5, "distil", 0))
    names = fed.net.parameters
    assert max(float((student[False][n] - fed.state[n]).abs().max()) for n in names) < 1e-12
    assert max(float((student[True][n] - fed.state[n]).abs().max()) for n in names) > 1e-5


def perfect_and_broken(fed):
    """Three uploads that know the classes, and one of random weights that scores at chance or below."""
    fed.run(8)
    good = [{n: t + 1e-3 * i for n, t in fed.state.items()} for i in range(3)]
    broken = {n: torch.zeros_like(t) for n, t in fed.state.items()}
    broken["head.bias"] = torch.tensor([0.0, 0.0, 0.0, 9.0], dtype=F64)  # says class 3, always
    return good, broken


def test_drop_worst_removes_a_broken_client():
    fed = federation(FedDF(U, Distillation(steps=0), validation=(X, Y)), participation=1.0)
    good, broken = perfect_and_broken(fed)
    assert metrics.accuracy(fed.net(broken, X), Y) == 0.25  # chance is 1/4, the bar 0.3
    assert min(metrics.accuracy(fed.net(g, X), Y) for g in good) > 0.5
    weights = torch.tensor([0.1, 0.5, 0.2, 0.2], dtype=F64)
    kept, share = fed.algorithm.drop_worst(fed, [good[0], broken, good[1], good[2]], weights)
    assert [id(u) for u in kept] == [id(g) for g in good]
    torch.testing.assert_close(share, torch.tensor([0.2, 0.4, 0.4], dtype=F64))
    fed.aggregate([good[0], broken, good[1], good[2]], weights)
    expected = {n: 0.2 * good[0][n] + 0.4 * good[1][n] + 0.4 * good[2][n] for n in broken}
    assert max(float((fed.state[n] - expected[n]).abs().max()) for n in expected) < 1e-12


def test_drop_worst_keeps_all_when_none_is_good():
    fed = federation(FedDF(U, Distillation(steps=0), validation=(X, Y)))
    broken = perfect_and_broken(fed)[1]
    weights = torch.tensor([0.25, 0.75], dtype=F64)
    kept, share = fed.algorithm.drop_worst(fed, [broken, broken], weights)
    assert len(kept) == 2
    torch.testing.assert_close(share, weights)


def test_without_validation_data_nobody_is_dropped():
    fed = federation(FedDF(U))
    uploads, weights = [fed.state, fed.state], torch.tensor([0.5, 0.5], dtype=F64)
    assert fed.algorithm.drop_worst(fed, uploads, weights) == (uploads, weights)


def test_start_previous():
    """The student starts at the previous fused model: with no steps the server stands still."""
    fed = federation(FedDF(U, Distillation(steps=0), start="previous"))
    start = clone(fed.state)
    fed.run(2)
    assert same(fed.state, start)
    moved = federation(FedDF(U, Distillation(steps=3), start="previous"))
    moved.run(1)
    assert not same(moved.state, start)


def test_weighting_by_samples_and_uniform():
    none = Distillation(steps=0)
    rounds = {w: federation(FedDF(U, none, weighting=w), participation=1.0) for w in ("samples", "uniform")}
    seen = {w: [] for w in rounds}
    for w, fed in rounds.items():
        fed.observers.append(lambda fed, r, w=w: seen[w].append(r) or {})
        fed.run(1)
    sizes = torch.tensor([len(part) for part in rounds["samples"].split], dtype=F64)
    assert len(set(sizes.tolist())) > 1
    for w, p in (("samples", sizes / sizes.sum()), ("uniform", torch.full((4,), 0.25, dtype=F64))):
        stacked = {n: torch.stack([u[n] for u in seen[w][0].uploads]) for n in rounds[w].state}
        for n, t in stacked.items():
            torch.testing.assert_close(rounds[w].state[n], torch.einsum("k,k...->...", p, t), atol=1e-13, rtol=0)


def test_an_unknown_start_is_an_error():
    with pytest.raises(ValueError, match="'average' or 'previous'"):
        FedDF(U, start="middle")


def test_same_seed_same_bits_and_executors_agree():
    runs = [federation(FedDF(U, Distillation(steps=4)), executor=e) for e in ("sequential", "sequential", "batched")]
    for fed in runs:
        fed.run(2)
    assert same(runs[0].state, runs[1].state)
    assert max(float((runs[0].state[n] - runs[2].state[n]).abs().max()) for n in runs[0].state) < 1e-9
