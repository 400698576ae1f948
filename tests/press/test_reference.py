"""Evidence: accepted, compared, judged."""

import json

import numpy as np
import pytest

from book import cards, chapters, checks, comparing, drift, files, freshness, judging, records, reference, website
from book.errors import PressError


@pytest.fixture
def demo(tree):
    """A chapter with a fresh run and a committed reference."""
    tree.add("demo")
    tree.pretend("demo")
    reference.accept("demo", "quick")
    return tree


def test_accepting_twice_changes_no_byte(demo):
    path = chapters.evidence_path("demo", "quick")
    before = path.read_bytes()
    status, output = demo.press("accept", "demo")
    assert status == 0
    assert output == f"unchanged: {path}\n"
    assert path.read_bytes() == before


def test_accepting_writes_what_the_run_took_into_the_card_and_nothing_else(demo):
    path = chapters.card_path("demo")
    quick = "  quick: {seconds: 9.5, memory_mb: 700, data: [digits]}\n"
    text = "profiles:\n  smoke: {seconds: 9, memory_mb: 1, data: []}  # small\n" + quick
    path.write_text(text)
    cards.note_cost("demo", "quick", 41.2, 431.0)
    assert path.read_text() == text.replace("seconds: 9.5, memory_mb: 700", "seconds: 42, memory_mb: 440")


def test_the_file_reads_well_in_a_diff(demo):
    text = chapters.evidence_path("demo", "quick").read_text()
    content = json.loads(text)
    (line,) = [line for line in text.splitlines() if line.strip().startswith('"score/ours"')]
    assert line.strip(" ,") == '"score/ours": ' + json.dumps(content["metrics"]["score/ours"], sort_keys=True)
    assert list(content) == sorted(content)
    assert content["metrics"]["score/ours"]["mean"] == 0.51
    assert content["metrics"]["score/ours"]["ci95"] == pytest.approx([0.51 - 0.0248414, 0.51 + 0.0248414], abs=1e-6)
    assert {"commit", "hash", "seconds", "device", "processor", "versions", "date"} <= set(content["provenance"])
    assert content["claims"]["ours-wins"].items() >= {"direction": "above", "least": 0.3, "kind": "secondary"}.items()


def test_numbers_are_kept_to_six_digits(tree):
    tree.add("demo")
    tree.pretend("demo", metrics={"score/ours": {"0": 1 / 3}, "score/base": {"0": 0.0}}, seeds=[0])
    assert reference.accept("demo", "quick")[1]["metrics"]["score/ours"] == {
        "mean": 0.333333,
        "sd": None,
        "ci95": None,
        "values": {"0": 0.333333},
    }


def test_a_run_that_says_the_same_passes(demo):
    demo.pretend("demo")
    status, output = demo.press("check")
    assert status == 0, output
    assert "holds" in output
    assert "problems: 0" in output


def test_a_moved_number_fails_and_names_chapter_metric_seed_was_and_is(demo):
    demo.pretend("demo", shift=0.1)
    status, output = demo.press("check")
    assert status == 1
    assert "problem: demo, quick, score/ours: was 0.5 at seed 0, is 0.6; 3 of 3 seeds moved" in output
    assert "problem: demo, quick: 1 of 2 metrics moved" in output
    assert "score/base: was" not in output


def test_a_move_far_inside_the_interval_is_a_move(demo):
    """Runs have the same bits on one kind of machine, so an interval over seeds excuses nothing."""
    demo.pretend("demo", shift=0.00001)
    assert "score/ours: was 0.5 at seed 0, is 0.50001" in demo.press("check")[1]
    demo.pretend("demo", shift=1e-9)
    assert demo.press("check")[0] == 0, "numbers are kept to six digits"


def test_seeds_are_compared_one_by_one(demo):
    """A mean that stays, of seeds that change places, is no agreement."""
    values = {"score/ours": {"0": 0.52, "1": 0.51, "2": 0.5}, "score/base": {"0": 0.0, "1": 0.01, "2": 0.02}}
    demo.pretend("demo", metrics=values)
    assert "score/ours: was 0.5 at seed 0, is 0.52; 2 of 3 seeds moved" in demo.press("check")[1]


def test_a_verdict_that_flips_is_a_problem(demo):
    demo.pretend("demo", shift=-0.3)
    output = demo.press("check")[1]
    assert "problem: demo, quick, claim 'ours-wins': the verdict was 'holds', is 'smaller'" in output


OTHER = {"processor": "another processor"}


def drift_of(tree, metrics, claims=None, **changes):
    """Commit measured moves of the miniature chapter."""
    was = reference.committed("demo", "quick")
    made = {"slug": "demo", "profile": "quick", "reference": "cpu of this test", "processors": ["old", "older"]}
    made |= {"hash": was["provenance"]["hash"], "metrics": metrics, "claims": claims or {}} | changes
    files.write(drift.path("demo", "quick"), reference.layout(made | {"digest": records.digest(made)}))


def test_another_processor_may_move_numbers_as_far_as_was_measured(demo):
    drift_of(demo, {"score/ours": 0.001, "score/base": 0.0})
    demo.pretend("demo", shift=0.0029, **OTHER)
    status, output = demo.press("check")
    assert status == 0, output
    assert "warning: demo, quick: measured on another machine (cpu of this test; here another processor)" in output
    demo.pretend("demo", shift=0.0031, **OTHER)
    status, output = demo.press("check")
    assert status == 1
    assert "score/ours: was 0.5 at seed 0, is 0.5031 (allowed: 0.003 either way)" in output
    demo.pretend("demo", shift=0.0001)
    assert demo.press("check")[0] == 1, "not here"


@pytest.mark.parametrize("exact", [None, "float32", "float32, float64"])
def test_another_precision_cannot_be_compared_and_no_entry_means_as_the_types_say(demo, exact):
    demo.pretend("demo", precision=exact)
    assert demo.press("check")[0] == 0
    drift_of(demo, {"score/ours": 0.001, "score/base": 0.0})
    demo.pretend("demo", precision="float32, tf32", **OTHER)
    status, output = demo.press("check")
    assert status == 1
    assert "demo, quick: measured in another precision (as the types say; here tf32), so nothing can be" in output
    new = reference.accept("demo", "quick")[1]
    assert new["provenance"]["precision"] == "float32, tf32"
    assert not reference.same_machine(new, new | {"provenance": new["provenance"] | {"precision": exact}})
    demo.pretend("demo", precision="tf32", **OTHER)
    assert demo.press("check")[0] == 0


def test_evidence_from_before_precision_was_noted_stays_valid(demo):
    content = reference.committed("demo", "quick")
    del content["provenance"]["precision"]
    content["digest"] = records.digest(content)
    files.write(chapters.evidence_path("demo", "quick"), reference.layout(content))
    assert reference.committed("demo", "quick") == content
    demo.pretend("demo", precision="float32")
    assert demo.press("check")[0] == 0


def test_where_nothing_was_measured_numbers_may_move_as_far_as_seeds_differ(demo):
    demo.pretend("demo", shift=0.005, **OTHER)  # half the spread of score/ours
    status, output = demo.press("check")
    assert status == 0
    assert (
        "how far this reference moves elsewhere was not measured; where it was made, run python -m book drift" in output
    )
    assert "metrics moved" not in output


def test_where_nothing_was_measured_what_moves_further_is_named_and_surely_other_means_are_problems(demo):
    demo.pretend("demo", shift=-0.03, **OTHER)  # of score/ours, three times the spread of its three seeds
    status, output = demo.press("check")
    assert status == 0, output
    assert "warning: demo, quick, score/ours: was" in output
    demo.pretend("demo", shift=-0.3, **OTHER)
    status, output = demo.press("check")
    assert status == 1
    assert "problem: demo, quick, score/ours: the mean over seeds was 0.51, is 0.21: more than another" in output
    assert "warning: demo, quick, claim 'ours-wins': the verdict was 'holds', is 'smaller' here" in output


def roughly(was, fresh):
    findings = checks.Findings()
    checks._roughly("demo, quick", was, fresh, findings)
    return findings


def drawn(rng, mean, sd, seeds):
    return reference.statistics_of({str(seed): float(v) for seed, v in enumerate(rng.normal(mean, sd, seeds))})


def test_a_metric_that_is_gone_is_a_problem_on_every_processor(demo):
    was = reference.committed("demo", "quick")
    less = was | {"metrics": {"score/ours": was["metrics"]["score/ours"]}}
    assert any("is no longer recorded" in problem for problem in roughly(was, less).problems)


def test_training_drawn_anew_is_no_problem_and_another_mean_is(demo):
    """Chaotic training: each seed anywhere within the spread. A shift of four spreads is seen at eight seeds."""
    rng, was = np.random.default_rng(3), reference.committed("demo", "quick")
    before, same, worse = ({f"m/{i}": drawn(rng, mean, 0.1, 8) for i in range(40)} for mean in (0.5, 0.5, 0.1))
    then, again = (was | {"metrics": metrics, "claims": {}} for metrics in (before, same))
    assert roughly(then, again).problems == []
    assert any("metrics moved" in warning for warning in roughly(then, again).warnings)
    one = again | {"metrics": same | {"m/7": worse["m/7"]}}
    assert [problem[:17] for problem in roughly(then, one).problems] == ["demo, quick, m/7:"]


def test_a_number_that_no_seed_changes_may_not_change_elsewhere(demo):
    was = reference.committed("demo", "quick")
    bytes_ = [reference.statistics_of(dict.fromkeys("01", value)) for value in (1000.0, 1011.0)]
    then, now = (was | {"metrics": {"bytes": value}, "claims": {}} for value in bytes_)
    assert roughly(then, then).problems == []
    assert any("the mean over seeds was 1000, is 1011" in problem for problem in roughly(then, now).problems)


def test_rounding_elsewhere_is_no_other_number(demo):
    was = reference.committed("demo", "quick")
    errors = [reference.statistics_of({"0": v, "1": 1.01 * v, "2": 0.99 * v}) for v in (1e-7, 3e-7)]
    then, now = (was | {"metrics": {"mismatch": value}, "claims": {}} for value in errors)
    assert roughly(then, now).problems == []


def test_a_claim_that_is_reversed_is_a_problem_on_every_processor(demo):
    was = reference.committed("demo", "quick")
    for verdict, problems in (("open", 0), ("smaller", 0), ("opposite", 1)):
        claims = {name: claim | {"verdict": verdict} for name, claim in was["claims"].items()}
        assert len(roughly(was, was | {"claims": claims}).problems) == problems


@pytest.mark.parametrize("field", ["hash", "reference"])
def test_moves_of_another_reference_do_not_serve(demo, field):
    drift_of(demo, {"score/ours": 0.001, "score/base": 0.0}, **{field: "another"})
    demo.pretend("demo", **OTHER)
    assert "was not measured" in demo.press("check")[1]
    drift_of(demo, {"score/ours": 0.001})
    assert "was not measured" in demo.press("check")[1]


def test_metrics_that_hardly_move_may_move_as_the_others_do(demo):
    """A test sample that falls the other way on a third processor is no fault, if others fell on the two tried."""
    was = reference.committed("demo", "quick")
    for name in [f"kind{i}/x" for i in range(9)]:
        was["metrics"][name] = was["metrics"]["score/ours"]
    moves = dict.fromkeys(was["metrics"], 0.001) | {"score/base": 0.0, "score/ours": 0.0}
    assert comparing.tolerances(was, moves)["score/base"] == pytest.approx(0.003)


def test_a_chapter_of_which_little_can_be_compared_is_a_problem(demo):
    drift_of(demo, {"score/ours": 0.1, "score/base": 0.1})
    demo.pretend("demo", **OTHER)
    assert "problem: demo, quick: measured on another machine" in demo.press("check")[1]


def test_a_tolerance_never_exceeds_the_spread_of_the_seeds(demo):
    """What moves further on another processor than from seed to seed is not compared there, which is said."""
    was = reference.committed("demo", "quick")
    assert was["metrics"]["score/ours"]["sd"] == 0.01
    assert comparing.tolerances(was, {"score/ours": 0.002, "score/base": 0.0})["score/base"] == pytest.approx(0.006)
    assert comparing.tolerances(was, {"score/ours": 0.0034, "score/base": 0.0}) == {
        "score/ours": None,
        "score/base": 0.01,
    }
    drift_of(demo, {"score/ours": 0.0034, "score/base": 0.0})
    demo.pretend("demo", shift=0.2, **OTHER)
    status, output = demo.press("check")
    assert status == 0
    assert "1 of 2 metrics cannot be compared: score/ours" in output
    demo.pretend("demo", shift=0.2)
    assert demo.press("check")[0] == 1


def test_a_verdict_flips_elsewhere_only_where_that_was_measured(demo):
    drift_of(demo, {"score/ours": 0.2, "score/base": 0.0})
    demo.pretend("demo", shift=-0.3, **OTHER)
    assert "problem: demo, quick, claim 'ours-wins': the verdict was" in demo.press("check")[1]
    drift_of(demo, {"score/ours": 0.2, "score/base": 0.0}, {"ours-wins": ["smaller"]})
    status, output = demo.press("check")
    assert status == 0
    assert "warning: demo, quick, claim 'ours-wins': the verdict was 'holds', is 'smaller'; it depends" in output


def test_measured_moves_edited_by_hand_are_refused(demo):
    drift_of(demo, {"score/ours": 0.001, "score/base": 0.0})
    demo.edit(drift.path("demo", "quick"), "0.001", "0.009")
    demo.pretend("demo", shift=0.02, **OTHER)
    status, output = demo.press("check")
    assert status == 1
    assert "drift-quick.json was edited or copied" in output


def test_moves_are_the_largest_at_any_seed_of_any_run():
    def run(shift, verdict):
        values = {"0": 1.0 + shift, "1": 2.0 - 2 * shift}
        return {"metrics": {"m": {"values": values}}, "claims": {"c": {"verdict": verdict}}} | about

    about = {"slug": "demo", "profile": "quick", "provenance": {"processor": "p", "hash": "h"}}
    made = drift.moves(run(0, "holds"), [run(0.25, "holds"), run(-0.5, "opposite")])
    assert made["metrics"] == {"m": 1.0}
    assert made["claims"] == {"c": ["opposite"]}


def test_without_spread_nothing_may_move_but_rounding(tree):
    values = {"score/ours": {"0": 0.5}, "score/base": {"0": 0.123456789}}
    tree.add("demo")
    tree.pretend("demo", metrics=values, seeds=[0])
    reference.accept("demo", "quick")
    assert tree.press("check")[0] == 0
    tree.pretend("demo", metrics=values | {"score/ours": {"0": 0.5001}}, seeds=[0])
    assert "score/ours: was 0.5 " in tree.press("check")[1]


def test_a_metric_that_is_gone_fails_and_a_new_one_is_told(demo):
    metrics = {"score/ours": {"0": 0.5, "1": 0.51, "2": 0.52}, "score/base": {"0": 0.0, "1": 0.02, "2": 0.01}}
    demo.pretend("demo", metrics=metrics | {"extra": {"0": 1.0, "1": 1.0, "2": 1.0}})
    status, output = demo.press("check")
    assert status == 0
    assert "warning: demo, quick: not in the reference yet: extra" in output
    del metrics["score/base"]
    demo.pretend("demo", metrics=metrics)
    status, output = demo.press("check")
    assert status == 1
    assert "score/base: was 0 at seed 0, is no longer recorded" in output


def test_a_claim_whose_metric_was_never_recorded(tree):
    path = tree.add("demo")
    tree.edit(chapters.card_path("demo"), "metric: score/ours", "metric: score/theirs")
    tree.pretend("demo")
    with pytest.raises(PressError, match="'ours-wins': metric 'score/theirs' was never recorded"):
        reference.accept("demo", "quick")
    status, output = tree.press("check")
    assert status == 1
    assert "problem: demo, quick, claim 'ours-wins': metric 'score/theirs' was never recorded" in output
    assert path.exists()


def test_check_without_run_reference_or_freshness_fails(tree):
    tree.add("demo")
    assert "problem: demo, quick: never executed" in tree.press("check")[1]
    tree.pretend("demo")
    status, output = tree.press("check")
    assert status == 1
    assert "there is no reference to compare with; python -m book accept demo" in output
    tree.edit("fedlib/toy.py", "0.01", "0.02")
    assert "changed since it was executed: fedlib.toy" in tree.press("check")[1]


def test_only_a_fresh_run_is_accepted(demo):
    demo.edit("fedlib/toy.py", "0.01", "0.02")
    before = chapters.evidence_path("demo", "quick").read_bytes()
    status, output = demo.press("accept", "demo")
    assert status == 2
    assert "python -m book run demo --profile quick" in output
    assert chapters.evidence_path("demo", "quick").read_bytes() == before


def test_accept_shows_what_moves(demo):
    demo.pretend("demo", shift=-0.3)
    lines = [line.split() for line in demo.press("accept", "demo")[1].splitlines()]
    assert ["score/ours", "0.51", "0.21"] in lines
    assert ["claim", "ours-wins", "holds", "smaller"] in lines
    assert demo.press("check")[0] == 0


def forged(tree, change, profile="quick"):
    """Change the committed evidence as somebody would who knows of its checksum."""
    path = chapters.evidence_path("demo", profile)
    content = json.loads(path.read_text())
    change(content)
    files.write(path, reference.layout(content | {"digest": records.digest(content)}))
    return tree.press("check")


def test_evidence_edited_by_hand_is_found_out(demo):
    demo.edit(chapters.evidence_path("demo", "quick"), '"seconds": ', '"seconds": 1')
    status, output = demo.press("check")
    assert status == 1
    assert "quick.json was edited: its contents do not have the checksum it names; restore it from git" in output
    with pytest.raises(PressError, match="was edited"):
        reference.committed("demo", "quick")


def rehash(content):
    """Let the hash be that of the dependencies, as a forger would."""
    content["provenance"]["hash"] = freshness.digest(content["dependencies"])


FORGERIES = {
    "a mean": (lambda e: e["metrics"]["score/ours"].update(mean=0.52), "statistics do not follow from its values"),
    "a verdict": (lambda e: e["claims"]["ours-wins"].update(verdict="open"), "its verdict does not follow"),
    "an interval": (lambda e: e["claims"]["ours-wins"].update(interval=[0.4, 0.6]), "its verdict does not follow"),
    "what it ran on": (lambda e: e["dependencies"]["modules"].update(x="y"), "hash is not that of the dependencies"),
    "a threshold": (lambda e: e["claims"]["ours-wins"].update(least=0.1), "least was 0.1 when it was accepted, is 0.3"),
    "a claim left out": (lambda e: e["claims"].clear(), "claim 'ours-wins' is new on the card"),
    "another chapter": (lambda e: e.update(slug="other"), "is the evidence of another slug (other, not demo)"),
    "infinity": (lambda e: e["metrics"]["score/ours"].update(mean=1e999), "no evidence: metrics.score/ours.mean"),
    "a seed less": (lambda e: e["metrics"]["score/ours"]["values"].pop("0"), "has values for the seeds 1, 2"),
    "a seed twice": (lambda e: e.update(seeds=[0, 1, 2, 2]), "names one twice"),
    "an accuracy above one": (
        lambda e: e["metrics"]["score/ours"]["values"].update({"0": 1.5}),
        "statistics do not follow",
    ),
    "other parameters": (
        lambda e: (e["dependencies"]["parameters"].update(rate=9.0), rehash(e)),
        "the parameters are {'profile': 'quick', 'rate': 9.0}, not {'profile': 'quick'}",
    ),
    "fewer seeds than set": (lambda e: e.update(setting={"seeds": 8}), "seeds is 8, but the metrics have 3"),
    "other data": (
        lambda e: (e["dependencies"]["data"].update(digits="f" * 64), rehash(e)),
        "the data set 'digits' is not that of data/digits.yml (ffffffffffff…)",
    ),
    "a field more": (lambda e: e.update(note="ok"), "no evidence: note"),
}


@pytest.mark.parametrize(("change", "message"), FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forgery_with_a_checksum_of_its_own_is_found_out_where_it_contradicts_itself(demo, change, message):
    (demo.root / "data").mkdir()
    (demo.root / "data" / "digits.yml").write_text("loader: embedded\nsha256: [aa]\n")
    if message.endswith("mean"):
        path = chapters.evidence_path("demo", "quick")
        path.write_text(path.read_text().replace('"mean": 0.51', '"mean": Infinity'))
        status, output = demo.press("check")
    else:
        status, output = forged(demo, change)
    assert status == 1
    assert message in output


def test_evidence_of_one_profile_does_not_serve_for_another(demo):
    quick = chapters.evidence_path("demo", "quick")
    chapters.evidence_path("demo", "real").write_bytes(quick.read_bytes())
    status, output = demo.press("check")
    assert status == 1
    assert "demo, real: " in output
    assert "real.json is the evidence of another profile (quick, not real)" in output


@pytest.mark.parametrize(
    ("term", "old", "new"),
    [
        ("least", "least: 0.3", "least: 0.1"),
        ("direction", "above", "below"),
        ("kind", "id: ours-wins", "id: ours-wins\n  kind: primary"),
        ("neutral", "least: 0.3", "least: 0.3\n  neutral: 0.1"),
        ("ceiling", "least: 0.3", "least: 0.3\n  ceiling: score/ours"),
        ("statement", "better by 0.3", "worse by 0.3"),
        ("source", "Table 1", "Table 2"),
        ("paper", "+0.4", "+0.2"),
    ],
)
def test_a_claim_that_moves_after_its_verdict_is_a_problem_until_it_is_accepted(demo, term, old, new):
    demo.edit(chapters.card_path("demo"), old, new)
    status, output = demo.press("check")
    assert status == 1
    assert f"demo, quick, claim 'ours-wins': {term} was" in output
    assert "state it in the chapter's deviations" in output
    admit(demo)
    demo.press("accept", "demo")
    assert demo.press("check")[0] == 0


def admit(tree, name="ours-wins"):
    """Let the chapter's deviations name a claim."""
    path = chapters.chapter_path("demo")
    path.write_text(path.read_text() + f"\n## Deviations\n\n`{name}` was changed.\n")


@pytest.mark.parametrize("how", [(), ("--rejudge",)])
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("least: 0.3", "least: -0.2", "least changed since it was accepted (holds)"),
        ("direction: above", "direction: below", "direction changed since"),
        ("id: ours-wins", "id: ours-wins\n  kind: primary", "kind changed since"),
        ("id: ours-wins", "id: ours-win", "'ours-wins': is gone since"),
        ("- quick", "- real", "'ours-wins': is gone since"),
    ],
)
def test_a_claim_that_was_loosened_is_not_accepted_until_the_deviations_name_it(demo, old, new, told, how):
    demo.edit(chapters.card_path("demo"), old, new)
    before = chapters.evidence_path("demo", "quick").read_bytes()
    admit(demo, "ours-wins-too")
    status, output = demo.press("accept", "demo", *how)
    assert status == 2
    assert told in output
    assert "say in the chapter's Deviations what was changed and why" in output
    assert chapters.evidence_path("demo", "quick").read_bytes() == before
    admit(demo)
    assert demo.press("accept", "demo", *how)[0] == 0


def test_what_decides_no_verdict_is_accepted_without_a_word_in_the_deviations(demo):
    demo.edit(chapters.card_path("demo"), "Table 1", "Table 2")
    assert demo.press("accept", "demo", "--rejudge")[0] == 0


def test_an_edited_record_is_no_record_and_an_edited_notebook_is_stale(demo):
    demo.edit(chapters.record_path("demo", "quick"), '"seconds": ', '"seconds": 1')
    assert records.read("demo", "quick") is None
    assert "demo, quick: never executed" in demo.press("check")[1]
    assert demo.press("accept", "demo")[0] == 2
    demo.pretend("demo")
    demo.edit(chapters.executed_path("demo", "quick"), "0.52", "0.92")
    assert "demo, quick: changed since it was executed: the executed notebook itself" in demo.press("check")[1]


def test_the_numbers_are_those_of_the_notebook(demo):
    """A record that says otherwise, even with a checksum that fits, moves nothing."""
    record = records.read("demo", "quick")
    record["evidence"]["metrics"]["score/ours"]["0"] = 9.0
    records.write("demo", "quick", record)
    assert reference.run_evidence("demo", "quick")["metrics"]["score/ours"]["values"]["0"] == 0.5


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"metrics": {"score/ours": {"0": float("nan"), "1": 1.0, "2": 1.0}}}, "metrics.score/ours.0"),
        ({"metrics": {"score/ours": {"0": 1.0}}}, "has values for the seeds 0, not [0, 1, 2]"),
        ({"metrics": {"score/ours": {"0": "good", "1": 1.0, "2": 1.0}}}, "metrics.score/ours.0"),
        ({"seeds": []}, "seeds"),
        ({"device": None}, "device"),
    ],
)
def test_what_is_published_is_checked_where_it_enters(tree, published, message):
    tree.add("demo")
    record = tree.pretend("demo", **published)
    assert (record["status"], record["error"]["type"]) == ("failed", "Evidence")
    assert message in record["error"]["message"]


def test_a_damaged_reference_is_named_and_the_others_are_checked(demo):
    demo.add("second")
    demo.pretend("second")
    reference.accept("second", "quick")
    path = chapters.evidence_path("demo", "quick")
    for text, message in (
        ("<<<<<<< HEAD\n", "is not valid JSON"),
        ("{}", "is no evidence: profile"),
        ("[]", "is no evidence"),
    ):
        path.write_text(text)
        demo.pretend("second", shift=0.1)
        status, output = demo.press("check")
        assert status == 1
        assert f"problem: demo, quick: {path} {message}" in output
        assert "second, quick, score/ours: was 0.5" in output
    assert demo.press("accept", "demo")[0] == 0, "accepting puts another in its place"


def test_a_damaged_card_or_golden_is_named_and_the_others_are_checked(demo):
    demo.add("second")
    demo.pretend("second")
    reference.accept("second", "quick")
    demo.edit(chapters.card_path("second"), "noted: []", "noted: [2021-13-40]")
    files.write(chapters.golden_path("demo"), '{"cells": [')
    demo.pretend("demo", shift=0.1)
    status, output = demo.press("check")
    assert status == 1
    assert f"{chapters.card_path('second')}: a value cannot be read: month must be in 1..12" in output
    assert f"{chapters.golden_path('demo')} is no notebook" in output
    assert "demo, quick, score/ours: was 0.5" in output


def test_smoke_runs_have_a_reference_too(demo):
    demo.pretend("demo", "smoke")
    status, output = demo.press("accept", "demo", "--profile", "smoke")
    assert status == 0
    assert "smoke.json" in output
    demo.pretend("demo", "smoke", shift=0.1)
    assert "demo, smoke, score/ours: was 0.5 at seed 0, is 0.6" in demo.press("check", "--profile", "smoke")[1]


def test_unknown_data_are_told(tree):
    tree.add("demo")
    tree.pretend("demo", data={"digits": "a" * 64, "stars": "unknown:" + "b" * 64})
    assert "demo was measured on data that no card knows: stars" in tree.press("accept", "demo")[1]


def test_the_page_gets_the_fresh_run_else_the_reference_marked_when_stale(demo):
    assert reference.evidence_for("demo", "real") is None
    seen = reference.evidence_for("demo", "quick")
    assert (seen["origin"], seen["stale"]) == ("run", False)
    chapters.executed_path("demo", "quick").unlink()
    seen = reference.evidence_for("demo", "quick")
    assert (seen["origin"], seen["stale"]) == ("reference", False)
    demo.edit("fedlib/toy.py", "0.01", "0.02")
    seen = reference.evidence_for("demo", "quick")
    assert (seen["origin"], seen["stale"], seen["changed"]) == ("reference", True, ["fedlib.toy"])


def test_evidence_that_cannot_be_rerun_here_is_a_warning_not_a_failure(demo):
    demo.pretend("demo", "real")
    reference.accept("demo", "real")
    demo.edit("fedlib/toy.py", "0.01", "0.02")
    demo.pretend("demo")
    status, output = demo.press("check")
    assert status == 0, output
    assert "warning: demo, real: measured with earlier code" in output


def test_claims_are_judged_from_the_numbers_at_each_of_their_profiles(demo):
    (row,) = reference.claims_for("demo")
    assert list(row.results) == ["quick"]
    result = row.results["quick"]
    assert (result.verdict, result.value, result.seeds, result.stale) == ("holds", 0.5, 3, False)
    demo.pretend("demo", "real", shift=-0.5)
    demo.edit(chapters.card_path("demo"), "  - quick\n", "  - quick\n  - real\n")
    assert [r.verdict for r in reference.claims_for("demo")[0].results.values()] == ["holds", "no effect"]


def test_seeds_that_do_not_meet_are_no_verdict(demo):
    claim = cards.load("demo").claims[0]
    metrics = {"score/ours": {"values": {"0": 1.0}}, "score/base": {"values": {"1": 1.0}}}
    result = judging.judge([claim], metrics)["ours-wins"]
    assert result.verdict == "not run"
    assert "no seed in common" in result.problem


def metric(*values):
    return reference.statistics_of({str(seed): value for seed, value in enumerate(values)})


def claim(name="ours-wins", **changes):
    about = {"statement": "It wins.", "source": "Table 1", "paper": None, "unit": "score", "profiles": ["quick"]}
    terms = {"metric": "a", "against": "b", "direction": "above", "least": 0.0}
    return cards.Claim.model_validate({"id": name} | about | terms | changes)


def test_primary_claims_of_a_chapter_are_judged_together_and_the_others_alone():
    metrics = {"a": metric(0.1, 0.2, 0.3, 0.1), "b": metric(0.0, 0.0, 0.0, 0.0)}
    alone = judging.judge([claim()], metrics)["ours-wins"]
    assert (alone.verdict, alone.together) == ("holds", 0)
    three = [claim("one", kind="primary"), claim("two", kind="primary"), claim("why", kind="mechanism")]
    found = judging.judge(three, metrics)
    assert [(r.verdict, r.together) for r in found.values()] == [("open", 2), ("open", 2), ("holds", 0)]
    assert found["one"].interval == alone.interval, "the interval that is shown is the plain one"
    assert found["one"].p == alone.p, "what is corrected over the whole book is the plain p-value"
    assert found["one"].seeds_needed > 4


def test_on_the_log_scale_two_metrics_are_compared_by_their_ratio():
    metrics = {"a": metric(2.0, 8.0, 4.0), "b": metric(1.0, 2.0, 1.0), "none": metric(1.0, 0.0, 1.0)}
    seen = judging.judge([claim(scale="log", least=1.1)], metrics)["ours-wins"]
    assert seen.value == pytest.approx((2 * 4 * 4) ** (1 / 3), rel=1e-5)
    assert seen.verdict == "holds"
    wrong = judging.judge([claim(scale="log", least=1.1, against="none")], metrics)["ours-wins"]
    assert (wrong.verdict, wrong.problem) == ("not run", "a against none: no ratio at seed 1, where that is 0")


def test_intervals_keep_to_the_range_that_the_unit_gives():
    metrics = {"a": metric(0.7, 0.99, 0.98), "b": metric(0.0, 0.1, 0.05), "gap": metric(-0.9, 0.9, 0.9)}
    about = {"unit": "accuracy", "direction": "above"}
    one = judging.judge([claim(**about, against=None, least=0.5)], metrics)["ours-wins"]
    assert one.interval[1] == 1.0
    two = judging.judge([claim(**about)], {**metrics, "b": metric(0.0, 0.01, 0.3)})["ours-wins"]
    assert two.interval[1] == 1.0
    gaps = judging.judge([claim(**about, against="gap")], metrics)["ours-wins"]
    assert gaps.interval[0] < -1.0 < gaps.interval[1] == 2.0, "a metric with negative values is a difference itself"


def test_a_claim_without_room_below_its_ceiling_says_so():
    metrics = {"a": metric(0.51, 0.52, 0.5), "b": metric(0.5, 0.5, 0.5), "best": metric(0.55, 0.54, 0.53)}
    seen = judging.judge([claim(ceiling="best", least=0.05)], metrics)["ours-wins"]
    assert (seen.verdict, seen.room) == ("no room", pytest.approx(0.04))
    assert judging.judge([claim(ceiling="best", least=0.02)], metrics)["ours-wins"].verdict != "no room"
    missing = judging.judge([claim(ceiling="other", least=0.05)], metrics)["ours-wins"]
    assert missing.problem == "metric 'other' was never recorded"


def test_an_identity_is_judged_seed_by_seed_and_is_no_part_of_the_family():
    metrics = {"a": metric(1e-13, 2e-13, 0.0), "b": metric(0.1, 0.2, 0.15), "zero": metric(0.0, 0.0, 0.0)}
    same = claim("same", kind="identity", against=None, direction="below", least=1e-12)
    wins = claim("wins", kind="primary", metric="b", against="zero")
    found = judging.judge([same, wins], metrics)
    assert [(r.verdict, r.together, r.p is None) for r in found.values()] == [("holds", 0, True), ("holds", 1, False)]
    assert judging.judge([same], {"a": metric(1e-13, 2e-12, 0.0)})["same"].verdict == "opposite"


def test_evidence_is_judged_again_without_a_run_and_no_number_moves(demo):
    demo.edit("fedlib/toy.py", "0.01", "0.02")
    before = reference.committed("demo", "quick")
    demo.edit(chapters.card_path("demo"), "least: 0.3", "least: 0.6")
    admit(demo)
    assert demo.press("accept", "demo")[0] == 2, "the code has changed since the run"
    status, output = demo.press("accept", "demo", "--rejudge")
    assert status == 0, output
    assert ["claim", "ours-wins", "holds", "smaller"] in [line.split() for line in output.splitlines()]
    after = reference.committed("demo", "quick")
    assert after["claims"]["ours-wins"]["least"] == 0.6
    moved = {"claims", "digest"}
    assert {k: v for k, v in before.items() if k not in moved} == {k: v for k, v in after.items() if k not in moved}
    assert "unchanged" in demo.press("accept", "demo", "--rejudge")[1]


def test_evidence_with_the_words_of_another_rule_is_refused_until_it_is_judged_again(demo):
    path = chapters.evidence_path("demo", "quick")
    content = json.loads(path.read_text())
    content["claims"]["ours-wins"]["verdict"] = "proven"
    files.write(path, reference.layout(content | {"digest": records.digest(content)}))
    status, output = demo.press("check")
    assert status == 1
    assert "--rejudge if only its verdicts are old" in output
    assert demo.press("accept", "demo", "--rejudge")[0] == 0
    assert demo.press("check")[0] == 0


def test_edited_evidence_is_not_judged_again(demo):
    demo.edit(chapters.evidence_path("demo", "quick"), '"mean": 0.51', '"mean": 0.91')
    with pytest.raises(PressError, match="was edited"):
        reference.rejudge("demo", "quick")
    with pytest.raises(PressError, match="there is no reference to judge again"):
        reference.rejudge("demo", "real")


def test_when_one_primary_claim_moves_the_others_are_not_blamed(demo):
    values = {"a": metric(0.1, 0.2, 0.3, 0.1), "b": metric(0.0, 0.0, 0.0, 0.0)}

    def card(second):
        both = [claim("one", kind="primary"), claim("two", kind=second)]
        return cards.load("demo").model_copy(update={"claims": both})

    kept = reference.committed("demo", "quick") | {"metrics": values}
    kept["claims"] = judging.judged(card("primary"), "quick", values)
    assert {c["verdict"] for c in kept["claims"].values()} == {"open"}
    assert checks.faults(card("primary"), kept) == []
    (found,) = checks.faults(card("secondary"), kept)
    assert "claim 'two': kind was 'primary'" in found
    kept["claims"]["one"]["verdict"] = "holds"
    (found,) = checks.faults(card("primary"), kept)
    assert "claim 'one': its verdict does not follow" in found


def test_a_card_that_moved_after_its_evidence_is_not_published(demo):
    assert website.unpublishable() == []
    demo.edit(chapters.card_path("demo"), "least: 0.3", "least: 0.1")
    (told,) = website.unpublishable()
    assert told.startswith(
        "demo: quick, claim 'ours-wins': least was 0.3 when it was accepted, is 0.1 now; accept again"
    )


def test_a_run_of_a_changed_method_is_no_evidence_even_where_its_record_is_good(demo):
    record = records.read("demo", "quick")
    published = records.published(json.loads(chapters.executed_path("demo", "quick").read_text()))
    with pytest.raises(PressError, match=r"demo: fedlib\.losses\.kd changed while it ran \(%%method\)"):
        reference.build(cards.load("demo"), record, published | {"changed": ["fedlib.losses.kd"]})
