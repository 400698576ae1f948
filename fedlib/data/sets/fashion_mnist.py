"""Fashion-MNIST clothes (Xiao et al., 2017)."""

from fedlib.data.registry import Card

CARD = Card(
    name="fashion_mnist",
    loader="torchvision",
    shape=(1, 28, 28),
    sizes=(60000, 10000),
    classes=10,
    mean=(0.2860,),
    std=(0.3530,),
    sha256=("af9f747ead0e9715955a9cb0d13b098072c93f2bbf7890a41eadaf324be7567f",),
    samples_sha256=("211200040a099a6baa2fdd64a833d47e7b6b5d25cc412bf6af41f5093cd01927",),
    reader="FashionMNIST",
)
