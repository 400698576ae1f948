"""A resumed federation ends with the bits of one that was never interrupted, wherever the interruption fell."""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from fedlib import algorithms, checkpoint, identity, models, observe, packing, partition, rng
from fedlib.algorithms import FedAvg, FedAvgM
from fedlib.algorithms.fedgkt import FedGKT
from fedlib.data import Dataset
from fedlib.distill import Distillation
from fedlib.executors import Diverged, per_sample
from fedlib.feddg import FedDG
from fedlib.federation import Federation, Local, weighted_mean
from fedlib.kept import containers
from fedlib.regularised.clipped import Clipped
from fedlib.regularised.fedalign import FedAlign
from fedlib.regularised.gradaug import GradAug
from fedlib.regularised.mixup import Mixup
from fedlib.regularised.stochasticdepth import StochasticDepth

ROUNDS = 4
POINTS = ("broadcast", "phases", "objective", "context", "keep", "upload", "aggregate", "observer", "row")


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    def forward(self, x):
        return self.layers(x)


class Nested(FedAvg):
    """Keeps nested memory, and tensors of all clients under their numbers."""

    def setup(self, fed):
        zeros = {n: torch.zeros_like(w) for n, w in fed.state.items()}
        fed.memory = {
            "adam": {"m": zeros, "v": dict(zeros), "t": 0},
            "seen": {},
            "pair": [("start", torch.ones(2, 3).T)],
        }

    def aggregate(self, fed, uploads, weights):
        fed.state |= weighted_mean(uploads, weights)  # dictionaries may be changed in place, tensors not
        adam = fed.memory["adam"]
        adam["t"] += 1
        for n, w in fed.state.items():
            adam["m"][n] = 0.9 * adam["m"][n] + w
            fed.state[n] = w + 0.01 * adam["m"][n]
        for client in fed.sample(fed.round):
            fed.memory["seen"].setdefault(client, []).append(fed.round)
        fed.memory["pair"].append((f"round {fed.round}", fed.memory["pair"][-1][1] + 1))


def public():
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(1))


# Algorithms that cannot be made without arguments; every other one of fedlib.algorithms is found by name.
MADE = {
    "Clipped": lambda: Clipped(algorithms.Moon(), 0.1),
    "FedAlign": FedAlign,
    "GradAug": GradAug,
    "Mixup": Mixup,
    "StochasticDepth": StochasticDepth,
    "FedDF": lambda: algorithms.FedDF(public(), Distillation(steps=3, batch_size=4)),
    "FedDG": FedDG,
    "FedGKT": lambda: FedGKT(functools.partial(models.MLP, 7, (4,), 3)),
    "FedMD": lambda: algorithms.FedMD(public()),
    "FedPAV, cosine": lambda: algorithms.FedPAV("cosine", public()),
    "nested memory": Nested,
    "own statistics": FedAvg,
}
NAMES = sorted({*algorithms._HOME, *MADE})


def turned(x, generator):
    return -x


def halved(x):
    return x / 2


def federation(name="FedAvg", seed=3, hidden=(7,), algorithm=None, clients=6, moved="", **options):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=g), torch.randint(0, 3, (60,), generator=g)
    if moved == "x":
        x[59, 4] += 1e-6  # one number of one sample
    if moved == "y":
        y[[0, 1]] = y[[1, 0]] if y[0] != y[1] else (y[[0, 1]] + 1) % 3
    if name == "FedKD":
        options |= {"model": lambda: models.Pair(lambda: models.MLP(5, hidden, 3), lambda: models.MLP(5, (4,), 3))}
    if name in ("FedAlign", "GradAug", "Mixup", "StochasticDepth"):  # pictures of four rows
        x = x[:, :1].expand(-1, 24).reshape(60, 1, 4, 6) + x.repeat(1, 5)[:, :24].view(60, 1, 4, 6)
        options |= {"model": lambda: models.SlimResNet((8, 16), 1, 1, 3, 2, height=4)}
    if name == "Ditto":
        options |= {"model": lambda: models.Twin(lambda: models.MLP(5, hidden, 3))}
    if name == "own statistics":
        options |= {"model": Normed, "buffers": "local"}
    options = {
        "model": lambda: models.MLP(5, hidden, 3),
        "local": Local(epochs=1, batch_size=5, momentum=0.9),
        "observers": [observe.server_accuracy(x, y), observe.update_alignment()],
        "executor": "sequential",
        "participation": 0.5,
    } | options
    algorithm = algorithm or MADE.get(name, getattr(algorithms, name, None))()
    split = partition.iid(y, clients, rng.stream(0, "split"))
    if name == "FedDG":  # images and masks, of sites that are all there
        y = (torch.rand(60, 2, 4, 4, generator=g) > 0.5).float()
        x = y[:, :1] + x[:, :1, None, None].abs()
        options |= {"model": lambda: models.UNet(1, 2, 2, 1), "participation": 1.0, "observers": []}
    return Federation(x=x, y=y, split=split, algorithm=algorithm, seed=seed, device="cpu", **options)


def content(fed):
    """Everything that must be the same, as nested plain containers; tensors stay tensors."""
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in fed.history]
    return [fed.state, fed.own, fed.memory, fed.ledger.down, fed.ledger.up, fed.round, history]


def same(a, b, where="."):
    """Equal types, dtypes, strides and bits."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for k in a:
            same(a[k], b[k], f"{where}/{k}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (v, w) in enumerate(zip(a, b, strict=True)):
            same(v, w, f"{where}/{i}")
    else:
        assert a == b, where


def frozen(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: frozen(v) for k, v in value.items()}
    return type(value)(map(frozen, value)) if isinstance(value, list | tuple) else value


@functools.cache
def uninterrupted(name):
    """The contents after 0, 1, ..., ROUNDS rounds."""
    fed = federation(name)
    seen = [frozen(content(fed))]
    for _ in range(ROUNDS):
        fed.play_round()
        seen.append(frozen(content(fed)))
    return seen


def only(folder, name="c"):
    """Whether nothing else was left beside the checkpoint."""
    return [p.name for p in folder.iterdir()] == [name]


# --- interruptions ------------------------------------------------------------------------------


def stumble(fed, point, number, call, after, error=KeyboardInterrupt):
    """Let ``fed`` be interrupted in round ``number``, before or after the given call at ``point``."""
    calls = []

    def here(original, *arguments):
        calls.extend([fed.round] if fed.round == number else [])
        struck = fed.round == number and len(calls) == call + 1
        if struck and not after:
            raise error
        result = original(*arguments)
        if struck:
            raise error
        return result

    def count(fed, value):  # the row is in the history, the round not yet counted
        if value == number + 1 and not after:
            here(lambda: None)
        vars(fed)["round"] = value

    if point == "row":
        getter = property(lambda fed: vars(fed)["round"], count)
        fed.__class__ = type("Struck", (Federation,), {"round": getter})
    elif point == "observer":
        fed.observers.insert(call % 3, lambda *seen: here(lambda *_: {}, *seen))
    else:
        kind = type(fed.algorithm)  # of the same name: what a checkpoint says of an algorithm stays the same
        struck = {point: lambda self, *rest: here(getattr(super(type(self), self), point), *rest)}
        fed.algorithm.__class__ = type(kind.__name__, (kind,), struck)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    strokes=st.lists(
        st.tuples(st.sampled_from(POINTS), st.integers(0, ROUNDS - 1), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=2,
    ),
    every=st.integers(1, 3),
)
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(name, tmp_path_factory, strokes, every):
    path = tmp_path_factory.mktemp("run") / "deep" / "run.safetensors"
    for point, number, call, after in sorted(strokes, key=lambda s: s[1]):
        fed = federation(name)
        stumble(fed, point, number, call, after)
        try:
            checkpoint.play(fed, ROUNDS, path, every)
        except KeyboardInterrupt:
            same(content(fed), uninterrupted(name)[number])
            assert path.exists() == (number > 0)
            if number:
                saved = federation(name)
                checkpoint.restore(saved, path)
                same(content(saved), uninterrupted(name)[number])
    resumed = federation(name)
    assert checkpoint.play(resumed, ROUNDS, path, every) is resumed.history
    same(content(resumed), uninterrupted(name)[ROUNDS])
    assert only(path.parent, "run.safetensors")


@pytest.mark.parametrize("point", POINTS)
def test_every_point_does_interrupt_and_the_same_federation_can_go_on(point, tmp_path):
    fed = federation("own statistics")
    history = fed.history
    stumble(fed, point, 2, 0, after=point != "row")
    with pytest.raises(KeyboardInterrupt):
        checkpoint.play(fed, ROUNDS, tmp_path / "c")
    assert len(history) == 2
    fed.run(ROUNDS - 2)
    same(content(fed), uninterrupted("own statistics")[ROUNDS])
    assert fed.history is history


@pytest.mark.parametrize("executor", ["auto", "batched"])
def test_other_executors_resume_to_their_bits_too(executor, tmp_path):
    whole, fed, resumed = (federation("own statistics", executor=executor) for _ in range(3))
    whole.run(ROUNDS)
    stumble(fed, "keep", 2, 1, after=True)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.play(fed, ROUNDS, tmp_path / "c")
    checkpoint.play(resumed, ROUNDS, tmp_path / "c")
    same(content(resumed), content(whole))


@pytest.mark.parametrize("name", NAMES)
def test_no_hook_changes_in_place_what_is_kept(name):
    """Bringing a round back needs the tensors of before; an algorithm's own attributes are not saved at all."""
    fed = federation(name)
    fed.run(2)
    own_things = dict(vars(fed.algorithm))
    kept = [containers(value) for value in (fed.state, fed.own, fed.memory)]
    before = frozen([kept, own_things])
    fed.run(1)
    same([kept, own_things], before)
    assert vars(fed.algorithm).keys() == own_things.keys()
    assert all(v is own_things[n] for n, v in vars(fed.algorithm).items())


def test_the_test_above_can_fail():
    class InPlace(FedAvgM):
        def aggregate(self, fed, uploads, weights):
            for w in fed.state.values():
                w.mul_(0.5)

    fed = federation(algorithm=InPlace())
    kept = containers(fed.state)
    before = frozen(kept)
    fed.run(1)
    with pytest.raises(AssertionError):
        same(kept, before)


def test_an_error_in_a_round_is_passed_on_and_what_was_played_is_saved(tmp_path):
    fed = federation("FedAvgM")
    stumble(fed, "aggregate", 3, 0, after=True, error=Diverged(3, 1, float("nan")))
    with pytest.raises(Diverged, match="round 3, client 1"):
        checkpoint.play(fed, ROUNDS, tmp_path / "c", every=100)
    saved = federation("FedAvgM")
    checkpoint.restore(saved, tmp_path / "c")
    same(content(saved), uninterrupted("FedAvgM")[3])


def test_an_interruption_while_a_completed_round_is_saved_keeps_the_round(tmp_path, monkeypatch):
    save = checkpoint.save

    def interrupted(fed, path):
        if fed.round == 3:
            monkeypatch.setattr(checkpoint, "save", save)
            raise KeyboardInterrupt
        save(fed, path)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    fed = federation()
    with pytest.raises(KeyboardInterrupt):
        checkpoint.play(fed, ROUNDS, tmp_path / "c", every=1)
    saved = federation()
    checkpoint.restore(saved, tmp_path / "c")
    for one in (fed, saved):
        same(content(one), uninterrupted("FedAvg")[3])


def test_it_saves_when_it_says_it_does(tmp_path, monkeypatch):
    saved = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda fed, path: saved.append(fed.round) or save(fed, path))
    checkpoint.play(federation(), 9, tmp_path / "c", every=3)
    assert saved == [1, 4, 7, 9]
    checkpoint.play(federation(), 9, tmp_path / "c")
    checkpoint.play(federation(), 12, tmp_path / "c", every=3)
    assert saved == [1, 4, 7, 9, 12]
    played = federation()
    played.run(2)
    checkpoint.play(played, 2, tmp_path / "d")
    assert saved[-1] == 2
    checkpoint.play(federation(), 0, tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"every": 0}])
def test_impossible_numbers_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match="rounds >= 0 and every >= 1"):
        checkpoint.play(federation(), **{"rounds": 2, "path": tmp_path / "c"} | wrong)


def test_a_file_with_more_rounds_than_wanted_is_not_cut(tmp_path):
    checkpoint.play(federation(), 3, tmp_path / "c")
    with pytest.raises(ValueError, match="2 rounds wanted, but the federation has 3"):
        checkpoint.play(federation(), 2, tmp_path / "c")


# --- signals ------------------------------------------------------------------------------------


def terminated(fed, number):
    def observer(fed, seen):
        if seen.number == number:
            signal.raise_signal(signal.SIGTERM)
        return {}

    fed.observers.append(observer)
    return fed


@pytest.fixture
def no_handler():
    """The system's own answer to SIGTERM, even where another library has left a handler in this process."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_saves_and_ends_and_the_handler_is_put_back(tmp_path, no_handler):
    fed = terminated(federation(), 2)
    with pytest.raises(SystemExit) as ended:
        checkpoint.play(fed, ROUNDS, tmp_path / "c", every=100)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = federation()
    checkpoint.play(resumed, ROUNDS, tmp_path / "c")
    same(content(resumed), uninterrupted("FedAvg")[ROUNDS])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_caller_stays_in_charge(tmp_path, no_handler):
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    checkpoint.play(terminated(federation(), 2), ROUNDS, tmp_path / "c")
    assert heard == [1]


def test_a_forked_helper_ends_by_sigterm_and_saves_nothing(tmp_path, no_handler):
    ended = []

    def observer(fed, seen):
        there, here = os.pipe()
        helper = os.fork()
        if not helper:
            os.write(here, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(there, 1)
        os.kill(helper, signal.SIGTERM)
        ended.append(os.waitpid(helper, 0)[1])
        return {}

    checkpoint.play(federation(observers=[observer]), 2, tmp_path / "c")
    assert [os.WTERMSIG(status) for status in ended] == [signal.SIGTERM] * 2


def test_it_plays_in_another_thread_too(tmp_path):
    fed = federation()
    thread = threading.Thread(target=checkpoint.play, args=(fed, ROUNDS, tmp_path / "c"))
    thread.start()
    thread.join()
    same(content(fed), uninterrupted("FedAvg")[ROUNDS])


def player(path, rounds, every):
    checkpoint.play(federation("own statistics"), rounds, path, every)


def start(path, every):
    """A process that plays very many rounds; it comes from a server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "safetensors.torch"])
    process = context.Process(target=player, args=(path, 10**6, every), daemon=True)
    process.start()
    return process


def reached(path, rounds, seconds=60.0):
    """Wait until the file holds that many rounds; returns how many."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists():
            fed = federation("own statistics")
            checkpoint.restore(fed, path)
            if fed.round >= rounds:
                return fed.round
        time.sleep(0.01)
    raise TimeoutError(f"no {rounds} rounds after {seconds} s")


def test_kill_9_at_any_moment_leaves_a_complete_file(tmp_path):
    path, dice, rounds = tmp_path / "c", random.Random(0), 0
    for _ in range(8):
        process = start(path, every=1)
        rounds = reached(path, rounds + 1)
        time.sleep(dice.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        rounds = reached(path, rounds)
    (tmp_path / "c.left.part").mkdir()  # by a process that was killed while it wrote
    (tmp_path / "c.left.part" / "half").touch()
    resumed, whole = federation("own statistics"), federation("own statistics")
    checkpoint.play(resumed, rounds + 2, path)
    whole.run(rounds + 2)
    same(content(resumed), content(whole))
    assert only(tmp_path)


def test_it_can_be_read_while_the_run_goes_on(tmp_path):
    path = tmp_path / "c"
    process = start(path, every=1)
    rounds = [reached(path, 1) for _ in range(60)]
    process.kill()
    process.join()
    assert rounds == sorted(rounds)
    assert rounds[0] < rounds[-1]


def test_sigterm_from_outside_loses_no_completed_round(tmp_path):
    path = tmp_path / "c"
    process = start(path, every=10**6)
    reached(path, 1)
    time.sleep(0.3)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    rounds = reached(path, 2)
    whole, saved = federation("own statistics"), federation("own statistics")
    checkpoint.restore(saved, path)
    whole.run(rounds)
    same(content(saved), content(whole))
    assert only(tmp_path)


# --- the file -----------------------------------------------------------------------------------


def test_it_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    did = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: did.append(Path(f"/proc/self/fd/{f}").resolve()) or fsync(f))
    monkeypatch.setattr(os, "replace", lambda a, b: did.append("renamed") or replace(a, b))
    checkpoint.save(federation(), tmp_path / "c")
    assert did == [did[0], "renamed", tmp_path]
    assert did[0].name == "checkpoint"
    assert only(tmp_path)


@pytest.fixture
def full_disk():
    """No file may grow beyond 1 kB: writing fails half way as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_costs_nothing(tmp_path, full_disk):
    path = tmp_path / "c"
    path.write_bytes(b"what was there")
    with pytest.raises(OSError, match=r"c cannot be written .*Make room or name another path"):
        checkpoint.save(federation(), path)
    assert path.read_bytes() == b"what was there"
    assert only(tmp_path)
    full_disk()
    checkpoint.save(federation(), path)


def test_an_interruption_on_a_full_disk_is_still_passed_on(tmp_path, request):
    path = tmp_path / "c"
    checkpoint.play(federation(), 1, path)
    before = path.read_bytes()
    fed = federation()
    stumble(fed, "keep", 2, 1, after=False)
    request.getfixturevalue("full_disk")
    with pytest.warns(RuntimeWarning, match="state after 2 rounds is not saved"), pytest.raises(KeyboardInterrupt):
        checkpoint.play(fed, ROUNDS, path)
    assert path.read_bytes() == before
    assert only(tmp_path)


def test_a_place_where_nothing_can_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        checkpoint.play(federation(), 1, tmp_path / "file" / "c")


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "c"
    checkpoint.play(federation("nested memory"), 2, path)
    return path.read_bytes()


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_no_damage_gets_through(tmp_path, intact, place, flip, cut):
    damaged = bytearray(intact)
    where = int(place * len(intact))
    if cut:
        del damaged[where:]
    else:
        damaged[where] ^= flip
    (tmp_path / "c").write_bytes(damaged)
    fed = federation("nested memory")
    with pytest.raises(ValueError, match=r"c .*; move it away to start afresh, or name another path"):
        checkpoint.play(fed, 3, tmp_path / "c")
    same(content(fed), uninterrupted("nested memory")[0])
    assert (tmp_path / "c").read_bytes() == damaged


def test_other_files_are_refused_and_left(tmp_path):
    path = tmp_path / "c"
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"c is no checkpoint of a federation .*move it away"):
        checkpoint.play(federation(), 1, path)
    path.write_text("a text")
    with pytest.raises(ValueError, match=r"c cannot be read .*move it away"):
        checkpoint.play(federation(), 1, path)
    assert path.read_text() == "a text"
    with pytest.raises(FileNotFoundError):
        checkpoint.restore(federation(), tmp_path / "absent")


OTHER = {
    "algorithm: 'FedAvg' there, 'FedAvgM' here": {"name": "FedAvgM"},
    "seed: 3 there, 4 here": {"seed": 4},
    "local.lr: 0.1 there, 0.2 here": {"local": Local(epochs=1, batch_size=5, momentum=0.9, lr=0.2)},
    "participation: 0.5 there, 0.6 here": {"participation": 0.6},
    "dtype: 'torch.float32' there, 'torch.float64' here": {"dtype": torch.float64},
    "buffers: 'average' there, 'local' here": {"buffers": "local"},
    "split: '[0-9a-f]{16}' there, '[0-9a-f]{16}' here": {"clients": 7},
    "network: 'MLP [0-9a-f]{16}' there, 'MLP [0-9a-f]{16}' here": {"hidden": (8,)},
    "local.lr_decay: 1.0 there, 0.9 here": {"local": Local(epochs=1, batch_size=5, momentum=0.9, lr_decay=0.9)},
    "local.augment: None there, 'turned [0-9a-f]{16}' here": {
        "local": Local(epochs=1, batch_size=5, momentum=0.9, augment=turned)
    },
    "prepare: None there, {'kind': 'Prepare', .*'halved [0-9a-f]{16}'.* here": {"prepare": halved},
    "x: 'torch.float32 \\[60, 5\\] [0-9a-f]{16}' there, 'torch.float32 \\[60, 5\\] [0-9a-f]{16}' here": {"moved": "x"},
    "y: 'torch.int64 \\[60\\] [0-9a-f]{16}' there": {"moved": "y"},
}


@pytest.mark.parametrize("message", OTHER)
def test_a_checkpoint_of_another_federation_is_refused(message, tmp_path):
    checkpoint.save(federation(), tmp_path / "c")
    fed = federation(**OTHER[message])
    with pytest.raises(ValueError, match=f"{message}.*; move it away"):
        checkpoint.restore(fed, tmp_path / "c")


def test_an_algorithm_with_other_settings_is_refused(tmp_path):
    checkpoint.save(federation(algorithm=FedAvgM(0.9)), tmp_path / "c")
    with pytest.raises(ValueError, match=r"algorithm.momentum: 0.9 there, 0.5 here"):
        checkpoint.restore(federation(algorithm=FedAvgM(0.5)), tmp_path / "c")
    long, short = (algorithms.FedDF(public(), Distillation(steps=n)) for n in (9, 5))
    checkpoint.save(federation(algorithm=long), tmp_path / "c")
    with pytest.raises(ValueError, match=r"algorithm.distillation.steps: 9 there, 5 here"):
        checkpoint.restore(federation(algorithm=short), tmp_path / "c")


def other_public():
    return torch.cat([public()[:-1], public()[-1:] + 1e-6])


class Switching(nn.Module):
    """Two networks of one form, whose forward pass reads a plain attribute."""

    def __init__(self, sign):
        super().__init__()
        self.layer, self.sign = nn.Linear(5, 3), sign

    def forward(self, x):
        return self.layer(self.sign * x)


def objective_of(factor):
    def objective(net, state, x, y, context):
        return factor * nn.functional.cross_entropy(net(state, x, train=True), y)

    algorithm = FedAvg()
    algorithm.objective = objective
    return algorithm


CHECKED = (torch.zeros(6, 5), torch.arange(6) % 3)
TAUGHT = {
    "public data": (
        lambda: algorithms.FedDF(public()),
        lambda: algorithms.FedDF(other_public()),
        "algorithm.unlabelled",
    ),
    "consensus data": (
        lambda: algorithms.FedMD(public()),
        lambda: algorithms.FedMD(other_public()),
        "algorithm.public",
    ),
    "a function that gives the data": (
        lambda: algorithms.FedDF(lambda fed: public()),
        lambda: algorithms.FedDF(lambda fed: other_public()),
        "algorithm.unlabelled",
    ),
    "validation data": (
        lambda: algorithms.FedDF(public(), validation=CHECKED),
        lambda: algorithms.FedDF(public(), validation=(CHECKED[0], (CHECKED[1] + 1) % 3)),
        "algorithm.validation",
    ),
    "a base": (
        lambda: algorithms.CCVR(algorithms.FedProx(0.1)),
        lambda: algorithms.CCVR(algorithms.FedProx(0.2)),
        "algorithm.base.mu: 0.1 there, 0.2 here",
    ),
    "an objective of its own": (
        lambda: objective_of(1.0),
        lambda: objective_of(2.0),
        "algorithm.objective: 'objective_of",
    ),
    "an objective or none": (FedAvg, lambda: objective_of(1.0), "algorithm.objective: 'nothing' there"),
    "none or an objective": (lambda: objective_of(1.0), FedAvg, "algorithm.objective: .* there, 'nothing' here"),
    "what stays with clients": (
        lambda: algorithms.FedPer(("head.*",)),
        lambda: algorithms.FedPer(("body.*",)),
        "personal: .* there, .* here",
    ),
}


@pytest.mark.parametrize("what", TAUGHT)
def test_a_checkpoint_made_with_other_things_is_refused(what, tmp_path):
    first, second, message = TAUGHT[what]
    checkpoint.save(federation(algorithm=first()), tmp_path / "c")
    checkpoint.restore(federation(algorithm=first()), tmp_path / "c")  # made anew, it is the same
    with pytest.raises(ValueError, match=f"{message}.*move it away"):
        checkpoint.restore(federation(algorithm=second()), tmp_path / "c")


def test_a_network_that_computes_something_else_is_refused(tmp_path):
    checkpoint.save(federation(model=functools.partial(Switching, 1)), tmp_path / "c")
    checkpoint.restore(federation(model=functools.partial(Switching, 1)), tmp_path / "c")
    with pytest.raises(ValueError, match="network: 'Switching"):
        checkpoint.restore(federation(model=functools.partial(Switching, -1)), tmp_path / "c")


def test_pixels_of_a_set_prepared_by_it_are_told_by_content(tmp_path):
    images = torch.randint(256, (60, 1, 1, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(60) % 3

    def made(mean):
        own = Dataset("n", images.clone(), y, images[:5], y[:5], ("a", "b", "c"), "", mean=(mean,), std=(0.5,)).flat()
        split = partition.iid(y, 6, rng.stream(0, "split"))
        model = functools.partial(models.MLP, 5, (4,), 3)
        return Federation(model, own.x_train, y, split, FedAvg(), prepare=own.prepare, device="cpu")

    checkpoint.save(made(0.5), tmp_path / "c")
    checkpoint.restore(made(0.5), tmp_path / "c")
    with pytest.raises(ValueError, match="prepare: "):
        checkpoint.restore(made(0.4), tmp_path / "c")


def test_data_are_read_once_and_again_when_they_changed(tmp_path, monkeypatch):
    read, fed = [], federation()
    real = identity.digest
    monkeypatch.setattr(identity, "digest", lambda *given: read.append(1) or real(*given))
    checkpoint.play(fed, 3, tmp_path / "c", every=1)
    assert len(read) == 3 + 2, "the split at each of three saves, x and y once"
    fed.x += 1
    with pytest.raises(ValueError, match="x: "):
        checkpoint.restore(fed, tmp_path / "c")


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_a_seed_of_another_type_is_the_same_seed(kind, tmp_path):
    checkpoint.play(federation(seed=3), 2, tmp_path / "c")
    fed = federation(seed=kind(3))
    checkpoint.play(fed, ROUNDS, tmp_path / "c")
    same(content(fed), uninterrupted("FedAvg")[ROUNDS])


def test_an_older_form_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_FORMAT", "fedlib-federation-2")
    checkpoint.save(federation(), tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r"is of form 'fedlib-federation-2', .*finish with the version that wrote it, or"
    ):
        checkpoint.restore(federation(), tmp_path / "c")


def test_what_cannot_be_told_is_told_by_its_type():
    class Odd:
        pass

    def again(n):
        return again(n - 1) if n else Odd

    assert identity.told(Odd())["kind"].endswith("Odd")
    assert identity.told(again) == identity.told(again)
    assert identity.told([math.nan, np.float32(1), None, torch.float64]) != identity.told([math.nan, 1.5, None, ""])
    loop = [1]
    loop.append(loop)
    assert identity.told(loop) == [1, "itself"]
    assert identity.told(nn.Linear(2, 1)) != identity.told(nn.Linear(2, 1)), "drawn apart"
    assert identity.told(np.zeros(3)) != identity.told(np.zeros(4))


def test_the_file_can_be_read_with_plain_tools(tmp_path):
    fed = federation("nested memory")
    checkpoint.play(fed, 2, tmp_path / "c")
    found = load_file(tmp_path / "c")
    for n, w in fed.state.items():
        same(found[f"state/{n}"], w)
        same(found[f"memory/adam/m/{n}"], fed.memory["adam"]["m"][n])
    back = federation("nested memory")
    checkpoint.restore(back, tmp_path / "c")
    everything = [*back.state.values(), *back.memory["adam"]["m"].values(), *(t for _, t in back.memory["pair"])]
    assert {t.data_ptr() % 64 for t in everything} == {0}  # as torch aligns memory


# --- nested values ------------------------------------------------------------------------------

tensors = st.builds(
    lambda shape, dtype, turn, seed: (
        (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype).movedim(0, -1)
        if turn and shape
        else (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)
    ),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
    st.booleans(),
    st.integers(0, 9),
)
values = st.recursive(
    tensors | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.sampled_from(["a", "b", "a/b", "3", "tensor", "dict", ""]) | st.integers(0, 3), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(values)
def test_nested_values_come_back_as_they_were(value):
    device = torch.device("cpu")
    packed, found = packing.pack(value, device)
    back = packing.unpack(json.loads(json.dumps(packed)), found, device)
    same(value, back)
    assert str(value) == str(back)  # in the same order, too


def test_one_tensor_in_two_places_is_one_again_and_views_come_apart():
    one, device = torch.arange(6.0), torch.device("cpu")
    turned = one.view(2, 3).T
    value = {"a": one, "b": [one], "view": one[2:4], "turned": turned, "again": turned}
    packed, found = packing.pack(value, device)
    assert sorted(found) == ["a", "turned", "view"]
    back = packing.unpack(packed, found, device)
    same(value | {"view": one[2:4].clone()}, back)
    assert back["a"] is back["b"][0]
    assert back["turned"] is back["again"]
    assert len({t.untyped_storage().data_ptr() for t in found.values()}) == 3


def test_paths_that_read_alike_are_kept_apart():
    value = {3: torch.ones(1), "3": torch.zeros(1), "a/b": torch.ones(2), "a": {"b": torch.zeros(2)}}
    packed, found = packing.pack(value, torch.device("cpu"))
    assert len(found) == 4
    same(value, packing.unpack(packed, found, torch.device("cpu")))


def test_what_stays_on_the_host_stays_there():
    value = {"server": torch.ones(2, device="meta"), "client": torch.ones(2)}
    packed, _ = packing.pack({"client": value["client"]}, torch.device("meta"))
    back = packing.unpack(packed, {"client": value["client"]}, torch.device("meta"))
    assert back["client"].device.type == "cpu"
    packed, found = packing.pack({"client": value["client"]}, torch.device("cpu"))
    assert packing.unpack(packed, found, torch.device("meta"))["client"].device.type == "meta"


EXOTIC = {
    "set": {1, 2},
    "ndarray": np.ones(2),
    "float32": np.float32(1),
    "Size": torch.ones(2, 3).shape,
    "defaultdict": defaultdict(dict),
    "dict with keys other than text and integers": {(1, 2): torch.ones(1)},
    "Tensor": torch.ones(2, 2).to_sparse(),
    "Generator": torch.Generator(),
}


@pytest.mark.parametrize("kind", EXOTIC)
def test_what_cannot_be_saved_is_named_after_the_first_round(kind, tmp_path):
    class Exotic(FedAvg):
        def aggregate(self, fed, uploads, weights):
            super().aggregate(fed, uploads, weights)
            fed.memory["server"] = {"things": [1, EXOTIC[kind]]}

    warnings.simplefilter("error")  # it is not tried, and said, a second time
    with pytest.raises(TypeError, match=f"memory/server/things/1 is a {kind}, .*convert it"):
        checkpoint.play(federation(algorithm=Exotic()), 50, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def another_body():
    class Mine(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            return 2 * super().objective(net, state, x, y, context)

    return Mine()


def one_body():
    class Mine(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            return 3 * super().objective(net, state, x, y, context)

    return Mine()


class Crop:
    """An augmentation that is an object."""

    def __init__(self, by):
        self.by = by

    def __call__(self, x, source):
        return x + self.by


class Activated(FedAvg):
    def __init__(self, kind):
        self.kind = kind


UNLIKE = {
    "an objective of the same name": (one_body, another_body, {}),
    "a class as a setting": (lambda: Activated(nn.ReLU), lambda: Activated(nn.Tanh), {}),
    "a function of torch as a setting": (lambda: Activated(torch.relu), lambda: Activated(torch.tanh), {}),
    "a set as a setting": (lambda: Activated({1, 2}), lambda: Activated({1, 3}), {}),
    "a range as a setting": (lambda: Activated(range(2)), lambda: Activated(range(3)), {}),
}


@pytest.mark.parametrize(("one", "other", "options"), UNLIKE.values(), ids=UNLIKE.keys())
def test_settings_that_are_no_plain_values_are_told_apart(tmp_path, one, other, options):
    path = tmp_path / "state.safetensors"
    checkpoint.save(federation(algorithm=one(), **options), path)
    checkpoint.restore(federation(algorithm=one(), **options), path)
    with pytest.raises(ValueError, match="is of another federation"):
        checkpoint.restore(federation(algorithm=other(), **options), path)


def test_augmentations_that_are_objects_are_told_apart(tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoint.save(federation(local=Local(1, 8, 0.1, augment=Crop(1))), path)
    checkpoint.restore(federation(local=Local(1, 8, 0.1, augment=Crop(1))), path)
    with pytest.raises(ValueError, match="augment"):
        checkpoint.restore(federation(local=Local(1, 8, 0.1, augment=Crop(2))), path)
