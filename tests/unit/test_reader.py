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


def test_seeds_differ_in_images_questions_and_noise():
    one, other = source(0), source(1)
    asked = [next(own.questions(50)) for own in (one, other)]
    listed = [(batch.words != 0).sum(1) for batch in asked]  # how many: no image has a part in it
    assert not torch.equal(*listed)
    assert pictures(one.labelled.rows) != pictures(other.labelled.rows)
    noise = [(own.shifted.rows - own.test.rows).flatten() for own in (one, other)]
    assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 0.1
    again = source(0)
    assert torch.equal(next(again.questions(50)).words, asked[0].words)
    assert torch.equal(again.shifted.rows, one.shifted.rows)


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


def test_batches_of_a_task_are_its_samples_drawn_with_putting_back():
    task = source().labelled
    right = dict(zip(map(tuple, task.rows.flatten(1).tolist()), task.right.tolist(), strict=True))
    drawn = list(task.batches(3, 200, torch.Generator().manual_seed(0)))
    assert [batch.words.shape for batch in drawn] == [(200, 1)] * 3
    for batch in drawn:
        assert batch.right.tolist() == [right[tuple(row)] for row in batch.rows.flatten(1).tolist()]
    assert len(pictures(drawn[0].rows)) < 128 < 200
    assert not torch.equal(drawn[0].rows, drawn[1].rows)
    assert next(task._replace(rows=None).batches(1, 5, torch.Generator())).rows is None
    for wrong in ((0, 5), (1, 0), (1.5, 5)):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            next(task.batches(*wrong, torch.Generator()))


def test_the_share_of_right_answers():
    task = source().labelled
    assert task.share(task.right) == 1.0
    assert task.share(task.right + 1) == 0.0
    said = torch.stack([task.right, task.right + 1, task.right, task.right])
    assert task.share(said) == 0.75  # of several that answer
    assert task.share(torch.tensor(reading.YES)) == float((task.right == reading.YES).double().mean())
    assert task.commoner() == float(task.right.unique(return_counts=True)[1].max()) / len(task.right) >= 0.5
    for wrong in (task.right[1:], task.right[:1], said[:0], task.right[:, None]):
        with pytest.raises(ValueError, match="said: expected an answer to each of 128 texts"):
            task.share(wrong)


def test_tasks_stand_side_by_side():
    own = [source().test, source(seed=1).test]
    words, rows = reading.beside(own)
    assert torch.equal(words, torch.stack([task.words for task in own]))
    assert torch.equal(rows, torch.stack([task.rows for task in own]))
    bare = [task._replace(rows=None) for task in own]
    assert reading.beside(bare)[1] is None
    for wrong in ([], [own[0], bare[1]]):
        with pytest.raises(ValueError, match="tasks: at least one is needed, all with images or all without"):
            reading.beside(wrong)


def test_digits_refuse_nonsense():
    for wrong in ({"samples": 0}, {"labelled": 1.5}, {"test": -1}):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            reading.digits(0, **wrong)
    with pytest.raises(ValueError, match="leave nothing to hold out of 1797 images"):
        reading.digits(0, samples=1200, labelled=97)
    with pytest.raises(ValueError, match=r"dtype must be a floating-point type, got torch\.int64"):
        reading.digits(0, dtype=torch.int64)
    for wrong in ({"naming": 1.5}, {"naming": math.nan}, {"noise": -0.1}, {"noise": math.inf}):
        with pytest.raises(ValueError, match="must be a finite number"):
            reading.digits(0, **wrong)


NEWS = ["markets fell today", "a match", "a bank", "a chip"]
DIFFERENT = ["markets", "fell", "today", "match", "bank", "chip", "the", "is", "joy", "short", "drags", "on"]
FILMS = {
    "train": "sentence\tlabel\nthe film is a joy\t1\nshort one\t0\nit drags on and on\t0\n",
    "dev": "sentence\tlabel\n" + "".join(f"{word} film\t0\n" for word in DIFFERENT[:9]) + "a fine film\t1\n",
    "test": "sentence\tlabel\nis it fine\t1\ndull\t0\n",
}
CLASSES = ["Business", "Sports", "World", "Sci/Tech"]


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A few texts in the place of the real ones; 60 words are more than they have."""
    for name in ("sst2", "ag_news"):
        (tmp_path / "text" / name).mkdir(parents=True)
    for part, text in FILMS.items():
        (tmp_path / "text" / "sst2" / f"{part}.tsv").write_text(text)
    asked = [(NEWS[i % 4], CLASSES[i % 4]) for i in range(7000)]
    other = [(word, CLASSES[i % 4]) for i, word in enumerate(DIFFERENT)]
    news = {
        "dev": "".join(f"{text}\t{kind}\n" for text, kind in (*asked, *other)),
        "test": "stocks\tBusiness\nseas\tWorld\nmore\tWorld\n",
    }
    for part, text in news.items():
        (tmp_path / "text" / "ag_news" / f"{part}.tsv").write_text(text)
    for where, name, parts in ((corpus, "SST2", FILMS), (bagofwords, "AG_NEWS", news)):
        monkeypatch.setattr(where, name, {p: hashlib.sha256(t.encode()).hexdigest() for p, t in parts.items()})
    monkeypatch.setenv("FEDLIB_DATA", str(tmp_path))
    monkeypatch.setattr(loading, "_used", {})
    reading._library.cache_clear()
    yield
    reading._library.cache_clear()


KIND = {
    "markets fell today": "business", "a match": "sports", "a bank": "world", "a chip": "technology",
    "the film is a joy": "good", "short one": "bad", "it drags on and on": "bad",
}  # fmt: skip


def test_questions_about_texts_have_right_answers(texts):
    own = reading.reports(0, 60, 6, labelled=4)
    words, _ = reading._library(60, 6)
    assert len(words) <= 57
    assert {*reading.KINDS, "yes", "no"} <= set(words)
    assert len(set(words)) == len(words)
    listed, named, yes, films = 0, 0, 0, 0
    for batch in islice(own.questions(20), 40):
        assert batch.words.shape == (20, 9)
        assert bool((batch.words[:, 8] == 59).all())
        for row, answer in zip(batch.words.tolist(), batch.right.tolist(), strict=True):
            kind = KIND[" ".join(words[n - 2] for n in row[:6] if n)]
            there = [words[n - 2] for n in row[6:8] if n]
            assert len(set(there)) == len(there)  # one or two: the task has three
            films += kind in ("good", "bad")
            if there:
                listed += 1
                yes += kind in there
                assert words[answer - 2] == ("yes" if kind in there else "no")
            else:
                named += 1
                assert words[answer - 2] == kind
    assert films == 400
    assert 0.24 < named / 800 < 0.36
    assert 0.43 < yes / listed < 0.57


def test_the_task_of_texts_is_a_list_of_three_and_parts_are_apart(texts):
    own = reading.reports(1, 60, 6, labelled=4)
    words, parts = reading._library(60, 6)
    mine = [words[n - 2] for n in own.hard]
    assert len(set(mine)) == 3
    assert set(mine) <= set(reading.KINDS)
    yes, no = own.labels[0][0], own.labels[1][0]
    assert [words[yes - 2], words[no - 2]] == ["yes", "no"]
    test = ["business", "world", "good", "bad"]  # as many news as reviews
    assert own.test.right.tolist() == [yes if kind in mine else no for kind in test]
    assert own.test.words.shape == (4, 7)
    assert bool((own.test.words[:, 6] == 59).all())
    assert [len(own.labelled.right), len(own.held.right), len(parts["task"][1])] == [4, 16, 20]
    x, y = parts["task"]
    right = dict(zip(map(tuple, x.tolist()), y.tolist(), strict=True))
    assert len(right) == 20
    for task in (own.labelled, own.held):
        for row, answer in zip(task.words[:, :6].tolist(), task.right.tolist(), strict=True):
            assert answer == (yes if reading.KINDS[right[tuple(row)]] in mine else no)
    apart = torch.cat([own.labelled.words, own.held.words]).tolist()
    assert sorted(row[:6] for row in apart) == sorted(x.tolist())
    other = reading.reports(2, 60, 6, labelled=4)
    assert other.hard != own.hard
    assert not torch.equal(other.labelled.words, own.labelled.words)
    assert not torch.equal(next(other.questions(40)).words, next(own.questions(40)).words)


def test_texts_refuse_nonsense(texts):
    with pytest.raises(ValueError, match="leave nothing to hold out of 20 texts"):
        reading.reports(0, 60, 6, labelled=20)
    for wrong in ({"labelled": 0}, {"places": 0}, {"vocabulary": 19}):
        with pytest.raises(ValueError, match="must be a whole number of at least"):
            reading.reports(0, **{"vocabulary": 60, "places": 6} | wrong)
    own = reading.reports(0, 60, 6, labelled=4)
    with pytest.raises(ValueError, match="as many questions are about news as about reviews, got 5"):
        next(own.questions(5))
    with pytest.raises(ValueError, match="size must be a whole number of at least 2, got 0"):
        next(own.questions(0))
