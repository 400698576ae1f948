"""FedPer (Arivazhagan et al. 2019): a shared base, and last layers that never leave their client."""

from __future__ import annotations

from collections.abc import Sequence

from fedlib.algorithms.fedavg import FedAvg
from fedlib.federation import Federation
from fedlib.personal import drawn_again


class FedPer(FedAvg):
    """Clients train base and head together and send the base; ``personal`` names what they keep.

    Every client draws its head once, on a stream of its own, and keeps it for ever, sampled or not; with
    ``common=True`` all start from the server's. Without anything personal it is FedAvg, with everything personal
    (``("*",)``) every client trains alone.
    """

    def __init__(self, personal: Sequence[str] = ("head.*",), common: bool = False):
        self.personal, self.common = tuple(personal), common

    def setup(self, fed: Federation) -> None:
        for k in range(0 if self.common else fed.clients):
            drawn = drawn_again(fed.net, fed.seed, "personal", k)
            fed.own[k] = {n: drawn[n] for n in fed.personal}
