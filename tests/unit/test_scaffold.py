"""SCAFFOLD with option II: exact control variates, what the server makes of them, and what they cost on the wire."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlib import models, partition, rng
from fedlib.algorithms import FedAvg, Scaffold
from fedlib.federation import Federation, Local
from fedlib.losses import cross_entropy

CASES = settings(deadline=None, max_examples=15)
FLOAT = torch.float64
WEIGHTS = 6 * 8 + 8 + 8 * 4 + 4


def model():
    return models.MLP(6, (8,), 4)


def federation(algorithm=None, rounds=2, local=None, executor="sequential", clients=5, **options):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 6, generator=g), torch.arange(80) % 4
    settings = {"participation": 0.6, "device": "cpu", "dtype": FLOAT} | options
    split = partition.dirichlet(y, clients, 0.5, rng.stream(0, "split"))
    algorithm, local = algorithm or Scaffold(), local or Local(2, 7, 0.1)
    fed = Federation(model, x, y, split, algorithm, local=local, executor=executor, **settings)
    fed.run(rounds)
    return fed


def distance(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def by_hand(fed, rounds):
    """Algorithm 1 of the paper with option II, written from it: plain SGD, equal clients."""
    net, w = fed.net, fed.net.initial()
    names, rate, size = net.parameters, fed.local.lr, fed.local.batch_size
    c = {n: torch.zeros_like(w[n]) for n in names}
    controls = [dict(c) for _ in fed.split]
    for t in range(rounds):
        ends, changes = [], []
        for k in fed.sample(t):
            own, rows = {n: v.clone() for n, v in w.items()}, fed.split[k]
            order = rng.stream(fed.seed, "batches", t, k, 0)
            steps = 0
            for _ in range(fed.local.epochs):
                for part in torch.randperm(len(rows), generator=order).split(size):
                    leaves = {n: own[n].detach().requires_grad_() for n in names}
                    loss = cross_entropy(net(leaves, fed.x[rows[part]]), fed.y[rows[part]])
                    grads = torch.autograd.grad(loss, list(leaves.values()))
                    own = {n: own[n] - rate * (g - controls[k][n] + c[n]) for n, g in zip(names, grads, strict=True)}
                    steps += 1
            new = {n: controls[k][n] - c[n] + (w[n] - own[n]) / (steps * rate) for n in names}
            changes.append({n: new[n] - controls[k][n] for n in names})
            ends.append({n: own[n] - w[n] for n in names})
            controls[k] = new
        w = {n: w[n] + sum(e[n] for e in ends) / len(ends) for n in names}
        c = {n: c[n] + sum(d[n] for d in changes) / len(fed.split) for n in names}
    return w, c, controls


def test_equals_algorithm_1_written_by_hand():
    fed = federation(rounds=4)
    w, c, controls = by_hand(fed, 4)
    assert distance(fed.state, w) < 1e-13
    assert distance(fed.memory["control"], c) < 1e-12
    for k, own in enumerate(controls):
        assert distance(fed.memory["controls"][k], own) < 1e-12


def gradients_on_the_way(fed, client, momentum):
    """Weighted mean of the gradients that a client saw in round 2, by replaying its steps; weights by how many later
    steps each enters.
    """
    net, local = fed.net, fed.local
    own = {n: t.clone() for n, t in fed.state.items()}
    tilt = fed.algorithm.context(fed, client)
    rows, order = fed.split[client], rng.stream(fed.seed, "batches", fed.round, client, 0)
    velocity = {n: torch.zeros_like(own[n]) for n in net.parameters}
    seen = []
    for _ in range(local.epochs):
        for part in torch.randperm(len(rows), generator=order).split(local.batch_size):
            leaves = {n: own[n].detach().requires_grad_() for n in net.parameters}
            loss = cross_entropy(net(leaves, fed.x[rows[part]]), fed.y[rows[part]])
            grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            seen.append(grads)
            for n in velocity:
                velocity[n] = momentum * velocity[n] + grads[n] + tilt[n]
                own[n] = own[n] - local.lr * velocity[n]
    u = len(seen)
    weights = [sum(momentum**i for i in range(u - j)) for j in range(u)]
    return {n: sum(a * g[n] for a, g in zip(weights, seen, strict=True)) / sum(weights) for n in velocity}


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_a_control_is_the_mean_gradient_of_the_clients_own_steps(momentum):
    fed = federation(rounds=1, local=Local(2, 7, 0.1, momentum), participation=1.0)
    expected = [gradients_on_the_way(fed, k, momentum) for k in range(fed.clients)]
    fed.run(1)
    for k, mean in enumerate(expected):
        assert distance(fed.memory["controls"][k], mean) < 1e-12


def test_counting_steps_alone_overshoots_under_momentum():
    """The usual code divides by steps times learning rate whatever the momentum."""

    class Naive(Scaffold):
        def reach(self, steps, momentum):
            return float(steps)

    local = Local(10, 7, 0.01, 0.9)
    naive, exact = (federation(a, 1, local, participation=1.0) for a in (Naive(), Scaffold()))
    ratio = [
        float(naive.memory["controls"][k][n].norm() / exact.memory["controls"][k][n].norm())
        for k in range(5)
        for n in naive.net.parameters
    ]
    assert min(ratio) > 4
    assert max(ratio) < 10  # 1 / (1 - momentum)


@CASES
@given(st.integers(1, 40), st.sampled_from([0.0, 0.5, 0.9]))
def test_reach_is_the_displacement_of_a_constant_gradient(steps, momentum):
    velocity = place = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1
        place += velocity
    assert Scaffold().reach(steps, momentum) == pytest.approx(place, rel=1e-12)
    assert Scaffold().reach(steps, 0.0) == steps


@pytest.mark.parametrize("executor", ["sequential", "batched"])
@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_the_first_round_is_fedavgs_bit_for_bit(executor, weighting):
    class Plain(FedAvg):
        pass

    Plain.weighting = weighting
    ours = federation(Scaffold(weighting=weighting), 1, executor=executor).state
    plain = federation(Plain(), 1, executor=executor).state
    assert all(torch.equal(ours[n], w) for n, w in plain.items())
    later = [federation(a, 2, executor=executor).state for a in (Scaffold(weighting=weighting), Plain())]
    assert distance(*later) > 1e-4


def test_with_one_client_there_is_nothing_to_correct():
    ours = federation(rounds=4, clients=1, participation=1.0).state
    assert distance(ours, federation(FedAvg(), 4, clients=1, participation=1.0).state) < 1e-12


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_the_servers_control_is_the_mean_of_all_clients_controls(weighting):
    """Also when only some take part: their changes count by their share in all, not among the sampled."""
    fed = federation(Scaffold(weighting=weighting), 6)
    sizes = torch.tensor([len(p) for p in fed.split], dtype=FLOAT)
    share = sizes / sizes.sum() if weighting == "samples" else torch.full((5,), 0.2, dtype=FLOAT)
    for n, c in fed.memory["control"].items():
        mean = sum(a * fed.memory["controls"][k][n] for k, a in enumerate(share.tolist()))
        torch.testing.assert_close(c, mean, rtol=0, atol=1e-12)


def test_full_batches_with_all_clients_make_every_first_step_the_global_one():
    """One full-batch step a round: c_k is the client's gradient, so g - c_k + c is, one round late, the mean's."""
    fed = federation(rounds=1, local=Local(1, 1000, 1e-9), participation=1.0)
    mean = fed.memory["control"]
    for k in range(fed.clients):
        tilt = fed.algorithm.context(fed, k)
        own = fed.memory["controls"][k]  # at so small a rate the gradient has not moved
        assert distance({n: own[n] + tilt[n] for n in mean}, mean) < 1e-12


def test_the_servers_rate_scales_its_step():
    start = federation(rounds=0).state
    full, half = (federation(Scaffold(rate), 1).state for rate in (1.0, 0.5))
    assert distance(half, {n: (start[n] + full[n]) / 2 for n in start}) < 1e-15


def test_both_directions_carry_model_and_control():
    ours, plain = federation(rounds=3).ledger, federation(FedAvg(), 3).ledger
    assert (ours.down, ours.up) == ([3 * 8 * 2 * WEIGHTS] * 3,) * 2
    assert ours.total == 2 * plain.total


def test_controls_of_absent_clients_stay():
    fed = federation(rounds=1)
    absent = [k for k in range(fed.clients) if k not in fed.sample(0)]
    assert absent
    for k in absent:
        assert all(float(t.abs().max()) == 0 for t in fed.memory["controls"][k].values())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_executors_agree(momentum):
    one, all_ = (
        federation(rounds=4, local=Local(2, 7, 0.1, momentum, 0.01), executor=e) for e in ("sequential", "batched")
    )
    assert distance(one.state, all_.state) < 1e-10
    assert distance(one.memory["control"], all_.memory["control"]) < 1e-9


def test_the_rate_that_shrinks_over_rounds_is_the_one_that_counts():
    shrinking = federation(rounds=2, local=Local(1, 1000, 0.1, lr_decay=0.5), participation=1.0)
    net = shrinking.net
    fed = federation(rounds=1, local=Local(1, 1000, 0.1, lr_decay=0.5), participation=1.0)
    for k, rows in enumerate(shrinking.split):  # one full-batch step: the control is the gradient at the received model
        leaves = {n: fed.state[n].clone().requires_grad_() for n in net.parameters}
        grads = torch.autograd.grad(cross_entropy(net(leaves, fed.x[rows]), fed.y[rows]), list(leaves.values()))
        assert distance(shrinking.memory["controls"][k], dict(zip(leaves, grads, strict=True))) < 1e-12


def test_impossible_settings_are_errors():
    with pytest.raises(ValueError, match="weighting must be 'uniform' or 'samples', got 'equal'"):
        Scaffold(weighting="equal")
    with pytest.raises(ValueError, match="at least one local epoch is needed"):
        federation(local=Local(0, 7, 0.1))
