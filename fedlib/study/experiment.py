"""An experiment: one profile of a chapter, its seeds, what is compared in it, and the numbers that come of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from fedlib import evidence, require
from fedlib.algorithms import FedAvg
from fedlib.federation import Federation, Observer
from fedlib.study import terms, tuning
from fedlib.study.runs import Measure, Result, Runs, summary
from fedlib.study.setting import Federated, Samples, Setting, described, vary
from fedlib.study.splits import Pooled
from fedlib.study.terms import Method, Way
from fedlib.training import Objective, Trainer

S = TypeVar("S", bound=Setting)
Watch = Sequence[Callable[[Samples], Observer]]
Finish = Callable[[Federation, Samples], Mapping[str, Any]]
Pair = tuple[Federation, Samples]
METHODS, COMPARISONS = "of methods", "of comparisons"  # in the evidence's setting: no field can have these names


def begin(
    profiles: Mapping[str, S],
    profile: str,
    *,
    seed: int = 0,
    seeds: int | None = None,
    device: str = "auto",
    **changes: Any,
) -> Experiment[S]:
    """The experiment of a profile, with whatever a reader has changed: a value of None leaves the profile's own.

    Names of changes are those of the setting's fields, or of its parts' (:func:`~fedlib.study.setting.vary`). ``seed``
    is the first of the seeds, ``seeds`` their number. Raises ValueError for an unknown profile and for values that
    cannot work.
    """
    require.one_of("profile", profile, profiles)
    setting = vary(profiles[profile], seeds=seeds, **changes)
    require.whole("seed", seed, least=None)
    return Experiment(setting, profile, range(seed, seed + setting.seeds), device)


@dataclass
class Experiment(Generic[S]):
    """What :func:`begin` opens. ``run`` holds the metrics, ``setting`` what the profile says."""

    setting: S
    profile: str
    seeds: Iterable[int]
    device: str = "auto"

    def __post_init__(self) -> None:
        self.run = evidence.Run(self.profile, self.seeds)
        self.run.setting = described(self.setting)
        self.seeds = self.run.seeds  # fewer, where several processes share them out

    # Training

    def federation(self, algorithm: FedAvg, seed: int, **changes: Any) -> Federation:
        """One federation of the experiment, not yet played: the object to look into. ``changes`` of the setting."""
        setting = self._varied(changes)
        if not isinstance(setting, Federated):
            raise TypeError(f"{type(setting).__name__} is no study.Federated setting: there is nothing to federate")
        return setting.federation(algorithm, seed, device=self.device)

    def trainer(self, objective: Objective, seed: int, **changes: Any) -> Trainer:
        """The same where nothing is federated: one network that has not been trained."""
        setting = self._varied(changes)
        if isinstance(setting, Federated):
            raise TypeError(f"{type(setting).__name__} is a federation: experiment.federation makes it")
        return setting.start(objective, seed, device=self.device)

    def compare(
        self,
        methods: Mapping[str, Way | Method | Callable[[int], Way]],
        where: str = "",
        *,
        measures: Mapping[str, Measure] | None = None,
        watch: Watch = (),
        finish: Finish | None = None,
        ceiling: bool = False,
        chance: Mapping[str, float] | None = None,
        **changes: Any,
    ) -> Runs:
        """Train every method on every seed, seeds side by side, and record what the ``measures`` read.

        All have the same samples, split, batches and first weights. ``changes`` are those of the setting, for this
        comparison, which then needs a name, ``where``; they become evidence, as does what a method has of its own
        (:class:`~fedlib.study.terms.Method`). ``measures`` says what is recorded of each run: metric -> column of the
        history (its mean over the last rounds), or function of the :class:`~fedlib.study.runs.Result`; by default
        ``accuracy``. The metric is called ``accuracy/<method>``, ``accuracy-<where>/<method>`` in a setting with a
        name, and as it says where it has a ``{}`` for the method. ``watch`` adds observers, made of the samples;
        ``finish(federation, samples)`` may look at the trained federation, and what it returns is ``found`` in the
        result. With ``ceiling``, one model is trained on all clients' samples in one place, for as many epochs: the
        method ``pooled``. Training that diverges raises ArithmeticError, unless ``chance`` says what such a run scores
        in each measure that it cannot have: ``{"accuracy": 0.1}``.

        What is done is kept (:meth:`fedlib.evidence.Run.each`): a run that was killed goes on.
        """
        if isinstance(chance, int | float):
            raise TypeError(
                f"chance = {chance!r}: each measure has its own; give a mapping, such as {{'accuracy': 0.1}}"
            )
        setting, runs = self._varied(changes), Runs(where, chance or {})
        self._tell(where, changes)
        ways = {name: terms.named(name, m) for name, m in methods.items()}
        if ceiling:
            if not isinstance(setting, Federated):
                raise TypeError("ceiling= is for federations: here all samples are in one place already")
            why = "the ceiling: all samples in one place"
            ways["pooled"] = Method(FedAvg(), split=Pooled(), clients=1, participation=1.0, unequal=why)
        for name, way in ways.items():
            key = f"{name}, {where}" if where else name
            if own := way.differs(setting):
                self.run.setting.setdefault(METHODS, {})[key] = own
            playing = partial(_played, name, vary(setting, **way.changes), way, self.device)
            played = partial(playing, watch, finish, chance is not None)
            runs.add(name, self.run.each(key, played, at_once=setting.at_once))
        known = set(self.run.metrics)
        self.measure(runs, {"accuracy": "accuracy"} if measures is None else measures)
        if beside := sys.modules.get("fedlib.study.beside"):  # a notebook that knows the book's numbers
            beside.show(self.run, sorted(set(self.run.metrics) - known))
        return runs

    def tune(self, methods: Mapping[str, tuning.Grid], **options: Any) -> dict[str, Method]:
        """Choose the best of each method's grid on held-out samples and seeds of their own (:func:`tuning.tune`)."""
        return tuning.tune(self, methods, **options)

    def tune_by_each(self, methods: Mapping[str, tuning.Grid], **options: Any) -> dict[str, dict[str, Method]]:
        """The same by several columns, from the same trials (:func:`tuning.tune_by_each`)."""
        return tuning.tune_by_each(self, methods, **options)

    def _tell(self, where: str, changes: Mapping[str, Any]) -> None:
        """Put the changes of a comparison into the evidence. Raises ValueError where they have no name, or the name
        stands for others.
        """
        own = terms.differing(self.setting, changes)
        if own and not where:
            raise ValueError(f"{', '.join(own)}: another setting needs a name: compare(methods, 'name', ...)")
        told = self.run.setting.setdefault(COMPARISONS, {}) if where else {}
        if told.setdefault(where, own) != own:
            raise ValueError(f"{where!r} names a setting with {told[where]}; one with {own} needs another name")

    def _varied(self, changes: Mapping[str, Any]) -> Setting:
        terms.fixed(changes)
        return vary(self.setting, **changes)

    # Numbers

    def measure(self, runs: Runs, measures: Mapping[str, Measure], methods: Iterable[str] | None = None) -> None:
        """Record further numbers of a comparison, as :meth:`compare` does, of all its methods or of some."""
        chosen = list(runs if methods is None else methods)
        for metric, read in measures.items():
            name = f"{metric}-{runs.where}" if runs.where else metric
            whole = metric if "{}" in metric else f"{name}/{{}}"
            for method in chosen:
                self.record(whole.replace("{}", method), runs.values(method, read, metric))

    def record_found(self, runs: Runs, metric: str = "{name}/{method}") -> None:
        """Record all numbers that ``finish`` found, under names of that form; a name with a "/" is a whole metric."""
        for method in runs:
            for name in next(iter(runs[method].values())).found:
                whole = name if "/" in name else metric.format(name=name, method=method)
                self.record(whole, {s: result.found[name] for s, result in runs[method].items()})

    def record(self, metric: str, values: Mapping[int, float] | Callable[[int], float]) -> None:
        """Record one number for each seed: a mapping from the seeds, or a function of the seed."""
        for s in self.seeds:
            if not callable(values) and s not in values:
                there = ", ".join(map(str, values)) or "none"
                raise KeyError(f"metric {metric!r}: no value for seed {s}; the values are of the seeds {there}")
            self.run.record(metric, s, values(s) if callable(values) else values[s])

    def each(self, name: str, compute: Callable[[int], Any]) -> dict[int, Any]:
        """``compute(seed)`` for every seed, JSON-able, kept as it is done; for whatever is no federation."""
        return self.run.each(name, lambda some: [compute(s) for s in some], at_once=1)

    def values(self, metric: str, against: str | None = None) -> dict[int, float]:
        """A metric's number for each seed, or its difference to that of another metric."""
        found = self.run.values(metric, against)  # raises for one that was not recorded
        return dict(zip(map(int, self.run.metrics[metric]), found, strict=True))

    def mean(self, metric: str) -> float:
        """A metric's mean over the seeds."""
        return self.run.interval(metric).mean

    def has(self, metric: str) -> bool:
        """Whether this profile measures it."""
        return metric in self.run.metrics

    def table(self, *patterns: str, digits: int = 3) -> str:
        """Plain text table of the metrics that begin with one of the patterns (all without one), rounded."""
        chosen = [m for m in sorted(self.run.metrics) if not patterns or m.startswith(patterns)]
        return self.run.table(chosen, digits)

    def publish(self) -> None:
        """Hand the numbers over to whoever executes the chapter, and show them."""
        self.run.publish()


def _played(
    name: str,
    setting: Setting,
    method: Method,
    device: str,
    watch: Watch,
    finish: Finish | None,
    may_diverge: bool,
    seeds: list[int],
) -> list[dict[str, Any]]:
    pairs: list[Pair] = []
    try:
        pairs += _pairs(setting, method, seeds, device, watch)
        return _ends(setting, pairs, finish)
    except ArithmeticError:
        if not may_diverge:
            raise
        if len(seeds) == 1:
            sent = sum(fed.ledger.total for fed, _ in pairs)
            return [Result(curves={}, last={}, bytes=sent, found={}, diverged=True)]
        return [_played(name, setting, method, device, watch, finish, True, [s])[0] for s in seeds]
    except TypeError as error:
        error.add_note(f"It was method {name!r}, seeds {', '.join(map(str, seeds))}.")
        raise


def train(
    setting: Setting,
    method: Method,
    seeds: Sequence[int],
    device: str = "auto",
    watch: Watch = (),
    finish: Finish | None = None,
    samples: Callable[[int], Samples] | None = None,
) -> list[dict[str, Any]]:
    """Results of one method for some seeds, trained side by side. ``samples(seed)`` stand for the setting's own."""
    return _ends(setting, _pairs(setting, method, seeds, device, watch, samples), finish)


def _pairs(
    setting: Setting,
    method: Method,
    seeds: Sequence[int],
    device: str,
    watch: Watch,
    samples: Callable[[int], Samples] | None = None,
) -> list[Pair]:
    """Federations that have not played, and their samples."""
    data = [setting.draw(s) if samples is None else samples(s) for s in seeds]
    return [
        (setting.start(method.of(s), s, samples=own, watch=watch, device=device), own)
        for s, own in zip(seeds, data, strict=True)
    ]


def _ends(setting: Setting, pairs: Sequence[Pair], finish: Finish | None) -> list[dict[str, Any]]:
    """Play, and what came of it."""
    setting.play([fed for fed, _ in pairs])
    results: list[dict[str, Any]] = []
    for fed, own in pairs:
        found = finish(fed, own) if finish else {}
        if not isinstance(found, Mapping):
            raise TypeError(f"finish gave {found!r} for seed {fed.seed}; expected a mapping, such as {{'spread': 0.1}}")
        results.append(summary(fed, setting.last, found))
    return results
