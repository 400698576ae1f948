"""AVD: what a frame says in numbers, that flips do not matter, and that a trained pair keeps the source's lengths."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlib import disentangle, planar, require, rng
from fedlib.data import arms
from fedlib.disentangle import Disentangler, How

FLOAT = torch.float64
CASES = settings(deadline=None, max_examples=20)


def frames(seed=0, count=3, regions=2):
    draws = rng.stream(seed, "frames")
    axes = planar.turn(6 * torch.rand(count, regions, generator=draws, dtype=FLOAT))
    spread = 0.1 + 0.4 * torch.rand(count, regions, 1, 2, generator=draws, dtype=FLOAT)
    return planar.affine(axes * spread, torch.rand(count, regions, 2, generator=draws, dtype=FLOAT))


@CASES
@given(st.integers(0, 10**6))
def test_the_numbers_of_a_frame_say_its_mean_and_covariance(seed):
    own = frames(seed)
    mean, covariance = disentangle.untold(disentangle.told(own).unflatten(-1, (2, 5)))
    torch.testing.assert_close(mean, own[..., 2])
    torch.testing.assert_close(covariance, own[..., :2] @ own[..., :2].mT, rtol=1e-3, atol=1e-5)


def test_an_axis_may_point_either_way():
    own = frames()
    for flip in ([-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]):
        other = planar.affine(own[..., :2] * torch.tensor(flip, dtype=FLOAT), own[..., 2])
        assert float(disentangle.distance(own, other)) < 1e-12
    assert float(disentangle.distance(own, frames(1))) > 0.05


def test_whatever_the_decoder_says_is_a_frame():
    numbers = torch.randn(50, 5, generator=rng.stream(0), dtype=FLOAT) * 3
    _, covariance = disentangle.untold(numbers)
    assert float(planar.eigen(covariance)[0].min()) > -1e-9
    model = rng.build(lambda: Disentangler(2), 0, "init").to(FLOAT)
    out = model(frames(), frames(1))
    assert out.shape == (3, 2, 2, 3)
    assert bool(out.isfinite().all())


def test_shape_is_read_from_the_source_and_pose_from_the_driver():
    model = rng.build(lambda: Disentangler(2), 0, "init").to(FLOAT)
    source = frames().requires_grad_()
    (own,) = torch.autograd.grad(model.shape(disentangle.told(source)).sum(), source)
    assert float(own.abs().max()) > 0
    code = [model.pose(disentangle.told(f)) for f in (frames(1), frames(1))]
    assert torch.equal(*code)
    assert not torch.equal(model(frames(), frames(1)), model(frames(1), frames()))
    assert not torch.equal(model(frames(), frames(1)), model(frames(2), frames(1)))
    assert not torch.equal(model(frames(), frames(1)), model(frames(), frames(2)))


def test_the_driver_is_stretched_and_what_is_wanted_is_not():
    """So that nothing can be gained by handing the driver's frames on."""

    class Echo(Disentangler):
        def forward(self, source, driver):
            return driver + 0 * self.decoder[0].weight.sum()

    own = frames(count=12).view(4, 3, 2, 2, 3)
    model = Echo(2).to(FLOAT)
    assert max(disentangle.train(model, own, How(steps=3, batch=8, stretch=0.0), 0)) < 1e-12
    assert min(disentangle.train(model, own, How(steps=3, batch=8, stretch=0.25), 0)) > 0.01


def test_source_and_driver_are_of_one_video():
    seen = []

    class Sees(Disentangler):
        def forward(self, source, driver):
            seen.append((source, driver))
            return source + 0 * self.decoder[0].weight.sum()

    own = frames(count=12).view(4, 3, 2, 2, 3)
    videos = torch.arange(4.0, dtype=FLOAT)[:, None].expand(4, 3)
    own[..., 0, 0, 2] = videos  # a region's place says which video it is
    disentangle.train(Sees(2).to(FLOAT), own, How(steps=4, batch=16, stretch=0.0), 0)
    assert all(torch.equal(s[:, 0, 0, 2], d[:, 0, 0, 2]) for s, d in seen)
    assert len(torch.cat([s[:, 0, 0, 2] for s, _ in seen]).unique()) == 4


def test_stretching_scales_both_directions_of_a_whole_body():
    own = frames(count=40)
    out = disentangle.stretched(own, rng.stream(0), 0.25)
    factors = out / own
    assert 0.75 <= float(factors.min()) < 0.8
    assert 1.2 < float(factors.max()) <= 1.25
    torch.testing.assert_close(factors, factors[:, :1, :, :1].expand_as(factors))  # of all regions, mean and axes
    assert float((factors[:, 0, 0, 0] - factors[:, 0, 1, 0]).abs().max()) > 0.1  # x and y apart
    assert torch.equal(disentangle.stretched(own, rng.stream(0), 0.0), own)


def test_a_trained_pair_keeps_the_sources_lengths():
    """The claim in small: the driver is 25 % longer, and standard animation hands its length on."""
    numbers = {"frames": 8, "size": 8, "length": (0.3, 0.7)}
    train, test = (arms.arms(n, draws=rng.stream(part), **numbers) for n, part in ((200, "train"), (60, "test")))
    model = rng.build(lambda: Disentangler(2), 0, "init")
    own = arms.frames_of(train.links, train.lengths[:, None], train.width)
    losses = disentangle.train(model, own, How(steps=300, batch=64, lr=3e-3), 0)
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    lengths = test.lengths
    source = arms.frames_of(test.links[:, 0], lengths, test.width)
    longer = arms.chain(torch.tensor([0.0, -0.55]), angles_of(test), 1.25 * lengths)
    driver = arms.frames_of(longer, 1.25 * lengths, test.width)
    with torch.no_grad():
        kept = arms.limb_lengths(model(source, driver))
    handed_on = (arms.limb_lengths(driver) / lengths - 1).abs().mean()
    assert float(handed_on) == pytest.approx(0.25, abs=1e-3)
    assert float((kept / lengths - 1).abs().mean()) < 0.7 * float(handed_on)


def test_side_by_side_is_one_after_the_other():
    own = torch.stack([frames(s, count=12).view(4, 3, 2, 2, 3) for s in (0, 1)])
    how, seeds = How(steps=6, batch=8, lr=3e-3), (5, 7)
    alone, beside = ([rng.build(lambda: Disentangler(2), s, "init").to(FLOAT) for s in seeds] for _ in range(2))
    for model, videos, s in zip(alone, own, seeds, strict=True):
        disentangle.train(model, videos, how, s)
    disentangle.train_together(beside, own, how, seeds)
    for one, other in zip(alone, beside, strict=True):
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="as many models and seeds as videos"):
        disentangle.train_together(beside, own, how, (5,))
    with pytest.raises(require.NotFinite, match="step 1: training diverged"):
        disentangle.train_together(beside, own * torch.nan, how, seeds)


def angles_of(own):
    """The angles of the links in the fourth frame."""
    axis = own.links[:, 3, :, :, 0]
    return torch.atan2(axis[..., 1], axis[..., 0])


def test_divergence_is_reported():
    own = torch.stack([frames(s) for s in range(3)], 1)
    with pytest.raises(require.NotFinite, match="training diverged"):
        disentangle.train(Disentangler(2).to(FLOAT), own, How(steps=60, lr=1e30), 0)
    with pytest.raises(require.NotFinite, match="step 1: training diverged"):
        disentangle.train(Disentangler(2).to(FLOAT), own * torch.nan, How(steps=2), 0)


def test_nonsense_is_refused():
    model = Disentangler(2)
    with pytest.raises(ValueError, match=r"frames: expected \[N, T, 2, 2, 3\]"):
        disentangle.train(model, torch.zeros(4, 3, 3, 2, 3), How(), 0)
    with pytest.raises(ValueError, match="T >= 2"):
        disentangle.train(model, torch.zeros(4, 1, 2, 2, 3), How(), 0)
    for name, wrong in (("steps", -1), ("batch", 0), ("lr", 0.0), ("stretch", 1.0), ("stretch", float("nan"))):
        with pytest.raises(ValueError, match=f"{name} must be"):
            How(**{name: wrong})
    with pytest.raises(ValueError, match="regions must be"):
        Disentangler(0)
    with pytest.raises(ValueError, match="most must be"):
        disentangle.stretched(frames(), rng.stream(0), -0.1)
