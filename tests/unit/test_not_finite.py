"""A federation whose numbers are none records nothing, says what and where, and stands at its last completed round."""

import math
import pickle

import pytest
import torch
from federations import ALGORITHMS, FLOAT, UNEVEN, everything, federation, public, same
from torch import nn

from fedlib import checkpoint, metrics, observe, personal, require
from fedlib.algorithms import FedAvg, FedDF, FedMD, FedOpt, FedPer, Scaffold
from fedlib.distill import Distillation
from fedlib.federation import Local, together

WHOLE = {"participation": 1.0}


class Spoilt(FedAvg):
    """In round 1, client 2 sends, or the server makes, what no arithmetic should."""

    def __init__(self, where, value=math.nan):
        self.where, self.value = where, value

    def spoil(self, fed, state):
        return {n: torch.full_like(t, self.value) if n == "head.bias" else t for n, t in state.items()}

    def keep(self, fed, client, state):
        own = {"momentum": state["head.bias"], "head.bias": state["head.bias"]}
        wrong = fed.round == 1 and client == 2 and self.where == "own"
        fed.own[client] = self.spoil(fed, own) if wrong else own

    def upload(self, fed, client, state):
        sent = super().upload(fed, client, state)
        return self.spoil(fed, sent) if (fed.round, client, self.where) == (1, 2, "upload") else sent

    def aggregate(self, fed, uploads, weights):
        super().aggregate(fed, uploads, weights)
        fed.memory["deep"] = {"er": fed.state["head.bias"] + 0}
        if fed.round == 1 and self.where == "state":
            fed.state = self.spoil(fed, fed.state)
        if fed.round == 1 and self.where == "memory":
            fed.memory["deep"] = {"er": fed.state["head.bias"] * self.value}


SAYS = {
    "upload": "round 1: what client 2 sent is not finite, head.bias: 3 of 3 numbers",
    "own": "round 1: what client 2 keeps is not finite, head.bias: 3 of 3",
    "state": "round 1: the server's model is not finite, head.bias: 3 of 3",
    "memory": "round 1: the server's memory is not finite, deep/er: 3 of 3",
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", SAYS)
def test_whatever_is_not_finite_after_a_round_is_named_and_undone(where, value):
    looked = []
    fed = federation(Spoilt(where, value), observers=[lambda fed, seen: looked.append(seen.number)], **WHOLE)
    fed.run(1)
    before, history, ledger = everything(fed), list(fed.history), list(fed.ledger.up)
    with pytest.raises(ArithmeticError, match=SAYS[where]) as caught:
        fed.run(1)
    assert "lower learning rate" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "it comes through from other processes"
    assert (fed.round, fed.history, fed.ledger.up, looked) == (1, history, ledger, [0])
    same(everything(fed), before)
    fed.algorithm = Spoilt("nowhere")
    fed.run(1)
    whole = federation(Spoilt("nowhere"), **WHOLE)
    whole.run(2)
    same(everything(fed), everything(whole))


def test_sums_that_overflow_are_no_alarm():
    assert require.all_finite([torch.full((10_000,), 3e38), torch.full((10,), -3e38), torch.full((9,), 6e4).half()])
    assert require.all_finite([torch.ones(0), torch.tensor([3]), torch.ones(2, 2).to_sparse(), torch.ones(())])
    for size in (1, 10_000):
        for value in (math.nan, math.inf):
            bad = torch.zeros(size)
            bad[-1] = value
            assert not require.all_finite([torch.ones(3), bad, torch.ones(3)])
    assert not require.all_finite([torch.tensor([math.inf]), torch.tensor([-math.inf])])


@pytest.mark.parametrize("optimiser", ["adam", "yogi", "adagrad", "sgd"])
def test_a_server_whose_step_overflows_records_no_accuracy(optimiser):
    """A rate of 1e39 is a number, but its product with single-precision weights is none."""
    x, y = torch.randn(30, 5), torch.arange(30) % 3
    fed = federation(FedOpt(optimiser, 1e39), dtype=torch.float32, observers=[observe.server_accuracy(x, y)])
    with pytest.raises(ArithmeticError, match="round 0: the server's model is not finite"):
        fed.run(1)
    assert fed.history == []


def test_a_second_moment_that_overflows_does_not_freeze_the_weights_silently():
    """v = infinity makes every step zero: the weights stay finite, and stand still."""
    fed = federation(FedOpt("adagrad", 0.1), dtype=torch.float32, participation=1.0)
    fed.memory = {n: torch.full_like(t, 3e38) for n, t in fed.memory.items()}
    fed.memory["v/head.bias"] = torch.full_like(fed.memory["v/head.bias"], math.inf)
    with pytest.raises(ArithmeticError, match=r"server's memory is not finite, v/head\.bias"):
        fed.run(1)


class NanStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        if self.training and len(x) == 7:  # one client's batches
            self.seen.mul_(math.nan)
        return self.head(x)


@pytest.mark.parametrize(("buffers", "whose"), [("average", "client 1 sent"), ("local", "client 1 keeps")])
def test_statistics_that_are_not_finite_are_found_wherever_they_are(buffers, whose):
    """They are in no loss of the round, as those of BatchNorm, which normalises batches by their own."""
    fed = federation(model=NanStatistics, buffers=buffers, local=Local(1, 100, 0.1), **WHOLE)
    with pytest.raises(ArithmeticError, match=f"what {whose} is not finite, seen: 2 of 2"):
        fed.run(1)


def test_the_last_local_step_may_overflow_without_a_loss_that_says_so():
    fed = federation(FedPer(common=True), local=Local(1, 100, 1e300), dtype=torch.float64, **WHOLE)
    fed.state = {n: t * 1e10 for n, t in fed.state.items()}
    with pytest.raises(ArithmeticError, match="is not finite"):
        fed.run(1)


def test_students_and_consensus_are_looked_at():
    huge = Distillation(steps=1, batch_size=12, lr=1e308, max_norm=None)
    with pytest.raises(ArithmeticError, match="the server's model is not finite"):
        federation(FedDF(public() * 1e3, huge), dtype=torch.float32, **WHOLE).run(1)

    class Loud(FedMD):
        def upload(self, fed, client, state):
            return {n: t * 1e308 * 1e10 for n, t in super().upload(fed, client, state).items()}

    with pytest.raises(ArithmeticError, match="what client 0 sent is not finite, logits"):
        federation(Loud(public()), **WHOLE).run(1)


def test_a_server_step_outside_of_rounds_is_looked_at_and_undone():
    fed, states = federation(**WHOLE), []
    fed.observers.append(lambda fed, seen: states.extend(seen.uploads))
    fed.run(1)
    before = dict(fed.state)
    weights = torch.full((len(UNEVEN),), 1 / len(UNEVEN), dtype=FLOAT)
    bad = [*states[:-1], {n: t * math.nan for n, t in states[-1].items()}]
    with pytest.raises(ArithmeticError, match="server step: the server's model is not finite"):
        fed.aggregate(bad, weights)
    same(fed.state, before)
    fed.aggregate(states, weights)
    assert all(bool(t.isfinite().all()) for t in fed.state.values())


def test_models_trained_apart_are_looked_at():
    fed = federation(local=Local(1, 100, 1e300), **WHOLE)
    fed.state = {n: t * 1e10 for n, t in fed.state.items()}
    with pytest.raises(ArithmeticError, match="the model that client 0 trained"):
        personal.trained(fed)


def test_play_brings_a_federation_back_and_saves_what_was_played(tmp_path):
    fed = federation(Spoilt("state"), **WHOLE)
    with pytest.raises(ArithmeticError, match="round 1"):
        checkpoint.play(fed, 5, tmp_path / "c", every=100)
    saved, whole = (federation(Spoilt("state"), **WHOLE) for _ in range(2))
    checkpoint.restore(saved, tmp_path / "c")
    whole.run(1)
    for one in (fed, saved):
        assert one.round == 1
        same(everything(one), everything(whole))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_whoever_played_beside_one_that_failed_goes_on_as_if_alone(name):
    """A round that another federation stopped half way had already moved controls, personal layers and momenta."""
    method = ALGORITHMS[name]()
    if name == "FedMD, kl" or name == "FedMD, mae":
        method.public = method.public.to(FLOAT)

    def stop(fed, seen):
        raise ArithmeticError("somebody else's trouble")

    good, bad, alone = (federation(method, seed=s) for s in (3, 4, 3))
    together([good, bad], 1)
    bad.observers.append(stop)
    with pytest.raises(ArithmeticError, match="somebody else"):
        together([bad, good], 1)
    assert (good.round, bad.round) == (1, 1)
    good.run(2)
    alone.run(3)
    same(everything(good), everything(alone), 1e-12)


def test_a_failed_round_leaves_nothing_in_the_ledger():
    """Also where the server fails, after everything has been sent."""

    class Failing(FedAvg):
        def aggregate(self, fed, uploads, weights):
            if fed.round == 1:
                raise LookupError("no such term")
            return super().aggregate(fed, uploads, weights)

    fed = federation(Failing())
    fed.run(1)
    down, up = list(fed.ledger.down), list(fed.ledger.up)
    with pytest.raises(LookupError):
        fed.run(1)
    assert (fed.ledger.down, fed.ledger.up) == (down, up)
    assert len(down) == len(up) == len(fed.history) == 1


def test_a_failed_round_leaves_controls_as_they_were():
    fed = federation(Scaffold(), **WHOLE)
    fed.run(1)
    before = everything(fed)
    fed.observers.append(lambda fed, seen: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fed.run(1)
    same(everything(fed), before)


def test_a_test_set_with_nonsense_in_it_has_no_accuracy():
    x, y = torch.randn(30, 5, dtype=FLOAT), torch.arange(30) % 3
    x[4] = math.nan
    fed = federation(observers=[observe.server_accuracy(x, y)])
    with pytest.raises(require.NotFinite, match="logits: 3 of 90 numbers are NaN or infinite"):
        fed.run(1)
    assert issubclass(require.NotFinite, ArithmeticError)
    assert metrics.accuracy(fed.net.predict(fed.state, x[5:]), y[5:]) >= 0
