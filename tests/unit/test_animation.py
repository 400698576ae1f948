"""The animator's networks and what they learn: identities at the start, what is hidden, pairs of frames, training."""

import pytest
import torch
from torch import nn

from fedlib import animation, planar, require, rng, warping
from fedlib.animation import How
from fedlib.data import arms
from fedlib.models.animator import ROUNDNESS, Animator, FlowPredictor, Motion, Painter, moved, shape
from fedlib.models.hourglass import Hourglass
from fedlib.models.regions import BackgroundPredictor, RegionPredictor

FLOAT = torch.float64
SMALL = {"width": 4, "levels": 1}


def images(count=2, size=8, seed=0):
    return torch.rand(count, 3, size, size, generator=rng.stream(seed, "images"), dtype=FLOAT)


def animator(axes="pca", seed=0, **options):
    made = rng.build(lambda: Animator(3, axes, **SMALL | options), seed, "init")
    return made.to(FLOAT)


def build(make, seed=0):
    return rng.build(make, seed, "part").to(FLOAT)


def shaken(module, by=0.3, seed=0):
    """Weights away from their start: what is zero at first is not zero any more."""
    draws = rng.stream(seed, "shaken")
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn(p.shape, generator=draws, dtype=p.dtype))
    return module


def videos(**numbers):
    return arms.arms(**{"count": 4, "frames": 3, "size": 8, "draws": rng.stream("videos"), "dtype": FLOAT} | numbers)


# Parts


@pytest.mark.parametrize("axes", ["pca", "jacobian", "shift"])
def test_regions_are_heat_with_a_mean_and_axes(axes):
    net = shaken(build(lambda: RegionPredictor(3, axes, **SMALL)), 0.05)
    heat, frames = net(images())
    assert heat.shape == (2, 3, 8, 8)
    torch.testing.assert_close(heat.sum((2, 3)), torch.ones(2, 3, dtype=FLOAT))
    mean, covariance = planar.moments(heat)
    torch.testing.assert_close(frames[..., 2], mean)
    linear = frames[..., :2]
    if axes == "pca":
        wanted = covariance + planar.LEAST * torch.eye(2, dtype=FLOAT)
        torch.testing.assert_close(linear @ linear.mT, wanted, rtol=1e-6, atol=1e-7)
    elif axes == "shift":
        assert torch.equal(linear, torch.eye(2, dtype=FLOAT).expand(2, 3, 2, 2))
    else:
        assert float((linear - torch.eye(2, dtype=FLOAT)).detach().abs().max()) > 1e-3


def test_a_jacobian_begins_at_the_identity():
    frames = build(lambda: RegionPredictor(3, "jacobian", **SMALL))(images()).frames
    torch.testing.assert_close(frames[..., :2], torch.eye(2, dtype=FLOAT).expand(2, 3, 2, 2), rtol=1e-9, atol=1e-9)


def test_a_jacobian_is_averaged_by_the_heat():
    net = shaken(build(lambda: RegionPredictor(2, "jacobian", **SMALL)), 0.1)
    x = images(1)
    heat, frames = net(x)
    slopes = net.slopes(net.body(x))[0].view(2, 4, 8, 8)
    told = sum(heat[0, 1, i, j] * slopes[1, :, i, j] for i in range(8) for j in range(8))
    torch.testing.assert_close(frames[0, 1, :, :2].flatten(), told, rtol=1e-9, atol=1e-12)


def test_a_smaller_map_has_the_same_coordinates():
    """Its corners stand at the corners, too: no padding that stretches places."""
    net = build(lambda: RegionPredictor(2, "shift", **SMALL, shrink=2))
    assert net(images()).heat.shape == (2, 2, 4, 4)
    assert float(net(images()).frames[..., 2].detach().abs().max()) <= 1


def test_the_ground_stands_still_at_first_and_moves_by_six_numbers():
    net = build(lambda: BackgroundPredictor(width=4, levels=2))
    assert torch.equal(net(images(), images(seed=1)), planar.identity(2, like=images()))
    assert net.head.out_features == 6
    assert not torch.equal(shaken(net)(images(), images(seed=1)), planar.identity(2, like=images()))


def test_the_ground_is_told_by_both_images_in_their_order():
    net = shaken(build(lambda: BackgroundPredictor(width=4, levels=2)))
    x, y = images(), images(seed=1)
    assert not torch.equal(net(x, y), net(y, x))


def frames(seed=0, regions=3):
    draws = rng.stream(seed, "frames")
    angles = torch.rand(2, regions, generator=draws, dtype=FLOAT) * 3
    axes = planar.turn(angles) * torch.tensor([0.3, 0.1], dtype=FLOAT)
    return planar.affine(axes, torch.rand(2, regions, 2, generator=draws, dtype=FLOAT) - 0.5)


def test_masks_add_up_to_one_and_the_confidence_is_a_share():
    net = shaken(build(lambda: FlowPredictor(3, **SMALL)), 0.1)
    own, other = frames(), frames(1)
    maps = torch.cat([planar.identity(2, 1, like=own), planar.between(own, other)], 1)
    motion = net(images(), maps, own, other)
    assert motion.masks.shape == (2, 4, 8, 8)
    torch.testing.assert_close(motion.masks.sum(1), torch.ones(2, 8, 8, dtype=FLOAT))
    least, most = motion.confidence.detach().aminmax()
    assert 0 < float(least) <= float(most) < 1
    torch.testing.assert_close(motion.field, warping.flow(motion.masks, maps))


def test_the_flow_sees_where_regions_were_and_are_and_the_warped_source():
    """Its input, channel by channel: the ground's difference is zero, a region's is the two blobs'."""
    net, seen = build(lambda: FlowPredictor(1, **SMALL)), []
    net.body.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    own, other, x = frames(0, 1), frames(1, 1), images()
    maps = torch.cat([planar.identity(2, 1, like=own), planar.between(own, other)], 1)
    net(x, maps, own, other)
    (given,) = seen
    assert given.shape == (2, 8, 8, 8)
    assert float(given[:, 0].abs().max()) == 0
    torch.testing.assert_close(given[:, 1:4], x, rtol=1e-9, atol=1e-9)  # the ground stood still
    torch.testing.assert_close(given[:, 4], (warping.blobs(other, 8, 8) - warping.blobs(own, 8, 8))[:, 0])
    torch.testing.assert_close(given[:, 5:], warping.warp(x, warping.fields(maps[:, 1], 8, 8)))


def still(confidence, size=8, shrink=1):
    n = size // shrink
    one = torch.ones(2, 1, n, n, dtype=FLOAT)
    return Motion(one, planar.places(n, n, one).expand(2, n, n, 2), one * confidence)


@pytest.mark.parametrize("shrink", [1, 2])
def test_full_confidence_and_no_motion_give_the_source_itself(shrink):
    net, x = shaken(build(lambda: Painter(width=4))), images()
    torch.testing.assert_close(net(x, still(1.0, shrink=shrink)), x, rtol=1e-9, atol=1e-9)
    assert float((net(x, still(0.5, shrink=shrink)) - x).detach().abs().max()) > 0.01


def test_where_nothing_is_believed_the_source_is_not_seen():
    net = shaken(build(lambda: Painter(width=4)))
    first, second = (net(images(seed=s), still(0.0)) for s in (0, 1))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_what_is_hidden_is_painted_and_the_rest_kept():
    net, x = shaken(build(lambda: Painter(width=4))), images()
    motion = still(1.0)
    motion.confidence[..., :4] = 0
    out = net(x, motion)
    torch.testing.assert_close(out[..., 4:], x[..., 4:], rtol=1e-9, atol=1e-9)
    assert float((out[..., :4] - x[..., :4]).detach().abs().max()) > 0.01


def test_a_coarse_flow_is_the_same_flow():
    x, maps = images(), planar.identity(2, like=images()).clone()
    maps[:, :, 2] = 0.2
    coarse = Motion(
        torch.ones(2, 1, 4, 4, dtype=FLOAT), warping.fields(maps, 4, 4), torch.ones(2, 1, 4, 4, dtype=FLOAT)
    )
    torch.testing.assert_close(moved(x, coarse)[0], warping.warp(x, warping.fields(maps, 8, 8)), rtol=1e-9, atol=1e-9)


def test_an_hourglass_keeps_the_size_and_tells_its_width():
    net = build(lambda: Hourglass(3, 4, 2))
    assert net(images()).shape == (2, net.outputs, 8, 8)
    with pytest.raises(ValueError, match="multiples of 4 are needed"):
        net(images(size=10))
    with pytest.raises(ValueError, match="levels must be"):
        Hourglass(3, 4, 0)


# All of it


def test_the_same_frame_twice_moves_nothing_whatever_the_weights():
    for axes in ("pca", "jacobian", "shift"):
        net = shaken(animator(axes), 0.05)
        x = images()
        own = net.regions(x).frames
        motion = net.move(x, own, own, planar.identity(2, like=x))
        torch.testing.assert_close(motion.field, planar.places(8, 8, x).expand(2, 8, 8, 2), rtol=1e-6, atol=1e-6)


def test_without_a_ground_model_the_ground_stands_still_and_with_one_it_moves():
    x, y = images(), images(seed=1)
    with_, without = shaken(animator(), 0.05), shaken(animator(ground=False), 0.05)
    assert without.ground is None
    for net, free in ((with_, True), (without, False)):
        seen = []
        net.flow.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[1]))
        net(x, y)
        assert torch.equal(seen[0][:, 0], planar.identity(2, like=x)) != free


def test_animating_leaves_the_ground_alone_and_a_picture_at_its_own_frames_is_still():
    net = shaken(animator(), 0.05)
    x = images()
    seen = []
    net.flow.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    net.animate(x, frames())
    assert torch.equal(seen[0][:, 0], planar.identity(2, like=x))
    net.animate(x, net.regions(x).frames)
    torch.testing.assert_close(seen[1], planar.identity(2, 4, like=x), rtol=1e-6, atol=1e-6)


def test_regions_without_axes_are_drawn_round_and_alike():
    own = frames()
    assert torch.equal(shape(own, "pca"), own)
    for axes in ("jacobian", "shift"):
        found = shape(own, axes)
        assert torch.equal(found[..., 2], own[..., 2])
        assert torch.equal(found[..., :2], (ROUNDNESS * torch.eye(2, dtype=FLOAT)).expand(2, 3, 2, 2))


def test_every_weight_gets_a_gradient_and_none_is_nonsense():
    net = shaken(animator(), 0.05)
    by = warping.bend(2, rng.stream(0), like=images())
    animation.loss(net, images(), images(seed=1), by, How()).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name


def test_the_loss_is_the_sum_of_its_parts():
    net, x, y = shaken(animator(), 0.05), images(), images(seed=1)
    by = warping.bend(2, rng.stream(0), like=x)
    picture, _, found = net(x, y)
    told = 10 * warping.pyramid(picture, y, (1, 2, 4))
    shift, axes = warping.equivariance(found.frames, net.regions(by.image(y)).frames, by)
    torch.testing.assert_close(animation.loss(net, x, y, by, How(equivariance=0.0)), told)
    torch.testing.assert_close(animation.loss(net, x, y, by, How(equivariance=2.0)), told + 2 * (shift + axes))
    plain = shaken(animator("shift"), 0.05)
    picture, _, found = plain(x, y)
    shift, _ = warping.equivariance(found.frames, plain.regions(by.image(y)).frames, by)
    told = 10 * warping.pyramid(picture, y, (1, 2, 4)) + 2 * shift
    torch.testing.assert_close(animation.loss(plain, x, y, by, How(equivariance=2.0)), told)


def test_a_pair_is_two_frames_of_one_video():
    own = torch.arange(12.0).view(4, 3, 1, 1, 1)  # video times 3 + frame
    for source, driving in animation.pairs(own, How(steps=20, batch=8), 0):
        assert torch.equal(source // 3, driving // 3)
        assert not bool((source == driving).any())
    with pytest.raises(ValueError, match="videos"):
        next(animation.pairs(own[:, :1], How(), 0))


def test_training_lowers_the_loss_and_is_told_by_its_seed():
    own = videos()
    first = animator()
    by = warping.bend(4, rng.stream(0), like=own.frames)
    before = float(animation.loss(first, own.frames[:, 0], own.frames[:, 1], by, How()).detach())
    losses = animation.train(first, own.frames, How(steps=15, batch=4, lr=1e-2), 0)
    after = float(animation.loss(first, own.frames[:, 0], own.frames[:, 1], by, How()).detach())
    assert after < 0.9 * before
    again = animator()
    assert animation.train(again, own.frames, How(steps=15, batch=4, lr=1e-2), 0) == losses
    assert torch.equal(
        nn.utils.parameters_to_vector(first.parameters()), nn.utils.parameters_to_vector(again.parameters())
    )


def test_divergence_is_reported():
    net = animator()
    net.painter.last.bias.data[0] = float("nan")
    with pytest.raises(require.NotFinite, match="step 1: training diverged"):
        animation.train(net, videos().frames, How(steps=2, batch=2), 0)


def test_what_is_judged_from_the_definition():
    class Copies(nn.Module):
        """The source as it is, and all of it the ground's but the left half."""

        def forward(self, source, driving):
            masks = torch.zeros(len(source), 2, 8, 8, dtype=FLOAT)
            masks[:, 1, :, :4], masks[:, 0, :, 4:] = 1, 1
            return source, Motion(masks, None, None), None

    own = videos()
    found = animation.judged(Copies(), own.frames, own.masks, batch=3)
    told = (own.frames[:, :1] - own.frames[:, 1:]).abs().mean()
    assert found["l1"] == pytest.approx(float(told), rel=1e-9)
    assert found["copy"] == pytest.approx(float(told), rel=1e-9)
    body = 1 - own.masks[:, 1:, 0] > 0.5
    left = torch.zeros_like(body)
    left[..., :4] = True
    assert found["overlap"] == pytest.approx(int((left & body).sum()) / int((left | body).sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegionPredictor(3, "svd"), "axes must be 'pca' or 'jacobian' or 'shift'"),
        (lambda: RegionPredictor(0), "regions must be"),
        (lambda: RegionPredictor(temperature=0.0), "temperature must be"),
        (lambda: RegionPredictor(shrink=0), "shrink must be"),
        (lambda: BackgroundPredictor(levels=0), "levels must be"),
        (lambda: How(steps=-1), "steps must be"),
        (lambda: How(batch=0), "batch must be"),
        (lambda: How(lr=0.0), "lr must be"),
        (lambda: How(equivariance=-1.0), "equivariance must be"),
        (lambda: How(picture=float("nan")), "picture must be"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
