"""FedAvg (McMahan et al. 2017, Algorithm 1), and the hooks by which other methods say how they differ."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Job, Phase, weighted_mean
from fedlib.losses import cross_entropy
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

    @per_sample
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
            fed.own[client] = {n: state[n].clone() for n in fed.personal}  # not a view of all clients' states

    def upload(self, fed: Federation, client: int, state: State) -> State:
        """What a client sends to the server."""
        return fed.shared(state)

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> Iterable[Job] | None:
        """The server step: set ``fed.state`` from the uploads; ``weights`` [m] sum to one.

        A method whose server trains, too, yields its jobs (:class:`~fedlib.federation.Job`) and goes on when each is
        done; whoever extends such a method says ``yield from super().aggregate(...)``.
        """
        fed.state = {**fed.state, **weighted_mean(uploads, weights)}
        return None

    # A function of the mean: of very many clients the server may be given the means of parts.
    aggregate.of_mean = True  # type: ignore[attr-defined]
