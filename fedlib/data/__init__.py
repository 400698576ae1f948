"""Data sets: `load`, `available`, `used`, and what they return. Re-exports only, resolved on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset import Dataset as Dataset
    from .loading import available as available, load as load, used as used
    from .registry import DataCorrupt as DataCorrupt, DataUnavailable as DataUnavailable

_HOME = {
    "Dataset": "dataset",
    "DataCorrupt": "registry",
    "DataUnavailable": "registry",
    "available": "loading",
    "load": "loading",
    "used": "loading",
}
_MODULES = (
    "augment",
    "bagofwords",
    "corpus",
    "dataset",
    "digits",
    "domains",
    "download",
    "glyphs",
    "loading",
    "mnist1d",
    "packs",
    "registry",
    "toy",
)

__all__ = [
    "DataCorrupt",
    "DataUnavailable",
    "Dataset",
    "available",
    "load",
    "used",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_MODULES]
