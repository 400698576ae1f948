"""Small convolutional networks."""

from torch import Tensor, nn


class _Cnn(nn.Module):
    """Convolutional body, fully connected middle, linear head; ``features=True`` returns the input of the head."""

    body: nn.Sequential
    head: nn.Linear

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        h = self.body(x)
        return h if features else self.head(h)


class SmallCNN(_Cnn):
    """Two 3x3 convolutions (16, 32) with 2x2 pooling, one hidden layer of 128: for images of 8 to 32 pixels a side.

    Input [B, channels, size, size]; output logits [B, classes].
    """

    def __init__(self, channels: int = 1, size: int = 8, classes: int = 10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (size // 4) ** 2, 128),
            nn.ReLU(),
        )
        self.head = nn.Linear(128, classes)


class McMahanCNN(_Cnn):
    """The CNN of McMahan et al. (2017): two 5x5 convolutions (32, 64) with pooling, one hidden layer of 512.

    1,663,370 parameters for 28x28 grey images, 2,156,490 for 32x32 colour ones.
    """

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (size // 4) ** 2, 512),
            nn.ReLU(),
        )
        self.head = nn.Linear(512, classes)


class LeNet5(_Cnn):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: 6 and 16 maps of 5x5, layers of 120 and 84.

    61,706 parameters for grey images of 28 (padded to 32) or 32 pixels a side.
    """

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10):
        super().__init__()
        if size not in (28, 32):
            raise ValueError(f"LeNet-5 takes images of 28 or 32 pixels a side, got {size}")
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=(32 - size) // 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.head = nn.Linear(84, classes)


class Cnn1d(_Cnn):
    """The convolutional network of MNIST-1D (Greydanus 2020): three convolutions of 25 channels, each at stride 2.

    5,210 parameters. Input [B, 1, 1, 40], as the set's samples are, or [B, 1, 40]; output logits [B, classes].
    """

    def __init__(self, channels: int = 25, points: int = 40, classes: int = 10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, channels, 5, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        left = (points - 1) // 2  # of the first convolution's points; each of the others keeps half, rounded up
        self.head = nn.Linear(channels * -(-left // 4), classes)

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        return super().forward(x.squeeze(2), features)
