"""Evidence: accepted, compared, judged."""

import json

import pytest
import yaml

from book import cards, chapters, reference
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


def test_the_file_reads_well_in_a_diff(demo):
    text = chapters.evidence_path("demo", "quick").read_text()
    content = json.loads(text)
    (line,) = [line for line in text.splitlines() if '"score/ours"' in line]
    assert line.strip(" ,") == '"score/ours": ' + json.dumps(content["metrics"]["score/ours"], sort_keys=True)
    assert list(content) == sorted(content)
    assert content["metrics"]["score/ours"]["mean"] == 0.51
    assert content["metrics"]["score/ours"]["ci95"] == pytest.approx([0.51 - 0.0248414, 0.51 + 0.0248414], abs=1e-6)
    assert {"commit", "hash", "seconds", "device", "versions", "date"} <= set(content["provenance"])


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


def test_a_moved_number_fails_and_names_chapter_metric_was_and_is(demo):
    demo.pretend("demo", shift=0.1)
    status, output = demo.press("check")
    assert status == 1
    assert "problem: demo, quick, score/ours: was 0.51 (allowed 0.485" in output
    assert "is 0.61" in output
    assert "score/base: was" not in output


def test_a_move_inside_the_interval_or_the_tolerance_passes(demo):
    demo.pretend("demo", shift=0.02)
    assert demo.press("check")[0] == 0
    demo.pretend("demo", shift=0.1)
    card = yaml.safe_load(chapters.card_path("demo").read_text())
    for tolerance, moved in (({"score/o*": 0.08, "*": 0.0}, 0), ({"*": 0.0, "score/ours": 0.08}, 1)):
        chapters.card_path("demo").write_text(yaml.safe_dump(card | {"tolerance": tolerance}, sort_keys=False))
        assert demo.press("check")[0] == moved, "the first pattern that fits decides"


def test_without_spread_nothing_may_move_but_rounding(tree):
    values = {"score/ours": {"0": 0.5}, "score/base": {"0": 0.123456789}}
    tree.add("demo")
    tree.pretend("demo", metrics=values, seeds=[0])
    reference.accept("demo", "quick")
    assert tree.press("check")[0] == 0
    tree.pretend("demo", metrics=values | {"score/ours": {"0": 0.5001}}, seeds=[0])
    assert "score/ours: was 0.5 " in tree.press("check")[1]


def test_a_metric_that_is_gone_fails_and_a_new_one_is_told(demo):
    metrics = {"score/ours": {"0": 0.5, "1": 0.51, "2": 0.52}, "score/base": {"0": 0.0, "1": 0.01, "2": 0.02}}
    demo.pretend("demo", metrics=metrics | {"extra": {"0": 1.0}})
    status, output = demo.press("check")
    assert status == 0
    assert "warning: demo, quick: not in the reference yet: extra" in output
    del metrics["score/base"]
    demo.pretend("demo", metrics=metrics)
    status, output = demo.press("check")
    assert status == 1
    assert "score/base: was 0.01, is no longer recorded" in output


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
    assert ["claim", "ours-wins", "holds", "direction", "only"] in lines
    assert demo.press("check")[0] == 0


def test_evidence_edited_by_hand_is_found_out(demo):
    demo.edit(chapters.evidence_path("demo", "quick"), '"mean": 0.51', '"mean": 0.52')
    status, output = demo.press("check")
    assert status == 1
    assert "demo, quick, score/ours: the reference's statistics do not follow from its values" in output


def test_a_damaged_reference_is_named(demo):
    path = chapters.evidence_path("demo", "quick")
    path.write_text("<<<<<<< HEAD\n")
    assert f"{path} is not valid JSON" in demo.press("check")[1]
    path.write_text("{}")
    assert f"{path} lacks 'claims'" in demo.press("check")[1]


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
    assert [r.verdict for r in reference.claims_for("demo")[0].results.values()] == ["holds", "fails"]


def test_seeds_that_do_not_meet_are_no_verdict(demo):
    claim = cards.load("demo").claims[0]
    metrics = {"score/ours": {"values": {"0": 1.0}}, "score/base": {"values": {"1": 1.0}}}
    result = reference.judge(claim, metrics)
    assert result.verdict == "not run"
    assert "no seed in common" in result.problem
