"""Model-contrastive learning: its identities in float64, whose model is the previous one, and the usual mistakes."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from fedlib import losses, models, partition, rng
from fedlib.algorithms import FedAvg, FedProx, Moon
from fedlib.executors import Context
from fedlib.federation import Federation, Local

CASES = settings(deadline=None, max_examples=30)
FLOAT = torch.float64


def representations(seed, batch=6, width=5):
    """z of the model in training, of the global and of the previous one, [batch, width] each."""
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, width, generator=g, dtype=FLOAT) for _ in range(3))


def cosine(a, b):
    return (a * b).sum(1) / (a.square().sum(1).sqrt() * b.square().sum(1).sqrt())


def by_definition(z, z_global, z_previous, tau):
    """The loss as the paper prints it."""
    e, f = torch.exp(cosine(z, z_global) / tau), torch.exp(cosine(z, z_previous) / tau)
    return -torch.log(e / (e + f)).mean()


def gradient(loss, z, *rest):
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, *rest), leaf)[0]


# --- the loss ---------------------------------------------------------------------------------------


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 8))
def test_value_from_the_definition(seed, tau, batch):
    z = representations(seed, batch)
    assert float(losses.model_contrastive(*z, tau)) == pytest.approx(float(by_definition(*z, tau)), abs=1e-12)


@CASES
@given(st.integers(0, 10**6))
def test_it_is_the_cross_entropy_of_the_first_of_two(seed):
    z, zg, zp = representations(seed)
    logits = torch.stack([cosine(z, zg), cosine(z, zp)], 1) / 0.5
    expected = F.cross_entropy(logits, torch.zeros(len(z), dtype=torch.long))
    torch.testing.assert_close(losses.model_contrastive(z, zg, zp, 0.5), expected, rtol=0, atol=1e-13)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5]))
def test_equal_references_give_log_2_and_no_gradient_wherever_z_is(seed, tau):
    z, zg, _ = representations(seed)
    for place in (z, zg):
        assert float(losses.model_contrastive(place, zg, zg, tau)) == pytest.approx(math.log(2), abs=1e-15)
        assert float(gradient(losses.model_contrastive, place, zg, zg, tau).abs().max()) < 1e-15


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.5, 1.0]))
def test_bounds(seed, tau):
    low, high = math.log1p(math.exp(-2 / tau)), math.log1p(math.exp(2 / tau))
    z, zg, zp = representations(seed)
    assert low <= float(losses.model_contrastive(z, zg, zp, tau)) <= high
    assert float(losses.model_contrastive(z, z, -z, tau)) == pytest.approx(low, abs=1e-14)  # and they are reached
    assert float(losses.model_contrastive(z, -z, z, tau)) == pytest.approx(high, abs=1e-14)


def test_bounds_at_the_papers_temperature():
    z = representations(0)[0]
    found = [float(losses.model_contrastive(z, s * z, -s * z, 0.5)) for s in (1, -1)]
    assert [round(v, 5) for v in found] == [0.01815, 4.01815]


@CASES
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_lengths_do_not_matter(seed, a, b, c):
    z, zg, zp = representations(seed)
    one, other = losses.model_contrastive(z, zg, zp), losses.model_contrastive(a * z, b * zg, c * zp)
    torch.testing.assert_close(other, one, rtol=0, atol=1e-13)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.5, 1.0]))
def test_both_forces_have_the_size_p_over_tau(seed, tau):
    z, zg, zp = representations(seed)
    leaf = z.clone().requires_grad_()
    s, t = cosine(leaf, zg), cosine(leaf, zp)
    p = torch.sigmoid((t - s).detach() / tau)
    (expected,) = torch.autograd.grad((p / tau * (t - s)).mean(), leaf)
    torch.testing.assert_close(gradient(losses.model_contrastive, z, zg, zp, tau), expected, rtol=0, atol=1e-14)


@CASES
@given(st.integers(0, 10**6))
def test_where_local_training_begins_only_the_previous_model_acts(seed):
    _, zg, zp = representations(seed)
    force = gradient(losses.model_contrastive, zg, zg, zp)
    leaf = zg.clone().requires_grad_()
    p = torch.sigmoid((cosine(zg, zp) - 1) / 0.5)
    (repulsion,) = torch.autograd.grad((p / 0.5 * cosine(leaf, zp)).mean(), leaf)
    torch.testing.assert_close(force, repulsion, rtol=0, atol=1e-14)
    step = zg - 1e-4 * force
    assert bool((cosine(step, zp) < cosine(zg, zp)).all())  # away from the previous model
    assert bool((cosine(step, zg) < 1).all())  # and so away from the global one as well


@CASES
@given(st.integers(0, 10**6))
def test_close_to_the_global_model_it_is_no_constant(seed):
    """Section 4.7 of the paper says that z = z_global makes it one; z_global = z_previous does."""
    _, zg, zp = representations(seed)
    assert float(gradient(losses.model_contrastive, zg, zg, zp).abs().max()) > 1e-6


def test_frozen_models_get_no_gradient():
    z, zg, zp = (t.clone().requires_grad_() for t in representations(1))
    grads = torch.autograd.grad(losses.model_contrastive(z, zg, zp), [z, zg, zp], allow_unused=True)
    assert [g is None for g in grads] == [False, True, True]


def test_gradient_against_finite_differences():
    z, zg, zp = representations(2)
    assert torch.autograd.gradcheck(lambda v: losses.model_contrastive(v, zg, zp, 0.5), z.requires_grad_())


def test_leading_dimensions_are_kept():
    many = [torch.stack(v) for v in zip(*(representations(s) for s in range(3)), strict=True)]
    apart = torch.stack([losses.model_contrastive(*representations(s)) for s in range(3)])
    torch.testing.assert_close(losses.model_contrastive(*many), apart, rtol=0, atol=1e-14)


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        losses.model_contrastive(*representations(0), 0)


# Traps of the loss: the wrong version fails.


def test_swapped_columns_train_the_wrong_way():
    z, zg, zp = representations(3)
    right, swapped = (gradient(losses.model_contrastive, z, *pair) for pair in ((zg, zp), (zp, zg)))
    leaf = z.clone().requires_grad_()
    (upwards,) = torch.autograd.grad((cosine(leaf, zg) - cosine(leaf, zp)).sum(), leaf)
    assert bool(((right * upwards).sum(1) < 0).all())  # descending widens the margin
    assert bool(((swapped * upwards).sum(1) > 0).all())  # descending closes it


def test_a_batch_of_one_keeps_its_dimension():
    z, zg, zp = representations(4, batch=1)
    assert losses.model_contrastive(z, zg, zp).shape == ()
    squeezed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(0))(torch.randn(1, 5, 2, 2))  # as h.squeeze() does
    assert squeezed.ndim == 1  # the batch is gone: its "cosine over the last dimension" would be over samples
    one = projected()(torch.randn(1, 6))
    assert one.shape == (1, 4)


# --- the network ------------------------------------------------------------------------------------


def projected(classes=4):
    return models.Projected(models.MLP(6, (8, 7), classes), 5)


class Normed(nn.Module):
    """An encoder with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x, features=False):
        h = self.body(x)
        return h if features else self.head(h)


def test_the_papers_network_has_its_number_of_weights():
    paper = models.Projected(models.LeNet5(channels=3, size=32), 256)
    assert sum(w.numel() for w in paper.parameters()) == 92_626
    shapes = [tuple(w.shape) for n, w in paper.named_parameters() if n.endswith("weight")]
    assert shapes == [(6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (84, 84), (256, 84), (10, 256)]


def test_logits_are_the_output_layer_of_the_representation():
    net, x = projected().double(), 30 * torch.randn(60, 6, dtype=FLOAT)
    z = net(x, features=True)
    h = net.encoder.body(x)
    first, second = net.projection[0], net.projection[2]
    expected = F.relu(h @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)
    assert bool((z < 0).any())  # linear: a ReLU after the projection would shut half of all directions
    torch.testing.assert_close(net(x), z @ net.head.weight.T + net.head.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", [models.SmallCNN, lambda: models.ResNet8(1), lambda: models.MLP(64, (8,))])
def test_any_network_gets_a_projection(base):
    net = models.Projected(base(), 16)
    x = torch.randn(2, 1, 8, 8)
    assert net(x, features=True).shape == (2, 16)
    assert net(x).shape == (2, 10)


def test_a_base_without_head_is_an_error():
    with pytest.raises(ValueError, match="Linear has no linear layer 'head'"):
        models.Projected(nn.Linear(3, 2))


# --- in the federation ------------------------------------------------------------------------------


def federation(algorithm, rounds=3, epochs=2, executor="sequential", model=projected, **options):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 6, generator=g), torch.arange(80) % 4
    settings = {"participation": 0.6, "device": "cpu", "dtype": FLOAT} | options
    split = partition.shards(y, 5, 2, rng.stream(0, "split"))
    local = Local(epochs, settings.pop("batch_size", 7), 0.1, 0.9)
    fed = Federation(model, x, y, split, algorithm, local=local, executor=executor, **settings)
    fed.run(rounds)
    return fed


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


def distance(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in a)


@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_mu_zero_is_fedavg_bit_for_bit(executor):
    plain = federation(FedAvg(), executor=executor).state
    assert same(federation(Moon(0.0), executor=executor).state, plain)
    assert not same(federation(Moon(0.1), executor=executor).state, plain)


def test_a_vanishing_mu_tends_to_fedavg():
    assert distance(federation(Moon(1e-9)).state, federation(FedAvg()).state) < 1e-6


def test_the_first_round_is_fedavgs_for_nobody_has_a_previous_model():
    assert distance(federation(Moon(5.0), 1).state, federation(FedAvg(), 1).state) < 1e-13
    assert distance(federation(Moon(5.0), 2).state, federation(FedAvg(), 2).state) > 1e-4


def test_the_first_step_of_later_rounds_is_not_fedavgs():
    """Unlike distillation from the received model, which begins with no gradient of its own."""

    def one_step(algorithm, start):
        fed = federation(FedAvg(), 0, participation=1.0, epochs=1, batch_size=1000)
        fed.algorithm = algorithm
        fed.state, fed.memory, fed.round = start.state, dict(start.memory), start.round
        fed.run(1)
        return fed.state

    before = federation(Moon(1.0), 1, participation=1.0)
    plain = one_step(FedAvg(), before)
    assert distance(one_step(Moon(1.0), before), plain) > 1e-4
    assert distance(one_step(FedProx(1.0), before), plain) < 1e-14


def test_the_previous_model_is_the_clients_own_last_one_whenever_it_was_sampled():
    found, wanted, stale = {}, {}, 0

    def watch(fed, seen):
        nonlocal stale
        for k, state in zip(seen.clients, seen.states, strict=True):
            given = found.pop(k)
            own, when = wanted.get(k, (seen.received[0], seen.number))
            assert same(given, own)
            if k in wanted:
                stale += seen.number - when > 1
                assert distance(given, seen.received[0]) > 1e-6  # not the global model of the last round
            wanted[k] = {n: t.clone() for n, t in state.items()}, seen.number
        return {}

    class Spied(Moon):
        def context(self, fed, client):
            found[client] = super().context(fed, client)
            return found[client]

    federation(Spied(1.0), 14, participation=0.4, observers=[watch])
    assert stale >= 3  # some came back after rounds without them


def test_what_is_kept_is_no_view_of_all_clients():
    fed = federation(Moon(1.0), executor="batched")
    for own in fed.memory["previous"].values():
        assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in own.values())


@pytest.mark.parametrize("model", [projected, lambda: models.Projected(Normed(), 5)])
def test_executors_agree_while_some_clients_have_no_previous_model(model):
    one, all_ = (
        federation(Moon(2.0), 4, executor=e, model=model, participation=0.4, batch_size=8)
        for e in ("sequential", "batched")
    )
    assert distance(one.state, all_.state) < 1e-10
    assert one.memory["previous"].keys() == all_.memory["previous"].keys()
    for k, own in one.memory["previous"].items():
        assert distance(own, all_.memory["previous"][k]) < 1e-10


def test_bytes_are_fedavgs_and_the_head_is_part_of_them():
    ours, plain = federation(Moon(1.0)).ledger, federation(FedAvg()).ledger
    weights = sum(w.numel() for w in projected().parameters())
    assert (ours.down, ours.up) == (plain.down, plain.up) == ([3 * 8 * weights] * 3,) * 2
    bare = federation(FedAvg(), model=lambda: models.MLP(6, (8, 7), 4)).ledger
    assert bare.total < plain.total  # without the head it would be another, smaller model: no fair baseline


def objective_by_hand(net, state, received, own, x, y, what):
    """Cross-entropy plus 2 times the loss at temperature 0.5, of the given layer's outputs, references in evaluation
    mode.
    """
    student = {n: t.clone() for n, t in state.items()}
    z, zg, zp = (what(net, s, x, train) for s, train in ((student, True), (received, False), (own, False)))
    logits = net({n: t.clone() for n, t in state.items()}, x, train=True)
    return float((F.cross_entropy(logits, y) + 2 * by_definition(z, zg, zp, 0.5)).detach())


def encoder_output(net, state, x, train):
    module = models.Projected(Normed(), 5).double().train(train)
    module.load_state_dict(state)
    return module.encoder(x)


LAYERS = {
    "projection": lambda net, state, x, train: net(state, x, train=train, features=True),
    "logits": lambda net, state, x, train: net(state, x, train=train),
    "encoder": encoder_output,
    "references in training mode": lambda net, state, x, train: net(
        {n: t.clone() for n, t in state.items()}, x, train=True, features=True
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_it_contrasts_projections_with_frozen_models_in_evaluation_mode(layer):
    net = models.Net(rng.build(lambda: models.Projected(Normed(), 5), 0, "init"), dtype=FLOAT)
    g = torch.Generator().manual_seed(0)

    def shaken():
        noise = {n: torch.randn(t.shape, generator=g, dtype=FLOAT) for n, t in net.initial().items()}
        return {n: t + 0.3 * noise[n] if n in net.parameters else t for n, t in net.initial().items()}

    state, received, own = shaken(), shaken(), shaken()
    x, y = torch.randn(9, 6, generator=g, dtype=FLOAT), torch.arange(9) % 4
    expected = objective_by_hand(net, state, received, own, x, y, LAYERS[layer])
    before = {n: t.clone() for n, t in received.items()}
    moving = {n: t.clone() for n, t in state.items()}
    found = float(Moon(2.0).objective(net, moving, x, y, Context(received, own)).detach())
    if layer == "projection":
        assert found == pytest.approx(expected, abs=1e-12)
        assert same(received, before)  # frozen models keep their statistics
        assert int(moving["encoder.body.1.num_batches_tracked"]) == 1  # the student's move once a batch, not twice
    else:
        assert abs(found - expected) > 1e-3


def test_impossible_settings_are_errors():
    with pytest.raises(ValueError, match="mu must be a finite number >= 0, got -1"):
        Moon(-1.0)
    with pytest.raises(ValueError, match=r"temperature must be a finite number > 0, got 0\.0"):
        Moon(1.0, 0.0)
