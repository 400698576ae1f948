"""Slips in what grows on a network's own feature maps: FRSKD, its pyramid, and mixed images."""

from __future__ import annotations

from planting import Fault, Planted


class TestSelfDistillation(Planted):
    """Who teaches, who is taught, and by how much."""

    faults = (
        Fault(
            "frskd-network-stands-first",
            "selfdistil.py",
            "return losses.kd(logits, teacher_logits, self.temperature)",
            "return losses.kd(teacher_logits, logits, self.temperature)",
            "the network teaches the self-teacher, which then chases it",
            tests=(
                "test_frskd.py::test_distillation_moves_the_network_alone[logits]",
                "test_frskd.py::test_the_loss_is_the_sum_of_its_four_parts",
            ),
        ),
        Fault(
            "frskd-divergence-as-printed",
            "selfdistil.py",
            "return losses.kd(logits, teacher_logits, self.temperature)",
            "return self.temperature**2 * losses.kl(logits / self.temperature,"
            " teacher_logits.detach() / self.temperature)",
            "the divergence is the paper's, where the released code's is meant",
            tests=("test_frskd.py::test_the_loss_is_the_sum_of_its_four_parts",),
        ),
        Fault(
            "frskd-printed-direction-without-temperature",
            "selfdistil.py",
            "return t**2 * losses.kl(logits / t, teacher_logits.detach() / t)",
            "return losses.kl(logits / t, teacher_logits.detach() / t)",
            "the printed direction weighs less than the released one, and differs in two things",
            tests=("test_frskd.py::test_both_directions_from_the_formula[4.0]",),
        ),
        Fault(
            "frskd-refined-maps-move",
            "selfdistil.py",
            "attention(t.detach())",
            "attention(t)",
            "the self-teacher's maps follow those of the network",
            tests=("test_frskd.py::test_distillation_moves_the_network_alone[maps]",),
        ),
        Fault(
            "frskd-never-detached",
            "selfdistil.py",
            "fed = [m.detach() for m in maps] if self.detached else maps",
            "fed = maps",
            "what is called distillation alone is deep supervision, too",
            tests=(
                "test_frskd.py::test_everything_off_and_detached_is_the_plain_network_bit_for_bit",
                "test_frskd.py::test_the_self_teachers_labels_reach_the_network_unless_the_maps_are_detached",
            ),
        ),
        Fault(
            "frskd-always-detached",
            "selfdistil.py",
            "fed = [m.detach() for m in maps] if self.detached else maps",
            "fed = [m.detach() for m in maps]",
            "deep supervision is cut off",
            tests=("test_frskd.py::test_everything_off_and_detached_is_the_plain_network_bit_for_bit",),
        ),
        Fault(
            "frskd-sum-over-places",
            "selfdistil.py",
            "(attention(f) - attention(t.detach())).square().mean()",
            "(attention(f) - attention(t.detach())).square().sum(1).mean()",
            "the weight of 100 stands before a sum, where it belongs to a mean",
            tests=("test_frskd.py::test_the_released_loss_is_the_squared_norm_over_the_places",),
        ),
        Fault(
            "attention-sees-signs",
            "selfdistil.py",
            "maps.square().mean(1)",
            "maps.mean(1).square()",
            "channels of opposite sign cancel in the attention",
            tests=("test_frskd.py::test_attention_from_the_definition",),
        ),
        Fault(
            "fusion-weights-do-not-add-up",
            "models/bifpn.py",
            "shares = shares / (shares.sum() + EPSILON)",
            "shares = shares / len(maps)",
            "maps are weighed without regard to the other weights",
            tests=("test_bifpn.py::test_fusion_is_a_mean_with_positive_shares",),
        ),
        Fault(
            "mixed-labels-change-places",
            "selfdistil.py",
            "stays * losses.cross_entropy(z, y) + (1 - stays) *",
            "(1 - stays) * losses.cross_entropy(z, y) + stays *",
            "the label of what was covered counts for what covers it",
            tests=("test_frskd.py::test_labels_weigh_as_much_as_what_is_there_of_their_images[CutMix-cutmix]",),
        ),
    )
