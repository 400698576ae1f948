"""Rows of the leaderboard that must be equal: switched off, and with its weighting, every method is FedAvg."""

from functools import partial

import pytest
import torch

from fedlib import partition, rng
from fedlib.algorithms import (
    FedAvg,
    FedAvgM,
    FedBN,
    FedDF,
    FedLSD,
    FedMD,
    FedNTD,
    FedOpt,
    FedPer,
    FedProx,
    Moon,
    Scaffold,
)
from fedlib.distill import Distillation
from fedlib.federation import Federation, Local
from fedlib.models import MLP, Projected

X = torch.randn(120, 6, dtype=torch.float64, generator=rng.stream("equal rows", "x"))
Y = torch.randint(3, (120,), generator=rng.stream("equal rows", "y"))
SPLIT = partition.dirichlet(Y, 4, 0.3, rng.stream("equal rows", "split"), min_size=3)
OFF = {
    "FedBN": partial(FedBN, weighting="samples"),  # this network has no BatchNorm
    "FedProx": partial(FedProx, 0.0),
    "FedAvgM": partial(FedAvgM, 0.0),
    "FedOpt": partial(FedOpt, "sgd", 1.0, 0.0),
    "Moon": partial(Moon, 0.0),
    "FedNTD": partial(FedNTD, 0.0),
    "FedLSD": partial(FedLSD, 0.0),
    "FedDF": partial(FedDF, X[:10], Distillation(steps=0)),
    "FedPer": partial(FedPer, ()),
}


def played(algorithm, rounds=3):
    fed = Federation(
        lambda: Projected(MLP(6, (5,), 3), 4),
        X,
        Y,
        SPLIT,
        algorithm,
        local=Local(2, 10, 0.1),
        participation=0.5,
        device="cpu",
        dtype=torch.float64,
        seed=1,
    )
    fed.run(rounds)
    return fed


def gap(one, other):
    return max(float((one.state[n] - other.state[n]).abs().max()) for n in one.state)


def test_clients_have_samples_of_unequal_number():
    sizes = [len(part) for part in SPLIT]
    assert max(sizes) > 1.5 * min(sizes)


@pytest.mark.parametrize("name", OFF)
def test_switched_off_it_is_fedavg_to_the_last_bit(name):
    assert gap(played(OFF[name]()), played(FedAvg())) == 0


def test_scaffold_with_controls_that_are_still_zero_is_fedavg():
    """In its first round nobody has a control yet."""
    assert gap(played(Scaffold(weighting="samples"), 1), played(FedAvg(), 1)) == 0


@pytest.mark.parametrize("method", [FedBN, Scaffold])
def test_with_equal_weights_it_is_not(method):
    assert gap(played(method(weighting="uniform"), 1), played(FedAvg(), 1)) > 1e-3


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_the_consensus_of_fedmd_weighs_clients_as_it_is_told(weighting):
    fed = played(FedMD(X[:10], weighting=weighting), 1)
    clients = fed.sample(0)
    sizes = torch.tensor([len(SPLIT[k]) if weighting == "samples" else 1 for k in clients], dtype=torch.float64)
    logits = torch.stack([fed.net.predict(fed.own[k], X[:10]) for k in clients])
    expected = torch.einsum("k,kuc->uc", sizes / sizes.sum(), logits)
    torch.testing.assert_close(fed.memory["consensus"], expected, rtol=0, atol=1e-12)


def test_another_weighting_is_refused():
    with pytest.raises(ValueError, match="weighting"):
        FedMD(X[:10], weighting="equal")
