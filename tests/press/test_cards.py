"""Cards and the register: what is wrong is said with file and field."""

import pytest
import yaml

from book import cards, chapters
from book.errors import PressError


def fault(tree, **changes):
    tree.add("demo", **changes)
    with pytest.raises(PressError) as error:
        cards.load("demo")
    assert str(chapters.card_path("demo")) in str(error.value)
    return str(error.value)


def test_a_right_card_is_read(tree):
    tree.add("demo")
    card = cards.load("demo")
    assert card.claims[0].neutral == 0.0, "a difference has its point of no effect at 0"
    assert not card.draft


@pytest.mark.parametrize(
    ("changes", "neutral"),
    [
        ({"least": 0.5}, None),
        ({"least": 0.0}, 0.0),
        ({"least": 0.0, "neutral": None}, None),
        ({"least": 0.0, "kind": "identity"}, None),
        ({"direction": "within"}, 0.0),
        ({"scale": "log", "against": "b"}, 1.0),
        ({"scale": "log", "least": 2.0}, None),
    ],
)
def test_the_point_of_no_effect_where_the_card_names_none(changes, neutral):
    about = {"id": "a", "statement": "It is.", "source": "Table 1", "paper": None, "unit": "score"}
    terms = {"metric": "a", "direction": "above", "least": 0.5, "profiles": ["quick"]}
    assert cards.Claim.model_validate(about | terms | changes).neutral == neutral


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "fisher"}, "scale: a difference of two metrics is averaged as it is, or as a ratio; not fisher"),
        ({"scale": "log", "least": 0.0}, "claim: least 0 lies outside (0, inf), the range of scale 'log'"),
        ({"direction": "within", "least": 0.0}, "claim: within 0: no value lies within so little of another"),
        ({"ceiling": "score/best", "against": None}, "ceiling: room is what lies between it and the metric named by"),
        ({"ceiling": "score/best", "least": -0.1}, "ceiling: a bound asks for no room; only a claim of an effect does"),
        ({"kind": "identity", "direction": "within"}, "kind: an identity lies above or below its bound"),
        ({"scale": "cubic"}, "claims.0.scale"),
    ],
)
def test_terms_of_a_claim_that_make_no_sense_are_refused(tree, changes, message):
    tree.add("demo")
    card = yaml.safe_load(chapters.card_path("demo").read_text())
    card["claims"][0] |= changes
    chapters.card_path("demo").write_text(yaml.safe_dump(card))
    with pytest.raises(PressError) as error:
        cards.load("demo")
    assert message in str(error.value)


def test_a_claim_on_one_metric_has_no_neutral_point(tree):
    tree.add("demo")
    claim = yaml.safe_load(chapters.card_path("demo").read_text())["claims"][0]
    del claim["against"]
    tree.add("demo", claims=[claim])
    assert cards.load("demo").claims[0].neutral is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sumary": "x"}, "sumary: no such field"),
        ({"title": None}, "title"),
        ({"summary": "x" * 161}, "summary"),
        ({"part": "Distilation"}, "Did you mean 'Distillation'"),
        ({"profiles": {"quick": {"seconds": -1, "memory_mb": 1}}}, "profiles.quick.seconds"),
        ({"profiles": {"quick": {"seconds": 1, "memory_mb": 1}}}, "smoke is missing"),
        ({"tolerance": {"*": 0.1}}, "tolerance: no such field"),
        ({"noted": [{}], "entry": 1}, "noted.0"),
        ({"entry": 3}, "entry and noted belong together"),
        ({"links": {"paper": "ftp://x"}}, "links.paper: must start with https://"),
        ({"slug": "other"}, "slug: must be the folder's name 'demo'"),
        ({"noted": ["yesterday"], "entry": 1}, "noted.0"),
    ],
)
def test_a_wrong_field_is_named(tree, changes, field):
    assert field in fault(tree, **changes)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"direction": "up"}, "claims.0.direction"),
        ({"least": "three"}, "claims.0.least"),
        ({"least": float("nan")}, "claims.0.least"),
        ({"profiles": []}, "claims.0.profiles"),
        ({"profiles": ["full"]}, "names profile 'full', which the card does not describe"),
        ({"lest": 1}, "claims.0.lest: no such field"),
    ],
)
def test_a_wrong_claim_is_named(tree, change, field):
    tree.add("demo")
    claim = yaml.safe_load(chapters.card_path("demo").read_text())["claims"][0]
    assert field in fault(tree, claims=[claim | change])


def test_a_page_of_the_book_is_about_no_paper(tree, state):
    """It lies among the pages, runs like a chapter, and is finished without claims."""
    tree.add("ranking", part=None, citation=None, authors=None, venue=None, claims=[])
    page = tree.root / "book" / "pages" / "ranking"
    page.parent.mkdir(parents=True)
    (tree.root / "papers" / "ranking").rename(page)
    card = cards.load("ranking")
    assert card.page
    assert not card.draft
    assert chapters.slugs() == ["ranking"]
    assert chapters.evidence_path("ranking", "quick").parent == page / "evidence"
    assert tree.run("ranking")["status"] == "ok"
    assert state("ranking") == "fresh"
    assert "ranking" in tree.press("list")[1]
    assert "a page of the book" in tree.press("show", "ranking")[1]


def test_half_a_paper_is_none(tree):
    assert "citation, venue: missing" in fault(tree, citation=None, venue=None)


def test_a_claim_id_used_twice_is_an_error(tree):
    tree.add("demo")
    claim = yaml.safe_load(chapters.card_path("demo").read_text())["claims"][0]
    assert "'ours-wins' is used twice" in fault(tree, claims=[claim, claim])


def test_broken_yaml_names_the_line(tree):
    tree.add("demo")
    chapters.card_path("demo").write_text("slug: demo\ntitle: [unclosed\n")
    with pytest.raises(PressError, match=r"paper\.yml, line 3"):
        cards.load("demo")


def test_a_key_given_twice_is_an_error(tree):
    tree.add("demo")
    with chapters.card_path("demo").open("a") as file:
        file.write("title: Again\n")
    with pytest.raises(PressError, match="'title' is given twice"):
        cards.load("demo")


def test_the_faults_of_all_cards_are_listed_together(tree):
    tree.add("one", title="")
    tree.add("two", venue="")
    with pytest.raises(PressError) as error:
        cards.all_cards()
    assert "one/paper.yml: title" in str(error.value)
    assert "two/paper.yml: venue" in str(error.value)


def test_a_malformed_card_stops_the_press_with_one_line(tree):
    tree.add("demo", tags="distillation")
    status, output = tree.press("run", "demo")
    assert status == 2
    assert output.startswith("error: ")
    assert "demo/paper.yml: tags" in output
    assert "Traceback" not in output


def test_the_register_is_read_and_checked(tree):
    path = tree.root / "book" / "entries.yml"
    path.parent.mkdir()
    entry = {"number": 2, "slug": "b", "noted": "2021-01-01", "heading": "B", "part": "Distillation"}
    path.write_text(yaml.safe_dump([entry, entry | {"number": 1, "slug": "a"}]))
    assert [e.slug for e in cards.entries()] == ["a", "b"]
    path.write_text(yaml.safe_dump([entry, entry | {"number": 3}]))
    with pytest.raises(PressError, match="slug: 'b' is used twice"):
        cards.entries()
    path.write_text(yaml.safe_dump([entry | {"part": "Elsewhere"}]))
    with pytest.raises(PressError, match=r"entries\.yml: 0\.part"):
        cards.entries()
