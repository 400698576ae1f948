"""USPS postal digits (Hull, 1994)."""

from fedlib.data.registry import Card

CARD = Card(
    name="usps",
    loader="torchvision",
    shape=(1, 16, 16),
    sizes=(7291, 2007),
    classes=10,
    mean=(0.2545,),
    std=(0.3846,),
    sha256=("0c5618ecc40720e158a1b6eee076d327403f5fdbf5485380ab3b8ce41ebc9257",),
    reader="USPS",
)
