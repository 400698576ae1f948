"""FedBN: which tensors stay with a client, found by the layer's type; its limits, and the two halves of it."""

import pytest
import torch
from federations import FLOAT, NORMABLE, Normed, everything, federation, same, small
from torch import nn

from fedlib import models, normalisation
from fedlib.algorithms import FedAvg, FedBN, FedNTD, FedProx, LocalOnly
from fedlib.federation import Local
from fedlib.ledger import payload_bytes
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


def test_fedavgs_statistics_are_the_mean_of_silobns():
    """Running statistics are linear in what they were, so averaging them every round or once is the same."""
    both, silo = play(FedAvg(), sizes=(20,) * 4), play(FedBN("statistics"), sizes=(20,) * 4)
    for n in ALL[2:4]:
        torch.testing.assert_close(both.state[n], torch.stack([own[n] for own in silo.own.values()]).mean(0))


def test_a_teacher_in_evaluation_mode_tells_them_apart():
    """The one way in which statistics get into the gradient; a proximal term looks at weights alone."""
    for make, equal in ((lambda: FedNTD(1.0), False), (lambda: FedProx(0.3), True)):
        both, forgetful = play(make()), play(make(), buffers="local")
        assert equal == all(torch.equal(both.state[n], forgetful.state[n]) for n in both.net.parameters)


def test_a_search_by_name_misses_layers():
    """ "bn" in the name finds none of these; in a residual network's shortcut, as in torchvision's, not that one."""
    for make, shape in ((Normed, (5,)), (lambda: models.NormedCNN(1, 8, (4, 8), (8,)), (1, 8, 8))):
        fed = federation(FedBN(), model=make, sizes=(8, 8), shape=shape)
        assert fed.personal
        assert not [n for n in fed.personal if "bn" in n]

    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Linear(5, 3), nn.BatchNorm1d(3)
            self.downsample = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))

        def forward(self, x):
            return self.bn1(self.conv1(x)) + self.downsample(x)

    fed = federation(FedBN(), model=Shortcut, sizes=(8, 8))
    missed = {n for n in fed.personal if "bn" not in n}
    assert missed == {f"downsample.1.{n.rpartition('.')[2]}" for n in ALL}


def test_clients_weigh_the_same_whatever_they_hold():
    fed = play(FedBN(), sizes=(4, 20), rounds=1)
    uploads = []
    again = federation(FedBN(), model=Normed, sizes=(4, 20), participation=1.0,
                       observers=[lambda fed, seen: uploads.extend(seen.uploads) or {}])  # fmt: skip
    again.run(1)
    for n in fed.shared(fed.state):
        torch.testing.assert_close(fed.state[n], (uploads[0][n] + uploads[1][n]) / 2)


def test_a_last_batch_of_one_sample_cannot_be_normalised():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        play(FedBN(), sizes=(9, 16))


def test_a_single_step_of_fedprox_is_fedavgs():
    """The gradient of the proximal term is zero at its anchor: leaving it out of the first batch changes nothing."""
    options = {"sizes": (8, 8, 8), "local": Local(1, 8, 0.1)}
    prox, avg = play(FedProx(0.5), **options), play(FedAvg(), **options)
    same(prox.state, avg.state, 1e-14)
    options["local"] = Local(2, 8, 0.1)
    prox, avg = play(FedProx(0.5), **options), play(FedAvg(), **options)
    assert not torch.equal(prox.state["head.weight"], avg.state["head.weight"])


def test_batchnorm_is_next_to_nothing_on_the_wire():
    """The paper's network for digits: 5,632 of 14,219,210 parameters; FedBN is not a compression."""
    module = models.NormedCNN(3, 28, (64, 64, 128), (2048, 512), kernel=5)
    net = models.Net(module)
    layers = normalisation.batchnorm_layers(net)
    trained = [n for n in net.parameters if n.rpartition(".")[0] in layers]
    assert sum(t.numel() for t in net.weights(net.initial()).values()) == 14_219_210
    assert sum(net.initial()[n].numel() for n in trained) == 5_632
    state = net.initial()
    saved = payload_bytes({n: t for n, t in state.items() if n.rpartition(".")[0] in layers}) / payload_bytes(state)
    assert 0.0004 < saved < 0.001


def test_a_newcomer_needs_layers_from_somebody():
    """The server's own layers are untrained; fresh statistics of unlabelled inputs are those of that domain."""
    fed = play(FedBN(), sizes=(20, 20))
    x = fed.x[:12] * 3 + 5
    fresh = normalisation.estimated(fed.net, fed.state, x)
    h = fed.net.predict({**fresh}, x, features=True)
    assert torch.isfinite(h).all()
    mean = fed.state["body.0.weight"] @ x.mean(0) + fed.state["body.0.bias"]
    torch.testing.assert_close(fresh["body.1.running_mean"], mean)
    assert torch.equal(fed.state["body.1.running_mean"], torch.zeros(6, dtype=FLOAT))


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="keep must be one of all, statistics, affine"):
        FedBN("mean")
