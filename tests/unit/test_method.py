"""A method that is edited in a notebook: what changes, what follows, what is remembered, and how it is put back."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import traceback
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path

import pytest
import torch

import fedlib
from fedlib import evidence, losses, original, rng
from fedlib.algorithms import FedAvg, FedDF, FedNTD, FedOpt, Moon, fedopt
from fedlib.federation import Federation, Local
from fedlib.losses import model_contrastive
from fedlib.models import MLP
from fedlib.study import method

HALF = """\
def model_contrastive(z, z_global, z_previous, temperature=0.5):
    attract, repel = (functional.cosine_similarity(z, other.detach(), dim=-1) for other in (z_global, z_previous))
    return -functional.logsigmoid((attract - repel) / temperature).mean(-1) / 2
"""


def book(name: str) -> str:
    """The definition's own lines, from its file."""
    place = method.find(name)
    node = method._book(place)
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "".join(_lines(place)[first - 1 : node.end_lineno])


def _lines(place: method.Place) -> list[str]:
    text = Path(str(place.module.__file__)).read_text(encoding="utf-8")
    indent = "" if inspect.ismodule(place.holder) else "    "
    return [line.removeprefix(indent) for line in text.splitlines(keepends=True)]


@pytest.fixture(autouse=True)
def _the_books_methods_afterwards():
    yield
    for name in method.changed():
        if name in method._undo:
            method._undo.pop(name)()
    method._restored.clear()


@pytest.fixture
def z():
    draw = rng.stream(0, "representations")
    return [torch.randn(5, 4, generator=draw, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize(
    "name",
    [
        "fedlib.losses.model_contrastive",
        "fedlib.algorithms.Moon",
        "fedlib.algorithms.FedDF.aggregate",
        "fedlib.algorithms.fedopt.SECOND_MOMENT",
    ],
)
def test_the_books_own_lines_change_nothing(name):
    place = method.find(name)
    before = place.now
    said = method.run(name, book(name).rstrip() + "  # with a remark\n")
    assert said == f"{place}: the book's own text. Nothing is changed."
    assert place.now is before
    assert method.changed() == []


def test_a_changed_function_is_changed_for_all_who_hold_it(z):
    held = partial(model_contrastive, temperature=0.1)
    before, alone, within = model_contrastive(*z), held(*z), Moon(1.0).contrast(*z)
    said = method.run("fedlib.losses.model_contrastive", HALF)
    assert said.startswith("fedlib.losses.model_contrastive is changed in this kernel.")
    assert torch.equal(model_contrastive(*z), before / 2)
    assert torch.equal(losses.model_contrastive(*z), before / 2)
    assert torch.equal(held(*z), alone / 2)
    assert torch.equal(Moon(1.0).contrast(*z), within / 2)
    assert method.changed() == ["fedlib.losses.model_contrastive"]
    assert "Model-contrastive loss" in model_contrastive.__doc__


def test_the_books_lines_put_it_back(z):
    before = model_contrastive(*z)
    method.run("fedlib.losses.model_contrastive", HALF)
    method.run("fedlib.losses.model_contrastive", HALF.replace("/ 2", "/ 4"))
    assert torch.equal(model_contrastive(*z), before / 4)
    said = method.run("fedlib.losses.model_contrastive", book("fedlib.losses.model_contrastive"))
    assert said.startswith("fedlib.losses.model_contrastive is the book's again.")
    assert torch.equal(model_contrastive(*z), before)
    assert method.changed() == []


def test_a_changed_class_is_changed_in_its_subclasses_and_objects(z):
    class Ours(Moon):
        def contrast(self, *given):
            return 10 + super().contrast(*given)

    old, theirs = Moon(1.0), Ours(1.0)
    text = book("fedlib.algorithms.Moon").replace(
        "return model_contrastive(z, z_global,", "return 0 * _mc(z, z_global,"
    )
    text = text.replace("def contrast", "def extra(self):\n        return 'new'\n\n    def contrast")
    method.run("fedlib.algorithms.Moon", text.replace("_mc(", "model_contrastive("))
    assert float(old.contrast(*z)) == 0
    assert float(theirs.contrast(*z)) == 10
    assert theirs.extra() == "new"
    method.run("fedlib.algorithms.Moon", book("fedlib.algorithms.Moon"))
    assert torch.equal(old.contrast(*z), model_contrastive(*z))
    assert not hasattr(Moon, "extra")


def federation(algorithm, seed=0):
    x = torch.randn(40, 6, generator=rng.stream(seed, "x"))
    y = torch.arange(40) % 3
    split = [torch.arange(0, 20), torch.arange(20, 40)]
    return Federation(lambda: MLP(6, (5,), 3), x, y, split, algorithm, local=Local(1, 10, 0.1), seed=seed)


def test_super_in_a_changed_method_and_in_a_changed_class_finds_the_same_base():
    """Both ask FedAvg's aggregate for the mean, and leave the distillation out."""
    plain = federation(FedAvg())
    plain.run(1)
    unlabelled = torch.randn(10, 6, generator=rng.stream(0, "unlabelled"))
    whole = book("fedlib.algorithms.FedDF")
    short = "def aggregate(self, fed, uploads, weights):\n    super().aggregate(fed, uploads, weights)\n"
    start, end = whole.index("    def aggregate"), whole.index("    def drop_worst")
    indented = "".join(f"    {line}\n" for line in short.splitlines())
    for name, text in (
        ("fedlib.algorithms.FedDF.aggregate", short),
        ("fedlib.algorithms.FedDF", whole[:start] + indented + "\n" + whole[end:]),
    ):
        distilled = federation(FedDF(unlabelled))
        distilled.run(1)
        assert any(not torch.equal(distilled.state[n], w) for n, w in plain.state.items())
        method.run(name, text)
        fed = federation(FedDF(unlabelled))
        fed.run(1)
        assert all(torch.equal(fed.state[n], w) for n, w in plain.state.items())
        method.run(name, book(name))
        again = federation(FedDF(unlabelled))
        again.run(1)
        assert all(torch.equal(again.state[n], w) for n, w in distilled.state.items())


def test_a_federation_under_way_forgets_what_it_found_out_about_the_old_method():
    """Its clients were computed together, which the new objective does not bear: it looks at values."""
    fed = federation(Moon(1.0))
    fed.executor = "batched"
    fed.run(2)
    assert fed.net.notes["promise"]
    text = book("fedlib.losses.model_contrastive")
    method.run(
        "fedlib.losses.model_contrastive",
        text.replace("    return", "    assert float(z.detach().sum()) < 1e9\n    return"),
    )
    assert fed.net.notes == {}
    with pytest.raises(ValueError, match="looks at the values"):
        fed.run(1)


def test_a_value_is_changed_in_its_module_and_in_the_notebook(z):
    text = book("fedlib.algorithms.fedopt.SECOND_MOMENT").replace(
        '"adam": lambda', '"ours": lambda v, s, b: s, "adam": lambda'
    )
    notebook = {"table": fedopt.SECOND_MOMENT, "other": {}}
    old = fedopt.SECOND_MOMENT
    method.run("fedlib.algorithms.fedopt.SECOND_MOMENT", text, notebook)
    assert notebook["table"] is fedopt.SECOND_MOMENT
    assert "ours" in fedopt.SECOND_MOMENT
    FedOpt(optimiser="ours")
    method.run("fedlib.algorithms.fedopt.SECOND_MOMENT", book("fedlib.algorithms.fedopt.SECOND_MOMENT"), notebook)
    assert fedopt.SECOND_MOMENT is old is notebook["table"]


def test_a_class_with_the_books_lines_puts_its_methods_back_too(z):
    before = Moon(1.0).contrast(*z)
    method.run("fedlib.algorithms.moon.Moon.contrast", "def contrast(self, z, *others):\n    return z.sum() * 0")
    assert method.changed() == ["fedlib.algorithms.moon.Moon.contrast"]
    assert float(Moon(1.0).contrast(*z)) == 0
    method.run("fedlib.algorithms.Moon", book("fedlib.algorithms.Moon"))
    assert method.changed() == []
    assert torch.equal(Moon(1.0).contrast(*z), before)


def test_a_traceback_shows_the_line_of_the_cell():
    text = "def model_contrastive(*given):\n    first = 1\n    return first / 0\n"
    method.run("fedlib.losses.model_contrastive", text)
    with pytest.raises(ZeroDivisionError) as caught:
        model_contrastive()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.lineno, last.line) == (4, "return first / 0"), "the magic stands in line 1"
    assert last.name == "model_contrastive"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("fedlib.losses.proximity", "def proximity(): ...", "has no 'proximity'; is 'proximal' meant"),
        ("numpy.sin", "def sin(): ...", "expected a definition of fedlib"),
        ("fedlib.losses", "x = 1", "expected a definition of fedlib"),
        ("fedlib.study.method.changed", "def changed(since=None): return []", "is no method; it stays as it is"),
        ("fedlib.evidence.Run.record", "def record(self, *_): ...", "is no method; it stays as it is"),
        ("fedlib.study.Dirichlet", "class Dirichlet: ...", "is no method; it stays as it is"),
        ("fedlib.algorithms.Moon", "def Moon(): pass", "is a class, and the cell makes a function of it"),
        ("fedlib.losses.kd", "class kd: ...", "is a function, and the cell makes a class of it"),
        ("fedlib.losses.kd", "kd = 3", "is a function, and the cell makes a value of it"),
        ("fedlib.losses.kd", "def kl(): ...", "expected one definition of 'kd'"),
        ("fedlib.losses.kd", "import math\ndef kd(): ...", "imports go inside"),
        ("fedlib.algorithms.Moon", "class Moon:\n    __slots__ = ('mu',)", "slots of a class cannot be changed"),
    ],
)
def test_what_cannot_be_a_definition_is_refused_and_changes_nothing(name, text, said):
    with pytest.raises(ValueError, match=said):
        method.run(name, text)
    assert method.changed() == []


def test_a_definition_that_is_no_python_changes_nothing(z):
    before = model_contrastive(*z)
    with pytest.raises(SyntaxError):
        method.run("fedlib.losses.model_contrastive", "def model_contrastive(z:\n    return 1")
    assert torch.equal(model_contrastive(*z), before)


def test_a_frozen_dataclass_that_is_changed_stays_one():
    """Its methods were made for the class of the cell, and must know the one that they are in."""
    text = book("fedlib.rounds.Local")
    assert text.startswith("@dataclass(frozen=True)\nclass Local:")
    field = "    lr_decay: float"
    method.run("fedlib.rounds.Local", text.replace(field, f"    patience: int = 7\n{field}", 1))
    assert (Local(1, 10, 0.1).patience, Local(1, 10, 0.1)) == (7, Local(1, 10, 0.1))
    with pytest.raises(FrozenInstanceError):
        Local(1, 10, 0.1).lr = 3
    with pytest.raises(FrozenInstanceError):
        Local(1, 10, 0.1).unknown = 3


def test_a_class_may_get_another_base_and_back():
    text, base = book("fedlib.algorithms.fedntd.FedNTD"), FedNTD.__bases__
    (header,) = [line for line in text.splitlines() if line.startswith("class ")]
    method.run(
        "fedlib.algorithms.fedntd.FedNTD", text.replace(header, "class FedNTD(__import__('fedlib').algorithms.Moon):")
    )
    assert FedNTD.__bases__ == (Moon,)
    method.run("fedlib.algorithms.fedntd.FedNTD", text)
    assert FedNTD.__bases__ == base


def test_evidence_names_what_was_changed_while_it_was_measured():
    run = evidence.Run("smoke", [0])
    assert "changed" not in run.evidence()
    method.run("fedlib.losses.model_contrastive", HALF)
    assert run.evidence()["changed"] == ["fedlib.losses.model_contrastive"]
    method.run("fedlib.losses.model_contrastive", book("fedlib.losses.model_contrastive"))
    assert run.evidence()["changed"] == ["fedlib.losses.model_contrastive"], "put back, but numbers may be of before"
    assert "changed" not in evidence.Run("smoke", [0]).evidence()


def in_a_cell(text, **names):
    """What an ordinary cell does: its code has no file."""
    exec(compile(text, "/tmp/ipykernel_7/12.py", "exec"), {"__name__": "__main__", **names})


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("Moon.contrast = lambda *_: 0", "fedlib.algorithms.moon.Moon.contrast"),
        ("Moon.__init__ = lambda *_: None", "fedlib.algorithms.moon.Moon.__init__"),
        ("Moon.weighting = property(lambda self: 'clients')", "fedlib.algorithms.moon.Moon.weighting"),
        ("losses.kd = lambda *_: 0", "fedlib.losses.kd"),
        ("class Other: ...\nlosses.kd = Other()", "fedlib.losses.kd"),
        ("def f(*_): return 0\nlosses.kd.__code__ = f.__code__", "fedlib.losses.kd"),
        ("evidence.Run.interval = lambda *_: 0", "fedlib.evidence.Run.interval"),
        ("method.changed = lambda since=None: []", "fedlib.study.method.changed"),
    ],
)
def test_evidence_names_what_an_ordinary_cell_put_in_the_place_of_the_books_method(cell, name, monkeypatch):
    run = evidence.Run("smoke", [0])
    for thing, part in ((Moon, "contrast"), (Moon, "__init__"), (losses, "kd"), (evidence.Run, "interval")):
        monkeypatch.setattr(thing, part, getattr(thing, part))
    monkeypatch.setattr(method, "changed", method.changed)
    monkeypatch.setattr(losses.kd, "__code__", losses.kd.__code__)
    monkeypatch.setattr(Moon, "weighting", Moon.weighting)
    assert "changed" not in run.evidence()
    in_a_cell(cell, Moon=Moon, losses=losses, evidence=evidence, method=method)
    assert run.evidence()["changed"] == [name]


def test_a_class_that_is_changed_is_named_and_not_its_members_too():
    run = evidence.Run("smoke", [0])
    text = book("fedlib.algorithms.Moon")
    method.run("fedlib.algorithms.Moon", text + "\n    def more(self):\n        return 1\n")
    assert run.evidence()["changed"] == ["fedlib.algorithms.moon.Moon"]


def test_all_of_fedlib_is_its_own():
    for module in pkgutil.walk_packages(fedlib.__path__, "fedlib."):
        importlib.import_module(module.name)
    assert original.changed() == []


def test_loading_outside_of_a_notebook_does_nothing():
    method.load()


def test_the_module_under_test_is_this_checkouts():
    assert Path(fedlib.__file__).parents[1] == Path(__file__).parents[2]
    assert "fedlib.study.method" in sys.modules
