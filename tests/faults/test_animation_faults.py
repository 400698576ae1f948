"""Slips in animation: coordinates, roots, signs, chains of maps, what is hidden, and what keeps its length."""

from __future__ import annotations

from planting import Fault, Planted


class TestPlane(Planted):
    """Moments, roots and maps."""

    faults = (
        Fault(
            "rows-before-columns",
            "planar.py",
            "return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)",
            "return torch.stack([y[:, None].expand(height, width), x.expand(height, width)], -1)",
            "places are (y, x)",
            tests=(
                "test_planar.py::test_places_are_x_then_y_with_pixels_at_the_corners",
                "test_planar.py::test_moments_are_those_of_two_pixels_by_hand",
                "test_warping.py::test_the_identity_leaves_an_image_bit_for_bit_near",
            ),
        ),
        Fault(
            "covariance-about-the-origin",
            "planar.py",
            "off = z - mean[..., None, :]",
            "off = z - 0 * mean[..., None, :]",
            "second moments are not central",
            tests=("test_planar.py::test_moments_are_those_of_two_pixels_by_hand",),
        ),
        Fault(
            "axis-at-the-whole-angle",
            "planar.py",
            "torch.where(oblong, d, one)) / 2",
            "torch.where(oblong, d, one))",
            "the axes stand at twice their angle",
            tests=("test_planar.py::test_the_closed_form_is_that_of_eigh", "test_planar.py::test_roots_are_roots"),
        ),
        Fault(
            "round-regions-have-axes",
            "planar.py",
            "oblong = square > (ROUND * half).square()",
            "oblong = square >= 0 * half",
            "the gradient of a round region is not a number",
            tests=("test_planar.py::test_round_regions_have_finite_gradients_where_eigh_has_none",),
        ),
        Fault(
            "root-of-the-other-axes",
            "planar.py",
            "sqrt()[..., None, :]",
            "sqrt()[..., :, None]",
            "rows are scaled in place of columns",
            tests=("test_planar.py::test_roots_are_roots",),
        ),
        Fault(
            "the-smaller-turn-by-the-first-entry",
            "planar.py",
            "trace = linear[..., 0, 0] + linear[..., 1, 1]\n    return",
            "trace = linear[..., 0, 0]\n    return",
            "the sign is the released code's",
            tests=("test_planar.py::test_the_sign_is_that_of_the_smaller_turn_where_the_first_entry_errs",),
        ),
        Fault(
            "from-source-to-driving",
            "planar.py",
            "linear = source[..., :2] @ inverse(driving[..., :2])",
            "linear = driving[..., :2] @ inverse(source[..., :2])",
            "the map leads the other way",
            tests=("test_planar.py::test_a_turn_of_less_than_a_quarter_and_a_growth_are_found_exactly",),
        ),
        Fault(
            "composed-without-the-outer-shift",
            "planar.py",
            "torch.cat([linear[..., :2], linear[..., 2:] + outer[..., 2:]], -1)",
            "torch.cat([linear[..., :2], linear[..., 2:]], -1)",
            "the outer map's shift is lost",
            tests=("test_planar.py::test_maps_compose_invert_and_apply_as_matrices_do",),
        ),
    )


class TestWarps(Planted):
    """Fields, bends and what regions are asked to follow."""

    faults = (
        Fault(
            "corners-not-aligned",
            "warping.py",
            'padding_mode="border", align_corners=True',
            'padding_mode="border", align_corners=False',
            "the identity moves the image",
            tests=(
                "test_warping.py::test_the_identity_leaves_an_image_bit_for_bit_near",
                "test_warping.py::test_no_deviation_is_no_bend",
            ),
        ),
        Fault(
            "flow-of-the-largest-mask",
            "warping.py",
            "return (masks[..., None] * fields(maps, *masks.shape[2:])).sum(1)",
            "return ((masks == masks.amax(1, keepdim=True))[..., None] * fields(maps, *masks.shape[2:])).sum(1)",
            "one region moves a pixel, and masks get no gradient",
            tests=("test_warping.py::test_flow_is_the_mean_of_the_maps_by_the_masks",),
        ),
        Fault(
            "jacobian-without-its-one",
            "warping.py",
            "slope = off * (square.clamp(min=TINY).log() + 1)",
            "slope = off * square.clamp(min=TINY).log()",
            "the spline's slope lacks the term of the logarithm",
            tests=("test_warping.py::test_the_jacobian_is_that_of_autograd",),
        ),
        Fault(
            "equivariance-the-other-way-round",
            "warping.py",
            "shift = (frames[..., 2] - by.at(centre)).abs().mean()",
            "shift = (centre - by.at(frames[..., 2])).abs().mean()",
            "the bend is applied to the wrong image's places",
            tests=(
                "test_warping.py::test_regions_that_follow_a_bend_cost_nothing_and_others_do",
                "test_warping.py::test_a_real_blob_follows_an_affine_bend",
            ),
        ),
        Fault(
            "equivariance-minds-the-sign",
            "warping.py",
            "return shift, (eye - planar.smaller_turn(product)).abs().mean()",
            "return shift, (eye - product).abs().mean()",
            "an axis that points the other way is punished",
            tests=("test_warping.py::test_regions_that_follow_a_bend_cost_nothing_and_others_do",),
        ),
        Fault(
            "pyramid-of-one-scale",
            "warping.py",
            "off = F.avg_pool2d(picture - target, s) if s > 1 else picture - target",
            "off = picture - target",
            "coarse scales are the fine one again",
            tests=("test_warping.py::test_the_pyramid_is_zero_for_equal_images_and_sees_coarse_errors",),
        ),
    )


class TestAnimator(Planted):
    """What moves, what is hidden, and what is judged."""

    faults = (
        Fault(
            "jacobian-of-any-start",
            "models/regions.py",
            "torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(regions)",
            "torch.tensor([1.0, 1.0, 1.0, 1.0]).repeat(regions)",
            "slopes do not begin at the identity",
            tests=("test_animation.py::test_a_jacobian_begins_at_the_identity",),
        ),
        Fault(
            "ground-moves-at-first",
            "models/regions.py",
            "nn.init.zeros_(self.head.weight)",
            "nn.init.ones_(self.head.weight)",
            "the ground does not begin at rest",
            tests=("test_animation.py::test_the_ground_stands_still_at_first_and_moves_by_six_numbers",),
        ),
        Fault(
            "blobs-of-one-frame",
            "models/animator.py",
            "heat = warping.blobs(driving, *size) - warping.blobs(source, *size)",
            "heat = warping.blobs(driving, *size)",
            "the flow does not see where regions were",
            tests=("test_animation.py::test_the_flow_sees_where_regions_were_and_are_and_the_warped_source",),
        ),
        Fault(
            "confidence-upside-down",
            "models/animator.py",
            "return sure * warped + (1 - sure) * self.last(h).sigmoid()",
            "return (1 - sure) * warped + sure * self.last(h).sigmoid()",
            "what was seen is painted, and what was hidden shown",
            tests=(
                "test_animation.py::test_full_confidence_and_no_motion_give_the_source_itself",
                "test_animation.py::test_where_nothing_is_believed_the_source_is_not_seen",
            ),
        ),
        Fault(
            "hidden-features-leak",
            "models/animator.py",
            "h = self.middle(sure * warped)",
            "h = self.middle(warped)",
            "features that are not believed reach the picture",
            tests=("test_animation.py::test_where_nothing_is_believed_the_source_is_not_seen",),
        ),
        Fault(
            "animated-ground-moves",
            "models/animator.py",
            "self.move(source, own, frames, planar.identity(len(source), like=source))",
            "self.move(source, own, frames, planar.identity(len(source), like=source) * 1.1)",
            "the ground moves where one animates",
            tests=(
                "test_animation.py::test_animating_leaves_the_ground_alone_and_a_picture_at_its_own_frames_is_still",
            ),
        ),
        Fault(
            "a-frame-from-itself",
            "animation.py",
            "torch.randint(1, frames.shape[1], (how.batch,), generator=draws)",
            "torch.randint(0, frames.shape[1], (how.batch,), generator=draws)",
            "some pairs are one frame twice, which teach nothing",
            tests=("test_animation.py::test_a_pair_is_two_frames_of_one_video",),
        ),
        Fault(
            "shift-regions-asked-for-axes",
            "animation.py",
            'shift if animator.regions.axes == "shift" else shift + axes',
            "shift + axes",
            "regions without axes are punished for having none",
            tests=("test_animation.py::test_the_loss_is_the_sum_of_its_parts",),
        ),
        Fault(
            "overlap-with-the-ground",
            "animation.py",
            "warping.resized(1 - motion.masks[:, :1], *b.shape[1:])[:, 0] > 0.5",
            "warping.resized(motion.masks[:, :1], *b.shape[1:])[:, 0] > 0.5",
            "the ground's mask is compared with the body",
            tests=("test_animation.py::test_what_is_judged_from_the_definition",),
        ),
    )


class TestArms(Planted):
    """Videos are what is said of them."""

    faults = (
        Fault(
            "links-do-not-hang-together",
            "data/arms.py",
            "planar.affine(planar.turn(angles), ends - along / 2)",
            "planar.affine(planar.turn(angles), ends)",
            "a link's middle is at its end",
            tests=(
                "test_arms.py::test_links_hang_together_and_keep_their_length",
                "test_arms.py::test_a_chain_from_angles_by_hand",
            ),
        ),
        Fault(
            "texture-moves-the-wrong-way",
            "data/arms.py",
            "texture.at(planar.apply(planar.invert(ground), z",
            "texture.at(planar.apply(ground, z",
            "the ground's map is its inverse",
            tests=("test_arms.py::test_the_ground_is_one_texture_that_moves",),
        ),
        Fault(
            "the-first-link-in-front",
            "data/arms.py",
            "for link in reversed(range(inside.shape[-3])):",
            "for link in range(inside.shape[-3]):",
            "an earlier link hides a later one",
            tests=("test_arms.py::test_a_later_link_hides_an_earlier_one",),
        ),
        Fault(
            "sticks-of-another-variance",
            "data/arms.py",
            "return (12 * spread[..., 0]).sqrt()",
            "return (16 * spread[..., 0]).sqrt()",
            "an ellipse's axis is taken for a stick's length",
            tests=("test_arms.py::test_frames_of_sticks_tell_their_lengths",),
        ),
    )


class TestDisentangler(Planted):
    """Shape from the one, pose from the other."""

    faults = (
        Fault(
            "avd-of-two-drivers",
            "disentangle.py",
            "self.shape(told(source)), self.pose(told(driver))",
            "self.shape(told(driver)), self.pose(told(driver))",
            "the source is not looked at",
            tests=("test_disentangle.py::test_shape_is_read_from_the_source_and_pose_from_the_driver",),
        ),
        Fault(
            "avd-learns-the-stretch",
            "disentangle.py",
            "found = distance(model(source, stretched(wanted, draws, how.stretch)), wanted)",
            "wanted = stretched(wanted, draws, how.stretch)\n        found = distance(model(source, wanted), wanted)",
            "the stretched driver is what is wanted",
            tests=("test_disentangle.py::test_the_driver_is_stretched_and_what_is_wanted_is_not",),
        ),
        Fault(
            "stretched-regions-apart",
            "disentangle.py",
            "torch.rand(len(frames), 1, 2, 1, generator=draws)",
            "torch.rand(len(frames), frames.shape[1], 2, 1, generator=draws)",
            "every region is stretched by a factor of its own",
            tests=("test_disentangle.py::test_stretching_scales_both_directions_of_a_whole_body",),
        ),
        Fault(
            "frames-told-with-their-sign",
            "disentangle.py",
            "covariance = linear @ linear.mT",
            "covariance = linear",
            "an axis that points the other way is another shape",
            tests=("test_disentangle.py::test_an_axis_may_point_either_way",),
        ),
        Fault(
            "all-avds-draw-as-the-first",
            "disentangle.py",
            '[rng.stream(s, "avd") for s in seeds]',
            '[rng.stream(seeds[0], "avd") for s in seeds]',
            "models side by side see the batches of the first seed",
            tests=("test_disentangle.py::test_side_by_side_is_one_after_the_other",),
        ),
    )


class TestLimbs(Planted):
    """What the parts of a motion model are worth on drawn arms, and how it is shown."""

    faults = (
        Fault(
            "source-is-the-last-frame",
            "limbs.py",
            "t[:, :1].expand_as(t[:, 1:])",
            "t[:, -1:].expand_as(t[:, 1:])",
            "pictures are made of the frame that is wanted",
            tests=("test_limbs.py::test_the_first_frame_stands_beside_each_later_one",),
        ),
        Fault(
            "body-error-over-the-whole-picture",
            "limbs.py",
            '"body": float((off * body).sum() / body.sum())',
            '"body": float((off * body).mean())',
            "a small body has a small error",
            tests=("test_limbs.py::test_errors_are_means_over_pixels_and_over_the_body",),
        ),
        Fault(
            "ground-learns-from-the-body",
            "limbs.py",
            "return (off.abs() * driving[:, 3:]).mean()",
            "return off.abs().mean()",
            "pixels of the body count for the ground's map",
            tests=("test_limbs.py::test_only_ground_counts_for_the_ground_and_only_the_body_for_its_axes",),
        ),
        Fault(
            "driver-moves-as-the-source",
            "limbs.py",
            "torch.arange(len(own.links)).roll(1)",
            "torch.arange(len(own.links)).roll(0)",
            "the driver is the source itself, longer",
            tests=("test_limbs.py::test_a_driver_is_longer_and_moves_as_the_body_before",),
        ),
        Fault(
            "driver-is-wider-too",
            "limbs.py",
            "return arms.frames_of(links, lengths, own.width)",
            "return arms.frames_of(links, lengths, by * own.width)",
            "a driver's limbs are wider as well as longer",
            tests=("test_limbs.py::test_a_driver_is_longer_and_moves_as_the_body_before",),
        ),
        Fault(
            "rate-that-stays",
            "limbs.py",
            'group["lr"] = rate * (1 - i / steps)',
            'group["lr"] = rate',
            "the rate does not fall",
            tests=("test_limbs.py::test_the_rate_falls_to_nothing",),
        ),
        Fault(
            "learnt-axes-turned-back",
            "limbs.py",
            "maps = planar.between(own, theirs, turned=False)",
            "maps = planar.between(own, theirs)",
            "axes that are learnt cannot turn by more than a quarter",
            tests=("test_limbs.py::test_axes_that_are_learnt_may_turn_by_as_much_as_they_say",),
        ),
        Fault(
            "film-without-end",
            "plots/moving.py",
            "duration=duration, loop=plays",
            "duration=duration, loop=0",
            "what moves never stops",
            tests=("test_moving.py::test_a_film_has_every_moment_one_palette_and_an_end",),
        ),
    )
