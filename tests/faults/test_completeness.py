"""The list of planted faults grows with the algorithms, and fits the code as it stands."""

from __future__ import annotations

import inspect
from pathlib import Path

import planting
import pytest
from planting import PARTS, REPOSITORY, catalogue, planted

from fedlib import algorithms

FAULTS = catalogue()
ALGORITHMS = sorted(n for n in dir(algorithms) if isinstance(getattr(algorithms, n), type))


def home(kind: type) -> str:
    """The file of a class, below fedlib."""
    return str(Path(inspect.getsourcefile(kind)).relative_to(Path(algorithms.__file__).parents[1]).as_posix())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_part_that_an_algorithm_has_of_its_own_has_a_fault(name):
    kind = getattr(algorithms, name)
    for part, hooks in PARTS.items():
        own = sorted(hooks & set(vars(kind)))
        planted_there = [f for f in FAULTS if f.hook in {f"{name}.{hook}" for hook in own} and f.file == home(kind)]
        assert planted_there or not own, (
            f"{name} says itself what its {part} is ({', '.join(own)}), and no fault is planted there: add one to "
            f"tests/faults/test_algorithms_faults.py with hook='{name}.{own[0]}', and the test that reports it"
        )


def test_hooks_are_those_that_the_class_overrides():
    known = set().union(*PARTS.values())
    for fault in (f for f in FAULTS if f.hook):
        name, _, hook = fault.hook.partition(".")
        assert hook in known, fault.id
        assert hook in vars(getattr(algorithms, name)), f"{fault.id}: {name} has no {hook} of its own"


def test_every_fault_has_a_name_of_its_own_and_somebody_to_report_it():
    ids = [f.id for f in FAULTS]
    assert len(ids) == len(set(ids)), sorted(i for i in ids if ids.count(i) > 1)
    assert [f.id for f in FAULTS if not f.tests and not f.chapter] == []


def test_every_fault_fits_the_code():
    """All misfits at once: a change of fedlib may move several."""
    misfits = []
    for fault in FAULTS:
        text = (REPOSITORY / "fedlib" / fault.file).read_text(encoding="utf-8")
        if text.count(fault.right) != 1:
            misfits.append(f"{fault.id}: fedlib/{fault.file} has it {text.count(fault.right)} times")
    assert misfits == []


def test_a_fault_that_no_longer_fits_says_so(tmp_path):
    fault = FAULTS[0]
    path = tmp_path / "fedlib" / fault.file
    path.parent.mkdir(parents=True)
    path.write_text("something else\n")
    with pytest.raises(AssertionError, match="no longer fits: its text stands 0 times"), planted(fault, tmp_path):
        pass


def test_three_turns_plant_every_fault(monkeypatch):
    monkeypatch.setenv("FAULTS", "turn")
    turns = []
    for turn in range(3):
        monkeypatch.setattr(planting, "_turn", lambda turn=turn: turn)
        turns += [f.id for f in planting.planted_today(FAULTS)]
    assert sorted(turns) == sorted(f.id for f in FAULTS)


def test_all_are_planted_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("FAULTS", raising=False)
    assert planting.planted_today(FAULTS) == FAULTS
    monkeypatch.setenv("FAULTS", "some")
    with pytest.raises(ValueError, match="'all' or 'turn', not 'some'"):
        planting.planted_today(FAULTS)
