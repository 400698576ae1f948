"""Small networks of the field, and the functional view of them that the round loop uses (loaded on first use)."""

import importlib
from typing import Any

_HOME = {
    "Autoencoder": "autoencoder",
    "Body": "cut",
    "Cnn1d": "cnn",
    "Edge": "cut",
    "MLP": "mlp",
    "SmallCNN": "cnn",
    "McMahanCNN": "cnn",
    "Generator": "generator",
    "Hypernetwork": "hyper",
    "LeNet5": "cnn",
    "ResNet": "resnet",
    "ResNet8": "resnet",
    "NormedCNN": "normed",
    "Projected": "projected",
    "Reader": "reader",
    "Net": "net",
    "Pair": "pair",
    "SlimResNet": "slim",
    "State": "net",
    "Twin": "twin",
    "UNet": "unet",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
