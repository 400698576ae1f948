"""MNIST handwritten digits (LeCun et al., 1998)."""

from fedlib.data.registry import Card

CARD = Card(
    name="mnist",
    loader="torchvision",
    shape=(1, 28, 28),
    sizes=(60000, 10000),
    classes=10,
    mean=(0.1307,),
    std=(0.3081,),
    sha256=("82e57d1233bfb190581cd7fbcfc91c18c4c7306eb4ccab33c5e22c0306ee2576",),
    samples_sha256=("4903b36f2a7091a8b9f525e5bf877689c18934822ce2b3d89919661b3e78198e",),
    reader="MNIST",
)
