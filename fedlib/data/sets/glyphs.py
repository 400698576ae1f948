"""The rendered letters that `load` gives; see `fedlib.data.glyphs`."""

from fedlib.data.registry import Card

CARD = Card(
    name="glyphs",
    loader="embedded",
    shape=(1, 28, 28),
    sizes=(2000, 500),
    classes=10,
    mean=(0.1094,),
    std=(0.2692,),
    sha256=(),  # rendered: the checksum of the fonts is recorded, but not demanded
)
