"""MNIST-M, digits over photographs (Ganin and Lempitsky, 2015); the pack is a class-balanced part."""

from fedlib.data.registry import Card

CARD = Card(
    name="mnist_m",
    loader="pack",
    shape=(3, 32, 32),
    sizes=(5000, 1000),
    classes=10,
    mean=(0.4577, 0.4613, 0.4078),
    std=(0.2504, 0.2361, 0.2575),
    sha256=("f864e90dc189f168e80ce1b9aafb0bffa61dee120035eeb3e6984ce73a2e0642",),
)
