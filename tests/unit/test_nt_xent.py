"""SimCLR's loss of two views, by its definition and by what it must not depend on."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from fedlib import losses

FLOAT = torch.float64
CASES = settings(deadline=None, max_examples=25)


def views(seed, batch=4, width=5):
    return torch.randn(2, batch, width, generator=torch.Generator().manual_seed(seed), dtype=FLOAT).unbind()


def by_definition(z1, z2, temperature):
    """Row by row, as the paper prints it."""
    z = torch.cat([z1, z2])
    n, total = len(z), 0.0
    cosine = [[float(F.cosine_similarity(z[i], z[k], dim=0)) for k in range(n)] for i in range(n)]
    for i in range(n):
        j = (i + n // 2) % n
        below = sum(math.exp(cosine[i][k] / temperature) for k in range(n) if k != i)
        total -= math.log(math.exp(cosine[i][j] / temperature) / below)
    return total / n


@CASES
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([0.1, 0.5, 2.0]))
def test_value_from_the_definition(seed, batch, temperature):
    z = views(seed, batch)
    found = losses.nt_xent(*z, temperature)
    assert float(found) == pytest.approx(by_definition(*z, temperature), abs=1e-11)


@CASES
@given(st.integers(0, 10**6))
def test_views_order_and_lengths_do_not_matter(seed):
    z1, z2 = views(seed)
    value = losses.nt_xent(z1, z2, 0.5)
    lengths = torch.rand(4, 1, generator=torch.Generator().manual_seed(seed), dtype=FLOAT) + 0.1
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    for other in ((z2, z1), (lengths * z1, z2), (z1[order], z2[order])):
        torch.testing.assert_close(losses.nt_xent(*other, 0.5), value, rtol=0, atol=1e-12)


def test_where_all_are_alike_it_counts_the_others():
    """Not itself: with it the softmax would be over all 2 B, and the value log 2 B."""
    z = torch.ones(5, 3, dtype=FLOAT)
    assert float(losses.nt_xent(z, z)) == pytest.approx(math.log(9), abs=1e-12)


def test_one_sample_has_no_others():
    assert float(losses.nt_xent(*views(0, 1))) == pytest.approx(0.0, abs=1e-14)


def test_both_views_of_the_others_repel():
    """With the other sample's second view out of the sum the loss would be that of one side alone."""
    z1 = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=FLOAT)
    far, near = -z1, torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=FLOAT)
    assert float(losses.nt_xent(z1, near)) > float(losses.nt_xent(z1, z1))
    assert float(losses.nt_xent(z1, far)) > float(losses.nt_xent(z1, z1))


def test_gradient_check():
    z1, z2 = (z.requires_grad_() for z in views(3))
    assert torch.autograd.gradcheck(lambda a, b: losses.nt_xent(a, b, 0.3), (z1, z2))


def test_leading_dimensions_are_kept():
    z1, z2 = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    each = torch.stack([losses.nt_xent(a, b) for a, b in zip(z1, z2, strict=True)])
    torch.testing.assert_close(losses.nt_xent(z1, z2), each, rtol=0, atol=1e-13)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.nt_xent(*views(0), temperature)


@pytest.mark.parametrize("shapes", [((4, 5), (3, 5)), ((4,), (4,)), ((0, 5), (0, 5))])
def test_views_of_other_samples_are_refused(shapes):
    with pytest.raises(ValueError, match="expected two views"):
        losses.nt_xent(*(torch.ones(s) for s in shapes))


def test_representations_are_no_whole_numbers():
    with pytest.raises(ValueError, match=r"expected two views .* torch.int64"):
        losses.nt_xent(*torch.ones(2, 4, 5, dtype=torch.int64))
