"""FedMD (Li and Wang 2019): clients keep their models and agree through predictions on public inputs."""

from __future__ import annotations

from torch import Tensor, arange

from fedlib import require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Phase
from fedlib.losses import kd
from fedlib.models.net import Net, State


class FedMD(FedAvg):
    """Each round a client digests the consensus logits on ``public`` [U, ...], revisits its own samples, and uploads
    its logits.

    Nothing but logits travels: [U, C] each way. ``digest`` is ``"kl"`` (KL at temperature 1, as FedDF distils) or
    ``"mae"`` (mean absolute error of logits, as in the released code). The paper's clients first train on *labels*
    of the public set; here it has none, so that FedMD and FedDF see the same data. There is no server model:
    ``fed.state`` stays the common start, and the clients' models are ``fed.own``. ``weighting`` of the consensus:
    ``"uniform"`` as in the paper, or ``"samples"``.
    """

    personal = ("*",)
    weighting = "uniform"

    def __init__(self, public: Tensor, digest_epochs: int = 1, digest: str = "kl", weighting: str = "uniform"):
        if digest not in ("kl", "mae"):
            raise ValueError(f"digest must be 'kl' or 'mae', got {digest!r}")
        self.public, self.digest_epochs, self.digest = public, require.whole("digest_epochs", digest_epochs), digest
        self.weighting = require.one_of("weighting", weighting, ("uniform", "samples"))

    def setup(self, fed: Federation) -> None:
        fed.input(self.public[:1])  # raises for inputs that nobody prepares

    def broadcast(self, fed: Federation) -> State:
        return dict(fed.memory)

    def phases(self, fed: Federation) -> list[Phase]:
        revisit = super().phases(fed)
        if "consensus" not in fed.memory:
            return revisit
        everything = [arange(len(self.public), device=fed.device)] * fed.clients
        x, consensus = fed.input(self.public), fed.memory["consensus"]
        return [Phase(self.imitate, x, consensus, everything, self.digest_epochs), *revisit]

    @per_sample
    def imitate(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """Objective of the digest phase: distance of the client's logits to the consensus ``y`` [B, C]."""
        logits = net(state, x, train=True)
        return kd(logits, y) if self.digest == "kl" else (logits - y).abs().mean((-2, -1))

    def upload(self, fed: Federation, client: int, state: State) -> State:
        return {"logits": fed.net.predict(state, fed.input(self.public))}

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        fed.memory["consensus"] = sum(w * u["logits"] for w, u in zip(weights.tolist(), uploads, strict=True))
