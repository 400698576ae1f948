"""The look of all figures: colours, markers, sizes, and how a figure gets onto the page.

A method has the same colour, marker and dash in every chapter. Colours are Okabe and Ito's and Paul Tol's,
told apart by colour-blind readers; markers and dashes carry the same difference. Figures are opaque white
panels: the text in them keeps its contrast on a dark page too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches: the text column, 720 CSS pixels at 100 pixels per inch
DPI = 144
INK, MUTED, GRID = "#24292f", "#57606a", "#dfe3e8"


class Style(NamedTuple):
    """How one method is drawn: its name in print, colour, marker and line."""

    label: str
    colour: str
    marker: str = "o"
    dash: Any = "-"


METHODS: dict[str, Style] = {
    "fedavg": Style("FedAvg", "#0072B2", "o"),
    "fedprox": Style("FedProx", "#56B4E9", "s"),
    "fedavgm": Style("FedAvgM", "#882255", "D"),
    "fedopt": Style("FedOpt", "#AA4499", "d"),
    "feddf": Style("FedDF", "#D55E00", "^"),
    "fedmd": Style("FedMD", "#E69F00", "v"),
    "fedntd": Style("FedNTD", "#009E73", "P"),
    "fedlsd": Style("FedLSD", "#CC79A7", "X"),
    "moon": Style("MOON", "#999933", "h"),
    "fedbn": Style("FedBN", "#44AA99", "p"),
    "fedper": Style("FedPer", "#CC6677", "<"),
    "perfedavg": Style("Per-FedAvg", "#661100", ">"),
    "fedgen": Style("FedGen", "#DDAA33", "*"),
    "ccvr": Style("CCVR", "#332288", "8"),
    "fedalign": Style("FedAlign", "#117733", "H"),
    "fedkd": Style("FedKD", "#6699CC", "d"),
    "fedhn": Style("pFedHN", "#AA4466", "p"),
    "fedgkt": Style("FedGKT", "#997700", "h"),
    "lowerlr": Style("lower learning rate", "#6e7781", "x", (0, (4, 2))),
    "ensemble": Style("ensemble", "#24292f", "", (0, (1, 1.5))),
    "centralised": Style("centralised", "#000000", "", (0, (5, 2))),
    "local": Style("local only", "#8c959f", "", (0, (3, 1, 1, 1))),
}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
MARKERS = "o^PXvsDh"


def style(method: str) -> Style | None:
    """The fixed style of a method, however its name is written ("FedAvg", "fed-avg"); None for an unknown one."""
    return METHODS.get("".join(c for c in method.lower() if c.isalnum()))


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for every name: the fixed one of a known method, else the next free colour, in order of appearance."""
    names = list(names)
    known = {name: found for name in names if (found := style(name))}
    taken = {found.colour for found in known.values()}
    free = [(c, m) for c, m in zip(CYCLE, MARKERS, strict=True) if c not in taken] or list(
        zip(CYCLE, MARKERS, strict=True)
    )
    fresh = [name for name in names if name not in known]
    return known | {name: Style(name, *free[i % len(free)]) for i, name in enumerate(fresh)}


def readable(colour: str) -> str:
    """The colour, darkened until text in it has a contrast of 4.5 to 1 against white (WCAG AA)."""
    from matplotlib.colors import to_hex, to_rgb

    def luminance(rgb: Iterable[float]) -> float:
        linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb)
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    rgb = to_rgb(colour)
    while 1.05 / (luminance(rgb) + 0.05) < 4.5:
        rgb = (0.97 * rgb[0], 0.97 * rgb[1], 0.97 * rgb[2])
    return to_hex(rgb)


def use() -> None:
    """Sets matplotlib's defaults to the book's look; `figure` calls it."""
    import matplotlib as mpl
    from matplotlib.rcsetup import cycler

    mpl.rcParams.update(
        {
            "figure.dpi": DPI,
            "savefig.dpi": DPI,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "svg.hashsalt": "fedlib",  # same figure, same bytes
            "font.size": 9.5,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 9.5,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.edgecolor": MUTED,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "axes.prop_cycle": cycler(color=CYCLE),
        }
    )


def figure(rows: int = 1, columns: int = 1, *, height: float | None = None, **options: Any) -> tuple[Figure, Any]:
    """A figure as wide as the text, and its axes (as `matplotlib.pyplot.subplots` gives them).

    height: inches; by default 3 for one row and 2.6 for each of several. Other options go to `subplots`.
    """
    use()
    from matplotlib import pyplot

    tall = height if height is not None else (3.0 if rows == 1 else 2.6 * rows)
    return pyplot.subplots(rows, columns, figsize=(WIDTH, tall), **options)


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of the figure that holds the axes."""
    root = ax.get_figure(root=True)
    width, height = root.get_size_inches() if root is not None else (WIDTH, 3.0)
    return float(width), float(height)


def png(fig: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Displays the figure in a notebook with its alternative text, and closes it; outside of one it only closes it.

    alt: what the figure says, for those who do not see it. An empty one raises ValueError.
    """
    from matplotlib import pyplot

    if not alt.strip():
        raise ValueError("A figure needs an alternative text: one sentence that says what it shows.")
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = None
    if get_ipython is not None and get_ipython() is not None:
        from IPython.display import display

        width, height = (round(100 * side) for side in fig.get_size_inches())
        display(
            {"image/png": base64.b64encode(png(fig)).decode(), "text/plain": alt},
            raw=True,
            metadata={"image/png": {"alt": alt, "width": width, "height": height}},
        )
    pyplot.close(fig)
