"""Figures: what is drawn is the data, labels stay apart, the look is fixed, none goes without alternative text."""

import itertools
import math
import struct

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib import pyplot
from matplotlib.colors import to_rgb

from fedlib import plots
from fedlib.evidence import interval
from fedlib.plots import lines, look


@pytest.fixture(autouse=True)
def quiet_backend():
    before = mpl.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(before)


def histories(**final: float) -> dict:
    """Three seeds of four rounds per method, ending at `final`, `final` - 0.01 and `final` + 0.01."""
    return {
        name: {
            s: [{"round": r, "accuracy": r / 4 * end + d} for r in range(1, 5)] for s, d in enumerate((0, -0.01, 0.01))
        }
        for name, end in final.items()
    }


def test_curves_draw_means_and_the_student_band():
    ax = plots.curves(histories(fedavg=0.6, feddf=0.8), "accuracy")
    drawn = {line.get_label(): line for line in ax.lines}
    assert drawn["FedDF"].get_ydata() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert list(drawn["FedDF"].get_xdata()) == [1, 2, 3, 4]
    band = ax.collections[0].get_paths()[0].vertices
    at_end = band[band[:, 0] == 4][:, 1]
    expected = interval([0.59, 0.6, 0.61])
    assert (min(at_end), max(at_end)) == pytest.approx((expected.low, expected.high))
    assert {text.get_text() for text in ax.texts} == {"FedAvg", "FedDF"}  # named at the line, no legend
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("round", "accuracy")


def test_curves_can_show_each_seed_take_a_function_and_skip_rounds_without_value():
    runs = histories(fedavg=0.6)["fedavg"]
    runs[0][1].pop("accuracy")
    ax = plots.curves({"fedavg": list(runs.values())}, "accuracy", spread="seeds", labels=False)
    assert [len(line.get_xdata()) for line in ax.lines] == [3, 3, 3, 3]
    ax = plots.curves(histories(fedavg=0.6), lambda row: 2 * row["accuracy"], ylabel="twice", labels=False)
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(1.2)


def test_curves_name_what_is_missing():
    with pytest.raises(ValueError, match="'fedavg' has no value of 'loss'"):
        plots.curves(histories(fedavg=0.6), "loss")
    with pytest.raises(ValueError, match="expected 'band' or 'seeds'"):
        plots.curves(histories(fedavg=0.6), "accuracy", spread="sd")


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.08))
def test_labels_stand_apart_in_order_and_inside(places, gap):
    places = sorted(places)
    spots = lines._apart(places, gap)
    assert len(spots) == len(places)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(spots))
    assert min(spots) >= -1e-9
    assert max(spots) <= 1 + 1e-9
    if all(b - a >= gap for a, b in itertools.pairwise(places)):
        assert spots == pytest.approx(places)  # nothing is moved without need


def test_every_known_method_has_its_own_look_and_readable_name():
    assert len({(s.colour, s.marker, str(s.dash)) for s in look.METHODS.values()}) == len(look.METHODS)
    assert plots.style("FedDF") is plots.style("fed-df") is look.METHODS["feddf"]
    assert plots.style("something new") is None
    for colour in (*(s.colour for s in look.METHODS.values()), *look.CYCLE):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(look.readable(colour))]
        assert 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05) >= 4.48  # 8-bit rounding


def test_new_names_get_free_colours_and_known_ones_keep_theirs():
    found = look.styles(["FedAvg", "dense", "dropped"])
    assert list(found) == ["FedAvg", "dense", "dropped"]
    assert found["FedAvg"].colour == look.METHODS["fedavg"].colour
    assert len({s.colour for s in found.values()}) == 3
    assert len(look.styles([f"variant {i}" for i in range(20)])) == 20


def test_bars_show_means_seeds_and_interval():
    ax = plots.bars({"fedavg": [0.5, 0.6, 0.7], "one seed": {0: 0.3}}, percent=True, reference=0.4)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.6, 0.3])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["FedAvg", "one seed"]
    assert [t.get_text() for t in ax.texts] == ["60.0%", "30.0%"]
    spread = interval([0.5, 0.6, 0.7])
    assert list(ax.lines[0].get_xdata()) == pytest.approx([spread.low, spread.high])
    assert ax.collections[0].get_offsets()[:, 0].tolist() == pytest.approx([0.5, 0.6, 0.7])
    with pytest.raises(ValueError, match="empty"):
        plots.bars({})


def test_heatmap_prints_cells_legibly_and_centres():
    ax = plots.heatmap([[0.0, -0.04], [1.0, 2.0]], rows=["a", "b"], columns=["x", "y"], text="{:+.1f}", centre=0)
    assert [t.get_text() for t in ax.texts] == ["0.0", "0.0", "+1.0", "+2.0"]
    assert ax.images[0].get_clim() == (-2, 2)
    plain = plots.heatmap(np.linspace(0, 1, 6).reshape(2, 3), text="{:.1f}", bar="accuracy")
    assert {t.get_color() for t in plain.texts} == {"white", look.INK}
    with pytest.raises(ValueError, match="1 names for 2 rows"):
        plots.heatmap([[0], [1]], rows=["a"])


def test_waiting_map_draws_equal_and_empty_cells_and_refuses_what_it_cannot_scale():
    ax = plots.waiting_map([[3.0, math.nan], [3.0, 3.0]], [["3", ""], ["> 3", "3"]], censored=[[0, 0], [1, 0]])
    low, high = ax.images[0].get_clim()
    assert low == 3 < high
    assert [t.get_text() for t in ax.texts] == ["3", "·", "> 3", "3"]
    assert [patch.get_hatch() for patch in ax.patches] == ["////"]
    shaded = plots.waiting_map([[1.0, 100.0]], [["1", "100"]], rows=["FedAvg"], columns=["a", "b"])
    assert shaded.images[0].get_clim() == (1, 100)
    assert shaded.texts[0].get_color() == "white" != shaded.texts[1].get_color()
    assert plots.waiting_map([[math.nan]], [[""]], low=1, high=9).images[0].get_clim() == (1, 9)
    with pytest.raises(ValueError, match="no cell is filled"):
        plots.waiting_map([[math.nan]], [[""]])
    with pytest.raises(ValueError, match="differ"):
        plots.waiting_map([[1.0]], [["1", "2"]])


def test_client_labels_have_areas_proportional_to_counts():
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    ax = plots.client_labels([torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5]), torch.tensor([6])], labels)
    bubbles = ax.collections[0]
    places = [tuple(p) for p in bubbles.get_offsets().tolist()]
    area = dict(zip(places, bubbles.get_sizes(), strict=True))
    assert set(area) == {(0, 0), (1, 1), (1, 2), (2, 2)}
    assert area[0, 0] == pytest.approx(4 * area[1, 1])


def test_decision_map_mixes_class_colours_by_probability():
    _, ax = plots.figure()
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, -1])
    plots.decision_map(ax, lambda z: torch.stack([-50 * z[:, 0], 50 * z[:, 0], -99 + 0 * z[:, 0]], 1), points=points)
    colours = ax.images[0].get_array()
    for side, c in ((0, 0), (-1, 1)):
        expected = [0.6 * v + 0.4 for v in to_rgb(look.CYCLE[c])]
        assert list(colours[80, side]) == pytest.approx(expected, abs=1e-6)
    assert [len(c.get_offsets()) for c in ax.collections[1:]] == [1, 0, 0, 1]
    with pytest.raises(ValueError, match="expected 3 columns"):
        plots.decision_map(ax, lambda z: z)


def test_histogram_counts_shares_of_all_entries():
    values = torch.tensor([0.0, 0.0, 1e-3, -1e-3, 1.0, 10.0])
    ax = plots.histogram_loglog({"gradient": values}, bins=8)
    assert float(ax.patches[0].get_data().values.sum()) == pytest.approx(4 / 6)
    assert ax.get_legend().get_texts()[0].get_text() == "gradient (33.3% zeros)"
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    with pytest.raises(ValueError, match="no non-zero value in nothing"):
        plots.histogram_loglog({"nothing": torch.zeros(3)})


def test_samples_lay_out_images():
    ax = plots.samples(torch.rand(7, 3, 8, 8), columns=5, titles=list("abcdefg"))
    assert len(ax.images) == 7
    assert [t.get_text() for t in ax.texts] == list("abcdefg")
    with pytest.raises(ValueError, match=r"expected \[N, C, H, W\]"):
        plots.samples(torch.rand(7, 8, 8))


def test_same_figure_same_bytes_and_the_documented_size():
    first, second = (plots.png(plots.curves(histories(fedavg=0.6, feddf=0.8), "accuracy").figure) for _ in range(2))
    assert first == second
    width, height = struct.unpack(">II", first[16:24])
    assert abs(width - look.WIDTH * look.DPI) <= 1
    assert abs(height - 3 * look.DPI) <= 1


def test_show_demands_a_text_and_closes_the_figure():
    fig, _ = plots.figure()
    with pytest.raises(ValueError, match="alternative text"):
        plots.show(fig, "  ")
    assert pyplot.fignum_exists(fig.number)
    plots.show(fig, "An empty figure.")
    assert not pyplot.fignum_exists(fig.number)


def test_show_puts_the_text_into_the_outputs_metadata(monkeypatch):
    import IPython
    import IPython.display

    sent = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda content, **options: sent.append((content, options)))
    plots.show(plots.figure(height=2)[0], "Accuracy rises.")
    (content, options), *more = sent
    assert not more
    assert content["image/png"].startswith("iVBOR")
    assert content["text/plain"] == "Accuracy rises."
    assert options["metadata"]["image/png"] == {"alt": "Accuracy rises.", "width": 720, "height": 200}
    assert math.isclose(look.WIDTH * 100, 720)
