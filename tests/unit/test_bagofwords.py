"""Text as counts: the generated corpus follows its law, real text is counted as written, other files are refused."""

import math

import pytest
import torch

from fedlib import rng
from fedlib.data import DataUnavailable, bagofwords
from fedlib.data.registry import DataCorrupt


def corpus(seed=0, train=4000, **options):
    return bagofwords.zipf(train, 500, rng=rng.stream(seed, "documents"), **options)


def test_counts_are_documents_of_so_many_words():
    d = corpus(vocabulary=300, classes=4, words=7)
    assert d.x_train.shape == (4000, 300)
    assert d.x_test.shape == (500, 300)
    assert bool((d.x_train.sum(1) == 7).all())
    assert set(d.y_train.tolist()) == set(range(4))
    assert d.num_classes == 4


def test_the_same_stream_gives_the_same_corpus_and_another_another():
    a, b, other = corpus(1, 100), corpus(1, 100), corpus(2, 100)
    assert a.sha256 == b.sha256 != other.sha256
    assert torch.equal(a.x_train, b.x_train)
    assert not torch.equal(a.x_train, other.x_train)


def test_frequencies_follow_the_law_and_the_classes_their_tilts():
    d = corpus(vocabulary=200, classes=2, words=50, exponent=1.1)
    for c in range(2):
        own = d.x_train[d.y_train == c].double()
        seen, truth = own.sum(0) / own.sum(), d.extra["probability"][c]
        deviation = (truth * (1 - truth) / own.sum()).sqrt()
        assert float(((seen - truth) / deviation).abs().max()) < 5  # standard errors of a multinomial share
    many = corpus(train=2, vocabulary=1000, classes=400)
    mean = many.extra["probability"].mean(0)
    slope = [float(mean[r - 1 : r + 9].mean().log()) for r in (10, 500)]
    assert (slope[1] - slope[0]) / math.log(504.5 / 14.5) == pytest.approx(-1.1, abs=0.05)
    assert float((many.extra["probability"][0] / many.extra["probability"][1]).log().std()) > 0.5


@pytest.mark.parametrize("wrong", [{"words": 0}, {"tilt": -1.0}, {"exponent": 0.0}])
def test_impossible_corpora_are_errors(wrong):
    with pytest.raises(ValueError, match=f"not positive: {next(iter(wrong))}"):
        corpus(**wrong)


def test_words_are_counted_as_written():
    texts = ["The cat's cat, the DOG!", "a dog (2 dogs)"]
    assert bagofwords.tokens(texts[0]) == ["the", "cat's", "cat", "the", "dog"]
    words = bagofwords.vocabulary(texts, 3)
    assert words == ("dog", "the", "2")  # twice, twice, then by the alphabet
    assert bagofwords.count(texts, words).tolist() == [[1, 2, 0], [1, 0, 1]]


def news(folder, dev="Oil up\tBusiness\n", test="Oil down\tBusiness\n"):
    place = folder / "text" / "ag_news"
    place.mkdir(parents=True)
    for part, text in (("dev", dev), ("test", test)):
        (place / f"{part}.tsv").write_text(text, encoding="utf-8")


def test_absent_and_foreign_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataUnavailable, match="its dev part was not found"):
        bagofwords.ag_news(root=tmp_path)
    news(tmp_path)
    with pytest.raises(DataCorrupt, match="expected\n  7a08"):
        bagofwords.ag_news(root=tmp_path)


def test_news_are_read_and_texts_of_the_test_part_leave_the_training_part(tmp_path, monkeypatch):
    import hashlib

    from fedlib.data import loading

    dev, test = "Oil oil up\tBusiness\nGoal!\tSports\nBoth\tWorld\n", "Both\tWorld\nNew oil chip\tSci/Tech\n"
    news(tmp_path, dev, test)
    sums = {p: hashlib.sha256(t.encode()).hexdigest() for p, t in (("dev", dev), ("test", test))}
    monkeypatch.setattr(bagofwords, "AG_NEWS", sums)
    monkeypatch.setattr(loading, "_used", {})
    d = bagofwords.ag_news(3, root=tmp_path)
    assert d.extra["words"] == ("oil", "goal", "up")
    assert d.x_train.tolist() == [[2, 0, 1], [0, 1, 0]]
    assert [d.classes[c] for c in d.y_train] == ["Business", "Sports"]
    assert d.x_test.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert loading.used() == {"ag_news": d.sha256}
