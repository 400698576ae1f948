"""What a federation is given: nonsense is an error that names the value, never a number; all that makes sense works."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from federations import FLOAT, federation, samples, small
from torch import nn

from fedlib import algorithms, require, rng
from fedlib.algorithms import FedAvg
from fedlib.algorithms.fedgen import Teaching
from fedlib.algorithms.fedgkt import FedGKT, Serving
from fedlib.calibration import Calibration
from fedlib.distill import Distillation
from fedlib.featuredistil import FeatureDistillation
from fedlib.feddg import FedDG
from fedlib.federation import Federation, Local, together, weighted_mean
from fedlib.losses import reconstruction
from fedlib.models import MLP
from fedlib.regularised.clipped import Clipped
from fedlib.regularised.fedalign import FedAlign
from fedlib.regularised.gradaug import GradAug
from fedlib.regularised.mixup import Mixup
from fedlib.regularised.stochasticdepth import StochasticDepth


def given(x=None, y=None, split=None, algorithm=None, model=small, **options):
    x0, y0, split0 = samples()
    x, y, split = (a if b is None else b for a, b in ((x0, x), (y0, y), (split0, split)))
    return Federation(model, x, y, split, algorithm or FedAvg(), device="cpu", **{"dtype": FLOAT} | options)


def rows(*first):
    return [torch.tensor(first), torch.arange(10, 20)]


def poisoned(value):
    x = samples()[0].clone()
    x[3, 1] = x[7] = value
    return x


X, Y, _ = samples()
NONSENSE = {
    "split[0] holds row -1; there are rows 0 to 54": {"split": rows(-1, 3)},
    "split[0] holds row 55; there are rows 0 to 54": {"split": rows(3, 55)},
    "split[0] holds row 3 more than once": {"split": rows(3, 4, 3)},
    "split[0] must be row numbers, an integer tensor [n], got torch.float32 [2]": {"split": rows(0.0, 1.0)},
    "split[0] must be row numbers, an integer tensor [n], got torch.bool [55]": {"split": [Y == 1, torch.arange(4)]},
    "split[0] must be row numbers, an integer tensor [n], got [0, 1]": {"split": [[0, 1], [2]]},
    "split[0] must be row numbers, an integer tensor [n], got torch.int64 [1, 2]": {"split": [torch.tensor([[0, 1]])]},
    "classes are counted from 0, got -100 (in rows 0, 1, 2, 3, 4, ...)": {"y": torch.full_like(Y, -100)},
    "the network has 3 outputs, classes 0 to 2; y has 9": {"y": Y * 0 + 9},
    "classes must be [N], got torch.int64 [55, 1]: give y.squeeze(1)": {"y": Y[:, None]},
    "x and y need one row for each of N >= 1 samples, got 55 and 54 rows": {"y": Y[:-1]},
    "x and y need one row for each of N >= 1 samples, got 0 and 0 rows": {"x": X[:0], "y": Y[:0]},
    "x must be a tensor [N, ...], got [1.0]": {"x": [1.0]},
    "x must be finite; NaN or infinite in rows 3, 7": {"x": poisoned(math.nan)},
    "x must be finite; NaN or infinite in rows 3, 7 ": {"x": poisoned(-math.inf)},
    "y must be finite; NaN or infinite in rows 0, 1, 2, 3, 4, ...": {"y": torch.full((55, 3), math.nan)},
    "dtype must be a floating-point type, got torch.int64": {"dtype": torch.int64},
    "lr is 1e+39, which torch.float32 cannot hold": {"dtype": torch.float32, "local": Local(lr=1e39)},
    "seed must be a whole number, got 1.0": {"seed": 1.0},
    "seed must be a whole number, got '1'": {"seed": "1"},
    "seed must be a whole number, got True": {"seed": True},
    "participation must be a finite number > 0 and <= 1, got '1'": {"participation": "1"},
    "weighting must be 'samples' or 'uniform', got 'sample'": {
        "algorithm": type("A", (FedAvg,), {"weighting": "sample"})()
    },
}


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_named_and_refused(message):
    with pytest.raises(ValueError, match=re.escape(message.strip())):
        given(**NONSENSE[message])


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_integers_of_any_type_are_labels_and_rows(kind):
    _, y, split = samples()
    plain, other = given(), given(y=y.to(kind), split=[part.to(kind) for part in split])
    plain.run(2)
    other.run(2)
    assert all(torch.equal(plain.state[n], other.state[n]) for n in plain.state)


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_a_seed_is_its_number_whatever_its_type(seed):
    """Streams are keyed by type and value: numpy's 3 had other draws than Python's."""
    assert torch.equal(given(seed=seed).state["head.weight"], given(seed=3).state["head.weight"])
    assert type(given(seed=seed).seed) is int


class Rebuild(FedAvg):
    def objective(self, net, state, x, y, context):
        return reconstruction(net(state, x, train=True), x)


class Fit(FedAvg):
    def objective(self, net, state, x, y, context):
        return (net(state, x, train=True) - y).square().mean()


class Tags(FedAvg):
    def objective(self, net, state, x, y, context):
        return nn.functional.binary_cross_entropy_with_logits(net(state, x, train=True), y.to(x.dtype))


OTHER = {
    "an autoencoder, whose labels only say who holds what": {
        "algorithm": Rebuild(), "model": lambda: MLP(5, (2,), 5), "y": Y + 9,
    },
    "targets that are vectors": {"algorithm": Fit(), "y": X[:, :3]},
    "one target": {"algorithm": Fit(), "y": X[:, :1], "model": lambda: MLP(5, (4,), 1)},
    "several labels": {"algorithm": Tags(), "y": (X[:, :3] > 0).long()},
    "a network that takes something else": {
        "algorithm": type("Pairs", (Fit,), {"objective": lambda self, net, state, x, y, context: (
            net(state, (x, x), train=True) - y).square().mean()})(),
        "y": X[:, :3],
        "model": lambda: type("Sum", (MLP,), {"forward": lambda self, x: MLP.forward(self, x[0] + x[1])})(5, (4,), 3),
    },
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_objectives_that_are_no_classification_work(what):
    fed = given(**OTHER[what], executor="sequential")
    losses = [row["loss"] for row in fed.run(3)]
    assert losses[-1] < losses[0]


def test_looking_for_classes_moves_no_draw():
    """The first look at the network's outputs is in evaluation mode: no statistics, no draws."""
    before = torch.random.get_rng_state()
    fed = given()
    assert torch.equal(before, torch.random.get_rng_state())
    built = rng.build(small, 0, "init").to(FLOAT)
    assert all(torch.equal(fed.state[n], w) for n, w in built.state_dict().items())


@pytest.mark.parametrize("rounds", [-1, 2.5, "1", None])
def test_rounds_are_whole_numbers(rounds):
    fed = federation()
    for play in (fed.run, lambda n: together([fed], n)):
        with pytest.raises(ValueError, match=f"rounds must be a whole number of at least 0, got {rounds!r}"):
            play(rounds)
    assert (fed.round, fed.history) == (0, [])


def test_a_federation_does_not_play_beside_itself():
    """Both plays would train from one state, and the round would count twice."""
    fed = federation()
    with pytest.raises(ValueError, match="more than once"):
        together([fed, fed], 1)


@pytest.mark.parametrize(
    ("states", "weights"),
    [([], []), ([{"a": torch.ones(1)}], [0.5, 0.5]), ([{"a": torch.ones(1)}] * 2, [0.5, math.nan])],
)
def test_a_mean_wants_one_finite_weight_for_each_state(states, weights):
    with pytest.raises(ValueError, match=f"one finite weight is needed for each state: {len(states)} states"):
        weighted_mean(states, torch.tensor(weights))


# --- observers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32(math.nan), torch.tensor(-math.inf)])
def test_a_column_that_is_no_number_is_named_and_the_round_undone(value):
    fed = federation(observers=[lambda fed, seen: {"fine": 1.0, "odd": value}])
    with pytest.raises(require.NotFinite, match="round 0: an observer found odd = "):
        fed.run(1)
    assert (fed.round, fed.history, fed.ledger.up) == (0, [], [])


def test_observers_may_say_nothing_and_keep_lists():
    lists = {"per class": [0.5, math.nan], "text": "good", "none": None, "count": 3}
    fed = federation(observers=[lambda fed, seen: None, lambda fed, seen: lists])
    fed.run(1)
    assert fed.history[0]["per class"][0] == 0.5
    assert lists.keys() < fed.history[0].keys()


def test_an_observer_that_returns_no_columns_is_an_error():
    with pytest.raises(TypeError, match=r"an observer returned 0\.5; expected a dictionary"):
        federation(observers=[lambda fed, seen: 0.5]).run(1)


@pytest.mark.parametrize("name", ["mine", "loss"])
def test_no_column_is_written_over(name):
    """Two observers of one kind, on training and test samples, left the last one's numbers alone."""
    fed = federation(observers=[lambda fed, seen: {name: 1.0}, lambda fed, seen: {"mine": 2.0}])
    with pytest.raises(ValueError, match=f"column '{name}' of the history has two authors"):
        fed.run(1)


NO_SETTING = (float("nan"), float("inf"), -1.0)


@pytest.mark.parametrize("value", NO_SETTING)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (algorithms.FedProx, "mu"),
        (algorithms.Moon, "mu"),
        (algorithms.Moon, "temperature"),
        (partial(FedGKT, small), "up"),
        (partial(FedGKT, small), "down"),
        (partial(FedGKT, small), "temperature"),
        (algorithms.Ditto, "mu"),
        (Clipped, "most"),
        (FedAlign, "mu"),
        (FedAlign, "width"),
        (FedAlign, "clip"),
        (FedAlign, "iterations"),
        (GradAug, "weight"),
        (GradAug, "draws"),
        (Mixup, "gamma"),
        (StochasticDepth, "keep"),
        (FedDG, "window"),
        (FedDG, "step"),
        (FedDG, "gamma"),
        (FedDG, "meta"),
        (FedDG, "temperature"),
        (FedDG, "bank"),
        (algorithms.FedHN, "lr"),
        (algorithms.FedHN, "embedding_lr"),
        (algorithms.FedHN, "momentum"),
        (algorithms.FedHN, "weight_decay"),
        (algorithms.FedHN, "clip"),
        (algorithms.FedHN, "size"),
        (algorithms.FedHN, "width"),
        (algorithms.FedHN, "depth"),
        (algorithms.FedKD, "distil"),
        (algorithms.FedKD, "hidden"),
        (algorithms.FedKD, "least"),
        (algorithms.FedKD, "energy"),
        (algorithms.FedKD, "rounds"),
        (algorithms.FedLSD, "beta"),
        (algorithms.FedLSD, "temperature"),
        (algorithms.FedNTD, "beta"),
        (algorithms.FedAvgM, "momentum"),
        (algorithms.FedAvgM, "lr"),
        (algorithms.FedOpt, "lr"),
        (algorithms.FedOpt, "tau"),
        (algorithms.FedOpt, "beta1"),
        (algorithms.FedOpt, "beta2"),
        (algorithms.Scaffold, "server_lr"),
        (algorithms.FedGen, "weight"),
        (algorithms.FedGen, "extra"),
        (algorithms.FedGen, "draws"),
        (algorithms.FedRep, "base_epochs"),
        (algorithms.PerFedAvg, "alpha"),
        (algorithms.PerFedAvg, "delta"),
        (Serving, "lr"),
        (Serving, "epochs"),
        (Teaching, "lr"),
        (Teaching, "steps"),
        (FeatureDistillation, "share"),
        (FeatureDistillation, "momentum"),
        (FeatureDistillation, "weight_decay"),
        (FeatureDistillation, "epochs"),
        (FeatureDistillation, "batch_size"),
        (FeatureDistillation, "every"),
        (Distillation, "lr"),
        (Distillation, "temperature"),
        (Calibration, "lr"),
    ],
)
def test_a_method_made_of_nonsense_is_refused_by_the_name_of_its_setting(make, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a .*got"):
        make(**{name: value})
