"""One module per data set, holding its `CARD`: a chapter depends on the cards of the sets that it loads, no others."""
