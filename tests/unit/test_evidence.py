"""Intervals against scipy; what a run accepts and publishes."""

import json
import math
import platform

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st
from scipy import stats

from fedlib import evidence

numbers = st.floats(-100, 100).map(lambda v: round(v, 3))
samples = st.lists(numbers, min_size=2, max_size=8)


@given(samples)
def test_interval_is_students(values):
    assume(np.std(values) > 1e-6)
    seen = evidence.interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert seen.mean == pytest.approx(np.mean(values))
    assert (seen.low, seen.high) == pytest.approx((low, high))
    assert seen.sd == pytest.approx(np.std(values, ddof=1))


def test_one_seed_says_nothing_about_spread():
    seen = evidence.interval([0.5])
    assert (seen.low, seen.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("bad", [[], [math.nan], [1.0, math.inf]])
def test_nothing_and_infinity_have_no_interval(bad):
    with pytest.raises(ValueError, match="at least one value"):
        evidence.interval(bad)


def test_paired_differences_use_the_seeds_that_both_have():
    assert evidence.paired({"0": 3.0, "1": 5.0, "2": 1.0}, {"1": 1.0, "0": 2.0}) == [1.0, 4.0]
    with pytest.raises(ValueError, match="no seed in common"):
        evidence.paired({"0": 1.0}, {"1": 1.0})


def test_a_run_refuses_what_would_be_a_silent_lie():
    run = evidence.Run("quick", range(2))
    run.record("a", 0, 1)
    for metric, seed, value, message in [
        ("a", 0, 1.0, "recorded already"),
        ("a", 7, 1.0, "not one of this run's seeds"),
        ("b", 0, math.nan, "not a finite number"),
    ]:
        with pytest.raises(ValueError, match=message):
            run.record(metric, seed, value)
    with pytest.raises(ValueError, match=r"a \(seeds 1\)"):
        run.publish()
    with pytest.raises(KeyError, match="recorded: a"):
        run.values("accuracy")


def test_evidence_names_metrics_modules_and_versions():
    run = evidence.Run("quick", [4, 5])
    for s in run.seeds:
        run.record("accuracy/x", s, s / 10)
    content = json.loads(json.dumps(run.evidence()))
    assert content["metrics"] == {"accuracy/x": {"4": 0.4, "5": 0.5}}
    assert "fedlib.evidence" in content["modules"]
    assert "fedlib" in content["modules"], "what a package offers is part of what a run depends on"
    assert content["seeds"] == [4, 5]
    assert run.table() == "accuracy/x  0.450  sd 0.071  n=2"


def test_once_computes_once_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_RESUME", str(tmp_path / "kept"))
    monkeypatch.setenv("FEDLIB_PROGRESS", str(tmp_path / "line"))
    calls = []

    def compute():
        calls.append(1)
        return {"curve": (1.0, 2.0)}

    first = evidence.Run("quick", [0]).once("feddf/0", compute)
    again = evidence.Run("quick", [0]).once("feddf/0", compute)
    assert first == again == {"curve": [1.0, 2.0]}
    assert len(calls) == 1
    assert "feddf/0" in (tmp_path / "line").read_text()
    (damaged,) = (tmp_path / "kept").iterdir()
    damaged.write_text('{"resu')
    assert evidence.Run("quick", [0]).once("feddf/0", compute) == first
    assert len(calls) == 2
    evidence.Run("quick", [0]).once("feddf:0", compute)
    assert len(calls) == 3, "keys that differ must not share a file"


def test_each_asks_for_the_seeds_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_RESUME", str(tmp_path / "kept"))
    asked = []

    def compute(seeds):
        asked.append(list(seeds))
        return [(s, "done") for s in seeds]

    assert evidence.Run("quick", [4]).once("line/4", lambda: "kept by once") == "kept by once"
    run = evidence.Run("quick", [3, 4, 5, 6])
    assert run.each("line", compute) == {3: [3, "done"], 4: "kept by once", 5: [5, "done"], 6: [6, "done"]}
    assert asked == [[3, 5, 6]]
    assert evidence.Run("quick", [3, 4, 5, 6]).each("line", compute)[6] == [6, "done"]
    assert asked == [[3, 5, 6]], "a second run has nothing to compute"
    assert list(run.each("other", compute, seeds=[6, 5, 3], at_once=2)) == [6, 5, 3]
    assert asked[1:] == [[6, 5], [3]]


def test_a_key_used_twice_is_an_error(tmp_path, monkeypatch):
    """The second setting would be answered by the first one's result, kept on disk or not."""
    run = evidence.Run("quick", [0, 1])
    run.once("rate 0.1/0", lambda: 1)
    with pytest.raises(ValueError, match=r"'rate 0\.1/0' is used twice"):
        run.once("rate 0.1/0", lambda: 2)
    with pytest.raises(ValueError, match=r"'rate 0\.1/0' is used twice"):
        run.each("rate 0.1", lambda seeds: [3 for _ in seeds])
    run.each("other", lambda seeds: [3 for _ in seeds], seeds=[0])
    run.each("other", lambda seeds: [3 for _ in seeds], seeds=[1])
    with pytest.raises(ValueError, match="'other/1' is used twice"):
        run.once("other/1", lambda: 4)


EDITS = {
    "its number": ('"result": 0.5', '"result": 0.9'),
    "its key": ('"key": "score/0"', '"key": "score/1"'),
    "its checksum": ('"sha256": "', '"sha256": "0'),
    "its form": ('{"key"', '[{"key"'),
    "its end": ("}", ""),
}


@pytest.mark.parametrize(("old", "new"), EDITS.values(), ids=EDITS.keys())
def test_a_kept_result_that_was_edited_is_computed_again(tmp_path, monkeypatch, old, new):
    monkeypatch.setenv("FEDLIB_RESUME", str(tmp_path))
    assert evidence.Run("quick", [0]).once("score/0", lambda: 0.5) == 0.5
    assert evidence.Run("quick", [0]).once("score/0", lambda: 0.7) == 0.5, "kept"
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert evidence.Run("quick", [0]).once("score/0", lambda: 0.7) == 0.7


def test_a_result_kept_for_another_key_does_not_serve(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_RESUME", str(tmp_path))
    first = evidence.Run("quick", [0])
    first.once("ours/0", lambda: 0.9)
    first.once("base/0", lambda: 0.1)
    ours, base = (next(tmp_path.glob(f"{name}*")) for name in ("ours", "base"))
    base.write_bytes(ours.read_bytes())
    assert evidence.Run("quick", [0]).once("base/0", lambda: 0.1) == 0.1


def test_evidence_names_the_processor_whose_bits_these_are():
    from fedlib import devices

    devices.pick("cpu")
    kind = devices.processor()
    assert evidence.Run("quick", [0]).evidence()["processor"] == kind
    assert platform.machine() in kind
    assert torch.backends.cpu.get_cpu_capability() in kind


def test_each_refuses_too_few_results():
    with pytest.raises(ValueError):
        evidence.Run("quick", [0, 1]).each("line", lambda seeds: [1])


def test_what_a_killed_run_had_finished_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_RESUME", str(tmp_path / "kept"))

    def killed(seeds):
        if seeds == [1]:
            raise KeyboardInterrupt
        return [f"seed {s}" for s in seeds]

    with pytest.raises(KeyboardInterrupt):
        evidence.Run("real", [0, 1, 2]).each("line", killed, at_once=1)
    found = evidence.Run("real", [0, 1, 2]).each("line", lambda seeds: [f"again {s}" for s in seeds], at_once=1)
    assert found == {0: "seed 0", 1: "again 1", 2: "again 2"}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_share_the_seeds_out(monkeypatch, count):
    """Every seed in one part, whatever the number of parts; a part without a seed says so."""
    seen = []
    for number in range(1, count + 1):
        monkeypatch.setenv("FEDLIB_PART", f"{number}/{count}")
        if number > 4:
            with pytest.raises(evidence.NothingToDo, match="part 5/5"):
                evidence.Run("quick", range(3, 7))
        else:
            seen += evidence.Run("quick", range(3, 7)).seeds
    assert sorted(seen) == [3, 4, 5, 6]


NO_NUMBERS = {"a text": (0, "1.5"), "half a seed": (0.7, 1.0), "a seed in words": ("0", 1.0)}


@pytest.mark.parametrize(("seed", "value"), NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
def test_what_is_no_number_or_no_seed_is_refused(seed, value):
    with pytest.raises(TypeError):
        evidence.Run("quick", [0, 1]).record("m", seed, value)


def test_numbers_of_numpy_are_numbers_and_keep_all_digits():
    run = evidence.Run("quick", np.arange(2))
    run.record("m", np.int64(1), np.float64(1 / 3))
    assert run.evidence()["metrics"] == {"m": {"1": 1 / 3}}


@pytest.mark.parametrize(
    ("profile", "seeds", "message"),
    [("qick", [0], "'qick' is unknown"), ("quick", [0, 0], "each once"), ("quick", [], "at least one seed")],
)
def test_a_run_that_cannot_be_is_refused(profile, seeds, message):
    with pytest.raises(ValueError, match=message):
        evidence.Run(profile, seeds)


@pytest.mark.parametrize("part", ["0/3", "4/3", "-1/3"])
def test_a_part_that_is_none_is_refused(monkeypatch, part):
    monkeypatch.setenv("FEDLIB_PART", part)
    with pytest.raises(ValueError, match="FEDLIB_PART"):
        evidence.Run("quick", range(3))


@pytest.mark.parametrize("level", [95, 0, 1, -1, math.nan])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        evidence.interval([1.0, 2.0], level)


def test_a_result_kept_at_another_profile_does_not_serve(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_RESUME", str(tmp_path))
    assert evidence.Run("quick", [0]).once("score/0", lambda: 0.5) == 0.5
    assert evidence.Run("real", [0]).once("score/0", lambda: 0.7) == 0.7


def test_names_are_text_on_the_page():
    run = evidence.Run("quick", [0])
    run.record("<img/src=x>", 0, 1.0)
    assert "&lt;img/src=x&gt;" in run._html()
    assert "<img" not in run._html()


@pytest.mark.parametrize("name", ["", "x y", "x @quick", "x|mean", "x`y"])
def test_a_metric_that_prose_cannot_quote_is_refused(name):
    with pytest.raises(ValueError, match="is no name of a metric"):
        evidence.Run("quick", [0]).record(name, 0, 1.0)


@pytest.mark.parametrize("value", [True, np.bool_(False), None])
def test_truth_and_nothing_are_no_numbers(value):
    with pytest.raises(TypeError, match="metric 'm', seed 0: expected a number, got"):
        evidence.Run("quick", [0]).record("m", 0, value)


def test_a_run_without_a_metric_is_not_published():
    with pytest.raises(ValueError, match="nothing to publish"):
        evidence.Run("quick", [0]).publish()
