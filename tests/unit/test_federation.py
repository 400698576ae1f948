"""The round loop: against an independent derivation, across executors, with methods switched off, with bad input."""

from __future__ import annotations

import copy
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedlib import partition, rng
from fedlib.algorithms import FedAvg, FedAvgM, FedDF, FedLSD, FedMD, FedNTD, FedProx
from fedlib.distill import Distillation, Student
from fedlib.executors import Diverged, sequential
from fedlib.federation import Federation, Local, Work, together, weighted_mean
from fedlib.models import MLP

FLOAT = torch.float64
EXECUTORS = ("sequential", "batched", "threads", "auto")
UNEVEN = (3, 7, 8, 13, 20, 4)  # with batches of 8: smaller than a batch, one batch, one with a rest


class Normed(nn.Module):
    """A network with BatchNorm: floating-point statistics and an integer counter."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x))


def small():
    return MLP(5, (6,), 3)


def samples(sizes=UNEVEN):
    g = torch.Generator().manual_seed(5)
    n = sum(sizes)
    x = torch.randn(n, 5, generator=g, dtype=FLOAT)
    y = (x[:, :3] + 0.5 * torch.randn(n, 3, generator=g, dtype=FLOAT)).argmax(1)
    return x, y, list(torch.randperm(n, generator=g).split(list(sizes)))


def federation(algorithm=None, *, model=small, sizes=UNEVEN, executor="sequential", local=None, **options):
    x, y, split = samples(sizes)
    options = {"participation": 0.6, "seed": 3, "dtype": FLOAT, "device": "cpu"} | options
    local = local or Local(epochs=2, batch_size=8, lr=0.1)
    return Federation(model, x, y, split, algorithm or FedAvg(), local=local, executor=executor, **options)


def public():
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(9), dtype=FLOAT)


ALGORITHMS = {
    "FedAvg": FedAvg,
    "FedProx": lambda: FedProx(0.3),
    "FedAvgM": lambda: FedAvgM(0.9, 0.7),
    "FedDF": lambda: FedDF(public(), Distillation(steps=3, batch_size=6)),
    "FedMD": lambda: FedMD(public(), digest_epochs=2),
    "FedLSD": lambda: FedLSD(0.5, 2.0),
    "FedNTD": lambda: FedNTD(1.0, 1.5),
}


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for n in a:
        torch.testing.assert_close(a[n], b[n], rtol=tolerance, atol=tolerance, msg=lambda m, n=n: f"{n}: {m}")


def everything(fed):
    return fed.state | {f"{k}/{n}": t for k, kept in fed.own.items() for n, t in kept.items()}


# --- the loop against a derivation that shares nothing with it but the draws ----------------------


def by_hand(fed, rounds, local, participation):
    """FedAvg with nn.Module copies and torch.optim.SGD: McMahan et al. 2017, Algorithm 1, line by line."""
    x, y, split = samples()
    server = rng.build(small, fed.seed, "init").to(FLOAT)
    for t in range(rounds):
        m = max(1, round(participation * len(split)))
        chosen = torch.randperm(len(split), generator=rng.stream(fed.seed, "sample", t))[:m].tolist()
        total = sum(len(split[k]) for k in chosen)
        average = {n: torch.zeros_like(w) for n, w in server.named_parameters()}
        for k in chosen:
            client, stream = copy.deepcopy(server), rng.stream(fed.seed, "batches", t, k, 0)
            optimiser = torch.optim.SGD(client.parameters(), local.lr, local.momentum, weight_decay=local.weight_decay)
            for _ in range(local.epochs):
                order = split[k][torch.randperm(len(split[k]), generator=stream)]
                for start in range(0, len(order), local.batch_size):
                    rows = order[start : start + local.batch_size]
                    optimiser.zero_grad()
                    cross_entropy(client(x[rows]), y[rows]).backward()
                    optimiser.step()
            for n, w in client.named_parameters():
                average[n] += len(split[k]) / total * w.detach()
        server.load_state_dict(average)
    return {n: w.detach() for n, w in server.named_parameters()}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("participation", [0.1, 0.6, 1.0])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.01)])
def test_round_loop_equals_a_derivation_by_hand(executor, participation, momentum, weight_decay):
    local = Local(3, 8, 0.2, momentum, weight_decay)
    fed = federation(local=local, participation=participation, executor=executor)
    fed.run(4)
    same(fed.state, by_hand(fed, 4, local, participation), 1e-12)


def test_derivation_by_hand_can_fail():
    local = Local(3, 8, 0.2)
    fed = federation(local=local)
    fed.run(2)
    wrong = by_hand(fed, 2, Local(2, 8, 0.2), 0.6)
    assert max((fed.state[n] - wrong[n]).abs().max() for n in wrong) > 1e-3


def test_learning_rate_decays_by_round():
    fed = federation(local=Local(1, 8, 0.2, lr_decay=0.5), participation=1.0)
    fed.run(2)
    slow = federation(local=Local(1, 8, 0.1), participation=1.0)
    first = federation(local=Local(1, 8, 0.2), participation=1.0)
    first.run(1)
    slow.state, slow.round = first.state, 1
    slow.run(1)
    same(fed.state, slow.state, 1e-14)


# --- FedSGD: one full-batch step per client is one step on all samples ----------------------------


def central_steps(steps, lr):
    x, y, _ = samples()
    model = rng.build(small, 3, "init").to(FLOAT)
    optimiser = torch.optim.SGD(model.parameters(), lr)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(model(x), y).backward()
        optimiser.step()
    return {n: w.detach() for n, w in model.named_parameters()}


def distance(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in b)


def one_step(algorithm=None, epochs=1, **options):
    fed = federation(algorithm, local=Local(epochs, 10**6, 0.5), participation=1.0, **options)
    fed.run(5)
    return fed.state


@pytest.mark.parametrize("executor", EXECUTORS)
def test_fedsgd_is_a_central_gradient_step(executor):
    assert distance(one_step(executor=executor), central_steps(5, 0.5)) < 1e-13


def test_fedsgd_needs_weights_by_samples_and_a_single_step():
    class Uniform(FedAvg):
        weighting = "uniform"

    assert distance(one_step(Uniform()), central_steps(5, 0.5)) > 1e-3
    assert distance(one_step(epochs=2), central_steps(10, 0.5)) > 1e-4


# --- executors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.01)])
@pytest.mark.parametrize("executor", EXECUTORS[1:])
def test_executors_agree(name, momentum, weight_decay, executor):
    local = Local(2, 8, 0.1, momentum, weight_decay)
    a, b = (federation(ALGORITHMS[name](), local=local, executor=e) for e in ("sequential", executor))
    a.run(4)
    b.run(4)
    same(everything(a), everything(b), 1e-10)
    assert [row["loss"] for row in a.history] == pytest.approx([row["loss"] for row in b.history], abs=1e-10)


@pytest.mark.parametrize("buffers", ["average", "local"])
@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n != "FedMD"])
@pytest.mark.parametrize("executor", EXECUTORS[1:])
def test_executors_agree_with_batchnorm(name, buffers, executor):
    sizes = (4, 7, 8, 13, 20, 6)  # no batch of one sample: it has no variance
    local = Local(2, 8, 0.1, 0.9)
    a, b = (
        federation(ALGORITHMS[name](), model=Normed, sizes=sizes, local=local, executor=e, buffers=buffers)
        for e in ("sequential", executor)
    )
    a.run(4)
    b.run(4)
    same(everything(a), everything(b), 1e-10)
    assert any(not torch.equal(t, Normed().state_dict()["body.1.running_mean"]) for t in _means(a, buffers))


def _means(fed, buffers):
    return (
        [fed.state["body.1.running_mean"].float()]
        if buffers == "average"
        else [kept["body.1.running_mean"].float() for kept in fed.own.values()]
    )


def test_buffers_are_averaged_or_stay_local():
    sizes = (4, 7, 8, 13, 20, 6)
    averaged = federation(model=Normed, sizes=sizes, participation=1.0)
    kept = federation(model=Normed, sizes=sizes, participation=1.0, buffers="local")
    start = dict(averaged.state)
    seen = []
    averaged.observers.append(lambda fed, what: seen.append(what) or {})
    averaged.run(1)
    kept.run(1)
    name = "body.1.running_mean"
    share = torch.tensor(sizes, dtype=FLOAT) / sum(sizes)
    mean = sum(w * s[name] for w, s in zip(share, seen[0].states, strict=True))
    torch.testing.assert_close(averaged.state[name], mean, rtol=1e-13, atol=1e-13)
    assert torch.equal(kept.state[name], start[name]), "the server never sees local statistics"
    assert not torch.equal(kept.own[0][name], kept.own[1][name])
    assert averaged.state["body.1.num_batches_tracked"] == max(2 * -(-n // 8) for n in sizes)


# --- off-switches: FedAvg bit for bit -------------------------------------------------------------

OFF = {
    "FedProx": lambda: FedProx(0.0),
    "FedAvgM": lambda: FedAvgM(0.0, 1.0),
    "FedLSD": lambda: FedLSD(0.0),
    "FedLSD, convex": lambda: FedLSD(0.0, convex=True),
    "FedNTD": lambda: FedNTD(0.0),
    "FedDF": lambda: FedDF(public(), Distillation(steps=0)),
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", OFF)
def test_switched_off_is_fedavg_bit_for_bit(name, executor):
    plain, off = federation(executor=executor), federation(OFF[name](), executor=executor)
    plain.run(4)
    off.run(4)
    same(off.state, plain.state)


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n not in ("FedAvg", "FedMD")])
def test_switched_on_is_not_fedavg(name):
    plain, on = federation(), federation(ALGORITHMS[name]())
    plain.run(3)
    on.run(3)
    assert distance(on.state, plain.state) > 1e-6


# --- same seed, same bits; order does not matter --------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_same_seed_same_bits_whatever_was_drawn_before(name, executor):
    a = federation(ALGORITHMS[name](), executor=executor)
    a.run(3)
    torch.rand(17)  # the global generator plays no part
    b = federation(ALGORITHMS[name](), executor=executor)
    b.run(3)
    same(everything(a), everything(b))
    other = federation(ALGORITHMS[name](), executor=executor, seed=4)
    other.run(3)
    assert distance(everything(other), {n: t for n, t in everything(a).items() if n in everything(other)}) > 1e-6


def test_clients_are_computed_in_any_order():
    plain, turned = federation(participation=1.0), federation(participation=1.0)

    def backward(net, tasks, *rest):
        return sequential(net, tasks[::-1], *rest)[::-1]

    turned.executor = backward
    plain.run(3)
    turned.run(3)
    same(turned.state, plain.state)
    assert [r["loss"] for r in plain.history] == [r["loss"] for r in turned.history]


def test_an_absent_client_moves_nobodys_draws():
    """A client's work in a round is the same whoever else takes part."""
    seen = {}
    for participation in (0.5, 1.0):
        fed = federation(participation=participation)
        fed.observers.append(lambda fed, what, p=participation: seen.update({p: what}) or {})
        fed.run(1)
    few, all_ = seen[0.5], seen[1.0]
    for k, state in zip(few.clients, few.states, strict=True):
        same(state, all_.states[all_.clients.index(k)])


def test_run_in_pieces_is_run_at_once():
    a, b = federation(), federation()
    a.run(4)
    b.run(1)
    b.run(3)
    same(a.state, b.state)
    assert [row["round"] for row in b.history] == [1, 2, 3, 4]


# --- sampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("participation", "m"), [(1e-9, 1), (0.1, 1), (0.5, 3), (0.6, 4), (1.0, 6)])
def test_sampling_takes_the_share_without_replacement(participation, m):
    fed = federation(participation=participation)
    for t in range(20):
        drawn = fed.sample(t)
        assert len(drawn) == len(set(drawn)) == m
        assert drawn == sorted(drawn)
        assert set(drawn) <= set(range(6))


def test_sampling_is_uniform_and_follows_the_seed():
    fed = federation(participation=0.5)
    counts = torch.zeros(6)
    for t in range(3000):
        counts[fed.sample(t)] += 1
    # m T / K = 1500 expected each; the standard deviation is sqrt(3000 / 4) = 27
    assert (counts - 1500).abs().max() < 4.5 * 27.4
    other = federation(participation=0.5, seed=4)
    assert [fed.sample(t) for t in range(20)] != [other.sample(t) for t in range(20)]
    assert [fed.sample(t) for t in range(20)] == [fed.sample(t) for t in range(20)]


# --- averaging ------------------------------------------------------------------------------------


def test_weighted_mean_is_convex_and_keeps_integers_integer():
    states = [
        {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(4)},
        {"w": torch.tensor([2.0, 3.0]), "n": torch.tensor(9)},
    ]
    mean = weighted_mean(states, torch.tensor([0.25, 0.75]))
    assert torch.equal(mean["w"], torch.tensor([1.75, 3.0]))
    assert mean["n"] == 9
    assert mean["n"].dtype == torch.int64
    assert torch.equal(states[0]["w"], torch.tensor([1.0, 3.0])), "inputs stay as they are"


def test_only_the_sampled_clients_count():
    """Weights are n_k over the samples of the clients that took part; they sum to one."""
    seen = []

    class Watch(FedAvg):
        def aggregate(self, fed, uploads, weights):
            seen.append((fed.sample(fed.round), weights))
            super().aggregate(fed, uploads, weights)

    federation(Watch()).run(5)
    for clients, weights in seen:
        sizes = torch.tensor([UNEVEN[k] for k in clients], dtype=FLOAT)
        torch.testing.assert_close(weights, sizes / sizes.sum(), rtol=1e-15, atol=0)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-15)


def test_zero_epochs_change_nothing():
    fed = federation(local=Local(epochs=0, batch_size=8, lr=0.1))
    before = dict(fed.state)
    fed.run(2)
    same(fed.state, before, 1e-15)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("participation", [0.0, -0.1, 1.0001, float("nan")])
def test_participation_outside_is_an_error(participation):
    with pytest.raises(ValueError, match="participation must be a finite number > 0 and <= 1"):
        federation(participation=participation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffers": "refresh"}, "buffers must be 'average' or 'local', got 'refresh'"),
        ({"executor": "parallel"}, "executor 'parallel' is unknown.*sequential"),
        ({"device": "tpu0"}, "device 'tpu0'"),
        ({"sizes": (5, 0, 8)}, r"at least one sample; without any: \[1\]"),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        federation(**options)


def test_no_client_at_all_is_an_error():
    x, y, _ = samples()
    with pytest.raises(ValueError, match="no client at all"):
        Federation(small, x, y, [], FedAvg())


LOCAL = {
    "epochs must be a whole number of at least 0": {"epochs": [-1, 1.5, 2.0, True, "1", None]},
    "batch_size must be a whole number of at least 1": {"batch_size": [0, 2.5, math.inf]},
    "lr must be a finite number > 0": {"lr": [0.0, -0.1, math.nan, math.inf, "0.1", None, True]},
    "momentum must be a finite number >= 0 and < 1": {"momentum": [5, -1, 1.0, math.nan]},
    "weight_decay must be a finite number >= 0": {"weight_decay": [-3, math.nan, math.inf]},
    "lr_decay must be a finite number > 0": {"lr_decay": [0, -1, math.nan, math.inf]},
    "augment must be a function": {"augment": ["flip"]},
}
WRONG = [(message, name, value) for message, ways in LOCAL.items() for name, values in ways.items() for value in values]


@pytest.mark.parametrize(("message", "name", "value"), WRONG)
def test_local_settings_that_cannot_work(message, name, value):
    with pytest.raises(ValueError, match=re.escape(message) + f".*got {re.escape(repr(value))}$"):
        Local(**{name: value})


def test_local_settings_are_plain_numbers_whatever_they_came_as():
    odd = Local(np.int64(3), np.uint8(4), np.float64(0.5), 0, np.float32(0.25), Fraction(1, 2))
    assert odd == Local(3, 4, 0.5, 0.0, 0.25, 0.5)
    assert {type(v) for v in vars(odd).values()} == {int, float, type(None)}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_divergence_names_round_and_client(executor):
    fed = federation(local=Local(1, 8, 0.1), participation=1.0, executor=executor)
    fed.x[fed.split[2][0]] = math.nan  # which a federation is not made of
    with pytest.raises(Diverged, match="round 0, client 2: the local loss is nan") as caught:
        fed.run(1)
    assert (caught.value.round, caught.value.client) == (0, 2)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_divergence_in_a_later_round_is_numbered_from_zero(executor):
    fed = federation(executor=executor, participation=1.0)
    fed.run(2)
    fed.state = {n: torch.full_like(t, float("inf")) for n, t in fed.state.items()}
    with pytest.raises(Diverged) as caught:
        fed.run(1)
    assert caught.value.round == 2
    assert fed.round == 2, "the round that failed was not counted"


def test_shards_split_trains_end_to_end():
    x, y, _ = samples()
    split = partition.shards(y, 5, 2, rng.stream(0, "split"))
    fed = Federation(small, x, y, split, FedAvg(), local=Local(2, 8, 0.2), dtype=FLOAT, device="cpu")
    losses = [row["loss"] for row in fed.run(15)]
    assert losses[-1] < losses[0]


# --- a crowd in parts, and servers that train -----------------------------------------------------


@pytest.mark.parametrize("name", ["FedAvg", "FedAvgM", "FedProx"])
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
@pytest.mark.parametrize("personal", [(), ("head.*",)])
def test_a_crowd_in_parts_gives_the_same_mean(name, weighting, personal, monkeypatch):
    def play(crowd):
        monkeypatch.setattr("fedlib.federation.CROWD", crowd)
        algorithm = ALGORITHMS[name]()
        algorithm.weighting, algorithm.personal = weighting, personal
        fed = federation(algorithm, participation=1.0)
        sizes = []
        forward = Work.do
        monkeypatch.setattr(Work, "do", lambda work, others=(): (sizes.append(len(work.tasks)), forward(work, others)))
        fed.run(3)
        monkeypatch.setattr(Work, "do", forward)
        return fed, sizes

    (whole, once), (parts, several) = play(6), play(4)
    assert (once, several) == ([6] * 3, [4, 2] * 3)
    same(everything(whole), everything(parts), 1e-13)
    assert (whole.ledger, len(whole.history)) == (parts.ledger, len(parts.history))
    assert whole.history[-1]["loss"] == pytest.approx(parts.history[-1]["loss"], abs=1e-13)


def test_a_crowd_stays_whole_where_the_states_are_needed(monkeypatch):
    monkeypatch.setattr("fedlib.federation.CROWD", 2)
    seen = []
    observed = federation(participation=1.0, observers=[lambda fed, round_: seen.append(len(round_.states)) or {}])
    observed.run(1)
    assert seen == [6]

    class Largest(FedAvg):
        """Its own server step looks at every upload."""

        def aggregate(self, fed, uploads, weights):
            seen.append(len(uploads))
            super().aggregate(fed, uploads, weights)

    federation(Largest(), participation=1.0).run(1)
    assert seen == [6, 6]


def test_servers_of_several_seeds_distil_together(monkeypatch):
    images = {s: torch.randn(12, 5, generator=torch.Generator().manual_seed(s), dtype=FLOAT) for s in (1, 2, 3)}
    method = FedDF(lambda fed: images[fed.seed], Distillation(steps=5, batch_size=6))
    alone = {s: federation(FedDF(images[s], Distillation(steps=5, batch_size=6)), seed=s) for s in images}
    for fed in alone.values():
        fed.run(3)
    calls = []
    forward = Student.do
    monkeypatch.setattr(Student, "do", lambda s, others=(): (calls.append(1 + len(others)), forward(s, others)))
    side_by_side = [federation(method, seed=s) for s in images]
    together(side_by_side, 3)
    assert calls == [3, 3, 3]
    for fed in side_by_side:
        same(fed.state, alone[fed.seed].state, 1e-10)
