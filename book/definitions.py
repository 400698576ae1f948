"""The part of a module that a chapter can reach, found by names.

Whoever calls a function or a class has its name in the code, be it as a word in a string. So a definition whose name is
nowhere in the chapter's cells, in what importing its modules runs, or in a definition that is reached itself, cannot
make a difference: what another chapter adds to a module leaves this one as it is. (A name put together at run time
would be missed; a run in CI starts from nothing and would see it.)
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

# A decorator beside these may register what it is put on: that can be found without its name.
HARMLESS = {"cache", "contextmanager", "dataclass", "lru_cache", "no_grad", "per_sample", "runtime_checkable"}

Words = frozenset[str]


@dataclass
class Module:
    """What importing a module runs, and its functions and classes by name; all as pairs of a digest and words."""

    always: list[tuple[str, Words]] = field(default_factory=list)
    definitions: dict[str, list[tuple[str, Words]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, tree: ast.Module, digest: Callable[[ast.AST], str]) -> Module:
        """The parts of a module; ``digest`` says in short what a statement does."""
        made = cls()
        for statement in tree.body:
            part = digest(statement), words(statement)
            if _found_by_name_only(statement):
                made.definitions[statement.name].append(part)  # type: ignore[attr-defined]
            else:
                made.always.append(part)
        return made

    def reached(self, names: Words) -> list[str]:
        """Digests of what runs in any case and, in order of their names, of the definitions among ``names``."""
        chosen = [parts for name, parts in sorted(self.definitions.items()) if name in names]
        return [part for parts in (self.always, *chosen) for part, _ in parts]


def words(tree: ast.AST) -> Words:
    """Every name and every word in a string: all by which this code may find a definition."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.update(node.name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"[^\W\d]\w*", node.value))
    return frozenset(found)


def reachable(start: Words, modules: Iterable[Module]) -> Words:
    """The words of ``start``, of what importing the modules runs, and of every definition that these words name."""
    modules = list(modules)
    reached = set(start).union(*(found for module in modules for _, found in module.always))
    taken: set[tuple[int, str]] = set()
    while new := {
        (i, name)
        for i, module in enumerate(modules)
        for name in module.definitions
        if (i, name) not in taken and name in reached
    }:
        taken |= new
        for i, name in new:
            reached.update(*(found for _, found in modules[i].definitions[name]))
    return frozenset(reached)


def _found_by_name_only(statement: ast.stmt) -> bool:
    if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return False
    if statement.name.startswith("__"):  # a module's __getattr__ is called by nobody's name
        return False
    made_by = (d.func if isinstance(d, ast.Call) else d for d in statement.decorator_list)
    return all((d.attr if isinstance(d, ast.Attribute) else getattr(d, "id", "")) in HARMLESS for d in made_by)
