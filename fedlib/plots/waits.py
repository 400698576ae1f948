"""Waiting times: a heat map on a logarithmic scale with its censored cells hatched, and survival curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedlib.targets import Wait


def waiting_map(
    values: Any,
    texts: Sequence[Sequence[str]],
    *,
    censored: Any | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    ax: Axes | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Axes:
    """A matrix [R, C] of rounds in colours, dark for few, on a logarithmic scale; ``texts`` [R][C] are printed.

    NaN: an empty cell, left white with a dot. censored: cells to be hatched, their colour being a lower bound. low,
    high: ends of the scale. Raises ValueError when the shapes differ or no cell is filled.
    """
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    cells = np.asarray(values, dtype=float)
    hatched = np.zeros(cells.shape, bool) if censored is None else np.asarray(censored, dtype=bool)
    shape = (len(texts), len(texts[0]) if len(texts) else 0)
    if not cells.shape == hatched.shape == shape:
        raise ValueError(f"waiting_map: values {cells.shape}, censored {hatched.shape} and texts {shape} differ.")
    if np.isnan(cells).all() and (low is None or high is None):
        raise ValueError("waiting_map: no cell is filled; give low and high to draw an empty one.")
    axes = ax if ax is not None else look.figure(height=0.9 + 0.36 * len(cells))[1]
    low = float(np.nanmin(cells)) if low is None else low
    high = float(np.nanmax(cells)) if high is None else high
    scale = LogNorm(low, high if high > low else 2 * low)  # equal cells: a scale without a range gives no colour
    picture = axes.imshow(np.ma.masked_invalid(cells), aspect="auto", norm=scale, cmap="cividis")
    for (r, c), value in np.ndenumerate(cells):
        if np.isnan(value):
            axes.text(c, r, texts[r][c] or "·", ha="center", va="center", color=look.MUTED, fontsize=8)
            continue
        red, green, blue, _ = picture.cmap(picture.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        ink = "white" if dark else look.INK
        behind = None
        if hatched[r, c]:
            frame = Rectangle(
                (c - 0.5, r - 0.5), 1, 1, fill=False, hatch="////", edgecolor=ink, linewidth=0, alpha=0.55
            )
            axes.add_patch(frame)
            behind = {"facecolor": picture.cmap(picture.norm(value)), "edgecolor": "none", "pad": 1.2}
        axes.text(c, r, texts[r][c], ha="center", va="center", color=ink, fontsize=7.6, bbox=behind, linespacing=0.95)
    for ticks, names in ((axes.set_yticks, rows), (axes.set_xticks, columns)):
        if names is not None:
            ticks(range(len(names)), list(names))
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def survival_curves(
    waits: Mapping[str, Sequence[Wait]], *, ax: Axes | None = None, xlabel: str = "round", ylabel: str = ""
) -> Axes:
    """One falling step line per method: the share of its runs that have not reached their target yet."""
    from fedlib.targets import survival

    from .lines import label_ends

    axes = ax if ax is not None else look.figure()[1]
    last = max(w.rounds for given in waits.values() for w in given)
    ends = []
    for name, drawn in look.styles(waits).items():
        steps = survival(waits[name])
        places, shares = [t for t, _ in steps] + [last], [s for _, s in steps] + [steps[-1][1]]
        axes.step(places, shares, where="post", color=drawn.colour, linestyle=drawn.dash, label=drawn.label)
        ends.append((last, shares[-1], drawn.label, drawn.colour))
    axes.set(xlim=(0, last), ylim=(-0.02, 1.02), xlabel=xlabel, ylabel=ylabel)
    label_ends(axes, ends)
    return axes
