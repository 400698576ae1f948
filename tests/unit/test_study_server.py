"""Servers that keep images, and other server steps tried out on the models of a round."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from fedlib import data, metrics, study
from fedlib.algorithms import FedAvg, FedDF
from fedlib.distill import Distillation
from fedlib.federation import Local, weighted_mean
from fedlib.models import MLP
from fedlib.study import Dirichlet, Method

SETTING = study.WithServer(
    data="digits",
    model=partial(MLP, 64, (8,)),
    clients=4,
    rounds=2,
    split=Dirichlet(0.3),
    local=Local(4, 8),
    samples=160,
    test=80,
    held_out=40,
    validation=20,
    seeds=1,
    dtype=torch.float64,
)


def unlabelled(fed):
    return SETTING.unlabelled(fed.seed)


def played(algorithm, watch=(), **changes):
    """What is found, with a copy of every round."""
    seen = []

    def remember(samples):
        return lambda fed, this: seen.append((this, fed.state))

    [result] = study.train(SETTING, Method(algorithm, **changes), [0], device="cpu", watch=[*watch, remember])
    return result["curves"], seen


def test_no_client_has_an_image_of_the_servers():
    setting = replace(SETTING, samples=None)
    clients, own, (labelled, y) = setting.draw(3), setting.unlabelled(3), setting.labelled(3)
    assert (len(own), len(labelled), len(y)) == (40, 20, 20)
    everything = torch.cat([clients.x, own, labelled]).flatten(1)
    whole = data.load("digits", dtype=torch.float64).x_train.flatten(1)
    assert torch.equal(*(torch.stack(sorted(x, key=lambda row: row.tolist())) for x in (everything, whole)))


def test_seeds_have_other_images_and_the_same_test_set():
    assert not torch.equal(SETTING.unlabelled(0), SETTING.unlabelled(1))
    assert torch.equal(SETTING.draw(0).x_test, SETTING.draw(1).x_test)


@pytest.mark.parametrize("setting", [SETTING, replace(SETTING, images="digits")])
def test_images_of_another_set_come_in_the_form_of_this_one(setting):
    raw = data.load("digits", dtype=torch.float64, normalise=False).x_train[:40]
    ours = data.load("digits", dtype=torch.float64).x_train[:40]
    found = setting.unlabelled(0, "digits") if setting.images is None else setting.unlabelled(0)
    torch.testing.assert_close(found, ours)
    assert not torch.allclose(found, raw)


def test_other_fusions_leave_the_federation_as_it_is():
    ways = {"average": FedAvg(), "fused": FedDF(unlabelled, Distillation(steps=5))}
    plain, before = played(FedAvg())
    watched, after = played(FedAvg(), [study.fusions(ways, 1)])
    assert watched["accuracy"] == plain["accuracy"]
    for (_, one), (_, other) in zip(before, after, strict=True):
        assert all(torch.equal(one[n], other[n]) for n in one)


def test_the_same_step_gives_the_federations_own_model():
    feddf = FedDF(unlabelled, Distillation(steps=20, lr=0.05))
    ways = {"own": feddf, "average": FedAvg()}
    curves, _ = played(feddf, [study.received, study.fusions(ways, 1)])
    assert curves["fused/own"] == [curves["accuracy"][0], None]
    assert curves["fused/average"] == [curves["averaged"][0], None]
    assert curves["accuracy"][0] != curves["averaged"][0]


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_each_step_averages_with_its_own_weights(weighting):
    way = FedDF(unlabelled, Distillation(steps=0), weighting=weighting)
    curves, seen = played(FedAvg(), [study.fusions({"way": way}, 1)])
    samples, fed = SETTING.draw(0), SETTING.federation(FedAvg(), 0, device="cpu")
    sizes = torch.tensor([float(len(part)) for part in fed.split], dtype=torch.float64)
    weights = sizes / sizes.sum() if weighting == "samples" else torch.full((4,), 0.25, dtype=torch.float64)
    logits = fed.net.predict(weighted_mean(seen[0][0].uploads, weights), samples.x_test)
    assert curves["fused/way"][0] == metrics.accuracy(logits, samples.y_test)
    ensemble = fed.net.predict_all(seen[0][0].uploads, samples.x_test).mean(0)
    assert curves["agreement/way"][0] == metrics.agreement(logits, ensemble)


def test_what_the_server_received_is_told_whatever_it_made_of_it():
    curves, seen = played(FedDF(unlabelled, Distillation(steps=20, lr=0.05)), [study.received])
    samples, fed = SETTING.draw(0), SETTING.federation(FedAvg(), 0, device="cpu")
    ensemble = fed.net.predict_all(seen[0][0].uploads, samples.x_test).mean(0)
    assert curves["ensemble"][0] == metrics.accuracy(ensemble, samples.y_test)
