"""LG-FedAvg (Liang et al. 2020): FedPer's mirror image, a private base below shared last layers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from fedlib.algorithms.fedavg import FedAvg
from fedlib.federation import Federation


class LGFedAvg(FedAvg):
    """Clients train everything together and send only what ``shared`` names; the rest stays with them.

    All start from the same weights: bases drawn apart would have nothing in common for a shared head to read.
    With everything shared it is FedAvg.
    """

    def __init__(self, shared: Sequence[str] = ("head.*",)):
        self.shared = tuple(shared)

    def setup(self, fed: Federation) -> None:
        private = [n for n in fed.state if not any(fnmatch(n, pattern) for pattern in self.shared)]
        fed.personal = tuple(n for n in fed.state if n in fed.personal or n in private)
