"""The search of one number: every value on every seed, the best mean wins, and all of it is told."""

import pytest

from fedlib import evidence, search


def begun(seeds=(0, 1)):
    return evidence.Run("quick", seeds=list(seeds))


def test_the_largest_mean_over_seeds_wins():
    table, asked = {0.1: (0.5, 0.6), 0.3: (0.9, 0.4), 1.0: (0.7, 0.5)}, []

    def way(value, some):
        asked.append((value, some))
        return [{"held": table[value][s - 1000], "test": 1 - table[value][s - 1000]} for s in some]

    run = begun()
    assert search.best(run, "prompt-8", way, [0.1, 0.3, 1.0], [1000, 1001]) == 0.3
    assert asked == [(value, [1000, 1001]) for value in table]  # no seed that judges, and each value as often
    told = run.tuning["prompt-8"]
    assert told["chosen"] == {"rate": 0.3, "score": 0.65, "scores": [0.9, 0.4]}
    assert [trial["scores"] for trial in told["trials"]] == [list(scores) for scores in table.values()]
    assert search.best(begun(), "again", way, [0.1, 0.3, 1.0], [1000, 1001], by="test") == 0.1


def test_of_equals_the_first_and_never_one_that_diverged():
    def way(value, some):
        return [{"held": {1: float("nan"), 2: 0.5, 3: 0.5}[value]} for _ in some]

    for values in ([1, 2, 3], [2, 3, 1]):
        assert search.best(begun(), "a", way, values, [1000]) == 2


def test_one_seed_that_diverged_makes_its_value_the_least():
    for diverged in ([0.9, float("nan")], [float("nan"), 0.9]):
        table = {0.1: [-3.0, -4.0], 0.3: diverged, 1.0: [-5.0, -4.0]}  # below whatever may stand for no number

        def way(value, some, table=table):
            return [{"held": table[value][s - 1000]} for s in some]

        for values in ([0.1, 0.3, 1.0], [0.3, 1.0, 0.1]):
            run = begun()
            assert search.best(run, "a", way, values, [1000, 1001]) == 0.1
            told = run.tuning["a"]["trials"][values.index(0.3)]["scores"]
            assert told == pytest.approx(diverged, nan_ok=True)  # and both are told as they are
        assert search.best(begun(), "b", way, [0.3], [1000, 1001]) == 0.3  # where there is no other


def test_searches_refuse_nonsense():
    for values, seeds in (([], [1000]), ([0.1], [])):
        with pytest.raises(ValueError, match="model-8: nothing to search"):
            search.best(begun(), "model-8", lambda value, some: [], values, seeds)
    for value in (float("nan"), "0.1", True):
        with pytest.raises(ValueError, match="value must be"):
            search.best(begun(), "model-8", lambda value, some: [{"held": 0.5}], [value], [1000])
