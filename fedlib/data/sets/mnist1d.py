"""The one-dimensional digits that `load` gives; see `fedlib.data.mnist1d`."""

from fedlib.data.registry import Card

CARD = Card(
    name="mnist1d",
    loader="embedded",
    shape=(1, 1, 40),
    sizes=(4000, 1000),
    classes=10,
    mean=(0.0,),  # real numbers that are generated in normal form
    std=(1.0,),
    scale=1.0,
    sha256=("cfc8bf4f89178c37415f307e12b4c28865a4cfe6c57eda0f20cc79d3886006a8",),
)
