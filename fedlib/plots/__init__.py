"""Figures of one consistent look. Re-exports only, resolved on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lines import curves as curves
    from .lines import histogram_loglog as histogram_loglog
    from .lines import label_ends as label_ends
    from .look import figure as figure
    from .look import png as png
    from .look import show as show
    from .look import style as style
    from .look import use as use
    from .marks import bars as bars
    from .marks import client_labels as client_labels
    from .marks import heatmap as heatmap
    from .surfaces import decision_map as decision_map
    from .surfaces import samples as samples
    from .waits import survival_curves as survival_curves
    from .waits import waiting_map as waiting_map

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
