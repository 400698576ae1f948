"""Slips in FedPAV, in the distillation of its features, and in the measures of retrieval."""

from __future__ import annotations

from planting import Fault, Planted


class TestFedPAV(Planted):
    """What the algorithm says of its own."""

    faults = (
        Fault(
            "fedpav-cosine-weights-are-not-used",
            "algorithms/fedpav.py",
            'weights = cosine_weights([u["moved"] for u in uploads], weights)',
            'cosine_weights([u["moved"] for u in uploads], weights)',
            "the server averages by samples, whatever it was sent",
            tests=("test_fedpav.py::test_the_server_averages_by_the_distances",),
            hook="FedPAV.aggregate",
        ),
        Fault(
            "fedpav-teaches-from-the-first-upload-alone",
            "algorithms/fedpav.py",
            "x, features=True) for u in uploads]",
            "x, features=True) for u in uploads[:1]]",
            "the target is what one client's backbone sees",
            tests=("test_fedpav.py::test_the_server_step_is_that_of_torch[teachers]",),
            hook="FedPAV.aggregate",
        ),
        Fault(
            "fedpav-classifiers-see-the-padding",
            "algorithms/fedpav.py",
            'masked_fill(context.own["absent"].unsqueeze(-2), ABSENT)',
            'masked_fill(context.own["absent"].unsqueeze(-2), 0.0)',
            "identities of other clients keep a share of the probability",
            tests=("test_fedpav.py::test_a_round_is_that_of_classifiers_as_wide_as_their_client_needs[sequential]",),
            hook="FedPAV.objective",
        ),
        Fault(
            "fedpav-all-clients-have-the-first-ones-identities",
            "algorithms/fedpav.py",
            'fed.memory["absent"][client]}',
            'fed.memory["absent"][0]}',
            "the classifier of every client is as wide as the first one's",
            tests=("test_fedpav.py::test_a_round_is_that_of_classifiers_as_wide_as_their_client_needs[batched]",),
            hook="FedPAV.context",
        ),
        Fault(
            "fedpav-distance-over-all-identities",
            "algorithms/fedpav.py",
            '~fed.memory["absent"][client]',
            'fed.memory["absent"][client] > -1',
            "logits of identities that a client does not have count in its distance",
            tests=("test_fedpav.py::test_the_distance_is_that_of_a_clients_own_logits_in_evaluation",),
        ),
        Fault(
            "fedpav-distance-with-the-new-head-on-both-sides",
            "algorithms/fedpav.py",
            "received = fed.state | fed.own.get(client, {})",
            "received = state | fed.shared(fed.state)",
            "the received model is looked at with the classifier that was trained since",
            tests=("test_fedpav.py::test_the_distance_is_that_of_a_clients_own_logits_in_evaluation",),
            hook="FedPAV.keep",
        ),
        Fault(
            "fedpav-everybody-has-every-identity",
            "algorithms/fedpav.py",
            "absent[k, fed.y[rows]] = False",
            "absent[k] = False",
            "a client's classifier has rows for everybody's identities",
            tests=("test_fedpav.py::test_rows_of_others_stay_as_they_were_and_unmasked_they_would_move",),
            hook="FedPAV.setup",
        ),
        Fault(
            "fedpav-distance-is-sent-with-samples-too",
            "algorithms/fedpav.py",
            'if self.weights == "cosine" else shared',
            'if "moved" in fed.memory else shared | {"moved": torch.zeros((), dtype=fed.dtype)}',
            "a number travels that nobody asked for",
            tests=("test_fedpav.py::test_the_head_never_leaves_and_the_bytes_are_those_of_the_formula",),
            hook="FedPAV.upload",
        ),
        Fault(
            "fedpav-uniform-is-by-samples",
            "algorithms/fedpav.py",
            '"uniform" if weights == "uniform" else "samples"',
            '"samples"',
            "uniform weights are those of the samples",
            tests=("test_fedpav.py::test_uniform_weights_are_those_of_equal_distances",),
        ),
        Fault(
            "fedpav-distance-is-the-cosine",
            "algorithms/fedpav.py",
            ".square().sum(-1) / 2",
            ".square().sum(-1)",
            "the distance is twice what it should be",
            tests=("test_fedpav.py::test_the_distance_is_one_minus_the_cosine_and_zero_where_nothing_moved",),
        ),
        Fault(
            "fedpav-nan-is-a-weight",
            "algorithms/fedpav.py",
            "not bool(m.isfinite().all()) or ",
            "",
            "a distance that is no number makes all weights none",
            tests=("test_fedpav.py::test_distances_that_are_no_weights_leave_those_of_the_samples[moved1]",),
        ),
        Fault(
            "fedpav-gathered-pictures-see-everybody",
            "algorithms/fedpav.py",
            'fed.memory["absent"][:, None] | apart',
            'fed.memory["absent"][:, None] & apart',
            "one classifier of everybody's identities tells two homes apart by their cameras",
            tests=(
                "test_fedpav.py::test_gathered_pictures_are_told_apart_from_those_of_their_own_home_alone[batched]",
            ),
        ),
    )


class TestFeatures(Planted):
    """Distillation of features, and retrieval by them."""

    faults = (
        Fault(
            "features-of-teachers-as-they-are",
            "featuredistil.py",
            'f if how.unit == "neither" else normalize(f, dim=-1)',
            'f if how.unit != "both" else normalize(f, dim=-1)',
            "teachers' features keep their lengths, where the paper divides by them",
            tests=("test_fedpav.py::test_the_target_is_the_mean_of_unit_vectors_and_as_it_is_without_them",),
        ),
        Fault(
            "features-student-always-at-norm-one",
            "featuredistil.py",
            'normalize(features, dim=-1) if how.unit == "both"',
            'normalize(features, dim=-1) if how.unit != "neither"',
            "the student's norm is free where the paper ties it",
            tests=("test_fedpav.py::test_a_student_taught_by_unit_vectors_shrinks",),
        ),
        Fault(
            "features-student-in-evaluation-mode-without-decay",
            "featuredistil.py",
            "self.how.momentum, self.how.weight_decay)",
            "self.how.momentum)",
            "weights do not decay on the server",
            tests=("test_fedpav.py::test_the_server_step_is_that_of_torch[teachers]",),
        ),
        Fault(
            "retrieval-counts-the-same-camera",
            "retrieval.py",
            "counts = ~(same & (",
            "counts = (same == same) | ~(same & (",
            "pictures that the query's own camera took count as finds",
            tests=("test_retrieval.py::test_a_picture_of_the_same_camera_is_no_find",),
        ),
        Fault(
            "retrieval-leaves-the-whole-camera-out",
            "retrieval.py",
            "counts = ~(same & (",
            "counts = ~((same | ~same) & (",
            "others whom the same camera saw are no longer in the way",
            tests=("test_retrieval.py::test_others_of_the_same_camera_stay_in_the_gallery",),
        ),
        Fault(
            "retrieval-by-length",
            "retrieval.py",
            "return wide / norms",
            "return wide",
            "long features win",
            tests=("test_retrieval.py::test_the_length_of_a_feature_does_not_matter_and_that_of_a_unit_is_one",),
        ),
        Fault(
            "retrieval-ties-are-luck",
            "retrieval.py",
            "similarity.new_tensor(-torch.inf)",
            "similarity.new_tensor(torch.inf)",
            "among equals a match stands first",
            tests=("test_retrieval.py::test_features_that_are_all_equal_find_nothing",),
        ),
        Fault(
            "average-precision-over-all-places",
            "retrieval.py",
            "/ matches.sum(1)).mean()",
            "/ matches.shape[1]).mean()",
            "precision is averaged over the gallery, not over the matches",
            tests=("test_retrieval.py::test_one_match_at_a_place_has_the_precision_of_that_place[2]",),
        ),
        Fault(
            "cameras-without-light",
            "data/identities.py",
            " + self.light[camera]",
            "",
            "all cameras have even light",
            tests=("test_identities.py::test_a_camera_is_contrast_brightness_and_light",),
        ),
        Fault(
            "views-that-do-not-turn",
            "data/identities.py",
            "turn.cos(), -turn.sin(), step[0]",
            "turn.cos(), turn.sin(), step[0]",
            "pictures are sheared and not turned",
            tests=("test_identities.py::test_a_view_is_turned_about_the_middle",),
        ),
        Fault(
            "photos-of-the-same-classes-judge-every-seed",
            "data/identities.py",
            'generator=rng.stream(seed, "people"))]',
            'generator=rng.stream(0, "people"))]',
            "all seeds are tested on the same classes, so that an interval says nothing of others",
            tests=("test_identities.py::test_classes_and_pictures_that_judge_are_drawn_for_each_seed",),
        ),
        Fault(
            "photos-in-the-order-of-the-file",
            "data/identities.py",
            'rng.stream(seed, "shots")',
            'rng.stream(0, "shots")',
            "of a class all seeds see the same pictures",
            tests=("test_identities.py::test_classes_and_pictures_that_judge_are_drawn_for_each_seed",),
        ),
    )
