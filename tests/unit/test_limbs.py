"""Pictures of arms of which all is known: what is exact, what is learnt, and what an animation does to lengths."""

import pytest
import torch

from fedlib import limbs, planar, require, rng
from fedlib.data import arms
from fedlib.models.regions import RegionPredictor

FLOAT = torch.float64


def videos(count=6, seed=0, **other):
    return arms.arms(count, frames=4, draws=rng.stream(seed, "videos"), dtype=FLOAT, **other)


def test_the_first_frame_stands_beside_each_later_one():
    t = torch.arange(6).view(2, 3, 1)
    first, later = limbs.pairs(t)
    assert first.flatten().tolist() == [0, 0, 3, 3]
    assert later.flatten().tolist() == [1, 2, 4, 5]


def test_heat_adds_up_to_one_for_links_that_are_hidden_too():
    masks = torch.zeros(2, 3, 8, 8, dtype=FLOAT)
    masks[0, 1, 2:4, 5] = 1.0
    heat = limbs.heat(masks)
    assert heat.shape == (2, 2, 8, 8)
    torch.testing.assert_close(heat.sum((-2, -1)), torch.ones(2, 2, dtype=FLOAT))
    assert float(heat[0, 0, 2:4, 5].sum()) > 0.999
    assert float(heat[1].std()) < 1e-12


def test_frames_of_masks_are_those_of_the_sticks():
    own = videos(width=0.1, swing=0.2, length=(0.4, 0.5))  # none leaves the picture
    whole = own.masks[:, :, -1:]  # of the last link nothing is hidden
    found = limbs.seen(torch.cat([1 - whole, whole], 2))[:, :, 0]
    true = limbs.sticks(own)[:, :, -1]
    assert float((found[..., 2] - true[..., 2]).abs().max()) < 0.02
    assert float(limbs.angle(found, true).max()) < 5
    none = limbs.seen(own.masks, "none")
    assert torch.equal(none[..., :2], torch.eye(2, dtype=FLOAT).expand_as(none[..., :2]))
    root = limbs.seen(own.masks, "symmetric")[..., :2]
    torch.testing.assert_close(root, root.mT)
    with pytest.raises(ValueError, match="axes"):
        limbs.seen(own.masks, "pcs")


def test_with_true_motion_the_picture_is_the_later_frame_but_for_blur():
    own = videos()
    true = limbs.errors(limbs.picture(own, own.links, limbs.true_ground(own), turned=False), own)
    copy = limbs.errors(limbs.pairs(own.frames)[0], own)
    assert true["all"] < 0.4 * copy["all"]
    assert true["body"] < 0.3 * copy["body"]
    still = own._replace(frames=own.frames[:, :1].expand_as(own.frames), masks=own.masks[:, :1].expand_as(own.masks))
    maps = planar.identity(6 * 3, like=own.ground)
    made = limbs.picture(still, limbs.seen(still.masks), maps)
    torch.testing.assert_close(made, limbs.pairs(still.frames)[0], rtol=0, atol=1e-5)


def test_errors_are_means_over_pixels_and_over_the_body():
    own = videos(1)
    later, body = limbs.pairs(own.frames)[1], 1 - limbs.pairs(own.masks)[1][:, :1]
    off = limbs.errors(later + 0.5 * body, own)
    assert off["all"] == pytest.approx(0.5 * float(body.mean()))
    assert off["body"] == pytest.approx(0.5 * float(body.square().sum() / body.sum()))


def test_axes_help_where_limbs_turn_and_not_where_they_do_not():
    for swing, gain in ((1.0, 0.03), (0.0, -0.005)):
        own = videos(swing=swing)
        ground = limbs.true_ground(own)
        body = {a: limbs.errors(limbs.picture(own, limbs.seen(own.masks, a), ground), own)["body"] for a in limbs.AXES}
        assert body["none"] - body["pca"] > gain
        assert swing or abs(body["none"] - body["pca"]) < 0.005


def test_a_ground_that_learns_gets_nearer_and_sees_small_images_alone():
    own = videos(2, size=16)
    seen = torch.cat([own.frames, own.masks[:, :, :1]], 2)[:, :2]
    net = rng.build(lambda: limbs.Ground(16, 4), 0).to(FLOAT)
    before = limbs.on_the_ground(net, *limbs.pairs(seen)).detach()
    limbs.fitted(net, seen, limbs.on_the_ground, 0, 0.01, 80, 4)
    assert float(limbs.on_the_ground(net, *limbs.pairs(seen)).detach()) < 0.9 * float(before)
    big = videos(2, size=32).frames
    coarse = limbs.warping.resized(big.flatten(0, 1), 16, 16)
    torch.testing.assert_close(net(big[0], big[1]), net(*coarse.split(4)))


def test_only_ground_counts_for_the_ground_and_only_the_body_for_its_axes():
    own = videos(3)
    source, driving = limbs.pairs(torch.cat([own.frames, own.masks], 2))
    ground = rng.build(lambda: limbs.Ground(16, 4), 0).to(FLOAT)
    axes = rng.build(lambda: RegionPredictor(2, "jacobian", width=4), 0).to(FLOAT)
    there = driving[:, 3:4]
    noise = torch.rand(driving[:, :3].shape, generator=rng.stream(1), dtype=FLOAT)
    ground.forward = lambda a, b: planar.identity(len(a), like=a)  # whatever it sees
    sees = torch.cat([driving[:, :3] + noise * (there == 0), there], 1)
    plain = limbs.on_the_ground(ground, source[:, :4], driving[:, :4])
    torch.testing.assert_close(limbs.on_the_ground(ground, source[:, :4], sees), plain)
    assert not torch.equal(limbs.on_the_ground(ground, source[:, :4], driving[:, :4] + 0.1), plain)
    first = limbs.on_the_body(axes, source, driving)
    start = limbs.learnt_axes(axes, source[:, :3], source[:, 3:])
    torch.testing.assert_close(start[..., :2], torch.eye(2, dtype=FLOAT).expand(9, 2, 2, 2))  # begun at the identity
    far = torch.cat([driving[:, :3] + noise * (there == 1), driving[:, 3:]], 1)
    torch.testing.assert_close(limbs.on_the_body(axes, source, far), first)


def test_axes_that_are_learnt_may_turn_by_as_much_as_they_say(monkeypatch):
    source, driving = limbs.pairs(torch.cat([(own := videos(2)).frames, own.masks], 2))
    axes = planar.identity(len(source), 2, like=own.ground)
    off = []
    for sign in (1, -1):  # a region's axes are known up to their sign, learnt ones are not
        told = iter((axes, planar.affine(sign * axes[..., :2], axes[..., 2])))
        monkeypatch.setattr(limbs, "learnt_axes", lambda *given, told=told: next(told))
        off.append(float(limbs.on_the_body(None, source, driving)))
    assert abs(off[0] - off[1]) > 1e-3, off


def test_the_rate_falls_to_nothing():
    """Adam's steps are as long as the rate where the gradient is always one."""
    net = torch.nn.Linear(1, 1, bias=False).to(FLOAT)
    begun = net.weight.item()
    limbs.fitted(net, videos(4).frames, lambda n, a, b: n.weight.sum(), 0, 0.1, 4)
    assert begun - net.weight.item() == pytest.approx(0.1 * (1 + 0.75 + 0.5 + 0.25), rel=1e-5)


def test_a_network_that_diverges_is_reported():
    own = videos(4)
    net = rng.build(lambda: limbs.Ground(16, 4), 0).to(FLOAT)
    with pytest.raises(require.NotFinite, match="step 1: training diverged"):
        limbs.fitted(net, own.frames * torch.nan, lambda n, a, b: n(a, b).sum(), 0, 0.01, 2)


def test_a_driver_is_longer_and_moves_as_the_body_before():
    own = videos(3)
    driver = limbs.longer(own)
    long = arms.limb_lengths(driver) / own.lengths[:, None]
    torch.testing.assert_close(long, torch.full_like(long, 1.25))
    across = planar.eigen(driver[..., :2] @ driver[..., :2].mT)[0][..., 1]
    torch.testing.assert_close(across, torch.full_like(across, own.width**2 / 3))  # and as wide as before
    other = limbs.sticks(own).roll(1, 0)
    assert float(limbs.angle(driver, other).max()) < 1e-5
    same = limbs.longer(own.at(torch.tensor([0, 0])), 1.0)
    torch.testing.assert_close(same[0], limbs.sticks(own)[0])


def test_relative_animation_keeps_lengths_and_the_first_pose():
    own = videos(3)
    source, driver = limbs.sticks(own)[:, :1].expand(-1, 4, -1, -1, -1), limbs.longer(own)
    made = limbs.relative(source, driver[:, :1].expand_as(driver), driver)
    torch.testing.assert_close(made[:, 0], source[:, 0])
    torch.testing.assert_close(arms.limb_lengths(made), arms.limb_lengths(source))
    assert float(limbs.angle(made, driver).mean()) > 10


def test_angles_are_between_axes_that_may_point_either_way():
    frames = planar.affine(planar.turn(torch.tensor([0.0, 0.5, 2.0])) * torch.tensor([2.0, 1.0]), torch.zeros(3, 2))
    level = frames[:1].expand_as(frames)
    wanted = torch.tensor([0.0, 0.5, torch.pi - 2.0]).rad2deg()
    torch.testing.assert_close(limbs.angle(frames, level), wanted, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(limbs.angle(-frames, level), wanted, rtol=1e-4, atol=1e-3)


def test_what_must_be_zero_is():
    found = limbs.gaps(rng.stream(0))
    assert set(found) == {"still", "back", "eigen"}
    assert max(found.values()) < 1e-12


def test_the_turn_of_a_stick_is_read_and_that_of_a_disc_is_not():
    found = limbs.misread((1.0, 3.0), rng.stream(0), count=60)
    assert found[1.0] > 25
    assert found[3.0] < 1
    with pytest.raises(ValueError, match="ratio"):
        limbs.misread((0.5,), rng.stream(0))
