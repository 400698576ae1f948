"""BatchNorm statistics of a set of inputs, and of several clients together, against plain definitions in float64."""

import pytest
import torch
from federations import FLOAT, Normed, federation
from torch import nn

from fedlib import models, normalisation, rng
from fedlib.models import Net
from fedlib.normalisation import batchnorm_layers, estimated, mixture


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


def deep():
    return Net(models.NormedCNN(1, 8, (4, 6), (5,)), dtype=FLOAT)


def test_layers_are_found_by_type_in_order():
    assert list(batchnorm_layers(deep())) == ["body.1", "body.5", "body.10"]
    assert set(batchnorm_layers(deep()).values()) == {0.1}
    assert batchnorm_layers(Net(models.NormedCNN(1, 8, norm="group"))) == {}


def test_estimated_statistics_are_those_of_the_inputs_layer_by_layer():
    net, x = deep(), draw(12, 1, 8, 8)
    state = estimated(net, net.initial(), x)
    h = x
    for i, layer in enumerate(net.module.body):
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            over = (0, 2, 3) if h.dim() == 4 else (0,)
            torch.testing.assert_close(state[f"body.{i}.running_mean"], h.mean(over))
            torch.testing.assert_close(state[f"body.{i}.running_var"], h.var(over))  # unbiased
        h = layer(h)  # in training mode: normalised by this batch


def test_estimating_changes_nothing_but_statistics():
    net, x = deep(), draw(12, 1, 8, 8)
    start, kept = net.initial(), net.initial()
    state = estimated(net, start, x)
    assert all(torch.equal(start[n], kept[n]) for n in start), "the given state is left alone"
    moved = {n for n in state if not torch.equal(state[n], start[n])}
    assert moved == set(net.buffers)
    torch.testing.assert_close(estimated(net, state, x)["body.10.running_var"], state["body.10.running_var"])


def test_old_statistics_do_not_matter():
    net, x = deep(), draw(12, 1, 8, 8)
    wild = {n: t + 7 if "running" in n else t for n, t in net.initial().items()}
    one, two = estimated(net, net.initial(), x), estimated(net, wild, x)
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_a_layer_without_momentum_is_refused():
    net = Net(nn.Sequential(nn.BatchNorm1d(3, momentum=None)), dtype=FLOAT)
    with pytest.raises(ValueError, match="the statistics of 0 cannot be read off one batch"):
        estimated(net, net.initial(), draw(4, 3))


def test_mixture_is_what_pooled_data_have():
    """At the first layer, where all agree on what comes before; a plain mean of variances is too small."""
    net = Net(rng.build(Normed, 0), dtype=FLOAT)
    sets = [draw(40, 5, seed=s) + 3 * s for s in range(4)]
    states = [estimated(net, net.initial(), x) for x in sets]
    for state, x in zip(states, sets, strict=True):  # population variances, as the law of total variance has them
        state["body.1.running_var"] = state["body.1.running_var"] * (len(x) - 1) / len(x)
    mixed, inputs = mixture(net, states), net.module.body[0](torch.cat(sets))
    torch.testing.assert_close(mixed["body.1.running_mean"], inputs.mean(0))
    torch.testing.assert_close(mixed["body.1.running_var"], inputs.var(0, correction=0))
    plain = torch.stack([s["body.1.running_var"] for s in states]).mean(0)
    assert (plain < mixed["body.1.running_var"]).all()
    assert plain.sum() < 0.7 * mixed["body.1.running_var"].sum()


def test_a_federations_models_can_be_refreshed():
    fed = federation(model=Normed, sizes=(20, 20), participation=1.0)
    fed.run(2)
    fresh = normalisation.estimated(fed.net, fed.state, fed.x)
    assert set(fresh) == set(fed.state)
    assert torch.isfinite(fed.net.predict(fresh, fed.x)).all()
