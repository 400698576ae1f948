"""Expressions over evidence: how they are taken apart, what they come to, and in which words."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from scipy import stats

from book import amounts, expressions

letters = st.text("abcz", min_size=1, max_size=5)
parts = st.text("abc019.=-*", min_size=1, max_size=6)
names = st.builds("{}{}/{}".format, letters, parts, parts) | letters
EVIDENCE = {
    "quick": {
        "metrics": {
            "accuracy/a": {"0": 0.70, "1": 0.72, "2": 0.71},
            "accuracy/b": {"values": {"0": 0.68, "1": 0.69, "2": 0.70}},
            "bytes/a": {"0": 3.2e6, "1": 3.1e6, "2": 3.4e6},
            "bytes/b": {"0": 1.0e6, "1": 1.0e6, "2": 1.01e6},
            "rounds/a": {"0": 12.0, "1": 15.0, "2": 11.0},
            "seconds": {"0": 1.0, "1": 1.0, "2": 1.0},
            "cos/a": {"0": -0.0, "1": 0.0, "2": -0.00001},
            "size-x/a-b": {"0": 1.0, "1": 2.0, "2": 3.0},
        },
        "setting": {"rounds": 1200, "rate": 0.001, "big": 2e5, "grid": [0.1, 2], "head": True, "data": "mnist1d"},
    },
    "real": {"metrics": {"accuracy/a": {"7": 0.5}, "accuracy/b": {"7": 0.4}}},
    "full": {"metrics": {"accuracy/a": {"0": 0.9}}, "stale": True},
}


def said(text: str) -> str:
    return expressions.measured(text, EVIDENCE, {}).text.replace("\u00a0", " ").replace("\u2009", " ")


@given(
    names,
    st.none() | st.tuples(st.sampled_from("-/"), names),
    st.sampled_from(["", "quick", "real", "full", "best"]),
    st.booleans(),
    st.none() | letters,
    st.sampled_from([" ", "\n", "  "]),
)
def test_an_expression_is_taken_apart_as_it_was_put_together(first, second, profile, mean, unit, space):
    operator, other = second or ("", "")
    formats = [*(["mean"] if mean else []), *([f"unit {unit}"] if unit else [])]
    text = first + (f" {operator} {other}" if second else "") + (f" @{profile}" if profile else "")
    text += f" | {', '.join(formats)}" if formats else ""
    expected = expressions.Expression(first, operator, other, profile, mean, unit=unit)
    assert expressions.parse(text.replace(" ", space)) == expected


@pytest.mark.parametrize("text", ["", "a -b", "a - b - c", "a -", "a @quick @real", "a | mean | mean", "a b"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError, match="is no expression"):
        expressions.parse(text)


def test_unknown_profiles_and_formats_name_those_that_are_there():
    with pytest.raises(ValueError, match=r"no profile 'rael'\. Did you mean 'real'"):
        expressions.parse("a @rael")
    with pytest.raises(ValueError, match=r"no format 'maen'\. Did you mean 'mean'"):
        expressions.parse("a | maen")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("accuracy/a", "71.0 %"),
        ("accuracy/a - accuracy/b | mean", "+2.0 points"),
        ("accuracy/b - accuracy/a | mean", "−2.0 points"),
        ("accuracy/a - accuracy/a", "0.0 points [0.0, 0.0]"),
        ("accuracy/a @real", "50.0 %"),
        ("accuracy/a - accuracy/b @real", "+10.0 points"),
        ("accuracy/a / accuracy/b @real", "1.25 times"),
        ("accuracy/a @best", "90.0 %"),
        ("accuracy/a - accuracy/b @best", "+10.0 points"),
        ("accuracy/b @full", "[not run]"),
        ("bytes/a", "3.23 MB"),
        ("bytes/a - bytes/b | mean", "+2.23 MB"),
        ("bytes/a / bytes/b", "3.2 times [2.9, 3.6]"),
        ("rounds/a", "12.7 rounds"),
        ("seconds", "1 second"),
        ("seconds / seconds", "1.00 times [1.00, 1.00]"),
        ("cos/a", "−3.33e−06"),
        ("size-x/a-b", "2"),
        ("size-x/a-b | interval", "2.0 [−0.5, 4.5]"),
        ("size-x/a-b | unit MB", "2 MB"),
        ("size-x/a-b | unit slope", "2"),
        ("size-x/a-b - seconds", "+1.0 [−1.5, 3.5]"),
    ],
)
def test_numbers_read_as_a_person_would_write_them(text, words):
    assert said(text) == words


spread = st.lists(st.floats(0.01, 100), min_size=2, max_size=8)


@given(spread, st.data())
def test_a_difference_is_paired_by_seed_and_has_students_interval(values, data):
    other = data.draw(st.lists(st.floats(0.01, 100), min_size=len(values), max_size=len(values)))
    gaps = np.subtract(values, other)
    assume(np.std(gaps) > 1e-3)
    by_seed = [{str(s): v for s, v in enumerate(values)}, {str(s): other[s] for s in reversed(range(len(other)))}]
    text = expressions.say(expressions.parse("a - b"), by_seed, "")
    low, high = stats.t.interval(0.95, len(gaps) - 1, np.mean(gaps), stats.sem(gaps))
    assert numbers(text) == pytest.approx([np.mean(gaps), low, high], abs=rounding(low, high))


@given(st.lists(st.floats(0.5, 2), min_size=2, max_size=8), st.floats(0.01, 100))
def test_the_interval_of_a_ratio_is_that_of_its_logarithm(values, other):
    logs = np.log(np.array(values) / other)
    assume(np.std(logs) > 0.01)
    by_seed = [{str(s): v for s, v in enumerate(values)}, {str(s): other for s in range(len(values))}]
    text = expressions.say(expressions.parse("a / b"), by_seed, "bytes")
    bounds = stats.t.interval(0.95, len(logs) - 1, np.mean(logs), stats.sem(logs))
    assume(bounds[1] < math.log(1e5))
    expected = [math.exp(np.mean(logs)), *map(math.exp, bounds)]
    assert numbers(text) == pytest.approx(expected, abs=rounding(*expected[1:]))
    assert all(number >= 0 for number in numbers(text))


def rounding(low: float, high: float) -> float:
    """How far an interval and its middle may be moved by writing them down."""
    return (high - low) / 12 + 0.0005 * max(abs(low), abs(high))


def numbers(text: str) -> list[float]:
    plain = text.replace("\u2009", "").replace("−", "-")
    return [float(part) for part in re.findall(r"[+-]?\d+(?:\.\d+)?(?:e-?\d+)?", plain)]


def test_a_difference_in_words_is_above_or_below_and_has_no_sign_of_its_own():
    signed = said("accuracy/a - accuracy/b")
    assert signed.startswith("+2.0 points [")
    assert said("accuracy/a - accuracy/b | words") == f"{signed.removeprefix('+')} above"
    turned = said("accuracy/b - accuracy/a | words")
    assert turned == f"{signed.removeprefix('+')} below", "the interval is turned with the number"
    assert said("accuracy/b - accuracy/a | words, mean") == "2.0 points below"
    assert said("accuracy/b - accuracy/a @real | words") == "10.0 points below"
    with pytest.raises(ValueError, match="expected 'metric - metric'"):
        expressions.parse("accuracy/a | words")


def test_a_ratio_needs_numbers_above_zero():
    with pytest.raises(ValueError, match="needs numbers above zero; at seed 0"):
        said("cos/a / seconds")


def test_a_metric_that_was_not_measured_is_refused_with_those_most_like_it():
    with pytest.raises(ValueError, match=r"no metric 'acuracy/a' at quick; most like it: accuracy/a, accuracy/b"):
        said("acuracy/a")


def test_hovering_tells_expression_profile_and_seeds():
    told = expressions.measured("accuracy/a - accuracy/b", EVIDENCE, {}).title
    assert told == "accuracy/a − accuracy/b, quick run, 3 seeds: 0 to 2, mean and 95 % interval"
    assert expressions.measured("accuracy/a @real", EVIDENCE, {}).title == "accuracy/a, real run, seed 7"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rounds", "1\u2009200"),
        ("rate", "0.001"),
        ("big", "200\u2009000"),
        ("grid", "0.1, 2"),
        ("head", "yes"),
        ("data", "mnist1d"),
        ("data @full", "[not run]"),
    ],
)
def test_settings_read_as_a_person_would_write_them(name, text):
    assert expressions.setting(name, EVIDENCE).text == text


def test_a_setting_that_the_run_does_not_tell_is_refused():
    with pytest.raises(ValueError, match="no setting 'round' at quick; most like it: rounds"):
        expressions.setting("round", EVIDENCE)
    with pytest.raises(ValueError, match="no setting 'rounds' at real"):
        expressions.setting("rounds @real", EVIDENCE)


def test_the_card_names_units_before_claims_and_claims_before_names():
    units = expressions.all_units({"cos": "cosine"}, [("cos/a", "ratio"), ("size/a", "metres"), (None, "kg")])
    assert units == {"cos": "cosine", "size/a": "metres"}
    found = [expressions.unit_of(m, units) for m in ("cos/a", "size/a", "size/b", "x-accuracy/a", "rounds-to-target/a")]
    assert found == ["cosine", "metres", "", "accuracy", "rounds"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((0.021, 0.004, 0.038, "accuracy", True), "+2.1 points [0.4, 3.8]"),
        ((-0.0001, -0.01, 0.01, "accuracy", True), "0.0 points [−1.0, 1.0]"),
        ((1.2e6, 1.1e6, 1.3e6, "bytes", False), "1.20 MB [1.10, 1.30]"),
        ((123.456789, 123.456, 123.457, "", False), "123.5 [123.5, 123.5]"),
        ((0.5, -math.inf, math.inf, "", True), "+0.500"),
        ((3e7, 2e7, 4e7, "steps", True), "+3.00e+07 steps [2.00e+07, 4.00e+07]"),
        ((0.0, 0.0, 0.0, "", True), "0 [0, 0]"),
    ],
)  # fmt: skip
def test_a_value_and_its_interval_have_the_same_decimals(given, text):
    assert amounts.estimate(*given) == text


@pytest.mark.parametrize(
    "text", ["accuracy/mooon @full", "accuracy/mooon @real", "accuracy/mooon", "accuracy/mooon @best"]
)
def test_a_name_that_no_profile_has_is_wrong_however_old_the_evidence(text):
    for shown in (EVIDENCE, {name: kept for name, kept in EVIDENCE.items() if name != text[-4:]}):
        with pytest.raises(ValueError, match=r"no metric 'accuracy/mooon' at .*; most like it: accuracy/"):
            expressions.measured(text, shown, {})


def test_what_a_run_of_earlier_code_or_none_lacks_is_excused_where_another_has_it():
    assert said("seconds @full") == "[not run]"
    assert expressions.measured("seconds @full", {"quick": EVIDENCE["quick"]}, {}).text == "[not run]"
    assert expressions.measured("anything", {}, {}).text == "[not run]"
    held = {"quick": EVIDENCE["quick"] | {"held": True}}
    assert expressions.measured("seconds", held, {}).text == expressions.setting("rounds", held).text == "[not run]"
    with pytest.raises(ValueError, match=r"no metric 'second'"):
        expressions.measured("second", held, {})
    for name in ("round", "round @full", "round @real"):
        with pytest.raises(ValueError, match="no setting 'round'"):
            expressions.setting(name, EVIDENCE)


def test_a_metric_that_a_claim_judges_has_the_claims_scale():
    values = {"F": {"0": 0.25, "1": 1.0}, "F/ratio": {"0": -0.1, "1": 1.0}}
    evidence = {"quick": {"metrics": values}}
    judged = expressions.scales_of([("F", None, "log"), ("F/ratio", "F", "log")])
    found = expressions.measured("F", evidence, {}, judged=judged)
    assert (found.text, "geometric mean" in found.title) == ("0.500", True)
    assert expressions.measured("F", evidence, {}).text == "0.625"
    assert expressions.measured("F", evidence, {"F": "ratio"}).text == "0.500", "a ratio, by its logarithm"
    assert expressions.measured("F", evidence, {"F": "ratio"}, judged={"F": "plain"}).text == "0.625"
    assert expressions.measured("F/ratio", evidence, {"F": "ratio"}).text == "0.450", "not all above zero"


@pytest.mark.parametrize("unit", ["accuracy", "share", "fraction", "CKA", "ratio"])
def test_an_interval_stays_within_the_range_of_its_unit(unit):
    seen = expressions.averaged("censored/a", [0.05, 0.6, 0.98], unit)
    assert seen.low >= 0
    assert seen.high <= 1 or unit == "ratio"
    assert expressions.averaged("a-gap/a", [0.0, 0.0, 0.1], "accuracy").low < 0, "a difference may be negative"


def test_units_are_a_closed_list():
    with pytest.raises(ValueError, match="no unit 'bananas'"):
        said("accuracy/a | unit bananas")
    assert expressions.measured("seconds", EVIDENCE, {"seconds": "bananas"}).text == "1 bananas", "of the card"


def test_a_number_outside_its_range_names_its_expression():
    with pytest.raises(ValueError, match=r"'size-x/a-b' at quick: 2.0 lies outside"):
        expressions.measured("size-x/a-b", EVIDENCE, {"size-x": "share"})
