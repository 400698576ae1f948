"""How long a simulated federation takes: `fedlib` against its peers, in one run on one machine.

    python -m benchmarks run      # measures, writes benchmarks/results.json
    python -m benchmarks show     # the tables

A contender is a child process of its own interpreter (`workers`), which reads a job (`job`) and answers with the
seconds of every round. `workloads` and `contenders` say what is measured, `measure` runs it, `results`, `targets`,
`tables` and `plots` say what came of it.
"""
