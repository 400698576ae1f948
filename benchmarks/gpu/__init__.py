"""What a machine with a GPU shows in a minute and a half: whether the engine is right there, and how fast.

    python -m benchmarks gpu                             # on the GPU, into benchmarks/results.json
    python -m benchmarks gpu --device cpu --seconds 20   # the same code, tiny, as a rehearsal

`parts` says what is tried and plays it, each part in a time of its own; `setting` is what the parts share. `equality`
compares executors and gradients; `rates` times them; `floors` is what they are compared with; `variants` are changes
that were not made, so that each card can say what they would bring. `report` makes tables of it.
"""
