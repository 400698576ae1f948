"""Where a server's distillation data come from. Re-exports only, resolved on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generator import Adversarial as Adversarial, ConvGenerator as ConvGenerator, MLPGenerator as MLPGenerator
    from .impressions import Impressions as Impressions, ImpressionsInTurn as ImpressionsInTurn
    from .server import Given as Given, SourcedFedDF as SourcedFedDF, noise as noise

_HOME = {
    "Adversarial": "generator",
    "ConvGenerator": "generator",
    "Given": "server",
    "Impressions": "impressions",
    "ImpressionsInTurn": "impressions",
    "MLPGenerator": "generator",
    "SourcedFedDF": "server",
    "noise": "server",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
