"""Goldens: a chapter's smoke run as a small committed notebook, which nbval executes and compares cell by cell.

nbval cannot inject parameters, so the smoke parameters are written into the parameters cell. It compares only cells
tagged `nbval-check-output`, and passes without comparing anything when there is none: `problems` finds such goldens.
"""

from __future__ import annotations

import ast
from typing import Any

from book import chapters, files, freshness
from book.errors import PressError

CHECKED = "nbval-check-output"
_KEPT_TAGS = {
    "parameters",
    CHECKED,
    "raises-exception",
    "nbval-ignore-output",
    "nbval-skip",
    "nbval-raises-exception",
}


def bake(source: str, values: dict[str, Any]) -> str:
    """The parameters cell with other values: only the named literals are replaced, the rest stays as typed."""
    lines = source.splitlines()
    for statement in reversed(ast.parse(source).body):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        target = targets[0]
        if not isinstance(target, ast.Name) or target.id not in values or not isinstance(value, ast.expr):
            continue
        first, last = value.lineno - 1, (value.end_lineno or value.lineno) - 1
        head = lines[first].encode()[: value.col_offset].decode()
        tail = lines[last].encode()[value.end_col_offset :].decode()
        lines[first : last + 1] = [f"{head}{values[target.id]!r}{tail}"]
    return "\n".join(lines)


def _output(output: Any) -> Any:
    """An output as the golden keeps it: without images, which nbval never compares, and without counters."""
    if "data" in output:
        output["data"] = {kind: value for kind, value in output["data"].items() if not kind.startswith("image/")}
    if "execution_count" in output:
        output["execution_count"] = None
    output.pop("metadata", None)
    if output["output_type"] in ("display_data", "execute_result"):
        output["metadata"] = {}
    return output


def build(slug: str) -> Any:
    """The golden of a chapter from its executed smoke run: code only, outputs of the checked cells only."""
    import nbformat

    executed = nbformat.read(chapters.executed_path(slug, "smoke"), as_version=4)
    golden = nbformat.v4.new_notebook()
    golden.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(chapters.code_cells(executed)):
        tags = chapters.tags(cell)
        kept = nbformat.v4.new_code_cell(cell.source, id=f"cell-{number:03d}")
        kept.metadata = {"tags": sorted(_KEPT_TAGS & set(tags))}
        kept.execution_count = number + 1
        if "parameters" in tags:
            kept.source = bake(cell.source, {"profile": "smoke"})
        if CHECKED in tags:
            kept.outputs = [o for o in map(_output, cell.outputs) if o.get("data", True)]
        golden.cells.append(kept)
    return golden


def accept(slug: str) -> bool:
    """Write the golden from the fresh smoke run; True if that changed it. Raises PressError if it guards nothing."""
    import nbformat

    if freshness.state(chapters.require(slug), "smoke") != "fresh":
        call = f"python -m book run {slug} --profile smoke"
        raise PressError(f"{slug}, smoke: {freshness.why(slug, 'smoke')}; run it first: {call}")
    golden = build(slug)
    if faults := _faults(golden):
        raise PressError(f"{chapters.chapter_path(slug)}: {faults[0]}")
    path = chapters.golden_path(slug)
    text = (nbformat.writes(golden) + "\n").encode()
    before = path.read_bytes() if path.is_file() else None
    files.write(path, text)
    return text != before


def _faults(golden: Any) -> list[str]:
    checked = [c for c in golden.cells if CHECKED in chapters.tags(c)]
    if not checked:
        return [f"no cell is tagged {CHECKED!r}, so that nothing would be compared; tag the one that prints the table"]
    if hidden := sorted(
        {tag for c in checked for tag in chapters.tags(c) if tag in ("nbval-ignore-output", "nbval-skip")}
    ):
        return [f"a cell tagged {CHECKED!r} is tagged {hidden[0]!r}, too, so that nothing would be compared"]
    if any(c.execution_count is None or not c.outputs for c in checked):
        return [f"a cell tagged {CHECKED!r} has no output, so that nothing would be compared"]
    return []


def problems(slug: str) -> list[str]:
    """Why the golden of a chapter guards nothing, or something else than the chapter; empty when all is well."""
    import nbformat

    path = chapters.golden_path(slug)
    if not path.exists():
        return [f"{path} is missing: python -m book run {slug} --profile smoke, then accept {slug} --profile smoke"]
    try:
        golden = nbformat.read(path, as_version=4)
        nbformat.validate(golden)
        faults = [f"{path}: {fault}" for fault in _faults(golden)]
        code = freshness.cells_digest(golden)
    except Exception as error:  # nbformat raises whatever a damaged file makes of it
        line = next(iter(str(error).splitlines()), type(error).__name__)
        return [f"{path} is no notebook ({line}); restore it from git, or accept {slug} --profile smoke again"]
    chapter = chapters.read(slug)
    for cell in chapters.code_cells(chapter):
        if "parameters" in chapters.tags(cell):
            cell.source = bake(cell.source, {"profile": "smoke"})
    if freshness.cells_digest(chapter) != code:
        faults.append(f"{path} holds other code than the chapter: run and accept its smoke profile again")
    return faults
