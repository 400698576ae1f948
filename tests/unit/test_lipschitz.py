"""The transmitting matrix and its spectral norm, against loops and the decomposition."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from fedlib import lipschitz, losses

FLOAT = torch.float64
CASES = settings(deadline=None, max_examples=25)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


def maps(seed=0, batch=3):
    """Maps behind a ReLU that enter and leave a stage."""
    return draw(batch, 4, 6, 4, seed=seed).relu(), draw(batch, 5, 3, 2, seed=seed + 1).relu()


def test_the_matrix_by_its_sum_over_places():
    low, high = maps()
    pooled = F.avg_pool2d(low, 2)
    for b in range(3):
        expected = sum(torch.outer(pooled[b, :, i, j], high[b, :, i, j]) for i in range(3) for j in range(2)) / 6
        torch.testing.assert_close(lipschitz.transmitting(low, high)[b], expected, rtol=0, atol=1e-14)


def test_it_is_the_flow_between_layers_but_for_the_pooling():
    low, high = maps()
    same = F.avg_pool2d(low, 2)
    torch.testing.assert_close(lipschitz.transmitting(same, high), losses.fsp(same, high), rtol=0, atol=1e-14)
    assert not torch.allclose(lipschitz.transmitting(low, high), losses.fsp(low, high))


@CASES
@given(st.integers(0, 10**6))
def test_the_norm_of_what_is_not_negative_is_the_largest_singular_value(seed):
    x = lipschitz.transmitting(*maps(seed))
    expected = torch.linalg.matrix_norm(x, 2)
    torch.testing.assert_close(lipschitz.spectral_norm(x, 200), expected, rtol=1e-7, atol=0)
    assert bool((lipschitz.spectral_norm(x, 10) <= expected + 1e-12).all())  # from below


def test_ten_steps_are_enough_for_maps_behind_a_relu():
    x = lipschitz.transmitting(draw(50, 8, 8, 8).relu(), draw(50, 16, 4, 4, seed=1).relu())
    torch.testing.assert_close(lipschitz.spectral_norm(x), torch.linalg.matrix_norm(x, 2), rtol=1e-6, atol=0)


def test_the_norm_is_that_of_the_matrix_not_of_its_square():
    x = torch.diag(torch.tensor([3.0, 2.0], dtype=FLOAT))
    assert float(lipschitz.spectral_norm(x, 100)) == pytest.approx(3.0, abs=1e-12)
    assert float(lipschitz.spectral_norm(2 * x, 100)) == pytest.approx(6.0, abs=1e-12)


def test_a_vector_of_ones_misses_what_is_orthogonal_to_it():
    """Signed features: the top direction (1, -1) is never found, the value stays at the second one."""
    u = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=FLOAT) / 2**0.5
    x = u @ torch.diag(torch.tensor([1.0, 5.0], dtype=FLOAT))
    assert float(torch.linalg.matrix_norm(x, 2)) == pytest.approx(5)
    assert float(lipschitz.spectral_norm(x, 10)) == pytest.approx(1)


def unrolled(x, iterations):
    """The released way: the square root of |K v| after so many steps, differentiated through all of them."""
    k, v = x @ x.mT, torch.ones(*x.shape[:-1], 1, dtype=x.dtype)
    for _ in range(iterations):
        moved = k @ v
        n = moved.norm(dim=-2, keepdim=True)
        v = moved / n
    return n.sqrt().flatten()


def test_the_gradient_is_that_of_the_decomposition_and_of_the_released_way():
    x = lipschitz.transmitting(*maps(7)).requires_grad_()
    grads = [torch.autograd.grad(f(x).sum(), x)[0] for f in (
        lambda x: lipschitz.spectral_norm(x, 60), lambda x: unrolled(x, 60),
        lambda x: torch.linalg.matrix_norm(x, 2))]  # fmt: skip
    torch.testing.assert_close(grads[0], grads[2], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(lipschitz.spectral_norm(x, 60), unrolled(x, 60), rtol=1e-10, atol=0)


def test_of_nothing_the_norm_is_nothing_and_so_is_its_gradient():
    """A dead stage: a square root at 0 would have the gradient NaN."""
    x = torch.zeros(2, 3, 4, dtype=FLOAT, requires_grad=True)
    value = lipschitz.spectral_norm(x)
    assert torch.equal(value, torch.zeros(2, dtype=FLOAT))
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert torch.equal(grad, torch.zeros_like(x))
    assert (
        bool(unrolled(x, 1).isfinite().all()) is False or torch.autograd.grad(unrolled(x, 1).sum(), x)[0].isnan().any()
    )


def test_maps_of_one_place_have_a_matrix_of_rank_one():
    low, high = draw(3, 4, 1, 1).relu(), draw(3, 5, 1, 1, seed=1).relu()
    expected = low.flatten(1).norm(dim=1) * high.flatten(1).norm(dim=1)
    torch.testing.assert_close(lipschitz.spectral_norm(lipschitz.transmitting(low, high)), expected, rtol=1e-12, atol=0)


def test_the_gap_of_a_stage_with_itself_is_zero_and_reaches_the_narrow_side_alone():
    low, high = (m.requires_grad_() for m in maps())
    assert torch.equal(lipschitz.gap(low, high, low, high), torch.zeros(3, dtype=FLOAT))
    few, narrow = (m.detach().clone().requires_grad_() for m in (low[:, :2], high[:, :3]))
    grads = torch.autograd.grad(lipschitz.gap(low, high, few, narrow).sum(), [low, high, narrow], allow_unused=True)
    assert grads[0] is None
    assert grads[1] is None
    assert bool(grads[2].any())


def test_the_gap_by_the_decomposition():
    low, high = maps(3)
    whole, narrow = (
        torch.linalg.matrix_norm(lipschitz.transmitting(*pair), 2) for pair in ((low, high), (low[:, :2], high[:, :3]))
    )
    found = lipschitz.gap(low, high, low[:, :2], high[:, :3], 200)
    torch.testing.assert_close(found, (narrow - whole).square(), rtol=1e-6, atol=1e-12)


def test_leading_dimensions_are_kept():
    low, high = draw(3, 2, 1, 4, 6, 4).relu(), draw(3, 2, 1, 5, 3, 2, seed=1).relu()
    found = lipschitz.spectral_norm(lipschitz.transmitting(low, high))
    assert found.shape == (3, 2, 1)
    one = lipschitz.spectral_norm(lipschitz.transmitting(low[:, 1, 0], high[:, 1, 0]))
    torch.testing.assert_close(found[:, 1, 0], one, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shapes", [((3, 4, 4, 4), (2, 5, 2, 2)), ((3, 4, 2, 2), (3, 5, 4, 4)), ((4, 4, 4), (5, 2, 2))])
def test_maps_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="low and high: expected maps"):
        lipschitz.transmitting(*(torch.ones(s) for s in shapes))


def test_no_iteration_is_refused():
    with pytest.raises(ValueError, match="iterations must be a whole number of at least 1"):
        lipschitz.spectral_norm(torch.ones(2, 2), 0)
