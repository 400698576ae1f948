"""The part of a module that a chapter can reach, found by names.

Whoever calls a function or a class has its name in the code, be it as a word in a string. So a definition whose name is
nowhere in the chapter's cells, in what importing its modules runs, or in a definition that is reached itself, cannot
make a difference: what another chapter adds to a module leaves this one as it is. (A name put together at run time
would be missed; a run in CI starts from nothing and would see it.)

A package's ``__init__`` is a table of what it offers: each line of it counts for whoever uses that name (but a line
added since, which leads to a module that the run did not import, cannot have been used). Code that uses a module as a
value, as in ``dir(algorithms)``, can find anything in it: then all of it counts, and what is added to it.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# What a decorator beside these is put on may be registered somewhere, and found without its name; and what is called
# beside these when a module is imported may change another one.
HARMLESS = {
    "cache", "cached_property", "classmethod", "contextmanager", "dataclass", "dict", "field", "float", "frozenset",
    "lru_cache", "namedtuple", "no_grad", "partial", "per_sample", "property", "range", "runtime_checkable", "set",
    "setter", "staticmethod", "tuple", "TypeVar",
}  # fmt: skip

Words = frozenset[str]


class Part(NamedTuple):
    """A statement: what it does, the words by which it finds others, and the modules that it uses as values.

    Of a line of a package's table also ``home``: the module in that package from which its name is taken.
    """

    digest: str
    words: Words
    wholes: Words
    home: str = ""


@dataclass
class Module:
    """What importing a module runs, and its functions and classes (of a package: its exports) by name."""

    always: list[Part] = field(default_factory=list)
    definitions: dict[str, list[Part]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(
        cls, tree: ast.Module, digest: Callable[[ast.AST], str], bound: Mapping[str, str], package: bool = False
    ) -> Module:
        """The parts of a module; ``digest`` says in short what a statement does, ``bound`` is :func:`bindings`."""
        made = cls()
        for statement in tree.body:
            for name, node in _exports(statement, bound) if package else [(_definition(statement), statement)]:
                home = _home(node) if package else ""
                part = Part(digest(node), words(node), wholes(node, bound), home)
                (made.always if name is None else made.definitions[name]).append(part)
        return made

    def parts(self, names: Words, whole: bool = False) -> list[Part]:
        """What runs in any case and, in order of their names, the definitions among ``names``; or, ``whole``, all."""
        chosen = [parts for name, parts in sorted(self.definitions.items()) if whole or name in names]
        return [part for parts in (self.always, *chosen) for part in parts]


def nodes(tree: ast.AST) -> list[ast.AST]:
    """What ``ast.walk`` gives, in the same order, but for contexts (load, store); in a third of the time."""
    found = [tree]
    for node in found:
        for name in node._fields:
            if name != "ctx":
                value = getattr(node, name, None)
                if isinstance(value, list):
                    found += [entry for entry in value if isinstance(entry, ast.AST)]
                elif isinstance(value, ast.AST):
                    found.append(value)
    return found


def words(tree: ast.AST) -> Words:
    """Every name and every word in a string: all by which this code may find a definition."""
    found: set[str] = set()
    for node in nodes(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.update(node.name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"[^\W\d]\w*", node.value))
    return frozenset(found)


def bindings(tree: ast.AST, known: Iterable[str]) -> dict[str, str]:
    """Names that imports anywhere in ``tree`` (none of them relative) give to modules among ``known``."""
    found: dict[str, str] = {}
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            pairs = [
                (a.asname or a.name.split(".")[0], a.name if a.asname else a.name.split(".")[0]) for a in node.names
            ]
        elif isinstance(node, ast.ImportFrom):
            pairs = [(a.asname or a.name, f"{node.module}.{a.name}") for a in node.names]
        else:
            continue
        found |= dict(pairs)
    there = set(known)
    return {name: module for name, module in found.items() if module in there}


def wholes(tree: ast.AST, bound: Mapping[str, str]) -> Words:
    """Modules that this code uses as values, and not only to name something in them."""
    named, hidden = set(), set()
    all_ = nodes(tree)
    for node in all_:
        if isinstance(node, ast.Attribute) and node.attr != "__dict__":
            named.add(id(node.value))
        elif isinstance(node, ast.arg):
            hidden.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            hidden.add(node.id)
    used = [node for node in all_ if isinstance(node, ast.Name) and node.id in bound]
    return frozenset(bound[n.id] for n in used if id(n) not in named and n.id not in hidden)


@dataclass(frozen=True)
class Reached:
    """What can be reached: by these words, and the whole of these modules."""

    words: Words
    wholes: Words

    def whole(self, module: str) -> bool:
        """Whether all of the module counts: it, or a package above it, is used as a value."""
        return any(module == name or module.startswith(f"{name}.") for name in self.wholes)


def reachable(start: Part, modules: Mapping[str, Module], always: Iterable[str]) -> Reached:
    """All that ``start`` reaches in ``modules``, of which those named by ``always`` are imported in any case."""
    imported = set(always)
    reached = Reached(start.words, start.wholes)
    while True:
        imported |= {name for name in modules if reached.whole(name)}
        parts = [p for n in imported if n in modules for p in modules[n].parts(reached.words, reached.whole(n))]
        more = Reached(reached.words.union(*(p.words for p in parts)), reached.wholes.union(*(p.wholes for p in parts)))
        if more == reached:
            return reached
        reached = more


def _definition(statement: ast.stmt) -> str | None:
    """The name by which alone a function or class is found; None for any other statement."""
    if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return None
    if statement.name.startswith("__"):  # a module's __getattr__ is called by nobody's name
        return None
    return statement.name if _inert(statement) else None


def _inert(statement: ast.stmt) -> bool:
    """Whether importing a module does nothing in this statement but give something a name: no call changes another."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        now = [*statement.args.defaults, *(d for d in statement.args.kw_defaults if d)]
        return _known(statement.decorator_list) and not any(map(_calls, now))
    if isinstance(statement, ast.ClassDef):
        now = [*statement.bases, *(k.value for k in statement.keywords)]
        return _known(statement.decorator_list) and not any(map(_calls, now)) and all(map(_inert, statement.body))
    if isinstance(statement, ast.Assign):
        return all(isinstance(t, ast.Name) for t in statement.targets) and not _calls(statement.value)
    if isinstance(statement, ast.AnnAssign):
        return isinstance(statement.target, ast.Name) and not (statement.value and _calls(statement.value))
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and not _calls(statement.value))


def _known(decorators: list[ast.expr]) -> bool:
    return all(_last_name(d.func if isinstance(d, ast.Call) else d) in HARMLESS for d in decorators)


def _calls(expression: ast.expr) -> bool:
    """Whether an expression calls anything that might do more than make a value; what a lambda does comes later."""
    inner = nodes(expression)
    later = {id(node) for part in inner if isinstance(part, ast.Lambda) for node in nodes(part.body)}
    return any(
        isinstance(node, ast.Call) and id(node) not in later and _last_name(node.func) not in HARMLESS for node in inner
    )


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _exports(statement: ast.stmt, bound: Mapping[str, str]) -> Iterator[tuple[str | None, ast.AST]]:
    """A statement of a package's ``__init__`` in parts: imports and tables line by line, by the names they offer.

    An import of a module, or of all names, runs that module, whoever uses the name.
    """
    if isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            name = alias.asname or alias.name
            node = ast.ImportFrom(statement.module, [alias], statement.level)
            yield (None if name == "*" or name in bound else name), node
    elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
        return
    elif isinstance(statement, ast.Assign) and (table := _table(statement.value)) is not None:
        yield from table
    elif (
        isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant) and len(statement.targets) == 1
    ):
        yield getattr(statement.targets[0], "id", None), statement
    else:
        yield _definition(statement), statement


def _home(node: ast.AST) -> str:
    """Of a line ``{"Name": "module"}`` of a table, the module; "" for anything else."""
    values = node.values if isinstance(node, ast.Dict) else []
    value = values[0] if len(values) == 1 else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _table(value: ast.expr) -> list[tuple[str | None, ast.AST]] | None:
    """A dictionary by its keys, or a sequence by its entries, where these are strings; None for anything else."""
    if isinstance(value, ast.Dict):
        rows = list(zip(value.keys, value.values, strict=True))
    elif isinstance(value, ast.Tuple | ast.List):
        rows = [(entry, entry) for entry in value.elts]
    else:
        return None
    if not all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key, _ in rows):
        return None
    if not all(isinstance(entry, ast.Constant) for _, entry in rows):
        return None
    return [(key.value, ast.Dict([key], [value])) for key, value in rows]  # type: ignore[union-attr]
