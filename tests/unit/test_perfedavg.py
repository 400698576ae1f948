"""Per-FedAvg: identities in float64 of its three gradients; and the traps, each shown to go wrong."""

import math
from functools import partial

import pytest
import torch
from federations import ALGORITHMS, FLOAT, NORMABLE, Normed, distance, everything, federation, same, samples
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.func import functional_call, grad, hessian

from fedlib import rng
from fedlib.algorithms import FedAvg, PerFedAvg
from fedlib.algorithms.perfedavg import (
    VARIANTS,
    Updated,
    companions,
    curvature,
    difference,
    meta_gradient,
    moved,
    norm,
    slope,
)
from fedlib.federation import Local
from fedlib.ledger import payload_bytes
from fedlib.losses import cross_entropy
from fedlib.stacking import Stack

CASES = settings(deadline=None, max_examples=30)
SEEDS, RATES = st.integers(0, 10**6), st.floats(0.01, 0.5)


def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 6), nn.ELU(), nn.Linear(6, 3))


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


def quadratic(seed):
    """f(w) = w'Aw/2 - b'w of seven weights in two tensors, with its matrix and its vector."""
    a, b = normal(seed, 7, 7), normal(seed + 1, 7)
    a = (a + a.T) / 2

    def risk(weights):
        w = torch.cat([weights["u"].flatten(), weights["v"]])
        return w @ a @ w / 2 - b @ w

    return risk, a, b


def flat(weights):
    return torch.cat([weights["u"].flatten(), weights["v"]])


def start(seed):
    return {"u": normal(seed + 2, 2, 2), "v": normal(seed + 3, 3)}


# --- quadratics: everything is known --------------------------------------------------------------------


@CASES
@given(SEEDS, RATES, st.floats(1e-3, 10.0))
def test_on_quadratics_a_central_difference_is_the_hessian_whatever_its_width(seed, alpha, delta):
    risk, a, _ = quadratic(seed)
    w, d = start(seed), start(seed + 7)
    torch.testing.assert_close(flat(difference(risk, w, d, delta)), a @ flat(d), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(flat(curvature(risk, w, d)), a @ flat(d), rtol=1e-12, atol=1e-12)


@CASES
@given(SEEDS, RATES)
def test_three_batches_each_have_their_place(seed, alpha):
    (inner, a, b), (outer, c, e), (third, h, _) = (quadratic(seed + i) for i in (0, 20, 40))
    w = flat(start(seed))
    ahead = w - alpha * (a @ w - b)
    g = c @ ahead - e
    expected = {"fo": g, "hf": g - alpha * h @ g, "exact": g - alpha * h @ g}
    for variant, value in expected.items():
        loss, found = meta_gradient((inner, outer, third), start(seed), alpha, variant)
        torch.testing.assert_close(flat(found), value, rtol=1e-6, atol=1e-6)
        assert float(loss) == pytest.approx(float(ahead @ c @ ahead / 2 - e @ ahead), rel=1e-9)


FIXED = {"fedavg": 2.0, "fo": 0.7317073, "hf": -0.2738589, "exact": -0.2738589}


@pytest.mark.parametrize(("variant", "fixed"), FIXED.items())
def test_fixed_points_on_quadratics_of_one_weight(variant, fixed):
    a, c, alpha, w = (0.5, 1.0, 4.0), (-2.0, 0.0, 3.0), 0.2, {"w": torch.zeros(1, dtype=FLOAT)}
    power = {"fedavg": 0, "fo": 1}.get(variant, 2)
    weights = [ai * (1 - alpha * ai) ** power for ai in a]
    assert fixed == pytest.approx(sum(x * y for x, y in zip(weights, c, strict=True)) / sum(weights), abs=1e-6)
    for _ in range(600):
        steps = []
        for ai, ci in zip(a, c, strict=True):
            risk = lambda v, ai=ai, ci=ci: (ai / 2 * (v["w"] - ci) ** 2).sum()  # noqa: E731
            g = slope(risk, w)[1] if variant == "fedavg" else meta_gradient((risk,) * 3, w, alpha, variant)[1]
            steps.append(w["w"] - 0.1 * g["w"])
        w = {"w": sum(steps) / 3}
    assert float(w["w"]) == pytest.approx(fixed, abs=1e-6)


@CASES
@given(SEEDS)
def test_a_stack_is_each_client_alone(seed):
    """Sizes and widths of the difference are each client's own."""

    def risk(weights):
        return weights["u"].square().flatten(-2).sum(-1) * (1 + weights["v"].cos().sum(-1))

    alone = [(start(seed + i), start(seed + 50 + i)) for i in (0, 9)]
    alone[1] = tuple({n: 30 * t for n, t in s.items()} for s in alone[1])
    weights, direction = (
        Stack({n: torch.stack([s[n] for s in part]) for n in "uv"}) for part in zip(*alone, strict=True)
    )
    for product in (curvature, partial(difference, delta=1e-4)):
        found = product(risk, weights, direction)
        for k, (w, d) in enumerate(alone):
            expected = product(risk, w, d)
            for n in "uv":
                torch.testing.assert_close(found[n][k], expected[n], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm(weights, True)[1], norm(alone[1][0], False))


# --- a network: the derivative of the loss after a step ----------------------------------------------------


def network_risks(seed, n=6, dtype=FLOAT):
    """Losses of three batches as functions of a network's weights, and the network."""
    module, found = smooth().to(dtype), []
    for i in range(3):
        y = torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed + i))
        found.append(partial(network_loss, module, normal(seed + i, n, 5).to(dtype), y))
    return found, module


def network_loss(module, x, y, weights):
    return cross_entropy(functional_call(module, dict(weights), (x,)), y)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_with_one_batch_the_exact_variant_is_the_gradient_of_the_loss_after_a_step(alpha):
    (risk, *_), module = network_risks(3)
    w = {n: p.detach() for n, p in module.named_parameters()}

    def after(weights):
        g = grad(risk)(weights)
        return risk({n: weights[n] - alpha * g[n] for n in weights})

    expected, found = grad(after)(w), meta_gradient((risk,) * 3, w, alpha, "exact")[1]
    assert distance(found, expected) < 1e-12
    assert distance(meta_gradient((risk,) * 3, w, alpha, "hf", 1e-5)[1], expected) < 1e-8
    assert distance(meta_gradient((risk,) * 3, w, alpha, "fo")[1], expected) > 1e-3


def test_the_hessian_is_that_of_the_third_batch_at_the_weights_before_the_step():
    risks, module = network_risks(5)
    w = {n: p.detach() for n, p in module.named_parameters()}
    ahead = slope(risks[1], moved(w, slope(risks[0], w)[1], -0.7))[1]
    blocks = hessian(risks[2])(w)
    for n in w:
        bent = sum(torch.tensordot(blocks[n][m], ahead[m], ahead[m].ndim) for m in w)
        for variant, room in (("exact", 1e-12), ("hf", 1e-6)):
            found = meta_gradient(risks, w, 0.7, variant)[1][n]
            torch.testing.assert_close(found, ahead[n] - 0.7 * bent, rtol=0, atol=room)
    again = meta_gradient((risks[0], risks[1], risks[0]), w, 0.7, "exact")[1]  # one batch for D and D''
    assert distance(again, meta_gradient(risks, w, 0.7, "exact")[1]) > 1e-3


def test_in_single_precision_the_width_follows_the_weights_not_the_direction():
    """With a fixed width as in other code a small gradient drowns in rounding."""
    (*_, exact_risk), module = network_risks(7)
    (*_, risk), _ = network_risks(7, dtype=torch.float32)
    w = {n: p.detach().float() for n, p in module.named_parameters()}
    small = {n: 1e-5 * torch.ones_like(t) for n, t in w.items()}
    exact = curvature(exact_risk, *({n: t.double() for n, t in v.items()} for v in (w, small)))
    (_, above), (_, below) = (slope(risk, moved(w, small, side * 1e-3)) for side in (1, -1))
    fixed = {n: (above[n] - below[n]) / 2e-3 for n in w}
    good, bad = (
        float(norm({n: found[n].double() - exact[n] for n in w}, False) / norm(exact, False))
        for found in (difference(risk, w, small, 1e-3), fixed)
    )
    assert good < 0.02
    assert bad > 0.5


def test_no_direction_has_no_curvature():
    risk, *_ = quadratic(1)
    zero = {n: torch.zeros_like(t) for n, t in start(1).items()}
    assert all(not t.any() for t in difference(risk, start(1), zero, 1e-3).values())


# --- the algorithm in the round loop -------------------------------------------------------------------------


def play(algorithm, rounds=3, **options):
    fed = federation(algorithm, **{"model": smooth, "participation": 1.0} | options)
    fed.run(rounds)
    return fed


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_without_a_step_it_is_fedavg_bit_for_bit(variant, executor):
    same(everything(play(PerFedAvg(0.0, variant), executor=executor)), everything(play(FedAvg(), executor=executor)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_smallest_step_is_nearly_fedavg(variant):
    """So the batches D' are FedAvg's."""
    far = [distance(play(PerFedAvg(alpha, variant)).state, play(FedAvg()).state) for alpha in (1e-4, 1e-6)]
    assert far[1] < 1e-6
    assert 50 < far[0] / far[1] < 200


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_round_by_hand(variant):
    """Two clients with batches of ten; after a step the local iterate goes on from w, not from where the step led."""
    local = Local(epochs=2, batch_size=10, lr=0.3)
    fed = federation(PerFedAvg(0.4, variant, 1e-5), model=smooth, sizes=(20, 10), local=local, participation=1.0)
    told, module, ends = companions(fed), smooth().to(FLOAT), []
    for k, rows in enumerate(fed.split):
        x, y, w = fed.x[rows], fed.y[rows], {n: t.clone() for n, t in fed.state.items()}
        draws = rng.stream(fed.seed, "batches", 0, k, 0)
        for at in (part for _ in range(2) for part in torch.randperm(len(rows), generator=draws).split(10)):
            first, last = told[rows[at], 1], told[rows[at], 3]
            inner, outer, third = (partial(network_loss, module, x[d], y[d]) for d in (first, at, last))
            w = moved(w, meta_gradient((inner, outer, third), w, 0.4, variant, 1e-5)[1], -0.3)
        ends.append(w)
    fed.run(1)
    assert distance(fed.state, {n: 2 / 3 * ends[0][n] + 1 / 3 * ends[1][n] for n in fed.state}) < 1e-9


def test_companions_are_three_batches_drawn_apart():
    fed = federation(PerFedAvg(0.1))
    told = companions(fed)
    first = told.clone()
    assert torch.equal(told[:, 0], fed.y)
    for rows in fed.split:
        for column in (1, 3):
            assert torch.equal(told[rows, column].sort().values, torch.arange(len(rows)))
            assert torch.equal(told[rows, column + 1], fed.y[rows[told[rows, column]]])
    largest = max(fed.split, key=len)
    own = torch.arange(len(largest))
    assert not torch.equal(told[largest, 1], own)
    assert not torch.equal(told[largest, 1], told[largest, 3])
    fed.run(1)
    assert not torch.equal(companions(fed)[largest], first[largest])  # and anew in each round


def test_clients_of_one_size_have_companions_of_their_own():
    fed = federation(PerFedAvg(0.1), sizes=(12, 12))
    told = companions(fed)
    one, other = (told[rows] for rows in fed.split)
    assert len(one) == len(other)
    for column in (1, 3):
        assert not torch.equal(one[:, column], other[:, column])


def test_a_companion_says_nothing_of_its_sample():
    """Over many rounds every place is as often the companion of a sample as any other, and of both batches together."""
    fed = federation(PerFedAvg(0.1), sizes=(4,))
    seen = torch.zeros(4, 4, 4)
    rows = fed.split[0]
    for number in range(2000):
        fed.round = number
        told = companions(fed)[rows]
        seen[torch.arange(4), told[:, 1], told[:, 3]] += 1
    assert float((seen / 2000 - 1 / 16).abs().max()) < 0.03


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", [smooth, Normed])
def test_clients_together_are_clients_alone(variant, model):
    options = {"model": model, "sizes": NORMABLE}
    alone, together = (play(PerFedAvg(0.3, variant), executor=e, **options) for e in ("sequential", "batched"))
    same(everything(alone), everything(together), 1e-9)


def test_only_the_middle_batch_moves_the_statistics_of_batchnorm():
    """The two passes of the difference, and the step before, would move them three times more."""
    fed = federation(PerFedAvg(0.3), model=Normed, sizes=(8,), local=Local(epochs=3, batch_size=8, lr=0.1))
    fed.run(1)
    assert int(fed.state["body.1.num_batches_tracked"]) == 3


def test_clients_weigh_as_fedavg_or_all_alike():
    assert PerFedAvg().weighting == FedAvg.weighting == "samples"
    plain, even = (play(PerFedAvg(0.3, weighting=w), sizes=(3, 20)) for w in ("samples", "uniform"))
    assert distance(plain.state, even.state) > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_ledger_is_fedavgs(variant):
    fed, plain = play(PerFedAvg(0.3, variant)), play(FedAvg())
    assert (fed.ledger.down, fed.ledger.up) == (plain.ledger.down, plain.ledger.up)
    assert fed.ledger.total == 2 * 3 * fed.clients * payload_bytes(fed.state)


def test_gradients_of_a_step():
    counted = []

    def risk(w):
        counted.append(1)
        return w["w"].square().sum()

    for variant, calls in {"fo": 2, "hf": 4, "exact": 3}.items():
        counted.clear()
        meta_gradient((risk,) * 3, {"w": torch.ones(2)}, 0.1, variant)
        assert len(counted) == calls


def test_the_loss_of_a_round_is_that_after_the_step():
    local = Local(epochs=1, batch_size=20, lr=1e-9)
    fed = federation(PerFedAvg(0.4), model=smooth, sizes=(20,), local=local)
    told, own = companions(fed), fed.x[fed.split[0]]
    module, w = smooth().to(FLOAT), dict(fed.state)
    before = grad(partial(network_loss, module, own[told[:, 1]], told[:, 2]))(w)
    after = {n: w[n] - 0.4 * before[n] for n in w}
    fed.run(1)
    assert fed.history[0]["loss"] == pytest.approx(float(network_loss(module, fed.x, fed.y, after)), abs=1e-9)


def test_fedavg_with_an_update_trains_as_fedavg_does():
    same(everything(play(Updated(0.3))), everything(play(FedAvg())))
    plain, even = (play(Updated(0.3, weighting=w), sizes=(3, 20)) for w in ("samples", "uniform"))
    assert distance(plain.state, even.state) > 1e-4
    with pytest.raises(ValueError, match="weighting must be 'uniform' or 'samples', got 'mean'"):
        Updated(0.3, "mean")
    with pytest.raises(ValueError, match="alpha must be a finite number >= 0"):
        Updated(math.nan)


# --- nonsense -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.1", None, True])
def test_a_rate_is_a_number(value):
    with pytest.raises(ValueError, match="alpha must be a finite number >= 0"):
        PerFedAvg(value)


@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan])
def test_a_width_is_positive(value):
    with pytest.raises(ValueError, match="delta must be a finite number > 0"):
        PerFedAvg(0.1, delta=value)


def test_variants_and_weightings_have_names():
    with pytest.raises(ValueError, match="variant must be 'fo' or 'hf' or 'exact', got 'first'"):
        PerFedAvg(0.1, "first")
    with pytest.raises(ValueError, match="weighting must be 'uniform' or 'samples', got 'equal'"):
        PerFedAvg(0.1, weighting="equal")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"variant": "HF"}, "variant must be 'fo' or 'hf' or 'exact', got 'HF'"),
        ({"alpha": -0.1}, "alpha must be a finite number >= 0, got -0.1"),
        ({"alpha": math.nan}, "alpha must be a finite number >= 0"),
        ({"delta": 0.0}, "delta must be a finite number > 0, got 0.0"),
        ({"delta": -1e-3}, "delta must be a finite number > 0"),
    ],
)
def test_a_gradient_of_nonsense_is_refused(given, said):
    risks, module = network_risks(3)
    w = {n: p.detach() for n, p in module.named_parameters()}
    with pytest.raises(ValueError, match=said):
        meta_gradient(tuple(risks), w, **{"alpha": 0.1} | given)


def test_augmentation_and_targets_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match="takes batches as they are"):
        federation(PerFedAvg(0.1), local=Local(augment=lambda x, g: x))
    x, _, split = samples()
    with pytest.raises(ValueError, match=r"learns classes \[N\], got targets torch.float64"):
        federation(PerFedAvg(0.1), data=(x, x, split))
    federation(PerFedAvg(0.0), local=Local(augment=lambda x, g: x))  # FedAvg takes them


def test_it_is_among_those_that_all_executors_are_tested_with():
    assert any(isinstance(make(), PerFedAvg) for make in ALGORITHMS.values())
