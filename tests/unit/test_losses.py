"""Distillation and proximal losses: closed forms, limits, gradients, errors; not-true distillation: test_fedntd.py."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from fedlib import losses
from fedlib.stacking import Stack

CASES = settings(deadline=None, max_examples=30)


def draw(seed, batch=6, classes=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, classes, generator=g, dtype=torch.float64).unbind()


def gradient(loss, leaf):
    leaf = leaf.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 4.0, 20.0]))
def test_kd_is_torchs_divergence_times_squared_temperature(seed, t):
    z, zg = draw(seed)
    expected = t**2 * F.kl_div((z / t).log_softmax(1), (zg / t).softmax(1), reduction="batchmean")
    assert float(losses.kd(z, zg, t)) == pytest.approx(float(expected), abs=1e-11)


@CASES
@given(st.integers(0, 10**6))
def test_kl_from_the_definition_teacher_first(seed):
    z, zg = draw(seed)
    q, p = z.softmax(1), zg.softmax(1)
    assert float(losses.kl(zg, z)) == pytest.approx(float((p * (p / q).log()).sum(1).mean()), abs=1e-12)
    assert float(losses.kl(zg, z)) >= 0
    assert float(losses.kl(z, z + 5.0)) == pytest.approx(0, abs=1e-14)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([1.0, 3.0]))
def test_kd_gradient_is_temperature_times_the_difference_of_predictions(seed, t):
    z, zg = draw(seed)
    found = gradient(lambda s: losses.kd(s, zg, t), z)
    torch.testing.assert_close(found, t * ((z / t).softmax(1) - (zg / t).softmax(1)) / len(z), rtol=0, atol=1e-14)


def test_at_high_temperature_kd_is_matching_centred_logits():
    """Hinton et al. 2015, section 2.1: the gradient tends to (z - v) / C, both centred, and does not shrink with T."""
    z, zg = draw(0)
    limit = ((z - z.mean(1, keepdim=True)) - (zg - zg.mean(1, keepdim=True))) / z.shape[1] / len(z)
    gaps = [float((gradient(lambda s, t=t: losses.kd(s, zg, t), z) - limit).abs().max()) for t in (10, 100, 1000)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]  # the error falls like 1 / T
    assert gaps[2] < 2e-3 * float(limit.abs().max())
    unscaled = gradient(lambda s: losses.kd(s, zg, 1000.0) / 1000.0**2, z)
    assert float(unscaled.abs().max()) < 1e-5 * float(limit.abs().max())  # without T^2 there is nothing left


def test_kd_stays_finite_for_extreme_logits():
    z = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.float64)
    assert bool(torch.isfinite(losses.kd(z, -z, 1.0)))
    assert bool(torch.isfinite(gradient(lambda s: losses.kd(s, -z, 1.0), z)).all())


def test_no_gradient_flows_to_the_teacher():
    z, zg = (v.clone().requires_grad_() for v in draw(1))
    losses.kd(z, zg, 2.0).backward()
    assert zg.grad is None
    assert z.grad is not None


@pytest.mark.parametrize("t", [0, -1.0, float("nan")])
def test_temperature_must_be_positive(t):
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.kd(*draw(0), t)


@CASES
@given(st.integers(0, 10**6), st.floats(0, 10))
def test_proximal_gradient_is_mu_times_the_distance(seed, mu):
    w, anchor = draw(seed)
    found = gradient(lambda v: losses.proximal({"w": v}, {"w": anchor, "more": anchor}, mu), w)
    torch.testing.assert_close(found, mu * (w - anchor), rtol=0, atol=1e-12)
    step = 1e-5
    bump = torch.zeros_like(w)
    bump[2, 3] = step
    ends = [float(losses.proximal({"w": w + sign * bump}, {"w": anchor}, mu)) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(found[2, 3]), abs=1e-5)


def test_proximal_value_sums_over_entries_and_is_squared():
    params = {"a": torch.tensor([3.0]), "b": torch.tensor([0.0, 4.0])}
    zeros = {n: torch.zeros_like(t) for n, t in params.items()}
    assert float(losses.proximal(params, zeros, 2.0)) == 25.0  # not 2/2 * 5, the unsquared norm
    assert float(losses.proximal(params, params, 2.0)) == 0


def test_proximal_anchor_is_fixed():
    w, anchor = (v.clone().requires_grad_() for v in draw(2))
    losses.proximal({"w": w}, {"w": anchor}, 1.0).backward()
    assert anchor.grad is None


def test_mu_must_not_be_negative():
    with pytest.raises(ValueError, match="mu must not be negative, got -1"):
        losses.proximal({}, {}, -1)


@CASES
@given(st.integers(0, 10**6))
def test_the_gradient_of_an_inner_product_is_its_direction(seed):
    w, d = draw(seed)
    found = gradient(lambda v: losses.inner({"a": v, "b": v[:2]}, {"a": d, "b": 3 * d[:2], "more": d}), w)
    expected = d.clone()
    expected[:2] *= 4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert float(losses.inner({"a": w, "b": w[0]}, {"a": d, "b": d[0]})) == pytest.approx(
        float((w * d).sum() + w[0] @ d[0]), abs=1e-12
    )


def test_inner_products_and_proximal_terms_are_one_geometry():
    """mu/2 |w - a|^2 = mu/2 |w|^2 - mu <w, a> + mu/2 |a|^2."""
    w, a = ({"w": v, "b": v[0]} for v in draw(4))
    zero = {n: torch.zeros_like(v) for n, v in w.items()}
    parts = losses.proximal(w, zero, 0.7) - 0.7 * losses.inner(w, a) + losses.proximal(a, zero, 0.7)
    assert float(losses.proximal(w, a, 0.7)) == pytest.approx(float(parts), abs=1e-12)


def test_no_gradient_flows_to_the_direction():
    w, d = (v.clone().requires_grad_() for v in draw(2))
    losses.inner({"w": w}, {"w": d}).backward()
    assert d.grad is None
    torch.testing.assert_close(w.grad, d.detach(), rtol=0, atol=0)


def test_an_inner_product_needs_a_direction_for_every_entry():
    w, d = draw(0)
    with pytest.raises(KeyError, match="bias"):
        losses.inner({"weight": w, "bias": w[0]}, {"weight": d})


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3, 4)])
def test_a_direction_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"differ at w: \[3, 4\]"):
        losses.inner({"w": torch.ones(3, 4)}, {"w": torch.ones(shape)})


def test_a_stack_of_directions_is_refused_for_plain_weights():
    with pytest.raises(ValueError, match="differ at w"):
        losses.inner({"w": torch.ones(3)}, Stack({"w": torch.ones(2, 3)}))
