"""The promise of an objective is tried on all that it can reach, and again when that changes: no sum over clients stays
hidden because something is zero, or equal for all, in the first round.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from federations import FLOAT, NORMABLE, Normed, everything, federation, same, samples, small
from hypothesis import given, settings, strategies as st
from torch import nn

from fedlib import promise, rng
from fedlib.algorithms import FedAvg, FedGen, FedMD, Moon, Scaffold
from fedlib.algorithms.fedgen import Teaching
from fedlib.batched import batched, train_stacked, unstackable
from fedlib.executors import Context, Task, per_sample
from fedlib.losses import cross_entropy, inner, proximal
from fedlib.models import Net
from fedlib.stacking import Stack
from fedlib.threads import Threads

CASES = settings(deadline=None, max_examples=60)
UNEQUAL = "does not give each client its own result"


def vectors(mapping, names):
    """All entries as one vector for each client, whether there is one or a stack of them: written to be right."""
    keep = 1 if isinstance(mapping, Stack) else 0
    return torch.cat([mapping[n].flatten(keep) for n in names], -1)


def numbers(mapping, names):
    """All entries as one vector, those of all clients together: the usual mistake."""
    return torch.cat([mapping[n].flatten() for n in names])


def repeated(own, state, names):
    """One vector of own entries for the weights' vector, which for a mistake may be that of several clients."""
    whole, part = numbers(state, names), numbers(own, names)
    return part if len(part) == len(whole) else part.repeat(len(whole) // len(part))


MEAN = "body.1.running_mean"

# Terms by name: right for one client and for a stack, and wrong only for a stack.
RIGHT = {
    "proximal": lambda net, s, c: proximal(net.weights(s), c.own, 0.3),
    "inner": lambda net, s, c: inner(net.weights(s), c.own),
    "inner, received": lambda net, s, c: inner(net.weights(s), c.received),
    "norm": lambda net, s, c: (proximal(net.weights(s), c.own, 2.0) + 1e-9).sqrt(),
    "softmax": lambda net, s, c: (
        (vectors(s, net.parameters).softmax(-1) * vectors(c.own, net.parameters)).sum(-1)
    ),
    "entries": lambda net, s, c: (s["head.bias"] * c.own["head.bias"]).tanh().sum(-1),
    "buffer": lambda net, s, c: inner(net.weights(s), c.own) * c.received[MEAN].sum(-1),
}  # fmt: skip
WRONG = {
    "proximal": lambda net, s, c: 0.15 * sum((s[n] - c.own[n]).square().sum() for n in net.parameters),
    "inner": lambda net, s, c: sum((s[n] * c.own[n]).sum() for n in net.parameters),
    "inner, received": lambda net, s, c: sum((s[n] * c.received[n]).sum() for n in net.parameters),
    "norm": lambda net, s, c: (numbers(s, net.parameters) - repeated(c.own, s, net.parameters)).norm(),
    "softmax": lambda net, s, c: (
        (numbers(s, net.parameters).softmax(0) * repeated(c.own, s, net.parameters)).sum()
    ),
    "softmax over clients": lambda net, s, c: (s["head.bias"].softmax(0) * c.own["head.bias"]).sum(-1),
    "mean of own": lambda net, s, c: (s["head.bias"] * c.own["head.bias"].mean()).sum(-1),
    "flat at zero": lambda net, s, c: sum(((s[n] * c.own[n]) ** 2).sum() for n in net.parameters) ** 2,
    "inner and buffer": lambda net, s, c: (s["head.bias"] * c.own["head.bias"]).sum() * c.received[MEAN].sum(-1),
    "counter": lambda net, s, c: s["head.bias"].sum(-1) * c.own["body.1.num_batches_tracked"].sum(),
    "own buffer": lambda net, s, c: s["head.bias"].sum(-1) * c.own[MEAN].sum(),
}  # fmt: skip

STARTS = {
    "zero": lambda t, k, g: torch.zeros_like(t),
    "equal": lambda t, k, g: torch.full_like(t, 0.7),
    "one": lambda t, k, g: torch.full_like(t, float(k == 0)),
    "tiny": lambda t, k, g: 1e-30 * torch.randn(t.shape, generator=g, dtype=t.dtype),
    "huge": lambda t, k, g: 1e8 * torch.randn(t.shape, generator=g, dtype=t.dtype),
    "any": lambda t, k, g: torch.randn(t.shape, generator=g, dtype=t.dtype),
}
SETTINGS = st.sampled_from(sorted(STARTS)), st.booleans(), st.sampled_from([torch.float32, FLOAT])


def tasks_of(net, start, clients=4, shared=True, seed=0):
    """A round's tasks whose own tensors start as ``start`` says."""
    x, y, split = samples(NORMABLE[:clients])
    g = torch.Generator().manual_seed(seed)
    base = net.initial()
    made = []
    for k, rows in enumerate(split):
        own = {n: start(t, k, g) if t.is_floating_point() else t for n, t in base.items()}
        received = base if shared else {n: t + 0.1 * k if t.is_floating_point() else t for n, t in base.items()}
        order = torch.randperm(len(rows), generator=g)[None]
        made.append(Task(k, received, Context(received, own), x.to(net.dtype), y, rows, order, 4))
    return made


def with_term(term):
    @per_sample
    def objective(net, state, x, y, context):
        return cross_entropy(net(state, x, train=True), y) + term(net, state, context)

    return objective


@CASES
@given(
    st.sampled_from(sorted(WRONG)),
    st.sampled_from(sorted(STARTS)),
    st.booleans(),
    st.sampled_from([torch.float32, FLOAT]),
)
def test_a_term_over_all_clients_is_found_whatever_it_starts_from(name, start, shared, dtype):
    net = Net(rng.build(Normed, 0), dtype=dtype)
    reason = unstackable(net, with_term(WRONG[name]), tasks_of(net, STARTS[start], shared=shared))
    assert UNEQUAL in reason or "does not work on a stack" in reason


@CASES
@given(
    st.sampled_from(sorted(RIGHT)),
    st.sampled_from(sorted(STARTS)),
    st.booleans(),
    st.sampled_from([torch.float32, FLOAT]),
)
def test_a_term_of_each_client_passes_whatever_it_starts_from(name, start, shared, dtype):
    net = Net(rng.build(Normed, 0), dtype=dtype)
    assert unstackable(net, with_term(RIGHT[name]), tasks_of(net, STARTS[start], shared=shared)) == ""


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6, 1e12])
def test_a_large_term_hides_no_small_one(size):
    """A right term of whatever size beside a wrong one, which is told apart in one client's step at least."""

    def both(net, s, c):
        return inner(net.weights(s), c.own) + 1e-3 * sum(s[n].square().sum() for n in net.parameters)

    net = Net(rng.build(small, 0), dtype=FLOAT)
    tasks = tasks_of(net, lambda t, k, g: size * torch.ones_like(t))
    assert UNEQUAL in unstackable(net, with_term(both), tasks)


def test_one_received_model_and_several_are_two_things_to_try():
    """What is right while all start from one model may be a sum over clients once each has its own."""
    objective = with_term(lambda net, s, c: s["head.bias"].sum(-1) * c.received[MEAN].sum())
    net = Net(rng.build(Normed, 0), dtype=FLOAT)
    assert unstackable(net, objective, tasks_of(net, STARTS["any"], shared=True)) == ""
    assert UNEQUAL in unstackable(net, objective, tasks_of(net, STARTS["any"], shared=False))
    assert unstackable(net, objective, tasks_of(net, STARTS["any"], shared=True)) == ""


# --- what shows only in later rounds -------------------------------------------------------------------------------


class Controlled(FedAvg):
    """Control variates written for one client: zero in the first round, and a sum over all clients on a stack."""

    @per_sample
    def objective(self, net, state, x, y, context):
        tilt = sum((state[n] * context.own[n]).sum() for n in net.parameters)
        return super().objective(net, state, x, y, context) + tilt

    def context(self, fed, client):
        return {n: 0.3 * fed.round * (client + 1) * torch.ones_like(fed.state[n]) for n in fed.net.parameters}


def as_one_by_one(make, rounds=4, **options):
    """Whatever executor ``auto`` takes, its numbers are those of the reference; returns both federations."""
    one, found = (federation(make(), executor=e, participation=1.0, **options) for e in ("sequential", "auto"))
    one.run(rounds)
    found.run(rounds)
    same(everything(found), everything(one), 1e-10)
    return one, found


def test_a_sum_over_clients_of_controls_that_start_at_zero():
    """It passed in the first round, and its weights were 3.1 off after three."""
    _, found = as_one_by_one(Controlled, 3)
    assert UNEQUAL in found.explain()
    with pytest.raises(ValueError, match=r"Controlled\.objective or a layer does not give each client its own result"):
        federation(Controlled(), executor="batched").run(1)


def late(condition):
    """An algorithm whose wrong term begins when ``condition(context)`` says so."""

    class Late(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            loss = super().objective(net, state, x, y, context)
            if condition(context):
                loss = loss + 0.1 * sum((state[n] - context.received[n] + 1).square().sum() for n in net.parameters)
            return loss

        def context(self, fed, client):
            return {"known": torch.ones(2, dtype=fed.dtype)} if fed.round == 2 else {}

    return Late


@pytest.mark.parametrize(
    "condition",
    [lambda c: c.round > 0, lambda c: c.round == 3, lambda c: "known" in c.own, lambda c: len(c.own) == 1],
    ids=["after the first", "in the fourth", "a new tensor", "one more tensor"],
)
def test_a_term_that_begins_later_is_found_when_it_begins(condition):
    _, found = as_one_by_one(late(condition), 5)
    assert any("sequential" in row for row in _choices(late(condition)))
    assert any("batched" in row for row in _choices(late(condition))), "until then the clients share the work"
    assert found.round == 5


def _choices(make, rounds=5):
    fed = federation(make(), executor="auto", participation=1.0)
    seen = []
    for _ in range(rounds):
        seen.append(fed.explain())
        fed.run(1)
    return seen


def test_a_factor_that_is_zero_in_the_first_round():
    class Growing(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            loss = super().objective(net, state, x, y, context)
            return loss + 0.1 * context.round * sum(state[n].square().sum() for n in net.parameters)

    as_one_by_one(Growing)


class Changing(FedAvg):
    """An algorithm that changes: ``mu`` weighs a term that is wrong on a stack."""

    def __init__(self):
        self.mu, self.table, self.inside = 0.0, {"mu": [0.0]}, SimpleNamespace(mu=0.0)
        self.tensor = torch.zeros((), dtype=FLOAT)

    @per_sample
    def objective(self, net, state, x, y, context):
        mu = self.mu + self.table["mu"][-1] + self.inside.mu + self.tensor
        wrong = sum(state[n].square().sum() for n in net.parameters)
        return super().objective(net, state, x, y, context) + mu * wrong


@pytest.mark.parametrize(
    "change",
    [
        lambda a: setattr(a, "mu", 0.1),
        lambda a: a.table["mu"].append(0.1),
        lambda a: setattr(a.inside, "mu", 0.1),
        lambda a: setattr(a, "tensor", torch.tensor(0.1, dtype=FLOAT)),
        lambda a: a.tensor.add_(0.1),
    ],
    ids=["a number", "a list in a dictionary", "an object's attribute", "another tensor", "a tensor in place"],
)
def test_an_algorithm_that_changes_is_tried_again(change):
    fed, one = (federation(Changing(), executor=e, participation=1.0) for e in ("auto", "sequential"))
    for f in (fed, one):
        f.run(1)
        assert f is one or f.explain().startswith("batched")
        change(f.algorithm)
        f.run(2)
    assert UNEQUAL in fed.explain()
    same(everything(fed), everything(one), 1e-10)


def test_what_a_closure_holds_is_seen_to_change():
    mu = 0.0

    @per_sample
    def objective(net, state, x, y, context):
        return cross_entropy(net(state, x, train=True), y) + mu * sum(state[n].sum() for n in net.parameters)

    net = Net(rng.build(small, 0), dtype=FLOAT)
    tasks = tasks_of(net, STARTS["any"])
    assert unstackable(net, objective, tasks) == ""
    mu = 0.2
    assert UNEQUAL in unstackable(net, objective, tasks)


def test_another_preparation_is_tried_too():
    """Two phases may have one objective, and samples that are prepared in one of them only."""
    net, objective = Net(rng.build(small, 0), dtype=FLOAT), with_term(lambda *_: 0.0)
    tasks = tasks_of(net, STARTS["any"])
    assert unstackable(net, objective, tasks) == ""
    for t in tasks:
        t.prepare = lambda x: x - x.mean(0)
    assert unstackable(net, objective, tasks) != ""


class Aged(FedAvg):
    """Every client counts its rounds; the count is summed over all clients on a stack."""

    def __init__(self, count):
        self.count = count

    @per_sample
    def objective(self, net, state, x, y, context):
        age, origin = context.own["age"].sum(), {n: torch.zeros_like(state[n]) for n in net.parameters}
        return cross_entropy(net(state, x, train=True), y) + 0.1 * age * proximal(net.weights(state), origin, 1.0)

    def context(self, fed, client):
        return {"age": torch.tensor([self.count(fed.round, client)])}


@pytest.mark.parametrize(
    "count",
    [lambda r, k: r, lambda r, k: r * (k == 2), lambda r, k: int(r == 2), lambda r, k: int(k == 3)],
    ids=["all grow", "one in the middle grows", "once", "one from the start"],
)
def test_integers_cannot_be_shaken_and_are_looked_at_again(count):
    as_one_by_one(lambda: Aged(count))


# --- decided by values ---------------------------------------------------------------------------------------------


def masked(net, state, x, y, context):
    """A term of the samples of one class, which the samples of the trial need not have."""
    return net(state, x, train=True)[y == 2].square().sum() / max(1, x.shape[0])


READING = {
    "a branch": lambda n, s, x, y, c: n(s, x).mean((-2, -1)) if c.own["head.bias"].abs().max() > 2 else 0.0,
    "a number": lambda n, s, x, y, c: min(0.0, float(s["head.bias"].detach().sum()) - 3) * n(s, x).mean((-2, -1)),
    "a mask": masked,
    "places": lambda n, s, x, y, c: len((y == 7).nonzero()) * n(s, x).mean((-2, -1)),
    "a comparison": lambda n, s, x, y, c: 0.0 if not torch.equal(y, y + 1) else n(s, x).sum(),
}


@pytest.mark.parametrize("name", READING)
def test_what_values_decide_is_decided_for_each_client_alone(name):
    """On a stack it would be decided once for all, whatever the two clients of a trial happen to have."""

    @per_sample
    def objective(net, state, x, y, context):
        return cross_entropy(net(state, x, train=True), y) + READING[name](net, state, x, y, context)

    net = Net(rng.build(small, 0), dtype=FLOAT)
    assert "looks at the values of its tensors" in unstackable(net, objective, tasks_of(net, STARTS["any"]))


def test_a_preparation_that_looks_at_values_is_noticed():
    x, y, split = samples()
    raw = (x * 20).abs().to(torch.uint8)

    def prepare(x):
        return x.to(FLOAT) / (255 if x.max() > 250 else 1)

    fed = federation(data=(raw, y, split), prepare=prepare, executor="auto", participation=1.0)
    assert "looks at the values" in fed.explain()


# --- what is bounded -----------------------------------------------------------------------------------------------

BOUNDED = {
    "probabilities": (lambda t, k, g: torch.full_like(t, 0.97), lambda v: -(1 - v).log()),
    "certainties": (lambda t, k, g: torch.full_like(t, float(k == 0)), lambda v: -(1.2 - v).log()),
    "counts": (lambda t, k, g: torch.full_like(t, 5.0 * k), lambda v: v.sqrt()),
    "signs": (lambda t, k, g: torch.full_like(t, -3.0), lambda v: (-v).log()),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_own_tensors_stay_where_they_make_sense(name):
    start, use = BOUNDED[name]
    right = with_term(lambda net, s, c: (s["head.bias"] * use(c.own["head.bias"])).sum(-1))
    wrong = with_term(lambda net, s, c: (s["head.bias"] * use(c.own["head.bias"])).sum())
    net = Net(rng.build(small, 0), dtype=FLOAT)
    assert unstackable(net, right, tasks_of(net, start)) == ""
    assert UNEQUAL in unstackable(net, wrong, tasks_of(net, start))


def test_what_cannot_be_shaken_at_all_is_computed_one_by_one():
    """At its values it is fine: the trial must not end the training."""

    class Narrow(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            gap = (context.own["one"] - 1).abs().sum(-1)
            return super().objective(net, state, x, y, context) * (1e-12 - gap).sqrt()

        def context(self, fed, client):
            return {"one": torch.ones(1, dtype=fed.dtype)}

    _, found = as_one_by_one(Narrow, 1)
    assert "cannot be tried near the values that it is given (ArithmeticError" in found.explain() or (
        "cannot be tried near the values that it is given (Diverged" in found.explain()
    )


# --- clients that are not alike ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.context.own.update(more=torch.ones(1)), "keep different tensors"),
        (lambda t: t.context.own.update({"head.bias": torch.ones(3)}), "keep different tensors"),  # another type
        (lambda t: t.context.own.update({"head.bias": torch.ones(4, dtype=FLOAT)}), "keep different tensors"),
        (lambda t: setattr(t.context, "received", t.context.received | {"more": torch.ones(1)}), "received different"),
        (lambda t: setattr(t, "x", t.x.float()), "samples differ"),
        (lambda t: setattr(t, "y", t.y.int()), "samples differ"),
        (lambda t: setattr(t.context, "round", 1), "differ in their round"),
        (lambda t: setattr(t, "prepare", lambda x: 2 * x), "how samples are prepared"),
        (lambda t: setattr(t, "augment", lambda x, g: 2 * x), "how samples are prepared or augmented"),
    ],
)
def test_clients_that_differ_are_never_forced_into_one_step(change, reason):
    net, objective = Net(rng.build(small, 0), dtype=FLOAT), with_term(lambda *_: 0.0)
    tasks = tasks_of(net, STARTS["any"])
    assert unstackable(net, objective, tasks) == ""
    change(tasks[2])
    assert reason in unstackable(net, objective, tasks)


# --- what no shaking finds: all clients as they are -----------------------------------------------------------------


class Several(FedAvg):
    """A client's number beside a mask that differs at a single client in the middle: only the first mask is read."""

    @per_sample
    def objective(self, net, state, x, y, context):
        mask = context.own["mask"]
        logits = net(state, x, train=True)
        return cross_entropy(logits + 3.0 * (mask if mask.ndim == 1 else mask[0]), y)

    def context(self, fed, client):
        return {"id": torch.tensor([client]), "mask": torch.tensor([0, 1, 0] if client == 2 else [0, 0, 1])}


def test_a_second_tensor_of_integers_that_differs_at_one_client_only():
    _, found = as_one_by_one(Several)
    assert UNEQUAL in found.explain()


HIDDEN = {
    "a sign": lambda own: own.clamp(max=0),
    "an exact zero": lambda own: (own == 0).to(own),
    "a size": lambda own: (own - 2).relu(),
}


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN.keys())
@pytest.mark.parametrize("begins", [0, 1, 3])
def test_a_term_that_hangs_on_values_that_no_trial_visits(hidden, begins):
    """At the start it is refused. Later it is an error within twice as many rounds, and never a number."""

    class Gated(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            name = net.parameters[0]
            term = (state[name] * hidden(context.own["own"])).sum()  # over all clients
            return super().objective(net, state, x, y, context) + term

        def context(self, fed, client):
            shape = fed.state[fed.net.parameters[0]]
            quiet = {"a sign": 1.0, "an exact zero": 1.0, "a size": 1.0}
            loud = {"a sign": -0.5, "an exact zero": 0.0, "a size": 3.0}
            name = next(n for n, f in HIDDEN.items() if f is hidden)
            value = (loud if client == 2 and fed.round >= begins else quiet)[name]
            return {"own": torch.full_like(shape, value)}

    if begins == 0:
        _, found = as_one_by_one(Gated)
        assert UNEQUAL in found.explain()
        return
    fed = federation(Gated(), executor="auto", participation=1.0)
    fed.run(begins)
    with pytest.raises(
        RuntimeError, match=r"not in round \d, where in round \d it did; the rounds between may be wrong"
    ):
        fed.run(2 * begins)
    assert fed.round <= 2 * begins


def test_a_term_that_hangs_on_the_size_of_a_batch():
    class Sized(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            loss = super().objective(net, state, x, y, context)
            return loss * loss.detach().mean() if len(x) > 3 else loss

    as_one_by_one(Sized)


def test_an_objective_that_cannot_be_remembered_is_computed_one_by_one():
    @dataclass
    class Plain:
        per_sample = True

        def __call__(self, net, state, x, y, context):
            return cross_entropy(net(state, x, train=True), y)

    class Odd(FedAvg):
        objective = Plain()

    _, found = as_one_by_one(Odd)
    assert "cannot be remembered" in found.explain()


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("on",)


class Switched(FedAvg):
    """A wrong term that something outside switches on after the first round."""

    scale = 0.0

    def __init__(self, kind):
        self.kind, self.array, self.slotted, self.module = kind, np.zeros(2), Slotted(), nn.Identity()
        self.slotted.on = self.module.on = 0.0

    def aggregate(self, fed, uploads, weights):
        super().aggregate(fed, uploads, weights)
        if self.kind == "array":
            self.array[1] = 1.0
        elif self.kind == "class":
            type(self).scale = 1.0
        else:
            getattr(self, self.kind).on = 1.0

    @per_sample
    def objective(self, net, state, x, y, context):
        loss = super().objective(net, state, x, y, context)
        on = {"array": self.array[1], "class": self.scale, "slotted": self.slotted.on, "module": self.module.on}
        return loss * loss.detach().mean() if on[self.kind] else loss


@pytest.mark.parametrize("kind", ["array", "class", "slotted", "module"])
def test_what_is_switched_on_elsewhere_is_seen(kind):
    def make():
        return type("Switched", (Switched,), {})(kind)  # a class of its own, for what classes hold

    _, found = as_one_by_one(make)
    assert UNEQUAL in found.explain()


@pytest.mark.parametrize(
    "look",
    [
        lambda y: torch.where(y == 1)[0].shape[0],
        lambda y: torch.unique_consecutive(y).numel(),
        lambda y: len(torch.bincount(y.flatten())),
        lambda y: nn.functional.one_hot(y).shape[-1],
        lambda y: y.flatten().repeat_interleave(y.flatten()).numel(),
        lambda y: int(f"{y.sum()}"),
    ],
    ids=["where", "unique_consecutive", "bincount", "one_hot", "repeat_interleave", "format"],
)
def test_a_shape_that_depends_on_values_is_a_look_at_them(look):
    class Looking(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            return super().objective(net, state, x, y, context) * (1 + look(y))

    _, found = as_one_by_one(Looking)
    assert "looks at the values" in found.explain()


# --- when it is tried, and what that leaves ------------------------------------------------------------------------


@pytest.fixture
def tries(monkeypatch):
    """Each time that an objective is tried."""
    seen, real = [], promise._tried
    monkeypatch.setattr(promise, "_tried", lambda *given: seen.append(given) or real(*given))
    return seen


@pytest.mark.parametrize("make", [FedAvg, Scaffold, Moon, lambda: FedMD(torch.zeros(4, 5, dtype=FLOAT))])
def test_what_does_not_change_is_tried_once(make, tries):
    fed = federation(make(), executor="auto", participation=1.0, model=Normed, sizes=NORMABLE)
    fed.run(1)
    kinds = len(tries)
    fed.run(1)
    more = 1 if isinstance(fed.algorithm, FedMD) else 0  # its second objective begins in the second round
    assert len(tries) == kinds + more
    fed.run(3)
    assert len(tries) == kinds + more


def test_what_asks_for_the_round_is_tried_in_each(tries):
    teaching = Teaching(steps=2, batch_size=4, noise_size=3, hidden=4)
    fed = federation(FedGen(1.0, teaching=teaching), executor="auto", participation=1.0)
    fed.run(4)
    assert len(tries) == 4


def test_threads_share_no_answer_and_ask_only_once(tries):
    fed = federation(FedAvg(), executor=Threads(batched, 2), participation=1.0)
    fed.run(1)
    assert len(tries) == 2
    fed.run(3)
    assert len(tries) == 2


def test_an_answer_does_not_depend_on_what_was_asked_before():
    """So that a run that goes on from a checkpoint takes the executors that it would have taken."""
    wrong_later = late(lambda c: c.round in (1, 3))
    on_the_way = _choices(wrong_later, 5)
    afresh = []
    for number in range(5):
        fed = federation(wrong_later(), executor="auto", participation=1.0)
        fed.round = number
        afresh.append(fed.explain())
    assert [a.split(":")[0] for a in on_the_way] == [a.split(":")[0] for a in afresh]


def test_the_trial_leaves_what_it_looks_at_alone():
    """Counters among a client's own tensors, too, and what an objective writes to its context."""

    @per_sample
    def writing(net, state, x, y, context):
        logits = net(context.own, x, train=True)
        return cross_entropy(net(state, x, train=True), y) + cross_entropy(logits, y)

    net = Net(rng.build(Normed, 0), dtype=FLOAT)
    tasks = tasks_of(net, STARTS["any"])
    before = [{n: (t, t.clone(), t._version) for n, t in s.items()} for k in tasks for s in (k.state, k.context.own)]
    unstackable(net, writing, tasks)
    for state, kept in zip([s for k in tasks for s in (k.state, k.context.own)], before, strict=True):
        for n, (t, value, version) in kept.items():
            assert state[n] is t
            assert t._version == version
            assert torch.equal(t, value)


SHORT = {"times": 0}  # how often there is too little memory for two clients at once


def test_a_trial_that_finds_too_little_memory_says_nothing_of_rounds():
    class Wide(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            if SHORT["times"] and x.ndim > 3 and x.shape[1] > 1:  # [B, K, 1, D]
                SHORT["times"] -= 1
                raise torch.OutOfMemoryError("out of memory")
            return super().objective(net, state, x, y, context)

    one, fed = (federation(Wide(), executor=e, participation=1.0) for e in ("sequential", "batched"))
    one.run(2)
    SHORT["times"] = 1
    fed.run(2)
    assert SHORT["times"] == 0
    assert "most clients" not in fed.net.notes
    same(everything(fed), everything(one), 1e-10)


def test_a_wrong_way_to_compute_together_is_found():
    """The trial is not of objectives alone."""

    def forgetful(net, tasks, objective, optimiser, lr):
        losses = train_stacked(net, tasks, objective, optimiser, lr)
        tasks[-1].state = {n: t + 1e-6 for n, t in tasks[-1].state.items()}
        return losses

    net, objective = Net(rng.build(small, 0), dtype=FLOAT), with_term(lambda *_: 0.0)
    tasks = tasks_of(net, STARTS["any"])
    assert UNEQUAL in promise.broken(net, objective, tasks, forgetful)


def test_a_layer_of_ones_own_that_looks_at_values():
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            z = self.head(x)
            return z / z.abs().max() if z.abs().max() > 50 else z

    fed = federation(model=Clipped, executor="auto", participation=1.0)
    assert fed.explain().startswith("sequential")


def test_answers_are_not_kept_for_ever():
    """An actor gets another object for the same objective in every round."""
    net = Net(rng.build(small, 0), dtype=FLOAT)
    tasks = tasks_of(net, STARTS["any"])
    for _ in range(promise.MANY + 5):
        assert unstackable(net, with_term(RIGHT["inner"]), tasks) == ""
    assert len(net.notes["promise"]) == promise.MANY
