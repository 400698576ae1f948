"""What pages are made of: badges, quantities, sources by name, colours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from book.site import card, elements, evidence, source


@pytest.mark.parametrize("verdict", list(elements.SIGNS))
def test_badge_says_the_verdict_in_words(verdict):
    badge = elements.badge(verdict)
    assert verdict in badge.astext()
    assert f"verdict-{verdict.replace(' ', '-')}" in badge["classes"]


def test_badge_refuses_a_verdict_that_does_not_exist():
    with pytest.raises(ValueError, match="unknown verdict 'confirmed'"):
        elements.badge("confirmed")


@pytest.mark.parametrize(
    ("value", "unit", "difference", "shown"),
    [
        (0.8123, "accuracy", False, "81.2\u00a0%"),
        (0.0312, "accuracy", True, "+3.1 points"),
        (-0.0312, "accuracy", True, "−3.1 points"),
        (1_234_567, "bytes", False, "1.23 MB"),
        (50.0, "ratio", False, "50"),
        (0.98, "ratio", False, "0.980"),
        (-1.25, "rounds", True, "−1.25 rounds"),
        (None, "steps", False, "–"),
    ],
)
def test_quantities_read_well(value, unit, difference, shown):
    assert elements.quantity(value, unit, difference) == shown


def test_lazy_re_export_is_found_in_the_module_that_defines_it(tmp_path):
    package = tmp_path / "fedlib" / "algorithms"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def __getattr__(name): ...\n")
    (package / "fedntd.py").write_text("class FedNTD:\n    beta = 1.0\n\n    def loss(self):\n        return 0\n")
    found = source.source_of("fedlib.algorithms.FedNTD.loss", root=tmp_path)
    assert found.text == "def loss(self):\n    return 0"
    assert found.path == Path("fedlib/algorithms/fedntd.py")
    assert (found.first, found.last) == (4, 5)


def test_every_verdict_and_label_has_enough_contrast_in_both_modes():
    css = (Path(__file__).parents[2] / "book" / "static" / "book.css").read_text()
    modes = re.findall(r'html\[data-theme="(light|dark)"\] \{([^}]*--book-line[^}]*)\}', css)
    assert [mode for mode, _ in modes] == ["light", "dark"]
    for mode, block in modes:
        colours = dict(re.findall(r"--book-([a-z-]+):\s*(#[0-9a-f]{6})", block))
        for name in ("good", "part", "open", "bad", "zero", "none"):
            ratio = contrast(colours[name], colours[f"{name}-back"])
            assert ratio >= 4.5, f"{mode}: {name} has contrast {ratio:.2f}, WCAG AA wants 4.5"
        assert contrast(colours["quiet"], colours["panel"]) >= 4.5


@pytest.mark.parametrize(
    ("metric", "unit"),
    [("accuracy/a", "accuracy"), ("client-accuracy/a", "accuracy"), ("accuracy-iid/a", "accuracy")]
    + [("bytes/up", "bytes"), ("bytes-ratio/a", ""), ("kept-ratio/a", "")],
)
def test_a_metric_without_a_claim_has_the_unit_that_its_name_says(metric, unit, monkeypatch):
    monkeypatch.setattr(evidence.press, "card", lambda slug: type("Card", (), {"claims": [], "units": {}}))
    assert evidence.unit_of("any", metric) == unit


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("precision", "shown"),
    [
        (None, "NVIDIA H100"),
        ("float32, float64", "NVIDIA H100"),
        ("float32, tf32", "NVIDIA H100, in tf32"),
        ("tf32 (here: float32)", "NVIDIA H100, in tf32 (here: float32)"),
    ],
)
def test_a_run_names_its_precision_where_it_is_not_that_of_its_types(precision, shown):
    assert card.device({"device": "NVIDIA H100", "precision": precision}) == shown
