"""The results as figures in the book's look, each with the text for those who do not see it."""

from __future__ import annotations

import io
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from benchmarks.results import Results, Row, rows
from benchmarks.tables import cells_of_scale, number, ordered
from fedlib.plots import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ours, the yardsticks, the peers: colours that colour-blind readers tell apart; each bar is named beside it anyway.
OURS, YARDSTICK, PEER = "#0072B2", "#57606a", "#E69F00"
LINES = {"fedlib": ("#0072B2", "-", "o"), "plain": ("#57606a", "--", "s"), "flower": ("#E69F00", ":", "^")}


def colour(row: Row) -> str:
    """By kind of contender."""
    if row.contender.ours:
        return OURS
    return PEER if row.contender.environment else YARDSTICK


def bars(results: Results) -> tuple[Figure, str] | None:
    """Seconds per round of every contender, one panel per workload, fastest on top; None when nothing was measured."""
    panels = [
        (name, sorted((r for r in rows(entry) if not r.problem), key=lambda r: r.seconds))
        for name, entry in ordered(results)
        if not name.startswith("scale-")
    ]
    panels = [(name, found) for name, found in panels if found]
    if not panels:
        return None
    sizes = [len(found) + 1.6 for _, found in panels]
    fig, axes = look.figure(len(panels), height=0.27 * sum(sizes), squeeze=False, height_ratios=sizes)
    said = []
    for ax, (name, found) in zip(axes[:, 0], panels, strict=True):
        panel(ax, name, found)
        each = (f"{r.contender.title} {number(r.seconds)} s" + _times(r) for r in found)
        said.append(f"{name}: {', '.join(each)}")
    axes[-1, 0].set_xlabel("seconds per round")
    return fig, "Seconds per round, by workload. " + ". ".join(said) + "."


def panel(ax: Axes, name: str, found: list[Row]) -> None:
    """One workload: bars with quartiles, and how many times as fast as the plain loop each is."""
    for place, row in enumerate(found):
        ax.barh(place, row.seconds, height=0.66, color=colour(row), alpha=0.85, zorder=2)
        ax.plot([row.low, row.high], [place, place], color=look.INK, linewidth=1.2, zorder=4)
        text = number(row.seconds) + _times(row)
        ax.annotate(
            text, (max(row.seconds, row.high), place), (5, 0), textcoords="offset points", va="center", fontsize=8
        )
    ax.set_yticks(range(len(found)), [row.contender.title for row in found])
    ax.set(title=name, ylim=(len(found) - 0.4, -0.6), xlim=(0, 1.25 * max(row.high for row in found)))
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)


def _times(row: Row) -> str:
    return "" if row.faster != row.faster else f" ({number(row.faster, 2)}× plain)"


def scale(results: Results) -> tuple[Figure, str] | None:
    """Seconds per round and memory over the number of clients, one line per number sampled; None without a cell."""
    cells = cells_of_scale(results)
    if not cells:
        return None
    fig, (left, right) = look.figure(1, 2, height=3.4)
    said, ends = [], dict[int, list[float]]()
    for name, (shade, dash, marker) in LINES.items():
        for sampled in sorted({m for _, m, found in cells if name in found}):
            line = [(k, found[name]) for k, m, found in cells if m == sampled and name in found]
            places, title = [k for k, _ in line], line[0][1].contender.title
            style: dict[str, Any] = {"color": shade, "linestyle": dash, "marker": marker}
            left.plot(places, [r.seconds for _, r in line], label=title if sampled == 1 else None, **style)
            right.plot(places, [r.memory_mb / 1000 for _, r in line], **style)
            ends.setdefault(sampled, []).append(line[-1][1].seconds)
            each = (f"{number(r.seconds)} s and {r.memory_mb:.0f} MB with {k:,} clients" for k, r in line)
            said.append(f"{title}, {sampled} sampled: {', '.join(each)}")
    clients = sorted({k for k, _, _ in cells})
    for sampled, heights in ends.items():
        end = (clients[-1], geometric_mean(heights))
        left.annotate(f"{sampled} sampled", end, (8, 0), textcoords="offset points", va="center", fontsize=8)
    for ax, what in ((left, "seconds per round"), (right, "peak memory, GB")):
        ax.set(xscale="log", xlabel="clients", title=what)
        ax.set_xticks(clients, [f"{k:,}" for k in clients], minor=False)
        ax.set_xticks([], minor=True)
    left.set(yscale="log", xlim=(clients[0] / 1.6, clients[-1] * 14))
    right.set_ylim(bottom=0)
    left.legend(loc="upper left")
    return fig, "Seconds per round and peak memory over the number of clients. " + ". ".join(said) + "."


def svg(fig: Figure) -> str:
    """The figure as SVG, text as outlines; equal figures give equal text. The figure is closed."""
    from matplotlib import pyplot

    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(fig)
    return buffer.getvalue()
