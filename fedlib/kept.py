"""What a federation is between two rounds: finite, and kept so that a round which fails can be undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fedlib import require
from fedlib.models.net import State

if TYPE_CHECKING:
    from fedlib.federation import Federation


class Kept:
    """A federation between two rounds: its dictionaries and lists copied, its tensors by reference.

    That is enough as long as an algorithm replaces tensors and never changes them in place.
    """

    def __init__(self, fed: Federation):
        self.fed, self.round = fed, fed.round
        self.state, self.own, self.memory = containers(fed.state), containers(fed.own), containers(fed.memory)
        self.history, self.down, self.up = list(fed.history), list(fed.ledger.down), list(fed.ledger.up)

    def bring_back(self) -> None:
        """Undo what was done since; a round that was completed since stays."""
        fed = self.fed
        if fed.round != self.round:
            return
        fed.state, fed.own, fed.memory = self.state, self.own, self.memory
        fed.history[:], fed.ledger.down[:], fed.ledger.up[:] = self.history, self.down, self.up


def containers(value: Any) -> Any:
    """Nested dictionaries and lists, copied; whatever else they hold is the same object."""
    if isinstance(value, dict):
        return {k: containers(v) for k, v in value.items()}
    return [containers(v) for v in value] if isinstance(value, list) else value


def held(fed: Federation) -> dict[int, tuple[Tensor, int]]:
    """The tensors in memory and of the clients, kept alive, each with the number of changes made in it."""
    return {id(t): (t, t._version) for t in require.tensors_in(fed.memory, fed.own)}


def require_finite(
    fed: Federation,
    when: str,
    old: Mapping[int, tuple[Tensor, int]],
    clients: Sequence[int] = (),
    uploads: Sequence[State] = (),
) -> None:
    """Raises NotFinite when the server's model, its memory or what these clients keep is not finite, but for
    ``old`` tensors that nobody changed; names the first upload that is not, if one is.
    """
    own = {k: fed.own[k] for k in clients if k in fed.own}
    kept = [t for t in require.tensors_in(fed.memory, own) if old.get(id(t), (t, -1))[1] != t._version]
    if require.all_finite([*require.tensors_in(fed.state), *kept]):
        return
    sent = zip(clients, uploads, strict=True) if len(clients) == len(uploads) else ()
    parts = [(f"what client {k} sent", state) for k, state in sent]
    parts += [(f"what client {k} keeps", state) for k, state in own.items()]
    parts += [("the server's model", fed.state), ("the server's memory", fed.memory)]
    what, name, tensor = next(
        (what, n, t) for what, value in parts for n, t in require.named_tensors(value) if not require.all_finite([t])
    )
    raise require.NotFinite(
        f"{when}: {what} is not finite, {name}: {require.share_of_nonsense(tensor)}; nothing of it was recorded "
        "(try a lower learning rate of the clients or the server, fewer local epochs, or dtype=torch.float64)"
    )
