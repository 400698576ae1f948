"""Figures of experiments: what is drawn, and what the alternative text says of it."""

import re

import pytest
from matplotlib import pyplot

from fedlib import plots, study
from fedlib.plots import look
from fedlib.study.runs import Runs


@pytest.fixture
def shown(monkeypatch):
    """The figures and alternative texts that were shown."""
    seen = []
    monkeypatch.setattr(plots.look, "show", lambda fig, alt: seen.append((fig, alt)))
    monkeypatch.setattr(plots, "show", lambda fig, alt: seen.append((fig, alt)), raising=False)
    yield seen
    pyplot.close("all")


@pytest.fixture
def experiment():
    made = study.begin({"quick": study.Setting(seeds=3)}, "quick")
    values = {"fedavg": (0.5, 0.6, 0.7), "moon": (0.52, 0.61, 0.75), "moon-10": (0.4, 0.4, 0.4)}
    for method, numbers in values.items():
        made.record(f"accuracy/{method}", dict(enumerate(numbers)))
        made.record(f"drift/{method}", {s: 2 * v for s, v in enumerate(numbers)})
    return made


def test_bars_name_every_method_and_its_mean_in_every_panel(experiment, shown):
    study.bars(experiment, {"Accuracy": "accuracy/{}", "Drift": "drift/{}"}, ["fedavg", "moon"])
    fig, alt = shown[0]
    assert "Accuracy: FedAvg 60.0%, MOON 62.7%" in alt
    assert "Drift: FedAvg 1.2, MOON 1.25" in alt
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["Accuracy", "Drift"]


def test_bars_leave_out_what_was_not_measured(experiment, shown):
    study.bars(experiment, "accuracy/{}", ["fedavg", "scaffold"])
    assert "scaffold" not in shown[0][1].lower()


def test_the_number_of_a_bar_to_the_left_stands_beside_it(experiment, shown):
    experiment.record("drop/fedavg", lambda seed: -0.3 - 0.1 * seed)
    experiment.record("drop/moon", lambda seed: 0.5)
    study.bars(experiment, "drop/{}", ["fedavg", "moon"])
    left, right = shown[0][0].axes[0].texts
    assert (left.get_text(), left.xy[0]) == ("−0.4", 0.0)
    assert right.xy[0] == 0.5


def test_differences_are_paired_and_signed(experiment, shown):
    study.differences(experiment, "accuracy/{}", ["moon", "moon-10"], to="fedavg", least=0.02)
    fig, alt = shown[0]
    assert "MOON +2.67 points" in alt
    assert "−20 points" in alt
    dots = fig.axes[0].collections[0].get_offsets()[:, 0]
    assert dots.tolist() == pytest.approx([2.0, 1.0, 5.0])
    assert any(
        line.get_xdata()[0] == pytest.approx(2.0) for line in fig.axes[0].lines if len(set(line.get_xdata())) == 1
    )


def test_a_sweep_draws_a_mean_over_each_value(experiment, shown):
    keys = {0: "fedavg", 5: "moon", 10: "moon-10"}
    study.sweep(
        experiment, {"Accuracy": "accuracy/{}"}, keys, "weight", baselines={"FedAvg": "accuracy/fedavg"}, log=False
    )
    fig, alt = shown[0]
    thick = max(fig.axes[0].lines, key=lambda line: line.get_linewidth())
    assert list(thick.get_xdata()) == [0, 5, 10]
    assert list(thick.get_ydata()) == pytest.approx([0.6, 0.62666667, 0.4])
    assert "0: 60.0%, 5: 62.7%, 10: 40.0%" in alt


def test_lines_of_a_sweep_may_be_functions_of_the_value_and_are_told_with_their_panel(experiment, shown):
    lines = {"up": {0: "fedavg", 5: "moon"}.get, "level": lambda value: "fedavg"}
    named = {name: lambda value, key=key: f"accuracy/{key(value)}" for name, key in lines.items()}
    study.sweep(experiment, {"Accuracy": named}, [0, 5], "weight", log=False)
    fig, alt = shown[0]
    assert "Accuracy, up: 0: 60.0%, 5: 62.7%. Accuracy, level: 0: 60.0%, 5: 60.0%" in alt
    ends = [line.get_ydata()[-1] for line in fig.axes[0].lines if line.get_linewidth() > 1]
    assert ends == pytest.approx([0.62666667, 0.6])


def test_curves_tell_where_each_method_ends(shown):
    runs = Runs()
    for method, top in (("fedavg", 0.8), ("moon", 0.9)):
        runs.add(
            method, {s: {"curves": {"accuracy": [0.1, 0.5, top]}, "last": {}, "bytes": 0, "found": {}} for s in (0, 1)}
        )
    study.curves(runs, "accuracy", first=2)
    fig, alt = shown[0]
    assert "FedAvg 80.0%, MOON 90.0%" in alt
    assert list(fig.axes[0].lines[0].get_xdata()) == [2, 3]


def test_panels_of_curves_may_share_a_logarithmic_scale(shown):
    runs = Runs()
    curves = {"loss": [1.0, 0.1], "own_loss": [1.0, 0.01]}
    runs.add("fedavg", {0: {"curves": curves, "last": {}, "bytes": 0, "found": {}}})
    study.curves(runs, *curves, log=True, share=True)
    left, right = shown[0][0].axes
    assert left.get_yscale() == "log"
    assert left.get_ylim() == right.get_ylim()


def test_curves_may_stand_over_another_column_on_a_logarithmic_axis(shown):
    runs = Runs()
    curves = {"accuracy": [0.1, 0.5, 0.8], "step": [10, 100, 1000]}
    runs.add("fedavg", {s: {"curves": curves, "last": {}, "bytes": 0, "found": {}} for s in (0, 1)})
    study.curves(runs, "accuracy", x="step", log_x=True)
    fig, alt = shown[0]
    assert list(fig.axes[0].lines[0].get_xdata()) == [10, 100, 1000]
    assert (fig.axes[0].get_xscale(), fig.axes[0].get_xlabel()) == ("log", "step")
    assert alt.startswith("Lines over step,")


def test_methods_of_a_chapter_get_names_and_colours_of_their_own(monkeypatch):
    monkeypatch.setattr(look, "METHODS", dict(look.METHODS))
    before = look.METHODS["moon"]
    study.names(pull="pull alone", push="push alone", moon="MOON, μ = 5")
    pull, push = look.style("pull"), look.style("push")
    assert (pull.label, push.label) == ("pull alone", "push alone")
    assert pull.colour != push.colour
    assert look.METHODS["moon"] == before._replace(label="MOON, μ = 5")


def test_a_colour_of_a_method_that_is_named_beside_them_is_no_method_of_the_chapters(monkeypatch):
    monkeypatch.setattr(look, "METHODS", dict(look.METHODS))
    study.names({"mine": "fedprox"}, one="one", two="two", three="three", fedntd="FedNTD", mine="FedProx, mine")
    fresh = {look.style(name).colour for name in ("one", "two", "three")}
    assert not fresh & {look.style("fedntd").colour, look.style("fedprox").colour}
    assert look.style("mine") == look.style("fedprox")._replace(label="FedProx, mine")


def test_no_alternative_text_has_a_hyphen_for_a_minus(experiment, shown):
    study.differences(experiment, "drift/{}", ["moon-10"], to="fedavg")
    assert not re.search(r"(?<![\w.])-\d", shown[0][1])


@pytest.mark.parametrize(
    ("panels", "methods", "said"),
    [
        ("accuracy/{}", ["z"], r"nothing to draw of 'accuracy/\{\}' for z; recorded: accuracy/fedavg, "),
        ("accuracy/{}", [], "nothing to draw .* for no method"),
        ("accuracy/moon", ["moon"], r"'accuracy/moon': expected a metric with \{\} where the method stands"),
        ({}, ["moon"], "nothing to draw: no panel is given"),
    ],
)
def test_a_figure_of_nothing_is_refused(experiment, shown, panels, methods, said):
    for draw in (study.bars, lambda *given: study.differences(*given, to="fedavg")):
        with pytest.raises(ValueError, match=said):
            draw(experiment, panels, methods)
    assert shown == []


def test_curves_and_sweeps_of_nothing_are_refused(experiment, shown):
    with pytest.raises(ValueError, match="nothing to draw of nosuch/1, nosuch/2; recorded: accuracy/fedavg"):
        study.sweep(experiment, {"Accuracy": "nosuch/{}"}, [1, 2], "weight")
    with pytest.raises(ValueError, match="nothing to draw: 0 methods, 1 columns; there are Runs: methods none"):
        study.curves(Runs(), "accuracy")
    assert shown == []


def test_a_colour_like_that_of_nobody_is_refused(monkeypatch):
    monkeypatch.setattr(look, "METHODS", dict(look.METHODS))
    with pytest.raises(ValueError, match=r"like 'nosuch': no such method has a colour; there are .*fedavg"):
        study.names({"mine": "nosuch"}, mine="Mine")
    with pytest.raises(ValueError, match="names of mine: `like` says whose colour, and no label is given"):
        study.names({"mine": "fedavg"}, other="Other")


def test_many_methods_of_a_chapter_look_unlike_each_other_and_unlike_fedavg(monkeypatch):
    monkeypatch.setattr(look, "METHODS", dict(look.METHODS))
    study.names(moon="MOON", **{f"own{i}": f"own {i}" for i in range(9)})
    drawn = [look.style(f"own{i}")._replace(label="") for i in range(9)]
    assert len({(one.colour, one.marker) for one in drawn}) == 9
    assert look.style("fedavg").colour not in {one.colour for one in drawn}


def test_lines_that_end_apart_have_a_legend_and_the_text_says_where_each_ends(shown):
    runs = Runs()
    for method, sent in (("fedavg", 100), ("moon", 1)):
        curves = {"accuracy": [0.1, 0.5, 0.8], "megabytes": [sent, 2 * sent, 3 * sent]}
        runs.add(method, {s: {"curves": curves, "last": {}, "bytes": 0, "found": {}} for s in (0, 1)})
    study.curves(runs, "accuracy", x="megabytes", log_x=True)
    fig, alt = shown[0]
    assert "FedAvg 80.0% at 300 megabytes, MOON 80.0% at 3 megabytes" in alt
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["FedAvg", "MOON"]
    assert not fig.axes[0].texts


def test_panels_of_curves_have_one_legend_and_titles_that_fit(shown):
    runs = Runs()
    curves = {"a": [1.0, 0.1], "b": [1.0, 0.2], "c": [1.0, 0.3]}
    runs.add("fedavg", {0: {"curves": curves, "last": {}, "bytes": 0, "found": {}}})
    study.curves(runs, *curves, titles=["cosine of its own to the global model"] * 3)
    fig, _ = shown[0]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["FedAvg"]
    assert "\n" in fig.axes[0].get_title(loc="left")
