"""Personal models: whose tensors a client's model is made of, when it is looked at, and on which samples."""

import pytest
import torch
from federations import FLOAT, NORMABLE, Normed, everything, federation, same, samples
from hypothesis import given, settings, strategies as st
from torch import nn

from fedlib import metrics, partition, personal, rng
from fedlib.algorithms import FedAvg, FedPer, FedRep, LocalOnly
from fedlib.federation import Local
from fedlib.models import MLP, LeNet5, Net

CASES = settings(deadline=None, max_examples=30)


def own_tests(clients, n=30, seed=8):
    """Test samples and the rows of each client, some shared."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=g, dtype=FLOAT)
    y = torch.randint(3, (n,), generator=g)
    return x, y, [torch.randperm(n, generator=g)[: 5 + k] for k in range(clients)]


def played(algorithm, rounds=2, **options):
    fed = federation(algorithm, **options)
    fed.run(rounds)
    return fed


# Whose tensors


def test_a_clients_model_is_the_servers_with_its_own_tensors():
    fed = played(FedPer())
    for k, model in enumerate(personal.client_models(fed)):
        assert list(model) == list(fed.state)
        assert torch.equal(model["body.1.weight"], fed.state["body.1.weight"])
        assert torch.equal(model["head.weight"], fed.own[k]["head.weight"])


def test_of_fedavg_every_client_holds_the_servers_model():
    fed = played(FedAvg())
    for model in personal.client_models(fed):
        same(model, fed.state)


def test_a_client_that_was_never_sampled_holds_what_it_started_with():
    fed = played(LocalOnly(), rounds=1, participation=0.3)
    start = fed.net.initial()
    idle = [k for k in range(fed.clients) if k not in fed.own]
    assert idle
    for k in idle:
        same(personal.client_models(fed)[k], start)


def test_private_statistics_belong_to_the_client():
    fed = played(FedAvg(), model=Normed, sizes=NORMABLE, buffers="local", participation=1.0)
    means = [m["body.1.running_mean"] for m in personal.client_models(fed)]
    assert not torch.equal(means[0], means[1])


# When


@pytest.mark.parametrize("algorithm", [FedAvg, FedPer, FedRep, LocalOnly])
def test_after_local_work_the_models_are_those_of_the_next_round(algorithm):
    fed, seen = played(algorithm(), participation=1.0), {}
    models = personal.trained(fed)
    fed.observers = [lambda fed, round_: seen.update(states=round_.states) or {}]
    fed.play_round()
    for model, state in zip(models, seen["states"], strict=True):
        same(model, state)


def test_looking_changes_nothing():
    looked, plain = federation(FedPer()), federation(FedPer())
    x, y, split = own_tests(looked.clients)
    looked.observers = [personal.before_training(x, y, split), personal.after_training(x, y, split)]
    for _ in range(3):
        looked.play_round()
        personal.moments(looked, x, y, split)
        plain.play_round()
    same(everything(looked), everything(plain))


def test_fine_tuning_for_no_epochs_is_no_fine_tuning():
    fed = played(FedPer())
    for model, before in zip(personal.trained(fed, epochs=0), personal.client_models(fed), strict=True):
        same(model, before)


def test_fine_tuning_may_train_the_head_alone():
    fed = played(FedAvg())
    for model in personal.trained(fed, epochs=3, algorithm=FedRep(base_epochs=0)):
        assert torch.equal(model["body.1.weight"], fed.state["body.1.weight"])
        assert not torch.equal(model["head.weight"], fed.state["head.weight"])


def test_trained_by_hand():
    """One client's fine-tuning of FedAvg written out: plain steps on the batches of its stream."""
    fed = played(FedAvg(), local=Local(epochs=2, batch_size=8, lr=0.1))
    k = 4
    state = {n: t.clone().requires_grad_() for n, t in fed.state.items()}
    order = rng.stream(fed.seed, "batches", fed.round, k, 0)
    for _ in range(2):
        for rows in fed.split[k][torch.randperm(len(fed.split[k]), generator=order)].split(8):
            loss = nn.functional.cross_entropy(fed.net(state, fed.x[rows]), fed.y[rows])
            grads = torch.autograd.grad(loss, list(state.values()))
            pairs = zip(state.items(), grads, strict=True)
            state = {n: (w - 0.1 * g).detach().requires_grad_() for (n, w), g in pairs}
    same(personal.trained(fed)[k], {n: w.detach() for n, w in state.items()}, 1e-14)


# On which samples


def test_each_client_is_judged_on_its_own_rows():
    fed = played(FedPer(), participation=1.0)
    x, y, split = own_tests(fed.clients)
    found = personal.moments(fed, x, y, split)
    assert found["before"] != found["after"]
    for k, rows in enumerate(split):
        model = fed.state | fed.own[k]
        assert found["before"][k] == metrics.accuracy(fed.net.predict(model, x[rows]), y[rows])


def test_observers_agree_with_the_definitions():
    fed = federation(FedPer(), participation=0.5)
    x, y, split = own_tests(fed.clients)
    states = {}
    fed.observers = [
        personal.before_training(x, y, split, by_client=True),
        personal.after_training(x, y, split, by_client=True),
        lambda fed, seen: states.update(zip(seen.clients, seen.states, strict=True)) or {},
    ]
    fed.play_round()
    row = fed.history[-1]
    after = [metrics.accuracy(fed.net.predict(s, x[split[k]]), y[split[k]]) for k, s in states.items()]
    assert row["personal_after_clients"] == after
    assert row["personal_after"] == pytest.approx(sum(after) / len(after))
    before = personal.moments(fed, x, y, split)["before"]
    assert row["personal_before_clients"] == before
    assert len(before) == fed.clients
    assert row["personal_before_sd"] == pytest.approx(float(torch.tensor(before, dtype=FLOAT).std()))


def test_spread_of_one_client_is_zero():
    assert personal.mean_and_spread([0.5]) == (0.5, 0.0)


def test_a_client_without_test_samples_is_an_error():
    fed = federation(FedAvg())
    x, y, split = own_tests(fed.clients)
    with pytest.raises(ValueError, match=r"empty ones: \[2\]"):
        personal.moments(fed, x, y, [*split[:2], split[2][:0], *split[3:]])
    with pytest.raises(ValueError, match="6 models, 5 lists"):
        personal.moments(fed, x, y, split[:5])


def test_bytes_are_prepared():
    x, y, split = samples()
    raw = (x * 20 + 100).clamp(0, 255).to(torch.uint8)
    prepare = lambda v: v.double() / 255  # noqa: E731
    fed = federation(FedAvg(), data=(raw, y, split), prepare=prepare)
    plain = federation(FedAvg(), data=(prepare(raw), y, split))
    assert personal.moments(fed, raw, y, split) == personal.moments(plain, prepare(raw), y, split)


# Layers and first weights


def test_last_layers():
    model = MLP(5, (6, 7), 3)
    assert personal.last_layers(model, 0) == ()
    assert personal.last_layers(model, 2) == ("body.3.*", "head.*")
    assert personal.last_layers(model, 3) == ("body.1.*", "body.3.*", "head.*")
    assert personal.last_layers(LeNet5(), 1) == ("head.*",)
    with pytest.raises(ValueError, match="4 layers wanted, the model has 3"):
        personal.last_layers(model, 4)


def test_weights_drawn_again_depend_on_the_key_alone():
    net = Net(MLP(5, (6,), 3), dtype=FLOAT)
    before = torch.get_rng_state()
    a, again, b = (personal.drawn_again(net, 0, "personal", k) for k in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    same(a, again)
    assert all(not torch.equal(a[n], b[n]) and not torch.equal(a[n], net.initial()[n]) for n in a)
    bound = 1 / 6**0.5  # of nn.Linear's own rule, for six inputs
    assert float(a["head.weight"].abs().max()) <= bound
    assert a["head.weight"].dtype == FLOAT


def test_drawn_statistics_are_fresh():
    net = Net(Normed(), dtype=FLOAT)
    drawn = personal.drawn_again(net, "k")
    assert drawn.keys() == net.initial().keys()
    assert torch.equal(drawn["body.1.running_var"], torch.ones(6, dtype=FLOAT))
    assert drawn["body.1.num_batches_tracked"] == 0


# Splits


@CASES
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 6))
def test_classes_per_client(seed, clients, classes):
    labels = torch.arange(180) % 6
    labels = labels[torch.randperm(180, generator=rng.stream(seed))]
    if clients * classes < 6:
        with pytest.raises(ValueError, match=f"use {-(-6 // clients)} to 6 classes"):
            partition.classes_per_client(labels, clients, classes, rng.stream(seed, "split"))
        return
    split = partition.classes_per_client(labels, clients, classes, rng.stream(seed, "split"))
    assert torch.equal(torch.cat(split).sort().values, torch.arange(180))
    held = partition.label_counts(labels, split, 6)
    assert ((held > 0).sum(1) == classes).all()
    owners = (held > 0).sum(0)
    assert int(owners.max() - owners.min()) <= 1
    for c in range(6):
        shares = held[:, c][held[:, c] > 0]
        assert int(shares.max() - shares.min()) <= 1


def test_classes_per_client_needs_samples_for_all_owners():
    with pytest.raises(ValueError, match="class 1 has 1 samples for 3 clients"):
        partition.classes_per_client(torch.tensor([0, 0, 0, 1]), 3, 2, rng.stream(0))


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 10.0]), st.sampled_from([None, 7, 40]))
def test_matching_test_samples(seed, alpha, most):
    g = rng.stream(seed)
    labels = torch.randint(4, (200,), generator=g)
    test = torch.cat([torch.arange(4), torch.randint(4, (90,), generator=g)])
    held = partition.label_counts(labels, partition.dirichlet(labels, 5, alpha, g), 4)
    there = torch.bincount(test, minlength=4)
    for own, rows in zip(held, partition.matching(test, held, g, most), strict=True):
        assert len(rows.unique()) == len(rows)
        got, share = torch.bincount(test[rows], minlength=4), own.double() / own.sum()
        assert bool((got <= there).all())
        assert float((got - share * len(rows)).abs().max()) < 1 + 1e-6  # proportions of its training labels
        assert not bool(((own == 0) & (got > 0)).any())  # no class that the client lacks
        room = (there[own > 0] / share[own > 0]).min()
        assert len(rows) == (int(room + 1e-6) if most is None else min(most, int(room + 1e-6)))


def test_matching_needs_test_samples_of_every_class_held():
    with pytest.raises(ValueError, match="client 1 holds"):
        partition.matching(torch.tensor([0, 0, 1]), torch.tensor([[3, 0, 0], [1, 0, 2]]), rng.stream(0))


def test_all_test_samples_for_a_client_of_the_same_proportions():
    test = torch.tensor([0, 1, 0, 1, 2, 2])
    (rows,) = partition.matching(test, torch.tensor([[5, 5, 5]]), rng.stream(0))
    assert torch.equal(rows, torch.arange(6))


def test_rows_and_values_that_are_none_are_refused():
    """A negative row is the last sample of somebody else; a mean over nobody was NaN."""
    fed = federation(participation=1.0)
    models, x, y = personal.client_models(fed)[:1], fed.x, fed.y
    for rows in ([-1], [len(y)], [0.0]):
        with pytest.raises(ValueError, match=r"split\[0\] must hold rows of"):
            personal.accuracies(fed, models, x, y, [torch.tensor(rows)])
    with pytest.raises(ValueError, match="at least one"):
        personal.mean_and_spread([])
    with pytest.raises(ArithmeticError, match="values of the clients"):
        personal.mean_and_spread([0.5, float("nan")])
    for epochs in (-1, 1.5):
        with pytest.raises(ValueError, match="epochs must be a whole number"):
            personal.trained(fed, epochs)
