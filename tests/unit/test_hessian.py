"""Curvature without the matrix: exact on quadratics, equal to autograd's Hessian elsewhere."""

import math

import numpy as np
import pytest
import torch
from federations import FLOAT, small
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from fedlib import hessian, require, rng
from fedlib.hessian import Hessian
from fedlib.models.net import Net

CASES = settings(deadline=None, max_examples=20)


def symmetric(values, seed):
    """A symmetric matrix with these eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return torch.from_numpy(q @ np.diag(values) @ q.T)


def split(w):
    return torch.cat([w["a"].flatten(), w["b"]])


def quadratic(matrix, seed=0):
    """w^T A w / 2 + b^T w of weights in two tensors, at a random place."""
    g = rng.stream("quadratic", seed)
    w, b = torch.randn(2, len(matrix), generator=g, dtype=FLOAT)
    weights = {"a": w[:4].view(2, 2), "b": w[4:]}
    return Hessian(lambda v: 0.5 * split(v) @ matrix @ split(v) + b @ split(v), weights)


# --- products ------------------------------------------------------------------------------------------------------


def test_a_product_with_a_quadratic_is_the_matrix_times_the_direction():
    matrix = symmetric([3.0, -1.0, 0.5, 2.0, 0.1, -0.2], 1)
    direction = torch.randn(6, generator=rng.stream("d"), dtype=FLOAT)
    found = quadratic(matrix)({"a": direction[:4].view(2, 2), "b": direction[4:]})
    torch.testing.assert_close(split(found), matrix @ direction, rtol=0, atol=1e-13)


def network():
    net = Net(rng.build(small, 2), dtype=FLOAT)
    g = rng.stream("samples")
    return net, torch.randn(9, 5, generator=g, dtype=FLOAT), torch.randint(0, 3, (9,), generator=g)


def test_of_a_network_it_is_autograds_own_hessian():
    net, x, y = network()
    state = net.initial()
    names = list(net.parameters)
    shapes = [state[n].shape for n in names]

    def flat(v):
        parts = v.split([s.numel() for s in shapes])
        return F.cross_entropy(net({n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}, x), y)

    start = torch.cat([state[n].flatten() for n in names])
    matrix = torch.autograd.functional.hessian(flat, start)
    here = hessian.of_network(net, state, x, y)
    assert here.loss == pytest.approx(float(flat(start)), abs=1e-14)
    direction = torch.randn(len(start), generator=rng.stream("d"), dtype=FLOAT)
    parts = direction.split([s.numel() for s in shapes])
    found = here({n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)})
    torch.testing.assert_close(torch.cat([found[n].flatten() for n in names]), matrix @ direction, rtol=0, atol=1e-12)
    top = hessian.top_eigenvalue(here, rng.stream("v"), 300, 1e-13)
    values = torch.linalg.eigvalsh(matrix)
    assert top.value == pytest.approx(float(values[values.abs().argmax()]), rel=1e-6)
    many = hessian.trace(here, rng.stream("t"), 300)
    assert abs(many.value - float(matrix.trace())) < 5 * many.error


def test_a_product_is_a_difference_of_gradients():
    net, x, y = network()
    state = net.initial()
    d = {n: torch.randn(state[n].shape, generator=rng.stream("d", n), dtype=FLOAT) for n in net.parameters}
    ahead, behind = (
        hessian.of_network(net, {n: t + s * 1e-5 * d[n] for n, t in state.items()}, x, y).gradient for s in (1, -1)
    )
    found = hessian.of_network(net, state, x, y)(d)
    for n in d:
        torch.testing.assert_close(found[n], (ahead[n] - behind[n]).detach() / 2e-5, rtol=0, atol=1e-8)


def test_what_does_not_curve_has_a_product_of_zero():
    linear = Hessian(lambda w: 2 * w["a"].sum() + w["b"].square().sum(), {"a": torch.ones(2), "b": torch.ones(3)})
    found = linear({"a": torch.ones(2), "b": torch.ones(3)})
    assert torch.equal(found["a"], torch.zeros(2))
    assert torch.equal(found["b"], torch.full((3,), 2.0))
    flat = Hessian(lambda w: w["a"].sum(), {"a": torch.ones(2)})
    assert hessian.top_eigenvalue(flat, rng.stream(0)).value == 0
    assert hessian.trace(flat, rng.stream(0)).value == 0


def test_the_weights_are_left_alone():
    w = {"a": torch.ones(2, dtype=FLOAT)}
    hessian.top_eigenvalue(Hessian(lambda v: v["a"].pow(4).sum(), w), rng.stream(0))
    assert torch.equal(w["a"], torch.ones(2, dtype=FLOAT))
    assert not w["a"].requires_grad
    assert w["a"].grad is None


# --- the top eigenvalue --------------------------------------------------------------------------------------------


@CASES
@given(st.integers(0, 10**6), st.sampled_from([1.0, -1.0]))
def test_on_a_quadratic_the_top_eigenvalue_is_exact_with_its_sign_and_vector(seed, sign):
    matrix = symmetric([sign * 4.0, -1.5, 1.0, 0.5, 0.2, 0.1], seed)
    top = hessian.top_eigenvalue(quadratic(matrix, seed), rng.stream(seed), 200, 0.0)
    assert top.value == pytest.approx(sign * 4.0, abs=1e-12)
    v = split(top.vector)
    assert float(v.norm()) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(matrix @ v, sign * 4.0 * v, rtol=0, atol=1e-6)  # the value is squared as exact


def test_beside_the_first_comes_the_second():
    matrix = symmetric([4.0, 3.0, 1.0, 0.5, 0.2, 0.1], 3)
    here = quadratic(matrix)
    first = hessian.top_eigenvalue(here, rng.stream(0), 500, 0.0)
    second = hessian.top_eigenvalue(here, rng.stream(1), 500, 0.0, [first.vector])
    assert second.value == pytest.approx(3.0, abs=1e-10)
    assert float(split(first.vector) @ split(second.vector)) == pytest.approx(0.0, abs=1e-10)


def test_it_stops_when_the_value_has_settled():
    here = quadratic(symmetric([4.0, 1.0, 1.0, 0.5, 0.2, 0.1], 3))
    few, many = hessian.top_eigenvalue(here, rng.stream(0)), hessian.top_eigenvalue(here, rng.stream(0), 100, 0.0)
    assert few.products < 20
    assert few.value == pytest.approx(many.value, rel=1e-3)
    assert hessian.top_eigenvalue(here, rng.stream(0), 3, 0.0).products == 3


# --- the trace -----------------------------------------------------------------------------------------------------


@CASES
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_one_probe_of_signs_is_exact_for_a_diagonal(seed, probes):
    values = torch.randn(6, generator=rng.stream(seed), dtype=FLOAT)
    found = hessian.trace(quadratic(torch.diag(values)), rng.stream(seed), probes)
    assert found.value == pytest.approx(float(values.sum()), abs=1e-13)
    assert found.error == pytest.approx(0.0, abs=1e-13)
    assert found.tensors["a"] == pytest.approx(float(values[:4].sum()), abs=1e-13)
    assert found.tensors["b"] == pytest.approx(float(values[4:].sum()), abs=1e-13)


def test_probes_are_signs():
    """Normal draws are right on average only: their estimate of a diagonal has a spread."""
    values = torch.tensor([5.0, 1.0, 1.0, 1.0, 1.0, 1.0], dtype=FLOAT)
    normal = torch.randn(8, 6, generator=rng.stream("n"), dtype=FLOAT).square() @ values
    assert float(normal.std()) > 1
    assert hessian.trace(quadratic(torch.diag(values)), rng.stream("t"), 8).error == pytest.approx(0, abs=1e-13)


def test_of_any_matrix_the_mean_of_many_probes_is_the_trace():
    matrix = symmetric([4.0, -1.5, 1.0, 0.5, 0.2, 0.1], 5)
    found = hessian.trace(quadratic(matrix), rng.stream("t"), 600)
    assert abs(found.value - 4.3) < 4 * found.error
    spread = (2 * (matrix.square().sum() - matrix.diagonal().square().sum())).sqrt() / math.sqrt(600)
    assert found.error == pytest.approx(float(spread), rel=0.15)  # Hutchinson 1989
    assert found.value == pytest.approx(sum(found.tensors.values()), abs=1e-12)


# --- clients -------------------------------------------------------------------------------------------------------


def test_likeness_by_hand_and_what_counting_oneself_does():
    d = [[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]
    norms, cosines = [(5 - 1) ** 2, (5 - 1) ** 2, 0], [0.8, 0.6, 0.0]
    assert hessian.likeness(d) == pytest.approx((sum(norms) / 3, sum(cosines) / 3))
    assert hessian.likeness(d, oneself=True) == pytest.approx((2 * sum(norms) / 9, (2 * sum(cosines) + 3) / 9))
    assert hessian.likeness([[1.0, 2.0]] * 3) == pytest.approx((0, 1))


# --- nonsense ------------------------------------------------------------------------------------------------------


def test_nonsense_is_named():
    one = {"a": torch.ones(2)}
    with pytest.raises(ValueError, match="weights: there are none"):
        Hessian(lambda w: torch.zeros(()), {})
    with pytest.raises(ValueError, match=r"loss: expected a scalar for these weights, got \[2\]"):
        Hessian(lambda w: w["a"], one)
    with pytest.raises(require.NotFinite, match="the gradient"):
        Hessian(lambda w: (w["a"] - 1).sum().sqrt(), one)
    here = Hessian(lambda w: w["a"].square().sum(), one)
    with pytest.raises(ValueError, match="direction: expected the names and shapes of the weights"):
        here({"b": torch.ones(2)})
    with pytest.raises(ValueError, match="iterations must be a whole number of at least 1"):
        hessian.top_eigenvalue(here, rng.stream(0), 0)
    with pytest.raises(ValueError, match="tolerance must be a finite number >= 0"):
        hessian.top_eigenvalue(here, rng.stream(0), 5, math.nan)
    with pytest.raises(ValueError, match="probes must be a whole number of at least 1"):
        hessian.trace(here, rng.stream(0), 0)
    for wrong in ([[1.0]], [[1.0], [1.0, 2.0]], [[], []]):
        with pytest.raises(ValueError, match="diagonals: expected vectors of one length, of two clients at least"):
            hessian.likeness(wrong)
    with pytest.raises(ValueError, match="a vector of zeros has no direction"):
        hessian.likeness([[0.0], [1.0]])
    with pytest.raises(require.NotFinite, match="diagonals"):
        hessian.likeness([[math.nan], [1.0]])
