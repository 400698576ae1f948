"""Local training alone, without a federation: the baseline that a federated method must beat to be worth joining."""

from fedlib.algorithms.fedavg import FedAvg


class LocalOnly(FedAvg):
    """Nothing travels: a client goes on from its own model in the rounds in which it is sampled.

    All start from the same weights and do as much local work as with any other method.
    """

    personal = ("*",)
