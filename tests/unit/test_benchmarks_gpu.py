"""The benchmark of a GPU, rehearsed: what it compares and times, that it finds what is wrong, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import math
import runpy
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tape import count, tapes  # noqa: F401
from torch import nn
from torch.nn.functional import relu
from typer.testing import CliRunner

from benchmarks import cli, results, tables, targets
from benchmarks.errors import BenchmarkError
from benchmarks.gpu import equality, floors, parts, rates, report, setting, variants
from benchmarks.gpu.parts import Case, Part
from benchmarks.gpu.setting import TINY, Bench, NeedsCuda
from fedlib import batched, choice, precision, rng, stacking
from fedlib.algorithms import FedAvg
from fedlib.models import MLP, Net, ResNet8, SmallCNN

BENCH = Bench(torch.device("cpu"), TINY)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """The whole command on the CPU, once: what it said, its status, and its file."""
    path = tmp_path_factory.mktemp("gpu") / "r.json"
    done = CliRunner().invoke(cli.app, ["gpu", "--device", "cpu", "--seconds", "900", "--results", str(path)])
    return SimpleNamespace(output=done.output, status=done.exit_code, path=path)


def test_a_rehearsal_tries_everything_and_says_what_needs_a_gpu(rehearsal):
    assert rehearsal.status == 0, rehearsal.output
    entry = results.read(rehearsal.path)["gpu"]
    assert entry["device"] == "cpu"
    assert entry["parts"].keys() == {part.name for part in parts.PARTS}
    assert {part["status"] for part in entry["parts"].values()} == {"passed"}
    for part in entry["parts"].values():
        assert f"{part['title']} (passed)" in rehearsal.output
        for row in part["rows"]:
            assert row.get("note") == "needs CUDA" or row.get("passed") or row["ms"] > 0, row
            assert "steps" not in row or row["steps"] == "", "a CPU captures nothing, and remarks are notes"
    rows = [row for name in ("rates", "floors", "variants") for row in entry["parts"][name]["rows"]]
    assert {row["precision"] for row in rows} == {"float32", "tf32 (here: float32)", "bf16"}
    traffic = [row["note"] for row in rows if row.get("way") == "memory traffic"]
    assert len(traffic) == 4
    assert all(note.endswith("TB/s") for note in traffic)
    assert any(row.get("note") == "needs CUDA" for row in rows)


def test_what_was_rehearsed_is_shown_and_meets_no_target(rehearsal):
    shown = CliRunner().invoke(cli.app, ["show", "--results", str(rehearsal.path)]).output
    assert "### GPU, equality: Executors against sequential (passed)" in shown
    assert "(a rehearsal, in tiny sizes)" in shown
    assert {t.verdict for t in targets.targets(results.read(rehearsal.path))} == {"not measured"}


def test_without_a_gpu_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmarks", "gpu"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: device 'cuda' is not available here")


def test_a_rehearsal_leaves_no_file_unless_told_to(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "PATH", tmp_path / "r.json")
    monkeypatch.setattr(parts, "play", partial(parts.play, parts=(Part("one", "One", 1, lambda bench: []),)))
    done = CliRunner().invoke(cli.app, ["gpu", "--device", "cpu"])
    assert "a rehearsal: nothing is written" in done.output
    assert done.exit_code == 1, "parts are missing"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["no folder", "no results", "a folder"])
def test_a_file_that_cannot_be_used_is_found_before_anything_is_tried(broken, monkeypatch, tmp_path, capsys):
    path = {"no folder": tmp_path / "none" / "r.json", "no results": tmp_path / "r.json", "a folder": tmp_path}[broken]
    if broken == "no results":
        path.write_text("[]")
    monkeypatch.setattr(parts, "play", lambda *given: pytest.fail("something was tried"))
    monkeypatch.setattr("sys.argv", ["benchmarks", "gpu", "--device", "cpu", "--results", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"error: {path} ")


def test_results_that_were_there_are_kept_while_the_file_is_tried(monkeypatch, tmp_path):
    path = tmp_path / "r.json"
    results.write({"workloads": {}, "gpu": entry(RATED)}, path)
    monkeypatch.setattr(parts, "play", lambda *given: iter([entry([])]))
    CliRunner().invoke(cli.app, ["gpu", "--device", "cpu", "--results", str(path)])
    assert results.read(path)["gpu"] == entry([])
    monkeypatch.setattr(parts, "play", lambda *given: exec("raise KeyboardInterrupt"))
    results.write({"workloads": {}, "gpu": entry(RATED)}, path)
    CliRunner().invoke(cli.app, ["gpu", "--device", "cpu", "--results", str(path)])
    assert results.read(path)["gpu"] == entry(RATED)


def test_workloads_that_are_in_the_file_stay_there(monkeypatch, tmp_path):
    path = tmp_path / "r.json"
    workload = {
        "data": "digits", "rounds": 2, "test_samples": 100,
        "contenders": {"plain": {"skipped": "no time"}, "fedlib": {"error": "it rained"}},
    }  # fmt: skip
    results.write({"workloads": {"W": workload}}, path)
    monkeypatch.setattr(parts, "play", lambda *given: iter([entry([]), entry(RATED)]))
    CliRunner().invoke(cli.app, ["gpu", "--device", "cpu", "--results", str(path)])
    assert results.read(path) == {"workloads": {"W": workload}, "gpu": entry(RATED)}


def test_when_time_runs_out_the_last_line_says_so(monkeypatch):
    monkeypatch.setattr(parts, "one_part", lambda part, bench, due: one(part, left=2 * (part.name == "equality")))
    done = CliRunner().invoke(cli.app, ["gpu", "--device", "cpu", "--seconds", "7"])
    assert done.exit_code == 1
    last = "time ran out before all checks were made (equality): raise --seconds, which was 7"
    assert done.output.splitlines()[-1] == last
    monkeypatch.setattr(parts, "one_part", lambda part, bench, due: one(part, left=2 * (part.name == "rates")))
    done = CliRunner().invoke(cli.app, ["gpu", "--device", "cpu", "--seconds", "7"])
    assert done.exit_code == 0, "rates are no checks"
    assert "time ran out" not in done.output


def one(part, left):
    status = "unfinished" if left else "passed"
    return {"title": part.title, "status": status, "left": left, "rows": [], "seconds": 1.0}


def start(monkeypatch, missing):
    """`python -m benchmarks --help` where a module is missing."""
    for name in [n for n in sys.modules if n.startswith("benchmarks")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--help"])
    runpy.run_module("benchmarks", run_name="__main__")


def test_a_package_that_is_not_installed_is_named_in_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        start(monkeypatch, "typer")
    assert ended.value.code == 2
    python = Path(sys.executable).name
    assert capsys.readouterr().err == f"error: {python} lacks typer; make setup installs everything into .venv\n"


@pytest.mark.parametrize("missing", ["benchmarks.contenders", "difflib"])
def test_a_module_that_should_be_there_is_a_fault_with_its_traceback(missing, monkeypatch):
    with pytest.raises(ModuleNotFoundError, match=missing):
        start(monkeypatch, missing)


# The playing of parts


def case(name, answer):
    def find():
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Case({"setting": name}, find)


def played(*cases, needed=True, due=math.inf):
    part = Part("p", "P", 1, lambda bench: list(cases), needed)
    return parts.one_part(part, BENCH, due)


def test_a_failure_is_reported_and_ends_nothing():
    found = played(
        case("a", ValueError("it rained\nand rained")), case("b", {"ms": 1.0}), case("c", NeedsCuda()), needed=False
    )
    assert found["status"] == "failed"
    assert found["rows"] == [
        {"setting": "a", "passed": False, "note": "ValueError: it rained"},
        {"setting": "b", "ms": 1.0},
        {"setting": "c", "note": "needs CUDA"},
    ]


def test_one_difference_too_large_fails_its_part():
    assert played(case("a", {"passed": True}), case("b", {"passed": True}))["status"] == "passed"
    assert played(case("a", {"passed": True}), case("b", {"passed": False}))["status"] == "failed"


def test_what_time_does_not_allow_is_counted_and_no_failure():
    late = partial(played, case("a", {"ms": 1.0}), case("b", {"ms": 1.0}), due=0.0)
    assert [late(needed=needed)["status"] for needed in (True, False)] == ["unfinished", "unfinished"]
    assert (late()["left"], late()["rows"]) == (2, [])
    assert report.title("rates", late(needed=False)) == "GPU, rates: P (unfinished, 2 not tried)"


def test_time_that_a_part_leaves_is_the_next_ones(monkeypatch):
    due = []
    monkeypatch.setattr(parts, "one_part", lambda part, bench, until: due.append(until) or {})
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    three = tuple(Part(name, name, share, lambda bench: []) for name, share in (("a", 1), ("b", 2), ("c", 1)))
    entries = [set(entry["parts"]) for entry in parts.play(BENCH, 80, three)]
    assert due == [120, 160, 180]
    assert len(entries) == 3


def test_a_part_keeps_half_its_time_when_the_one_before_took_too_long(monkeypatch):
    now, due = [100.0], []

    def play(part, bench, until):
        due.append(until)
        now[0] += {"a": 70.0, "b": 5.0, "c": 0.0}[part.name]
        return {}

    monkeypatch.setattr(parts, "one_part", play)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    three = tuple(Part(name, name, share, lambda bench: []) for name, share in (("a", 1), ("b", 2), ("c", 1)))
    list(parts.play(BENCH, 80, three))
    # a ends at 170 instead of 120: b has half of its 40 seconds; b ends at 175: c has half of its 20 seconds
    assert due == [120, 190, 185]


def test_no_part_may_be_missing_or_failed_and_checks_must_be_finished():
    def but(name="", **said):
        good = {part.name: {"status": "passed", "left": 0} for part in parts.PARTS}
        return {"parts": good | ({name: said} if name else {})}

    assert parts.all_passed(but())
    assert parts.all_passed(but("rates", status="unfinished", left=3))
    assert not parts.all_passed(but("equality", status="unfinished", left=3))
    assert not parts.all_passed(but("rates", status="failed", left=0))
    assert not parts.all_passed({"parts": {}})
    assert parts.out_of_time(but("gradients", status="failed", left=1)) == ["gradients"]


def test_no_type_is_lost_when_time_runs_out_half_way():
    kinds = [c.what["type"] for c in parts.PARTS[0].cases(BENCH)]
    assert kinds[:4] == ["float64", "float32"] * 2
    half = kinds[: len(kinds) // 2]
    assert abs(half.count("float64") - half.count("float32")) <= 1
    assert len(kinds) == len(equality.SETTINGS) + equality.ROUNDED


def test_a_column_names_the_precision_that_is_in_effect(monkeypatch):
    monkeypatch.setattr(precision, "in_effect", lambda asked, device: f"{asked} on {device}")
    for part in parts.PARTS[2:]:
        assert {c.what["precision"] for c in part.cases(BENCH)} <= {f"{p} on cpu" for p in setting.PRECISIONS}


# Equality and gradients: they see what is wrong


@pytest.fixture
def crooked(monkeypatch):
    """The batched executor takes steps that are too long by a millionth, or by what the test says."""

    def plant(share):
        straight = choice.batched

        def longer(net, tasks, objective, optimiser, lr):
            return straight(net, tasks, objective, optimiser, lr * (1 + share))

        monkeypatch.setattr(choice, "batched", longer)

    return plant


@pytest.mark.parametrize("name", ["FedAvg", "SCAFFOLD", "BatchNorm, even clients", "MOON, not captured"])
def test_executors_that_differ_by_a_millionth_of_a_step_are_found_out(name, crooked):
    (one,) = (s for s in equality.SETTINGS if s.name == name)
    assert equality.executors(BENCH, one, torch.float64)["passed"]
    crooked(1e-6)
    found = equality.executors(BENCH, one, torch.float64)
    assert not found["passed"]
    assert found["difference"] > found["allowed"]


@pytest.mark.usefixtures("tapes")
@pytest.mark.parametrize("name", ["FedAvg", "BatchNorm", "MOON"])
def test_settings_are_compared_with_captured_steps_and_without(name):
    both = {s.captured: s for s in equality.SETTINGS if s.name in (name, f"{name}, not captured")}
    assert both[False] == replace(both[True], name=f"{name}, not captured", captured=False)
    plain = equality.executors(BENCH, both[False], torch.float64)
    assert count() == (0, 0)
    caught = equality.executors(BENCH, both[True], torch.float64)
    captures, replays = count()
    assert min(captures, replays) > 0
    assert plain["passed"]
    assert caught["passed"]
    assert plain["steps"] == "steps not captured: fedlib.batched.CAPTURE is off"
    assert caught["steps"].startswith("steps captured")


def test_on_a_gpu_steps_that_are_not_captured_are_a_failure(monkeypatch):
    setting = next(s for s in equality.SETTINGS if s.name == "FedAvg")
    monkeypatch.setattr(Bench, "cuda", True)
    for steps, passed in (("steps captured (1 graph)", True), ("steps not captured: no", False), ("", False)):
        monkeypatch.setattr(equality, "steps_of", lambda net, steps=steps: steps)
        found = equality.executors(BENCH, setting, torch.float64)
        assert found["passed"] == passed
        assert ("should have been captured" in found.get("note", "")) != passed


def test_a_step_that_is_no_gradient_is_found_out(crooked):
    assert equality.gradient(BENCH, lambda: SmallCNN(3, 8), equality.UNEVEN)["passed"]
    crooked(1e-4)
    assert not equality.gradient(BENCH, lambda: SmallCNN(3, 8), equality.UNEVEN)["passed"]


def test_the_difference_looks_at_everything_that_is_kept():
    def kept(weight=1.0, count=3, own=2.0, loss=0.5):
        state = {"w": torch.tensor([1.0, weight, 4.0]), "n": torch.tensor(count)}
        return SimpleNamespace(state=state, own={0: {"c": torch.tensor([own])}}, history=[{"loss": loss}])

    assert equality.difference(kept(), kept()) == 0
    assert equality.difference(kept(), kept(weight=1.4)) == pytest.approx(0.1)
    assert equality.difference(kept(), kept(own=2.2)) == pytest.approx(0.1)
    assert equality.difference(kept(), kept(loss=0.75)) == pytest.approx(0.25)
    assert equality.difference(kept(), kept(count=4)) == 1
    assert equality.difference(kept(), kept(weight=math.nan)) == math.inf


def test_every_kind_of_setting_is_among_those_compared():
    names = {s.name for s in equality.SETTINGS}
    assert {"FedAvg", "FedProx", "SCAFFOLD", "MOON", "FedNTD", "BatchNorm", "momentum, decay", "augmentation"} <= names
    assert {s.name for s in equality.SETTINGS[: equality.ROUNDED]} >= {"FedAvg", "BatchNorm", "augmentation"}


# Rates


def test_a_rate_is_the_median_round_without_comparisons_shared_out_over_steps(monkeypatch):
    clock = iter(range(1000))
    lengths = {0: 50.0, 1: 20.0, 2: 20.0, 3: 2.0, 4: 20.0, 5: 3.0, 6: 4.0, 7: 5.0}
    now = [0.0]

    def together(feds, rounds):
        assert (len(feds), rounds) == (3, 1)
        now[0] += lengths[next(clock)]

    monkeypatch.setattr(rates, "together", together)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    patient = Bench(BENCH.device, setting.Sizes(8, 4, 2, (2, 3), patience=1e9))
    found = rates.rate(patient, rates.Setting("MLP", seeds=3))
    # median of rounds 3, 5, 6, 7; two clients of three seeds take two steps each
    assert found["ms"] == pytest.approx(1e3 * 3.5 / 12)
    assert found["mb"] is None


@pytest.mark.parametrize(("length", "rounds"), [(0.01, 8), (0.09, 7), (0.15, 6), (0.3, 4)])
def test_rounds_with_comparisons_take_no_patience_from_the_others(length, rounds, monkeypatch):
    now, number = [0.0], iter(range(100))

    def together(feds, rounds):
        now[0] += 50.0 if next(number) in (0, 1, 2, 4) else length

    monkeypatch.setattr(rates, "together", together)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = rates.rate(BENCH, rates.Setting("MLP"))
    assert next(number) == rounds, "of rounds 3, 5, 6 and 7, as many as 0.2 seconds allow"
    assert found["ms"] == pytest.approx(1e3 * length / 4)


def test_a_rate_that_takes_long_stops_at_the_first_round_that_counts(monkeypatch):
    calls, now = [], [0.0]

    def together(feds, rounds):
        calls.append(rounds)
        now[0] += len(calls)

    monkeypatch.setattr(rates, "together", together)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = rates.rate(BENCH, rates.Setting("MLP", "sequential", "float32"))
    assert len(calls) == 4
    assert found["ms"] == pytest.approx(1e3 * 4 / 2)  # two clients, one step each


def test_what_is_wanted_most_is_timed_first_and_nothing_twice():
    found = rates.settings()
    assert len(set(found)) == len(found)
    assert {s.network for s in found[:3]} == {"ResNet8"}
    assert {s.precision for s in found[:3]} == set(setting.PRECISIONS)
    assert {s.way for s in found} == {"batched", "eager", "sequential"}


@pytest.mark.parametrize("precision", setting.PRECISIONS)
def test_the_precision_reaches_the_federation(precision):
    x, y = setting.images(BENCH, 8)
    local, split = rates.Local(1, 4, 0.1), list(torch.arange(8).split(4))
    fed = setting.federation(
        BENCH, ResNet8, (x, y, split), FedAvg(), "batched", local, precision=precision, prepare=setting.prepare
    )
    assert fed.net.precision == precision


def test_switches_are_as_before_afterwards(monkeypatch):
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    with contextlib.suppress(KeyError), variants.searching(True):
        assert cudnn.benchmark is True
        raise KeyError
    assert cudnn.benchmark == before
    monkeypatch.setattr(batched, "CAPTURE", True)
    for wanted in (True, False):
        with contextlib.suppress(KeyError), setting.eager(wanted):
            assert batched.CAPTURE is not wanted
            raise KeyError
        assert batched.CAPTURE is True


def test_a_network_trained_by_hand_gets_the_settings_of_its_precision(monkeypatch):
    told = []

    class Precise:
        def __init__(self, module, device, dtype, precision):
            self.precision = precision

        def arithmetic(self):
            told.append(self.precision)
            return contextlib.nullcontext()

    monkeypatch.setattr(setting, "Net", Precise)
    floors.plain_loop(BENCH, "MLP", "tf32")
    floors.one_network(BENCH, "MLP", "bf16", False)
    assert told == ["tf32", "bf16"]


# Floors and variants


def test_a_capture_warms_up_beside_the_main_stream_and_is_then_replayed(monkeypatch):
    """torch.cuda, as far as a capture needs it, noting what happens on which stream."""
    happened = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            happened.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def on(what):
        happened.append(f"on {what}")
        yield
        happened.append(f"off {what}")

    class Graph:
        def replay(self):
            happened.append("replay")

    main = Stream("main")
    fake = SimpleNamespace(
        Stream=lambda device: Stream(),
        current_stream=lambda device: main,
        stream=lambda s: on(s.name),
        CUDAGraph=Graph,
        graph=lambda g: on("graph"),
    )
    monkeypatch.setattr(torch, "cuda", fake)
    replay = setting.captured(Bench(torch.device("cuda")), lambda: happened.append("step"))
    replay()
    warm = ["side waits for main", "on side", "step", "step", "step", "off side", "main waits for side"]
    assert happened == [*warm, "on graph", "step", "off graph", "replay"]


def test_only_a_gpu_captures():
    with pytest.raises(NeedsCuda):
        setting.captured(BENCH, lambda: None)


def test_parts_that_need_a_gpu_run_with_a_stand_in_for_the_capture(monkeypatch):
    captures = []

    def stand_in(bench, step):
        captures.append(step)
        return step

    monkeypatch.setattr(floors, "captured", stand_in)
    monkeypatch.setattr(variants, "captured", stand_in)
    for last in (False, True):
        assert floors.one_network(BENCH, "ResNet8", "bf16", True, last)["ms"] > 0
    launched = variants.launches(BENCH, "SmallCNN", 4)
    assert launched["ms"] > 0
    assert launched["note"].endswith("ms of the host's")
    assert len(captures) == 3


def test_a_captured_step_is_a_step_of_gradient_descent():
    net = nn.Linear(4, 3).double()
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    before = net.weight.detach().clone()
    error = (net(x).softmax(1) - nn.functional.one_hot(y, 3)).T @ x / 5
    step = setting.train_step(BENCH, net, x, y, "float32")
    step()
    # the loss is taken in float32, as under autocast
    assert torch.allclose(net.weight, before - 1e-4 * error, rtol=0, atol=1e-10)
    assert not torch.equal(net.weight, before)


@pytest.mark.parametrize("channels", [4, 8])
def test_a_padded_first_convolution_is_the_same_function(channels):
    plain, padded = rng.build(ResNet8, 3).double(), variants.Padded(channels).double()
    wide = plain.state_dict()
    stem = torch.randn(16, channels, 3, 3, dtype=torch.float64)
    stem[:, :3] = wide["stem.0.weight"]
    padded.net.load_state_dict(wide | {"stem.0.weight": stem})
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    assert torch.allclose(padded(x), plain(x), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(padded(x).square().sum(), padded.net.stem[0].weight)
    (expected,) = torch.autograd.grad(plain(x).square().sum(), plain.stem[0].weight)
    assert torch.allclose(gradient[:, :3], expected, rtol=0, atol=1e-10)
    assert float(gradient[:, 3:].abs().max()) == 0


@pytest.mark.parametrize("change", variants.CHANGES)
def test_every_change_has_a_stacked_form(change):
    net = Net(rng.build(variants.CHANGES[change], 0))
    assert stacking.faithful(net, torch.randn(1, 3, 8, 8))


def test_channels_last_is_the_same_function():
    plain, last = rng.build(ResNet8, 3), variants.ChannelsLast()
    last.net.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(last(x), plain(x), atol=1e-5)


def test_kept_bytes_count_every_activation_once(monkeypatch):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(192, 7, bias=False), nn.Linear(7, 10, bias=False)

        def forward(self, x):
            h = relu(self.body(x.flatten(1)))
            return self.head(h)

    monkeypatch.setattr(floors, "network", lambda bench, name: Small)
    batch = TINY.batch
    # inputs; what ReLU and the head keep, which is one tensor; log-probabilities, labels, and the sum of their weights
    expected = 4 * batch * (192 + 7 + 10) + 8 * batch + 4
    assert floors.kept_bytes(BENCH, "small", "float32") == expected
    monkeypatch.setattr(floors, "bandwidth", lambda bench: 1e6)
    assert floors.memory_traffic(BENCH, "small", "float32")["ms"] == pytest.approx(5 * expected / 1e3)


def test_bandwidth_counts_bytes_read_and_written(monkeypatch):
    monkeypatch.setattr(Bench, "seconds", lambda bench, call: 0.5)
    assert floors.bandwidth(BENCH) == 2 * TINY.copied / 0.5


def test_seconds_are_of_one_call(monkeypatch):
    now, calls = [0.0], []

    def call():
        calls.append(0)
        now[0] += 0.25

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert Bench(BENCH.device, setting.Sizes(patience=2.5)).seconds(call) == pytest.approx(0.25)
    assert len(calls) == 2 + 1 + 3, "two warm up, one says how many fit, the rest are timed"


@pytest.mark.parametrize("name", ["ResNet8", "SmallCNN", "MLP"])
def test_every_network_takes_the_benchs_images(name):
    x, y = floors.batch(BENCH, 2)
    assert floors.module(BENCH, name)(x).shape == (len(y), 10) == (2 * TINY.batch, 10)
    assert isinstance(floors.module(BENCH, "MLP")[1], MLP)


# What is left of it


def entry(rows, device="cuda"):
    described = {"cpu": "a CPU", "cores": 2, "memory_gb": 8.0, "system": "Linux", "gpu": "a card"}
    described |= {"date": "2026-01-02 03:04 UTC", "commit": "0123456789", "dirty": False}
    part = {"title": "Rates", "status": "passed", "left": 0, "rows": rows, "seconds": 1.0}
    return {
        "machine": described,
        "device": device,
        "versions": {"torch": "2"},
        "seconds": 9.0,
        "parts": {"rates": part},
    }


def rated(ms, network="ResNet8", way="batched", precision="tf32", clients=8, seeds=1, augmented="no"):
    what = {"network": network, "way": way, "precision": precision, "clients": clients, "seeds": seeds}
    return what | {"crop and flip": augmented} | ({} if ms is None else {"ms": ms})


RATED = [
    rated(0.45),
    rated(0.33, precision="bf16"),
    rated(0.6, precision="float32"),
    rated(0.01, augmented="yes"),
    rated(0.02, clients=32),
    rated(0.03, seeds=3),
    rated(0.99, way="eager", precision="float32"),
    rated(None, way="eager"),
    rated(0.11, network="SmallCNN"),
]


def test_targets_look_at_few_clients_of_one_seed_at_tf32_or_bf16():
    at = {t.statement: (t.value, t.verdict) for t in targets.targets({"workloads": {}, "gpu": entry(RATED)})}
    assert at["GPU: a client's step of ResNet-8 at TF32 or bf16"] == (0.33, "met")
    assert at["GPU: the same, times as fast as eager steps"] == (pytest.approx(3.0), "met")
    assert at["GPU: a client's step of SmallCNN"] == (0.11, "missed")
    elsewhere = targets.targets({"workloads": {}, "gpu": entry(RATED, device="cpu")})
    assert {t.verdict for t in elsewhere} == {"not measured"}


def test_a_table_has_a_column_for_whatever_a_row_says():
    (table,) = tables.gpu({"workloads": {}, "gpu": entry([rated(0.45), {"network": "MLP", "note": "it rained"}])})
    assert table.head == ["network", "way", "precision", "clients", "seeds", "crop and flip", "ms", "note"]
    assert table.rows[1] == ["MLP", "", "", "", "", "", "", "it rained"]
    assert table.rows[0][-2] == "0.450"
    assert table.notes == ["a card. torch 2. 9 s. 2026-01-02 03:04 UTC, commit 0123456789."]
    assert tables.gpu({"workloads": {}}) == []


def test_a_part_of_which_nothing_was_tried_is_a_table_that_says_so():
    given = {"workloads": {}, "gpu": entry([])}
    (table,) = tables.gpu(given)
    assert (table.head, table.rows) == (["note"], [["nothing was tried"]])
    page, nodes = pytest.importorskip("book.site.benchmarks"), pytest.importorskip("docutils.nodes")
    shown = nodes.container("", *page.drawn(given))
    assert [group["cols"] for group in shown.findall(nodes.tgroup)] == [4, 1]


def test_an_entry_of_another_form_is_refused_by_name(tmp_path):
    path = tmp_path / "r.json"
    for broken in ({}, [], entry([3]), entry([]) | {"parts": {"rates": {}}}, entry([]) | {"machine": {}}):
        path.write_text(json.dumps({"workloads": {}, "gpu": broken}))
        with pytest.raises(BenchmarkError, match=r"r\.json is not a file of results"):
            results.read(path)


def test_merge_takes_the_gpus_entry_in_and_keeps_it(tmp_path):
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    results.write({"workloads": {}, "gpu": entry(RATED)}, there)
    results.write({"workloads": {}}, here)
    assert CliRunner().invoke(cli.app, ["merge", str(there), "--results", str(here)]).exit_code == 0
    assert results.read(here)["gpu"] == entry(RATED)
    results.write({"workloads": {}}, there)
    assert CliRunner().invoke(cli.app, ["merge", str(there), "--results", str(here)]).exit_code == 0
    assert results.read(here)["gpu"] == entry(RATED)


def test_the_page_shows_a_gpus_tables():
    page = pytest.importorskip("book.site.benchmarks")
    nodes = pytest.importorskip("docutils.nodes")
    shown = nodes.container("", *page.drawn({"workloads": {}, "gpu": entry(RATED)}))
    titles = [title.astext() for title in shown.findall(nodes.title)]
    assert titles == ["Targets", "GPU, rates: Rates (passed)"]
    assert "a card. torch 2." in shown.astext()
