"""What a folded code cell says of itself: the figure that it draws, or the names that it defines."""

from __future__ import annotations

import ast
import re

import nbformat

from book import quoting

FOLDED = {"hide-input", "hide-cell"}
CAPTION = re.compile(r"^\s*`{3,}\{caption\} *(\S+)")
MOST = 4  # names that are told


def name(notebook: nbformat.NotebookNode) -> None:
    """Give each folded code cell words of its own, in place of "Show code cell source"."""
    numbers = quoting.figure_numbers("\n\n".join(cell.source for cell in notebook.cells))
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "code" and FOLDED & set(cell.metadata.get("tags", [])):
            caption = CAPTION.match(after.source) if after is not None else None
            words = f"Figure {numbers[caption[1]]}" if caption and caption[1] in numbers else defined(cell.source)
            if words:
                told = {"code_prompt_show": f"Show code: {words}", "code_prompt_hide": f"Hide code: {words}"}
                cell.metadata["mystnb"] = nbformat.from_dict({**cell.metadata.get("mystnb", {}), **told})


def defined(source: str) -> str:
    """The names that a cell defines, functions and classes first; "" for none, or for what is no Python."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # an IPython magic
        return ""
    made = [part.name for part in body if isinstance(part, ast.FunctionDef | ast.ClassDef)]
    targets = [target for part in body if isinstance(part, ast.Assign) for target in part.targets]
    made += [target.id for target in targets if isinstance(target, ast.Name)]
    if not made:
        imports = any(isinstance(part, ast.Import | ast.ImportFrom) for part in body)
        return "imports" if imports else ""
    names = list(dict.fromkeys(made))
    return ", ".join(names[:MOST]) + ", …" * (len(names) > MOST)
