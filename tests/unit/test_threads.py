"""Clients dealt out to threads: the bits of one after the other, whatever else goes on, and errors as they are."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from federations import ALGORITHMS, FLOAT, NORMABLE, Normed, everything, federation, same
from hypothesis import given, settings, strategies as st
from torch.nn.functional import cross_entropy

from fedlib import rng
from fedlib.algorithms import FedAvg, FedMD, FedNTD, FedProx
from fedlib.batched import batched
from fedlib.executors import Diverged, per_sample, sequential
from fedlib.federation import Local
from fedlib.losses import kd
from fedlib.models import MLP, Net, SmallCNN
from fedlib.threads import Threads, deal

CASES = settings(deadline=None, max_examples=100)


@pytest.fixture(autouse=True)
def two_threads():
    """As where nobody has set OMP_NUM_THREADS: torch itself would use two."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "an executor leaves torch's threads as they were"
    assert not [t for t in threading.enumerate() if t.name.startswith("client")], "an executor leaves no thread behind"
    torch.set_num_threads(before)


@pytest.fixture
def interruptible():
    """A process that a shell has put into the background ignores the signal, and would wait for an hour."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def alone(net, tasks, *rest):
    """One after the other with one thread: what each of several threads does."""
    torch.set_num_threads(1)
    try:
        return sequential(net, tasks, *rest)
    finally:
        torch.set_num_threads(2)


def agree(algorithm, count=3, rounds=3, inner=sequential, reference=alone, tolerance=0.0, **options):
    one, all_ = (federation(algorithm(), executor=e, **options) for e in (reference, Threads(inner, count)))
    one.run(rounds)
    all_.run(rounds)
    same(everything(all_), everything(one), tolerance)
    return all_


# --- the bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("count", [2, 3])
def test_bits_of_one_after_the_other(name, count):
    agree(ALGORITHMS[name], count, local=Local(2, 8, 0.1, 0.5, 0.01))


@pytest.mark.parametrize("buffers", ["average", "local"])
@pytest.mark.parametrize("name", ["FedAvg", "FedNTD", "own", "personal"])
def test_bits_with_batchnorm(name, buffers):
    agree(ALGORITHMS[name], model=Normed, sizes=NORMABLE, buffers=buffers, participation=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT])
def test_bits_of_a_convolutional_network_in_batches_that_torch_would_share_out(dtype):
    """Of steps of this size torch gives a part to each of its threads, and sums in another order."""
    options = {"model": SmallCNN, "shape": (1, 8, 8), "sizes": (70, 100, 90), "participation": 1.0, "dtype": dtype}
    agree(FedAvg, 2, 2, local=Local(1, 50, 0.05, 0.9), **options)


@pytest.mark.parametrize("count", [None, 1, 2, 5, 6, 50])
def test_any_number_of_threads(count):
    agree(FedAvg, count, participation=1.0)
    agree(FedAvg, count, participation=0.1)  # one client


@pytest.mark.parametrize("name", ["FedAvg", "FedNTD", "FedMD, kl", "personal", "own"])
def test_several_threads_with_several_clients_in_one_computation(name):
    agree(ALGORITHMS[name], 2, inner=batched, tolerance=1e-10, participation=1.0)
    found = [federation(ALGORITHMS[name](), executor="threads", participation=1.0) for _ in range(2)]
    for fed in found:
        fed.run(3)
    same(everything(found[0]), everything(found[1]))


def test_each_share_is_computed_with_one_thread_of_torch():
    seen = []

    def inner(net, tasks, *rest):
        seen.append((threading.current_thread().name, torch.get_num_threads(), id(net)))
        time.sleep(0.02)
        return sequential(net, tasks, *rest)

    fed = federation(executor=Threads(inner, 3), participation=1.0)
    fed.run(1)
    assert len(seen) == 3
    assert [n for _, n, _ in seen] == [1, 1, 1]
    assert len({name for name, _, _ in seen}) == 3
    assert len({net for _, _, net in seen}) == 3, "each has a network of its own"
    fed.run(1)
    assert {net for _, _, net in seen[3:]} == {net for _, _, net in seen[:3]}, "and the next round uses them again"


NEW_THREAD = """
import ctypes, torch
from fedlib.federation import Federation
from fedlib.algorithms import FedAvg
from fedlib.models import MLP
from fedlib.threads import Threads
openmp, seen = ctypes.CDLL({library!r}), []
def inner(net, tasks, *rest):
    seen.append(openmp.omp_get_max_threads())
    return [0.0] * len(tasks)
x, y = torch.zeros(6, 2), torch.zeros(6, dtype=torch.int64)
Federation(lambda: MLP(2, (), 2), x, y, torch.arange(6).split(2), FedAvg(), executor=Threads(inner, 3)).run(1)
assert seen == [1, 1, 1], seen
assert openmp.omp_get_max_threads() == 2
"""


def test_a_new_thread_asks_torch_and_not_openmp_how_many_threads_there_are():
    """Its first large operation would otherwise be shared out: torch tells a new thread of its setting too late."""
    maps = Path("/proc/self/maps")
    found = (
        [line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line and "torch" in line]
        if maps.exists()
        else []
    )
    if not found:
        pytest.skip("torch's library of threads is another one, or cannot be found")
    script = NEW_THREAD.format(library=found[0])
    environment = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=100)


# --- what changes from round to round ------------------------------------------------------------------


def test_the_consensus_of_each_round_is_that_rounds():
    fed = agree(lambda: FedMD(torch.randn(12, 5, generator=rng.stream(0), dtype=FLOAT)), rounds=4, participation=1.0)
    assert len({round(loss, 12) for loss in everything(fed)["losses"].tolist()}) == 4


def test_what_changes_between_rounds_is_seen():
    """An attribute of the algorithm, another objective, data written in place."""

    def play(executor):
        fed = federation(FedProx(0.0), executor=executor, participation=1.0)
        fed.run(1)
        fed.algorithm.mu = 5.0
        fed.run(1)
        fed.x.mul_(-1.0)
        fed.run(1)
        fed.algorithm = FedNTD(1.0)
        fed.run(1)
        return everything(fed)

    changed = play(Threads(sequential, 3))
    same(changed, play(alone))
    plain = federation(FedProx(0.0), executor=alone, participation=1.0)
    plain.run(4)
    assert len({float(loss) for loss in [*changed["losses"][1:], *everything(plain)["losses"][1:]]}) == 6


def test_any_function_is_an_objective():
    def play(executor):
        factor = [1.0]

        class Local_(FedAvg):
            objective = staticmethod(
                lambda net, state, x, y, context: factor[0] * cross_entropy(net(state, x, train=True), y)
            )

        fed = federation(Local_(), executor=executor)
        for factor[0] in (1.0, 0.5, 2.0):
            fed.run(1)
        return everything(fed)

    same(play(Threads(sequential, 2)), play(alone))


def test_one_teacher_network_may_be_asked_by_all_clients_at_once():
    """A network puts the tensors of a state in their places: threads must not see one another's."""
    teacher = Net(rng.build(lambda: MLP(5, (64, 64), 3), 9), dtype=FLOAT)
    good = {n: 3 * t for n, t in teacher.initial().items()}

    class Taught(FedAvg):
        @per_sample
        def objective(self, net, state, x, y, context):
            return super().objective(net, state, x, y, context) + kd(net(state, x, train=True), teacher(good, x))

    agree(Taught, 4, sizes=(40,) * 10, participation=1.0)


# --- what goes wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", range(6))
def test_divergence_names_round_and_client(bad):
    fed = federation(executor=Threads(sequential, 3), participation=1.0)
    fed.x[fed.split[bad]] = float("inf")
    with pytest.raises(Diverged, match=f"round 0, client {bad}") as caught:
        fed.run(1)
    assert (caught.value.round, caught.value.client) == (0, bad)
    assert fed.round == 0


class Odd(Exception):
    """An error that cannot be made again from its text."""

    def __init__(self, client, number):
        super().__init__(f"client {client}")
        self.lock = threading.Lock()


@pytest.mark.parametrize("bad", [0, 4])
def test_an_error_of_the_objective_is_raised_as_it_is_and_the_next_round_works(bad):
    """Client 4 has most samples; client 0 shares a thread with others."""
    ill = [True]

    class Faulty(FedAvg):
        def objective(self, net, state, x, y, context):
            if ill[0] and context.own["client"] == bad:
                raise Odd(bad, 1)
            return super().objective(net, state, x, y, context)

        def context(self, fed, client):
            return {"client": torch.tensor(client)}

    one, all_ = (federation(Faulty(), executor=e, participation=1.0) for e in (alone, Threads(sequential, 3)))
    with pytest.raises(Odd, match=f"client {bad}"):
        all_.run(1)
    assert all_.round == 0
    ill[0] = False
    one.run(2)
    all_.run(2)
    same(everything(all_), everything(one))


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_the_round_and_leaves_no_thread():
    """Ctrl-C reaches the main thread, in the middle of its share, while the others are busy with theirs.

    They would go on for an hour: they end at their next step.
    """
    others, once = threading.Event(), [True]

    class Slow(FedAvg):
        def objective(self, net, state, x, y, context):
            if threading.current_thread() is not threading.main_thread():
                others.set()
                time.sleep(0.002 if context.round != 2 or not once else 1.0)
            elif context.round == 2 and once:
                others.wait()
                once.clear()
                signal.raise_signal(signal.SIGINT)
            return super().objective(net, state, x, y, context)

    fed, plain = (
        federation(a(), executor=e, participation=1.0, sizes=(60,) * 6, local=Local(2, 8, 0.1))
        for a, e in ((Slow, Threads(sequential, 3)), (FedAvg, alone))
    )
    fed.run(2)
    taken, fed.local = fed.local, Local(1000, 8, 0.1)
    with pytest.raises(KeyboardInterrupt):
        fed.run(50)
    fed.local = taken
    assert fed.round == 2, "the round that was interrupted was not counted"
    assert not [t for t in threading.enumerate() if t.name.startswith("client")]
    fed.run(2)
    plain.run(4)
    same(everything(fed), everything(plain))


# --- dealing -------------------------------------------------------------------------------------------


@CASES
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 12))
def test_dealing_gives_everything_to_somebody_and_nobody_much_more(work, hands):
    parts = deal(work, hands)
    assert sorted(i for part in parts for i in part) == list(range(len(work)))
    assert len(parts) == min(hands, len(work))
    assert all(part == sorted(part) for part in parts)
    sums = [sum(work[i] for i in part) for part in parts]
    assert max(sums) - min(sums) <= max(work)  # who had least got the next
    assert max(sums) <= max(sum(work) / len(parts) + max(work), max(work))
    assert deal(work, hands) == parts


def test_more_hands_than_work_get_nothing():
    assert deal([5], 3) == [[0]]
    assert deal([1, 9, 1], 2) == [[1], [0, 2]]
