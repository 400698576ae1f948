"""FedPer and its kin: the ends of the scale in bits, what travels, whose head it is, and the mistakes easily made."""

import pytest
import torch
from federations import FLOAT, NORMABLE, Normed, distance, everything, federation, same, samples
from torch.nn.functional import cross_entropy

from fedlib import personal, rng
from fedlib.algorithms import FedAvg, FedPer, FedRep, LGFedAvg, LocalOnly
from fedlib.executors import Context
from fedlib.federation import Local, weighted_mean
from fedlib.models import MLP, Net

BODY, HEAD = ("body.1.weight", "body.1.bias"), ("head.weight", "head.bias")
EXECUTORS = ("sequential", "batched")


def played(algorithm, rounds=3, **options):
    fed = federation(algorithm, **options)
    fed.run(rounds)
    return fed


def watched(algorithm, **options):
    """A federation and what its clients received and had after each round."""
    seen = []
    watch = [lambda fed, round_: seen.append(round_) or {}]
    return played(algorithm, observers=watch, **options), seen


def alone(fed, start, k, rounds):
    """Client k trained without a federation, written out: plain SGD on the batches of its streams."""
    state = {n: w.clone() for n, w in start.items()}
    for number in range(rounds):
        order = rng.stream(fed.seed, "batches", number, k, 0)
        epochs = [torch.randperm(len(fed.split[k]), generator=order) for _ in range(fed.local.epochs)]
        for epoch in epochs:
            for rows in fed.split[k][epoch].split(fed.local.batch_size):
                leaves = {n: w.requires_grad_() for n, w in state.items()}
                loss = cross_entropy(fed.net(leaves, fed.x[rows]), fed.y[rows])
                grads = torch.autograd.grad(loss, list(leaves.values()))
                pairs = zip(leaves.items(), grads, strict=True)
                state = {n: torch.add(w.detach(), g, alpha=-fed.local.lr) for (n, w), g in pairs}
    return state


# The ends of the scale


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("off", [FedPer(()), FedPer((), common=True), LGFedAvg(("*",))])
def test_nothing_personal_is_fedavg_bit_for_bit(off, executor):
    ours, plain = (played(a, executor=executor) for a in (off, FedAvg()))
    same(everything(ours), everything(plain))
    assert distance(played(FedPer(), executor=executor).state, plain.state) > 1e-3


@pytest.mark.parametrize("algorithm", [FedPer(("*",)), FedPer(("*",), common=True), LocalOnly(), LGFedAvg(())])
def test_everything_personal_is_training_alone_bit_for_bit(algorithm):
    fed = played(algorithm, participation=1.0)
    begin = federation(algorithm)
    for k, model in enumerate(personal.client_models(fed)):
        same(model, alone(fed, begin.own.get(k) or begin.state, k, 3))
    assert fed.ledger.total == 0


def test_local_only_is_fedper_with_everything_personal():
    a, b = played(LocalOnly()), played(FedPer(("*",), common=True))
    same(everything(a), everything(b))


# Whose tensors, and what travels


@pytest.mark.parametrize("executor", EXECUTORS)
def test_aggregation_leaves_one_base_and_everybodys_own_head(executor):
    fed, seen = watched(FedPer(), executor=executor, participation=1.0)
    models = personal.client_models(fed)
    for model, state in zip(models, seen[-1].states, strict=True):
        assert all(torch.equal(model[n], models[0][n]) for n in BODY)
        assert all(torch.equal(model[n], state[n]) for n in HEAD)  # as local training left it
    sizes = torch.tensor([len(rows) for rows in fed.split], dtype=FLOAT)
    mean = weighted_mean([{n: s[n] for n in BODY} for s in seen[-1].states], sizes / sizes.sum())
    same({n: fed.state[n] for n in BODY}, mean)


def test_the_head_survives_rounds_without_its_client():
    _, seen = watched(FedPer(), rounds=6, participation=0.3)
    last, gaps = {}, 0
    for round_ in seen:
        for k, received, state in zip(round_.clients, round_.received, round_.states, strict=True):
            if k in last:
                assert all(torch.equal(received[n], last[k][1][n]) for n in HEAD)
                gaps += round_.number - last[k][0] > 1
            last[k] = round_.number, state
    assert gaps  # somebody came back after a pause


def test_a_stateless_client_would_fail_that():
    """The trap: a framework that builds its clients anew gives a returning one the head of the start."""

    class Forgetful(FedPer):
        def keep(self, fed, client, state):
            pass

    fed, seen = watched(Forgetful(), rounds=6, participation=0.3)
    first = federation(FedPer()).own
    again = [(k, s) for r in seen[1:] for k, s in zip(r.clients, r.received, strict=True)]
    assert all(torch.equal(s["head.weight"], first[k]["head.weight"]) for k, s in again)
    assert distance(fed.state, played(FedPer(), rounds=6, participation=0.3).state) > 1e-4


def test_every_client_draws_its_head_once():
    fed, again, other = (federation(FedPer(), seed=s) for s in (3, 3, 4))
    heads = [fed.own[k]["head.weight"] for k in range(fed.clients)]
    assert all(not torch.equal(a, b) for i, a in enumerate(heads) for b in heads[:i])
    assert all(torch.equal(h, again.own[k]["head.weight"]) for k, h in enumerate(heads))
    assert not torch.equal(heads[0], other.own[0]["head.weight"])
    assert set(fed.own[0]) == set(HEAD)
    assert federation(FedPer(common=True)).own == {}


def test_bytes_are_those_of_the_base():
    fed = played(FedPer(), rounds=1, participation=1.0)
    base = (5 * 6 + 6) * 8  # weights and biases of the first layer, eight bytes each
    assert fed.ledger.down == fed.ledger.up == [6 * base]
    mirror = played(LGFedAvg(), rounds=1, participation=1.0)
    whole = played(FedAvg(), rounds=1, participation=1.0)
    assert mirror.ledger.down[0] + fed.ledger.down[0] == whole.ledger.down[0]


def test_lg_fedavg_is_the_mirror_image():
    fed, seen = watched(LGFedAvg(), participation=1.0)
    assert set(fed.personal) == set(BODY)
    models = personal.client_models(fed)
    for model, state in zip(models, seen[-1].states, strict=True):
        assert all(torch.equal(model[n], models[0][n]) for n in HEAD)
        assert all(torch.equal(model[n], state[n]) for n in BODY)


def test_statistics_of_a_shared_base_are_averaged_unless_said_otherwise():
    """The trap: a base that is copied by its parameters alone leaves every client its own BatchNorm statistics."""
    options = {"model": Normed, "sizes": NORMABLE, "participation": 1.0, "rounds": 1}
    averaged, kept = (watched(FedPer(), buffers=b, **options) for b in ("average", "local"))
    names = ("body.1.running_mean", "body.1.running_var")
    for fed, seen in (averaged, kept):
        own = [s["body.1.running_mean"] for s in seen[0].states]
        assert not torch.equal(own[0], own[1])
        held = personal.client_models(fed)
        agree = all(torch.equal(held[0][n], held[1][n]) for n in names)
        assert agree == (fed.buffers == "average")
        assert not torch.equal(held[0]["head.weight"], held[1]["head.weight"])
        assert torch.equal(held[0]["body.0.weight"], held[1]["body.0.weight"])


def test_equal_clients_do_not_see_the_weighting():
    """The risk weighs clients equally, the server by samples: the same where all hold equally many, and only there."""

    class Uniform(FedPer):
        weighting = "uniform"

    for sizes, equal in (((8, 8, 8, 8), True), ((3, 8, 8, 13), False)):
        a, b = (played(method(), sizes=sizes, participation=1.0).state for method in (FedPer, Uniform))
        assert (distance(a, b) < 1e-14) == equal


# Labels that contradict one another


def relabelled(permutation, client, **options):
    """FedPer on data in which one client's labels are permuted."""
    x, y, split = samples()
    y = y.clone()
    y[split[client]] = permutation[y[split[client]]]
    return federation(FedPer(common=True), data=(x, y, split), participation=1.0, **options)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_permuted_labels_permute_the_rows_of_that_head_alone(executor):
    """With the rows of its first head permuted likewise, a client's relabelling is invisible to the base."""
    permutation, client = torch.tensor([1, 2, 0]), 3
    plain = relabelled(torch.arange(3), client, executor=executor)
    moved = relabelled(permutation, client, executor=executor)
    start = {n: plain.state[n] for n in HEAD}
    moved.own[client] = {n: torch.empty_like(w).index_copy_(0, permutation, w) for n, w in start.items()}
    for fed in (plain, moved):
        fed.run(3)
    for n in BODY:
        torch.testing.assert_close(moved.state[n], plain.state[n], rtol=0, atol=1e-13)
    for k in range(plain.clients):
        for n in HEAD:
            expected = plain.own[k][n]
            found = moved.own[k][n][permutation] if k == client else moved.own[k][n]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_a_shared_head_does_see_it():
    x, y, split = samples()
    moved = y.clone()
    moved[split[3]] = torch.tensor([1, 2, 0])[y[split[3]]]
    feds = [federation(FedAvg(), data=(x, v, split), participation=1.0) for v in (y, moved)]
    for fed in feds:
        fed.run(3)
    assert distance(feds[0].state, feds[1].state) > 1e-2


# FedRep


def halves(algorithm, **options):
    """States of one client before, between and after the two stretches of a round."""
    fed = federation(algorithm, participation=1.0, **options)
    start = personal.client_models(fed)
    head_only = personal.trained(fed, algorithm=FedRep(base_epochs=0), epochs=fed.local.epochs - 1)
    return fed, start, head_only, personal.trained(fed)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fedrep_trains_the_head_first_and_then_the_base(executor, decay):
    local = Local(epochs=3, batch_size=8, lr=0.1, momentum=0.9, weight_decay=decay)
    fed, start, between, end = halves(FedRep(), executor=executor, local=local)
    for k in range(fed.clients):
        for n in BODY:  # the base rests first
            torch.testing.assert_close(between[k][n], start[k][n], rtol=0, atol=1e-15)
            assert float((end[k][n] - start[k][n]).abs().max()) > 1e-4
        for n in HEAD:  # then the head
            torch.testing.assert_close(end[k][n], between[k][n], rtol=0, atol=1e-15)
            assert float((between[k][n] - start[k][n]).abs().max()) > 1e-4


def test_fedrep_is_not_fedper():
    """The trap: heads and base trained together, as FedPer has it, under the name of FedRep."""
    local = Local(epochs=4, batch_size=8, lr=0.1)
    assert distance(played(FedRep(), local=local).state, played(FedPer(), local=local).state) > 1e-3


def test_gradients_of_the_two_objectives_are_the_two_parts_of_the_joint_one():
    net = Net(MLP(5, (6,), 3), dtype=FLOAT)
    x, y, _ = samples()
    leaves = {n: w.requires_grad_() for n, w in net.initial().items()}
    method, context = FedRep(), Context({}, {"decay": torch.tensor(0.0, dtype=FLOAT)})
    parts = {}
    for name, objective in (
        ("joint", method.objective),
        ("head", method.head_objective),
        ("base", method.base_objective),
    ):
        loss = objective(net, leaves, x, y, context)
        parts[name] = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        assert float(loss.detach()) == pytest.approx(float(cross_entropy(net(leaves, x), y).detach()), abs=1e-15)
    for n in leaves:
        moving, resting = ("head", "base") if n in HEAD else ("base", "head")
        assert torch.equal(parts[moving][n], parts["joint"][n])
        assert not parts[resting][n].any()


def test_epochs_of_fedrep():
    def epochs(algorithm, e):
        return [phase.epochs for phase in algorithm.phases(federation(algorithm, local=Local(epochs=e, batch_size=8)))]

    assert epochs(FedRep(), 5) == [4, 1]
    assert epochs(FedRep(base_epochs=2), 5) == [3, 2]
    assert epochs(FedRep(), 1) == [1, 1]
    assert epochs(FedRep(base_epochs=0), 5) == [5, 0]


@pytest.mark.parametrize("algorithm", [FedPer, FedRep, LGFedAvg, LocalOnly])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_executors_agree(algorithm, momentum):
    local = Local(epochs=2, batch_size=8, lr=0.1, momentum=momentum, weight_decay=0.01)
    a, b = (everything(played(algorithm(), local=local, executor=e)) for e in EXECUTORS)
    same(a, b, 1e-10)
