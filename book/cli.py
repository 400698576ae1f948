"""The press on the command line: `python -m book`, also installed as `fedbook`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from book import board, chapters, cluster, jobs as plans, runner
from book.errors import PressError

app = typer.Typer(
    help="Turns papers/ into executed chapters, evidence and a website.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Not on a terminal, lines are as long as they need to be: logs and `grep` want them whole.
console = Console(width=None if sys.stdout.isatty() else 240)


def say(text: str) -> None:
    """One line, as it is: no colours, nothing broken, nothing taken for markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


Slugs = Annotated[list[str] | None, typer.Argument(help="Chapters by slug; all when none is given.")]
Profile = Annotated[str, typer.Option(help="smoke, quick, real or full.")]


@app.callback()
def _root(root: Annotated[Path | None, typer.Option(hidden=True, help="Tree to work on.")] = None) -> None:
    if root is not None:
        chapters.use_root(root)


@app.command()
def run(
    slugs: Slugs = None,
    profile: Profile = "quick",
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="Other parameter; several values of one name: a run for each."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Chapters at once: by default as many as cores, at the full profile one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run what is fresh, too, from the beginning.")] = False,
    on: Annotated[str | None, typer.Option(help="'ray': spread the runs over a Ray cluster.")] = None,
    parts: Annotated[int, typer.Option(min=1, help="With --on ray: tasks that share a chapter's seeds.")] = 1,
    explain: Annotated[bool, typer.Option("--explain", help="Say how clients were trained, and why so.")] = False,
) -> None:
    """Execute chapters; what is fresh is skipped, what was interrupted goes on where it stopped."""
    if on not in (None, "ray"):
        raise PressError(f"--on {on}: only 'ray' is known; leave it out to run on this machine")
    if on is None and parts > 1:
        raise PressError("--parts shares seeds out over a cluster: add --on ray, or leave it out")
    if on == "ray" and jobs is not None:
        raise PressError("--jobs is for this machine; with --on ray the cluster's free CPUs and GPUs decide")
    started = time.monotonic()
    planned = plans.plan(slugs or [], profile, parameter or [], seeds, force=force)
    try:
        if on == "ray":
            good = cluster.run_on_ray(planned, console, parts)
        else:
            good = runner.run_all(planned, jobs or plans.default_jobs(profile, len(planned)), console)
    except KeyboardInterrupt:
        console.print("stopped; what was finished is kept, and the same call goes on from here")
        raise typer.Exit(130) from None
    board.report(planned, console)
    if explain:
        board.explain(planned, console)
    console.print(board.summary(planned, started), highlight=False)
    if not good:
        raise typer.Exit(1)


@app.command()
def build(
    draft: Annotated[bool, typer.Option("--draft", help="Publish unfinished chapters, marked.")] = False,
) -> None:
    """Build the website from what was executed."""
    from book import website

    page, built = website.build(draft)
    console.print("website built" if built else "website is up to date")
    say(page.as_uri())


@app.command()
def edition(
    slugs: Slugs = None,
    into: Annotated[
        Path | None, typer.Option(help="Folder to write to; notebooks that a reader has changed are kept there.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="What pip installs fedlib from where it is missing.")] = None,
) -> None:
    """Write chapters as notebooks for readers: to run, and to change the method in."""
    from book import edition

    named = [chapters.require(slug) for slug in slugs or chapters.slugs()]
    folder = into or chapters.build_folder() / edition.FOLDER
    written, kept = edition.write(named, folder, source)
    for path in kept:
        say(f"kept: {path}, which you have changed; delete it to get the book's again")
    say(f"{len(written)} notebooks written to {folder}")


@app.command()
def check(slugs: Slugs = None, profile: Profile = "quick") -> None:
    """Compare fresh runs with the committed evidence, and print the claims.

    Committed evidence must fit itself, the card and the data. That its values were measured at all, only a fresh run
    on the same kind of machine can show.
    """
    from book import checks, tables

    found = checks.check(slugs or [], chapters.require_profile(profile))
    tables.claims(console, slugs or chapters.slugs())
    for kind, lines in (("warning", found.warnings), ("problem", found.problems)):
        for line in lines:
            say(f"{kind}: {line}")
    say(f"problems: {len(found.problems)}, warnings: {len(found.warnings)}")
    if found.problems:
        raise typer.Exit(1)


@app.command()
def accept(
    slugs: Annotated[list[str], typer.Argument(help="Chapters by slug.")],
    profile: Profile = "quick",
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Run nothing, move no number: judge those committed by today's card.")
    ] = False,
) -> None:
    """Make fresh runs the committed reference (at smoke: the golden notebook, too)."""
    chapters.require_profile(profile)
    faults = []
    for slug in dict.fromkeys([chapters.require(slug) for slug in slugs]):
        try:
            (_rejudge if rejudge else _accept)(slug, profile)
        except PressError as error:
            faults.append(str(error))
    if faults:
        raise PressError("\n".join(faults))


def _accept(slug: str, profile: str) -> None:
    from book import golden, reference, tables

    before, after = reference.accept(slug, profile)
    tables.accepted(console, before, after)
    if after["provenance"]["dirty"]:
        say(f"note: {slug} was measured with changes that are in no commit")
    if foreign := reference.unknown_data(after):
        say(f"note: {slug} was measured on data that no card knows: {foreign}")
    written = {chapters.evidence_path(slug, profile): before != after}
    if profile == "smoke":
        written |= {chapters.golden_path(slug): golden.accept(slug)}
    for path, changed in written.items():
        say(f"{'written' if changed else 'unchanged'}: {path}")


def _rejudge(slug: str, profile: str) -> None:
    from book import reference, tables

    before, after = reference.rejudge(slug, profile)
    tables.accepted(console, before, after)
    say(f"{'written' if before != after else 'unchanged'}: {chapters.evidence_path(slug, profile)}")


@app.command()
def drift(
    slugs: Slugs = None,
    profile: Profile = "quick",
    jobs: Annotated[int | None, typer.Option(min=1, help="Chapters at once: by default as many as cores.")] = None,
) -> None:
    """Measure how far accepted numbers move on other processors (check allows for that there)."""
    from book import drift

    named = [chapters.require(slug) for slug in slugs or chapters.slugs()]
    count = jobs or plans.default_jobs(chapters.require_profile(profile), len(named))
    for slug, measured in drift.measure(named, profile, count).items():
        moved = sum(most > 0 for most in measured["metrics"].values())
        text = f"{moved} of {len(measured['metrics'])} metrics move, {len(measured['claims'])} verdicts change"
        say(f"{slug}: {text}: {drift.path(slug, profile)}")


@app.command()
def new(slug: Annotated[str, typer.Argument(help="Slug of the new chapter, such as per-fedavg.")]) -> None:
    """Start a chapter: a draft that runs, to be filled in."""
    from book import scaffold

    for path in scaffold.create(slug):
        say(f"written: {path}")
    say(scaffold.NEXT.format(slug=slug))


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
def lint(arguments: Annotated[list[str] | None, typer.Argument(help="As of python -m book.lint.")] = None) -> None:
    """Check the code of chapters: the same as python -m book.lint."""
    from book import lint

    if status := lint.main(arguments or []):
        raise typer.Exit(status)


@app.command("list")
def list_(
    form: Annotated[bool, typer.Option("--form", help="How long they are, beside what they aim at.")] = False,
) -> None:
    """All chapters and the state of their runs."""
    from book import tables

    if form:
        tables.forms(console)
        return
    if faults := tables.chapter_list(console):
        raise PressError("\n".join(faults))
    if not chapters.slugs():
        say(f"there is no chapter in {chapters.ROOT / 'papers'}; `python -m book new <slug>` makes one")


@app.command()
def show(slug: Annotated[str, typer.Argument(help="Chapter by slug.")]) -> None:
    """One chapter: card, claims, last runs, files."""
    from book import tables

    tables.chapter(console, chapters.require(slug))


@app.command()
def serve(port: Annotated[int, typer.Option(help="Port on this machine.")] = 8000) -> None:
    """Serve the website on this machine."""
    from book import website

    with website.serve(port) as server:
        say(f"http://127.0.0.1:{server.server_address[1]}/  (Ctrl-C ends)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")


@app.command("zip")
def zip_() -> None:
    """Pack the built website into one archive that opens from a file."""
    from book import archive

    say(str(archive.write(chapters.build_folder() / "fedlib-book.zip")))


@app.command()
def pdf() -> None:
    """Print the built website into one PDF, with the Chromium of this machine."""
    from book import paper

    say(str(paper.write(chapters.build_folder() / "fedlib-book.pdf")))


@app.command()
def clean(
    all_: Annotated[bool, typer.Option("--all", help="Executed chapters and kept partial results, too.")] = False,
) -> None:
    """Delete what was built; sources and committed evidence stay."""
    from book import clean

    for path in clean.clean(all_):
        say(f"kept: {path}, which the press has not made")
    say(f"cleaned: {chapters.build_folder()}")


def main() -> None:
    """Run the command line; faults that a person can put right are one line each, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a terminal that knows ASCII only shows a question mark for the rest
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        with runner.stoppable():
            app()
    except PressError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(2)
