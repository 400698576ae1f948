"""Settings of networks that are trained in one place: what they refuse, and that every field is used."""

import pytest
import torch
from torch import nn

from fedlib import study
from fedlib.data import glyphs
from fedlib.training import Objective, Training


def central(**changes) -> study.Central:
    settings = {
        "data": "digits", "model": lambda: nn.Linear(64, 10), "flat": True, "samples": 60, "test": 20, "seeds": 1,
        "last": 2, "training": Training(3, 32), "dtype": torch.float64,
    }  # fmt: skip
    return study.Central(**(settings | changes))


def test_a_trainer_has_the_samples_the_watchers_and_the_precision_that_it_is_given() -> None:
    setting, seen = central(precision="bf16"), []

    def make(samples):
        return lambda trainer, epoch: seen.append(samples)

    own = setting.draw(1)
    trainer = setting.start(Objective(), 0, samples=own, watch=[make], device="cpu")
    assert trainer.precision == "bf16"
    assert torch.equal(trainer.x, own.x)
    assert not torch.equal(trainer.x, setting.start(Objective(), 0, device="cpu").x)
    trainer.run()
    assert len(seen) == 3
    assert all(samples is own for samples in seen)


def test_only_the_last_epochs_are_judged() -> None:
    history = central().start(Objective(), 0, device="cpu").run()
    assert ["accuracy" in row for row in history] == [False, True, True]


def test_letters_can_be_rows() -> None:
    setting = central(data="glyphs", look=glyphs.Domain(), side=8)
    assert setting.draw(0).x.shape == (60, 64)
    assert central(data="glyphs", look=glyphs.Domain(), side=8, flat=False).draw(0).x.shape == (60, 1, 8, 8)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"precision": "fp8"}, "precision must be 'bf16'"),
        ({"last": 9}, "last: a run of 3 epochs has no last 9"),
        ({"side": 0}, "side must be a whole number"),
        ({"data": "glyphs", "side": 8}, "side: letters of 8 pixels are rendered"),
        ({"data": "glyphs", "look": glyphs.Domain(), "normalise": False}, "normalise: letters with a look"),
        ({"training": 3}, "training: expected how to train"),
        ({"model": 3}, "model: expected something to call"),
    ],
)
def test_what_would_be_ignored_or_cannot_work_is_refused(wrong: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        central(**wrong)
