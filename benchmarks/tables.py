"""The results as tables of text: for the terminal as Markdown, for the book as whatever it draws them with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu import report
from benchmarks.results import Results, Row, rows
from benchmarks.targets import targets

HOW = "python -m benchmarks run"
MISSING = f"Nothing has been measured yet. To measure: `{HOW}`."
GONE = "–"


@dataclass(frozen=True)
class Table:
    """A table: title, column heads, rows of text, and notes that stand under it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str]


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, no exponent; a dash for what is not there."""
    if math.isnan(value):
        return GONE
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def workload(name: str, entry: dict[str, Any]) -> Table:
    """One workload: a row for every contender."""
    found = rows(entry)
    head = ["", "s a round", "× plain", "× floor", "MB", "accuracy", "cores", "steps", "quartiles, s", "first, s"]
    differing = [row.contender.title for row in found if row.agrees is False]
    notes = [f"{row.contender.title}: {row.problem}." for row in found if row.problem]
    reasons = {name: run.get("explain") for name, run in entry["contenders"].items()}
    notes += [
        f"{row.contender.title} chose {reasons[row.contender.name]}."
        for row in found
        if row.contender.options.get("executor") == "auto" and reasons[row.contender.name]
    ]
    if differing:
        notes.append(f"* Accuracy differs from the others' by more than noise: {', '.join(differing)}.")
    cells = [_cells(row) for row in found if not row.problem]
    return Table(f"{name}: {entry['title']}", head, cells, [*notes, about(entry)])


def _cells(row: Row) -> list[str]:
    mark = "*" if row.agrees is False else ""
    return [
        row.contender.title,
        number(row.seconds),
        number(row.faster),
        number(row.over_floor),
        f"{row.memory_mb:.0f}",
        f"{100 * row.accuracy:.1f}%{mark}",
        str(row.cores),
        f"{row.steps:.0f}",
        f"{number(row.low)}–{number(row.high)}",
        number(row.first),
    ]


def about(entry: dict[str, Any]) -> str:
    """Data, machine, versions, commit."""
    m = entry["machine"]
    versions: dict[str, set[str]] = {}
    for run in entry["contenders"].values():
        for name, version in run.get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    versions.pop("numpy", None)
    where = f"{m['gpu']}; " if m.get("gpu") else ""
    where += f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']:.0f} GB, {m['system']}, load {m['load']} at the start"
    software = ", ".join(f"{n} {' and '.join(sorted(v))}" for n, v in sorted(versions.items()))
    changed = " with local changes" if m["dirty"] else ""
    return (
        f"Data: {entry['data']}, {entry['test_samples']} test samples. {entry['rounds']} rounds, "
        f"{entry['repeats']} times. {where}. {software}. {m['date']}, commit {m['commit']}{changed}."
    )


def cells_of_scale(results: Results) -> list[tuple[int, int, dict[str, Row]]]:
    """Clients, clients sampled and rows of every cell of the scale-up series that was measured."""
    found = []
    for name, entry in results["workloads"].items():
        if name.startswith("scale-"):
            clients, sampled = (int(part) for part in name.split("-")[1:])
            found.append((clients, sampled, {r.contender.name: r for r in rows(entry) if not r.problem}))
    return sorted(found, key=lambda cell: cell[:2])


def scale(results: Results) -> Table:
    """The scale-up series: a row for every cell."""
    cells = cells_of_scale(results)
    entries = [entry for name, entry in results["workloads"].items() if name.startswith("scale-")]
    names = [n for n in entries[0]["contenders"] if any(n in found for _, _, found in cells)]
    titles = {n: next(found[n].contender.title for _, _, found in cells if n in found) for n in names}
    head = ["clients", "sampled", *[f"{titles[n]}: {what}" for n in names for what in ("s a round", "MB")]]
    body = []
    for clients, sampled, found in cells:
        line = [f"{clients:,}", str(sampled)]
        for n in names:
            row = found.get(n)
            line += [number(row.seconds), f"{row.memory_mb:.0f}"] if row else [GONE, GONE]
        body.append(line)
    return Table("scale: MLP 64-64-10, 14 samples a client, 1 local epoch", head, body, [about(entries[-1])])


def answer(results: Results) -> str:
    """How fast fedlib is, in two sentences: beside the plain loop, and beside the peer that comes closest to it.

    The scale-up series is left out: it has no peers. Empty where fedlib and a plain loop were not measured together.
    """
    plain: dict[str, float] = {}
    peers: list[tuple[float, str, str]] = []
    for name, entry in ordered(results):
        found = {row.contender.name: row for row in rows(entry) if not row.problem}
        if name.startswith("scale-") or not {"fedlib", "plain"} <= found.keys():
            continue
        ours = found["fedlib"].seconds
        plain[name] = found["plain"].seconds / ours
        others = [row for row in found.values() if row.contender.environment]
        peers += [(row.seconds / ours, row.contender.title, name) for row in others]
    if not plain:
        return ""
    low, high = min(plain.values()), max(plain.values())
    share = f"{1 / high:.2f}" if len(plain) == 1 else f"between {1 / high:.2f} and {1 / low:.2f}"
    where = next(iter(plain)) if len(plain) == 1 else f"{len(plain)} workloads"
    said = f"A round takes fedlib {share} of a plain loop's time ({where})."
    if peers:
        ratio, title, name = min(peers)
        said += f" Of its peers {title} comes closest, on {name}: it takes {ratio:.2f} times as long as fedlib."
    return said


def bounds(results: Results) -> Table:
    """The targets."""
    body = []
    for target in targets(results):
        bound = f"{'at least' if target.least else 'at most'} {target.bound:g}{target.unit}"
        value = GONE if math.isnan(target.value) else number(target.value) + target.unit
        body.append([target.statement, bound, value, target.verdict])
    return Table("Targets", ["", "target", "measured", ""], body, [])


def workloads(results: Results) -> list[Table]:
    """The tables of all workloads that were measured, the scale-up series as one."""
    found = [workload(n, entry) for n, entry in ordered(results) if not n.startswith("scale-")]
    return found + ([scale(results)] if cells_of_scale(results) else [])


def gpu(results: Results) -> list[Table]:
    """A table for each part of what a GPU showed; none where there was none."""
    entry = results.get("gpu")
    tables = []
    for name, part in (entry["parts"] if entry else {}).items():
        lines = report.lines(part)
        keys = report.heads(lines)
        body = [[report.cell(key, row.get(key)) for key in keys] for row in lines]
        tables.append(Table(report.title(name, part), [report.HEADS.get(key, key) for key in keys], body, []))
    if entry and tables:
        tables[-1].notes.append(report.about(entry))
    return tables


def ordered(results: Results) -> list[tuple[str, dict[str, Any]]]:
    """Entries in the order in which workloads are listed."""
    from benchmarks.workloads import WORKLOADS

    place = {name: i for i, name in enumerate(WORKLOADS)}
    return sorted(results["workloads"].items(), key=lambda item: (place.get(item[0], len(place)), item[0]))


def markdown(table: Table) -> str:
    """The table as Markdown: first column to the left, numbers to the right."""
    lines = [f"### {table.title}", ""]
    lines.append("| " + " | ".join(table.head) + " |")
    lines.append("|---|" + "---:|" * (len(table.head) - 1))
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return "\n".join([*lines, *[f"\n{note}" for note in table.notes]])
