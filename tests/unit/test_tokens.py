"""Texts as word numbers: numbered as written, the vocabulary from the training part alone, other files refused."""

import hashlib

import pytest
import torch

from fedlib.data import DataUnavailable, bagofwords, loading, tokens
from fedlib.data.registry import DataCorrupt


def test_words_are_numbered_cut_and_padded():
    texts = ["The cat, the dog", "a DOG", ""]
    x = tokens.numbered(texts, ("the", "dog"), 3)
    assert x.tolist() == [[2, 1, 2], [1, 3, 0], [0, 0, 0]]
    assert x.dtype == torch.float32
    assert tokens.numbered(texts, ("the", "dog"), 5, torch.float64).tolist()[0] == [2, 1, 2, 3, 0]


def test_lengths_and_types_that_hold_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one place"):
        tokens.numbered(["a"], ("a",), 0)
    words = tuple(f"w{i}" for i in range(300))
    assert int(tokens.numbered(["w254"], words[:255], 1, torch.float32)) == 256
    with pytest.raises(ValueError, match="cannot hold"):  # 257 is 256 in bfloat16
        tokens.numbered(["w255"], words, 1, torch.bfloat16)


TRAIN = "NUM:date When was it ?\nDESC:def What was it ?\nHUM:ind Who was \xf0it ?\nLOC:city Where was Rome ?\n"
TEST = "LOC:city Where was Rome ?\nNUM:date When was Rome burnt ?\n"


def files(folder, monkeypatch, train=TRAIN, test=TEST):
    (folder / "text").mkdir(parents=True)
    for part, text in zip(tokens.TREC, (train, test), strict=True):
        (folder / "text" / f"{part}.label").write_text(text, encoding="latin-1")
    sums = {p: hashlib.sha256(t.encode("latin-1")).hexdigest() for p, t in zip(tokens.TREC, (train, test), strict=True)}
    monkeypatch.setattr(tokens, "TREC", sums)
    monkeypatch.setattr(loading, "_used", {})


def test_questions_of_the_test_part_leave_the_training_part_and_its_words_stay_unknown(tmp_path, monkeypatch):
    files(tmp_path, monkeypatch)
    d = tokens.trec(10, 4, root=tmp_path)
    assert d.extra["words"] == ("it", "was", "what", "when", "who")  # no rome, which the test part alone has
    assert d.x_train.tolist() == [[5, 3, 2, 0], [4, 3, 2, 0], [6, 3, 2, 0]]
    assert d.x_test.tolist() == [[1, 3, 1, 0], [5, 3, 1, 1]]
    assert [d.classes[c] for c in d.y_train] == ["NUM", "DESC", "HUM"]
    assert [d.classes[c] for c in d.y_test] == ["LOC", "NUM"]
    assert loading.used() == {"trec": d.sha256}


def test_absent_and_foreign_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataUnavailable, match=r"train_5500\.label was not found"):
        tokens.trec(root=tmp_path)
    right = dict(tokens.TREC)
    files(tmp_path, monkeypatch)
    monkeypatch.setattr(tokens, "TREC", right)
    with pytest.raises(DataCorrupt, match="expected\n  8bd6"):
        tokens.trec(root=tmp_path)


def test_news_have_the_texts_and_classes_of_the_bag_of_words(tmp_path, monkeypatch):
    place = tmp_path / "text" / "ag_news"
    place.mkdir(parents=True)
    dev, test = "Oil oil up\tBusiness\nBoth\tWorld\n", "Both\tWorld\n"
    for part, text in (("dev", dev), ("test", test)):
        (place / f"{part}.tsv").write_text(text, encoding="utf-8")
    sums = {p: hashlib.sha256(t.encode()).hexdigest() for p, t in (("dev", dev), ("test", test))}
    monkeypatch.setattr(bagofwords, "AG_NEWS", sums)
    monkeypatch.setattr(loading, "_used", {})
    d, bag = tokens.ag_news(9, 4, root=tmp_path), bagofwords.ag_news(9, root=tmp_path)
    assert d.extra["words"] == bag.extra["words"] == ("oil", "up")
    assert d.x_train.tolist() == [[2, 2, 3, 0]]
    assert d.x_test.tolist() == [[1, 0, 0, 0]]
    assert torch.equal(d.y_train, bag.y_train)
