"""Lines over rounds, and histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, Any]]  # one row per round
Column = str | Callable[[Mapping[str, Any]], float]


def curves(
    histories: Mapping[str, Mapping[Any, History] | Sequence[History]],
    y: Column,
    *,
    x: str = "round",
    ax: Axes | None = None,
    spread: str = "band",
    ylabel: str | None = None,
    xlabel: str | None = None,
    percent: bool = False,
    labels: bool = True,
    log: bool = False,
) -> Axes:
    """One mean line per method over the seeds' histories.

    histories: method -> the histories of its seeds, as a sequence or keyed by seed; rows without the column
    are skipped, and rounds that not all seeds have are left out.
    y: a column's name, or a function from row to number.
    spread: "band" shades the mean's 95% interval over seeds (from two seeds on), "seeds" draws each seed as
    a thin line.
    percent: show shares as percentages. labels: name each line at its end. log: logarithmic y axis.
    Raises ValueError when a method has no value.
    """
    from fedlib.evidence import interval

    if spread not in ("band", "seeds"):
        raise ValueError(f"spread is {spread!r}; expected 'band' or 'seeds'.")
    axes = ax if ax is not None else look.figure()[1]
    ends = []
    drawings = look.styles(histories)
    for order, name in enumerate(histories):
        drawn = drawings[name]
        runs = histories[name]
        series = [_column(run, x, y) for run in (runs.values() if isinstance(runs, Mapping) else runs)]
        places = [p for p in (series[0] if series else {}) if all(p in one for one in series)]
        if not places:
            raise ValueError(f"curves: {name!r} has no value of {y!r} that all its {len(series)} seeds share.")
        means = [math.fsum(one[p] for one in series) / len(series) for p in places]
        every = max(1, math.ceil(len(places) / 8))
        axes.plot(
            places,
            means,
            color=drawn.colour,
            linestyle=drawn.dash,
            marker=drawn.marker or None,
            markevery=(order % every, every),  # staggered: markers of close lines do not cover one another
            label=drawn.label,
            zorder=3,
        )
        if len(series) > 1 and spread == "band":
            bounds = [interval([one[p] for one in series]) for p in places]
            low, high = [b.low for b in bounds], [b.high for b in bounds]
            low, high = ([max(v, 0) for v in low], [min(v, 1) for v in high]) if percent else (low, high)
            axes.fill_between(places, low, high, color=drawn.colour, alpha=0.15, linewidth=0)
        elif len(series) > 1:
            for one in series:
                axes.plot(places, [one[p] for p in places], color=drawn.colour, alpha=0.35, linewidth=0.8, zorder=2)
        ends.append((places[-1], means[-1], drawn.label, drawn.colour))
    if log:
        axes.set_yscale("log")
    elif percent:
        as_percent(axes)
    axes.margins(x=0.01)
    axes.set_xlabel(xlabel if xlabel is not None else x)
    axes.set_ylabel(ylabel if ylabel is not None else (y if isinstance(y, str) else "").replace("_", " "))
    if labels:
        label_ends(axes, ends)
    return axes


def label_ends(ax: Axes, ends: Iterable[tuple[float, float, str, str]]) -> None:
    """Names lines at their right ends instead of a legend; `ends` are (x, y, text, colour).

    Labels stand right of the axes, moved apart so that none covers another, but not past the axes' ends.
    """
    ordered = sorted(ends, key=lambda end: end[1])
    if not ordered:
        return
    from matplotlib.transforms import blended_transform_factory

    ax.autoscale_view()
    bottom, top = ax.transData.inverted().transform(ax.transAxes.transform([(0, 0), (0, 1)]))[:, 1]
    to_axes = ax.transData + ax.transAxes.inverted()
    fractions = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ordered]
    gap = 12.5 / 72 / (ax.get_position().height * look.inches(ax)[1])  # one line of text
    spots = _apart(fractions, min(gap, 1 / len(fractions)))
    at_edge = blended_transform_factory(ax.transAxes, ax.transAxes)
    for spot, fraction, (_, _, text, colour) in zip(spots, fractions, ordered, strict=True):
        if abs(spot - fraction) > gap / 4:
            ax.plot([1.0, 1.02], [fraction, spot], transform=at_edge, color=colour, linewidth=0.8, clip_on=False)
        ax.text(
            1.025,
            spot,
            text,
            transform=at_edge,
            color=look.readable(colour),
            va="center",
            fontsize=9,
            fontweight="bold",
        )
    ax.set_ylim(bottom, top)  # the labels were placed for these limits


def histogram_loglog(
    series: Mapping[str, Any],
    *,
    bins: int = 60,
    ax: Axes | None = None,
    xlabel: str = "magnitude",
    ylabel: str = "share of entries per bin",
) -> Axes:
    """Histograms of the magnitudes of each series' non-zero values, both axes logarithmic, bins of equal ratio.

    Values are tensors or arrays of any shape. The share of exact zeros, which have no place on the axis,
    goes into the label. Raises ValueError when a series has no non-zero value.
    """
    import numpy as np

    axes = ax if ax is not None else look.figure()[1]
    magnitudes = {name: np.abs(np.asarray(values, dtype=float).reshape(-1)) for name, values in series.items()}
    present = {name: m[m > 0] for name, m in magnitudes.items()}
    if empty := [name for name, m in present.items() if not len(m)]:
        raise ValueError(f"histogram_loglog: no non-zero value in {', '.join(empty)}.")
    low = min(float(m.min()) for m in present.values())
    high = max(float(m.max()) for m in present.values())
    edges = np.geomspace(low, high * 1.0001, bins + 1)
    for name, drawn in look.styles(series).items():
        counts, _ = np.histogram(present[name], edges)
        zeros = 1 - len(present[name]) / len(magnitudes[name])
        label = f"{drawn.label} ({zeros:.1%} zeros)" if zeros else drawn.label
        axes.stairs(counts / len(magnitudes[name]), edges, color=drawn.colour, linewidth=1.6, label=label)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.legend()
    return axes


def as_percent(ax: Axes, axis: str = "y") -> None:
    """Shows shares of one on an axis as percentages."""
    from matplotlib.ticker import PercentFormatter

    (ax.yaxis if axis == "y" else ax.xaxis).set_major_formatter(PercentFormatter(1.0, decimals=0))


def _column(run: History, x: str, y: Column) -> dict[float, float]:
    if callable(y):
        return {row[x]: float(y(row)) for row in run}
    return {row[x]: float(row[y]) for row in run if row.get(y) is not None}


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved so that neighbours are at least `gap` apart, all within [0, 1] when they fit."""
    spots: list[float] = []
    groups: list[list[float]] = []  # members of a group touch one another and stand around their mean

    def first(members: list[float]) -> float:
        return math.fsum(members) / len(members) - gap * (len(members) - 1) / 2

    for place in places:
        members = [place]
        while groups and first(groups[-1]) + gap * len(groups[-1]) > first(members):
            members = groups.pop() + members
        groups.append(members)
    for members in groups:
        spots += [first(members) + gap * i for i in range(len(members))]
    last = len(spots) - 1
    lowered = [min(spot, 1 - gap * (last - i)) for i, spot in enumerate(spots)]
    return [max(spot, gap * i) for i, spot in enumerate(lowered)]
