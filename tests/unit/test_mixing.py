"""Mixed images: what stays, whose labels weigh how much, and that a seed says it all."""

import pytest
import torch

from fedlib import rng
from fedlib.data import mixing


def images(batch=8, size=10):
    """Row b is b everywhere: a pixel tells whose it is."""
    return torch.arange(batch, dtype=torch.float64)[:, None, None, None].expand(batch, 2, size, size + 2)


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_weighs_labels_by_the_pixels_that_stayed(seed):
    x = images()
    mixed, other, stays = mixing.cutmix(x, rng.stream(seed, "mix"))
    moved = other != torch.arange(len(x))
    own = (mixed == x).double().mean((1, 2, 3))
    torch.testing.assert_close(own[moved], torch.full_like(own[moved], stays), rtol=0, atol=1e-12)
    inside = mixed != x
    assert bool((mixed == torch.where(inside, x[other], x)).all())


def test_a_box_cut_at_the_border_leaves_more_than_its_draw():
    """The trap: to weigh labels by the draw instead of by what stayed."""
    gaps = []
    for seed in range(40):
        lam = mixing.share(1.0, rng.stream(seed, "mix"))
        gaps.append(mixing.cutmix(images(), rng.stream(seed, "mix"))[2] - lam)
    assert min(gaps) > -1e-12
    assert sum(g > 0.02 for g in gaps) > 10


def test_a_box_that_is_not_cut_has_the_area_of_its_draw():
    gaps = []
    for seed in range(40):
        lam = mixing.share(1.0, rng.stream(seed, "mix"))
        gaps.append(mixing.cutmix(images(2, 200), rng.stream(seed, "mix"))[2] - lam)
    assert sum(abs(g) < 0.01 for g in gaps) >= 5


def test_a_box_may_lie_anywhere():
    x, hit = images(), torch.zeros(10, 12, dtype=torch.bool)
    for seed in range(60):
        mixed = mixing.cutmix(x, rng.stream(seed, "mix"), 8.0)[0]
        hit |= (mixed != x).any(0)[0]
    assert bool(hit[[0, 0, -1, -1], [0, -1, 0, -1]].all())


def test_a_box_is_cut_out_of_images_only():
    with pytest.raises(ValueError, match="images"):
        mixing.cutmix(torch.rand(8, 5), rng.stream(0, "mix"))


def test_mixup_is_on_the_line_between_two_images():
    x = images()
    mixed, other, lam = mixing.mixup(x, rng.stream(0, "mix"), 0.4)
    torch.testing.assert_close(mixed, x[other] + lam * (x - x[other]))
    assert 0 < lam < 1


def test_the_images_given_are_left_alone_and_a_seed_gives_the_same_again():
    x = torch.randn(4, 1, 6, 6)
    kept = x.clone()
    one, two = (mixing.cutmix(x, rng.stream(3, "mix")) for _ in range(2))
    assert torch.equal(x, kept)
    assert torch.equal(one[0], two[0])
    assert one[2] == two[2]


@pytest.mark.parametrize(("alpha", "spread"), [(1.0, 1 / 12), (0.2, 1 / 5.6), (8.0, 1 / 68)])
def test_shares_are_beta_distributed(alpha, spread):
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))."""
    draws = rng.stream(0, "beta")
    shares = torch.tensor([mixing.share(alpha, draws) for _ in range(4000)], dtype=torch.float64)
    assert spread == pytest.approx(1 / (4 * (2 * alpha + 1)))
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(spread, rel=0.1)
    with pytest.raises(ValueError, match="alpha"):
        mixing.share(0.0, draws)


def test_shares_too_near_their_ends_for_a_number_are_these_ends():
    draws = rng.stream(0, "beta")
    shares = [mixing.share(1e-4, draws) for _ in range(100)]
    assert sum(min(s, 1 - s) < 1e-6 for s in shares) > 95
    assert 30 < sum(shares) < 70
