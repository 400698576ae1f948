"""FedBN: which tensors stay with a client, found by the layer's type; its limits, and the two halves of it."""

import pytest
import torch
from federations import FLOAT, NORMABLE, Normed, everything, federation, same, small
from torch import nn

from fedlib.algorithms import FedAvg, FedBN, LocalOnly
from fedlib.federation import Local
from fedlib.models import ResNet8

ALL = ("body.1.weight", "body.1.bias", "body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked")


def play(algorithm, rounds=3, **options):
    fed = federation(algorithm, **{"model": Normed, "sizes": NORMABLE, "participation": 1.0} | options)
    fed.run(rounds)
    return fed


@pytest.mark.parametrize(("keep", "kept"), [("all", ALL), ("statistics", ALL[2:]), ("affine", ALL[:2])])
def test_what_stays_is_found_by_type_and_not_by_name(keep, kept):
    """No tensor of this network has "bn" in its name: who looks for that averages all of it."""
    fed = play(FedBN(keep))
    assert set(fed.personal) == set(kept)
    assert not any("bn" in n for n in fed.state)
    assert sorted(fed.own) == list(range(6))
    assert all(set(own) == set(kept) for own in fed.own.values())


def test_shortcuts_of_a_residual_network_are_found_too():
    fed = federation(FedBN(), model=ResNet8, sizes=(4, 4), shape=(3, 8, 8))
    layers = [n for n, m in fed.net.module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert {n.rpartition(".")[0] for n in fed.personal} == set(layers)
    assert any("shortcut" in n or "down" in n for n in layers), layers


def test_after_a_round_everything_but_batchnorm_is_common():
    fed = play(FedBN())
    one, two = (fed.own[k] for k in (0, 1))
    assert all(not torch.equal(one[n], two[n]) for n in ALL[:4])
    assert not set(ALL) & set(fed.shared(fed.state))
    counts = [int(own["body.1.num_batches_tracked"]) for own in fed.own.values()]
    assert counts == [3 * 2 * -(-n // 8) for n in NORMABLE], "an integer, never averaged"


def test_the_servers_own_batchnorm_stays_as_it_began():
    """There is no global model: what the server holds of these layers is the start."""
    fed = play(FedBN())
    start = federation(FedBN(), model=Normed, sizes=NORMABLE).state
    assert all(torch.equal(fed.state[n], start[n]) for n in ALL)


def test_without_batchnorm_it_is_fedavg():
    options = {"model": small, "sizes": (3, 7, 8, 13, 20, 4), "participation": 0.6}
    same(everything(play(FedBN(weighting="samples"), **options)), everything(play(FedAvg(), **options)))
    plain = FedAvg()
    plain.weighting = "uniform"
    same(everything(play(FedBN(), **options)), everything(play(plain, **options)))


def test_one_client_is_local_training():
    options = {"sizes": (20,), "local": Local(2, 8, 0.1)}
    bn, avg, alone = (play(a, **options) for a in (FedBN(), FedAvg(), LocalOnly()))
    whole = bn.state | bn.own[0]
    same(whole, avg.state, 1e-12)
    same(whole, alone.state | alone.own[0], 1e-12)


def test_averaging_parameters_only_is_half_of_fedbn():
    """The usual accident: a "FedAvg" that forgets the buffers keeps statistics with the clients.

    Training normalises by the batch, so its weights are FedAvg's to the bit. Only what evaluates them is another model.
    """
    forgetful, silo = play(FedAvg(), buffers="local"), play(FedBN("statistics", "samples"))
    same(everything(forgetful), everything(silo))
    both = play(FedAvg())
    assert all(torch.equal(both.state[n], silo.state[n]) for n in silo.net.parameters)
    assert not torch.equal(both.state["body.1.running_mean"], silo.own[0]["body.1.running_mean"])


def test_an_absent_client_finds_its_layers_as_it_left_them():
    fed = federation(FedBN(), model=Normed, sizes=NORMABLE, participation=0.5)
    for _ in range(5):
        before = {k: {n: t.clone() for n, t in own.items()} for k, own in fed.own.items()}
        fed.run(1)
        for k in set(before) - set(fed.sample(fed.round - 1)):
            same(fed.own[k], before[k])


def test_averaged_variances_are_not_the_mixtures():
    """Why FedAvg's statistics mislead: the mean of two variances lacks the spread of the two means."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(500, generator=g, dtype=FLOAT), 5 + torch.randn(500, generator=g, dtype=FLOAT)
    averaged = (a.var(correction=0) + b.var(correction=0)) / 2
    between = ((a.mean() - b.mean()) / 2).square()
    assert float(torch.cat([a, b]).var(correction=0)) == pytest.approx(float(averaged + between), rel=1e-12)
    assert between > 5 * averaged


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="keep must be one of all, statistics, affine"):
        FedBN("mean")
