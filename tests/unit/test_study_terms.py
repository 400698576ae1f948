"""Equal terms of a comparison: what a method may have of its own, what needs a reason, what is evidence."""

import json

import pytest
from small import FIELDS

from book import schema
from fedlib import study
from fedlib.algorithms import FedAvg, FedProx

SMALL = study.Federated(**FIELDS | {"seeds": 1})


def begin(**changes):
    return study.begin({"smoke": SMALL}, "smoke", device="cpu", **changes)


@pytest.fixture(scope="module")
def compared():
    experiment = begin(seeds=2)
    runs = experiment.compare({"fedavg": FedAvg(), "fedprox": FedProx(0.1)}, ceiling=True)
    return experiment, runs


@pytest.mark.parametrize(
    "change", [{"rounds": 5}, {"samples": 50}, {"alpha": 100.0}, {"last": 2}, {"split": study.IID()}], ids=str
)
def test_a_method_on_other_terms_needs_a_reason_and_all_of_it_is_evidence(change):
    with pytest.raises(ValueError, match=r"a method on equal terms has .*\(epochs, .*say why .*unequal="):
        study.Method(FedAvg(), **change)
    with pytest.raises(ValueError, match="unequal="):
        study.Method(FedAvg(), unequal=" ", **change)
    with pytest.raises(ValueError, match=r"grid of FedAvg, whose parameters are none: .*unequal="):
        study.grid(FedAvg, **{name: (value,) for name, value in change.items()})
    experiment = begin(seeds=1)
    experiment.compare({"other": study.Method(FedAvg(), unequal="to see it", lr=0.2, **change), "fedavg": FedAvg()})
    assert list(experiment.run.setting["of methods"]) == ["other"]
    told = experiment.run.setting["of methods"]["other"]
    assert told.keys() >= {*change, "lr", "unequal"}
    assert (told["lr"], told["unequal"]) == (0.2, "to see it")
    assert schema.faults(schema.Published, json.loads(json.dumps(experiment.run.evidence()))) == []


def test_the_reason_of_a_grid_is_that_of_its_methods_and_evidence():
    experiment = begin(seeds=1)
    grid = study.grid(FedAvg, unequal="more rounds are its parameter", rounds=(1, 2))
    chosen = experiment.tune({"fedavg": grid}, seeds=1, epochs=2)
    assert chosen["fedavg"].unequal == "more rounds are its parameter"
    about = experiment.run.tuning["fedavg"]
    assert (about["unequal"], about["changes"]) == ("more rounds are its parameter", {"epochs": 2})


@pytest.mark.parametrize(
    "give",
    [
        lambda: study.Method(FedAvg(), seeds=5),
        lambda: study.Method(FedAvg(), seeds=5, unequal="more seeds"),
        lambda: study.grid(FedAvg, seeds=(1, 2)),
        lambda: begin().compare({"fedavg": FedAvg()}, "more", seeds=4),
    ],
)
def test_nothing_in_a_run_has_other_seeds(give):
    with pytest.raises(ValueError, match=r"seeds = .*: all of a run has the same seeds"):
        give()


def test_a_comparison_in_another_setting_needs_a_name_and_its_setting_is_evidence():
    """Else a metric would have the name of the chapter's own setting, and `setting` would tell that one."""
    experiment = begin(seeds=1)
    with pytest.raises(ValueError, match="epochs: another setting needs a name"):
        experiment.compare({"fedavg": FedAvg()}, epochs=2)
    experiment.compare({"fedavg": FedAvg()}, "long", epochs=2, split=study.IID(), rounds=None)
    assert experiment.run.setting["epochs"] == 1
    assert experiment.run.setting["of comparisons"] == {"long": {"epochs": 2, "split": "IID"}}
    experiment.compare({"again": FedAvg()}, "long", epochs=2, split=study.IID())
    with pytest.raises(ValueError, match=r"'long' names a setting with .*; one with .* needs another name"):
        experiment.compare({"other": FedAvg()}, "long", epochs=3)


def test_the_name_of_a_metric_may_be_said_in_full():
    experiment = begin(seeds=1)
    experiment.compare({"fedavg": FedAvg()}, "long", rounds=4, measures={"loss/{}-4": "loss", "accuracy": "accuracy"})
    assert sorted(experiment.run.metrics) == ["accuracy-long/fedavg", "loss/fedavg-4"]


@pytest.mark.parametrize("method", [FedAvg, 3, lambda seed: None, lambda seed: FedAvg], ids=["class", "3", "None", "f"])
def test_what_is_no_algorithm_is_named(method):
    with pytest.raises(TypeError, match=r"expected an algorithm") as told:
        begin(seeds=1).compare({"mine": method})
    assert "method 'mine'" in " ".join([str(told.value), *getattr(told.value, "__notes__", ())])


def test_a_grid_that_makes_no_algorithm_is_named():
    with pytest.raises(TypeError, match=r"method 'mine': expected an algorithm .*; got a Method"):
        begin(seeds=1).tune({"mine": study.grid(lambda a: study.Method(FedAvg()), a=(1,))}, seeds=1)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"measures": {"x": "accurcy"}}, KeyError, "'mine' has no column 'accurcy'; it has loss, accuracy"),
        ({"measures": {"x": lambda result: None}}, TypeError, "'x' of 'mine', seed 0: expected a number, got None"),
        ({"finish": lambda fed, samples: None}, TypeError, "finish gave None for seed 0; expected a mapping"),
    ],
)
def test_what_cannot_be_measured_is_told_with_what_there_is(options, kind, said):
    with pytest.raises(kind, match=said):
        begin(seeds=1).compare({"mine": FedAvg()}, **options)


def test_a_column_that_nobody_looked_at_is_told_with_those_that_there_are(compared):
    with pytest.raises(KeyError, match=r"'fedavg' has no column 'accurcy'; it has .*accuracy"):
        compared[1].histories("fedavg", "accurcy")
    with pytest.raises(KeyError, match=r"by = 'accurcy': nobody looked at such a column; there are .*accuracy"):
        begin(seeds=1).tune({"fedavg": study.grid(FedAvg, lr=(0.1,))}, by="accurcy", chance=0.0, seeds=1)


def test_runs_show_what_is_in_them(compared):
    told = repr(compared[1])
    assert told.startswith("Runs: methods fedavg, fedprox, pooled; seeds 0, 1; columns ")
    assert "accuracy" in told.split("columns ")[1].split(", ")
    assert "0x" not in told
    assert repr(study.Runs("long")) == "Runs in 'long': methods none; seeds none; columns none"
