"""A classifier with a projection head between its encoder and its output layer, as contrastive methods train it."""

from torch import Tensor, nn


class Projected(nn.Module):
    """Encoder -> projection (two linear layers, ReLU between them) -> output layer (Li, He and Song 2021, figure 3).

    ``base`` is any network of this package: what precedes its ``head`` is the encoder, and the head's shape says what
    goes in and how many classes come out. The projection's hidden layer is as wide as the encoder's output, and its
    output z [B, width] is linear. Logits [B, classes], or with ``features=True`` the representation z. Raises
    ValueError for a base without a linear ``head``.
    """

    def __init__(self, base: nn.Module, width: int = 256):
        super().__init__()
        last = getattr(base, "head", None)
        if not isinstance(last, nn.Linear):
            raise ValueError(f"{type(base).__name__} has no linear layer 'head' to put a projection in front of")
        base.head = nn.Identity()
        inside = last.in_features
        self.encoder = base
        self.projection = nn.Sequential(nn.Linear(inside, inside), nn.ReLU(), nn.Linear(inside, width))
        self.head = nn.Linear(width, last.out_features)

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        z = self.projection(self.encoder(x))
        return z if features else self.head(z)
