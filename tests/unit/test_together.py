"""Several federations side by side: each as it would be alone, in one call of the executor where they may share it."""

from functools import partial
from types import MethodType

import pytest
import torch
from federations import (
    ALGORITHMS,
    FLOAT,
    NORMABLE,
    Normed,
    distance,
    everything,
    federation,
    public,
    same,
    samples,
    small,
)
from torch import nn

from fedlib import observe, rng
from fedlib.algorithms import FedAvg, FedDF, FedGen, FedLSD, FedMD, FedNTD, FedProx
from fedlib.algorithms.fedgen import Teaching
from fedlib.batched import batched
from fedlib.distill import Distillation
from fedlib.executors import Diverged, per_sample, sequential
from fedlib.federation import Federation, Local, together
from fedlib.jobs import explain
from fedlib.models import MLP, Net, SmallCNN
from fedlib.threads import Threads


class Counting:
    """An executor that notes how many clients each call gets."""

    def __init__(self, inner=sequential):
        self.inner, self.calls = inner, []

    def __call__(self, net, tasks, *rest):
        self.calls.append(len(tasks))
        return self.inner(net, tasks, *rest)


def seeds(algorithm, count=3, **options):
    """Federations of one setting, of one algorithm object, that differ in their seed."""
    return [federation(algorithm, seed=s, **options) for s in range(count)]


def alone_and_together(make, rounds=3, tolerance=0.0, executor=sequential):
    """Two lots of the same federations: one played one after the other, one side by side; returns the calls of each."""
    one, all_ = Counting(executor), Counting(executor)
    apart, joined = make(one), make(all_)
    for fed in apart:
        fed.run(rounds)
    together(joined, rounds)
    for a, b in zip(apart, joined, strict=True):
        same(everything(b), everything(a), tolerance)
        assert (a.ledger.down, a.ledger.up, a.round) == (b.ledger.down, b.ledger.up, b.round)
        assert len(a.history) == len(b.history)
        for old, new in zip(a.history, b.history, strict=True):
            assert old.keys() == new.keys()
            assert all(old[c] == pytest.approx(new[c], abs=max(tolerance, 0)) for c in old if c != "seconds")
    return one.calls, all_.calls


# --- seeds of one setting ------------------------------------------------------------------------------

BIT_FOR_BIT = [n for n in ALGORITHMS if n not in ("FedDF", "FedGen")]  # whose servers train together, too


@pytest.mark.parametrize("name", BIT_FOR_BIT)
def test_each_seed_has_the_bits_that_it_has_alone(name):
    algorithm = ALGORITHMS[name]
    apart, joined = alone_and_together(lambda e: seeds(algorithm(), executor=e, local=Local(2, 8, 0.1, 0.5, 0.01)))
    # FedMD has no digest before there is a consensus; FedRep trains heads, then the base.
    phases = 5 if name.startswith("FedMD") else 6 if name == "FedRep" else 3
    assert apart == [4] * 3 * phases
    assert joined == [12] * phases, "one call for each phase, with the clients of all seeds"


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(("executor", "count"), [(batched, 3), (batched, 1), (Threads(batched, 2), 2)])
def test_each_seed_has_its_numbers_in_one_computation(name, executor, count):
    algorithm = ALGORITHMS[name]()
    alone_and_together(lambda e: seeds(algorithm, count, executor=e), 3, 1e-10, executor)


@pytest.mark.parametrize("buffers", ["average", "local"])
@pytest.mark.parametrize("name", ["FedAvg", "FedDF", "FedNTD", "personal", "own"])
def test_seeds_with_batchnorm(name, buffers):
    algorithm, options = ALGORITHMS[name](), {"model": Normed, "sizes": NORMABLE, "buffers": buffers}
    tolerance = 1e-8 if name == "FedDF" else 1e-10  # see test_students_are_distilled_together
    alone_and_together(lambda e: seeds(algorithm, executor=e, **options), 2, tolerance, batched)


@pytest.mark.parametrize("executor", ["sequential", "batched", "threads", "auto"])
def test_named_executors_play_together(executor):
    algorithm = FedNTD(0.5)
    apart, joined = (seeds(algorithm, 4, executor=executor) for _ in range(2))
    for fed in apart:
        fed.run(2)
    together(joined, 2)
    for a, b in zip(apart, joined, strict=True):
        same(everything(b), everything(a), 1e-10)


def test_seeds_are_not_one_another():
    feds = seeds(FedAvg())
    together(feds, 2)
    assert distance(feds[0].state, feds[1].state) > 1e-3
    assert distance(feds[0].state, feds[2].state) > 1e-3


def test_students_are_distilled_together():
    """FedDF's server step of all seeds is one computation, where steps are small."""
    algorithm = FedDF(public(), Distillation(steps=5, batch_size=5))
    assert alone_and_together(lambda e: seeds(algorithm, 4, executor=e), 3, 1e-10) == ([4] * 12, [16] * 3)
    # A bias before BatchNorm has no gradient but rounding, which Adam divides by as little as 1e-8.
    options = {"model": Normed, "sizes": NORMABLE}
    alone_and_together(lambda e: seeds(algorithm, 4, executor=e, **options), 3, 1e-8)


def test_a_network_that_mixes_students_is_distilled_one_by_one():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return 5 * self.layer(x).softmax(1)

    algorithm = FedDF(public(), Distillation(steps=5, batch_size=5))
    # To rounding: on many cores even one model's products need not end in the same bit twice.
    alone_and_together(lambda e: seeds(algorithm, executor=e, model=Mixing), 2, 1e-13)


def test_a_network_that_mixes_students_in_training_alone_is_distilled_one_by_one():
    """In evaluation its stacked form answers as it does: nothing else said that students may share a computation."""

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            z = self.layer(x)
            return z - z.mean(0) if self.training else z

    algorithm = FedDF(public(), Distillation(steps=5, batch_size=5))
    alone_and_together(lambda e: seeds(algorithm, executor=e, model=Centred), 2, 1e-12)


def test_generators_that_mix_are_trained_one_by_one():
    class Mixing(nn.Module):
        def __init__(self, inputs, features):
            super().__init__()
            self.layer = nn.Linear(inputs, features)

        def forward(self, x):
            z = self.layer(x)
            return z - z.mean() if self.training else z

    class Own(FedGen):
        def generator(self, fed):
            classes, features = self.latent(fed)
            make = partial(Mixing, self.teaching.noise_size + classes, features)
            return fed.net.notes.setdefault(Own, Net(rng.build(make, fed.seed), fed.device, fed.dtype))

    algorithm = Own(1.0, teaching=Teaching(steps=3, batch_size=6, noise_size=4))
    alone_and_together(lambda e: seeds(algorithm, executor=e), 3, 1e-12)


# --- what belongs together, and what does not --------------------------------------------------------


def data(seed, sizes=(3, 7, 8, 13, 20, 4), shape=(5,)):
    return samples(sizes, shape, seed)


class Scaled(nn.Module):
    """A forward pass that reads something beside layers and tensors."""

    def __init__(self, scale):
        super().__init__()
        self.layer, self.scale = nn.Linear(5, 3), scale

    def forward(self, x):
        return self.scale * self.layer(x)


class Hidden(nn.Module):
    """A forward pass that reads what no state holds and no printed form shows."""

    def __init__(self, what, value):
        super().__init__()
        self.layer, self.ready = nn.Linear(5, 3), True
        if what == "underscore":
            self._scale = value
        elif what == "tensor":
            self.table = torch.ones(3, 2000, dtype=FLOAT)
            self.table[1, 1000] = value  # in the middle, which printing leaves out
        elif what == "digits":
            self.table = torch.full((3, 1), 1 + 1e-7 * value, dtype=FLOAT)
        elif what == "buffer":
            self.layer.register_buffer("fixed", torch.full((3,), float(value)), persistent=False)
        elif what == "modules":
            torch.manual_seed(value)
            self.outside = [nn.Linear(3, 3).to(FLOAT)]

    def forward(self, x):
        z = self.layer(x) * getattr(self, "_scale", 1)
        z = z * self.table.sum(1) if hasattr(self, "table") else z
        z = z * self.layer.fixed if hasattr(self.layer, "fixed") else z
        return self.outside[0](z) if hasattr(self, "outside") else z


class Pair(nn.Module):
    """Two layers that are one, or look as if they were."""

    def __init__(self, tied):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        if tied:
            self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def noisy(x, generator):
    return x + torch.randn(x.shape, generator=generator, dtype=x.dtype)


def noisier(x, generator):
    return x + 2 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def in_bytes(executor, algorithm, scale):
    x, y, split = data(1)
    x = ((x + 2) * 50).clamp(0, 255).to(torch.uint8)
    return federation(algorithm, data=(x, y, split), executor=executor, prepare=lambda t: t.to(FLOAT) / scale)


def one_algorithm(make):
    return lambda executor: make(executor, FedProx(0.1))


def shared(*settings):
    """Federations of one algorithm object with these settings."""
    return one_algorithm(lambda e, algorithm: [federation(algorithm, executor=e, **o) for o in settings])


SAMPLES, CLASSES, HOLDERS = data(1)

JOINED = {
    "seeds": shared({"seed": 1}, {"seed": 2}),
    "the same twice": shared({}, {}),
    "other data": shared({"data": data(1)}, {"data": data(2)}),
    "targets": shared({"data": (SAMPLES, CLASSES, HOLDERS)}, {"data": (SAMPLES, 2 - CLASSES, HOLDERS)}),
    "more clients": shared({"data": data(1)}, {"data": data(2, (9, 30, 2, 5, 5, 5, 8, 1))}),
    "other participation": shared({"participation": 0.2}, {"participation": 1.0}),
    "other batch size": shared({"local": Local(2, 8, 0.1)}, {"local": Local(2, 3, 0.1)}),
    "other epochs": shared({"local": Local(1, 8, 0.1)}, {"local": Local(3, 8, 0.1)}),
    "other decay, first round": shared({"local": Local(1, 8, 0.1)}, {"local": Local(1, 8, 0.1, lr_decay=0.5)}),
    "one keeps statistics": shared(
        {"model": Normed, "sizes": NORMABLE, "buffers": "local"}, {"model": Normed, "sizes": NORMABLE}
    ),
    "what nobody sees, of one value": shared(
        *({"seed": s, "model": lambda: Hidden("tensor", 2)} for s in (1, 2)),
    ),
    "equal algorithms": lambda e: [federation(FedProx(0.1), seed=s, executor=e) for s in (1, 2)],
    "equal algorithms that hold settings": lambda e: [
        federation(FedLSD(0.5, 2.0), seed=s, executor=e, model=Normed, sizes=NORMABLE) for s in (1, 2)
    ],
    "augmented": shared(
        {"local": Local(1, 8, 0.1, augment=noisy)}, {"seed": 5, "local": Local(1, 8, 0.1, augment=noisy)}
    ),
}


class Towards(FedAvg):
    """An objective that reads a tensor of its object."""

    def __init__(self, value):
        self.point = torch.full((3,), float(value), dtype=FLOAT)

    @per_sample
    def objective(self, net, state, x, y, context):
        return super().objective(net, state, x, y, context) + (net(state, x) - self.point).square().mean((-2, -1))


class Helped(FedAvg):
    """An objective that asks its object for a factor."""

    def factor(self):
        return 1.0

    @per_sample
    def objective(self, net, state, x, y, context):
        return self.factor() * super().objective(net, state, x, y, context)


class HelpedMore(Helped):
    def factor(self):
        return 3.0


def patched(mu):
    """One of two methods of a class has another objective of its own."""
    algorithm, other = FedProx(mu), FedProx(mu)
    other.objective = MethodType(FedAvg.objective, other)
    return [algorithm, other]


APART = {
    "tensors of algorithms": lambda e: [federation(Towards(v), executor=e) for v in (0.0, 1.0)],
    "objective put into an object": lambda e: [federation(a, executor=e) for a in patched(0.9)],
    "helper of a subclass": lambda e: [federation(a, executor=e) for a in (Helped(), HelpedMore())],
    "algorithm": lambda e: [federation(FedProx(mu), executor=e) for mu in (0.1, 0.9)],
    "kind of algorithm": lambda e: [federation(a, executor=e) for a in (FedAvg(), FedNTD())],
    "learning rate": shared({"local": Local(1, 8, 0.1)}, {"local": Local(1, 8, 0.2)}),
    "momentum": shared({"local": Local(1, 8, 0.1)}, {"local": Local(1, 8, 0.1, 0.9)}),
    "weight decay": shared({"local": Local(1, 8, 0.1)}, {"local": Local(1, 8, 0.1, 0.0, 0.1)}),
    "network": shared({}, {"model": lambda: MLP(5, (7,), 3)}),
    "kind of network": shared({"sizes": NORMABLE}, {"sizes": NORMABLE, "model": Normed}),
    "what a network reads": shared({"model": lambda: Scaled(0.5)}, {"model": lambda: Scaled(2.0)}),
    **{
        f"what nobody sees, {what}": shared(*({"model": lambda w=what, v=v: Hidden(w, v)} for v in (2, 3)))
        for what in ("underscore", "tensor", "digits", "buffer", "modules")
    },
    "tied layers": shared({"model": lambda: Pair(True)}, {"model": lambda: Pair(False)}),
    "dtype": shared({}, {"dtype": torch.float32}),
    "augmentation": shared({"local": Local(1, 8, 0.1, augment=noisy)}, {"local": Local(1, 8, 0.1, augment=noisier)}),
    "no augmentation": shared({"local": Local(1, 8, 0.1, augment=noisy)}, {"local": Local(1, 8, 0.1)}),
    "preparation": one_algorithm(lambda e, a: [in_bytes(e, a, scale) for scale in (10, 99)]),
    "bytes": one_algorithm(lambda e, a: [in_bytes(e, a, 50), federation(a, executor=e)]),
    "shape of samples": one_algorithm(
        lambda e, a: [
            federation(a, executor=e, model=lambda: MLP(6, (4,), 3), data=data(1, shape=s)) for s in ((6,), (2, 3))
        ]
    ),
}


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize(("executor", "tolerance"), [(sequential, 0.0), (batched, 1e-10)])
def test_clients_that_belong_together_are_trained_in_one_call(name, executor, tolerance):
    rounds = 1 if "first round" in name else 2
    apart, joined = alone_and_together(JOINED[name], rounds, tolerance, executor)
    assert len(apart) == 2 * rounds
    assert len(joined) == rounds
    assert sum(apart) == sum(joined)


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize(("executor", "tolerance"), [(sequential, 0.0), (batched, 1e-10)])
def test_clients_that_differ_are_trained_apart(name, executor, tolerance):
    apart, joined = alone_and_together(APART[name], 2, tolerance, executor)
    assert sorted(apart) == sorted(joined)


@pytest.mark.parametrize("name", JOINED)
def test_the_explanation_names_one_call(name):
    feds = JOINED[name]("sequential")
    before = [everything(fed) for fed in feds]
    clients = sum(len(fed.sample(0)) for fed in feds)
    assert explain(feds) == f"one call for 2 federations, {clients} clients; sequential: as asked for"
    for fed, kept in zip(feds, before, strict=True):
        same(everything(fed), kept)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("algorithm", "objective (method or its settings)"),
        ("kind of algorithm", "objective (method or its settings)"),
        ("tensors of algorithms", "objective (method or its settings)"),
        ("learning rate", "learning rate"),
        ("momentum", "momentum or weight decay"),
        ("network", "network"),
        ("dtype", "type, precision, shape or type of samples"),
        ("augmentation", "augmentation"),
        ("preparation", "preparation of samples"),
    ],
)
def test_the_explanation_says_what_keeps_federations_apart(name, words):
    first, second = explain(APART[name]("batched")).split("\n")
    assert first.startswith("one call for 1 federation, ")
    assert second.startswith("one call for 1 federation, ")
    assert second.endswith(f"; not in the first call, because of its {words}")


def test_the_explanation_leaves_out_those_without_local_work():
    idle, busy = federation(local=Local(0, 8, 0.1)), federation(seed=1)
    assert explain([idle]) == "1 federation without local work"
    lines = explain([idle, busy]).split("\n")
    assert lines[0].startswith("one call for 1 federation, 4 clients; ")
    assert lines[1:] == ["1 federation without local work"]
    with pytest.raises(ValueError, match="a federation cannot play beside itself"):
        explain([busy, busy])


def test_classes_of_one_name_are_two_networks():
    def network(power):
        class Net_(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(5, 3)

            def forward(self, x):
                return self.layer(x**power)

        return Net_

    models, algorithm = [network(1), network(2)], FedAvg()
    alone_and_together(lambda e: [federation(algorithm, model=m, executor=e) for m in models])


def test_executors_that_differ_are_each_given_their_own():
    algorithm, one, two = FedAvg(), Counting(), Counting()
    feds = [federation(algorithm, seed=s, executor=e) for s, e in enumerate((one, two, one))]
    together(feds, 2)
    assert (one.calls, two.calls) == ([8, 8], [4, 4])


def test_federations_in_different_rounds_are_each_in_their_own():
    """A decaying rate and the round in the objective's context keep them apart."""
    local, algorithm = Local(1, 8, 0.2, lr_decay=0.5), FedAvg()

    def make(executor):
        feds = seeds(algorithm, 3, local=local, executor=executor)
        feds[1].run(2)
        executor.calls.clear()
        return feds

    apart, joined = alone_and_together(make)
    assert apart == [4] * 9
    assert joined == [8, 4] * 3


def test_federations_with_different_numbers_of_phases():
    """FedMD digests from its second round on; a federation that is in its first has one phase less."""
    algorithm = FedMD(public(), digest_epochs=2)

    def make(executor):
        feds = [*seeds(algorithm, 3, executor=executor), federation(FedAvg(), executor=executor)]
        feds[1].run(1)
        feds[2].run(1)
        executor.calls.clear()
        return feds

    alone_and_together(make, 3)
    alone_and_together(make, 3, 1e-10, batched)
    counting = Counting()
    together(make(counting), 1)
    # revisit of the first beside digests of two others, and an algorithm of its own; then the two others' revisits
    assert counting.calls == [4, 8, 4, 8]


def test_some_have_no_local_work():
    algorithm = FedAvg()
    settings = [{"local": Local(e, 8, 0.1)} for e in (0, 1, 0, 2)]
    alone_and_together(lambda e: [federation(algorithm, executor=e, **options) for options in settings])


# --- what is left behind -----------------------------------------------------------------------------


def test_observers_see_their_own_federation():
    x, y, _ = samples()
    algorithm = FedAvg()
    seen = []

    def watch(fed, what):
        seen.append((fed.seed, what.number, what.clients == fed.sample(what.number)))
        return {"seed": fed.seed}

    def make(executor):
        return seeds(algorithm, executor=executor, observers=[watch, observe.client_accuracy(x, y)])

    alone_and_together(make, 2)
    assert all(right for *_, right in seen)
    assert [s for s, *_ in seen] == [0, 0, 1, 1, 2, 2, 0, 1, 2, 0, 1, 2]


def test_playing_on_alone_after_playing_together():
    algorithm = FedNTD()
    one, all_ = seeds(algorithm), seeds(algorithm)
    for fed in one:
        fed.run(4)
    together(all_, 2)
    all_[1].run(2)
    together([all_[2], all_[0]], 2)
    for a, b in zip(one, all_, strict=True):
        same(everything(b), everything(a))
        assert [row["round"] for row in b.history] == [1, 2, 3, 4]


def test_nothing_to_play():
    fed = federation()
    together([], 3)
    together([fed], 0)
    assert (fed.round, fed.history) == (0, [])


def test_one_that_diverges_stops_all_before_anybodys_round_counts():
    x, y, split = samples()
    algorithm = FedAvg()
    good = federation(algorithm, participation=1.0)
    bad = Federation(small, x, y, split, algorithm, local=good.local, dtype=FLOAT, device="cpu", executor="sequential")
    bad.x[split[3]] = float("nan")
    start = everything(good)
    with pytest.raises(Diverged, match="client 3"):
        together([good, bad], 2)
    same(everything(good), start)
    assert (good.round, bad.round, good.history) == (0, 0, [])


def test_many_seeds_of_a_convolutional_network():
    algorithm = FedAvg()
    options = {"model": SmallCNN, "shape": (1, 8, 8), "sizes": (9, 4, 6), "local": Local(1, 4, 0.05, 0.9)}
    alone_and_together(lambda e: seeds(algorithm, 5, executor=e, **options), 2, 1e-10, batched)
