"""Bars with their seeds, heat maps, and the label distribution over clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import look
from .lines import as_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def bars(
    values: Mapping[str, Mapping[Any, float] | Sequence[float]],
    *,
    ax: Axes | None = None,
    xlabel: str = "",
    percent: bool = False,
    reference: float | None = None,
    start: float = 0.0,
    text: str | None = None,
) -> Axes:
    """Horizontal bars of means, first name on top, with one dot per seed and the mean's 95% interval.

    values: name -> one value per seed, as a sequence or keyed by seed.
    reference: a vertical line to compare with. start: where bars and axis begin. text: format of the printed
    mean, such as "{:.2f}"; by default one decimal of a percentage, or three digits.
    """
    from fedlib.evidence import interval

    if not values:
        raise ValueError("bars: nothing to draw, values is empty.")
    axes = ax if ax is not None else look.figure(height=0.7 + 0.36 * len(values))[1]
    shown = text or ("{:.1%}" if percent else "{:.3g}")
    drawn = look.styles(values)
    reach = start
    for row, (name, given) in enumerate(values.items()):
        seeds = [float(v) for v in (given.values() if isinstance(given, Mapping) else given)]
        spread = interval(seeds)
        if percent:  # of shares, which lie between none and all
            spread = spread._replace(low=max(spread.low, 0.0), high=min(spread.high, 1.0))
        colour = drawn[name].colour
        axes.barh(row, spread.mean - start, left=start, height=0.62, color=colour, alpha=0.75, zorder=2)
        right = max(seeds)
        if len(seeds) > 1:
            axes.plot([spread.low, spread.high], [row, row], color=look.INK, linewidth=1.4, zorder=4)
            offsets = [row + 0.3 * (i / (len(seeds) - 1) - 0.5) for i in range(len(seeds))]
            axes.scatter(seeds, offsets, s=13, color="white", edgecolors=look.INK, linewidths=0.8, zorder=5)
            right = max(right, spread.high)
        axes.annotate(
            shown.format(spread.mean),
            (right, row),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
        reach = max(reach, right)
    if reference is not None:
        axes.axvline(reference, color=look.MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=3)
    axes.set_yticks(range(len(values)), [drawn[name].label for name in values])
    axes.set(xlabel=xlabel, ylim=(len(values) - 0.45, -0.55))
    axes.set_xlim(start, reach + 0.1 * (reach - start))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    if percent:
        as_percent(axes, "x")
    return axes


def heatmap(
    matrix: Any,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    ax: Axes | None = None,
    xlabel: str = "",
    ylabel: str = "",
    text: str | None = "{:.2f}",
    centre: float | None = None,
    low: float | None = None,
    high: float | None = None,
    bar: str | None = None,
) -> Axes:
    """A matrix [R, C] in colours, each cell's value printed with the format `text` (None: not printed).

    centre: use a diverging scale with white at this value (for differences). low, high: ends of the scale.
    bar: title of a colour bar; None draws none. Raises ValueError when names and shape differ.
    """
    import numpy as np
    from matplotlib.colors import Normalize

    cells = np.asarray(matrix, dtype=float)
    for axis, names in enumerate((rows, columns)):
        if names is not None and len(names) != cells.shape[axis]:
            raise ValueError(f"heatmap: {len(names)} names for {cells.shape[axis]} {('rows', 'columns')[axis]}.")
    axes = ax if ax is not None else look.figure(height=0.8 + min(0.34 * len(cells), 5))[1]
    bottom = float(np.nanmin(cells)) if low is None else low
    top = float(np.nanmax(cells)) if high is None else high
    if centre is not None:
        reach = max(abs(top - centre), abs(bottom - centre)) or 1.0
        bottom, top = centre - reach, centre + reach
    picture = axes.imshow(
        cells, aspect="auto", norm=Normalize(bottom, top), cmap="cividis" if centre is None else "RdBu_r"
    )
    if text is not None:
        for (r, c), value in np.ndenumerate(cells):
            red, green, blue, _ = picture.cmap(picture.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            colour = "white" if dark else look.INK
            shown = text.format(value)
            shown = shown if shown.strip("+-0.%") else text.format(0.0).lstrip("+")  # no "-0.0"
            axes.text(c, r, shown, ha="center", va="center", fontsize=8.5, color=colour)
    for ticks, names in ((axes.set_yticks, rows), (axes.set_xticks, columns)):
        if names is not None:
            ticks(range(len(names)), list(names))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if bar is not None:
        colorbar = axes.figure.colorbar(picture, ax=axes, pad=0.02, fraction=0.05)
        colorbar.set_label(bar)
        colorbar.outline.set_visible(False)
    return axes


def client_labels(
    split: Sequence[Any],
    labels: Any,
    *,
    classes: Sequence[str] | None = None,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Who has what: one bubble per client and class, its area proportional to the number of samples.

    split: index tensors, one per client, as `fedlib.partition` returns them; labels: int [N]. Areas are
    relative to the fullest cell of this figure.
    """
    import numpy as np

    target = np.asarray(labels)
    count = len(classes) if classes is not None else int(target.max()) + 1
    counts = np.stack([np.bincount(target[np.asarray(part)], minlength=count) for part in split], axis=1)
    axes = ax if ax is not None else look.figure(height=0.9 + 0.24 * count)[1]
    clients = len(split)
    axes.set(xlim=(-0.7, clients - 0.3), ylim=(count - 0.3, -0.7), xlabel="client", ylabel="class", title=title)
    # The largest bubble just fills a cell: cells are measured in points on the finished layout's approximate size.
    width, height = (72 * a * b for a, b in zip(look.inches(axes), axes.get_position().size, strict=True))
    diameter = 0.95 * min(width / clients, height / count)
    y, x = np.nonzero(counts)
    axes.scatter(x, y, s=diameter**2 * counts[y, x] / counts.max(), color=look.METHODS["fedavg"].colour, linewidths=0)
    axes.set_yticks(range(count), list(classes) if classes is not None else [str(c) for c in range(count)])
    step = max(1, round(clients / 20))
    axes.set_xticks(range(0, clients, step), [str(k) for k in range(0, clients, step)])
    axes.tick_params(length=0)
    return axes
