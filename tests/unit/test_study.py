"""The vocabulary of the chapters: settings, comparisons, tuning."""

import json
from dataclasses import dataclass, fields, replace
from functools import partial

import pytest
import torch
from small import FIELDS
from torch.nn.functional import cross_entropy

from book import schema
from fedlib import data, observe, partition, rng, study
from fedlib.algorithms import FedAvg, FedAvgM, FedDF, FedProx, LocalOnly
from fedlib.distill import Distillation
from fedlib.federation import Federation, Local
from fedlib.models import MLP
from fedlib.study import setting as settings, tuning

network = partial(MLP, 64, (8,))


@dataclass(frozen=True, kw_only=True)
class Setting(study.Federated):
    """With a number of its own."""

    mu: float = 0.1


SMALL = Setting(**FIELDS)


def begin(**changes):
    return study.begin({"smoke": SMALL}, "smoke", device="cpu", **changes)


@pytest.fixture(scope="module")
def compared():
    experiment = begin()
    runs = experiment.compare({"fedavg": FedAvg(), "fedprox": FedProx(0.1)}, ceiling=True)
    return experiment, runs


def by_hand(algorithm, seed, split=None, rounds=3, **local):
    """A federation built without `study`."""
    own = (
        data.load("digits", dtype=torch.float64).subset(200, 100, rng=rng.stream(seed, "subset"), balanced=False).flat()
    )
    parts = split or partition.dirichlet(own.y_train, 4, 0.5, rng.stream(seed, "split"), min_size=2)
    fed = Federation(
        network,
        own.x_train,
        own.y_train,
        parts,
        algorithm,
        local=Local(**({"epochs": 1, "batch_size": 20, "lr": 0.1} | local)),
        seed=seed,
        device="cpu",
        dtype=torch.float64,
        observers=[observe.server_accuracy(own.x_test, own.y_test)],
    )
    fed.run(rounds)
    return fed


# Settings


def test_a_change_reaches_the_field_that_has_its_name_wherever_it_is():
    changed = study.vary(SMALL, rounds=7, alpha=0.01, epochs=5, mu=2.0)
    assert (changed.rounds, changed.split.alpha, changed.local.epochs, changed.mu) == (7, 0.01, 5, 2.0)
    assert changed.split.least == SMALL.split.least
    assert changed.local.lr == SMALL.local.lr


def test_a_late_observer_looks_at_the_rounds_that_judge_and_classes_are_looked_at_when_asked():
    setting = replace(SMALL, by_class=True)
    late = setting.late(lambda fed, seen: {"seen": seen.number})
    fed = setting.federation(FedAvg(), 0, watch=[lambda samples: late], device="cpu")
    fed.run(3)
    assert [row.get("seen") for row in fed.history] == [None, 1, 2]
    assert {len(row["class_accuracy"]) for row in fed.history} == {10}
    plain = SMALL.federation(FedAvg(), 0, device="cpu")
    plain.run(3)
    assert [row["accuracy"] for row in plain.history] == [row["accuracy"] for row in fed.history]
    assert "class_accuracy" not in plain.history[0]


def test_none_leaves_what_is_there():
    assert study.vary(SMALL, rounds=None, alpha=None) == SMALL


def test_a_change_that_fits_nothing_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"alhpa = 0.1: the setting has no such field; it has alpha, .*epochs"):
        study.vary(SMALL, alhpa=0.1)


def test_a_change_that_fits_two_parts_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Two(study.Federated):
        other: study.Dirichlet = study.Dirichlet(1.0)

    two = Two(data="digits", model=network, clients=2, rounds=1, seeds=1, split=study.Dirichlet(0.1))
    with pytest.raises(ValueError, match="two of that name"):
        study.vary(two, alpha=0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"rounds": 2.5},
        {"seeds": 0},
        {"clients": -1},
        {"samples": 0},
        {"participation": 0},
        {"participation": 1.5},
        {"lr": -1.0},
        {"epochs": 0},
        {"local": 3},
        {"split": "dirichlet"},
        {"model": "MLP"},
        {"epochs": 1.5},
        {"seed": 0.5},
    ],
)
def test_values_that_cannot_work_are_refused_before_anything_is_trained(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        begin(**wrong)


def test_the_seeds_of_a_run_begin_with_the_one_that_is_asked_for():
    assert list(begin(seed=7, seeds=2).seeds) == [7, 8]


def test_an_unknown_profile_is_told_which_there_are():
    with pytest.raises(ValueError, match="smoke"):
        study.begin({"smoke": SMALL}, "quik")


def test_a_setting_is_described_in_plain_values():
    plain = study.described(SMALL)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["alpha"] == 0.5
    assert plain["split"] == "Dirichlet"
    assert (plain["epochs"], plain["lr"], plain["clients"], plain["mu"]) == (1, 0.1, 4, 0.1)
    assert plain["dtype"] == "float64"
    assert plain["model"] == "MLP"


def test_names_that_stand_twice_are_told_apart():
    @dataclass(frozen=True, kw_only=True)
    class Two(study.Setting):
        alpha: float = 3.0
        split: study.Dirichlet = study.Dirichlet(0.1)

    assert study.described(Two(seeds=1)).items() >= {"alpha": 3.0, "split.alpha": 0.1}.items()


# Samples


def test_each_seed_draws_its_own_samples_and_every_call_the_same():
    one, again, other = SMALL.draw(0), replace(SMALL, rounds=9).draw(0), SMALL.draw(1)
    assert torch.equal(one.x, again.x)
    assert not torch.equal(one.x, other.x)
    assert one.x.shape == (200, 64)
    assert len(one.y_test) == 100


def test_clients_of_a_split_by_classes_hold_as_many_as_it_says():
    few = study.vary(SMALL, split=study.Classes(3))
    samples = few.draw(0)
    assert [len(samples.y[rows].unique()) for rows in few.parts(samples, 0)] == [3] * 4


def test_held_out_samples_are_training_samples_that_nobody_trains_on():
    own = SMALL.draw(0)
    part = own.held_out(0.25, rng.stream(0, "x"))
    assert (len(part.y), len(part.y_test)) == (150, 50)
    together = torch.cat([part.x, part.x_test])
    assert torch.equal(together.sort(0).values, own.x.sort(0).values)
    rows = {tuple(r.tolist()) for r in part.x_test}
    assert not rows & {tuple(r.tolist()) for r in part.x} - {tuple(r.tolist()) for r in _twins(own.x)}


def _twins(x):
    unique, counts = x.unique(dim=0, return_counts=True)
    return unique[counts > 1]


def test_redrawn_digits_have_another_test_set_for_each_seed_and_lose_no_sample():
    own = data.load("digits")
    setting = replace(SMALL, redraw=True, samples=None, test=None, dtype=torch.float32)
    one, other = setting.draw(0), setting.draw(1)
    assert len(one.y_test) == len(own.y_test)
    assert not torch.equal(one.x_test, other.x_test)
    everything = torch.cat([own.x_train, own.x_test]).flatten(1)
    for drawn in (one, other):
        assert torch.equal(torch.cat([drawn.x, drawn.x_test]).sort(0).values, everything.sort(0).values)


def test_redrawn_extras_follow_their_samples():
    own = data.load("digits")
    marked = replace(
        own,
        extra={"sum_train": own.x_train.flatten(1).sum(1), "sum_test": own.x_test.flatten(1).sum(1), "note": "all"},
    )
    drawn = marked.redraw(rng.stream(3, "redraw"))
    assert torch.equal(drawn.extra["sum_train"], drawn.x_train.flatten(1).sum(1))
    assert torch.equal(drawn.extra["sum_test"], drawn.x_test.flatten(1).sum(1))
    assert drawn.extra["note"] == "all"


def test_mnist1d_is_generated_anew_for_each_seed_test_set_included():
    setting = replace(SMALL, data="mnist1d", samples=30, test=20, flat=False)
    one, other = setting.draw(0), setting.draw(1)
    assert one.x.shape == (30, 1, 1, 40)
    assert not torch.equal(one.x_test, other.x_test)
    assert data.used()["mnist1d"]


# Comparisons


def test_a_comparison_trains_what_a_federation_built_by_hand_trains(compared):
    experiment, runs = compared
    for seed in (0, 1):
        fed = by_hand(FedProx(0.1), seed)
        curve = [row["accuracy"] for row in fed.history]
        assert runs["fedprox"][seed].curves["accuracy"] == curve
        assert runs["fedprox"][seed]["bytes"] == fed.ledger.total
        assert experiment.values("accuracy/fedprox")[seed] == (curve[1] + curve[2]) / 2


def test_the_ceiling_is_one_model_on_everybodys_samples(compared):
    experiment, runs = compared
    fed = by_hand(FedAvg(), 1, split=[torch.arange(200)])
    assert runs["pooled"][1].curves["accuracy"] == [row["accuracy"] for row in fed.history]
    assert experiment.has("accuracy/pooled")


def test_the_loss_of_the_pooled_model_is_that_of_plain_training():
    own = SMALL.draw(0)
    fed = study.vary(SMALL, clients=1, rounds=1, batch_size=200).federation(FedAvg(), 0, device="cpu")
    fed = Federation(
        network,
        own.x,
        own.y,
        study.Pooled()(own.y, 9, rng.stream(0)),
        FedAvg(),
        local=Local(1, 200, 0.1),
        dtype=own.x.dtype,
    )
    module = rng.build(network, 0, "init").double()
    loss = float(cross_entropy(module(own.x), own.y).detach())
    assert fed.run(1)[0]["loss"] == pytest.approx(loss, rel=1e-12)


def test_metrics_of_a_setting_with_a_name_carry_it():
    experiment = begin(seeds=1)
    runs = experiment.compare({"fedavg": FedAvg()}, "long", rounds=4, measures={"loss": "loss", "accuracy": "accuracy"})
    assert sorted(experiment.run.metrics) == ["accuracy-long/fedavg", "loss-long/fedavg"]
    assert len(runs["fedavg"][0].curves["loss"]) == 4


def test_a_method_may_have_its_own_settings():
    experiment = begin(seeds=1)
    runs = experiment.compare({"slow": study.Method(FedAvg(), lr=0.01, epochs=2), "fedavg": FedAvg()})
    assert runs["slow"][0].curves["accuracy"] == [
        r["accuracy"] for r in by_hand(FedAvg(), 0, lr=0.01, epochs=2).history
    ]
    assert runs["fedavg"][0].curves["accuracy"] == [r["accuracy"] for r in by_hand(FedAvg(), 0).history]


def test_a_setting_says_how_long_its_federations_play():
    class Short(Setting):
        def play(self, federations):
            for fed in federations:
                fed.run(1 + fed.seed)

    short = Short(**{f.name: getattr(SMALL, f.name) for f in fields(SMALL)})
    runs = study.begin({"smoke": short}, "smoke", device="cpu").compare({"fedavg": FedAvg()})
    assert [len(runs["fedavg"][seed].curves["accuracy"]) for seed in (0, 1)] == [1, 2]


def test_a_method_may_be_a_function_of_the_seed():
    asked = []

    def method(seed):
        asked.append(seed)
        return FedDF(SMALL.draw(seed).x_test, Distillation(steps=1))

    begin().compare({"feddf": method})
    assert asked == [0, 1]


def test_what_is_looked_for_at_the_end_is_found():
    experiment = begin(seeds=1)
    runs = experiment.compare(
        {"local": LocalOnly()},
        measures={"clients": lambda result: result.found["clients"]},
        watch=[lambda samples: observe.client_accuracy(samples.x_test, samples.y_test)],
        finish=lambda fed, samples: {"clients": fed.clients, "test": len(samples.y_test)},
    )
    assert runs["local"][0].found == {"clients": 4, "test": 100}
    assert experiment.values("clients/local") == {0: 4.0}
    assert 0 <= runs.mean("local", "client_accuracy") <= 1


class Diverging(FedAvg):
    """Seed 0 diverges in its second round."""

    def aggregate(self, fed, uploads, weights):
        super().aggregate(fed, uploads, weights)
        if fed.seed == 0 and fed.round == 1:
            raise ArithmeticError("diverged")


def test_a_seed_that_diverges_counts_as_the_comparison_says_and_the_others_go_on(compared):
    with pytest.raises(ArithmeticError, match="diverged"):
        begin().compare({"sick": Diverging()})
    runs = begin().compare({"sick": Diverging()}, chance={"accuracy": 0.1}, finish=lambda fed, samples: {"whole": 1})
    assert runs.values("sick", "accuracy")[0] == 0.1
    assert [runs["sick"][s].diverged for s in (0, 1)] == [True, False]
    assert runs["sick"][1].last == compared[1]["fedavg"][1].last
    assert runs["sick"][1].found == {"whole": 1}


def test_only_what_a_diverged_run_cannot_have_scores_chance():
    """The bytes of a run that diverged are those that were sent until then; a drift of 0.1 would be made up."""
    experiment = begin(seeds=1)
    measures = {"accuracy": "accuracy", "bytes": lambda result: result["bytes"]}
    experiment.compare({"sick": Diverging(), "well": FedAvg()}, chance={"accuracy": 0.1}, measures=measures)
    sick, well = (experiment.mean(f"bytes/{name}") for name in ("sick", "well"))
    assert experiment.mean("accuracy/sick") == 0.1
    assert 0 < sick < well
    with pytest.raises(ValueError, match=r"'sick', seed 0: training diverged, and has no 'loss'.*chance=\{'loss'"):
        begin(seeds=1).compare({"sick": Diverging()}, chance={"accuracy": 0.1}, measures={"loss": "loss"})
    with pytest.raises(TypeError, match=r"chance = 0.1: each measure has its own"):
        begin(seeds=1).compare({"sick": Diverging()}, chance=0.1)


def test_the_chance_of_a_measure_is_that_of_its_column():
    runs = begin(seeds=1).compare({"sick": Diverging()}, chance={"accuracy": 0.1}, measures={})
    assert runs.values("sick", "accuracy", "sweep") == {0: 0.1}
    with pytest.raises(ValueError, match="'sick', seed 0: training diverged, and has no curve"):
        runs.histories("sick", "accuracy")


def test_what_is_found_is_recorded_under_names_of_one_form():
    experiment = begin(seeds=1)
    runs = experiment.compare(
        {"fedavg": FedAvg()}, measures={}, finish=lambda fed, samples: {"rounds": fed.round, "whole/one": fed.clients}
    )
    experiment.record_found(runs, "small-{name}/{method}")
    assert experiment.run.metrics == {"small-rounds/fedavg": {"0": 3}, "whole/one": {"0": 4}}


def test_columns_that_are_not_looked_at_every_round_are_averaged_over_those_that_are():
    experiment = begin(seeds=1, rounds=4)

    def sometimes(samples):
        return observe.every(2, lambda fed, seen: {"number": seen.number + 1})

    runs = experiment.compare({"fedavg": FedAvg()}, watch=[sometimes])
    assert runs["fedavg"][0].curves["number"] == [None, 2, None, 4]
    assert runs["fedavg"][0].last["number"] == 4
    assert [row["round"] for row in runs.histories("fedavg", "number")[0]] == [2, 4]


def test_a_run_that_was_killed_goes_on_without_training_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_RESUME", str(tmp_path))
    first = begin().compare({"fedavg": FedAvg()})
    monkeypatch.setattr("fedlib.study.setting.together", lambda *_: pytest.fail("trained again"))
    again = begin().compare({"fedavg": FedAvg()})
    assert dict(first) == dict(again)


def test_one_at_a_time_gives_what_side_by_side_gives():
    one = study.begin({"smoke": replace(SMALL, at_once=1)}, "smoke", device="cpu").compare({"fedavg": FedAvg()})
    both = begin().compare({"fedavg": FedAvg()})
    for s in (0, 1):
        assert one["fedavg"][s].last["accuracy"] == pytest.approx(both["fedavg"][s].last["accuracy"], abs=1e-12)


def test_two_methods_of_one_name_are_refused(compared):
    _, runs = compared
    with pytest.raises(ValueError, match="'fedavg' has run already"):
        runs.add("fedavg", {})
    with pytest.raises(KeyError, match="no method 'moon' has run; there are fedavg, fedprox, pooled"):
        runs["moon"]


def test_the_object_that_is_trained_can_be_had():
    fed = begin().federation(FedProx(0.1), 1, rounds=9, epochs=2)
    assert isinstance(fed, Federation)
    assert (fed.seed, fed.local.epochs, fed.round) == (1, 2, 0)


def test_nothing_federated_is_told_so():
    experiment = study.begin({"smoke": study.Setting(seeds=1)}, "smoke")
    with pytest.raises(TypeError, match="nothing to federate"):
        experiment.compare({"fedavg": FedAvg()})


def test_records_come_from_a_mapping_or_a_function_and_each_seed_has_one():
    experiment = begin()
    experiment.record("a", {0: 1.0, 1: 2.0})
    experiment.record("b", lambda seed: 10 * seed)
    experiment.record("c", experiment.each("slow", lambda seed: seed + 0.5))
    assert experiment.values("b") == {0: 0.0, 1: 10.0}
    assert experiment.values("c") == {0: 0.5, 1: 1.5}
    assert experiment.mean("a") == 1.5
    with pytest.raises(KeyError, match="metric 'd': no value for seed 0; the values are of the seeds 5"):
        experiment.record("d", {5: 1.0})
    with pytest.raises(KeyError, match="recorded"):
        experiment.values("e")


def test_a_difference_of_two_metrics_is_that_of_each_seed(compared):
    experiment, _ = compared
    one, other = (experiment.values(f"accuracy/{method}") for method in ("fedprox", "fedavg"))
    found = experiment.values("accuracy/fedprox", "accuracy/fedavg")
    assert found == {s: one[s] - other[s] for s in (0, 1)}


def test_what_a_run_publishes_fits_the_schema_and_tells_its_setting(compared):
    experiment, _ = compared
    published = experiment.run.evidence()
    assert schema.faults(schema.Published, json.loads(json.dumps(published))) == []
    assert published["setting"]["alpha"] == 0.5


# Tuning


def tuned(**options):
    experiment = begin()
    grids = {"fedavg": study.grid(FedAvg, lr=(0.001, 0.1)), "fedprox": study.grid(FedProx, mu=(0.1, 100.0))}
    return experiment, experiment.tune(grids, **({"seeds": 2} | options))


def test_tuning_takes_the_trial_that_is_best_on_held_out_samples_of_seeds_of_its_own():
    experiment, chosen = tuned()
    about = experiment.run.tuning["fedavg"]
    assert about["seeds"] == [1000, 1001]
    for row, lr in zip(about["trials"], (0.001, 0.1), strict=True):
        for seed, score in zip(about["seeds"], row["scores"], strict=True):
            held = SMALL.draw(seed).held_out(0.2, rng.stream(seed, "held out"))
            fed = study.vary(SMALL, lr=lr).federation(FedAvg(), seed, samples=held, device="cpu")
            fed.run(3)
            assert score == pytest.approx(sum(r["accuracy"] for r in fed.history[-2:]) / 2, abs=1e-12)
    best = max(about["trials"], key=lambda row: row["score"])
    assert about["chosen"] == {"lr": best["lr"]}
    assert chosen["fedavg"].changes == {"lr": best["lr"]}
    assert not experiment.run.metrics


def test_parameters_of_the_method_make_it_and_others_change_the_setting():
    method = study.grid(FedProx, mu=(0.1,), lr=(0.3,)).method({"mu": 0.1, "lr": 0.3})
    assert isinstance(method.algorithm, FedProx)
    assert method.changes == {"lr": 0.3}


def test_a_grid_is_every_combination():
    assert study.grid(FedProx, mu=(1, 2), lr=(3, 4)).trials == [
        {"mu": 1, "lr": 3},
        {"mu": 1, "lr": 4},
        {"mu": 2, "lr": 3},
        {"mu": 2, "lr": 4},
    ]
    with pytest.raises(ValueError, match="at least one"):
        study.grid(FedProx, mu=())


def test_a_name_that_is_the_methods_and_local_trainings_is_refused():
    """FedAvgM's ``lr`` is the server's: a grid that means the clients' would tune the wrong one, without an error."""
    with pytest.raises(ValueError, match="lr is a parameter of FedAvgM and of local training"):
        study.grid(FedAvgM, lr=(0.1, 0.3))


def test_unequal_numbers_of_trials_are_refused_unless_it_is_said_why():
    experiment = begin(seeds=1)
    grids = {"fedavg": study.grid(FedAvg, lr=(0.1,)), "fedprox": study.grid(FedProx, mu=(0.1, 1.0))}
    with pytest.raises(ValueError, match=r"unequal numbers of trials, \{'fedavg': 1, 'fedprox': 2\}"):
        experiment.tune(grids)
    experiment.tune(grids, seeds=1, unequal="it has nothing to tune")
    assert experiment.run.tuning["fedavg"]["unequal"] == "it has nothing to tune"


def test_a_seed_that_diverges_scores_chance_and_the_others_count(monkeypatch):
    experiment = begin()
    real = study.train

    def some_diverge(setting, method, seeds, *rest, **options):
        if 1000 in seeds:
            raise ArithmeticError("diverged")
        return real(setting, method, seeds, *rest, **options)

    monkeypatch.setattr("fedlib.study.experiment.train", some_diverge)
    experiment.tune({"fedavg": study.grid(FedAvg, lr=(0.3,))}, seeds=2, rounds=20)
    row = experiment.run.tuning["fedavg"]["trials"][0]
    assert row["scores"][0] is None
    assert row["scores"][1] > 0.1
    assert row["score"] == pytest.approx((0.1 + row["scores"][1]) / 2)


def test_what_cannot_be_had_needs_a_score_unless_it_is_an_accuracy():
    with pytest.raises(ValueError, match="chance="):
        begin().tune({"fedavg": study.grid(FedAvg, lr=(0.1,))}, by="loss", lower=True)


def test_less_may_be_better():
    experiment = begin()
    experiment.tune({"fedavg": study.grid(FedAvg, lr=(0.001, 0.1))}, by="loss", lower=True, chance=10.0, seeds=1)
    about = experiment.run.tuning["fedavg"]
    assert about["chosen"]["lr"] == min(about["trials"], key=lambda row: row["score"])["lr"]


def test_a_choice_at_the_end_of_its_grid_is_marked():
    grid = study.grid(FedProx, mu=(0.1, 1.0, 10.0), lr=(0.1, 0.2))
    assert grid.edges({"mu": 0.1, "lr": 0.1}) == ["mu"]
    assert grid.edges({"mu": 1.0, "lr": 0.2}) == []
    experiment = begin(seeds=1)
    experiment.tune({"fedavg": study.grid(FedAvg, lr=(1e-4, 2e-4, 0.1))}, seeds=1)
    assert experiment.run.tuning["fedavg"]["edges"] == ["lr"]


def test_seeds_that_judge_cannot_tune():
    with pytest.raises(ValueError, match="seeds 1000 tune and judge; give the run seeds below 1000"):
        begin(seed=999, seeds=2).tune({"fedavg": study.grid(FedAvg, lr=(0.1,))})


def test_tuning_is_evidence():
    experiment, _ = tuned(seeds=1)
    published = json.loads(json.dumps(experiment.run.evidence()))
    assert schema.faults(schema.Published, published) == []
    assert [row["mu"] for row in published["tuning"]["fedprox"]["trials"]] == [0.1, 100.0]


def test_tuning_seeds_are_far_from_those_that_judge():
    assert tuning.FIRST >= 1000
    assert settings.Setting(seeds=5).seeds < tuning.FIRST
