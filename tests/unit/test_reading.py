"""What readers learn from: right answers, a task that was never asked, and parts that share nothing."""

import hashlib
import math
from itertools import islice

import pytest
import torch

from fedlib import reading
from fedlib.data import bagofwords, corpus, loading

ASK = reading.DIGITS - 1


def pictures(x):
    return {tuple(row) for row in x.flatten(1).tolist()}


def known():
    """The digit of each image."""
    own = loading.load("digits", dtype=torch.float64, normalise=False)
    x = (2 * torch.cat([own.x_train, own.x_test]) - 1).flatten(1)
    return dict(zip(map(tuple, x.tolist()), torch.cat([own.y_train, own.y_test]).tolist(), strict=True))


def source(seed=0, **options):
    return reading.digits(seed, dtype=torch.float64, **options)


def test_questions_about_digits_have_right_answers():
    digit, own = known(), source(naming=0.4)
    listed, named, yes = 0, 0, 0
    for batch in islice(own.questions(50), 20):
        assert batch.words.shape == (50, 5)
        assert bool((batch.words[:, 4] == ASK).all())
        for words, right, row in zip(batch.words[:, :4].tolist(), batch.right.tolist(), batch.rows, strict=True):
            there = [w for w in words if w]
            mine = digit[tuple(row.flatten().tolist())] + 1
            assert len(set(there)) == len(there) <= 4  # the task has five
            if there:
                listed += 1
                yes += right == reading.YES
                assert right == (reading.YES if mine in there else reading.NO)
            else:
                named += 1
                assert right == mine
    assert 0.33 < named / 1000 < 0.47
    assert 0.43 < yes / listed < 0.57


def test_the_task_is_whether_the_digit_is_one_of_five():
    digit, own = known(), source(3)
    assert len(set(own.hard)) == 5
    assert own.labels == [[reading.YES], [reading.NO]]
    for task in (own.labelled, own.held, own.test):
        mine = torch.tensor([digit[tuple(row.flatten().tolist())] + 1 for row in task.rows])
        right = torch.isin(mine, torch.tensor(own.hard))
        assert torch.equal(task.right, torch.where(right, reading.YES, reading.NO))
        assert bool((task.words == ASK).all())
    assert source(4).hard != own.hard


def test_no_image_serves_two_purposes():
    own = source(samples=300)
    asked = set().union(*(pictures(batch.rows) for batch in islice(own.questions(100), 20)))
    parts = [asked, *(pictures(task.rows) for task in (own.labelled, own.held, own.test))]
    assert len(asked) <= 300
    assert [len(parts[1]), len(parts[3])] == [128, 500]
    assert sum(len(part) for part in parts) == len(set().union(*parts))


def test_the_shifted_test_is_the_test_with_noise():
    own = source(noise=0.3)
    gap = own.shifted.rows - own.test.rows
    assert float(gap.std()) == pytest.approx(0.3, rel=0.02)
    assert torch.equal(own.shifted.right, own.test.right)
    assert torch.equal(source(noise=0.0).shifted.rows, own.test.rows)


def test_digits_refuse_nonsense():
    for wrong in ({"samples": 0}, {"labelled": 1.5}, {"test": -1}):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            reading.digits(0, **wrong)
    with pytest.raises(ValueError, match="leave nothing to hold out of 1797 images"):
        reading.digits(0, samples=1200, labelled=97)
    for wrong in ({"naming": 1.5}, {"naming": math.nan}, {"noise": -0.1}, {"noise": math.inf}):
        with pytest.raises(ValueError, match="must be a finite number"):
            reading.digits(0, **wrong)


NEWS = ["world markets today fell again on sports and business technology fears", "a good bad film is the match or not"]
FILMS = {
    "train": "sentence\tlabel\nthe film is good or bad and the match is not\t1\nshort one\t0\n",
    "dev": "sentence\tlabel\n" + "".join(f"the film {i} is bad\t0\n" for i in range(9)) + "a good film\t1\n",
    "test": "sentence\tlabel\nis it good\t1\nbad\t0\n",
}


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A few texts in the place of the real ones; 100 words are more than they have."""
    for name in ("sst2", "ag_news"):
        (tmp_path / "text" / name).mkdir(parents=True)
    for part, text in FILMS.items():
        (tmp_path / "text" / "sst2" / f"{part}.tsv").write_text(text)
    news = {"dev": f"{NEWS[0]}\tBusiness\n{NEWS[1]}\tSports\n", "test": "another\tWorld\n"}
    for part, text in news.items():
        (tmp_path / "text" / "ag_news" / f"{part}.tsv").write_text(text)
    for where, name, parts in ((corpus, "SST2", FILMS), (bagofwords, "AG_NEWS", news)):
        monkeypatch.setattr(where, name, {p: hashlib.sha256(t.encode()).hexdigest() for p, t in parts.items()})
    monkeypatch.setenv("FEDLIB_DATA", str(tmp_path))
    monkeypatch.setattr(loading, "_used", {})
    reading._library.cache_clear()
    yield
    reading._library.cache_clear()


def test_hidden_words_are_those_of_the_text_and_topics_those_of_the_news(texts):
    own = reading.reviews(0, 100, 13, labelled=4)
    words, rows, news = reading._library(100, 13)
    number = {word: i for i, word in enumerate(words, 2)}
    whole = {tuple(row) for row in rows.tolist()}
    batches = list(islice(own.questions(8), 9))
    for step, batch in enumerate(batches):
        if step % 3 == 0:
            assert batch.places is None
            ends = (batch.words == 99).nonzero()
            assert len(ends) == 8
            for row, (_, end), right in zip(batch.words, ends.tolist(), batch.right.tolist(), strict=True):
                assert not row[end + 1 :].any()
                assert (*row[:end].tolist(), *[0] * (12 - end)) in {tuple(r) for r in rows[:2].tolist()}
                assert right == number["business" if int(row[0]) == number["world"] else "sports"]
        else:
            assert batch.places.shape == batch.right.shape == (8, 3)
            assert bool((batch.words.gather(1, batch.places) == 99).all())
            assert bool((batch.words == 99).sum(1).eq(3).all())  # three different places
            mended = batch.words.scatter(1, batch.places, batch.right)
            assert {tuple(row) for row in mended.tolist()} <= whole
            assert bool((batch.right > 1).all())
            assert bool(((mended > 1).sum(1) >= reading.WORDY).all())
    assert news == [2, 1]


def test_the_task_is_the_film_reviews_class_and_parts_are_apart(texts):
    own = reading.reviews(0, 100, 13, labelled=4)
    words, _, _ = reading._library(100, 13)
    good, bad = own.labels[0][0], own.labels[1][0]
    assert [words[good - 2], words[bad - 2]] == ["good", "bad"]
    assert " ".join(words[w - 2] for w in own.hard) == "is the film good or bad"
    assert own.test.right.tolist() == [good, bad]
    assert [row.tolist().index(99) for row in own.test.words] == [3, 1]
    assert [len(own.labelled.right), len(own.held.right)] == [4, 6]
    both = torch.cat([own.labelled.right, own.held.right]).tolist()
    assert sorted(both) == sorted([bad] * 9 + [good])
    with pytest.raises(ValueError, match="leave nothing to hold out of 10 phrases"):
        reading.reviews(0, 100, 13, labelled=10)
    for wrong in ({"labelled": 0}, {"places": 6}, {"vocabulary": 99}):
        with pytest.raises(ValueError, match="must be a whole number of at least"):
            reading.reviews(0, **{"vocabulary": 100, "places": 13} | wrong)
