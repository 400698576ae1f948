"""FedAvg (McMahan et al. 2017, Algorithm 1), and the hooks by which other methods say how they differ."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from fedlib.executors import Context
from fedlib.federation import Federation, Phase, weighted_mean
from fedlib.models.net import Net, State


class FedAvg:
    """Every sampled client trains the server's model on its own samples; the server averages the results.

    Hooks, in the order of a round: :meth:`broadcast`, :meth:`phases` with :meth:`objective` and :meth:`context`,
    :meth:`keep`, :meth:`upload`, :meth:`aggregate`. ``personal`` lists patterns of parameter names that stay with
    each client; ``weighting`` is ``"samples"`` (n_k / n) or ``"uniform"``.
    """

    personal: tuple[str, ...] = ()
    weighting: str = "samples"

    def setup(self, fed: Federation) -> None:
        """Prepare what the method keeps in ``fed.memory``; called once."""

    def broadcast(self, fed: Federation) -> State:
        """What the server sends to every sampled client."""
        return fed.shared(fed.state)

    def objective(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """Local objective on one batch, a scalar. Pure: the executor may evaluate it for many clients at once."""
        return cross_entropy(net(state, x, train=True), y)

    def context(self, fed: Federation, client: int) -> State:
        """Tensors kept for this client that :meth:`objective` needs, as ``context.own``."""
        return {}

    def phases(self, fed: Federation) -> list[Phase]:
        """The stretches of local work of a round, one after the other."""
        return [Phase(self.objective, fed.x, fed.y, fed.split, fed.local.epochs, fed.local.augment)]

    def keep(self, fed: Federation, client: int, state: State) -> None:
        """Store what the client keeps until it is sampled again: its personal parameters."""
        if fed.personal:
            fed.own[client] = {n: state[n] for n in fed.personal}

    def upload(self, fed: Federation, client: int, state: State) -> State:
        """What a client sends to the server."""
        return fed.shared(state)

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        """The server step: set ``fed.state`` from the uploads; ``weights`` [m] sum to one."""
        fed.state = {**fed.state, **weighted_mean(uploads, weights)}
