"""Captured steps: what they compute is what one client after the other computes, and every doubt leads back to that."""

import sys
from collections import deque
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import ClassVar

import pytest
import tape
import torch
from federations import (
    ALGORITHMS,
    FLOAT,
    NORMABLE,
    UNEVEN,
    Normed,
    Personal,
    Pulled,
    distance,
    everything,
    federation,
    same,
    samples,
    small,
)
from hypothesis import given, settings, strategies as st
from tape import Tapes, count, tapes  # noqa: F401
from torch import nn

from fedlib import batched, capture, fixed, graphs, rng, seen as seen_module, stacking
from fedlib.algorithms import FedAvg, FedNTD, FedProx
from fedlib.batched import steps_of
from fedlib.data.augment import by_row, crop_and_flip
from fedlib.executors import Diverged, per_sample
from fedlib.federation import Local, together
from fedlib.fixed import Fixed, Shape
from fedlib.losses import cross_entropy
from fedlib.models import ResNet8, SmallCNN
from fedlib.models.net import Net
from fedlib.optim import SGD
from fedlib.plan import Plan
from fedlib.rounds import Prepare

pytestmark = pytest.mark.usefixtures("tapes")


def agree(algorithm, rounds=3, tolerance=1e-10, **options):
    """The same federation one by one and captured; returns captures and replays of each round, and the latter."""
    options = {"participation": 1.0, "local": Local(2, 8, 0.1, 0.8, 0.02, lr_decay=0.9)} | options
    one, all_ = (federation(algorithm(), executor=e, **options) for e in ("sequential", "batched"))
    one.run(rounds)
    count()
    seen = [count() for _ in range(rounds) if all_.run(1)]
    same(everything(all_), everything(one), tolerance)
    return seen, all_


# --- every algorithm, every kind of client ---------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n != "FedGen"])
@pytest.mark.parametrize(("model", "sizes"), [(small, UNEVEN), (Normed, NORMABLE)])
def test_captured_steps_equal_single_ones_for_every_algorithm(name, model, sizes):
    seen, fed = agree(ALGORITHMS[name], model=model, sizes=sizes)
    assert steps_of(fed.net).startswith("steps captured (")
    assert "not" not in steps_of(fed.net)
    assert all(captures == 0 for captures, _ in seen[2:]), "what was captured is kept"


def test_an_objective_that_asks_for_the_round_is_not_captured():
    _, fed = agree(ALGORITHMS["FedGen"], rounds=1)
    assert steps_of(fed.net) == "steps not captured: the objective asks for the round's number"
    assert fed.explain() == "batched: as asked for; steps not captured: the objective asks for the round's number"
    _, fed = agree(ALGORITHMS["FedGen"])
    assert steps_of(fed.net).startswith("steps not captured: ")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_rates_that_decay_need_no_new_capture(momentum, weight_decay):
    seen, _ = agree(FedAvg, local=Local(2, 8, 0.1, momentum, weight_decay, lr_decay=0.7), rounds=3)
    assert [captures for captures, _ in seen] == [3, 0, 0]


@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    [
        ((8, 8, 16), 8),
        ((1, 2, 3), 8),
        ((1, 40, 3, 17), 8),
        ((5, 120, 30), 10**6),
        ((9, 9, 9), 8),
        ((7,), 3),
        ((4, 4, 4, 4), 1),
    ],
)
@pytest.mark.parametrize("algorithm", [FedAvg, lambda: FedNTD(1.0, 2.0), Pulled])
def test_equal_for_clients_of_any_sizes(sizes, batch_size, algorithm):
    agree(algorithm, 3, sizes=sizes, local=Local(2, batch_size, 0.1, 0.5))


@pytest.mark.parametrize("model", [small, Normed])
@pytest.mark.parametrize("algorithm", [FedAvg, lambda: FedNTD(1.0, 2.0), Pulled])
def test_who_has_finished_is_computed_on_and_keeps_what_it_had(model, algorithm):
    """Six, then five and four clients are at work in the capture for six."""
    _, fed = agree(algorithm, sizes=(3, 10, 19, 18, 20, 24), model=model, local=Local(2, 8, 0.1, 0.9, 0.05))
    (space,) = fed.net.notes["captures"].spaces
    assert {shape.clients for shape in space.replays} == {6}


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(2, 30), min_size=1, max_size=6),
    st.integers(2, 12),
    st.sampled_from([small, Normed]),
    st.sampled_from([FedAvg, lambda: FedProx(0.5), Pulled]),
)
def test_equal_for_whatever_sizes_there_are(sizes, batch_size, model, algorithm):
    if model is Normed:  # no batch of one sample, and none of two, whose small variances make much of rounding
        batch_size = max(batch_size, 4)
        sizes = [max(n + (0, 2, 1)[n % batch_size] if n % batch_size < 3 else n, 3) for n in sizes]
    agree(algorithm, 2, sizes=tuple(sizes), model=model, local=Local(2, batch_size, 0.1, 0.9, 0.01))


@pytest.mark.parametrize(
    ("model", "shape"),
    [(SmallCNN, (1, 8, 8)), (lambda: ResNet8(norm="group"), (3, 8, 8)), (ResNet8, (3, 8, 8))],
)
def test_equal_for_convolutional_networks(model, shape):
    agree(lambda: FedNTD(0.5, 2.0), 2, model=model, shape=shape, sizes=(4, 9, 6, 2), local=Local(1, 4, 0.05, 0.9))


@pytest.mark.parametrize("model", [small, Normed])
def test_in_single_precision_too(model):
    agree(lambda: FedNTD(0.5), 3, 1e-5, model=model, sizes=NORMABLE, dtype=torch.float32)


def test_other_clients_in_every_round_need_no_new_capture():
    seen, fed = agree(FedAvg, rounds=5, participation=0.5, sizes=(8, 16, 24, 8, 12, 20))
    assert len({tuple(fed.sample(i)) for i in range(5)}) > 1
    assert sum(captures for captures, _ in seen[3:]) == 0


@pytest.mark.parametrize("shared", [True, False])
def test_several_federations_together(shared):
    """With one data set for all, and with one for each."""
    data = samples()
    algorithm = FedNTD(0.5)
    parts = [
        [
            federation(algorithm, seed=s, executor=e, data=data if shared else samples(seed=s), participation=0.6)
            for s in range(3)
        ]
        for e in ("sequential", "batched")
    ]
    for feds in parts:
        together(feds, 3)
    for one, all_ in zip(*parts, strict=True):
        same(everything(all_), everything(one), 1e-10)
    assert steps_of(parts[1][0].net).startswith("steps captured (")


class Masked(FedAvg):
    """Integers among what clients keep: the classes of which each makes nothing."""

    @per_sample
    def objective(self, net, state, x, y, context):
        logits = net(state, x, train=True)
        return cross_entropy(logits + context.own["mask"].unsqueeze(-2).unsqueeze(-2) * -0.5, y)

    def context(self, fed, client):
        return {"mask": torch.tensor([client + fed.round, client, fed.round]) % 2}


def test_integers_that_clients_keep_are_data():
    class Single(Masked):
        @per_sample
        def objective(self, net, state, x, y, context):
            mask = context.own["mask"]
            mask = mask[:, None] if mask.ndim == 2 else mask
            return cross_entropy(net(state, x, train=True) - 0.5 * mask, y)

    seen, _ = agree(Single, 3)
    assert [captures for captures, _ in seen] == [3, 0, 0]


def test_a_client_that_has_finished_stays_finite_beside_batchnorm():
    """Without any sample, every normalisation would blow its activations up by one over the root of epsilon."""

    def deep():
        return nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(5, 5), nn.BatchNorm1d(5))))

    sizes = (10, 10, *[36] * 4)  # two finish first, and the capture for six goes on, with padding at the end
    fed = federation(model=deep, sizes=sizes, dtype=torch.float32, executor=batched.train_stacked, participation=1.0)
    fed.run(1)
    (space,) = fed.net.notes["captures"].spaces
    assert set(space.replays) == {Shape(6, True), Shape(6, False)}
    assert all(bool(t.isfinite().all()) for t in space.states.values())


def test_a_client_that_has_finished_counts_as_one_with_a_whole_batch():
    made = plan((10, 10, *[36] * 4), 8, model=Normed)
    net = stacking.stacked(Net(rng.build(Normed, 0), dtype=FLOAT))
    work = Fixed(net, made, FedAvg().objective, SGD(0.1), [])
    for i, (k, rest) in enumerate(zip(made.at_work, (8, 8, 8, 8, 4), strict=True)):
        work.cursor.fill_(i)
        batch = work.next(Shape(6, False))
        assert batch.counts.tolist() == ([8] * 6 if i == 0 else [8] * 4 + [2] * 2 if i == 1 else [rest] * 4 + [8] * 2)
        assert torch.allclose(batch.norm_share.sum(0), torch.ones(6, dtype=FLOAT))
        assert torch.equal(batch.share.sum(0) > 0, torch.arange(6) < k)


# --- augmentation ------------------------------------------------------------------------------------------


def mixed(keys):
    """A stand-in for draws by row: any function of the key alone."""
    return ((keys * 6364136223846793005 + 1442695040888963407) >> 33).to(FLOAT) / 2**30


class Rows:
    def __init__(self, keys):
        self.keys = keys


def by_rows(keys, step, width):
    return keys + 7919 * torch.arange(width)[:, None] + 104729 * (step if isinstance(step, int) else step.reshape(()))


def shifted(x, source):
    return x + mixed(source.keys)[:, None]


shifted.several = True


@pytest.mark.parametrize("model", [small, Normed])
def test_draws_by_row_can_be_captured(monkeypatch, model):
    monkeypatch.setattr(rng, "Rows", Rows, raising=False)
    monkeypatch.setattr(rng, "rows", by_rows, raising=False)
    options = {"model": model, "sizes": NORMABLE, "local": Local(2, 8, 0.1, augment=shifted)}
    options["executor"] = batched.train_stacked
    captured, plain, bare = (federation(**options | more) for more in ({}, {}, {"local": Local(2, 8, 0.1)}))
    captured.run(3)
    assert steps_of(captured.net).startswith("steps captured (")
    monkeypatch.setattr(batched, "CAPTURE", False)
    plain.run(3)
    bare.run(3)
    same(everything(captured), everything(plain), 1e-10)
    assert distance(captured.state, bare.state) > 1e-3


@pytest.mark.parametrize("sizes", [UNEVEN, (5, 5, 5)])
def test_crop_and_flip_is_captured(sizes):
    local = Local(2, 8, 0.05, augment=crop_and_flip)
    _, fed = agree(FedAvg, model=SmallCNN, shape=(1, 8, 8), sizes=sizes, local=local)
    assert steps_of(fed.net).startswith("steps captured (")


def test_draws_of_a_generator_are_not_captured():
    def noisy(x, generator):
        return x + torch.randn(x.shape, generator=generator, dtype=x.dtype)

    _, fed = agree(FedAvg, local=Local(1, 8, 0.1, augment=noisy))
    assert steps_of(fed.net) == "steps not captured: the augmentation draws from a generator of the host"


# --- what a capture depends on ------------------------------------------------------------------------------


class Weighted(FedAvg):
    def __init__(self):
        super().__init__()
        self.weight, self.classes = 1.0, torch.ones(3, dtype=torch.int64)

    @per_sample
    def objective(self, net, state, x, y, context):
        return self.weight * cross_entropy(net(state, x, train=True) * self.classes, y)


def changing(change, rounds):
    """A federation whose algorithm is changed before each round, one by one and captured."""
    feds = [federation(Weighted(), executor=e, participation=1.0) for e in ("sequential", "batched")]
    seen, words = [], []
    for i in range(rounds):
        for fed in feds:
            change(fed.algorithm, i)
            count()
            fed.run(1)
        seen.append(count()[0])
        words.append(steps_of(feds[1].net))
    same(everything(feds[1]), everything(feds[0]), 1e-10)
    return seen, words


def test_an_attribute_that_changes_is_seen():
    def change(algorithm, i):
        algorithm.weight = 1.0 if i < 2 else 2.0

    assert changing(change, 3)[0] == [3, 0, 3]


def test_a_small_tensor_that_is_replaced_is_seen():
    """Though its content is the same: a capture reads the memory of the old one."""

    def change(algorithm, i):
        if i == 2:
            algorithm.classes = torch.ones(3, dtype=torch.int64)

    assert changing(change, 4)[0] == [3, 0, 3, 0]


def test_what_changes_in_every_round_is_soon_no_longer_captured():
    def change(algorithm, i):
        algorithm.weight = 1.0 + 0.1 * i

    seen, words = changing(change, 7)
    assert seen == [3, 3, 3, 3, 3, 0, 0]
    assert words[-1] == "steps not captured: what they depend on changes from round to round"


def test_the_capture_of_another_objective_is_never_taken():
    @per_sample
    def twice(net, state, x, y, context):
        return 2 * cross_entropy(net(state, x, train=True), y)

    one, all_ = (federation(executor=e, participation=1.0) for e in ("sequential", "batched"))
    for fed in (one, all_):
        fed.run(2)
        fed.algorithm.objective = twice
        fed.run(1)
    same(everything(all_), everything(one), 1e-10)


# --- doubts ---------------------------------------------------------------------------------------------------


class Reading(FedAvg):
    """Makes a tensor of a number on the host at every step: a copy from it."""

    @per_sample
    def objective(self, net, state, x, y, context):
        return cross_entropy(net(state, x, train=True), y) * torch.tensor(0.5)


def test_a_capture_that_is_refused_leaves_plain_steps_and_the_reason():
    seen, fed = agree(Reading)
    assert [captures for captures, _ in seen] == [0, 0, 0]
    assert steps_of(fed.net).startswith(
        "steps not captured: a step cannot be captured (Refused: operation not permitted"
    )
    assert not fed.net.notes["captures"].spaces, "nothing is kept for it"


@pytest.mark.parametrize("model", [small, Normed])
def test_a_capture_that_differs_is_refused(monkeypatch, model):
    def spoil(tape):
        skipped = [i for i, note in enumerate(tape.notes) if "_fused_sgd" in str(note[0])]
        del tape.notes[skipped[0]]

    monkeypatch.setattr(graphs, "for_device", lambda device: Tapes(spoil))
    seen, fed = agree(FedAvg, model=model, sizes=NORMABLE)
    assert steps_of(fed.net) == "steps not captured: a captured step differs from the plain one"
    assert [replays for _, replays in seen[1:]] == [0, 0]


def spoil(monkeypatch, change):
    """Captures whose replays change something else, too."""
    plain = capture._captured

    def captured(made, work, shape, prepare):
        replay, reason = plain(made, work, shape, prepare)

        def wrong():
            replay()
            change(work, shape)

        return wrong, reason

    monkeypatch.setattr(capture, "_captured", captured)


@pytest.mark.parametrize("whose", ["first", "last"])
@pytest.mark.parametrize("kind", ["weights", "statistics", "counters", "velocity", "losses"])
def test_a_difference_anywhere_is_found(monkeypatch, kind, whose):
    """A capture that adds a little to one client's number, or counts once too often."""

    def change(work, shape):
        of = {
            "weights": work.states["head.bias"],
            "statistics": work.states["body.1.running_var"],
            "counters": work.states["body.1.num_batches_tracked"],
            "velocity": work.memory["velocity"]["head.bias"],
            "losses": work.totals,
        }
        of[kind][0 if whose == "first" else shape.clients - 1] += 1 if kind == "counters" else 1e-6

    spoil(monkeypatch, change)
    _, fed = agree(FedAvg, 2, model=Normed, sizes=NORMABLE)
    assert steps_of(fed.net) == "steps not captured: a captured step differs from the plain one"


def test_a_difference_that_is_large_beside_a_small_step_is_found(monkeypatch):
    """In single precision, where a thousandth of a step is allowed, but not of a weight."""

    class Faint(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            return 1e-3 * super().objective(net, state, x, y, context)

    spoil(monkeypatch, lambda work, shape: work.states["head.bias"][0].add_(1e-4))
    _, fed = agree(Faint, 1, 1e-5, dtype=torch.float32)
    assert steps_of(fed.net) == "steps not captured: a captured step differs from the plain one"


def test_a_capture_that_goes_wrong_later_is_found_in_a_round_that_is_a_power_of_two():
    fed = federation(executor="batched", participation=1.0)
    fed.run(3)
    space = fed.net.notes["captures"].spaces[0]
    for shape in space.replays:
        space.replays[shape] = lambda: None
    with pytest.raises(RuntimeError, match=r"differs from the plain one in round 4, .*CAPTURE = False"):
        fed.run(2)  # the first of them is wrong, and nobody looks
    assert fed.round == 4
    fed, one = (federation(participation=1.0, executor=e) for e in ("batched", "sequential"))
    fed.run(4)
    for shape in (space := fed.net.notes["captures"].spaces[0]).replays:
        space.replays[shape] = lambda: None
    with pytest.raises(RuntimeError, match="in round 4"):
        fed.run(1)
    one.run(5)
    fed.run(1)
    same(everything(fed), everything(one), 1e-10)
    assert steps_of(fed.net) == "steps not captured: a captured step differs from the plain one"
    assert not fed.net.notes["captures"].spaces, "nothing is kept for it"


def test_training_that_diverges_is_reported_as_without_captures():
    fed = federation(executor="batched", participation=1.0, local=Local(2, 8, 1e300))
    with pytest.raises(Diverged):
        fed.run(2)
    agree(FedAvg, 2)


def test_a_batch_of_one_sample_beside_batchnorm_is_an_error_as_without_captures():
    for captured in (True, False):
        fed = federation(model=Normed, sizes=(9, 20), executor="batched", participation=1.0)
        batched.CAPTURE, before = captured, batched.CAPTURE
        try:
            with pytest.raises(ValueError, match=r"more than 1 value per channel when training, got 1 in"):
                fed.run(1)
        finally:
            batched.CAPTURE = before


class Failing(FedAvg):
    """Fails when it is asked for the ``left``-th time, by what another module says: only that is no part of the key."""

    @per_sample
    def objective(self, net, state, x, y, context):
        tape.ASKED["left"] -= 1
        if not tape.ASKED["left"]:
            raise LookupError("no such term")
        return cross_entropy(net(state, x, train=True), y)


def test_a_step_that_fails_leaves_no_trace():
    one, fed = (federation(Failing(), participation=1.0, executor=e) for e in ("sequential", "batched"))
    tape.ASKED["left"] = 0
    one.run(6)
    fed.run(4)
    before = {n: t.clone() for n, t in fed.state.items()}
    tape.ASKED["left"] = 2  # after some steps of round 4, where captures are compared with plain steps again
    with pytest.raises(LookupError):
        fed.run(1)
    same(fed.state, before)
    tape.ASKED["left"] = 0
    fed.run(2)
    assert steps_of(fed.net) == "steps captured (3 graphs)"
    same(everything(fed), everything(one), 1e-10)


# --- memory -----------------------------------------------------------------------------------------------------


class Narrow(FedNTD):
    """Has no memory for more than so many clients at once."""

    most = 2

    @per_sample
    def objective(self, net, state, x, y, context):
        if x.ndim > 3 and x.shape[1] > self.most:  # [B, K, 1, D]
            raise torch.OutOfMemoryError("out of memory")
        return super().objective(net, state, x, y, context)


@pytest.mark.parametrize("captured", [True, False])
def test_where_memory_is_short_fewer_clients_are_taken_at_once(monkeypatch, captured):
    monkeypatch.setattr(batched, "CAPTURE", captured)
    seen, fed = agree(Narrow, 3, sizes=(3, 7, 8, 13, 20))
    assert "memory for 2 clients at once" in steps_of(fed.net)
    assert fed.net.notes["most clients"] == 2
    assert (sum(captures for captures, _ in seen) > 0) == captured


def test_clients_that_are_done_are_not_trained_again():
    one, all_ = (federation(Narrow(), participation=1.0, executor=e) for e in ("sequential", batched.train_stacked))
    one.run(2)
    all_.run(2)
    assert all_.net.notes["most clients"] == 2
    same(everything(all_), everything(one), 1e-10)


def test_where_memory_was_short_no_capture_of_the_old_size_is_kept():
    fed = federation(Narrow(), sizes=(8,) * 4, executor=batched.train_stacked, participation=1.0)
    fed.run(1)
    assert [space.clients for space in fed.net.notes["captures"].spaces] == [2]


def test_a_client_that_fits_by_no_means_is_an_error():
    class Never(Narrow):
        most = 0

    fed = federation(Never(), sizes=(8, 9, 10), executor=batched.train_stacked, participation=1.0)
    with pytest.raises(torch.OutOfMemoryError):
        fed.run(1)
    assert fed.net.notes["most clients"] == 1


# --- costs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [2, 8])
def test_a_replay_runs_no_python_of_the_objective(clients):
    fed = federation(Failing(), sizes=(24,) * clients, executor="batched", participation=1.0, local=Local(1, 8, 0.1))
    fed.run(5)
    tape.ASKED["left"] = 0
    count()
    fed.run(1)  # round 5, in which nobody compares
    assert tape.ASKED["left"] == 0
    assert count() == (0, 3), "three steps, whatever the number of clients"


def test_without_captures_nothing_is_said(monkeypatch):
    monkeypatch.undo()
    assert graphs.for_device(torch.device("cpu")) is None
    fed = federation(executor="batched")
    fed.run(1)
    assert steps_of(fed.net) == ""
    assert "captures" not in fed.net.notes


def test_captures_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(batched, "CAPTURE", False)
    seen, fed = agree(FedAvg)
    assert seen == [(0, 0)] * 3
    assert steps_of(fed.net) == "steps not captured: fedlib.batched.CAPTURE is off"


# --- when it pays ------------------------------------------------------------------------------------------------


def plan(sizes, batch_size, epochs=1, model=small):
    fed = federation(sizes=sizes, participation=1.0, local=Local(epochs, batch_size, 0.1), model=model)
    tasks = next(fed._round()).tasks
    return Plan(sorted(tasks, key=lambda t: -t.steps))


def test_shapes_halve_and_hold_those_at_work(monkeypatch):
    made = plan((8, 16, 24, 80, 80), 8)
    found = capture._shapes(made, normed=False)
    assert [s.clients for s in found] == [5, 5, 3] + [2] * 7
    assert {s.whole for s in found} == {True}, "without BatchNorm one capture serves both"
    monkeypatch.undo()
    assert capture._shapes(made, normed=False) == [None] * 3 + [Shape(2, True)] * 7, "too few of one shape"


def test_batchnorm_tells_whole_batches_from_padded_ones():
    found = capture._shapes(plan((8, 12, 16), 8, epochs=2), normed=True)
    # 8, 8, 8; then nothing, 4, 8; then the second epochs.
    assert found == [Shape(3, True), Shape(3, False), Shape(2, True), Shape(2, False)]


def test_a_batch_of_one_sample_is_not_captured_beside_batchnorm():
    made = plan((9, 16), 8, epochs=1)
    assert capture._shapes(made, normed=True) == [Shape(2, True), None]
    assert capture._shapes(made, normed=False) == [Shape(2, True), Shape(2, True)]


def test_padding_that_wastes_too_much_is_not_captured(monkeypatch):
    made = plan((66, 66), 64, epochs=5)
    assert all(capture._shapes(made, normed=False))
    monkeypatch.setattr(capture, "WASTE", 2.0)
    assert capture._shapes(made, normed=False) == [Shape(2, True), None] * 5


# --- one update ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_rate_in_a_tensor_gives_the_same_step(fused, momentum, weight_decay):
    g = torch.Generator().manual_seed(2)
    rule = SGD(0.3, momentum, weight_decay)
    start = {"a": torch.randn(4, 3, generator=g, dtype=FLOAT), "b": torch.randn(2, 3, 1, 1, generator=g, dtype=FLOAT)}
    one, two = ({n: t.clone() for n, t in start.items()} for _ in "ab")
    memories = {}, {}
    for rate in (0.3, 0.2, 0.1):
        grads = {
            n: torch.randn(t.shape[::-1], generator=g, dtype=FLOAT).permute(*range(t.ndim)[::-1])
            for n, t in start.items()
        }
        rule.step(one, grads, memories[0], rate)
        rule.step_by(two, grads, memories[1], torch.tensor(rate, dtype=FLOAT), fused)
        same(two, one, 1e-14)
    assert distance(one, start) > 0.1
    for slot in memories[0]:
        same(memories[1][slot], memories[0][slot], 1e-14)


def test_the_smallest_count_need_not_be_read_from_the_device():
    net = stacking.stacked(Net(rng.build(Normed, 0), dtype=FLOAT))
    share, counts = torch.tensor([[1.0, 0.5], [0.0, 0.5]], dtype=FLOAT), torch.tensor([1, 2])
    state = stacking.take([net._one.initial()] * 2)
    for least in (None, 1):
        net.weigh(share, counts, least)
        with pytest.raises(ValueError, match="got 1 in a client's last batch"):
            net(state, torch.zeros(2, 2, 1, 5, dtype=FLOAT), train=True)


# --- the calls of CUDA, without a card --------------------------------------------------------------------------------


class Card:
    """Stands in for torch.cuda: notes what it is asked for, in order."""

    def __init__(self, monkeypatch):
        self.log, self.mode, self.stream = [], 0, "main"
        card = self

        class Stream:
            def __init__(self, name="side"):
                self.name = name

            def wait_stream(self, other):
                card.log.append(f"{self.name} waits for {other.name}")

        self.main = Stream("main")

        @contextmanager
        def stream(side):
            card.log.append(f"on {side.name}")
            yield
            card.log.append("back")

        @contextmanager
        def graph(made, pool, side, capture_error_mode):
            card.log.append(f"capture in {pool} on {side.name}, {capture_error_mode}")
            yield
            card.log.append("captured")

        class CUDAGraph:
            def replay(self):
                card.log.append("replay")

        for name, stand_in in {
            "Stream": Stream,
            "stream": stream,
            "graph": graph,
            "CUDAGraph": CUDAGraph,
            "device": lambda device: nullcontext(),
            "graph_pool_handle": lambda: "pool",
            "current_stream": lambda: self.main,
            "set_stream": lambda s: self.log.append(f"set {s.name}"),
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": lambda mode: setattr(self, "mode", mode),
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)


@pytest.fixture
def card(monkeypatch):
    return Card(monkeypatch)


def flags():
    return torch.backends.cudnn.benchmark, torch.is_autocast_cache_enabled()


def test_a_capture_is_rehearsed_on_its_stream_and_refuses_to_wait(card):
    before, seen = flags(), []

    def step():
        seen.append((card.mode, *flags()))
        card.log.append("step")

    replay = graphs.CudaGraphs(torch.device("cuda")).capture(step, lambda: card.log.append("prepare"))
    assert card.log == [
        "side waits for main",
        "on side",
        *["prepare", "step"] * 3,
        "back",
        "main waits for side",
        "capture in pool on side, thread_local",
        "step",
        "captured",
        "set main",
    ]
    assert seen == [(0, True, False)] * 2 + [("error", True, False), (0, True, False)]
    assert flags() == before
    assert card.mode == 0
    replay()
    assert card.log[-1] == "replay"


@pytest.mark.parametrize("last", [1, 3, 4])
def test_a_capture_that_fails_leaves_everything_as_it_was(card, last):
    before, steps = flags(), []

    def step():
        steps.append(1)
        if len(steps) == last:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        graphs.CudaGraphs(torch.device("cuda")).capture(step, lambda: None)
    assert flags() == before
    assert card.mode == 0
    assert card.log[-1] == ("set main" if last == 4 else "main waits for side")


def test_where_results_must_repeat_cudnn_does_not_choose_by_trying(card, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    graphs.CudaGraphs(torch.device("cuda")).capture(lambda: seen.append(flags()[0]), lambda: None)
    assert seen == [False] * 4


def test_a_capture_for_want_of_memory_is_no_refusal(monkeypatch):
    """The end of a broken capture raises another error, which hides the first."""

    class Full(Tapes):
        def capture(self, step, prepare):
            try:
                raise torch.OutOfMemoryError("full")
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(graphs, "for_device", lambda device: Full())
    fed = federation(executor="batched", participation=1.0)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        fed.run(1)
    assert fed.net.notes["most clients"] == 1


# --- what a capture bakes in, wherever the objective reads it ------------------------------------------------------

STRENGTH = 0.5
POINT = torch.zeros(3, dtype=FLOAT)


def pull():
    return STRENGTH * POINT


class Looking(FedAvg):
    """An objective that reads global variables, through a function too, its class, a queue, and a network's weights."""

    points: ClassVar = [torch.zeros(3, dtype=FLOAT)]

    def __init__(self):
        self.last, self.teacher = deque([1.0]), nn.Linear(5, 3, dtype=FLOAT)

    def away(self):
        return self.points[0]

    @per_sample
    def objective(self, net, state, x, y, context):
        out = net(state, x, train=True)
        to = (pull() + self.away()) * self.last[-1] + self.teacher.bias
        return cross_entropy(out, y) + (out - to).square().mean((-2, -1))


def _global_number(algorithm, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "STRENGTH", 3.0)


def _global_tensor(algorithm, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "POINT", torch.ones(3, dtype=FLOAT))


def _global_function(algorithm, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "pull", lambda: 2.0)


def _tensor_of_the_class(algorithm, monkeypatch):
    monkeypatch.setattr(Looking, "points", [torch.ones(3, dtype=FLOAT)])


def _method_of_the_class(algorithm, monkeypatch):
    monkeypatch.setattr(Looking, "away", lambda self: 1.5)


def _queue(algorithm, monkeypatch):
    algorithm.last.append(2.0)


def _weights_of_a_network(algorithm, monkeypatch):
    algorithm.teacher.bias = nn.Parameter(torch.ones(3, dtype=FLOAT))


def _memory_of_a_tensor(algorithm, monkeypatch):
    algorithm.teacher.bias.data = torch.ones(3, dtype=FLOAT)


CHANGES = [
    _global_number, _global_tensor, _global_function, _tensor_of_the_class, _method_of_the_class, _queue,
    _weights_of_a_network, _memory_of_a_tensor,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_an_objective_reads_may_change_between_rounds(change, monkeypatch):
    """In rounds 5 and 6 nobody compares captured steps with plain ones."""
    pair = []
    monkeypatch.setattr(sys.modules[__name__], "POINT", torch.full((3,), 0.2, dtype=FLOAT))
    for executor in ("sequential", "batched"):
        torch.manual_seed(0)
        with monkeypatch.context() as back:
            algorithm = Looking()
            fed = federation(algorithm, participation=1.0, executor=executor)
            fed.run(5)
            change(algorithm, back)
            fed.run(2)
        pair.append(fed)
    one, all_ = pair
    assert steps_of(all_.net).startswith("steps captured (")
    same(everything(all_), everything(one), 1e-10)


def changed(change, **options):
    """A federation that is changed after five rounds, and then plays two in which nobody compares steps: one by one and
    captured.
    """
    pair = [
        federation(**{"participation": 1.0, "executor": e} | options) for e in ("sequential", batched.train_stacked)
    ]
    for fed in pair:
        fed.run(5)
        start = fed.state
        change(fed)
        fed.run(2)
        assert distance(fed.state, start) > 1e-4
    one, all_ = pair
    assert steps_of(all_.net).startswith("steps captured (")
    same(everything(all_), everything(one), 1e-10)
    return all_


@pytest.mark.parametrize("settings", [{"momentum": 0.2}, {"weight_decay": 0.3}, {"batch_size": 6}])
def test_another_rule_of_the_optimiser_is_seen(settings):
    def change(fed):
        fed.local = replace(fed.local, **settings)

    changed(change, local=Local(2, 8, 0.1, 0.8, 0.02))


def test_another_preparation_is_seen():
    def change(fed):
        fed.prepare = Prepare(lambda x: 0.5 - x, FLOAT)

    changed(change, prepare=lambda x: 2 * x)


def test_another_augmentation_is_seen():
    first, second = by_row(lambda x, source: x + 0.5), by_row(lambda x, source: 0.5 - x)

    def change(fed):
        fed.local = replace(fed.local, augment=second)

    changed(change, local=Local(2, 8, 0.1, augment=first))


def test_that_clients_no_longer_receive_the_same_is_seen():
    def change(fed):
        fed.personal = ("head.weight", "head.bias")

    fed = changed(change, algorithm=FedProx(0.5))
    assert distance(fed.own[0], fed.own[1]) > 1e-3


def test_samples_that_were_brought_together_do_not_take_the_place_of_a_federations_own():
    """As many clients with as many samples, and heads of their own: alone, half of them beside half of another
    federation's, and alone.
    """
    parts, algorithm = [], Personal(0.3)
    for executor in ("sequential", "batched"):
        fed, other = (
            federation(algorithm, executor=executor, participation=1.0, data=samples((16,) * 6, seed=s)) for s in (5, 6)
        )
        before = fed.x.clone()
        fed.run(5)
        other.run(5)
        fed.participation = other.participation = 0.5
        together([fed, other], 2)
        fed.participation = 1.0
        fed.run(1)
        assert torch.equal(fed.x, before)
        parts.append((fed, other))
    for one, all_ in zip(*parts, strict=True):
        same(everything(all_), everything(one), 1e-10)


def test_more_samples_than_there_is_room_for_get_another_workspace():
    """Of several data sets, with as many clients and steps as before."""
    parts, algorithm = [], FedAvg()
    for executor in ("sequential", "batched"):
        feds = [
            federation(algorithm, executor=executor, participation=1.0, data=samples((24,) * 3, seed=s)) for s in (5, 6)
        ]
        whole = [fed.split for fed in feds]
        for fed in feds:
            fed.split = [fed.split[0], *(rows[:8] for rows in fed.split[1:])]
        together(feds, 2)
        for fed, split in zip(feds, whole, strict=True):
            fed.split = split
        together(feds, 2)
        parts.append(feds)
    for one, all_ in zip(*parts, strict=True):
        same(everything(all_), everything(one), 1e-10)
    assert steps_of(parts[1][0].net).startswith("steps captured (")


def test_more_targets_than_there_is_room_for_get_another_workspace():
    def change(fed):
        fed.y = torch.cat([2 - fed.y] * 2)

    changed(change)


@pytest.mark.parametrize("how", ["object", "memory"])
def test_large_targets_are_not_copied_and_others_are_read_where_they_are(monkeypatch, how):
    monkeypatch.setattr(fixed, "COPIED", 0)
    kept = []

    def change(fed):
        kept.append((fed.y, fed.y.clone()))
        if how == "object":
            fed.y = 2 - fed.y
        else:
            fed.y.data = 2 - fed.y

    changed(change)
    for old, before in kept:
        assert torch.equal(old, before if how == "object" else 2 - before)


def test_the_model_that_was_received_stays_what_it_was():
    fed = federation(FedProx(0.5), executor="batched", participation=1.0)
    state = fed.state
    before = {n: t.clone() for n, t in state.items()}
    fed.run(4)
    assert steps_of(fed.net).startswith("steps captured (")
    same(state, before)
    assert distance(fed.state, before) > 1e-2


class Squared(SGD):
    """A rule that no capture knows: as SGD at the rate 1, which captures are tried with."""

    def step(self, params, grads, memory, lr=None):
        super().step(params, grads, memory, (self.lr if lr is None else lr) ** 2)


class Own(Local):
    def optimiser(self):
        return Squared(self.lr, self.momentum, self.weight_decay)


def test_an_optimiser_with_a_step_of_its_own_is_not_captured():
    _, fed = agree(FedAvg, local=Own(2, 8, 0.3, 0.8, 0.02))
    assert steps_of(fed.net) == "steps not captured: the optimiser is a Squared"


def test_captured_steps_in_bf16_are_the_plain_ones(monkeypatch):
    options = {"dtype": torch.float32, "sizes": (16,) * 4, "executor": "batched", "participation": 1.0}
    captured, plain, exact = (federation(FedNTD(0.5), precision=p, **options) for p in ("bf16", "bf16", "float32"))
    captured.run(3)
    assert steps_of(captured.net).startswith("steps captured (")
    monkeypatch.setattr(batched, "CAPTURE", False)
    plain.run(3)
    exact.run(3)
    same(everything(captured), everything(plain), 1e-6)
    assert distance(exact.state, plain.state) > 1e-4


def test_steps_are_explained_where_clients_are_computed_together_now():
    fed = federation(executor="batched", participation=1.0)
    fed.run(1)
    assert fed.explain() == "batched: as asked for; steps captured (3 graphs)"
    fed.executor = "sequential"
    assert fed.explain() == "sequential: as asked for"


def test_samples_in_other_memory_are_read_there():
    one, all_ = (federation(participation=1.0, executor=e) for e in ("sequential", "batched"))
    for fed in (one, all_):
        fed.run(5)
        fed.x.data = -fed.x
        fed.run(1)
    same(everything(all_), everything(one), 1e-10)


def test_a_list_twice_is_not_two_lists():
    """Facts of (a, b, a) and (a, b, b)."""
    a, b = [1.0], [2.0]
    assert not seen_module.same(seen_module.facts([a, b, a]), seen_module.facts([a, b, b]))
    assert seen_module.same(seen_module.facts([a, b, a]), seen_module.facts([a, b, a]))


def test_a_cursor_that_does_not_move_is_a_difference(monkeypatch):
    class Stuck(Tapes):
        def capture(self, step, prepare):
            replay = super().capture(step, prepare)

            def once():
                work = fed.net.notes["captures"].spaces[0]
                at = work.cursor.clone()
                replay()
                work.cursor.copy_(at)

            return once

    monkeypatch.setattr(graphs, "for_device", lambda device: Stuck())
    fed = federation(participation=1.0, executor="batched")
    fed.run(1)
    assert steps_of(fed.net) == "steps not captured: a captured step differs from the plain one"
