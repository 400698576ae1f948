"""Texts as they are written: parts apart, classes by number, other files refused."""

import hashlib

import pytest

from fedlib.data import DataUnavailable, bagofwords, corpus, loading
from fedlib.data.registry import DataCorrupt

PARTS = {
    "train": "sentence\tlabel\na warm film \t1\ndull \t0\na joy .\t1\n",
    "dev": "sentence\tlabel\na joy .\t1\nflat \t0\n",
    "test": "sentence\tlabel\na joy .\t1\nit is dull\t0\n",
}


def files(folder, monkeypatch):
    (folder / "text" / "sst2").mkdir(parents=True)
    for part, text in PARTS.items():
        (folder / "text" / "sst2" / f"{part}.tsv").write_text(text)
    monkeypatch.setattr(corpus, "SST2", {p: hashlib.sha256(t.encode()).hexdigest() for p, t in PARTS.items()})
    monkeypatch.setattr(loading, "_used", {})


def test_phrases_of_the_test_part_are_left_out_of_the_others(tmp_path, monkeypatch):
    files(tmp_path, monkeypatch)
    assert corpus.sst2("train", tmp_path) == [("a warm film", 1), ("dull", 0)]
    assert corpus.sst2("dev", tmp_path) == [("flat", 0)]
    assert corpus.sst2("test", tmp_path) == [("a joy .", 1), ("it is dull", 0)]
    assert list(loading.used()) == ["sst2"]


def test_news_have_the_numbers_of_their_classes(tmp_path, monkeypatch):
    (tmp_path / "text" / "ag_news").mkdir(parents=True)
    parts = {"dev": "Stocks fell\tBusiness\nA match\tSports\n", "test": "A match\tSports\n"}
    for part, text in parts.items():
        (tmp_path / "text" / "ag_news" / f"{part}.tsv").write_text(text)
    sums = {part: hashlib.sha256(text.encode()).hexdigest() for part, text in parts.items()}
    monkeypatch.setattr(bagofwords, "AG_NEWS", sums)
    monkeypatch.setattr(loading, "_used", {})
    assert corpus.ag_news("dev", tmp_path) == [("Stocks fell", 2)]
    assert corpus.ag_news("test", tmp_path) == [("A match", 1)]
    assert list(loading.used()) == ["ag_news"]


def test_other_parts_and_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="part must be 'train' or 'dev' or 'test'"):
        corpus.sst2("validation", tmp_path)
    with pytest.raises(ValueError, match="part must be 'dev' or 'test'"):
        corpus.ag_news("train", tmp_path)
    with pytest.raises(DataUnavailable, match="SST-2 has no automatic download and its train part"):
        corpus.sst2("train", tmp_path)
    right = dict(corpus.SST2)
    files(tmp_path, monkeypatch)
    monkeypatch.setattr(corpus, "SST2", right)
    with pytest.raises(DataCorrupt, match="expected\n  54a9"):
        corpus.sst2("test", tmp_path)
