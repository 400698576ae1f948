"""Multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected ReLU network: inputs -> hidden... -> classes, with LayerNorm before each ReLU if wanted.

    Input [B, ...] is flattened to [B, inputs]; output logits [B, classes], or with ``features=True`` the last
    hidden activations [B, hidden[-1]]. ``linear_features`` leaves the ReLU after the last hidden layer out, for
    bottlenecks that are to be drawn.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int] = (64,),
        classes: int = 10,
        layer_norm: bool = False,
        linear_features: bool = False,
    ):
        super().__init__()
        widths = [inputs, *hidden]
        body: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(widths):
            body += [nn.Linear(a, b), *([nn.LayerNorm(b)] if layer_norm else []), nn.ReLU()]
        self.body = nn.Sequential(*(body[:-1] if linear_features and hidden else body))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        h = self.body(x)
        return h if features else self.head(h)
