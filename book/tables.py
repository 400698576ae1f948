"""What `list`, `show`, `check` and `accept` print."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from book import cards, chapters, form, freshness, judging, records, reference
from book.board import styled
from book.errors import PressError

_COLOURS = {
    "holds": "green",
    "smaller": "cyan",
    "direction only": "cyan",
    "no effect": "magenta",
    "opposite": "red",
    "open": "yellow",
    "no room": "dim",
    "not run": "dim",
}


def _plain(*headers: str) -> Table:
    return Table(*headers, box=None, padding=(0, 2, 0, 0), header_style="bold")


def chapter_list(console: Console) -> list[str]:
    """One line a chapter: what it is, and the state of its run at each profile. Returns why some are not listed."""
    table, faults = _plain("chapter", "title", "part", *chapters.PROFILES), []
    for slug in chapters.slugs():
        try:
            card = cards.load(slug)
            states = [styled(freshness.state(slug, p)) if p in card.profiles else "-" for p in chapters.PROFILES]
        except PressError as error:
            faults += str(error).splitlines()
            continue
        table.add_row(slug, escape(card.title), card.part or "-", *states)
    if table.row_count:
        console.print(table)
    return faults


def forms(console: Console) -> None:
    """How long each chapter is and how soon it shows a figure, beside the aims, and what several chapters define."""
    written = [slug for slug in chapters.slugs() if chapters.chapter_path(slug).exists()]
    names = {"code_lines": "lines of code", "open_lines": "open", "words": "words", "cells": "cells",
             "longest_cell": "longest", "first_figure": "figure after", "wide_lines": "cut off", "crowded": "crowded",
             "functions": "functions"}  # fmt: skip
    table = _plain("chapter", *names.values())
    table.add_row("aim", *(f"{form.AIMS[name]:g}" if name in form.AIMS else "" for name in names), style="dim")
    for slug in written:
        measures = vars(form.measure(slug))
        shown = {name: f"{value:.1f}" if name == "first_figure" else str(value) for name, value in measures.items()}
        over = {name for name, aim in form.AIMS.items() if measures[name] > aim}
        table.add_row(slug, *(f"[yellow]{shown[name]}[/]" if name in over else shown[name] for name in names))
    console.print(table)
    console.print(
        "lines with something on them; words outside deviations, folded boxes and code; screens before the first "
        f"figure (estimated); lines that the column cuts off; paragraphs with more than {form.NUMBERS} numbers",
        style="dim",
    )
    shared = form.shared_functions(written)
    console.print(f"functions that several chapters define: {len(shared)} (aim: 0)")
    for name, slugs in shared.items():
        console.print(f"  {name}: {', '.join(slugs)}", markup=False, highlight=False, soft_wrap=True)


def number(value: float, unit: str) -> str:
    """A value in its unit; accuracies are shown as percentage points."""
    return f"{100 * value:.1f} points" if unit == "accuracy" else f"{value:.4g} {unit}".rstrip()


def measured(result: judging.Result, unit: str) -> str:
    """Value and interval of a claim, "" when there is none."""
    if result.value is None:
        return ""
    if result.interval is None:
        return f"{number(result.value, unit)}, one seed"
    scale = 100 if unit == "accuracy" else 1
    low, high = (scale * bound for bound in result.interval)
    return f"{number(result.value, unit)} [{low:.4g}, {high:.4g}]"


def claims(console: Console, slugs: list[str]) -> None:
    """The claims of chapters: the paper's number, ours with its interval, and the verdict, profile by profile."""
    table, faults = _plain("chapter", "claim", "profile", "paper", "measured", "verdict"), []
    for slug in slugs:
        try:
            rows = reference.claims_for(slug)
        except PressError as error:
            faults += str(error).splitlines()
            continue
        for row in rows:
            for profile, result in row.results.items():
                mark = " (earlier code)" if result.stale else ""
                verdict = f"[{_COLOURS[result.verdict]}]{result.verdict}[/]{mark}"
                ours = escape(result.problem or measured(result, row.claim.unit))
                table.add_row(slug, row.claim.id, profile, escape(row.claim.paper or "-"), ours, verdict)
    if table.row_count:
        console.print(table)
    for fault in faults:
        console.print(fault, markup=False, highlight=False, soft_wrap=True)


def chapter(console: Console, slug: str) -> None:
    """Everything about one chapter: card, claims, last runs, where its files are."""
    card = cards.load(slug)
    facts = _plain("", "")
    facts.show_header = False
    noted = ", ".join(map(str, card.noted)) or "not an entry of the notes"
    facts.add_row("title", escape(card.title))
    facts.add_row("paper", "-" if card.page else escape(f"{card.authors}; {card.venue}"))
    facts.add_row("part", card.part or "a page of the book")
    facts.add_row("noted", noted if card.entry is None else f"{noted} (entry {card.entry})")
    facts.add_row("builds on", ", ".join(card.builds_on) or "-")
    facts.add_row("chapter", str(chapters.chapter_path(slug)))
    facts.add_row("executed", str(chapters.executed_path(slug, "quick").parent))
    console.print(facts)
    console.print()
    claims(console, [slug])
    console.print()
    runs = _plain("profile", "state", "finished", "seconds", "peak MB", "commit")
    for profile in card.profiles:
        record = records.read(slug, profile)
        state = freshness.state(slug, profile)
        if record is None:
            runs.add_row(profile, styled(state))
            continue
        commit = f"{record['commit'] or '-'}{' + changes' if record['dirty'] else ''}"
        when = record["finished"][:16].replace("T", " ")
        seconds, memory = f"{record['seconds']:.1f}", f"{record['peak_memory_mb']:.0f}"
        runs.add_row(profile, styled(state), when, seconds, memory, commit)
    console.print(runs)
    for profile in card.profiles:
        if freshness.state(slug, profile) in ("stale", "failed"):
            console.print(f"{profile}: {freshness.why(slug, profile)}", markup=False, highlight=False, soft_wrap=True)


def accepted(console: Console, before: reference.Evidence | None, after: reference.Evidence) -> None:
    """What a new reference changes: metrics whose mean moved, and verdicts."""
    old = before or {"metrics": {}, "claims": {}}
    table = _plain("metric", "was", "is")
    for name in sorted({*old["metrics"], *after["metrics"]}):
        was, now = (e["metrics"].get(name, {}).get("mean") for e in (old, after))
        if was != now:
            table.add_row(name, *("-" if v is None else f"{v:.6g}" for v in (was, now)))
    for name in sorted({*old["claims"], *after["claims"]}):
        was, now = (e["claims"].get(name, {}).get("verdict", "-") for e in (old, after))
        if was != now:
            table.add_row(f"claim {name}", was, now)
    if table.row_count:
        console.print(table)
