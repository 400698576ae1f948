"""Slips in styles of sites: frequencies, contours, the episodic step, what is shared, and procedural images."""

from __future__ import annotations

from planting import Fault, Planted


class TestFedDG(Planted):
    """Styles of others, seen after a step of one's own."""

    faults = (
        Fault(
            "feddg-sites-weigh-alike",
            "feddg.py",
            '[{n: t for n, t in u.items() if n != "bank"} for u in uploads], weights)',
            '[{n: t for n, t in u.items() if n != "bank"} for u in uploads], torch.ones_like(weights) / len(weights))',
            "a site with few images counts as much as one with many",
            tests=("test_feddg.py::test_without_meta_it_is_fedavg_bit_for_bit",),
        ),
        Fault(
            "feddg-restyled-before-the-step",
            "feddg.py",
            "maps = net(ahead, t, train=True, features=True)",
            "maps = net(state, t, train=True, features=True)",
            "the restyled image is answered by the weights before the step",
            tests=("test_feddg.py::test_a_step_is_the_formula_to_first_order[0.5-0.0]",),
        ),
        Fault(
            "feddg-rings-are-contours",
            "feddg.py",
            "edges = [contours.contour(masks), contours.ring(masks)]",
            "edges = [contours.contour(masks), contours.contour(masks)]",
            "the background that is contrasted is the contour itself",
            tests=("test_feddg.py::test_images_carry_their_masks_contours_and_rings",),
        ),
        Fault(
            "feddg-bank-every-round",
            "feddg.py",
            'for k, t in fed.memory["bank"].items()} if first else {})',
            'for k, t in fed.memory["bank"].items()} if self.meta else {})',
            "styles are sent again in every round",
            tests=("test_feddg.py::test_bytes_are_the_model_and_once_the_bank",),
        ),
        Fault(
            "feddg-own-style",
            "feddg.py",
            'if site != f"{k}"])',
            'if site == f"{k}"])',
            "a site sees its own styles only",
            tests=("test_feddg.py::test_images_take_the_style_of_another_site_and_keep_their_own_phase",),
        ),
        Fault(
            "feddg-ratio-from-zero",
            "feddg.py",
            "self.low + (self.high - self.low) * torch.rand",
            "self.high * torch.rand",
            "the lower end of the ratio is forgotten",
            tests=("test_feddg.py::test_with_all_of_the_ratio_the_window_is_the_other_sites",),
        ),
        Fault(
            "feddg-one-ratio-for-all",
            "feddg.py",
            "torch.rand(len(rows), 1, generator",
            "torch.rand(1, 1, generator",
            "all images of a site are mixed alike",
            tests=("test_feddg.py::test_each_image_has_a_style_and_a_ratio_of_its_own",),
        ),
        Fault(
            "feddg-one-style-for-all",
            "feddg.py",
            "torch.randint(len(others), (len(rows),), generator",
            "torch.randint(len(others), (1,), generator",
            "all images of a site have the style of one image",
            tests=("test_feddg.py::test_each_image_has_a_style_and_a_ratio_of_its_own",),
        ),
        Fault(
            "feddg-same-styles-every-round",
            "feddg.py",
            '"styles", fed.round, k)',
            '"styles", k)',
            "each image meets one style, round after round",
            tests=("test_feddg.py::test_ratios_lie_in_their_range_and_every_round_draws_anew",),
        ),
        Fault(
            "feddg-step-uphill",
            "feddg.py",
            "w - step * slope[n]",
            "w + step * slope[n]",
            "the episode climbs the loss",
            tests=(
                "test_feddg.py::test_a_step_is_the_formula_to_first_order[0.5-0.0]",
                "test_feddg.py::test_the_step_ahead_is_gradient_descent_and_a_constant",
            ),
        ),
        Fault(
            "feddg-second-order",
            "feddg.py",
            "grads = torch.autograd.grad(mean(net, loss).sum(), list(weights.values()))",
            "grads = torch.autograd.grad(mean(net, loss).sum(), list(weights.values()), create_graph=True)",
            "a curvature flows that first order leaves out",
            tests=("test_feddg.py::test_the_step_ahead_is_gradient_descent_and_a_constant",),
        ),
        Fault(
            "feddg-contours-against-themselves",
            "feddg.py",
            "torch.arange(4, device=maps.device) // 2",
            "torch.arange(4, device=maps.device) % 2",
            "an image's contour and background are drawn together",
            tests=("test_feddg.py::test_a_step_is_the_formula_to_first_order[0.5-0.1]",),
        ),
    )


class TestFrequencies(Planted):
    """Amplitudes are mixed where it is said, and phases stay."""

    faults = (
        Fault(
            "ratio-the-other-way",
            "fourier.py",
            "(1 - share) * inside + share * central(amplitude, window)",
            "share * inside + (1 - share) * central(amplitude, window)",
            "the ratio is the demo's, one minus ours",
            tests=("test_fourier.py::test_nothing_of_another_image_is_the_image_itself",),
        ),
        Fault(
            "phase-turned-round",
            "fourier.py",
            "return image(torch.polar(size, phase))",
            "return image(torch.polar(size, -phase))",
            "the image upside down",
            tests=("test_fourier.py::test_nothing_of_another_image_is_the_image_itself",),
        ),
        Fault(
            "mean-alone",
            "fourier.py",
            "    inside = central(size, window)\n"
            "    inside.copy_((1 - share) * inside + share * central(amplitude, window))",
            "    inside = central(size, 0)\n    inside.copy_((1 - share) * inside + share * central(amplitude, 0))",
            "the window that the released code trains with, whatever is asked for",
            tests=("test_fourier.py::test_amplitudes_are_mixed_in_the_window_alone_and_the_phase_stays",),
        ),
        Fault(
            "like-but-for-a-mirror",
            "phases.py",
            "a.flip((-2, -1))",
            "a.flip(-1)",
            "a mirror image counts as alike, the turn by half a circle does not",
            tests=("test_phases.py::test_likeness_forgives_what_an_amplitude_cannot_tell",),
        ),
        Fault(
            "first-start-wins",
            "phases.py",
            "apart.argmin()",
            "apart.argmax()",
            "the start that came least near is taken",
            tests=("test_phases.py::test_of_several_starts_the_nearest_is_taken",),
        ),
    )


class TestMasks(Planted):
    """What is cut out is what the mask says."""

    faults = (
        Fault(
            "border-is-no-background",
            "contours.py",
            "value=1.0",
            "value=0.0",
            "a mask at the border has no contour there",
            tests=(
                "test_contours.py::test_they_are_those_of_scipy",
                "test_contours.py::test_a_mask_at_the_border_has_a_contour_there",
            ),
        ),
        Fault(
            "positives-and-negatives-exchanged",
            "contours.py",
            "torch.where(both & ~same, cosines, none)",
            "torch.where(both & same, cosines, none)",
            "F taken the other way round",
            tests=("test_contours.py::test_boundary_is_the_sum_over_pairs",),
        ),
        Fault(
            "positive-below-though-printed",
            "contours.py",
            "others if printed else torch.logaddexp(others, cosines)",
            "torch.logaddexp(others, cosines)",
            "NT-Xent in place of the printed form",
            tests=(
                "test_contours.py::test_as_printed_it_is_negative_for_perfect_features_and_with_the_positive_below_it_is_not[0.5]",
            ),
        ),
        Fault(
            "dice-without-its-two",
            "losses.py",
            "overlap = 2 * (probabilities * mask).sum(both) + smooth",
            "overlap = (probabilities * mask).sum(both) + smooth",
            "a perfect mask has a loss",
            tests=("test_feddg.py::test_soft_dice_is_dice_of_logits_and_the_formula",),
        ),
        Fault(
            "nothing-beside",
            "models/unet.py",
            "self.rest(self.below(below) + self.beside(beside))",
            "self.rest(self.below(below))",
            "on the way up the maps of the way down are not seen",
            tests=("test_feddg.py::test_a_sum_of_two_convolutions_is_that_of_what_is_concatenated",),
        ),
        Fault(
            "light-from-above",
            "data/sites.py",
            "angle.sin() * across[:, None]",
            "angle.sin() * across[:, None].flip(0)",
            "light comes from the other side",
            tests=("test_sites.py::test_light_falls_from_where_it_is_said[0.25-more1-less1]",),
        ),
    )
