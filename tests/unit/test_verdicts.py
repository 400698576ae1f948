"""Words on simulated seeds: how often each is right and how often wrong, and that they follow from the values."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from scipy.special import expit

from fedlib import verdicts
from fedlib.scales import SCALES, interval, usable
from fedlib.significance import MOST_SEEDS, Placed, PValues, expected_false, holm, seeds_needed, survivors

NUMBERS = (3, 5, 8, 16)
ROUNDS = 4000
# one standard error of a share of 2.5 % over so many rounds is 0.25 points
RANK = {"opposite": 0, "no effect": 1, "open": 1, "smaller": 2, "direction only": 2, "holds": 3}


def spread(centre, half):
    """Three values whose 95% interval has this centre and half-width."""
    step = half / stats.t.ppf(0.975, 2) * math.sqrt(3)
    return [centre - step, centre, centre + step]


CASES = [  # centre and half-width of the interval of a claim "above 3" with no effect at 0
    (5, 1, "holds"),
    (3.5, 1, "direction only"),
    (2, 0.5, "smaller"),
    (2, 1.5, "direction only"),
    (1, 1.5, "no effect"),
    (-1, 1.5, "no effect"),
    (-2, 1, "opposite"),
    (-2, 2.5, "open"),
    (2, 2.5, "open"),
    (4, 5, "open"),
]


@pytest.mark.parametrize(("centre", "half", "word"), CASES)
def test_the_word_follows_from_where_the_interval_lies(centre, half, word):
    assert verdicts.judge(spread(centre, half), "above", 3.0, 0.0).word == word
    assert verdicts.judge([-v for v in spread(centre, half)], "below", -3.0, 0.0).word == word


BOUNDS = [(1, 0.5, "holds"), (0, 0.5, "holds"), (-1, 0.5, "holds"), (-1.8, 0.5, "open")]


@pytest.mark.parametrize("neutral", [0.0, None])
@pytest.mark.parametrize(("centre", "half", "word"), [*BOUNDS, (-3, 0.5, "opposite")])
def test_at_most_so_much_worse_is_a_bound_and_equality_keeps_it(centre, half, word, neutral):
    assert verdicts.judge(spread(centre, half), "above", -2.0, neutral).word == word
    assert verdicts.judge([-v for v in spread(centre, half)], "below", 2.0, neutral).word == word


@pytest.mark.parametrize(
    ("centre", "half", "word"),
    [(0, 0.1, "holds"), (0.5, 0.4, "holds"), (0.5, 0.6, "open"), (2, 0.9, "opposite"), (-2, 0.9, "opposite")],
)
def test_within_is_one_claim_of_equality(centre, half, word):
    assert verdicts.judge(spread(centre, half), "within", 1.0).word == word
    assert verdicts.judge([v + 7 for v in spread(centre, half)], "within", 1.0, 7.0).word == word
    assert verdicts.judge([math.exp(v) for v in spread(centre, half)], "within", math.e, scale="log").word == word


@pytest.mark.parametrize("n", [2, *NUMBERS])
def test_methods_that_are_identical_prove_no_effect_with_enough_seeds(n):
    said = "no effect" if n > 5 else "open"  # as a coin: six heads in a row are rarer than 2.5 %, five are not
    for least in (0.0, 0.02):
        for direction, sign in (("above", 1), ("below", -1)):
            assert verdicts.judge([0.0] * n, direction, sign * least, 0.0).word == said
            assert verdicts.judge([1.0] * n, direction, math.exp(sign * least), 1.0, "log").word == said
    said = "holds" if n > 5 else "open"
    assert verdicts.judge([3.0] * n, "above", 3.0, 0.0).word == said
    assert verdicts.judge([-2.0] * n, "above", -2.0).word == said, "being equal keeps a bound"
    assert verdicts.judge([0.0] * n, "within", 2.0).word == said


@pytest.mark.parametrize("n", NUMBERS)
def test_values_that_can_only_take_a_few_levels_are_judged_as_rarely_wrong(n):
    rng = np.random.default_rng(n)
    draws = rng.choice([-1 / 360, 1 / 360], (ROUNDS, n))  # one test image more, or one fewer
    word = cache(lambda *row: verdicts.judge(list(row), "above", 0.0, 0.0).word)
    words = [word(*sorted(row)) for row in draws]  # in which order seeds come is nothing to a verdict
    # Student's t is a little too sure of two levels (4 %); without the sign test three seeds were so in 12 %.
    assert np.mean([word == "holds" for word in words]) < 0.05


def test_one_seed_is_open_and_none_is_not_run():
    one = verdicts.judge([100.0], "above", 0.0, 0.0)
    assert (one.word, one.seeds_needed, one.interval.low) == ("open", None, -math.inf)
    assert verdicts.judge([], "above", 0.0).word == verdicts.judge(None, "above", 0.0).word == "not run"


def fast_words(sample, least, none):
    """The word of each row of a sample, by the same tests; a loop over ``judge`` would take minutes."""
    n = sample.shape[1]
    mean, error = sample.mean(1), sample.std(1, ddof=1) / math.sqrt(n)
    beyond = lambda point: stats.t.sf((mean - point) / error, n - 1)  # noqa: E731
    lower = none - (least - none)
    columns = beyond(least), beyond(none), 1 - beyond(least), 1 - beyond(none), beyond(lower)
    return [verdicts.word(PValues(*map(float, row))) for row in zip(*columns, strict=True)]


def test_the_fast_words_of_this_file_are_those_of_judge():
    sample = np.random.default_rng(3).normal(0.4, 1, (300, 5))
    slow = [verdicts.judge(list(row), "above", 0.8, 0.0).word for row in sample]
    assert fast_words(sample, 0.8, 0.0) == slow
    assert {"open", "direction only"} <= set(slow)


@pytest.mark.parametrize("n", NUMBERS)
def test_each_word_is_false_at_most_as_often_as_its_test_allows(n):
    rng, allowed = np.random.default_rng(n), 0.025 + 3 * 0.0025
    noise = rng.normal(0, 1, (ROUNDS, n))

    def share(mean, *words):
        return np.mean([word in words for word in fast_words(noise + mean, 1.0, 0.0)])

    assert share(0.0, "holds", "smaller", "direction only") <= allowed, "no effect, taken for one"
    assert share(0.0, "opposite") <= allowed, "no effect, taken for harm"
    assert share(1.0, "holds") <= allowed, "an effect just as large as the least one"
    assert share(1.0, "smaller", "no effect") <= allowed, "the least effect, taken for less"
    assert share(-1.0, "no effect") <= allowed, "harm, taken for no effect"
    assert 0.015 <= np.mean([w == "holds" for w in fast_words(noise, 0.0, 0.0)]) <= allowed


@pytest.mark.parametrize("n", NUMBERS)
def test_an_effect_is_found_as_often_as_the_t_test_promises(n):
    sample = np.random.default_rng(n).normal(1.5, 1, (ROUNDS, n))
    found = np.mean([word == "holds" for word in fast_words(sample, 0.0, 0.0)])
    promised = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, 1.5 * math.sqrt(n))
    assert found == pytest.approx(promised, abs=0.03)


@pytest.mark.parametrize("n", NUMBERS)
@pytest.mark.parametrize("scale", SCALES)
def test_intervals_cover_what_they_speak_of(scale, n):
    taken, centre = SCALES[scale], {"plain": 5.0, "log": 2.0, "logit": 3.0, "fisher": 1.0}[scale]
    free = np.random.default_rng(n).normal(centre, 0.6, (1500, n))
    truth, covered = taken.back(centre), 0
    for row in free:
        seen = interval([taken.back(v) for v in row], scale)
        assert taken.bounds[0] <= seen.low <= seen.mean <= seen.high <= taken.bounds[1]
        covered += seen.low <= truth <= seen.high
    assert covered / len(free) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("n", NUMBERS)
def test_accuracies_near_one_are_covered_by_logit_and_not_quite_by_plain(n):
    rng, centre = np.random.default_rng(n), 4.0  # a typical accuracy of 98.2 %, on 2,000 test samples
    accuracies = rng.binomial(2000, expit(rng.normal(centre, 0.7, (1500, n)))) / 2000
    plain_mean = expit(np.random.default_rng(0).normal(centre, 0.7, 200_000)).mean()
    logit = [interval(row, "logit") for row in accuracies]
    plain = [interval(row, bounds=(0.0, 1.0)) for row in accuracies]
    assert np.mean([i.low <= expit(centre) <= i.high for i in logit]) >= 0.93
    assert 0.85 <= np.mean([i.low <= plain_mean <= i.high for i in plain]) < 0.95
    assert max(i.high for i in plain + logit) <= 1


@pytest.mark.parametrize("n", NUMBERS)
def test_differences_of_accuracies_near_their_bounds_are_covered_and_stay_in_range(n):
    rng = np.random.default_rng(n)
    task = rng.normal(0, 0.5, (1500, n))
    ours, base = (expit(c + task + rng.normal(0, 0.5, (1500, n))) for c in (4.0, 2.6))
    many = rng.normal(0, math.sqrt(0.5), 200_000)
    truth = expit(4.0 + many).mean() - expit(2.6 + many).mean()
    seen = [interval(row, bounds=(-1.0, 1.0)) for row in ours - base]
    assert np.mean([i.low <= truth <= i.high for i in seen]) == pytest.approx(0.91, abs=0.03), "about nine in ten"
    assert np.mean([i.low > truth for i in seen]) <= 0.025, "too large an effect is claimed no more often than allowed"
    assert all(i.low >= -1 and i.high <= 1 for i in seen)


def test_values_at_the_end_of_a_range_are_averaged_as_they_are():
    for scale, values in (("logit", [0.9, 0.95, 1.0]), ("fisher", [1.0, 0.8, 0.7]), ("log", [0.0, 2.0, 3.0])):
        low, high = SCALES[scale].bounds
        plain = interval(values)
        assert interval(values, scale)[:3] == (plain.mean, max(plain.low, low), min(plain.high, high))
    assert interval([1.0, 1.0, 1.0], "logit")[:3] == (1, 1, 1)
    assert interval([0.7], "logit")[1:3] == (0, 1)
    with pytest.raises(ValueError, match=r"1\.2 lies outside the range \[0, 1\]"):
        usable([0.5, 1.2], "logit")
    with pytest.raises(ValueError, match="scale must be one of plain, log, logit, fisher, got 'cubic'"):
        usable([0.5], "cubic")


def test_ratios_are_judged_alike_whichever_way_round_they_are_written():
    values = [3.0, 5.0, 4.0, 9.0]
    for least in (1.5, 4.0, 20.0):
        upright = verdicts.judge(values, "above", least, 1.0, "log")
        turned = verdicts.judge([1 / v for v in values], "below", 1 / least, 1.0, "log")
        assert upright.word == turned.word
        assert upright.p == pytest.approx(turned.p)
        assert upright.interval.low == pytest.approx(1 / turned.interval.high)


finite = st.floats(-5, 5).map(lambda v: round(v, 2))
samples = st.lists(finite, min_size=2, max_size=8)


@given(samples, finite, st.floats(0, 3).map(lambda v: round(v, 2)), st.floats(0.01, 5))
def test_more_effect_never_makes_a_word_worse(values, none, margin, more):
    before = verdicts.judge(values, "above", none + margin, none).word
    after = verdicts.judge([v + more for v in values], "above", none + margin, none).word
    assert RANK[after] >= RANK[before]


@given(samples, finite, st.one_of(st.none(), finite), st.sampled_from(["plain", "log", "fisher"]))
def test_above_and_below_are_mirror_images(values, least, none, scale):
    if scale == "log":
        values, least, none = [math.exp(v) for v in values], math.exp(least), none if none is None else math.exp(none)
        turn = lambda v: 1 / v  # noqa: E731
    else:
        shrink = 0.19 if scale == "fisher" else 1.0
        values, least = [shrink * v for v in values], shrink * least
        none, turn = none if none is None else shrink * none, lambda v: -v
    above = verdicts.judge(values, "above", least, none, scale)
    below = verdicts.judge(list(map(turn, values)), "below", turn(least), None if none is None else turn(none), scale)
    near = any(abs(p - 0.025) < 1e-9 for p in (*above.p, *below.p))
    degenerate = above.placed.sd < 1e-9  # equal values, and rounding
    assert above.word == below.word or near or degenerate


@given(samples, finite, st.floats(0, 5))
def test_what_holds_also_holds_when_less_is_claimed(values, least, slack):
    if verdicts.judge(values, "above", least).word == "holds":
        assert verdicts.judge(values, "above", least - slack).word == "holds"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_adjusts_as_its_paper_says(p):
    adjusted, order = holm(p), sorted(range(len(p)), key=lambda i: p[i])
    for place, i in enumerate(order):
        earlier = [(len(p) - k) * p[j] for k, j in enumerate(order[: place + 1])]
        assert adjusted[i] == pytest.approx(min(1.0, max(earlier)))
    assert all(a >= q for a, q in zip(adjusted, p, strict=True))


def test_claims_judged_together_hold_falsely_at_most_as_often_as_one():
    rng, families, false_alone, false_together = np.random.default_rng(5), 700, 0, 0
    for sample in rng.normal(0, 1, (families, 3, 5)):
        alone = [verdicts.judge(list(row), "above", 0.0, 0.0) for row in sample]
        together = verdicts.judge_together(alone)
        false_alone += any(v.word == "holds" for v in alone)
        false_together += any(v.word == "holds" for v in together)
        assert all(t.word != "holds" or a.word == "holds" for a, t in zip(alone, together, strict=True))
    error = math.sqrt(0.025 * 0.975 / families)
    assert false_together / families <= 0.025 + 2.5 * error
    assert false_alone / families > 0.025 + 2.5 * error, "without a correction three claims would hold too often"


def test_a_family_of_one_is_not_changed_and_what_was_not_run_does_not_count():
    seen = verdicts.judge([0.3, 0.5, 0.4], "above", 0.0, 0.0)
    idle = verdicts.judge([], "above", 0.0, 0.0)
    assert verdicts.judge_together([idle, seen, idle]) == [idle, seen, idle]
    assert verdicts.judge_together([]) == []


def test_a_certain_claim_leaves_more_room_for_the_others():
    sure, unsure = [1.0, 1.1, 0.9, 1.0], [0.1, 0.2, 0.3, 0.1]
    first, second = (verdicts.judge(v, "above", 0.0, 0.0) for v in (sure, unsure))
    assert 0.0125 < second.p.holds <= 0.05 / 2
    assert [v.word for v in verdicts.judge_together([first, second])] == ["holds", "holds"]
    assert [v.word for v in verdicts.judge_together([second, second])] == ["open", "open"]


def test_how_many_false_claims_to_expect_and_which_survive_together():
    assert survivors([0.001, 0.02, 0.5, 0.8]) == [True, True, False, False]
    assert survivors([0.04, 0.02, 0.5, 0.8]) == [False, False, False, False]
    assert survivors([]) == []
    rng, rounds, false, share = np.random.default_rng(1), 1000, 0, 0.0
    for _ in range(rounds):
        p = stats.norm.sf(rng.normal(0, 1, 40) + np.repeat([0.0, 3.0], [30, 10]))
        false += np.sum(p[:30] <= 0.025)
        kept = survivors(list(p))
        share += sum(kept[:30]) / max(1, sum(kept)) / rounds
    assert false / rounds == pytest.approx(expected_false(30), abs=0.1)
    assert share <= 0.05


CEILING = [3.0, 3.2, 2.8]


@pytest.mark.parametrize(
    ("values", "ceiling", "word"),
    [
        (spread(0.1, 0.5), [2.0, 2.1, 2.2], "no effect"),
        (spread(0.1, 0.5), [1.8, 1.9, 2.0], "no room"),
        (spread(0.1, 2.0), [1.0, 1.1, 1.2], "no room"),
        (spread(0.6, 0.1), [1.0, 1.1, 1.2], "no room"),
        (spread(0.8, 0.4), [1.0, 1.1, 1.2], "no room"),
        (spread(1.5, 0.1), [1.0, 1.1, 1.2], "holds"),
        (spread(-0.8, 0.1), [1.0, 1.1, 1.2], "opposite"),
    ],
)
def test_without_room_only_what_holds_or_is_opposite_is_said(values, ceiling, word):
    seen = verdicts.judge(values, "above", 1.0, 0.0, ceiling=ceiling)
    assert (seen.word, seen.room) == (word, pytest.approx(np.mean(ceiling)))
    turned = verdicts.judge([-v for v in values], "below", -1.0, 0.0, ceiling=[-v for v in ceiling])
    assert (turned.word, turned.room) == (word, pytest.approx(-np.mean(ceiling)))
    assert verdicts.judge_together([seen])[0].word == word


def test_a_ceiling_below_the_baseline_is_no_room_even_for_the_least_claim():
    assert verdicts.judge(spread(0.1, 1), "above", 0.0, 0.0, ceiling=[-0.1, 0.0, 0.1]).word == "no room"
    assert verdicts.judge([0.5, 1.1, 3.0], "above", 1.1, 1.0, "log", ceiling=[1.2, 1.2, 1.2]).word == "no room"
    assert verdicts.judge([0.5, 1.1, 3.0], "above", 1.1, 1.0, "log", ceiling=[1.22, 1.22, 1.22]).word == "open"
    with pytest.raises(ValueError, match="a ceiling belongs to a claim of an effect"):
        verdicts.judge([1.0, 2.0], "above", -1.0, 0.0, ceiling=CEILING)


@pytest.mark.parametrize(("mean", "least"), [(0.5, 0.0), (0.8, 1.0), (0.05, 1.0), (-0.6, 0.2)])
def test_so_many_seeds_settle_a_claim_four_times_in_five(mean, least):
    needed = seeds_needed(Placed(mean, 1.0, 4, least, 0.0))
    rng = np.random.default_rng(11)

    def settled(n):
        words = fast_words(rng.normal(mean, 1.0, (ROUNDS, n)), least, 0.0)
        return np.mean([word != "open" for word in words])

    assert needed <= MOST_SEEDS
    assert settled(needed) >= 0.8 - 0.02
    assert settled(max(2, int(0.7 * needed))) < 0.8


def test_what_no_number_of_seeds_settles_is_said_to_need_more_than_most():
    assert seeds_needed(Placed(0.01, 1.0, 4, 0.0, 0.0)) == MOST_SEEDS + 1
    assert seeds_needed(Placed(1.0, 1.0, 4, 1.0, None)) == MOST_SEEDS + 1
    assert seeds_needed(Placed(1.0, 0.0, 4, 1.0, None)) is None
    assert seeds_needed(Placed(1.0, 1.0, 4, 1.0, 0.0, within=True)) == MOST_SEEDS + 1
    assert verdicts.judge(spread(5, 1), "above", 3.0, 0.0).seeds_needed is None
    few = verdicts.judge([0.1, 0.5, -0.1, 0.7], "above", 0.0, 0.0)
    many = verdicts.judge_together([few] * 3)[0]
    assert few.word == many.word == "open"
    assert few.seeds_needed < many.seeds_needed, "a corrected claim needs more seeds"


def test_an_identity_is_kept_by_every_seed_or_broken():
    assert verdicts.identity([1e-13, 3e-13], "below", 1e-12).word == "holds"
    assert verdicts.identity([1e-13, 3e-12, 1e-13], "below", 1e-12).word == "opposite"
    assert verdicts.identity([0.0], "below", 0.0).word == "holds"
    assert verdicts.identity([2.0, 3.0], "above", 2.0).interval[1:3] == (2.0, 3.0)
    assert verdicts.identity([], "below", 0.0).word == "not run"
    with pytest.raises(ValueError, match="not 'within'"):
        verdicts.identity([1.0], "within", 0.0)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (("up", 3.0), "direction must be one of above, below, within, got 'up'"),
        (("within", 0.0), "no value lies within so little"),
        (("within", 1.0, 1.0, "log"), "no value lies within so little"),
        (("within", 0.1, 0.5, "logit"), "a distance or, on the log scale, a factor"),
        (("above", 0.0, 1.0, "log"), r"least 0 lies outside \(0, inf\)"),
        (("above", 0.5, 0.0, "logit"), r"neutral 0 lies outside \(0, 1\)"),
    ],
)
def test_terms_that_make_no_sense_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        verdicts.judge([0.5, 0.6], *terms)


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.sampled_from(["plain", "logit"]))
def test_an_interval_of_accuracies_never_leaves_its_range(values, scale):
    seen = interval(values, scale, (0.0, 1.0))
    assert 0 <= seen.low <= seen.mean <= seen.high <= 1
