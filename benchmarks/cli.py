"""The benchmark on the command line."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import contenders, environments, measure, results, tables, workloads
from benchmarks.contenders import Contender
from benchmarks.errors import BenchmarkError, Skipped
from benchmarks.workloads import Workload

app = typer.Typer(
    help="How long a simulated federation takes: fedlib against its peers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Where = Annotated[Path, typer.Option("--results", help="File of results.")]


@app.command()
def run(
    workload: Annotated[
        list[str] | None, typer.Option(help="Workload, or a group such as scale; all by default.")
    ] = None,
    contender: Annotated[list[str] | None, typer.Option(help='Contender, or a pattern such as "fedlib*".')] = None,
    rounds: Annotated[int | None, typer.Option(min=2, help="Rounds of one run; the first is not counted.")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="Runs of every contender, taken in turns.")] = None,
    seed: int = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Print why fedlib chose its executor.")] = False,
    pfllib: Annotated[Path | None, typer.Option(help="A checkout of PFLlib.")] = None,
    python314: Annotated[Path | None, typer.Option(help="A Python 3.14, for BlazeFL.")] = None,
    path: Where = results.PATH,
) -> None:
    """Measure, and put the workloads measured into the file of results."""
    chosen = [(w, contenders.choose(contender or [], w.contenders)) for w in workloads.choose(workload or [])]
    given = {"pfllib": str(pfllib.resolve())} if pfllib else {}
    given |= {"python314": str(python314.absolute())} if python314 else {}
    for name in sorted({c.environment for _, who in chosen for c in who if not (c.needs and c.needs not in given)}):
        with suppress(Skipped):  # whoever needs it says so where it would run
            environments.install(name, given)
    for w, who in chosen:
        try:
            entry = compare(w, who, rounds or w.rounds, repeat or w.repeats, seed, given, explain)
        except Skipped as reason:
            print(f"{w.name}: skipped, {reason}")
            continue
        kept = results.read(path)
        kept["workloads"][w.name] = entry
        results.write(kept, path)
    print(f"written: {path}")


def compare(
    workload: Workload,
    who: list[Contender],
    rounds: int,
    repeats: int,
    seed: int,
    given: dict[str, str],
    explain: bool = False,
) -> dict[str, Any]:
    """Measure contenders in turns (A B C, A B C, ...): what else the machine does hits all alike.

    Returns the entry of the workload; a contender that fails is noted in it and not tried again. Raises Skipped when
    the workload cannot be measured here.
    """
    workloads.available(workload)
    folder = environments.BUILD / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    described = results.machine(workload.device)
    job, found, material = workload.prepare(folder, rounds, seed)
    runs: dict[str, dict[str, Any]] = {}
    for turn in range(repeats):
        for c in who:
            run_of = runs.setdefault(c.name, {"cores": measure.cores() if c.cores == "all" else 1})
            if "error" in run_of or "skipped" in run_of:
                continue
            label = f"{workload.name} · {c.title} · {turn + 1}/{repeats}"
            try:
                answer = measure.run(c, job, folder, given)
            except BenchmarkError as error:
                kind = "skipped" if isinstance(error, Skipped) else "error"
                runs[c.name] = {kind: str(error)}
                print(f"{label}: {kind}: {error}", flush=True)
                continue
            for key in ("seconds", "accuracy", "memory_mb", "steps"):
                run_of.setdefault(key, []).append(answer[key])
            run_of |= {"versions": answer["versions"], "explain": answer["explain"]}
            middle = tables.number(results.median(answer["seconds"][1:]))
            print(
                f"{label}: {middle} s a round, {100 * answer['accuracy']:.1f}%, {answer['memory_mb']:.0f} MB",
                flush=True,
            )
            if explain and turn == 0 and answer["explain"]:
                print(f"  {answer['explain']}", flush=True)
    return {
        "title": workload.title,
        "data": f"{found.name}, {len(found.y_train):,} training samples",
        "test_samples": len(material.y_test),
        "rounds": rounds,
        "repeats": repeats,
        "seed": seed,
        "machine": described,
        "contenders": runs,
    }


@app.command()
def gpu(
    device: Annotated[str, typer.Option(help="cuda, or cpu for a rehearsal in tiny sizes.")] = "cuda",
    seconds: Annotated[float, typer.Option(min=1, help="Time for everything; each part has its share.")] = 90,
    path: Annotated[Path | None, typer.Option("--results", help="File of results; of a rehearsal, none.")] = None,
) -> None:
    """Check the engine on a GPU and time it.

    The status is 1 when a check failed, when time ran out before all were made, or when a part broke down.
    """
    from benchmarks.gpu import parts, report

    bench = parts.bench_of(device)
    path = path or (results.PATH if bench.cuda else None)
    if path:  # a file that cannot be read or written is found before time is spent
        results.write(results.read(path), path)
    entry: dict[str, Any] = {}
    for entry in parts.play(bench, seconds):
        print(f"{tables.markdown(replace(tables.gpu({'gpu': entry})[-1], notes=[]))}\n", flush=True)
        if path:  # after each part: what a call that is cut off has found is kept
            results.write(results.read(path) | {"gpu": entry}, path)
    print(report.about(entry))
    print(f"written: {path}" if path else "a rehearsal: nothing is written without --results")
    if late := parts.out_of_time(entry):
        print(f"time ran out before all checks were made ({', '.join(late)}): raise --seconds, which was {seconds:g}")
    raise typer.Exit(0 if parts.all_passed(entry) else 1)


@app.command()
def show(
    targets: Annotated[bool, typer.Option("--targets", help="Only the targets.")] = False, path: Where = results.PATH
) -> None:
    """Print the results as Markdown."""
    found = results.read(path)
    if not found["workloads"] and "gpu" not in found:
        print(tables.MISSING)
        return
    shown = [] if targets else [*tables.workloads(found), *tables.gpu(found)]
    print("\n\n".join(tables.markdown(table) for table in [*shown, tables.bounds(found)]))


@app.command()
def setup(
    python314: Annotated[Path | None, typer.Option(help="A Python 3.14, for BlazeFL.")] = None,
) -> None:
    """Make the environments of all peers; `run` makes those that it needs by itself."""
    for name in environments.PACKAGES:
        try:
            environments.install(name, {"python314": str(python314.absolute())} if python314 else {})
        except Skipped as reason:
            print(f"{name}: skipped, {reason}")
            continue
        print(f"ready: {environments.interpreter(name)}")


@app.command()
def merge(
    other: Annotated[Path, typer.Argument(help="Results of another machine.")], path: Where = results.PATH
) -> None:
    """Take what was measured elsewhere, such as on a machine with a GPU, into the file of results."""
    if not other.exists():
        raise BenchmarkError(f"{other} does not exist")
    kept, found = results.read(path), results.read(other)
    kept["workloads"] |= found["workloads"]
    results.write(kept | ({"gpu": found["gpu"]} if "gpu" in found else {}), path)
    print(f"written: {path}")


def main() -> None:
    """Run the command line; faults that a person can put right are one line, without a traceback."""
    try:
        app()
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
