"""The method as a cell: ``%%method fedlib.losses.kd`` stands above the lines of that definition, to be edited and run.

What is run replaces the book's definition in this process: functions get another body, classes other members. So
whoever holds one already (an import, a subclass, an object) follows. Run with the book's own lines, docstrings and
comments apart, the cell changes nothing, or restores the book's definition. Workers in other processes do not follow.
"""

from __future__ import annotations
import __future__

import ast
import gc
import importlib
import linecache
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

MAGIC = "method"
WATCHING = ("fedlib.study.", "fedlib.evidence.", "fedlib.original.")  # modules that a method cannot change
_FIXED = ("__dict__", "__weakref__", "__slots__", "_abc_impl")  # of a class: not to be set
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

_undo: dict[str, Callable[[], None]] = {}  # what is changed now, and how it is put back
_restored: dict[str, float] = {}  # what was changed, and when it was put back


@dataclass(frozen=True)
class Place:
    """Where a definition stands: ``name`` in a class or a module, written in the file of ``module``."""

    holder: Any
    name: str
    module: ModuleType

    @property
    def inside(self) -> str:
        """Its name inside the module, such as ``Moon.contrast``."""
        return self.name if isinstance(self.holder, ModuleType) else f"{self.holder.__qualname__}.{self.name}"

    def __str__(self) -> str:
        return f"{self.module.__name__}.{self.inside}"

    @property
    def now(self) -> Any:
        """What stands there now."""
        return vars(self.holder)[self.name]


def changed(since: float | None = None) -> list[str]:
    """Names of definitions that are not the book's; with ``since`` (:func:`time.monotonic`) also of those that were
    not at some time after it.
    """
    late = {name for name, when in _restored.items() if since is not None and when > since}
    return sorted(late.union(_undo))


def run(name: str, text: str, namespace: dict[str, Any] | None = None) -> str:
    """Make ``text`` the definition of ``name`` in this process, and say in words what that changed.

    ``namespace``: of the notebook, where other names may stand for the old definition. Raises ValueError when there is
    no such definition in fedlib, or the text is not one definition of that name.
    """
    place, spaces = find(name.strip()), [namespace or {}]
    same = _bare(_one(place, text)) == _bare(_book(place))
    own, above = str(place), [n for n in _undo if str(place).startswith(f"{n}.")]
    below = [n for n in _undo if n == own or n.startswith(f"{own}.")]
    if same and not above and not below:
        return f"{own}: the book's own text. Nothing is changed."
    new = _compiled(place, text) if not same or above else None  # raises before anything has changed
    for done in sorted(below, key=len, reverse=True):  # a method before its class
        _undo.pop(done)()
        _restored[done] = time.monotonic()
    if new is not None:
        _undo[own] = _replace(place, new, spaces)
    _forget()
    if same and not above:
        return f"{own} is the book's again.\nRun the cells below again: what they computed meanwhile was not."
    return (
        f"{own} is changed in this kernel.\n"
        "Run the cells below again: what they have computed so far was with the method as it was before.\n"
        "From here on numbers are not the book's, and can never become its evidence.\n"
        "To have the book's method back, undo the edit and run this cell."
    )


def load() -> None:
    """Give the notebook the cell magic ``%%method``. Does nothing outside of IPython."""
    ipython = sys.modules.get("IPython")
    if ipython and (shell := ipython.get_ipython()):
        shell.register_magic_function(partial(_magic, shell), "cell", MAGIC)


def _magic(shell: Any, line: str, cell: str) -> None:
    sys.stdout.write(run(line, cell, shell.user_ns) + "\n")


def find(name: str) -> Place:
    """Where a dotted name is defined, packages that hand a name on looked through. Raises ValueError."""
    parts = name.split(".")
    if parts[0] != "fedlib" or len(parts) < 3:
        raise ValueError(f"{name!r}: expected a definition of fedlib, such as fedlib.losses.kd")
    if name.startswith(WATCHING):
        raise ValueError(f"{name!r}: what runs an experiment and tells what came of it is no method; it stays as it is")
    holder: Any = importlib.import_module("fedlib")
    for number, part in enumerate(parts[1:-1], 2):
        if not hasattr(holder, part) and isinstance(holder, ModuleType):
            _import(".".join(parts[:number]))
        holder = _member(holder, part, name)
    thing = _member(holder, parts[-1], name)
    if not isinstance(holder, ModuleType):
        holder = next(c for c in holder.__mro__ if parts[-1] in vars(c))
        return Place(holder, parts[-1], sys.modules[holder.__module__])
    home = sys.modules.get(getattr(thing, "__module__", None) or "", holder)
    home = home if vars(home).get(parts[-1]) is thing else holder
    return Place(home, parts[-1], home)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise


def _member(holder: Any, part: str, name: str) -> Any:
    if hasattr(holder, part):
        return getattr(holder, part)
    near = get_close_matches(part, dir(holder), 1)
    raise ValueError(f"{name}: {holder.__name__} has no {part!r}" + (f"; is {near[0]!r} meant?" if near else ""))


def _book(place: Place) -> ast.stmt:
    """The definition as the file has it."""
    body: list[ast.stmt] = ast.parse(Path(str(place.module.__file__)).read_text(encoding="utf-8")).body
    found: ast.stmt | None = None
    for part in place.inside.split("."):
        found = next((node for node in reversed(body) if part in _names(node)), None)
        if found is None:
            raise ValueError(f"{place}: {place.module.__file__} does not define it")
        body = getattr(found, "body", [])
    assert found is not None
    return found


def _names(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, _DEFINITIONS):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _one(place: Place, text: str) -> ast.stmt:
    """The one statement of a cell, numbered as the notebook numbers its lines: the first is the magic's."""
    body = ast.parse("\n" + text, _file(place)).body
    if len(body) != 1 or place.name not in _names(body[0]):
        raise ValueError(f"{place}: expected one definition of {place.name!r} and nothing else; imports go inside it")
    return body[0]


def _bare(node: ast.stmt) -> str:
    """What a definition does: its tree without docstrings, comments, layout."""
    tree = ast.parse(ast.unparse(node))
    for inner in ast.walk(tree):
        if isinstance(inner, _DEFINITIONS) and ast.get_docstring(inner, clean=False) is not None:
            inner.body = inner.body[1:]
    return ast.dump(tree)


def _file(place: Place) -> str:
    return f"<{MAGIC} {place}>"


def _compiled(place: Place, text: str) -> Any:
    """The object that a text defines, in the namespace of its module; in a class ``super()`` knows where it stands."""
    statement, scope = _one(place, text), dict[str, Any]()
    if not isinstance(place.holder, ModuleType):
        factory: Any = ast.parse("def factory(__class__):\n    pass").body[0]
        factory.body = [statement, ast.Return(ast.Name(place.name, ast.Load()))]
        statement = factory
    future = __future__.annotations
    flags = future.compiler_flag if getattr(place.module, "annotations", None) is future else 0
    tree = ast.fix_missing_locations(ast.Module([statement], []))
    code = compile(tree, _file(place), "exec", flags=flags, dont_inherit=True)
    whole = f"%%{MAGIC} {place}\n{text}"
    linecache.cache[_file(place)] = len(whole), None, whole.splitlines(keepends=True), _file(place)
    exec(code, vars(place.module), scope)
    new = scope[place.name] if isinstance(place.holder, ModuleType) else scope["factory"](place.holder)
    if (was := _kind(place.now)) != (kind := _kind(new)):
        raise ValueError(f"{place} is {was}, and the cell makes {kind} of it; expected {was} again")
    bare = getattr(new, "__func__", getattr(new, "fget", new))
    if isinstance(bare, FunctionType):
        bare.__qualname__ = place.inside
        bare.__code__ = bare.__code__.replace(co_qualname=place.inside)
    return new


def _replace(place: Place, new: Any, spaces: list[dict[str, Any]]) -> Callable[[], None]:
    """Put ``new`` in its place, and give back what undoes that."""
    old = place.now
    if isinstance(old, type) and isinstance(new, type):
        return _become(old, new)
    if _plain(old) and _plain(new) and old.__code__.co_freevars == new.__code__.co_freevars:
        return _behave(old, new)
    _rebind(place, old, new, spaces)
    return lambda: _rebind(place, new, old, spaces)


def _kind(thing: Any) -> str:
    if isinstance(thing, type):
        return "a class"
    return "a function" if callable(thing) or _functions([thing]) else "a value"


def _plain(thing: Any) -> bool:
    """Whether all that a function does is in its code: no wrapper around another one."""
    return isinstance(thing, FunctionType) and set(thing.__code__.co_freevars) <= {"__class__"}


_PARTS = ("__code__", "__defaults__", "__kwdefaults__", "__annotations__", "__dict__", "__doc__")


def _behave(old: FunctionType, new: FunctionType) -> Callable[[], None]:
    """Give a function the body of another one."""
    before = {part: getattr(old, part) for part in _PARTS}
    new.__doc__ = new.__doc__ or old.__doc__
    for part in _PARTS:
        setattr(old, part, getattr(new, part))

    def back() -> None:
        for part, value in before.items():
            setattr(old, part, value)

    return back


def _become(old: type, new: type) -> Callable[[], None]:
    """Give a class the members of another one. Raises ValueError where Python cannot: other slots, unlike bases."""
    if vars(old).get("__slots__") != vars(new).get("__slots__"):
        raise ValueError(f"{old.__name__}: the slots of a class cannot be changed")
    before, bases = _members(old), old.__bases__
    if new.__bases__ != bases:
        try:
            old.__bases__ = new.__bases__
        except TypeError as error:
            raise ValueError(f"{old.__name__}: its bases cannot be changed so ({error})") from None
    members = _members(new)
    members["__doc__"] = new.__doc__ or old.__doc__
    for cell in (c for f in _functions(members.values()) for c in f.__closure__ or ()):
        if cell.cell_contents is new:  # what super() asks, and what a dataclass compares with
            cell.cell_contents = old
    _put(old, members)

    def back() -> None:
        old.__bases__ = bases
        _put(old, before)

    return back


def _members(thing: type) -> dict[str, Any]:
    slots = (MemberDescriptorType, GetSetDescriptorType)
    return {n: v for n, v in vars(thing).items() if n not in _FIXED and not isinstance(v, slots)}


def _functions(members: Any) -> list[FunctionType]:
    found = []
    for member in members:
        inner = [getattr(member, part, None) for part in ("__func__", "fget", "fset", "func", "__wrapped__")]
        found += [f for f in (member, *inner) if isinstance(f, FunctionType)]
    return found


def _put(thing: type, members: dict[str, Any]) -> None:
    for name in _members(thing).keys() - members.keys():
        delattr(thing, name)
    for name, value in members.items():
        setattr(thing, name, value)


def _rebind(place: Place, old: Any, new: Any, spaces: list[dict[str, Any]]) -> None:
    """Let every name of a loaded module of fedlib, of its classes and of the notebook that stands for ``old`` stand for
    ``new``.
    """
    setattr(place.holder, place.name, new)
    modules = [m for n, m in list(sys.modules.items()) if n.partition(".")[0] == "fedlib"]
    classes = {c for m in modules for c in vars(m).values() if isinstance(c, type) and c.__module__ in sys.modules}
    for space in (*modules, *(c for c in classes if c.__module__.partition(".")[0] == "fedlib")):
        for name in [n for n, v in vars(space).items() if v is old]:
            setattr(space, name, new)
    for names in spaces:
        names.update({n: new for n, v in list(names.items()) if v is old})


def _forget() -> None:
    """Networks remember how they were trained and what was tried with them: with the old method."""
    net = sys.modules.get("fedlib.models.net")
    for thing in gc.get_objects() if net else ():
        if type(thing) is net.Net:  # type: ignore[union-attr]
            thing.notes.clear()
