"""FedLSD in its convex form, weight divergence and label skew: identities in float64, controls, and easy mistakes."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from fedlib import losses, metrics, models, observe, partition, rng
from fedlib.algorithms import FedAvg, FedLSD
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Local, Round

CASES = settings(deadline=None, max_examples=30)


def logits(seed, batch=6, classes=5, scale=2.0):
    """Student and teacher logits [batch, classes] and labels."""
    g = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(batch, classes, generator=g, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(classes, (batch,), generator=g)


def gradient(loss, at):
    leaf = at.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def by_definition(student, teacher, target, beta, tau):
    """(1 - beta) CE + beta LSD, sample by sample and class by class."""
    total = 0.0
    for z, zg, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        q, warm, taught = (
            [math.exp(v / t) / sum(math.exp(u / t) for u in row) for v in row]
            for row, t in ((z, 1.0), (z, tau), (zg, tau))
        )
        lsd = -(tau**2) * sum(p * math.log(s / p) for p, s in zip(taught, warm, strict=True))
        total += (1 - beta) * -math.log(q[y]) + beta * lsd
    return total / len(student)


def convex(z, zg, y, beta, tau):
    """The objective of FedLSD as a function of logits, through the class itself: the network is the identity."""
    net = lambda state, x, train=False: state["z"]  # noqa: E731
    return FedLSD(beta, tau, convex=True).objective(net, {"z": z}, None, y, Context({"z": zg}))


# The loss.


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.5, 1.0, 3.0]))
def test_objective_from_the_definition(seed, beta, tau):
    z, zg, y = logits(seed)
    assert float(convex(z, zg, y, beta, tau)) == pytest.approx(by_definition(z, zg, y, beta, tau), abs=1e-12)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.5, 1.0, 3.0]))
def test_gradient_per_logit(seed, beta, tau):
    z, zg, y = logits(seed)
    expected = (1 - beta) * (z.softmax(1) - F.one_hot(y, z.shape[1]))
    expected = expected + beta * tau * ((z / tau).softmax(1) - (zg / tau).softmax(1))
    found = gradient(lambda v: convex(v, zg, y, beta, tau), z)
    torch.testing.assert_close(found, expected / len(z), rtol=0, atol=1e-14)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([1.0, 3.0]))
def test_distillation_is_zero_where_logits_differ_by_a_constant_per_sample(seed, tau):
    _, zg, _ = logits(seed)
    shift = 5 * torch.randn(len(zg), 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert float(losses.kd(zg + shift, zg, tau)) == pytest.approx(0, abs=1e-13)
    assert float(gradient(lambda v: losses.kd(v, zg, tau), zg + shift).abs().max()) < 1e-14
    assert float(losses.kd(zg + shift[:, :1] * torch.eye(5, dtype=torch.float64)[0], zg, tau)) > 1e-4


def test_cross_entropy_to_the_teacher_differs_by_its_entropy_alone():
    """The early code minimises tau^2 times the cross-entropy: another value, the same gradient."""
    z, zg, _ = logits(1)
    entropy = torch.distributions.Categorical(logits=zg / 3).entropy().mean()
    cross = lambda v: 9 * F.cross_entropy(v / 3, (zg / 3).softmax(1))  # noqa: E731
    assert float(cross(z) - losses.kd(z, zg, 3.0)) == pytest.approx(float(9 * entropy), abs=1e-12)
    same = gradient(lambda v: losses.kd(v, zg, 3.0), z)
    torch.testing.assert_close(gradient(cross, z), same, rtol=0, atol=1e-14)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([1.0, 3.0]))
def test_near_the_teacher_it_is_a_proximal_term_on_predictions(seed, tau):
    """tau^2 KL(q^g || q) = 1/2 d^T (diag(q) - q q^T) d + O(d^3) at temperature tau: FedProx's square, but of logits."""
    d, zg, _ = logits(seed, batch=1)
    q = (zg[0] / tau).softmax(0)
    half = 0.5 * float(d[0] @ (torch.diag(q) - torch.outer(q, q)) @ d[0])
    for eps in (1e-2, 1e-3):
        assert float(losses.kd(zg + eps * d, zg, tau)) / eps**2 == pytest.approx(half, abs=40 * eps)


# Mistakes in the loss: the wrong version must fail what the right one passes.


def test_a_label_as_the_teacher_is_not_self_distillation():
    """Reading the teacher's superscript as the label makes the term a warm cross-entropy, with a pull at the start."""
    _, zg, y = logits(2)
    label = F.one_hot(y, zg.shape[1]).double()
    as_label = lambda v: 9 * F.cross_entropy(v / 3, label)  # noqa: E731
    assert float(gradient(as_label, zg).abs().max()) > 0.05
    assert float(gradient(lambda v: losses.kd(v, zg, 3.0), zg).abs().max()) < 1e-15


def test_reduction_and_argument_order_of_torchs_divergence():
    z, zg, _ = logits(3)
    log_q, p = (z / 3).log_softmax(1), (zg / 3).softmax(1)
    ours = float(losses.kd(z, zg, 3.0))
    assert float(9 * F.kl_div(log_q, p, reduction="batchmean")) == pytest.approx(ours, abs=1e-14)
    with pytest.warns(UserWarning, match="batchmean"):
        assert float(9 * F.kl_div(log_q, p, reduction="mean")) == pytest.approx(ours / 5)
    swapped = float(9 * F.kl_div(p.log(), log_q.exp(), reduction="batchmean"))
    assert abs(swapped - ours) > 0.01


# In the federation.


def federation(algorithm, rounds=2, epochs=2, batch_size=7, executor="sequential", model=None, part=0.6, seed=0, **how):
    """Five clients of two shards, four classes; float64."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(80, 6, generator=g), torch.arange(80) % 4
    fed = Federation(
        model or (lambda: models.MLP(6, (8,), 4)),
        x,
        y,
        partition.shards(y, 5, 2, rng.stream(seed, "split")),
        algorithm,
        local=Local(epochs, batch_size, **({"lr": 0.1, "momentum": 0.9} | how)),
        participation=part,
        seed=seed,
        executor=executor,
        device="cpu",
        dtype=torch.float64,
    )
    fed.run(rounds)
    return fed


def furthest(a, b):
    """Largest absolute difference of two states."""
    return max(float((a[n] - b[n]).abs().max()) for n in a)


ONE_STEP = {"rounds": 1, "epochs": 1, "batch_size": 100}


@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_beta_one_leaves_the_weights_where_they_were(executor):
    fed = federation(FedLSD(1.0, 3.0, convex=True), rounds=5, executor=executor)
    assert furthest(fed.state, fed.net.initial()) < 1e-13  # the minimum attracts: rounding does not grow
    assert furthest(federation(FedLSD(0.9, 3.0, convex=True)).state, fed.net.initial()) > 1e-3


def test_beta_one_with_weight_decay_does_move():
    fed = federation(FedLSD(1.0, 3.0, convex=True), weight_decay=0.1)
    assert furthest(fed.state, fed.net.initial()) > 1e-3


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_first_step_is_one_minus_beta_times_fedavgs(beta, momentum):
    ours, plain = (federation(a, momentum=momentum, **ONE_STEP) for a in (FedLSD(beta, 3.0, convex=True), FedAvg()))
    start = plain.net.initial()
    for n, w in plain.state.items():
        torch.testing.assert_close(ours.state[n] - start[n], (1 - beta) * (w - start[n]), rtol=0, atol=1e-14)


def test_the_step_is_not_scaled_where_weights_decay():
    """Weight decay is outside the mixture: FedLSD keeps all of it, the lower learning rate does not."""
    ours, plain = (federation(a, weight_decay=0.1, **ONE_STEP) for a in (FedLSD(0.5, 3.0, convex=True), FedAvg()))
    start = plain.net.initial()
    gap = {n: ours.state[n] - start[n] - 0.5 * (w - start[n]) for n, w in plain.state.items()}
    decay = {n: -0.5 * 0.1 * 0.1 * start[n] for n in start}  # (1 - (1 - beta)) lr * decay * w
    assert furthest(gap, decay) < 1e-15


@pytest.mark.parametrize("beta", [0.3, 0.5])
def test_convex_is_additive_with_another_weight_and_learning_rate(beta):
    """(1 - b) CE + b LSD at rate lr is CE + b / (1 - b) LSD at rate (1 - b) lr: exact through all rounds."""
    mixed = federation(FedLSD(beta, 3.0, convex=True), rounds=4)
    added = federation(FedLSD(beta / (1 - beta), 3.0), rounds=4, lr=0.1 * (1 - beta))
    assert furthest(mixed.state, added.state) < 1e-12
    assert (
        furthest(mixed.state, federation(FedLSD(beta, 3.0), rounds=4).state) > 1e-3
    )  # the same beta is another method


class MovingTeacher(FedLSD):
    """The mistake of taking the teacher from the model that is being trained."""

    @per_sample
    def objective(self, net, state, x, y, context):
        now = {n: t.detach() for n, t in state.items()}
        return super().objective(net, state, x, y, Context(now, context.own, context.round))


@pytest.mark.parametrize("beta", [0.3, 0.5])
def test_a_moving_teacher_is_fedavg_with_a_lower_rate_for_ever(beta):
    control = federation(FedAvg(), rounds=4, lr=0.1 * (1 - beta))
    assert furthest(federation(MovingTeacher(beta, 3.0, convex=True), rounds=4).state, control.state) < 1e-12
    assert furthest(federation(FedLSD(beta, 3.0, convex=True), rounds=4).state, control.state) > 1e-3


def test_teacher_of_a_round_is_what_that_round_sent():
    """Not the first model, and not the mean that the round is about to compute."""
    seen = []

    class Watching(FedLSD):
        def objective(self, net, state, x, y, context):
            seen.append((context.round, float(context.received["head.weight"].sum())))
            return super().objective(net, state, x, y, context)

    fed, sent = federation(Watching(0.5, 3.0, convex=True), rounds=0), []
    for _ in range(3):
        sent.append(float(fed.state["head.weight"].sum()))
        fed.run(1)
    assert {value for t, value in seen if t == 0} == {sent[0]}
    assert [{v for t, v in seen if t == r} for r in range(3)] == [{s} for s in sent]
    assert len(set(sent)) == 3


def objective_at_the_start(net, x, teacher_x=None, teacher_train=False):
    """Distillation term where the student has not moved yet."""
    state = net.initial()
    with torch.no_grad(), rng.isolated("dropout"):
        student = net(state, x, train=True)
        teacher = net(net.initial(), x if teacher_x is None else teacher_x, train=teacher_train)
    return float(losses.kd(student, teacher, 3.0))


def test_teacher_sees_the_same_augmented_batch():
    net = models.Net(models.MLP(6, (8,), 4), dtype=torch.float64)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert objective_at_the_start(net, x) == 0
    assert objective_at_the_start(net, x, teacher_x=x + 0.3) > 1e-5
    calls = []
    spy = lambda state, x, train=False: calls.append((x, train)) or net(state, x, train)  # noqa: E731
    FedLSD(0.5, 3.0, convex=True).objective(spy, net.initial(), x, torch.arange(9) % 4, Context(net.initial()))
    assert [train for _, train in calls] == [True, False]  # student, teacher
    assert calls[0][0] is calls[1][0]


def test_with_dropout_the_start_is_no_longer_at_rest():
    """The identities need a network that is the same function in training and evaluation."""
    make = lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))  # noqa: E731
    net = models.Net(make(), dtype=torch.float64)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert objective_at_the_start(net, x) > 1e-3
    assert objective_at_the_start(net, x, teacher_train=True) > 1e-3  # a noisy teacher: other units are dropped


def test_bytes_are_fedavgs():
    ours, plain = (federation(a).ledger for a in (FedLSD(0.5, 3.0, convex=True), FedAvg()))
    assert (ours.down, ours.up) == (plain.down, plain.up)


def test_executors_agree_in_the_convex_form():
    a, b = (federation(FedLSD(0.5, 3.0, convex=True), executor=e).state for e in ("sequential", "batched"))
    assert furthest(a, b) < 1e-10


# Weight divergence.


def central(rounds, batch_size, epochs=1, seed=0, start=None, **how):
    """SGD on the pooled data of :func:`federation`: one client that holds everything."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(80, 6, generator=g), torch.arange(80) % 4
    local = Local(epochs, batch_size, **({"lr": 0.1, "momentum": 0.9} | how))
    make = lambda: models.MLP(6, (8,), 4)  # noqa: E731
    everything, double = [torch.arange(80)], {"device": "cpu", "dtype": torch.float64}
    fed = Federation(make, x, y, everything, FedAvg(), local=local, seed=seed, **double)
    fed.state = start or fed.state
    fed.run(rounds)
    return fed


@pytest.mark.parametrize("rounds", [1, 6])
def test_one_full_local_step_does_not_diverge_whatever_the_skew(rounds):
    """The mean of the clients' gradients is the pooled gradient: divergence comes from the second local step on."""
    how = {"rounds": rounds, "epochs": 1, "batch_size": 100}
    whole = central(**how).state
    assert metrics.weight_divergence(federation(FedAvg(), part=1.0, **how).state, whole) < 1e-14
    several = {"rounds": rounds, "epochs": 3, "batch_size": 100}
    drifted = metrics.weight_divergence(federation(FedAvg(), part=1.0, **several).state, central(**several).state)
    assert drifted > 1e-4


def test_divergence_of_the_whole_is_made_of_the_layers():
    fed, whole = federation(FedAvg(), part=1.0, rounds=3).state, central(3, 35, epochs=2).state
    layers = {n: metrics.weight_divergence({n: fed[n]}, {n: w}) for n, w in whole.items()}
    size = {n: float(w.square().sum()) for n, w in whole.items()}
    joined = math.sqrt(sum(layers[n] ** 2 * size[n] for n in whole) / sum(size.values()))
    found = metrics.weight_divergence(fed, whole)
    assert found == pytest.approx(joined, rel=1e-12)
    assert min(layers.values()) < found < max(layers.values())
    assert found != pytest.approx(sum(layers.values()) / len(layers), rel=0.01)  # not the mean of the layers


def test_divergence_is_relative_to_central_sgd_and_not_symmetric():
    fed, whole = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([6.0, 8.0])}
    assert metrics.weight_divergence(fed, whole) == pytest.approx(0.5)
    assert metrics.weight_divergence(whole, fed) == pytest.approx(1.0)


def test_another_start_swamps_the_measure():
    """Two independent starts are about sqrt(2) apart before any training: the same initial weights are needed."""
    a, b = (rng.build(partial(models.MLP, 64, (64, 64)), s, "init").double().state_dict() for s in (0, 1))
    assert metrics.weight_divergence(a, b) == pytest.approx(math.sqrt(2), abs=0.05)
    same, other = central(3, 35).state, central(3, 35, start=central(0, 35, seed=1).state).state
    ours = federation(FedAvg(), part=1.0, rounds=3, epochs=1).state
    assert metrics.weight_divergence(ours, other) > 3 * metrics.weight_divergence(ours, same)


def test_distance_from_the_received_model_is_another_measure():
    """What FedNTD plots under the same name compares a client with the server, not the server with central SGD."""
    fed = federation(FedAvg(), part=1.0, rounds=0, epochs=1, batch_size=100)
    got = []
    fed.observers = [
        lambda fed, seen: (
            got.extend(metrics.weight_divergence(s, r) for s, r in zip(seen.states, seen.received, strict=True)) or {}
        )
    ]
    fed.run(1)
    assert min(got) > 1e-3
    assert metrics.weight_divergence(fed.state, central(1, 100).state) < 1e-14


# Label skew.


def held(classes, each=60, home=0):
    """Labels of a client with equal shares of ``classes`` of ten classes."""
    return torch.tensor([(home + i) % 10 for i in range(classes)]).repeat_interleave(each // classes)


@pytest.mark.parametrize(("classes", "distance"), [(1, 1.8), (2, 1.6), (5, 1.0), (10, 0.0)])
def test_skew_of_equal_classes_is_exact(classes, distance):
    everyone = torch.arange(600) % 10
    for home in range(10):
        assert metrics.label_emd(held(classes, home=home), everyone) == pytest.approx(distance, abs=1e-15)
    assert distance == pytest.approx(2 * (1 - classes / 10))


@CASES
@given(st.integers(0, 10**6))
def test_skew_is_twice_the_transport_cost_between_unequal_classes(seed):
    """With distance 1 between any two classes the cheapest transport moves half of the sum of differences."""
    from scipy.optimize import linprog

    g = torch.Generator().manual_seed(seed)
    a, b = torch.randint(4, (12,), generator=g), torch.randint(4, (20,), generator=g)
    p, q = (torch.bincount(v, minlength=4).double() / len(v) for v in (a, b))
    cost = (1 - torch.eye(4)).flatten().tolist()
    rows = [torch.eye(4)[i].repeat_interleave(4).tolist() for i in range(4)]
    columns = [torch.eye(4)[i].repeat(4).tolist() for i in range(4)]
    plan = linprog(cost, A_eq=rows + columns, b_eq=[*p.tolist(), *q.tolist()])
    assert metrics.label_emd(a, b) == pytest.approx(2 * plan.fun, abs=1e-9)


@CASES
@given(st.integers(1, 60))
def test_shared_data_shrink_the_skew_by_the_clients_own_share(shared):
    """n_k samples of one class and g balanced ones: 1.8 n_k / (n_k + g). Five percent of all is half of a tenth."""
    everyone = torch.arange(1200) % 10
    mixed = torch.cat([held(1, each=120), torch.arange(10).repeat(shared)])
    assert metrics.label_emd(mixed, everyone) == pytest.approx(1.8 * 120 / (120 + 10 * shared))
    if shared == 6:
        assert metrics.label_emd(mixed, everyone) == pytest.approx(1.2)


# Forgetting and local accuracy of known models.


def test_in_and_out_local_accuracy_of_clients_that_know_only_their_own():
    """Each client's model answers with one class, whatever it is shown: its own, then a foreign one."""
    x, y = torch.eye(4, dtype=torch.float64).repeat(10, 1), torch.arange(4).repeat(10)
    split = [torch.nonzero(y == c).squeeze(1) for c in range(4)]

    fed = Federation(lambda: models.MLP(4, (), 4), x, y, split, FedAvg(), dtype=torch.float64)
    zero = {n: torch.zeros_like(t) for n, t in fed.state.items()}
    states = [zero | {"head.bias": 9 * row} for row in torch.eye(4).to(zero["head.bias"])]
    seen = Round(0, [0, 1, 2, 3], states, states, states, [0.0] * 4)
    found = observe.local_accuracies(x, y)(fed, seen)
    assert found == pytest.approx({"in_local": 1.0, "out_local": 0.0})
    seen = Round(0, [0, 1, 2, 3], states, states[1:] + states[:1], states, [0.0] * 4)  # all know a foreign class
    assert observe.local_accuracies(x, y)(fed, seen) == pytest.approx({"in_local": 0.0, "out_local": 1 / 3})


def test_a_server_that_takes_turns_forgets_all_of_it():
    """Perfect on one class after the other, round robin: F = (C - 1) / C, as the last class is still known."""
    turns = torch.eye(4, dtype=torch.float64).repeat(3, 1)
    assert metrics.forgetting(turns) == pytest.approx(3 / 4)
    assert metrics.forgetting(turns[:-3]) == pytest.approx(3 / 4)  # whoever is last
    assert metrics.forgetting(torch.ones_like(turns)) == 0
