"""CIFAR-100 photographs (Krizhevsky, 2009); the pack known here is a class-balanced tenth."""

from fedlib.data.registry import Card

CARD = Card(
    name="cifar100",
    loader="torchvision",
    shape=(3, 32, 32),
    sizes=(5000, 1000),
    classes=100,
    mean=(0.5016, 0.4815, 0.4377),
    std=(0.2658, 0.2540, 0.2747),
    sha256=("b0c59cfadef8aeb55a3215e0d7303a178692dd305deed8af0b848bda93dc4665",),
    whole=(50000, 10000),
    reader="CIFAR100",
    archive_sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
)
