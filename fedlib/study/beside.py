"""A reader's run beside the book's: which of its metrics differ, and by how much."""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlib.evidence import Run

DIGITS = 6  # as many as the book's evidence keeps

Book = Mapping[str, Sequence[float | None]]
"""The book's numbers by metric: mean over seeds, sample deviation (None with one seed), number of seeds."""

_books: dict[str, Book] = {}


def hand_over(**profiles: Book) -> None:
    """Tell this process the book's numbers, by profile: a run is then shown beside them when it is published."""
    _books.clear()
    _books.update(profiles)


@dataclass(frozen=True)
class Row:
    """One metric in both runs; ``apart`` is the difference in standard deviations of the book's seeds, None for one."""

    metric: str
    mean: float
    book: float
    apart: float | None


@dataclass(frozen=True, repr=False)
class Table:
    """Metrics that differ, the farthest apart first, and in words what else there is. Shows itself in a notebook."""

    rows: list[Row]
    said: str

    def __str__(self) -> str:
        if not self.rows:
            return self.said
        cells = [("metric", "this run", "the book", "apart, in sd"), *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join([self.said, *(line.rstrip() for line in lines)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        said = f"<p>{html.escape(self.said)}</p>"
        if not self.rows:
            return said
        head = "<tr><th>metric</th><th>this run</th><th>the book</th><th>apart, in sd</th></tr>"
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) + "</tr>" for row in self.rows
        )
        return f'{said}<table class="run-beside"><thead>{head}</thead><tbody>{body}</tbody></table>'


def table(run: Run, book: Book | None = None, most: int = 20, only: Collection[str] | None = None) -> Table:
    """The metrics of a run that differ from the book's, ``most`` of them at most; of those in ``only``, where given.

    ``book`` is what was handed over for the run's profile where none is given. Raises ValueError where there is none.
    """
    book = _books.get(run.profile) if book is None else book
    if book is None:
        raise ValueError(f"the book's numbers at the profile {run.profile!r} are not known here; give them as `book`")
    rows, equal = [], 0
    mine = run.metrics if only is None else {m: run.metrics[m] for m in only}
    book = book if only is None else {m: book[m] for m in only if m in book}
    for metric in sorted(mine.keys() & book.keys()):
        mean, (was, sd, _) = _mean(run.metrics[metric].values()), book[metric]
        assert was is not None
        if _rounded(mean) == _rounded(was):
            equal += 1
        else:
            rows.append(Row(metric, mean, was, (mean - was) / sd if sd else None))
    rows.sort(key=lambda row: (row.apart is None, -abs(row.apart or 0), row.metric))
    return Table(rows[:most], _said(run.profile, mine, book, len(rows), equal, most))


def show(run: Run, only: Collection[str] | None = None) -> None:
    """Display :func:`table` where the book's numbers for this profile were handed over; else nothing."""
    if run.profile in _books:
        from IPython.display import display

        display(table(run, only=only))


def _said(profile: str, mine: Collection[str], book: Book, differ: int, equal: int, most: int) -> str:
    words = f"This run beside the book's at the profile {profile}: "
    if not differ:
        words += f"all {equal} metrics are equal to the last digit that the book keeps."
    else:
        words += (
            f"{differ} of {differ + equal} metrics differ, {equal} are equal to the last digit that the book keeps."
        )
    if differ > most:
        words += f" The {most} that are farthest apart:"
    if new := set(mine) - book.keys():
        words += f" {len(new)} of this run's metrics the book does not have."
    if gone := book.keys() - set(mine):
        words += f" {len(gone)} of the book's metrics this run does not have."
    method = sys.modules.get("fedlib.study.method")
    if method and (names := method.changed()):
        words += f" Changed in this kernel: {', '.join(names)}."
    return words


def _cells(row: Row) -> tuple[str, str, str, str]:
    apart = "–" if row.apart is None else f"{row.apart:+.1f}"
    return row.metric, f"{row.mean:.4g}", f"{row.book:.4g}", apart.replace("-", "−")


def _mean(values: Any) -> float:
    x = [_rounded(v) for v in values]
    return math.fsum(x) / len(x)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
