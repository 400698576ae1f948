"""Slips in what is said of claims: tests, words, corrections, scales."""

from __future__ import annotations

from planting import Fault, Planted


class TestVerdicts(Planted):
    """p-values, words, Holm's correction, intervals on a scale."""

    faults = (
        Fault(
            "equal-methods-hold",
            "significance.py",
            "closed=least > none",
            "closed=True",
            "methods that are identical hold where the least effect is none",
            tests=("test_verdicts.py::test_methods_that_are_identical_prove_no_effect_with_enough_seeds",),
        ),
        Fault(
            "no-spread-is-certainty",
            "significance.py",
            "return 0.5**placed.n if",
            "return 0.0 if",
            "three equal values prove whatever they are equal to",
            tests=("test_verdicts.py::test_values_that_can_only_take_a_few_levels_are_judged_as_rarely_wrong[3]",),
        ),
        Fault(
            "the-best-is-not-picked",
            "study/ranking.py",
            "adjusted = holm([_chance(evidence.paired(values[a], values[b])) for a, b in pairs])",
            "adjusted = [_chance(evidence.paired(values[a], values[b])) for a, b in pairs]",
            "tiers are told without a correction for all pairs",
            tests=("test_study_ranking.py::test_equal_methods_are_rarely_told_apart[5-17-50]",),
        ),
        Fault(
            "normal-instead-of-students",
            "significance.py",
            "t.sf((placed.mean - point) / placed.sd * math.sqrt(placed.n), placed.n - 1)",
            "t.sf((placed.mean - point) / placed.sd * math.sqrt(placed.n), 10**9)",
            "few seeds are judged as if their spread were known",
            tests=("test_verdicts.py::test_the_word_follows_from_where_the_interval_lies",),
        ),
        Fault(
            "one-sided-equivalence",
            "verdicts.py",
            "max(p.short_of_least, p.above_minus_least) <= alpha",
            "p.short_of_least <= alpha",
            "harm as large as the least effect may be called no effect",
            tests=("test_verdicts.py::test_the_word_follows_from_where_the_interval_lies",),
        ),
        Fault(
            "holm-without-steps",
            "significance.py",
            "(len(p) - place) * p[i]",
            "len(p) * p[i]",
            "the correction is Bonferroni's, and does not step down",
            tests=("test_verdicts.py::test_holm_adjusts_as_its_paper_says",),
        ),
        Fault(
            "room-of-one-effect",
            "verdicts.py",
            "2 * (placed.least - placed.none)",
            "1 * (placed.least - placed.none)",
            "a ceiling one least effect above the baseline is room enough",
            tests=("test_verdicts.py::test_without_room_only_what_holds_or_is_opposite_is_said",),
        ),
        Fault(
            "interval-not-cut",
            "scales.py",
            "min(max(taken.back(v), low), high)",
            "taken.back(v)",
            "an interval of accuracies reaches past one",
            tests=("test_verdicts.py::test_an_interval_of_accuracies_never_leaves_its_range",),
        ),
    )
