"""What travels: bytes counted from the tensors that an algorithm really hands over, in both directions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


def payload_bytes(payload: Mapping[str, Tensor]) -> int:
    """Bytes of a dictionary of tensors on the wire: elements times bytes per element, no framing, no compression."""
    return sum(t.numel() * t.element_size() for t in payload.values())


@dataclass
class Ledger:
    """Bytes down (server to clients) and up (clients to server), one entry a round."""

    down: list[int] = field(default_factory=list)
    up: list[int] = field(default_factory=list)

    def enter(self, sent: Iterable[Mapping[str, Tensor]], received: Iterable[Mapping[str, Tensor]]) -> tuple[int, int]:
        """Book one round: the payloads sent to each client and those received from each; returns (down, up)."""
        self.down.append(sum(map(payload_bytes, sent)))
        self.up.append(sum(map(payload_bytes, received)))
        return self.down[-1], self.up[-1]

    @property
    def total(self) -> int:
        """Bytes of all rounds, both directions."""
        return sum(self.down) + sum(self.up)
