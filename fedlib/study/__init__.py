"""The vocabulary of the chapters: settings, comparisons on equal terms, tuning, and figures that describe themselves.

An experiment in five lines::

    quick = study.Federated(data="digits", model=network, clients=10, split=study.Dirichlet(0.1), rounds=10, seeds=3)
    experiment = study.begin({"quick": quick}, "quick")
    runs = experiment.compare({"fedavg": FedAvg(), "fedprox": FedProx(0.01)})
    study.differences(experiment, "accuracy/{}", ["fedprox"], to="fedavg")
    experiment.publish()

Nothing is hidden: ``experiment.federation(FedAvg(), seed)`` gives the object that ``compare`` trains,
``runs["fedavg"][0]`` what came of a seed, ``experiment.setting`` the numbers. Names are resolved on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .central import Central as Central
    from .experiment import Experiment as Experiment, begin as begin, train as train
    from .figures import bars as bars, curves as curves, differences as differences, names as names, sweep as sweep
    from .runs import Result as Result, Runs as Runs
    from .server import WithServer as WithServer, fusions as fusions, received as received
    from .setting import (
        Federated as Federated,
        Samples as Samples,
        Setting as Setting,
        described as described,
        vary as vary,
    )
    from .splits import IID as IID, Classes as Classes, Dirichlet as Dirichlet, Pooled as Pooled, Shards as Shards
    from .terms import Method as Method
    from .tuning import Grid as Grid, grid as grid

_HOME = {
    "Central": "central",
    **dict.fromkeys(("Experiment", "begin", "train"), "experiment"),
    **dict.fromkeys(("bars", "curves", "differences", "names", "sweep"), "figures"),
    **dict.fromkeys(("Result", "Runs"), "runs"),
    **dict.fromkeys(("WithServer", "fusions", "received"), "server"),
    **dict.fromkeys(("Federated", "Samples", "Setting", "described", "vary"), "setting"),
    **dict.fromkeys(("IID", "Classes", "Dirichlet", "Pooled", "Shards"), "splits"),
    "Method": "terms",
    **dict.fromkeys(("Grid", "grid"), "tuning"),
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")


def __dir__() -> list[str]:
    return sorted(_HOME)
