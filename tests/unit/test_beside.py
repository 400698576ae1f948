"""A run beside the book's: which metrics differ, by how much, in what order, and what is said of the rest."""

from __future__ import annotations

import math

import pytest

from fedlib.evidence import Run
from fedlib.study import beside


@pytest.fixture(autouse=True)
def _nothing_handed_over():
    beside.hand_over()
    yield
    beside.hand_over()


def measured(**metrics):
    """A run of three seeds; each metric by its values."""
    run = Run("quick", range(3))
    for name, values in metrics.items():
        for seed, value in enumerate(values):
            run.record(name, seed, value)
    return run


BOOK = {"same": (1 / 3, 0.1, 3), "near": (0.5, 0.1, 3), "far": (0.5, 0.1, 3), "alone": (2.0, None, 1)}


def test_only_what_differs_is_shown_the_farthest_apart_first():
    run = measured(same=[1 / 3] * 3, near=[0.55, 0.5, 0.6], far=[0.2] * 3, alone=[1.0] * 3)
    table = beside.table(run, BOOK)
    assert [row.metric for row in table.rows] == ["far", "near", "alone"]
    assert table.rows[0].apart == pytest.approx(-3)
    assert table.rows[1].apart == pytest.approx(0.5)
    assert table.rows[2].apart is None, "one seed of the book says nothing about spread"
    assert "3 of 4 metrics differ, 1 are equal to the last digit" in table.said


def test_numbers_are_equal_when_all_digits_that_the_book_keeps_are():
    run = measured(same=[0.333333] * 3)
    assert beside.table(run, BOOK).rows == []
    run = measured(same=[0.333334] * 3)
    assert [row.metric for row in beside.table(run, {"same": (0.333333, 0.1, 3)}).rows] == ["same"]


def test_a_table_has_so_many_rows_and_says_how_many_there_are():
    run = measured(**{f"m{i:02}": [i + 1.0] * 3 for i in range(30)})
    table = beside.table(run, {f"m{i:02}": (0.0, 1.0, 3) for i in range(30)})
    assert len(table.rows) == 20
    assert table.rows[0].metric == "m29"
    assert "30 of 30 metrics differ" in table.said
    assert "The 20 that are farthest apart" in table.said


def test_metrics_that_only_one_of_the_two_has_are_counted():
    table = beside.table(measured(same=[1 / 3] * 3, mine=[1.0] * 3), BOOK)
    assert "1 of this run's metrics the book does not have." in table.said
    assert "3 of the book's metrics this run does not have." in table.said


def test_it_shows_itself_as_text_and_as_html():
    table = beside.table(measured(far=[0.2] * 3), BOOK)
    assert str(table).splitlines()[1:] == [
        "metric  this run  the book  apart, in sd",
        "far     0.2       0.5       −3.0",
    ]
    assert "<td>far</td><td>0.2</td><td>0.5</td><td>−3.0</td>" in table._repr_html_()


def test_a_run_is_shown_beside_the_book_when_it_is_published_and_only_where_the_book_is_known(monkeypatch):
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda content, **_: seen.append(content))
    measured(far=[0.2] * 3).publish()
    assert not any(isinstance(content, beside.Table) for content in seen)
    beside.hand_over(real=BOOK)
    measured(far=[0.2] * 3).publish()
    assert not any(isinstance(content, beside.Table) for content in seen), "of another profile"
    beside.hand_over(quick=BOOK)
    measured(far=[0.2] * 3).publish()
    assert [row.metric for content in seen if isinstance(content, beside.Table) for row in content.rows] == ["far"]


def test_without_the_books_numbers_a_table_says_what_is_missing():
    with pytest.raises(ValueError, match="at the profile 'quick' are not known here"):
        beside.table(measured(far=[0.2] * 3))


def test_a_deviation_of_zero_gives_no_quotient():
    (row,) = beside.table(measured(far=[0.2] * 3), {"far": (0.5, 0.0, 3)}).rows
    assert row.apart is None
    assert not math.isnan(row.mean)
