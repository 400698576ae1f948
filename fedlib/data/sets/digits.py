"""scikit-learn's 8 x 8 digits; see `fedlib.data.digits`."""

from fedlib.data.registry import Card

CARD = Card(
    name="digits",
    loader="embedded",
    shape=(1, 8, 8),
    sizes=(1437, 360),
    classes=10,
    mean=(0.3050,),
    std=(0.3759,),
    scale=16.0,
    sha256=("45ea754e144b68d1eb875e7e6f136c0a586585ef950c5b88117b97e573ec8786",),
)
