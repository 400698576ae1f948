"""What a federation is between two rounds, so that a round which fails can be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
