"""Figures of one consistent look. Re-exports only, resolved on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lines import curves as curves, histogram_loglog as histogram_loglog, label_ends as label_ends
    from .look import figure as figure, png as png, show as show, style as style, use as use
    from .marks import bars as bars, client_labels as client_labels, heatmap as heatmap
    from .surfaces import decision_map as decision_map, samples as samples
    from .waits import survival_curves as survival_curves, waiting_map as waiting_map

_HOME = {
    "bars": "marks",
    "client_labels": "marks",
    "curves": "lines",
    "decision_map": "surfaces",
    "figure": "look",
    "heatmap": "marks",
    "histogram_loglog": "lines",
    "png": "look",
    "samples": "surfaces",
    "label_ends": "lines",
    "show": "look",
    "style": "look",
    "survival_curves": "waits",
    "use": "look",
    "waiting_map": "waits",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOME)
