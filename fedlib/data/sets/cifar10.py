"""CIFAR-10 photographs (Krizhevsky, 2009)."""

from fedlib.data.registry import Card

CARD = Card(
    name="cifar10",
    loader="torchvision",
    shape=(3, 32, 32),
    sizes=(50000, 10000),
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    sha256=("205c75771231dbb406e505168c765ad55c62d1f24ea95a43406a756ad18d1e2c",),
    samples_sha256=("e4ec0278eb3ceea820a2b5bd5ac35eec4944df71bbbf2e6bae7d43dfaf015424",),
    reader="CIFAR10",
    archive_sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
