"""Slips in two streams and their discrepancy: what is shared, what is related, who is moved by what."""

from __future__ import annotations

from planting import Fault, Planted


class TestDiscrepancy(Planted):
    """Every kernel counts, over all pairs."""

    faults = (
        Fault(
            "mmd-of-one-kernel",
            "losses.py",
            "for b in widths]).sum(0)",
            "for b in widths[:1]]).sum(0)",
            "only the first bandwidth counts",
            tests=(
                "test_mmd.py::test_mmd_is_its_definition_pair_by_pair",
                "test_mmd.py::test_a_sum_of_kernels_is_the_sum_of_their_distances",
            ),
        ),
        Fault(
            "mmd-without-the-two",
            "losses.py",
            "return own - 2 * cross + other",
            "return own - cross + other",
            "equal samples are some distance apart",
            tests=("test_mmd.py::test_equal_samples_are_no_distance_apart_exactly",),
        ),
        Fault(
            "mmd-bandwidth-squared",
            "losses.py",
            "torch.exp(apart / -b)",
            "torch.exp(apart / (-2 * b**2))",
            "the bandwidth is taken for a standard deviation",
            tests=(
                "test_mmd.py::test_mmd_is_its_definition_pair_by_pair",
                "test_mmd.py::test_a_wide_kernel_compares_means",
            ),
        ),
        Fault(
            "adadelta-mean-of-moves-too-early",
            "optim.py",
            "torch._foreach_addcmul_(moves, move, move, value=1 - self.rho)",
            "torch._foreach_addcmul_(moves, g, g, value=1 - self.rho)",
            "the mean of moves is one of gradients",
            tests=("test_optim.py::test_rule_equals_torch",),
        ),
    )


class TestStreams(Planted):
    """A layer is one tensor or two, and two are related by one scale and one shift."""

    faults = (
        Fault(
            "streams-all-untied",
            "streams.py",
            'n: torch.where(untied[j], state[f"target.{n}"], state[f"source.{n}"])',
            'n: state[f"target.{n}"]',
            "no layer is shared, whatever the mask says",
            tests=(
                "test_twostream.py::test_shared_layers_are_one_tensor_and_untied_ones_two",
                "test_twostream.py::test_sharing_does_not_depend_on_what_the_idle_stream_holds",
            ),
        ),
        Fault(
            "streams-mask-upside-down",
            "streams.py",
            'torch.where(untied[j], state[f"target.{n}"], state[f"source.{n}"])',
            'torch.where(untied[j], state[f"source.{n}"], state[f"target.{n}"])',
            "a mask unties the layers that it should share",
            tests=("test_twostream.py::test_shared_layers_are_one_tensor_and_untied_ones_two",),
        ),
        Fault(
            "relation-without-shift",
            "streams.py",
            'a * state[f"source.{n}"] + b - state[f"target.{n}"]',
            'a * state[f"source.{n}"] - state[f"target.{n}"]',
            "weights are related by a scale alone",
            tests=("test_twostream.py::test_best_scale_and_shift_leave_what_correlation_says",),
        ),
        Fault(
            "relation-scales-the-target",
            "streams.py",
            'a * state[f"source.{n}"] + b - state[f"target.{n}"]',
            'state[f"source.{n}"] + b - a * state[f"target.{n}"]',
            "the scale stands at the target's weights: zero is free",
            tests=("test_twostream.py::test_best_scale_and_shift_leave_what_correlation_says",),
        ),
        Fault(
            "exponential-overflows",
            "streams.py",
            "bounded = gap.clamp(max=most)",
            "bounded = gap",
            "the exponential is as printed, and infinite beyond 88.7",
            tests=("test_twostream.py::test_the_exponential_does_not_overflow_and_keeps_its_gradient",),
        ),
        Fault(
            "exponential-lets-go",
            "streams.py",
            "torch.expm1(bounded) + bounded.new_tensor(most).exp() * (gap - bounded)",
            "torch.expm1(bounded)",
            "weights far apart are not drawn together any more",
            tests=("test_twostream.py::test_the_exponential_does_not_overflow_and_keeps_its_gradient",),
        ),
        Fault(
            "exponential-minus-one-by-hand",
            "streams.py",
            "torch.expm1(bounded)",
            "torch.exp(bounded) - 1",
            "small gaps are lost in rounding",
            tests=("test_twostream.py::test_the_exponential_is_that_of_the_paper_until_it_is_continued",),
        ),
        Fault(
            "buffers-shared-silently",
            "streams.py",
            "if names := [n for n, _ in network.named_buffers()]:",
            "if names := [n for n, _ in network.named_buffers()][:0]:",
            "running statistics of both domains are one",
            tests=("test_twostream.py::test_statistics_of_two_domains_are_not_shared_silently",),
        ),
    )


class TestTwoStream(Planted):
    """Who is moved by which term."""

    faults = (
        Fault(
            "two-stream-shared-layers-are-related",
            "twostream.py",
            "torch.where(untied, apart, 0.0).sum()",
            "apart.sum()",
            "what the idle stream holds counts",
            tests=(
                "test_twostream.py::test_only_untied_layers_are_related",
                "test_twostream.py::test_sharing_does_not_depend_on_what_the_idle_stream_holds",
            ),
        ),
        Fault(
            "two-stream-frozen-source-moves",
            "twostream.py",
            "own = {n: w.detach() for n, w in own.items()}",
            "own = dict(own)",
            "what is called frozen is trained along",
            tests=("test_twostream.py::test_a_frozen_source_stands_still_and_its_loss_says_nothing",),
        ),
        Fault(
            "two-stream-few-by-the-source",
            "twostream.py",
            "losses.cross_entropy(_answer(network, other, batch.x_few), batch.y_few)",
            "losses.cross_entropy(_answer(network, own, batch.x_few), batch.y_few)",
            "the source's stream learns the target's labels",
            tests=(
                "test_twostream.py::test_shared_layers_are_one_tensor_and_untied_ones_two",
                "test_twostream.py::test_a_frozen_source_stands_still_and_its_loss_says_nothing",
            ),
        ),
        Fault(
            "two-stream-one-stream-for-both-features",
            "twostream.py",
            "g = features(network, other, batch.x_target)",
            "g = features(network, own, batch.x_target)",
            "the target's features are the source stream's",
            tests=("test_twostream.py::test_an_untied_head_without_target_labels_learns_by_the_relation_alone",),
        ),
        Fault(
            "two-stream-head-of-the-target-for-the-source",
            "twostream.py",
            'F.linear(f, own["head.weight"], own["head.bias"])',
            'F.linear(f, other["head.weight"], other["head.bias"])',
            "the target's head answers for the source where features are compared",
            tests=("test_twostream.py::test_an_untied_head_without_target_labels_learns_by_the_relation_alone",),
        ),
        Fault(
            "reversal-keeps-its-direction",
            "twostream.py",
            "return h.detach() - strength * (h - h.detach())",
            "return h.detach() + strength * (h - h.detach())",
            "features help the critic",
            tests=(
                "test_twostream.py::test_reversed_gradients_are_the_negative_and_the_numbers_stay",
                "test_twostream.py::test_the_critic_descends_and_the_features_climb",
            ),
        ),
        Fault(
            "two-stream-features-of-any-length",
            "twostream.py",
            "f, g = (F.normalize(h, dim=-1) if self.unit else h for h in (f, g))",
            "f, g = (h for h in (f, g))",
            "the scale of the features moves the discrepancy, or saturates it",
            tests=("test_twostream.py::test_unit_features_do_not_feel_their_scale",),
        ),
        Fault(
            "masks-chosen-by-scale",
            "twostream.py",
            "return float(losses.mmd(F.normalize(f, dim=-1), F.normalize(g, dim=-1), tuple(bandwidths)))",
            "return float(losses.mmd(f, g, tuple(bandwidths)))",
            "a network with small features wins",
            tests=("test_twostream.py::test_the_distance_by_which_masks_are_chosen_needs_no_labels_and_no_scale",),
        ),
        Fault(
            "batches-by-the-place-in-the-stack",
            "twostream.py",
            "place, drawn = torch.tensor([list(own).index(key) for key in keys]), []",
            "place, drawn = torch.arange(len(keys)) % len(own), []",
            "a pair's batches depend on who stands beside it",
            tests=("test_twostream.py::test_pairs_side_by_side_are_each_alone",),
        ),
    )


class TestShifts(Planted):
    """What the target is, and that no image serves two purposes."""

    faults = (
        Fault(
            "quarter-with-the-clock",
            "data/shifts.py",
            "torch.rot90(x, 1, (-2, -1))",
            "torch.rot90(x, -1, (-2, -1))",
            "a quarter turn goes the other way",
            tests=("test_twostream.py::test_changes_are_what_they_say",),
        ),
        Fault(
            "few-labels-of-those-that-judge",
            "data/shifts.py",
            "[one.x, *two.x.split(sizes[1:3]), judge.x]",
            "[one.x, two.x[: sizes[1]], judge.x[: sizes[2]], judge.x]",
            "the few labelled images judge, too",
            tests=(
                "test_twostream.py::test_few_labels_of_a_pair_are_of_training_samples_and_those_that_judge_are_not",
            ),
        ),
        Fault(
            "target-not-changed",
            "data/shifts.py",
            "images[1:] = changed.split(sizes[1:])",
            "images[1:] = images[1:]",
            "there is no shift",
            tests=("test_twostream.py::test_no_digit_stands_in_two_parts_and_classes_are_even",),
        ),
        Fault(
            "labels-of-the-source-changed",
            "data/shifts.py",
            "labels[1:] = [(part + 1) % CLASSES for part in labels[1:]]",
            "labels = [(part + 1) % CLASSES for part in labels]",
            "classes have the same names in both domains again",
            tests=("test_twostream.py::test_changes_are_what_they_say",),
        ),
        Fault(
            "turned-with-the-clock",
            "data/shifts.py",
            "[[cos, -sin, 0.0], [sin, cos, 0.0]]",
            "[[cos, sin, 0.0], [-sin, cos, 0.0]]",
            "images turn the other way",
            tests=("test_twostream.py::test_changes_are_what_they_say",),
        ),
    )
