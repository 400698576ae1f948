"""Slips in what learns to generate: temporary discriminators, reminding, copies abreast, and how samples are judged."""

from __future__ import annotations

from planting import Fault, Planted


class TestTDGAN(Planted):
    """A generator that digests what is there, and is reminded of what has gone."""

    faults = (
        Fault(
            "reminding-with-noise-of-its-own",
            "tdgan.py",
            "            target = before(given)",
            "            target = before(torch.cat([x, self._noise(x, draws)], 2))",
            "the old generator gets other noise, and diversity collapses",
            tests=(
                "test_tdgan.py::test_with_other_noise_for_each_generator_diversity_collapses[TDGAN-0.8-1.2]",
                "test_tdgan.py::test_reminding_and_its_gradient_are_zero_at_the_first_step_of_a_stage",
            ),
        ),
        Fault(
            "reminding-moves-the-old-one",
            "tdgan.py",
            "(now - before.detach())",
            "(now - before)",
            "a gradient flows into the generator that is remembered",
            tests=("test_tdgan.py::test_reminding_is_a_squared_distance_that_moves_the_new_generator_alone",),
        ),
        Fault(
            "reminded-of-the-latest-alone",
            "tdgan.py",
            "self.past += conditions",
            "self.past = conditions",
            "conditions of all but the latest centre are forgotten",
            tests=("test_tdgan.py::test_stages_are_those_of_plain_pytorch[0.0]",),
        ),
        Fault(
            "reminders-are-averaged",
            "tdgan.py",
            "loss = len(self.past) * self.compared",
            "loss = self.compared",
            "the mean over earlier centres in place of the sum",
            tests=(
                "test_tdgan.py::test_reminding_looks_at_conditions_of_earlier_centres_alone_and_adds_centres_up",
                "test_tdgan.py::test_stages_are_those_of_plain_pytorch[0.0]",
            ),
        ),
        Fault(
            "every-judge-begins-alike",
            "tdgan.py",
            'f"judge {self.stages} {k}"',
            'f"judge {k}"',
            "the discriminator of a new centre is the first one again",
            tests=("test_tdgan.py::test_a_judge_is_new_in_every_stage_and_the_generator_is_not",),
        ),
        Fault(
            "centres-weigh-alike",
            "tdgan.py",
            "shares = [len(x[0]) / sum(len(x[0]) for x in conditions) for x in conditions]",
            "shares = [1 / len(conditions) for x in conditions]",
            "a centre with few samples counts as much as one with many",
            tests=("test_tdgan.py::test_stages_are_those_of_plain_pytorch[0.0]",),
        ),
        Fault(
            "saturating-generator",
            "tdgan.py",
            "return each(softplus(-generated))",
            "return -each(softplus(generated))",
            "the min-max form, which hardly pulls a generator that fools nobody",
            tests=("test_tdgan.py::test_digesting_pulls_hardest_where_the_judge_is_sure",),
        ),
        Fault(
            "judge-told-the-wrong-way-round",
            "tdgan.py",
            "return each(softplus(-real)) + each(softplus(generated))",
            "return each(softplus(real)) + each(softplus(-generated))",
            "real images count as generated ones",
            tests=("test_tdgan.py::test_losses_are_cross_entropies_of_real_and_generated",),
        ),
        Fault(
            "reminders-move-the-batches",
            "tdgan.py",
            'losses["reminding"].append(self._remind(before, memories))',
            'losses["reminding"].append(self._remind(before, draws[0]))',
            "who is reminded sees other batches than who is fine-tuned",
            tests=("test_tdgan.py::test_without_reminding_it_is_fine_tuning_bit_for_bit",),
        ),
        Fault(
            "gradients-are-not-counted",
            "tdgan.py",
            "recipe.batch_size * (2 * image + condition)",
            "recipe.batch_size * (image + condition)",
            "what goes up is forgotten in the formula",
            tests=("test_tdgan.py::test_no_image_leaves_a_centre_and_bytes_are_the_formula",),
        ),
    )


class TestAbreast(Planted):
    """Copies are their modules."""

    faults = (
        Fault(
            "frozen-shares-memory",
            "abreast.py",
            "nn.Parameter(w.detach().clone(), requires_grad=False)",
            "nn.Parameter(w.detach(), requires_grad=False)",
            "the generator that is remembered learns along",
            tests=("test_tdgan.py::test_what_is_frozen_stays_and_has_no_gradient",),
        ),
        Fault(
            "nothing-is-normalised",
            "abreast.py",
            "if w.ndim > 2 else w",
            "if w.ndim > 9 else w",
            "a discriminator may stretch differences as it likes",
            tests=("test_tdgan.py::test_spectral_weights_have_norm_one_and_the_gradient_of_the_quotient[make0]",),
        ),
        Fault(
            "power-method-begins-anew",
            "abreast.py",
            "            self._right[name] = right\n",
            "",
            "one step from the first start, for good",
            tests=("test_tdgan.py::test_the_power_method_goes_on_from_where_it_was",),
        ),
    )


class TestSynthetic(Planted):
    """Samples are judged by what they are."""

    faults = (
        Fault(
            "spread-between-classes",
            "synthetic.py",
            "sums.square() / count.clamp(min=1)[..., None]",
            "0 * sums",
            "squares in place of the variance: a class far from the others counts as diverse",
            tests=("test_synthetic.py::test_spread_is_the_variance_within_classes",),
        ),
        Fault(
            "frechet-without-its-two",
            "synthetic.py",
            "- 2 * shared",
            "- shared",
            "the covariances that are shared are taken off once",
            tests=("test_synthetic.py::test_frechet_in_a_few_cases_that_are_known",),
        ),
        Fault(
            "accuracy-of-what-was-said",
            "synthetic.py",
            "return (right[..., None] * of).sum(1) / of.sum(1)",
            "return (right[..., None] * of).sum(1) / len(of[0])",
            "a rare class cannot be right often",
            tests=("test_synthetic.py::test_accuracy_is_that_of_each_class",),
        ),
        Fault(
            "runs-share-a-mean",
            "synthetic.py",
            "loss(networks(x[at]), y[at]).sum().backward()",
            "networks(x[at]).square().mean().backward()",
            "the loss that is asked for is not used",
            tests=("test_synthetic.py::test_each_is_trained_as_alone_in_plain_pytorch",),
        ),
        Fault(
            "tested-on-what-was-learnt",
            "synthetic.py",
            "rows[:, :, learn:].flatten(1)",
            "rows[:, :, :test].flatten(1)",
            "images that networks learned from are those that they are tested on",
            tests=("test_synthetic.py::test_no_sample_is_learnt_from_and_tested_on",),
        ),
        Fault(
            "tested-on-other-seeds-images",
            "synthetic.py",
            "t.repeat_interleave(len(images) // len(seeds), 0)",
            "t.repeat(len(images) // len(seeds), *[1] * (t.ndim - 1))",
            "the second run of a seed is tested on the images of another, from which it may have learned",
            tests=("test_synthetic.py::test_images_are_worth_what_networks_tell_of_real_ones_of_their_own_seed",),
        ),
    )


class TestRetinas(Planted):
    """Segmenters that learned from made pairs, by seed."""

    faults = (
        Fault(
            "judged-on-other-seeds-images",
            "retinas.py",
            "t.repeat_interleave(len(images) // len(seeds), 0)",
            "t.repeat(len(images) // len(seeds), *[1] * (t.ndim - 1))",
            "the second run of a seed is judged on the images of another",
            tests=("test_retina_pairs.py::test_each_run_is_judged_on_the_images_of_its_own_seed",),
        ),
        Fault(
            "tuned-on-test-images",
            "retinas.py",
            "[:, held * tuning :]",
            "",
            "rates are chosen by the images that judge",
            tests=("test_retina_pairs.py::test_no_test_image_tunes_its_own_seed",),
        ),
        Fault(
            "rows-swapped",
            "retinas.py",
            "[names[run % len(names)]]",
            "[names[-1 - run % len(names)]]",
            "who is reminded gets the score of who is fine-tuned",
            tests=("test_retina_pairs.py::test_each_row_is_of_its_own_generator_after_both_sites",),
        ),
        Fault(
            "nobody-is-reminded",
            "retinas.py",
            "list(remind.values())",
            "[0.0] * len(remind)",
            "all rows are fine-tuned",
            tests=("test_retina_pairs.py::test_each_row_is_of_its_own_generator_after_both_sites",),
        ),
        Fault(
            "one-site-alone",
            "retinas.py",
            "    for site in learn:",
            "    for site in learn[:1]:",
            "the second site never comes",
            tests=("test_retina_pairs.py::test_each_row_is_of_its_own_generator_after_both_sites",),
        ),
    )
