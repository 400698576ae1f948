"""The benchmark: jobs, the yardsticks that all is compared with, the arithmetic of results, and what is shown of it."""

from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from benchmarks import cli, contenders, environments, measure, plots, results, tables, targets, workloads
from benchmarks.contenders import CONTENDERS
from benchmarks.errors import BenchmarkError, Skipped, Unknown
from benchmarks.job import Job, Material, steps
from benchmarks.workers import fedlib as ours, floor, local, pfllib, plain
from benchmarks.workers.__main__ import accuracy
from fedlib import choice, rng
from fedlib.algorithms import FedAvg

SIZES = (3, 7, 8, 13, 20, 4)  # with batches of 8: smaller than a batch, one batch, one with a rest


def material(sizes=SIZES, shape=(5,), classes=3) -> Material:
    g = torch.Generator().manual_seed(1)
    n = sum(sizes)
    x, y = torch.randn(n, *shape, generator=g), torch.randint(classes, (n,), generator=g)
    return Material(x, y, x[:10], y[:10], list(torch.randperm(n, generator=g).split(list(sizes))), {})


def job(**changes) -> Job:
    given = {
        "workload": "tiny",
        "model": "fedlib.models.mlp:MLP",
        "arguments": {"inputs": 5, "hidden": [6], "classes": 3},
        "epochs": 2,
        "batch": 8,
        "lr": 0.1,
        "seed": 3,
        "sampled": [[0, 1, 2, 3, 4, 5]] * 2,
        "material": "",
    }
    return Job(**given | changes)


def started(a_job: Job, given: Material) -> Material:
    """The material with first weights for the job's network."""
    return replace(given, weights=rng.build(a_job.network, 7).state_dict())


def tiny() -> workloads.Workload:
    """A workload of a second: its data are the digits."""
    return replace(workloads.WORKLOADS["mlp"], name="tiny", clients=5, split=workloads.iid(5), takes_part=2, epochs=1)


# Jobs


def test_material_and_job_survive_the_files(tmp_path):
    a_job = job(options={"executor": "auto"})
    before = started(a_job, material())
    before.save(tmp_path / "m.npz")
    after = Material.load(tmp_path / "m.npz")
    for name in ("x", "y", "x_test", "y_test"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    assert all(torch.equal(a, b) for a, b in zip(before.split, after.split, strict=True))
    assert before.weights.keys() == after.weights.keys()
    assert all(torch.equal(w, after.weights[n]) for n, w in before.weights.items())
    a_job.write(tmp_path / "j.json")
    assert Job.read(tmp_path / "j.json") == a_job


@pytest.mark.parametrize("text", ['{"workload": "w"}', '{"colour": "red"}'])
def test_a_job_of_another_version_is_refused_by_name(tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"old\.json is no job of this version"):
        Job.read(path)


def test_steps_count_every_batch_of_every_sampled_client():
    # batches of 8, two epochs: 3 -> 2, 7 -> 2, 8 -> 2, 13 -> 4, 20 -> 6, 4 -> 2 steps
    assert steps(job(), list(SIZES)) == 18
    assert steps(job(sampled=[[3], [0, 4]]), list(SIZES)) == (4 + 8) / 2


@pytest.mark.parametrize(("clients", "takes_part"), [(20, 20), (20, 8), (100, 10), (1000, 1)])
def test_sampled_clients_are_those_of_the_federation(clients, takes_part):
    w = replace(tiny(), clients=clients, takes_part=takes_part)
    a_job = job(sampled=w.sampled(4, seed=5), seed=5)
    given = started(a_job, material([1] * clients))
    fed = ours.federate(a_job, given, FedAvg(), 5)
    assert [fed.sample(t) for t in range(4)] == a_job.sampled


# The plain loop and the floor


@pytest.mark.parametrize("sampled", [[[0, 1, 2, 3, 4, 5]] * 2, [[0, 4], [1, 3]]])
def test_plain_loop_equals_fedlib_in_float64(sampled):
    a_job = job(sampled=sampled, options={"executor": "sequential"})
    given = started(a_job, material()).to(torch.float64)
    fed = ours.federate(a_job, given, FedAvg(), a_job.seed)
    fed.sample = lambda number: sampled[number]
    for _ in sampled:
        fed.play_round()
    found = plain.run(a_job, given)
    assert found.weights.keys() == fed.state.keys()
    for name, w in fed.state.items():
        assert not torch.equal(w, given.weights[name]), "nothing was trained"
        assert torch.allclose(found.weights[name], w, rtol=0, atol=1e-12)


def test_plain_loop_averages_batchnorm_as_fedlib_does():
    a_job = job(model="fedlib.models.resnet:ResNet8", arguments={"classes": 3}, sampled=[[0, 1, 2]])
    given = started(a_job, material((4, 9, 17), (3, 8, 8))).to(torch.float64)
    theirs = ours.run(replace(a_job, options={"executor": "sequential"}), given).weights
    found = plain.run(a_job, given).weights
    assert any("num_batches_tracked" in name for name in found)
    for name, w in theirs.items():
        assert torch.allclose(found[name].double(), w.double(), rtol=0, atol=1e-10), name


def test_plain_loop_against_gradients_written_down():
    """A linear network, one epoch in one batch: w - lr X'(softmax(Xw + b) - onehot) / n, averaged by n."""
    a_job = job(arguments={"inputs": 5, "hidden": [], "classes": 3}, epochs=1, batch=99, sampled=[[1, 3]])
    given = started(a_job, material()).to(torch.float64)
    weight, bias = given.weights["head.weight"].numpy(), given.weights["head.bias"].numpy()
    total = np.zeros_like(weight)
    for k in (1, 3):
        x, y = given.x[given.split[k]].numpy(), given.y[given.split[k]].numpy()
        e = np.exp(x @ weight.T + bias)
        error = e / e.sum(1, keepdims=True) - np.eye(3)[y]
        total += len(x) * (weight - a_job.lr * error.T @ x / len(x))
    expected = total / (SIZES[1] + SIZES[3])
    assert np.allclose(plain.run(a_job, given).weights["head.weight"].numpy(), expected, rtol=0, atol=1e-12)


def test_batches_are_a_permutation_per_epoch_and_differ_by_round_and_client():
    a_job, given = job(epochs=3), material()
    taken = list(local.batches(a_job, given, 0, 3))
    assert [len(rows) for rows in taken] == [8, 5] * 3
    for i in (0, 2, 4):
        assert torch.cat(taken[i : i + 2]).sort().values.equal(given.split[3].sort().values)
    assert not torch.equal(torch.cat(taken[:2]), torch.cat(taken[2:4]))
    assert not torch.equal(torch.cat(taken), torch.cat(list(local.batches(a_job, given, 1, 3))))


def test_floor_takes_the_same_sample_gradients_in_batches_of_all_clients(monkeypatch):
    a_job = job(sampled=[[0, 3, 4], [1, 2, 5]])
    given, seen = started(a_job, material()), []

    def train(network, data, batches, lr):
        seen.append(list(batches))

    monkeypatch.setattr(local, "train", train)
    found = floor.run(a_job, given)
    for clients, batches in zip(a_job.sampled, seen, strict=True):
        rows = torch.cat([given.split[k] for k in clients])
        assert torch.cat(batches).sort().values.equal(rows.repeat(2).sort().values)
        assert {len(b) for b in batches[:-1]} == {3 * 8}
    # 2 * 36 and 2 * 19 samples in batches of 24
    assert found.steps == (3 + 2) / 2


def test_floor_and_plain_loop_learn(tmp_path):
    w = tiny()
    a_job, _, given = w.prepare(tmp_path, 8, 0)
    chance = accuracy(a_job, given, given.weights)
    for worker in (plain, floor):
        found = worker.run(a_job, given)
        assert len(found.seconds) == 8
        assert min(found.seconds) > 0
        assert accuracy(a_job, given, found.weights) > chance + 0.3


def test_several_seeds_share_the_seconds_of_a_round(monkeypatch):
    a_job = job(options={"executor": "sequential", "seeds": 4}, sampled=[[0, 1, 2, 3, 4, 5]])
    given = started(a_job, material())
    monkeypatch.setattr(local, "play", lambda j, one: [one(0, j.sampled[0]) or 8.0])
    alone = ours.run(replace(a_job, options={"executor": "sequential"}), given)
    together = ours.run(a_job, given)
    assert (alone.seconds, together.seconds) == ([8.0], [2.0])
    assert all(torch.allclose(alone.weights[n], w, atol=1e-6) for n, w in together.weights.items())
    assert "sequential" in alone.explain


# PFLlib: a stand-in for its checkout with the same interface


STAND_IN = """
import numpy as np, torch
from pathlib import Path

class Client:
    def __init__(self, k, args):
        self.k, self.args, self.model = k, args, None
        self.n = len(np.load(f"../dataset/{args.dataset}/train/{k}.npz", allow_pickle=True)["data"].tolist()["y"])
        assert Path(f"../dataset/{args.dataset}/test/{k}.npz").exists()
    def train(self):
        self.model = {n: w + self.k for n, w in self.start.items()}

class FedAvg:
    def __init__(self, args, times):
        self.global_model = args.model
        self.clients = [Client(k, args) for k in range(args.num_clients)]
    def send_models(self):
        for c in self.clients:
            c.start = self.global_model.state_dict()
    def receive_models(self):
        assert len(self.selected_clients) == self.current_num_join_clients
        self.got = [(c.n, c.model) for c in self.selected_clients]
    def aggregate_parameters(self):
        total = sum(n for n, _ in self.got)
        self.global_model.load_state_dict({k: sum(n * m[k] for n, m in self.got) / total for k in self.got[0][1]})
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    package = tmp_path / "PFLlib" / "system" / "flcore" / "servers"
    package.mkdir(parents=True)
    (package / "serveravg.py").write_text(STAND_IN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()
    yield {"pfllib": str(tmp_path / "PFLlib"), "scratch": str(tmp_path / "scratch")}
    for name in [n for n in sys.modules if n.partition(".")[0] == "flcore"]:
        del sys.modules[name]


def test_pfllib_gets_the_jobs_clients_data_and_weights(checkout):
    a_job = job(sampled=[[2, 4], [3, 4]], options=checkout)
    given = started(a_job, material())
    found = pfllib.run(a_job, given)
    # the stand-in adds the client's number to every weight; averages are by numbers of samples: 8, 20 and 13, 20
    moved = (2 * 8 + 4 * 20) / 28 + (3 * 13 + 4 * 20) / 33
    for name, w in found.weights.items():
        assert torch.allclose(w, given.weights[name] + moved, atol=1e-5)
    # full batches of 8 only, two epochs: 2 * (1 + 2) and 2 * (1 + 2)
    assert found.steps == 6


def test_pfllib_says_why_it_cannot_run(checkout, tmp_path):
    with pytest.raises(ValueError, match="no client has a full batch of 99"):
        pfllib.run(job(batch=99, options=checkout), material())
    with pytest.raises(ValueError, match=r"no checkout of PFLlib: it has no system/flcore/servers/serveravg\.py"):
        pfllib.run(job(options={"pfllib": str(tmp_path / "elsewhere")}), material())
    with pytest.raises(Skipped, match="needs a checkout: --pfllib PATH"):
        measure.run(CONTENDERS["pfllib"], job(), tmp_path)


# BlazeFL: a stand-in for its package with the same interface, for Pythons that it does not run on


BLAZE = """
from concurrent.futures import ThreadPoolExecutor

class ModelSelector: pass
class FedAvgPartitionedDataset: pass
class FedAvgPartitionType: TRAIN = "train"
class FedAvgUplinkPackage: pass

class FedAvgBaseServerHandler:
    def __init__(
        self, model_selector, model_name, dataset, global_round, num_clients, sample_ratio, device, batch_size, seed
    ):
        assert int(num_clients * sample_ratio) == num_clients
        self.model, self.global_round = model_selector.select_model(model_name), global_round
        self.round, self.got = 0, []
    def is_stopped(self):
        return self.round >= self.global_round
    def downlink_package(self):
        return {n: w.clone() for n, w in self.model.state_dict().items()}
    def load(self, package):
        self.got.append(package)
        if len(self.got) == self.num_clients_per_round:
            total = sum(n for n, _ in self.got)
            self.model.load_state_dict({k: sum(n * m[k] for n, m in self.got) / total for k in self.got[0][1]})
            self.round, self.got = self.round + 1, []

class FedAvgThreadPoolClientTrainer:
    def __init__(
        self, model_selector, model_name, dataset, device, num_clients, epochs, batch_size, lr, seed, num_parallels
    ):
        self.networks, self.dataset, self.epochs, self.lr = model_selector, dataset, epochs, lr
        self.threads, self.batch_size, self.cache = num_parallels, batch_size, []
    def one(self, cid, payload):
        import torch
        loader = self.dataset.get_dataloader(type_="train", cid=cid, batch_size=self.batch_size, generator=None)
        network = self.networks.select_model("any")
        network.load_state_dict(payload)
        rule = torch.optim.SGD(network.parameters(), lr=self.lr)
        for _ in range(self.epochs):
            for x, y in loader:
                rule.zero_grad()
                torch.nn.functional.cross_entropy(network(x), y).backward()
                rule.step()
        return len(loader.dataset), network.state_dict()
    def local_process(self, payload, cid_list):
        with ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(self.one, cid, payload) for cid in cid_list]
            self.cache += [f.result() for f in self.progress_fn(futures)]
    def uplink_package(self):
        package, self.cache = self.cache, []
        return package
"""


def test_blazefl_gets_the_jobs_clients_batches_and_weights(tmp_path, monkeypatch):
    package = tmp_path / "blazefl"
    package.mkdir()
    for name, text in (("__init__", ""), ("contrib", BLAZE), ("core", "from blazefl.contrib import ModelSelector")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        worker = importlib.import_module("benchmarks.workers.blazefl")
        a_job = job(sampled=[[0, 3, 4], [1, 2, 5], [2, 3, 4]], options={"cores": 2})
        given = started(a_job, material())
        found, expected = worker.run(a_job, given), plain.run(a_job, given)
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "blazefl" or n.endswith("workers.blazefl")]:
            del sys.modules[name]
    for name, w in expected.weights.items():
        assert torch.allclose(found.weights[name], w, rtol=0, atol=1e-6), name
    assert (len(found.seconds), found.steps) == (3, expected.steps)


# Contenders in processes of their own


def test_contenders_in_their_processes_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "BUILD", tmp_path)
    who = [CONTENDERS[n] for n in ("fedlib-sequential", "plain", "floor", "pfllib")]
    entry = cli.compare(tiny(), who, 3, 1, 0, {})
    assert list(entry["contenders"]) == ["fedlib-sequential", "plain", "floor", "pfllib"]
    assert "skipped" in entry["contenders"].pop("pfllib")
    for run in entry["contenders"].values():
        assert len(run["seconds"][0]) == 3
        assert 50 < run["memory_mb"][0] < 5000
        assert run["versions"]["torch"] == metadata.version("torch")
    runs = entry["contenders"]
    assert runs["plain"]["accuracy"] == runs["fedlib-sequential"]["accuracy"]
    assert runs["plain"]["steps"] == runs["fedlib-sequential"]["steps"]
    assert entry["machine"]["cores"] == measure.cores()


def test_a_contender_that_fails_says_its_last_words(tmp_path):
    a_job, _, _ = tiny().prepare(tmp_path, 2, 0)
    broken = replace(CONTENDERS["fedlib"], options={"executor": "abacus"})
    with pytest.raises(BenchmarkError, match=r"executor 'abacus' is unknown.*tiny-fedlib\.log"):
        measure.run(broken, a_job, tmp_path)


@pytest.mark.parametrize("name", sorted(environments.PACKAGES.keys() - {"pfllib"}))
def test_a_peer_that_is_set_up_trains_what_the_plain_loop_trains(name, tmp_path):
    if not environments.ready(name):
        pytest.skip(f"no environment of {name} here: python -m benchmarks setup")
    a_job, _, given = tiny().prepare(tmp_path, 3, 0)
    found = measure.run(CONTENDERS[name], a_job, tmp_path)  # ready: no Python is asked for
    expected = plain.run(a_job, given)
    assert found["accuracy"] == pytest.approx(accuracy(a_job, given, expected.weights), abs=1 / len(given.y_test))
    assert (len(found["seconds"]), found["steps"]) == (3, expected.steps)


def test_contenders_take_turns_and_a_failure_is_noted_once(tmp_path, monkeypatch):
    order = []

    def fake(contender, a_job, folder, given):
        order.append(contender.name)
        if contender.name == "floor":
            raise BenchmarkError("it rained")
        return {"seconds": [9.0, 1.0], "accuracy": 0.5, "memory_mb": 1.0, "steps": 1, "versions": {}, "explain": ""}

    monkeypatch.setattr(measure, "run", fake)
    monkeypatch.setattr(environments, "BUILD", tmp_path)
    entry = cli.compare(tiny(), [CONTENDERS[n] for n in ("fedlib", "floor", "plain")], 2, 3, 0, {})
    assert order == ["fedlib", "floor", "plain", "fedlib", "plain", "fedlib", "plain"]
    assert entry["contenders"]["plain"]["seconds"] == [[9.0, 1.0]] * 3
    assert entry["contenders"]["floor"] == {"error": "it rained"}
    assert results.rows(entry)[-1].problem == "failed: it rained"


def test_threads_are_one_but_for_those_who_share_out_cores(monkeypatch):
    monkeypatch.setattr(measure, "cores", lambda: 6)
    told = {name: measure.environment_of(c)["OMP_NUM_THREADS"] for name, c in CONTENDERS.items()}
    wide = {n for n, threads in told.items() if threads == "6"}
    assert wide == {"fedlib", "fedlib-threads", "fedlib-3-seeds", "fedlib-10-seeds"}
    assert {told[n] for n in told.keys() - wide} == {"1"}


def test_memory_is_that_of_all_processes_at_its_peak():
    pytest.importorskip("psutil")
    hold = "import sys, time; x = b'1' * int(sys.argv[1]); time.sleep(0.9)"
    both = (
        f"import subprocess, sys; x = b'1' * 150_000_000; subprocess.run([sys.executable, '-c', {hold!r}, '100000000'])"
    )
    child = subprocess.Popen([sys.executable, "-c", both], start_new_session=True)
    try:
        peak = measure.watch(child)
    finally:
        measure.end(child)
    assert 250 < peak < 320


def test_a_contender_that_never_ends_is_given_up_with_its_children(monkeypatch):
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(measure, "PATIENCE", 0.5)
    nest = "import subprocess; subprocess.run(['sleep', '60'])"
    child = subprocess.Popen([sys.executable, "-c", nest], start_new_session=True)
    with pytest.raises(BenchmarkError, match="given up"):
        measure.watch(child)
    family = psutil.Process(child.pid).children(recursive=True)
    measure.end(child)
    assert child.poll() is not None
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_without_psutil_a_contender_tells_its_own_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "psutil", None)
    a_job, _, _ = tiny().prepare(tmp_path, 2, 0)
    assert 50 < measure.run(CONTENDERS["plain"], a_job, tmp_path)["memory_mb"] < 5000


def test_without_psutil_a_contender_that_never_ends_is_ended_with_its_group(monkeypatch):
    monkeypatch.setattr(measure, "psutil", None)
    monkeypatch.setattr(measure, "PATIENCE", 0.5)
    nest = "import subprocess; child = subprocess.Popen(['sleep', '60']); print('begun', flush=True); child.wait()"
    child = subprocess.Popen([sys.executable, "-c", nest], start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "begun\n"
    with pytest.raises(BenchmarkError, match="given up"):
        measure.watch(child)
    measure.end(child)
    assert child.poll() is not None
    began = time.monotonic()
    assert child.stdout.read() == ""
    assert time.monotonic() - began < 30, "who holds the other end of the pipe goes on"


# Environments


def installs(monkeypatch, tmp_path):
    """Calls of a venv module and of pip that always succeed, as they are made."""
    calls = []

    def run(call, **_):
        calls.append(call)
        if "venv" in call:
            Path(call[-1]).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(environments, "BUILD", tmp_path)
    monkeypatch.setattr(environments, "subprocess", SimpleNamespace(run=run))
    return calls


@pytest.mark.parametrize(
    ("given", "on_path", "made_with"),
    [
        ({"python314": "/opt/py/bin/python3.14"}, ["python3.14t", "python3.14"], "/opt/py/bin/python3.14"),
        ({}, ["python3.14", "python3.14t"], "/usr/bin/python3.14t"),
        ({}, ["python3.14"], "/usr/bin/python3.14"),
    ],
)
def test_an_environment_is_made_with_the_python_that_it_needs(given, on_path, made_with, tmp_path, monkeypatch):
    calls = installs(monkeypatch, tmp_path)
    older = SimpleNamespace(executable=sys.executable, version_info=SimpleNamespace(major=3, minor=12))
    monkeypatch.setattr(environments, "sys", older)
    monkeypatch.setattr(environments.shutil, "which", lambda name: f"/usr/bin/{name}" if name in on_path else None)
    environments.install("blazefl", given)
    assert calls[0][:3] == [made_with, "-m", "venv"]


def test_a_peer_whose_python_is_missing_is_skipped_in_a_sentence(tmp_path, monkeypatch):
    installs(monkeypatch, tmp_path)
    older = SimpleNamespace(executable=sys.executable, version_info=SimpleNamespace(major=3, minor=12))
    monkeypatch.setattr(environments, "sys", older)
    monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    entry = cli.compare(tiny(), [CONTENDERS["blazefl"]], 2, 1, 0, {})
    expected = "needs Python 3.14, and no python3.14 is on the PATH: --python314 PATH"
    assert entry["contenders"]["blazefl"] == {"skipped": expected}
    assert results.rows(entry)[0].problem == expected


def test_a_python_that_cannot_be_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "BUILD", tmp_path)
    with pytest.raises(BenchmarkError, match=r"/nowhere/python3\.14 cannot be run: No such file"):
        environments.install("blazefl", {"python314": "/nowhere/python3.14"})


def test_an_environment_is_made_once_and_again_when_versions_change(tmp_path, monkeypatch):
    calls = installs(monkeypatch, tmp_path)
    environments.install("fedlab")
    environments.install("fedlab")
    folder = str(tmp_path / "env" / "fedlab")
    assert calls[0] == [sys.executable, "-m", "venv", "--clear", folder]
    assert calls[1][:4] == [f"{folder}/bin/python", "-m", "pip", "install"]
    assert "fedlab==1.3.0" in calls[1]
    assert len(calls) == 2
    monkeypatch.setitem(environments.PACKAGES, "fedlab", ("fedlab==9.9",))
    assert not environments.ready("fedlab")
    environments.install("fedlab")
    assert len(calls) == 4
    assert environments.ready("fedlab")
    assert environments.ready("")
    assert environments.interpreter("") == sys.executable


def test_pip_that_fails_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "BUILD", tmp_path)
    good = SimpleNamespace(returncode=0)
    failed = SimpleNamespace(returncode=1, stderr="much\nERROR: no such version\n", stdout="")
    monkeypatch.setattr(environments.subprocess, "run", lambda call, **_: failed if "pip" in call else good)
    with pytest.raises(BenchmarkError, match="pip could not set up flower:\nmuch\nERROR: no such version"):
        environments.install("flower")
    assert not environments.ready("flower")


def test_peers_have_the_books_versions_of_torch_and_numpy():
    pinned = (environments.ROOT / "requirements.txt").read_text()
    for package in {*environments.TORCH, "torchvision==0.28.0", "scikit-learn==1.9.1", "matplotlib==3.11.2"}:
        assert re.search(rf"^{re.escape(package)}\b", pinned, re.M), package
    for packages in environments.PACKAGES.values():
        assert set(environments.TORCH) <= set(packages)
        assert all("==" in package for package in packages)


# Workloads


def test_names_choose_one_workload_or_a_group():
    assert [w.name for w in workloads.choose(["w"])] == ["w"]
    assert len(workloads.choose(["scale"])) == 11
    assert [w.name for w in workloads.choose(["resnet"])] == ["resnet", "resnet-gpu"]
    assert len(workloads.choose([])) == len(workloads.WORKLOADS)
    with pytest.raises(Unknown, match="no workload 'mpl'; did you mean 'mlp'"):
        workloads.choose(["mpl"])


def test_names_and_patterns_choose_contenders():
    chosen = [c.name for c in contenders.choose(["plain", "fedlib*"], [])]
    assert chosen == ["fedlib", *(f"fedlib-{x}" for x in ("one-core", "sequential", "batched", "threads")), "plain"]
    assert [c.name for c in contenders.choose(["fedlib-3-seeds"], ["plain"])] == ["fedlib-3-seeds"]
    assert [c.name for c in contenders.choose([], ["flower"])] == ["flower"]
    with pytest.raises(Unknown, match="no contender 'plane'; did you mean 'plain'"):
        contenders.choose(["plane"], [])


@pytest.mark.parametrize("w", workloads.WORKLOADS.values(), ids=lambda w: w.name)
def test_every_workload_names_contenders_that_exist(w):
    assert {"fedlib", "plain"} <= {c.name for c in contenders.choose([], w.contenders)}
    assert w.takes_part <= w.clients
    assert w.rounds >= 3


@pytest.mark.parametrize(
    ("name", "clients", "taken"), [("w", 20, 200), ("mlp", 100, 50), ("few", 50, 50), ("mnist1d", 20, 400)]
)
def test_size_of_the_embedded_workloads(name, clients, taken, tmp_path):
    a_job, _, given = workloads.WORKLOADS[name].prepare(tmp_path, 2, 0)
    assert len(given.split) == clients
    assert torch.cat(given.split).sort().values.equal(torch.arange(len(given.y)))
    assert abs(steps(a_job, [len(rows) for rows in given.split]) - taken) <= 5
    assert accuracy(a_job, Material.load(a_job.material), given.weights) < 0.3


def test_every_client_of_the_scale_up_series_holds_as_much():
    for clients in (10, 1000):
        found = workloads.many(clients)
        split = workloads.iid(clients)(found.y_train, torch.Generator())
        assert {len(rows) for rows in split} == {14}
    assert torch.equal(workloads.many(30).x_train, workloads.many(30).x_train)
    twice = workloads.many(206).x_train  # more samples than there are digits: the second time with other noise
    assert not torch.equal(twice[0], twice[1437])
    assert (twice[0] - twice[1437]).abs().max() < 1


def test_images_come_from_a_pack_or_else_are_rendered(monkeypatch):
    calls = []
    monkeypatch.setattr(workloads.data, "available", lambda: {"mnist": "download", "fashion_mnist": "absent"})
    monkeypatch.setattr(workloads.data.glyphs, "dataset", lambda **options: calls.append(options))
    workloads.images()
    assert calls == [{"train": 6000, "test": 1000, "size": 28, "seed": 0}]


def test_what_is_not_there_is_skipped_without_a_download(monkeypatch, tmp_path):
    monkeypatch.setattr(workloads.data, "available", lambda: {"cifar10": "download"})
    with pytest.raises(Skipped, match=r"put cifar10\.npz into a folder and set FEDLIB_DATA"):
        workloads.WORKLOADS["resnet"].prepare(tmp_path, 2, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Skipped, match="no CUDA device"):
        workloads.available(workloads.WORKLOADS["resnet-gpu"])


# Results


def run_of(seconds, accuracy=0.8, memory=300.0, cores=1, **rest):
    found = {"seconds": seconds, "accuracy": [accuracy] * len(seconds), "memory_mb": [memory] * len(seconds)}
    return found | {"steps": [10.0] * len(seconds), "versions": {"torch": "2"}, "cores": cores} | rest


def entry_of(title="a workload", samples=400, **runs):
    described = {"cpu": "a CPU", "cores": 2, "memory_gb": 8.0, "system": "Linux", "load": 0.1}
    described |= {"date": "2026-01-02 03:04 UTC", "commit": "0123456789", "dirty": False}
    named = {name.replace("_", "-"): run for name, run in runs.items()}
    fixed = {"title": title, "data": "digits", "rounds": 3, "repeats": 2, "seed": 0, "test_samples": samples}
    return fixed | {"machine": described, "contenders": named}


def constant(seconds, **rest):
    return run_of([[9.0, seconds, seconds]], **rest)


def test_the_median_leaves_out_first_rounds_and_pools_repetitions():
    entry = entry_of(
        fedlib=run_of([[100.0, 1.0, 3.0], [50.0, 2.0, 10.0]], memory=120.0),
        plain=run_of([[7.0, 5.0, 5.0]]),
        floor=run_of([[7.0, 1.0, 1.0]]),
    )
    fedlib, plain_loop, floor_row = results.rows(entry)
    assert (fedlib.seconds, fedlib.first, fedlib.memory_mb) == (2.5, 75.0, 120.0)
    assert (fedlib.low, fedlib.high) == (1.75, 4.75)
    assert (fedlib.faster, fedlib.over_floor) == (2.0, 2.5)
    assert (plain_loop.faster, plain_loop.over_floor) == (1.0, 5.0)
    assert floor_row.faster == 5.0


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=30))
def test_quartiles_are_numpys(values):
    assert results.quartiles(values) == pytest.approx(tuple(np.percentile(values, [25, 75])))


def test_ratios_without_a_yardstick_are_not_numbers():
    (row,) = results.rows(entry_of(fedlib=constant(1.0)))
    assert math.isnan(row.faster)
    assert math.isnan(row.over_floor)


def test_accuracies_that_differ_by_more_than_noise_are_marked():
    # p = 0.8 on 400 samples: standard error 0.02, so 0.06 is allowed
    entry = entry_of(
        fedlib=constant(1, accuracy=0.80),
        fedlib_one_core=constant(1, accuracy=0.80),
        plain=constant(1, accuracy=0.80),
        flower=constant(1, accuracy=0.745),
        fedlab=constant(1, accuracy=0.735),
        floor=constant(1, accuracy=0.1),
    )
    agrees = {row.contender.name: row.agrees for row in results.rows(entry)}
    assert agrees.pop("floor") is None
    assert [name for name, same in agrees.items() if not same] == ["fedlab"]
    assert results.agreement(entry) == (0.80, pytest.approx(0.06))
    shown = tables.workload("w", entry)
    assert [row[0] for row in shown.rows if "*" in row[5]] == ["FedLab"]
    assert any("differs" in note and "FedLab" in note for note in shown.notes)


def test_results_survive_the_file_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "r.json"
    assert results.read(path) == {"workloads": {}}
    kept = {"workloads": {"w": entry_of(plain=constant(1.0))}}
    results.write(kept, path)
    assert results.read(path) == kept
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    for text in (
        "{",
        "[]",
        '{"workloads": {"w": {}}}',
        '{"workloads": {"w": {"contenders": {"x": {"accuracy": [1]}}}}}',
    ):
        path.write_text(text)
        with pytest.raises(BenchmarkError, match=r"r\.json is not a file of results"):
            results.read(path)


# Targets


def verdicts(**entries):
    found = targets.targets({"workloads": {name.replace("_", "-"): e for name, e in entries.items()}})
    return {t.statement: (t.value, t.verdict) for t in found}


def test_without_results_nothing_is_met_or_missed():
    assert {verdict for _, verdict in verdicts().values()} == {"not measured"}


def test_targets_at_their_bounds():
    at = verdicts(
        w=entry_of(fedlib=constant(1), flower=constant(4), plain=constant(2.5), floor=constant(0.5)),
        w2=entry_of(fedlib=constant(0.7), flower=constant(1.18), plain=constant(1.2), floor=constant(1)),
        mlp=entry_of(fedlib=constant(2), fedlib_10_seeds=constant(1), plain=constant(8)),
        scale_10000_100=entry_of(fedlib=constant(1.3, memory=1999.0), plain=constant(1)),
        scale_100_100=entry_of(fedlib=constant(1), plain=constant(1)),
    )
    assert at["w: times as fast as Flower's simulation"] == (4, "met")
    assert at["w: times as fast as PFLlib"][1] == "not measured"
    assert at["w: times as fast as the plain loop"] == (2.5, "met")
    assert at["w: seconds in units of the floor's"] == (2, "met")
    assert at["w2: times as fast as Flower's simulation"][1] == "missed"  # 1.686
    assert at["w2: times as fast as the plain loop"][1] == "missed"  # 1.714
    assert at["w2: seconds in units of the floor's"] == (0.7, "met")
    assert at["mlp: times as fast as the plain loop, one seed"] == (4, "missed")
    assert at["mlp: the same per seed, 3 seeds at once"][1] == "not measured"
    assert at["mlp: the same per seed, 10 seeds at once"] == (8, "met")
    assert at["10,000 clients, 100 sampled: peak memory"] == (1.999, "met")
    assert at["10,000 clients: seconds in units of 100 clients', 100 sampled"] == (1.3, "met")
    assert at["every workload: times as fast as BlazeFL"][1] == "not measured"
    value, verdict = at["every workload: times as fast as the plain loop"]
    assert (value, verdict) == (pytest.approx(1 / 1.3), "missed")
    assert at["every workload: the same with one core"][1] == "not measured"


# What is shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000463, "0.000463"),
        (0.1, "0.100"),
        (2.5, "2.50"),
        (89.44, "89.4"),
        (1234.5, "1,234"),
        (math.nan, "–"),
        (0, "0"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


@pytest.fixture
def measured():
    runs = {
        "fedlib": constant(1, explain="batched: tiny layers"),
        "plain": constant(3),
        "floor": constant(0.5),
        "flower": constant(4, cores=2),
    }
    cell = {"fedlib": constant(0.01), "plain": constant(0.02)}
    return {
        "workloads": {
            "scale-1000-10": entry_of(**cell),
            "scale-100-10": entry_of(**cell),
            "scale-100-1": entry_of(fedlib=constant(0.003), plain={"error": "it rained"}),
            "w": entry_of(**runs, pfllib={"skipped": "needs a checkout"}),
        }
    }


def test_tables_hold_what_was_measured_and_why_something_was_not(measured):
    w, scale = tables.workloads(measured)
    assert [row[0] for row in w.rows] == ["fedlib", "plain loop", "floor", "Flower"]
    assert w.rows[0][1:] == ["1.00", "3.00", "2.00", "300", "80.0%", "1", "10", "1.00–1.00", "9.00"]
    assert "PFLlib: needs a checkout." in w.notes
    assert "fedlib chose batched: tiny layers." in w.notes
    assert "commit 0123456789" in w.notes[-1]
    assert [row[:2] for row in scale.rows] == [["100", "1"], ["100", "10"], ["1,000", "10"]]
    assert scale.rows[0] == ["100", "1", "0.00300", "300", "–", "–"]
    text = tables.markdown(w)
    assert "| fedlib | 1.00 |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_figures_say_every_number_to_those_who_do_not_see_them(measured):
    fig, alt = plots.bars(measured)
    for words in ("fedlib 1.00 s (3.0× plain)", "plain loop 3.00 s", "floor 0.500 s", "Flower 4.00 s (0.75× plain)"):
        assert words in alt
    assert alt.index("floor") < alt.index("fedlib") < alt.index("Flower"), "fastest first"
    first = plots.svg(fig)
    assert first == plots.svg(plots.bars(measured)[0])
    fig, alt = plots.scale(measured)
    assert "fedlib, 10 sampled: 0.0100 s and 300 MB with 100 clients, 0.0100 s and 300 MB with 1,000 clients" in alt
    assert plots.svg(fig).startswith("<?xml")
    assert plots.bars({"workloads": {}}) is None
    assert plots.scale({"workloads": {}}) is None


def test_the_answer_is_two_sentences_that_are_computed(measured):
    def took(seconds, **more):
        return {
            "seconds": [[9.0, seconds, seconds]],
            "accuracy": [0.9],
            "memory_mb": [1.0],
            "steps": [1],
            "cores": 1,
            **more,
        }

    def entry(**contenders):
        return measured["workloads"]["w"] | {"contenders": {name: took(s) for name, s in contenders.items()}}

    found = {
        "workloads": {"w": entry(fedlib=1.0, plain=4.0, flower=3.0), "w2": entry(fedlib=2.0, plain=3.0, blazefl=1.5)}
    }
    assert tables.answer(found) == (
        "A round takes fedlib between 0.25 and 0.67 of a plain loop's time (2 workloads). "
        "Of its peers BlazeFL comes closest, on w2: it takes 0.75 times as long as fedlib."
    )
    assert tables.answer({"workloads": {"w": entry(fedlib=1.0, plain=2.0)}}) == (
        "A round takes fedlib 0.50 of a plain loop's time (w)."
    )
    assert tables.answer({"workloads": {"scale-1-1": entry(fedlib=1.0, plain=2.0), "w": entry(plain=2.0)}}) == ""


@pytest.fixture
def page():
    """The page's module, where what builds the website is installed."""
    return pytest.importorskip("book.site.benchmarks")


def test_the_page_without_results_says_how_to_get_them(page):
    words, command = page.drawn({"workloads": {}})
    assert "Nothing has been measured yet" in words.astext()
    assert command.astext() == "python -m benchmarks run"


def test_the_page_with_results_shows_tables_and_described_figures(measured, page):
    from docutils import nodes

    shown = nodes.container("", *page.drawn(measured))
    assert shown[0].astext() == tables.answer(measured)
    images = list(shown.findall(nodes.image))
    assert len(images) == 2
    assert all(image["uri"].startswith("data:image/svg+xml;base64,") and len(image["alt"]) > 80 for image in images)
    titles = [title.astext() for title in shown.findall(nodes.title)]
    assert [t.partition(":")[0] for t in titles] == ["Targets", "w", "scale"]
    assert "not measured" in shown.astext()


def test_the_page_names_commands_and_contenders_that_exist():
    text = (environments.ROOT / "book" / "pages" / "benchmarks.md").read_text()
    from typer.main import get_command

    commands = set(get_command(cli.app).commands)
    assert set(re.findall(r"python -m benchmarks ([a-z]+)", text)) <= commands
    for c in CONTENDERS.values():
        if not c.options:
            assert f"| {c.title} |" in text
    for name in re.findall(r"--workload ([\w-]+)", text):
        assert workloads.choose([name])


# The command line


def test_show_without_results_says_how_to_measure(tmp_path):
    done = CliRunner().invoke(cli.app, ["show", "--results", str(tmp_path / "none.json")])
    assert done.exit_code == 0
    assert "python -m benchmarks run" in done.output


def test_show_prints_tables_and_targets(tmp_path, measured):
    path = tmp_path / "r.json"
    results.write(measured, path)
    every = CliRunner().invoke(cli.app, ["show", "--results", str(path)]).output
    assert all(f"### {title}" in every for title in ("w: ", "scale: ", "Targets"))
    only = CliRunner().invoke(cli.app, ["show", "--targets", "--results", str(path)]).output
    assert "| w: times as fast as the plain loop | at least 2.5× | 3.00× | met |" in only
    assert "### w" not in only


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["run", "--workload", "mpl"], "there is no workload 'mpl'; did you mean 'mlp'?"),
        (["run", "--contender", "flwr"], "there is no contender 'flwr'; did you mean 'flower'?"),
        (["merge", "none.json"], "none.json does not exist"),
    ],
)
def test_faults_are_one_line_and_status_2(words, complaint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {complaint}")


def test_run_writes_what_it_measured_and_keeps_the_rest(tmp_path, monkeypatch, measured):
    path = tmp_path / "r.json"
    results.write(measured, path)

    def compare(workload, *_):
        if workload.name == "mlp":
            raise Skipped("it is Sunday")
        return entry_of(fedlib=constant(2.0))

    monkeypatch.setattr(cli, "compare", compare)
    words = ["run", "--workload", "w", "--workload", "mlp", "--contender", "fedlib", "--results", str(path)]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0
    assert "mlp: skipped, it is Sunday" in done.output
    kept = results.read(path)["workloads"]
    assert kept["w"]["contenders"] == {"fedlib": constant(2.0)}
    assert "mlp" not in kept
    assert kept["scale-100-1"] == measured["workloads"]["scale-100-1"]


def test_merge_takes_workloads_of_another_machine_in(tmp_path, measured):
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    results.write(measured, here)
    results.write({"workloads": {"resnet-gpu": entry_of(fedlib=constant(1))}}, there)
    assert CliRunner().invoke(cli.app, ["merge", str(there), "--results", str(here)]).exit_code == 0
    assert results.read(here)["workloads"].keys() == measured["workloads"].keys() | {"resnet-gpu"}


def test_forced_executors_are_those_of_fedlib():
    forced = {c.options["executor"] for c in CONTENDERS.values() if c.ours}
    assert forced == set(choice.NAMES) - {"ray"}


def test_every_worker_is_a_contenders():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "workers"
    names = {p.stem for p in path.glob("*.py")} - {"__init__", "__main__", "local"}
    assert names == {c.worker for c in CONTENDERS.values()}
