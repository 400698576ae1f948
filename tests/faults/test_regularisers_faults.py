"""Slips in training that is to be more general: narrow networks, what is aligned, mixed and left out, and curvature."""

from __future__ import annotations

from planting import Fault, Planted


class TestAligning(Planted):
    """FedAlign moves the narrow last stage, by as much as it says."""

    faults = (
        Fault(
            "fedalign-features-with-a-history",
            "regularised/fedalign.py",
            "few = h.detach()[..., :",
            "few = h[..., :",
            "the second loss reaches the stages before the last",
            tests=("test_fedalign.py::test_its_gradient_is_zero_outside_the_narrow_last_stage",),
        ),
        Fault(
            "fedalign-refuses-no-network",
            "regularised/fedalign.py",
            "if f.shape[-1] * f.shape[-2] < 2:",
            "if f.shape[-1] * f.shape[-2] < 0:",
            "a map of one place is aligned, of which the matrix says nothing",
            tests=("test_fedalign.py::test_networks_that_cannot_be_aligned_are_refused",),
        ),
        Fault(
            "fedalign-no-guard-against-nothing",
            "regularised/fedalign.py",
            "some = mean_lip > 1e-12",
            "some = mean_lip > -1",
            "where both norms are equal the step is 0 / 0",
            tests=("test_fedalign.py::test_at_full_width_nothing_is_left_to_align",),
        ),
        Fault(
            "fedalign-factor-learns",
            "regularised/fedalign.py",
            "(batch_mean(net, each.detach()) for each in (ce, lip))",
            "(batch_mean(net, each) for each in (ce, lip))",
            "the gradient goes through the factor: it is that of the cross-entropy, and none of the gap's",
            tests=("test_fedalign.py::test_the_factor_is_a_constant_and_forgets_the_size_of_the_loss",),
        ),
        Fault(
            "clipped-base-unclipped",
            "regularised/clipped.py",
            "return [replace(phases[0], objective=self.objective)]",
            "return [phases[0]]",
            "clients train as the base does",
            tests=("test_fedalign.py::test_no_step_of_the_clients_is_longer_than_the_bound",),
        ),
        Fault(
            "clipped-forgets-what-the-base-keeps",
            "regularised/clipped.py",
            "        self.base.keep(fed, client, state)",
            "        super().keep(fed, client, state)",
            "the previous model of the base is never stored",
            tests=("test_fedalign.py::test_clipping_wraps_state_and_contrast",),
        ),
        Fault(
            "clipped-server-of-fedavg",
            "regularised/clipped.py",
            "return self.base.aggregate(fed, uploads, weights)",
            "return super().aggregate(fed, uploads, weights)",
            "the server step is FedAvg's, whatever the base's is",
            tests=("test_fedalign.py::test_clipping_wraps_the_servers_step",),
        ),
        Fault(
            "norm-of-the-square",
            "lipschitz.py",
            "return torch.linalg.vector_norm((x.mT @ u).squeeze(-1), dim=-1)",
            "return (x.mT @ u).square().sum((-2, -1))",
            "sigma squared, and another size of the loss",
            tests=("test_lipschitz.py::test_the_norm_is_that_of_the_matrix_not_of_its_square",),
        ),
        Fault(
            "whole-norm-learns",
            "lipschitz.py",
            "    with torch.no_grad():\n        whole =",
            "    with torch.enable_grad():\n        whole =",
            "the whole stage moves towards its narrow self",
            tests=(
                "test_lipschitz.py::test_the_gap_of_a_stage_with_itself_is_zero_and_reaches_the_narrow_side_alone",
                "test_fedalign.py::test_its_gradient_is_zero_outside_the_narrow_last_stage",
            ),
        ),
        Fault(
            "matrix-not-by-places",
            "lipschitz.py",
            "high.flatten(-2).mT / (places[0] * places[1])",
            "high.flatten(-2).mT / low.shape[-3]",
            "the sum over places is divided by the channels",
            tests=("test_lipschitz.py::test_the_matrix_by_its_sum_over_places",),
        ),
    )


class TestRegularisers(Planted):
    """Mixup, stochastic depth and GradAug."""

    faults = (
        Fault(
            "mixup-labels-the-wrong-way-round",
            "regularised/mixup.py",
            "(share * own + (1 - share) * other)",
            "((1 - share) * own + share * other)",
            "the picture that is mostly there has the small weight",
            tests=("test_regularisers.py::test_the_objective_is_the_mixture_of_two_cross_entropies",),
        ),
        Fault(
            "mixup-margin-unseen",
            "regularised/mixup.py",
            '            needs_margin(fed, "Mixup")',
            "            pass",
            "a network that reads the labels in the margin is trained",
            tests=("test_regularisers.py::test_a_network_that_reads_the_margin_is_refused[mixup]",),
        ),
        Fault(
            "mixup-own-label-twice",
            "data/margin.py",
            "return mixed, y, y[other], share",
            "return mixed, y, y, share",
            "the partner's label is forgotten",
            tests=("test_regularisers.py::test_mixup_is_a_convex_mixture_with_a_shuffled_batch",),
        ),
        Fault(
            "depth-never-divided",
            "regularised/stochasticdepth.py",
            ".to(x.dtype) / p for b, p",
            ".to(x.dtype) for b, p",
            "the plain network is not what was trained on average",
            tests=("test_regularisers.py::test_a_block_whose_coin_falls_is_its_shortcut_and_has_no_gradient",),
        ),
        Fault(
            "depth-without-branches",
            "regularised/stochasticdepth.py",
            "            if not self.branches:",
            "            if False:",
            "a network without blocks is trained as if it had some",
            tests=("test_regularisers.py::test_samples_that_are_no_pictures_are_refused",),
        ),
        Fault(
            "depth-first-blocks-fall-most",
            "regularised/stochasticdepth.py",
            "1 - b / max(1, blocks - 1) * (1 - keep)",
            "keep + b / max(1, blocks - 1) * (1 - keep)",
            "the first block falls most often",
            tests=("test_regularisers.py::test_survival_falls_in_a_line_from_one_to_keep",),
        ),
        Fault(
            "gradaug-teacher-learns",
            "regularised/gradaug.py",
            "kl(logits.detach(), small)",
            "kl(logits, small)",
            "the whole network follows its narrow ones",
            tests=("test_regularisers.py::test_the_teacher_gets_no_gradient",),
        ),
        Fault(
            "gradaug-one-less",
            "regularised/gradaug.py",
            "for i in range(self.draws)]",
            "for i in range(self.draws - 1)]",
            "two sub-networks where three were asked for",
            tests=("test_regularisers.py::test_every_round_has_the_narrowest_and_as_many_others_as_were_asked_for",),
        ),
        Fault(
            "narrow-stays-narrow",
            "models/slim.py",
            "                layer._parameters.update(weights)",
            "                pass",
            "after a narrow pass the network is narrow",
            tests=("test_slim.py::test_the_network_is_wide_again_after_a_narrow_pass_and_after_one_that_failed",),
        ),
        Fault(
            "narrow-groups-as-many",
            "models/slim.py",
            "layer.num_groups = self.narrow(layer.num_channels, width) // self.group",
            "layer.num_groups = layer.num_groups",
            "a narrow pass has as many groups, which are smaller",
            tests=(
                "test_slim.py::test_reduced_width_is_the_small_network_with_the_corner_of_the_weights",
                "test_slim.py::test_the_narrow_last_stage_is_a_small_stage_on_the_first_maps",
            ),
        ),
    )


class TestCurvature(Planted):
    """Products, eigenvalues, traces, and how alike clients are; and the loss of two views."""

    faults = (
        Fault(
            "eigenvalue-without-its-sign",
            "hessian.py",
            "value, float(_inner(v, moved))",
            "value, float(_inner(moved, moved).sqrt())",
            "a saddle looks like a minimum",
            tests=("test_hessian.py::test_on_a_quadratic_the_top_eigenvalue_is_exact_with_its_sign_and_vector",),
        ),
        Fault(
            "second-eigenvalue-is-the-first",
            "hessian.py",
            "moved = _apart(hessian(v), beside)",
            "moved = hessian(v)",
            "rounding leads back to the first eigenvector",
            tests=("test_hessian.py::test_beside_the_first_comes_the_second",),
        ),
        Fault(
            "probes-not-signs",
            "hessian.py",
            "v = _random(hessian, draws, _signs)",
            "v = _random(hessian, draws, torch.randn)",
            "the trace of a diagonal is an estimate",
            tests=("test_hessian.py::test_one_probe_of_signs_is_exact_for_a_diagonal",),
        ),
        Fault(
            "clients-like-themselves",
            "hessian.py",
            "if oneself else permutations(clients, 2)",
            "if oneself else product(clients, repeat=2)",
            "each client is compared with itself, too",
            tests=("test_hessian.py::test_likeness_by_hand_and_what_counting_oneself_does",),
        ),
        Fault(
            "nt-xent-repelled-by-itself",
            "losses.py",
            "masked_fill(itself, -torch.inf)",
            "masked_fill(itself, 1 / temperature)",
            "each view is one of its own negatives",
            tests=("test_nt_xent.py::test_where_all_are_alike_it_counts_the_others",),
        ),
        Fault(
            "nt-xent-one-side",
            "losses.py",
            "torch.arange(count, device=views.device), other].mean(-1)",
            "torch.arange(count, device=views.device), other][..., : count // 2].mean(-1)",
            "only the first views look for the second ones",
            tests=("test_nt_xent.py::test_views_order_and_lengths_do_not_matter",),
        ),
    )
