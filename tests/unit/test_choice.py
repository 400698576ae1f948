"""The pick of an executor: by a rule that anybody can check, the same every time, and without any effect on results."""

import re

import pytest
import torch
from federations import ALGORITHMS, FLOAT, NORMABLE, Normed, everything, federation, same, samples, small
from torch import nn

from fedlib import choice
from fedlib.algorithms import FedAvg, FedMD, FedNTD
from fedlib.batched import batched, train_stacked
from fedlib.choice import choose
from fedlib.executors import per_sample, sequential
from fedlib.federation import Federation, Local
from fedlib.models import MLP, LeNet5, SmallCNN
from fedlib.threads import Threads

DIGITS = (31, 140, 8, 75, 62, 110, 53, 97, 20, 66, 84, 49, 120, 33, 71, 58, 102, 45, 90, 123)  # 1,437 samples


@pytest.fixture(params=[1, 2])
def threads(request):
    """As many threads as torch is given."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def workload(model, shape, sizes, batch=16, epochs=2, algorithm=FedAvg, **options):
    x, y, split = samples(sizes, shape)
    local = Local(epochs, batch, 0.05)
    options = {"device": "cpu"} | options
    return Federation(model, x, y, split, algorithm(), local=local, **options)


def pick(fed, executor="auto"):
    work = next(fed._round())
    return choose(executor, work.net, work.tasks, work.objective)


def w(**options):
    return workload(SmallCNN, (1, 8, 8), DIGITS, **options)


# --- the rule ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT])
def test_many_small_clients_are_computed_together(threads, dtype):
    """The notes' workload W: digits, 20 clients, a small convolutional network."""
    found = pick(w(dtype=dtype))
    assert found.reason == "estimated to be fastest"
    assert "s one by one" in found.estimate
    if threads == 1:
        assert (found.name, found.executor) == ("batched", train_stacked)
    else:
        assert found.name == "2 threads, batched"
        assert isinstance(found.executor, Threads)
        assert found.executor.count == 2


def test_few_sampled_clients_of_a_small_network_are_computed_together_on_one_core(threads):
    """Two threads would hand Python's lock to and fro at each layer."""
    assert pick(workload(SmallCNN, (1, 8, 8), (40,) * 5)).name == "batched"


def test_many_large_convolutions_are_computed_one_by_one(threads):
    """W2: LeNet on 28 x 28, whose six channels a grouped convolution handles badly."""
    found = pick(workload(LeNet5, (1, 28, 28), (60,) * 10, 32, 1))
    assert found.name == {1: "sequential", 2: "2 threads, sequential"}[threads]
    assert "s together" in found.estimate


def test_hardly_any_work_is_not_worth_a_thread(threads):
    found = pick(workload(lambda: MLP(64, (64,)), (64,), (20,) * 10, 20, 1))
    assert (found.name, found.executor) == ("batched", train_stacked)
    more = pick(workload(lambda: MLP(784, (200, 200)), (784,), (200,) * 30, 32, 2))
    assert more.name.startswith("2 threads") == (threads == 2)


def test_two_clients_are_computed_one_by_one(threads):
    assert pick(workload(small, (5,), (20, 20))).name == "sequential"
    assert pick(workload(small, (5,), (20,) * 5)).name == "batched"


def test_padding_that_costs_more_than_it_saves(one_thread):
    """Full batches: every client's one step is as wide as the largest client."""
    sizes, wide = (300, *(4,) * 9), 10**6
    assert pick(workload(SmallCNN, (1, 8, 8), sizes, wide)).name == "sequential"
    assert pick(workload(SmallCNN, (1, 8, 8), (300, *(280,) * 9), wide)).name == "batched"


def test_what_cannot_be_stacked_waits_for_no_trial_of_its_objective(one_thread):
    calls = []

    class Counted(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            calls.append(1)
            return super().objective(net, state, x, y, context)

    pick(workload(lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.0)), (5,), (20,) * 5, algorithm=Counted))
    assert not calls


def test_what_cannot_be_stacked_is_computed_one_by_one(one_thread):
    dropping = pick(workload(lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.0)), (5,), (20,) * 5))
    assert (dropping.name, dropping.reason) == ("sequential", "layer 1 is a Dropout, which has no stacked form")

    class Unmarked(FedAvg):
        def objective(self, net, state, x, y, context):
            return super().objective(net, state, x, y, context)

    found = pick(workload(small, (5,), (20,) * 5, algorithm=Unmarked))
    assert found.name == "sequential"
    assert "Unmarked.objective is not marked per_sample" in found.reason


def test_a_rule_that_decides_early_trains_nothing_to_find_out():
    """The promise is tried only where it would be relied on."""
    calls = []

    class Counted(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            calls.append(1)
            return super().objective(net, state, x, y, context)

    pick(workload(LeNet5, (1, 28, 28), (64, 64), 64, algorithm=Counted))
    assert not calls
    pick(workload(small, (5,), (4,) * 6, algorithm=Counted))
    assert calls


def test_samples_are_counted_as_the_network_gets_them(one_thread):
    """Bytes are prepared, and then augmented, before anybody asks how large a map is."""

    def crop(x, generator):
        return x[..., 1:7, 1:7]

    make = lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, 3))  # noqa: E731
    x, y, split = samples((9, 9, 9), (1, 8, 8))
    raw = (x * 20).to(torch.uint8)
    local = Local(1, 3, 0.1, augment=crop)
    fed = Federation(make, raw, y, split, FedAvg(), local=local, device="cpu", prepare=lambda t: t.float() / 99)
    assert pick(fed).name == "batched"
    fed.run(1)


# --- by name ---------------------------------------------------------------------------------------------


def test_names_stand_for_executors(threads):
    fed = federation()
    assert pick(fed, "sequential").executor is sequential
    assert pick(fed, "batched").executor is batched
    shared = pick(fed, "threads")
    assert isinstance(shared.executor, Threads)
    assert shared.executor.count == 2
    assert str(pick(fed, "sequential")) == "sequential: as asked for"

    def mine(net, tasks, *rest):
        return sequential(net, tasks, *rest)

    assert str(pick(fed, mine)) == "mine: as given"
    assert str(pick(fed, Threads(sequential))) == "Threads: as given"


@pytest.mark.parametrize("name", ["", "Auto", "vmap", "processes", "seq", None, 0, ["auto"]])
def test_unknown_names_are_refused_at_once(name):
    words = f"executor {name!r} is unknown; use auto, sequential, batched, threads, ray, or a function"
    with pytest.raises(ValueError, match=re.escape(words)):
        federation(executor=name)


# --- in words --------------------------------------------------------------------------------------------


def test_the_explanation_is_the_choice_of_the_next_round(one_thread):
    fed = w(executor="auto")
    assert fed.explain() == str(pick(fed))
    assert fed.explain().startswith("batched: estimated to be fastest; about 0.")
    assert federation(executor="batched").explain() == "batched: as asked for"


def test_explaining_plays_nothing():
    needs_steps = {"Scaffold"}
    for options, names in (({}, set(ALGORITHMS)), ({"local": Local(0, 8, 0.1)}, set(ALGORITHMS) - needs_steps)):
        for name in sorted(names):
            fed, plain = (federation(ALGORITHMS[name](), executor="auto", **options) for _ in range(2))
            for _ in range(2):
                before = everything(fed)
                fed.explain()
                same(everything(fed), before)
                assert (fed.round, fed.history, fed.ledger.down) == (len(fed.history), fed.history, fed.ledger.down)
                assert fed.round == plain.round == len(fed.ledger.down)
                fed.run(1)
                plain.run(1)
            same(everything(fed), everything(plain))


def test_no_local_work_is_no_choice():
    assert federation(local=Local(0, 8, 0.1)).explain() == "no local work"
    digest = FedMD(torch.zeros(4, 5, dtype=FLOAT), digest_epochs=0)
    assert federation(digest, executor="sequential").explain() == "sequential: as asked for"


def test_choices_are_counted_in_words(one_thread):
    choice.taken.clear()
    fed = w(executor="auto")
    fed.run(2)
    assert choice.taken == {"batched: estimated to be fastest": 2}


# --- without effect ----------------------------------------------------------------------------------------


def test_the_choice_is_the_same_every_time(threads):
    for make in (w, lambda: workload(LeNet5, (1, 28, 28), (30,) * 8), lambda: workload(small, (5,), (9, 4, 3))):
        fed = make()
        first = str(pick(fed))
        torch.rand(5)
        assert str(pick(fed)) == first == str(pick(make()))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_choosing_changes_no_result(name, threads):
    options = {"model": Normed, "sizes": NORMABLE, "participation": 1.0}
    one, found = (federation(ALGORITHMS[name](), executor=e, **options) for e in ("sequential", "auto"))
    one.run(3)
    found.run(3)
    same(everything(found), everything(one), 1e-10)


@pytest.mark.parametrize("name", ["sequential", "batched", "threads", "auto"])
def test_every_name_gives_the_same_numbers(name):
    one, found = (federation(FedNTD(), executor=e) for e in ("sequential", name))
    one.run(3)
    found.run(3)
    same(everything(found), everything(one), 1e-10)
