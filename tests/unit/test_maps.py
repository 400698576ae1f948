"""Losses of feature maps: flow between layers (FSP) and attention transfer, from their definitions in float64."""

import pytest
import torch

from fedlib import losses


def maps(*shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]


def test_fsp_from_the_definition():
    """A sum over places, written as loops; the larger map is pooled 2 x 2 by its largest entries."""
    low, high = maps((2, 3, 4, 4), (2, 5, 2, 2))
    expected = torch.zeros(2, 3, 5, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            for w in range(2):
                pooled = low[b, :, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].amax((1, 2))
                expected[b] += torch.outer(pooled, high[b, :, h, w]) / 4
    torch.testing.assert_close(losses.fsp(low, high), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(losses.fsp(high, low), expected.mT, rtol=0, atol=1e-14)


def test_fsp_of_a_map_with_itself_is_its_uncentred_covariance_and_forgets_the_places():
    (m,) = maps((2, 3, 4, 6))
    flat = m.flatten(2)
    torch.testing.assert_close(losses.fsp(m, m), flat @ flat.mT / 24, rtol=0, atol=1e-14)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    low, high = maps((2, 3, 4, 6), (2, 4, 4, 6))
    moved = [x.flatten(2)[..., order].view_as(x) for x in (low, high)]
    torch.testing.assert_close(losses.fsp(*moved), losses.fsp(low, high), rtol=0, atol=1e-14)


def test_fsp_is_no_distance_of_maps():
    """The note says that FSP compares feature maps; two networks with quite other maps can have the same flow."""
    low, high = maps((2, 3, 4, 4), (2, 4, 4, 4))
    assert float((low + low).sub(low).norm()) > 1
    torch.testing.assert_close(losses.fsp(2 * low, high / 2), losses.fsp(low, high), rtol=0, atol=1e-14)


def test_attention_transfer_from_the_definition():
    student, teacher = maps((2, 3, 4, 4), (2, 5, 2, 2)), maps((2, 6, 4, 4), (2, 5, 2, 2), seed=1)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        for b in range(2):
            q, p = ((m[b] ** 2).sum(0).reshape(-1) / m.shape[1] for m in (s, t))
            expected += float(torch.sqrt(((q / (q @ q).sqrt() - p / (p @ p).sqrt()) ** 2).sum())) / 2
    assert float(losses.attention_transfer(student, teacher)) == pytest.approx(expected, abs=1e-13)


def test_attention_sees_neither_signs_nor_sizes_nor_the_order_of_channels():
    (s,), (t,) = maps((2, 4, 3, 3)), maps((2, 4, 3, 3), seed=1)
    expected = losses.attention_transfer([s], [t])
    torch.testing.assert_close(losses.attention_transfer([-7 * s.flip(1)], [t]), expected, rtol=0, atol=1e-13)
    assert float(losses.attention_transfer([s], [3 * s])) == pytest.approx(0, abs=1e-14)
    assert float(losses.attention_transfer([s.flip(2)], [t])) != pytest.approx(float(expected), abs=1e-3)


def test_attention_transfer_gradient_and_where_it_is_flat():
    (s,), (t,) = maps((2, 2, 3, 3)), maps((2, 2, 3, 3), seed=1)
    assert torch.autograd.gradcheck(lambda m: losses.attention_transfer([m], [t]), s.clone().requires_grad_())
    t.requires_grad_()
    same = t.detach().clone().requires_grad_()
    losses.attention_transfer([same], [t]).backward()
    assert t.grad is None
    assert bool(torch.isfinite(same.grad).all())
    dead = torch.zeros(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)  # after ReLU a layer may say nothing
    losses.attention_transfer([dead], [t]).backward()
    assert bool(torch.isfinite(dead.grad).all())


def test_maps_that_do_not_fit_are_refused():
    a, b = maps((2, 3, 4, 4), (2, 3, 2, 2))
    with pytest.raises(ValueError, match="as many maps"):
        losses.attention_transfer([a, b], [a])
    with pytest.raises(ValueError, match="one at least"):
        losses.attention_transfer([], [])
    with pytest.raises(ValueError, match="maps 0 must have one batch"):
        losses.attention_transfer([a], [b])
    with pytest.raises(ValueError, match="same samples"):
        losses.fsp(a, b[:1])
    with pytest.raises(ValueError, match="one size must divide the other"):
        losses.fsp(*maps((1, 2, 3, 3), (1, 2, 2, 2)))
    with pytest.raises(ValueError, match="one size must divide the other"):
        losses.fsp(*maps((1, 2, 2, 8), (1, 2, 4, 2)))
    with pytest.raises(ValueError, match=r"low must be feature maps \[B, C, H, W\]"):
        losses.fsp(a[0], b)
