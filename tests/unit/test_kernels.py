"""The Gram matrices of the convergence argument: closed form, interlacing, and where it is no more than an equality."""

import math

import torch
from hypothesis import given, settings, strategies as st

from fedlib.kernels import least_eigenvalue, relu_gram, within


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_closed_form_against_the_expectation():
    x, v = draw(6, 3), draw(400_000, 3, seed=1)
    h = (v @ x.T).relu()
    torch.testing.assert_close(relu_gram(x), h.T @ h / len(v), rtol=0.02, atol=0.01)


def test_known_angles():
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], dtype=torch.float64)
    gram = relu_gram(x)
    torch.testing.assert_close(gram.diagonal(), torch.tensor([4.0, 9.0, 1.0], dtype=torch.float64) / 2)
    assert math.isclose(gram[0, 1], 6 / (2 * math.pi))
    assert abs(gram[0, 2]) < 1e-12  # opposite: never both positive


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12), st.lists(st.integers(0, 3), min_size=2, max_size=14))
def test_blocks_never_have_a_smaller_least_eigenvalue(seed, rank, groups):
    """Cauchy's interlacing, for any positive semi-definite matrix and any grouping."""
    root = draw(len(groups), rank, seed=seed)
    gram, of = root @ root.T, torch.tensor(groups)
    assert least_eigenvalue(within(gram, of)) >= least_eigenvalue(gram) - 1e-9
    blocks = [least_eigenvalue(gram[of == g][:, of == g]) for g in of.unique()]
    assert math.isclose(least_eigenvalue(within(gram, of)), min(blocks), abs_tol=1e-9)


def test_the_inequality_is_not_strict():
    """Two samples of one client lie symmetrically about the other's: the paper's ">" is ">=" there."""
    a = 0.2
    x = torch.tensor([[math.cos(a), math.sin(a)], [math.cos(a), -math.sin(a)], [1.0, 0.0]], dtype=torch.float64)
    x = torch.cat([x, torch.tensor([[0.0], [0.0], [2.0]], dtype=torch.float64)], 1)  # and away from both
    gram = relu_gram(x)
    assert gram[0, 2] > 0.1, "the clients do overlap"
    assert math.isclose(least_eigenvalue(gram), least_eigenvalue(within(gram, torch.tensor([0, 0, 1]))), rel_tol=1e-9)


def test_one_group_changes_nothing():
    gram = relu_gram(draw(5, 4))
    assert torch.equal(within(gram, torch.zeros(5)), gram)
