"""Slips in experiments: what is drawn, what is judged, what is tuned on."""

from __future__ import annotations

from planting import Fault, Planted


class TestStudy(Planted):
    """Comparisons and tuning on equal terms."""

    faults = (
        Fault(
            "judged-by-the-first-rounds",
            "study/runs.py",
            "for v in curve[-last:] if",
            "for v in curve[:last] if",
            "a run is judged by its first rounds",
            tests=("test_study.py::test_a_comparison_trains_what_a_federation_built_by_hand_trains",),
        ),
        Fault(
            "trained-on-what-was-held-out",
            "study/setting.py",
            "return Samples(self.x[train], self.y[train], self.x[test], self.y[test])",
            "return Samples(self.x, self.y, self.x[test], self.y[test])",
            "samples that judge a trial are trained on",
            tests=("test_study.py::test_held_out_samples_are_training_samples_that_nobody_trains_on",),
        ),
        Fault(
            "tuned-on-the-test-set",
            "study/tuning.py",
            'return varied.draw(seed).held_out(share, rng.stream(seed, "held out"))',
            "return varied.draw(seed)",
            "trials are judged by the test set",
            tests=("test_study.py::test_tuning_takes_the_trial_that_is_best_on_held_out_samples_of_seeds_of_its_own",),
        ),
        Fault(
            "a-diverged-seed-does-not-count",
            "study/tuning.py",
            "floored = [[worst if v is None else better(v, worst) for v in row] for row in seen]",
            "floored = [[better(v, worst) for v in row if v is not None] for row in seen]",
            "a trial is judged by the seeds alone that did not diverge",
            tests=("test_study.py::test_a_seed_that_diverges_scores_chance_and_the_others_count",),
        ),
        Fault(
            "the-least-is-the-best",
            "study/tuning.py",
            "best = better(range(len(means)), key=means.__getitem__)",
            "best = min(range(len(means)), key=means.__getitem__)",
            "tuning takes the worst trial",
            tests=("test_study.py::test_tuning_takes_the_trial_that_is_best_on_held_out_samples_of_seeds_of_its_own",),
        ),
        Fault(
            "every-seed-draws-the-same",
            "study/setting.py",
            'own = own.subset(train, test, rng=rng.stream(seed, "subset"), balanced=False)',
            'own = own.subset(train, test, rng=rng.stream(0, "subset"), balanced=False)',
            "all seeds have the same samples",
            tests=("test_study.py::test_each_seed_draws_its_own_samples_and_every_call_the_same",),
        ),
        Fault(
            "redrawn-extras-stay-behind",
            "data/dataset.py",
            'return {"train": take(every, order[:cut]), "test": take(every, order[cut:])}',
            'return {"train": take(every, order[:cut]), "test": take(every, order[:-cut])}',
            "the redrawn test part holds training samples",
            tests=("test_study.py::test_redrawn_digits_have_another_test_set_for_each_seed_and_lose_no_sample",),
        ),
        Fault(
            "a-methods-own-settings-are-everybodys",
            "study/experiment.py",
            "vary(setting, **way.changes), way",
            "setting, way",
            "what is changed for a method is not changed",
            tests=("test_study.py::test_a_method_may_have_its_own_settings",),
        ),
        Fault(
            "late-is-early",
            "study/setting.py",
            "if seen.number >= self.rounds - self.last else {}",
            "if seen.number < self.rounds - self.last else {}",
            "what is to be looked at in the last rounds is looked at before them",
            tests=(
                "test_study.py::test_a_late_observer_looks_at_the_rounds_that_judge_and_classes_are_looked_at_when_asked",
            ),
        ),
        Fault(
            "differences-turned",
            "study/figures.py",
            "experiment.run.values(metric.format(method), metric.format(to))",
            "experiment.run.values(metric.format(to), metric.format(method))",
            "a difference has the wrong sign in the figure",
            tests=("test_study_figures.py::test_differences_are_paired_and_signed",),
        ),
        Fault(
            "other-fusions-stay",
            "study/server.py",
            "fed.state, fed.memory = state, memory",
            "fed.memory = memory",
            "the federation goes on from a model that was only tried out",
            tests=("test_study_server.py::test_other_fusions_leave_the_federation_as_it_is",),
        ),
        Fault(
            "own-images-among-the-clients",
            "study/server.py",
            "order.tensor_split([held_out, held_out + validation])",
            "order.tensor_split([held_out, held_out])",
            "clients train on the labelled images that the server keeps",
            tests=("test_study_server.py::test_no_client_has_an_image_of_the_servers",),
        ),
    )
