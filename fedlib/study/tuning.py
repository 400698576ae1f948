"""Tuning on equal terms: equally many trials for every method, on samples and seeds that judge nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from fedlib import require, rng
from fedlib.study import terms

if TYPE_CHECKING:
    from fedlib.study.experiment import Experiment, Watch
    from fedlib.study.setting import Setting

FIRST = 1000  # the first of the seeds that tune: no experiment is judged on them


class Grid:
    """The trials of one method: every combination of the values given for its parameters, in their order."""

    def __init__(self, make: Callable[..., Any], *, unequal: str = "", **values: Sequence[Any]) -> None:
        if not values or not all(values.values()):
            raise ValueError("a grid needs at least one parameter, and each at least one value")
        self.make, self.values, self.unequal = make, {n: list(v) for n, v in values.items()}, unequal
        known, name = inspect.signature(make).parameters, getattr(make, "__name__", "what is tuned")
        if both := [n for n in values if n in known and n in terms.LOCAL]:
            raise ValueError(
                f"{both[0]} is a parameter of {name} and of local training; which one is meant? Give a function of "
                f"another name: grid(lambda server_{both[0]}: ..., server_{both[0]}=...)"
            )
        self._own = [n for n in values if n in known]  # the others are changes of the setting
        try:
            terms.check({n: v for n, v in values.items() if n not in known}, unequal)
        except ValueError as error:
            raise ValueError(f"grid of {name}, whose parameters are {', '.join(known) or 'none'}: {error}") from None

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Parameters of every trial."""
        return [dict(zip(self.values, point, strict=True)) for point in product(*self.values.values())]

    def method(self, trial: Mapping[str, Any]) -> terms.Method:
        """The method with the parameters of a trial."""
        own = {n: trial[n] for n in self._own}
        changes = {n: v for n, v in trial.items() if n not in own}
        return terms.Method(self.make(**own), unequal=self.unequal, **changes)

    def edges(self, trial: Mapping[str, Any]) -> list[str]:
        """Parameters whose value is the least or the largest of three or more numbers: better ones may lie beyond."""
        numeric = {n: v for n, v in self.values.items() if len(v) > 2 and all(isinstance(x, int | float) for x in v)}
        return [n for n, v in numeric.items() if trial[n] in (min(v), max(v))]


def grid(make: Callable[..., Any], *, unequal: str = "", **values: Sequence[Any]) -> Grid:
    """The grid of a method: ``grid(FedProx, mu=(0.01, 0.1), lr=(0.03, 0.1))`` has four trials. Names are parameters of
    ``make``, or of local training; ValueError for one that is both. Other fields of the setting need ``unequal``, the
    reason why this method is tuned on other terms.
    """
    return Grid(make, unequal=unequal, **values)


def tune(
    experiment: Experiment[Any],
    methods: Mapping[str, Grid],
    where: str = "",
    *,
    by: str = "accuracy",
    **options: Any,
) -> dict[str, terms.Method]:
    """The best trial of each method, by the mean of the column ``by``; options are those of :func:`tune_by_each`."""
    return tune_by_each(experiment, methods, where, by=(by,), **options)[by]


def tune_by_each(
    experiment: Experiment[Any],
    methods: Mapping[str, Grid],
    where: str = "",
    *,
    by: Sequence[str],
    seeds: int = 3,
    share: float = 0.2,
    lower: bool = False,
    chance: float | None = None,
    unequal: str = "",
    watch: Watch = (),
    **changes: Any,
) -> dict[str, dict[str, terms.Method]]:
    """The best trial of each method for every column in ``by``, by its mean over the last rounds and the tuning seeds.

    The trials are the same for all columns, and played once. A random ``share`` of the training samples of every tuning
    seed is held out and judges, and no run is judged on these seeds. The test set of a tuning seed is not touched;
    where every seed draws its sets from one pool (``redraw``), it may share images with the test sets that judge.
    ``lower``: less is better. A seed that diverges, or that is worse than it, scores ``chance`` (one over the number of
    classes for an accuracy; needed for anything else), and its trial goes on. All trials play all rounds. The first of
    equal trials is taken. ``changes`` are those of the setting, and ``where`` its name.

    The grid, the scores of every seed, the changes and the choice become evidence. Methods have equally many trials;
    ``unequal`` says why, where they have not, and stands in the evidence, too. Raises ValueError without it, and where
    a tuning seed is one of the experiment's, which judge.
    """
    counts = {name: len(one.trials) for name, one in methods.items()}
    if len(set(counts.values())) > 1 and not unequal.strip():
        raise ValueError(f"methods have unequal numbers of trials, {counts}: give each as many, or say why (unequal=)")
    if chance is None and (other := next((column for column in by if column != "accuracy"), None)):
        raise ValueError(f"what does a run score whose {other!r} cannot be had, because it diverged? Say it by chance=")
    setting, own = experiment._varied(changes), [FIRST + i for i in range(require.whole("seeds", seeds, 1))]
    if judges := sorted({*own} & {*experiment.seeds}):
        raise ValueError(f"seeds {', '.join(map(str, judges))} tune and judge; give the run seeds below {FIRST}")
    changed = terms.differing(experiment.setting, changes)
    worst = 1 / _classes(setting) if chance is None else chance
    better = min if lower else max
    chosen: dict[str, dict[str, terms.Method]] = {column: {} for column in by}
    for name, one in methods.items():
        kept = []
        for trial in one.trials:
            way = terms.made(name, one.method, trial)
            scores = partial(_scores, setting, way, experiment.device, share, by, watch)
            label = ", ".join(f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}" for n, v in trial.items())
            key = f"tuning{' ' * bool(where)}{where}/{name}/{label}"
            kept.append(experiment.run.each(key, scores, seeds=own, at_once=setting.at_once))
        for place, column in enumerate(by):
            seen = [[row[place] for row in trial.values()] for trial in kept]
            floored = [[worst if v is None else better(v, worst) for v in row] for row in seen]
            means = [sum(row) / len(own) for row in floored]
            best = better(range(len(means)), key=means.__getitem__)
            trial = one.trials[best]
            chosen[column][name] = terms.made(name, one.method, trial)
            rows = [t | {"score": m, "scores": row} for t, m, row in zip(one.trials, means, seen, strict=True)]
            about = {"chosen": trial, "edges": one.edges(trial), "trials": rows, "seeds": own, "by": column}
            reasons = "; ".join(dict.fromkeys(r.strip() for r in (unequal, one.unequal) if r.strip()))
            about |= {"unequal": reasons} if reasons else {}
            about |= {"changes": changed} if changed else {}
            experiment.run.tuning[", ".join(filter(None, (name, where, f"by {column}" * (place > 0))))] = about
    return chosen


def _scores(
    setting: Setting,
    method: terms.Method,
    device: str,
    share: float,
    by: Sequence[str],
    watch: Watch,
    seeds: list[int],
) -> list[list[float | None]]:
    """Scores of some seeds, side by side; where one diverges each is played alone, and has None."""
    from fedlib.study.experiment import train
    from fedlib.study.setting import vary

    varied = vary(setting, **method.changes)

    def samples(seed: int) -> Any:
        return varied.draw(seed).held_out(share, rng.stream(seed, "held out"))

    try:
        results = train(varied, method, seeds, device, watch, samples=samples)
    except ArithmeticError:
        if len(seeds) == 1:
            return [[None] * len(by)]
        return [_scores(setting, method, device, share, by, watch, [s])[0] for s in seeds]
    last = results[0]["last"]
    if missing := [column for column in by if column not in last]:
        raise KeyError(f"by = {missing[0]!r}: nobody looked at such a column; there are {', '.join(last)}")
    return [[result["last"][column] for column in by] for result in results]


def _classes(setting: Setting) -> int:
    return int(setting.draw(FIRST).y.max()) + 1
