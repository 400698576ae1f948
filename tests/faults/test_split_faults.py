"""Slips in split learning and in what is built on it."""

from __future__ import annotations

from chapters_of_faults import PlantedUnderChapters
from planting import Fault, Planted


class TestSplitLearning(Planted):
    """Messages, gradients across the cuts, and what the server makes of them."""

    faults = (
        Fault(
            "split-gradient-goes-the-same-way",
            "split.py",
            "self.received.grad, WAYS[self.direction], self.client",
            "self.received.grad, self.direction, self.client",
            "gradients are booked in the direction of the activations",
            tests=("test_split.py::test_a_step_in_a_u_is_four_tensors_of_equal_shape",),
        ),
        Fault(
            "split-labels-always-go-up",
            "split.py",
            'y if len(parts) % 2 else wire.send("labels", y, "up", client)',
            'wire.send("labels", y, "up", client)',
            "labels are sent though the client ends the network",
            tests=("test_split.py::test_labels_go_up_only_where_the_server_ends_the_network",),
        ),
        Fault(
            "split-loads-nothing",
            "split.py",
            "t.copy_(state[n])",
            "t.copy_(t)",
            "a part keeps its own weights, whatever it is given",
            tests=("test_split.py::test_unified_parts_are_equal_and_their_mean",),
        ),
        Fault(
            "split-takes-what-is-no-number",
            "split.py",
            "if not require.all_finite([state[n]]):",
            "if False:",
            "a part takes NaN for its weights",
            tests=("test_split.py::test_a_part_that_refuses_a_state_is_as_it_was",),
        ),
        Fault(
            "split-round-begins-for-nothing",
            "split.py",
            'holder = None if before is None else require.whole("before", before)',
            "holder = None",
            "from the last client of a round parts come to the first of the next for nothing",
            tests=("test_split.py::test_the_last_client_of_a_round_hands_on_to_the_first_of_the_next",),
        ),
        Fault(
            "split-hands-on-the-servers-part",
            "split.py",
            "parts[::2]",
            "parts[1::2]",
            "what the server holds is handed from client to client, and not what clients hold",
            tests=("test_split.py::test_in_turn_the_next_client_goes_on_where_the_last_one_stopped",),
        ),
        Fault(
            "split-arrives-in-the-same-memory",
            "split.py",
            "return tensor.detach().clone()",
            "return tensor.detach()",
            "who sends can still change what has arrived",
            tests=("test_split.py::test_what_arrives_has_its_own_memory",),
        ),
        Fault(
            "festa-body-adds-up",
            "festa.py",
            "w.grad /= clients",
            "w.grad /= 1",
            "the server adds up its clients' gradients, and does not divide by their number",
            tests=("test_festa.py::test_a_step_is_that_of_messages_client_by_client",),
        ),
        Fault(
            "festa-seeds-are-unified",
            "festa.py",
            "up.mean(1, keepdim=True)",
            "up.mean((0, 1), keepdim=True)",
            "heads are averaged over the federations of all seeds",
            tests=("test_festa.py::test_after_a_unifying_round_heads_of_a_task_are_equal_and_those_of_tasks_are_not",),
        ),
        Fault(
            "festa-frozen-body-moves",
            "festa.py",
            "requires_grad_(False)",
            "requires_grad_(True)",
            "the second step trains the body, too",
            tests=("test_festa.py::test_a_frozen_body_stays_and_heads_go_on",),
        ),
        Fault(
            "festa-weights-do-not-count",
            "festa.py",
            "self.tasks[n].weight * loss.sum()",
            "loss.sum()",
            "tasks count alike in the objective, whatever their weights",
            tests=("test_festa.py::test_a_step_is_that_of_messages_client_by_client[0.3]",),
        ),
        Fault(
            "whole-keeps-its-body",
            "course.py",
            'averaged(self.body, "body", self.bodies, self.wire)',
            "pass",
            "federated averaging leaves the bodies of its clients apart",
            tests=(
                "test_festa.py::test_federated_averaging_sends_the_whole_network_each_way",
                "test_festa.py::test_splitfed_with_a_body_for_each_client_trains_as_federated_averaging_does",
            ),
        ),
        Fault(
            "in-turn-hands-nothing-on",
            "course.py",
            "if self.started:",
            "if False:",
            "heads and tails are handed on for nothing",
            tests=("test_festa.py::test_in_turn_clients_hand_on_head_and_tail",),
        ),
        Fault(
            "batches-alike-for-all",
            "course.py",
            'rng.stream(seed, "batches", task, client, step)',
            'rng.stream(0, "batches", "x", 0, step)',
            "all clients of all seeds and tasks draw the same places",
            tests=("test_festa.py::test_batches_depend_on_seed_task_client_and_step_alone",),
        ),
        Fault(
            "crossing-of-one-way",
            "festa.py",
            "return 2 * weights / (4 * tokens * width)",
            "return weights / (4 * tokens * width)",
            "the network is counted one way, activations both ways",
            tests=("test_festa.py::test_bytes_cross_where_the_formula_says",),
        ),
        Fault(
            "dice-without-the-two",
            "losses.py",
            "2 * (p * target).sum(both)",
            "(p * target).sum(both)",
            "a perfect mask has a loss of a half",
            tests=("test_vit.py::test_dice_from_the_definition",),
        ),
        Fault(
            "looks-scaled-by-tokens",
            "models/vit.py",
            "query.shape[-1] ** -0.5",
            "query.shape[-2] ** -0.5",
            "scores are divided by the root of the number of tokens, not of numbers in a head",
            tests=("test_vit.py::test_an_encoder_is_its_blocks_in_order_and_its_looks_are_the_last_ones",),
        ),
        Fault(
            "festa-one-answers-for-all-later",
            "festa.py",
            "(copies, 1) if self.alike",
            "(copies, 1) if self.unifying",
            "the first client answers for all, however long ago they were averaged",
            tests=("test_festa.py::test_one_answers_for_all_while_they_are_alike",),
        ),
        Fault(
            "manytasks-tuned-on-what-judges",
            "manytasks.py",
            "rest[count:] if tuning else judges.repeat(2)",
            "judges.repeat(2)",
            "rates are chosen on the digits that judge",
            tests=("test_manytasks.py::test_clients_have_samples_of_their_own_and_the_same_digits_judge",),
        ),
        Fault(
            "scenes-masks-of-noise",
            "data/scenes.py",
            "(clean >= INK)",
            "(pixels >= INK)",
            "masks are those of the noisy image",
            tests=("test_scenes.py::test_no_digit_comes_twice_and_noise_is_as_asked",),
        ),
    )


class TestMedicine(PlantedUnderChapters):
    """Chapters on split networks."""

    faults = (
        Fault(
            "festa-first-head-for-all-in-its-chapter",
            "festa.py",
            "up.mean(1, keepdim=True)",
            "up[:, :1]",
            "a unifying round gives all clients the first one's head",
            chapter="festa",
        ),
    )
