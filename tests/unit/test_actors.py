"""Clients on Ray actors: the bits of the loop on one machine, whoever dies meanwhile, and what is said without Ray."""

import os
import sys
import threading
import time

import pytest
import torch
from torch import nn

from fedlib import actors
from fedlib.actors import RayActors
from fedlib.algorithms import FedAvg, FedDF, FedMD, FedNTD, FedProx
from fedlib.distill import Distillation
from fedlib.executors import Diverged, sequential
from fedlib.federation import Federation, Local, together
from fedlib.models import MLP

ray = pytest.importorskip("ray")
F64 = torch.float64
UNEVEN = (3, 7, 8, 13, 20, 4)  # with batches of 8: smaller than a batch, one batch, one with a rest


class Normed(nn.Module):
    """A network with BatchNorm: floating-point statistics and an integer counter."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x))


def noisy(x, generator):
    return x + 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def halved(x):
    return x.to(F64) / 128 - 1


def public():
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(9), dtype=F64)


def federation(executor, algorithm=None, model=lambda: MLP(5, (6,), 3), augment=None, lr=0.1, raw=False, **options):
    g = torch.Generator().manual_seed(5)
    x = torch.randn(sum(UNEVEN), 5, generator=g, dtype=F64)
    y = (x[:, :3] + 0.5 * torch.randn(len(x), 3, generator=g, dtype=F64)).argmax(1)
    split = list(torch.randperm(len(x), generator=g).split(list(UNEVEN)))
    if raw:
        x, options = ((x + 1) * 64).clamp(0, 255).to(torch.uint8), options | {"prepare": halved}
    local = Local(epochs=2, batch_size=8, lr=lr, momentum=0.5, weight_decay=0.01, augment=augment)
    options = {"participation": 0.7, "seed": 3, "dtype": F64, "device": "cpu"} | options
    return Federation(model, x, y, split, algorithm or FedAvg(), local=local, executor=executor, **options)


def everything(fed):
    """All that a round leaves: server, clients, losses."""
    kept = {f"{k}/{n}": t for k, own in fed.own.items() for n, t in own.items()}
    losses = torch.tensor([row["loss"] for row in fed.history], dtype=F64)
    return fed.state | kept | {"losses": losses}


def assert_same_bits(a, b):
    one, two = everything(a), everything(b)
    assert one.keys() == two.keys()
    for n in one:
        assert one[n].dtype == two[n].dtype
        assert torch.equal(one[n], two[n]), n


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The loop on one machine is to be compared as the actors run it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cluster():
    """A cluster that believes in 16 cores. It gets the classes of this file by value, as no other process has it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        patch.setattr(actors._ray, "_cores", lambda: 16)
        _, ours = actors._ray.connect()
    assert ours
    yield
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def team(cluster):
    executor = RayActors(2)
    yield executor
    executor.close()


@pytest.fixture
def stored(monkeypatch):
    """Even the small tensors of these tests go through the object store."""
    monkeypatch.setattr(actors, "LARGE", 100)


CASES = {
    "FedAvg": {},
    "FedProx": {"algorithm": lambda: FedProx(0.3)},
    "FedNTD": {"algorithm": lambda: FedNTD(1.0, 1.5)},
    "FedDF": {"algorithm": lambda: FedDF(public(), Distillation(steps=3, batch_size=6))},
    "FedMD": {"algorithm": lambda: FedMD(public(), digest_epochs=2)},
    "BatchNorm averaged": {"model": Normed, "buffers": "average"},
    "BatchNorm local": {"model": Normed, "buffers": "local"},
    "augmented": {"augment": noisy},
    "bytes, prepared and augmented": {"augment": noisy, "raw": True},
    "single precision": {"dtype": torch.float32},
}


@pytest.mark.parametrize("case", CASES)
def test_same_bits_as_one_after_the_other(team, stored, case):
    feds = []
    for executor in (team, sequential):
        options = dict(CASES[case])
        made = options.pop("algorithm", FedAvg)()
        feds.append(federation(executor, made, **options))
        feds[-1].run(3)
    assert_same_bits(*feds)


def test_small_tensors_travel_in_the_message(team):
    """As above, but nothing of this size goes to the object store."""
    feds = [federation(executor, FedMD(public())) for executor in (team, sequential)]
    for fed in feds:
        fed.run(2)
    assert_same_bits(*feds)
    assert not [t for t in team._stored if t.nbytes < actors.LARGE and t is feds[0].x]


def test_seeds_side_by_side(team, stored):
    alone = [federation(sequential, seed=s) for s in (1, 2)]
    for fed in alone:
        fed.run(2)
    algorithm = FedAvg()
    joint = [federation(team, algorithm, seed=s) for s in (1, 2)]
    together(joint, 2)
    for one, other in zip(alone, joint, strict=True):
        assert_same_bits(one, other)


def test_another_executor_inside(cluster):
    executor = RayActors(1, inner="batched")
    feds = [federation(executor, FedProx(0.3)), federation(sequential, FedProx(0.3))]
    for fed in feds:
        fed.run(2)
    executor.close()
    one, two = map(everything, feds)
    for n in one:
        torch.testing.assert_close(one[n], two[n], rtol=0, atol=1e-10)


def test_samples_are_stored_once_and_let_go_with_their_federation(team, stored, monkeypatch):
    put = []
    real = ray.put
    monkeypatch.setattr(ray, "put", lambda thing: put.append(thing) or real(thing))
    fed = federation(team)
    fed.run(1)
    data = [actors._bytes(t).tobytes() for t in (fed.x, fed.y)]
    fed.run(3)
    seen = [p.tobytes() for p in put if not isinstance(p, tuple)]
    assert [seen.count(d) for d in data] == [1, 1]
    assert len([p for p in put if isinstance(p, tuple)]) == 1, "the network, too"
    fed.x.mul_(2)  # who writes to the data has them sent again
    fed.run(1)
    assert actors._bytes(fed.x).tobytes() in [p.tobytes() for p in put if not isinstance(p, tuple)]
    before = len(team._stored)
    del fed
    assert len(team._stored) < before


class Waiting(FedAvg):
    """FedAvg in which one client's first local step says that it has begun and waits to be let go on."""

    def __init__(self, folder, size):
        self.folder, self.size = folder, size

    def objective(self, net, state, x, y, context):
        loss = super().objective(net, state, x, y, context)
        if context.round == 1 and len(x) == self.size and not (self.folder / "go").exists():
            with (self.folder / "begun").open("a") as file:
                file.write("begun\n")
            while not (self.folder / "go").exists():
                time.sleep(0.01)
        return loss


@pytest.mark.parametrize("dies", ["one", "all"])
def test_an_actor_that_dies_is_replaced_and_its_clients_are_trained_again(cluster, tmp_path, dies):
    executor = RayActors(2)
    options = {"participation": 1.0}
    reference = federation(sequential, FedAvg(), **options)
    fed = federation(executor, Waiting(tmp_path, 3), **options)  # the only batch of three is client 0's
    reference.run(3)
    fed.run(1)
    first = list(executor.team)
    assert len(first) == 2

    def murder():
        end = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < end:
            time.sleep(0.01)
        for actor in first if dies == "all" else [first[k] for k in range(2) if 0 in shares[k]]:
            ray.kill(actor)
        (tmp_path / "go").touch()

    shares = actors.deal([2 * n for n in UNEVEN], 2)
    killer = threading.Thread(target=murder)
    killer.start()
    fed.run(1)
    killer.join()
    assert (tmp_path / "begun").exists(), "it died before it began; a replacement may begin before it is let go on"
    survivors = [a for a in executor.team if a in first]
    assert len(survivors) == (0 if dies == "all" else 1)
    fed.run(1)
    assert_same_bits(fed, reference)
    end = time.monotonic() + 120
    while len(executor.team) < 2 and time.monotonic() < end:
        executor._gather()
        time.sleep(0.1)
    assert len(executor.team) == 2, "the team is back at its strength"
    executor.close()


class Deadly(FedAvg):
    """An objective that kills every process that computes it."""

    def objective(self, net, state, x, y, context):
        os._exit(1)


def test_work_that_kills_every_actor_ends(cluster, monkeypatch):
    monkeypatch.setattr(actors, "LOSSES", 1)
    executor = RayActors(2)
    with pytest.raises(RuntimeError, match="2 Ray actors died"):
        federation(executor, Deadly()).run(1)
    assert executor.team == []


def test_divergence_is_the_one_that_the_loop_reports(team):
    reports = []
    for executor in (team, sequential):
        with pytest.raises(Diverged) as caught:
            federation(executor, lr=1e200, participation=1.0).run(5)
        reports.append((str(caught.value), caught.value.client, caught.value.round))
    assert reports[0] == reports[1]
    fed = federation(team)
    fed.run(1)  # the executor can be used again
    assert len(fed.history) == 1


class Wrong(FedAvg):
    """An objective with a mistake in it."""

    def objective(self, net, state, x, y, context):
        raise KeyError("teacher")


def test_a_mistake_in_the_objective_comes_through_with_its_place(team):
    with pytest.raises(KeyError, match="teacher") as caught:
        federation(team, Wrong()).run(1)
    assert any("in objective" in note for note in caught.value.__notes__)


def test_close_gives_the_cores_back(cluster):
    executor = RayActors(1)
    federation(executor).run(1)
    (actor,) = executor.team
    executor.close()

    def ask_until_it_is_dead():  # Ray takes its time
        for _ in range(100):
            ray.get(actor.ready.remote())
            time.sleep(0.1)

    with pytest.raises(ray.exceptions.RayActorError):
        ask_until_it_is_dead()
    executor.close()


def test_as_many_actors_as_there_is_room_for(cluster, monkeypatch):
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    executor = RayActors()
    executor._gather()
    assert len(executor.team) == 2
    executor.close()


def test_no_room_at_all_is_said(cluster, monkeypatch):
    monkeypatch.setattr(actors, "PATIENCE", 0.5)
    with pytest.raises(RuntimeError, match="a free CPU and 1 of a GPU did not come up"):
        federation(RayActors(1, gpus_per_actor=1)).run(1)


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="pip install ray"):
        federation(RayActors()).run(1)


def test_settings_that_cannot_work():
    with pytest.raises(ValueError, match="at least one actor"):
        RayActors(0)
    with pytest.raises(ValueError, match="another executor than 'ray'"):
        RayActors(inner="ray")
    with pytest.raises(ValueError, match="unknown"):
        RayActors(inner="swift")


def test_a_cluster_that_does_not_answer_is_noticed_soon(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1 .*ray start --head"):
        actors._ray.connect()


def test_a_machine_too_busy_to_start_ray_gets_another_chance():
    tried, cleared = [], []

    def start(fails, message="The current node timed out during startup. This could happen"):
        tried.append(1)
        if len(tried) <= fails:
            raise Exception(message)
        return "started"

    assert actors._ray.patient(lambda: start(2), lambda: cleared.append(1)) == "started"
    assert len(cleared) == 2
    with pytest.raises(Exception, match="timed out during startup"):
        actors._ray.patient(lambda: start(99), lambda: None)
    tried.clear()
    with pytest.raises(Exception, match="something else"):
        actors._ray.patient(lambda: start(1, "something else"), lambda: None)
    assert len(tried) == 1


def test_the_name_ray_stands_for_one_team():
    assert actors.ray_executor() is actors.ray_executor()
    assert actors.ray_executor().team == []


@pytest.mark.parametrize(
    "t",
    [torch.zeros(0), torch.tensor(3.0), torch.tensor([True, False]), torch.ones(2, 3, dtype=torch.bfloat16)]
    + [torch.arange(3), torch.ones(3, dtype=torch.complex64), torch.arange(12).reshape(3, 4).T, torch.ones(4)[1:3]]
    + [torch.arange(120.0).reshape(2, 3, 4, 5).permute(2, 0, 3, 1), torch.ones(2, 1).expand(2, 3)],
)
def test_any_tensor_arrives_as_it_was(t):
    home = torch.device("cpu")
    again = actors._load(actors._dump({"t": t}, home), home)["t"]
    assert again.dtype == t.dtype
    assert torch.equal(again, t)
    assert actors._turned(again) == actors._turned(t)


def test_a_tensor_on_the_training_device_moves_to_that_of_the_actor():
    """Others, such as the order of the samples, stay on the host. No second device is here but "meta"."""
    t, host, away = torch.ones(3), torch.device("cpu"), torch.device("meta")
    assert actors._load(actors._dump(t, host), away).device == away
    assert torch.equal(actors._load(actors._dump(t, torch.device("cuda")), away), t)


def test_a_view_travels_without_what_it_is_a_view_of():
    whole = torch.zeros(1 << 20)
    assert len(actors._dump([whole[:5], whole[5:9]], torch.device("cpu"))) < 1000
