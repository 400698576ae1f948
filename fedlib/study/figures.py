"""Standard figures of experiments: each writes its own alternative text from the numbers that it draws."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedlib import evidence, plots
from fedlib.plots import lines as drawn_lines, look
from fedlib.study.experiment import Experiment
from fedlib.study.runs import Runs

Values = Mapping[int, float]


def names(like: Mapping[str, str] | None = None, **labels: str) -> None:
    """Print names of methods that only this chapter has, in the order in which they get colours: ``names(pull="pull
    alone")``. A method that the book knows keeps its colour, which no other then gets, and gets the name; ``like`` says
    of variants whose colour they share: ``names({"fedavg1": "fedavg"}, fedavg1="FedAvg, one class")``.
    """
    if unknown := sorted((like or {}).keys() - labels.keys()):
        raise ValueError(f"names of {', '.join(unknown)}: `like` says whose colour, and no label is given")
    known = look.METHODS.keys() | {_key(key) for key in labels}
    if unknown := [other for other in (like or {}).values() if _key(other) not in known]:
        raise ValueError(f"like {unknown[0]!r}: no such method has a colour; there are {', '.join(sorted(known))}")
    keys = {key: _key((like or {}).get(key, key)) for key in labels}
    fresh = [key for key in labels if keys[key] not in look.METHODS]
    taken = {look.METHODS[keys[key]].colour for key in labels if key not in fresh}
    every = list(zip(look.CYCLE, look.MARKERS, strict=True))
    spare = [one for one in every if one[0] not in taken][1:] or every[1:]  # the first is left to FedAvg
    free = {}
    for i, key in enumerate(fresh):
        turn, place = divmod(i, len(spare))  # once around, a colour comes again with another marker, dashed
        marker = spare[(place + turn) % len(spare)][1]
        free[key] = look.Style(labels[key], spare[place][0], marker, (0, (4, 2)) if turn else "-")
    for key, label in labels.items():
        style = look.METHODS.get(keys[key])
        look.METHODS[_key(key)] = style._replace(label=label) if style else free[key]


def curves(
    runs: Runs,
    *columns: str,
    methods: Sequence[str] | None = None,
    titles: Sequence[str] = (),
    percent: bool | None = None,
    spread: str = "band",
    height: float = 3.2,
    first: int = 1,
    log: bool = False,
    share: bool = False,
    x: str = "round",
    log_x: bool = False,
) -> None:
    """Columns of the history over rounds, a panel for each: the mean over seeds, with its 95 % interval
    (``spread="seeds"``: a thin line for each seed). ``first``: the round with which the lines begin. ``log``: a
    logarithmic scale; ``share``: one scale for all panels. ``x``: another column, equal for all seeds, in place of the
    round; ``log_x``: its axis is logarithmic.
    """
    also = () if x == "round" else (x,)
    chosen = list(runs) if methods is None else list(methods)
    if not chosen or not columns:
        raise ValueError(f"nothing to draw: {len(chosen)} methods, {len(columns)} columns; there are {runs!r}")
    fig, axes = plots.figure(1, len(columns), height=height, squeeze=False, sharey=share)
    said = []
    for i, (ax, column) in enumerate(zip(axes[0], columns, strict=True)):
        shares = _is_share(column) if percent is None else percent
        rows = {m: {s: h[first - 1 :] for s, h in runs.histories(m, *also, column).items()} for m in chosen}
        title = titles[i] if titles else column.replace("_", " ")
        if log_x:
            ax.set_xscale("log")
        last = {m: [h[-1] for h in one.values()] for m, one in rows.items()}
        alone = len(columns) == 1 and len({row[x] for one in last.values() for row in one}) == 1  # one end for all
        plots.curves(rows, column, x=x, ax=ax, percent=shares, spread=spread, ylabel=title if len(columns) == 1 else "",
                     labels=alone, log=log)  # fmt: skip
        if x == "round":
            ax.locator_params(axis="x", integer=True)
        if len(columns) > 1:
            ax.set_title(textwrap.fill(title, int(10 * fig.get_figwidth() / len(columns))))
        ends = {m: evidence.interval([row[column] for row in rows]).mean for m, rows in last.items()}
        places = {m: evidence.interval([row[x] for row in rows]).mean for m, rows in last.items()}
        apart = (
            {m: f" at {_shown(place, False)} {x}" for m, place in places.items()} if len({*places.values()}) > 1 else {}
        )
        said.append(f"{title} at the end: {_listed(ends, shares, apart)}")
    if not alone:
        handles, labels = axes[0][0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)))
    over = "rounds" if x == "round" else x
    plots.show(fig, f"Lines over {over}, mean and spread over {len(runs[chosen[0]])} seeds. " + ". ".join(said) + ".")


def bars(
    experiment: Experiment[Any],
    panels: str | Mapping[str, str],
    methods: Sequence[str],
    *,
    percent: bool | None = None,
    reference: str | None = None,
    columns: int = 2,
) -> None:
    """Bars of means with one dot a seed and the 95 % interval; panels are metrics, with ``{}`` where the method stands:
    ``{"Accuracy": "accuracy/{}"}``. ``reference``: a method whose mean is drawn as a line.

    Methods that a metric lacks are left out of its panel.
    """
    from matplotlib.text import Annotation

    panels = _panels(experiment, panels, methods)
    wide = min(columns, len(panels))
    deep = -(-len(panels) // wide)
    fig, axes = plots.figure(deep, wide, height=deep * (0.9 + 0.3 * len(methods)), squeeze=False)
    said = []
    for ax, (title, metric) in zip(axes.flat, panels.items(), strict=False):
        there = {m: experiment.values(metric.format(m)) for m in methods if experiment.has(metric.format(m))}
        shares = _is_share(metric) if percent is None else percent
        line = experiment.mean(metric.format(reference)) if reference else None
        plots.bars(there, ax=ax, percent=shares, reference=line)
        for note in ax.texts:
            note.set_text(note.get_text().replace("-", "−"))
            if isinstance(note, Annotation) and note.xy[0] < 0:
                note.xy = (0.0, note.xy[1])  # right of the bar, which ends at zero
        low = min(v for values in there.values() for v in values.values())
        ax.set(title=title, xlim=(min(0.0, 1.1 * low), None))  # a bar begins at zero, to whichever side it goes
        means = {m: evidence.interval(v.values()).mean for m, v in there.items()}
        said.append(f"{title or metric.partition('/')[0]}: {_listed(means, shares)}")
    for ax in list(axes.flat)[len(panels) :]:
        ax.remove()
    plots.show(fig, "Bars of means with one dot per seed. " + ". ".join(said) + ".")


def differences(
    experiment: Experiment[Any],
    panels: str | Mapping[str, str],
    methods: Sequence[str],
    to: str,
    *,
    percent: bool | None = None,
    least: float | None = None,
) -> None:
    """Paired differences to one method: a dot for each seed, the mean, its 95 % interval, and a line at no difference.

    ``panels`` as for :func:`bars`. ``least``: the least effect that would count, as a second line.
    """
    panels = _panels(experiment, panels, methods)
    fig, axes = plots.figure(1, len(panels), height=0.9 + 0.36 * len(methods), squeeze=False)
    drawn, said = look.styles([*methods, to]), []
    for ax, (title, metric) in zip(axes[0], panels.items(), strict=True):
        shares = _is_share(metric) if percent is None else percent
        scale, unit = (100.0, " points") if shares else (1.0, "")
        there = [m for m in methods if experiment.has(metric.format(m))]
        found = []
        for row, method in enumerate(there):
            gaps = [scale * v for v in experiment.run.values(metric.format(method), metric.format(to))]
            seen, colour = evidence.interval(gaps), drawn[method].colour
            spots = [row + 0.34 * (i / max(1, len(gaps) - 1) - 0.5) for i in range(len(gaps))]
            ax.scatter(gaps, spots, s=14, color="white", edgecolors=colour, linewidths=1.0, zorder=3)
            if seen.n > 1:
                ax.plot([seen.low, seen.high], [row, row], color=look.INK, linewidth=1.6, zorder=4)
            ax.scatter([seen.mean], [row], s=42, color=colour, marker=drawn[method].marker or "o", zorder=5)
            found.append(f"{drawn[method].label} {_signed(seen.mean)}{unit}")
        ax.axvline(0, color=look.INK, linewidth=1)
        if least is not None:
            ax.axvline(scale * least, color=look.MUTED, linewidth=1, linestyle=(0, (4, 2)))
        ax.set_yticks(range(len(there)), [drawn[m].label for m in there])
        ax.set(
            ylim=(len(there) - 0.5, -0.5),
            title=title,
            xlabel=f"difference to {drawn[to].label}{',' * bool(unit)}{unit}",
        )
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        said.append(f"{title}{': ' * bool(title)}{', '.join(found)}")
    plots.show(fig, f"Differences to {drawn[to].label} on the same seed, one dot a seed. " + ". ".join(said) + ".")


def sweep(
    experiment: Experiment[Any],
    panels: Mapping[str, str | Mapping[str, str | Callable[[float], str]]],
    values: Sequence[float] | Mapping[float, str],
    xlabel: str,
    *,
    baselines: Mapping[str, str] | None = None,
    percent: bool | None = None,
    log: bool = True,
) -> None:
    """A metric over a parameter, a panel each: thick the mean, thin the seeds. A panel is a metric with ``{}`` where
    the value stands (or what ``values`` maps it to), or several of them by name; where that does not say it, a line is
    a function from the value to the metric. ``baselines``: metrics that do not depend on it, as dashed lines.
    """
    fig, axes = plots.figure(1, len(panels), height=3.0, squeeze=False)
    keys = values if isinstance(values, Mapping) else {v: _short(v) for v in values}
    said = []

    def metric(line: str | Callable[[float], str], value: float) -> str:
        return line.format(keys[value]) if isinstance(line, str) else line(value)

    for ax, (title, given) in zip(axes[0], panels.items(), strict=True):
        lines = {title: given} if isinstance(given, str) else given
        places = [v for v in keys if all(experiment.has(metric(line, v)) for line in lines.values())]
        if not places:
            asked = ", ".join(metric(line, v) for line in lines.values() for v in keys) or "no line at no value"
            raise ValueError(f"nothing to draw of {asked}; {_known(experiment)}")
        shares = _is_share(metric(next(iter(lines.values())), places[0])) if percent is None else percent
        ends = []
        for name, drawn in look.styles(lines).items():
            found = [experiment.values(metric(lines[name], v)) for v in places]
            for s in experiment.seeds:
                ax.plot(places, [one[s] for one in found], color=drawn.colour, alpha=0.35, linewidth=0.8)
            means = [evidence.interval(one.values()).mean for one in found]
            ax.plot(places, means, color=drawn.colour, marker=drawn.marker or "o")
            ends.append((places[-1], means[-1], drawn.label, drawn.colour))
            said.append(
                f"{title}, {drawn.label}: ".removeprefix(f"{title}, " * (title in ("", drawn.label)))
                + ", ".join(f"{_short(v)}: {_shown(m, shares)}" for v, m in zip(places, means, strict=True))
            )
        for name, base in (baselines or {}).items():
            ax.axhline(experiment.mean(base), color=look.MUTED, linestyle=(0, (4, 2)), linewidth=1.2)
            ends.append((places[-1], experiment.mean(base), name, look.MUTED))
        if log:
            ax.set_xscale("log")
        ax.set_xticks(places, [_short(v) for v in places])
        ax.minorticks_off()
        ax.set(title=title, xlabel=xlabel)
        if shares:
            drawn_lines.as_percent(ax)
        if len(ends) > 1:
            plots.label_ends(ax, ends)
    plots.show(fig, f"Lines over {xlabel}. " + ". ".join(said) + ".")


def _panels(experiment: Experiment[Any], panels: str | Mapping[str, str], methods: Sequence[str]) -> Mapping[str, str]:
    """Patterns by title. Raises ValueError where there is none, or nothing to draw of it."""
    panels = {"": panels} if isinstance(panels, str) else panels
    for pattern in panels.values():
        if "{}" not in pattern:
            raise ValueError(
                f"{pattern!r}: expected a metric with {{}} where the method stands, such as 'accuracy/{{}}'"
            )
        if not any(experiment.has(pattern.format(method)) for method in methods):
            asked = ", ".join(methods) or "no method"
            raise ValueError(f"nothing to draw of {pattern!r} for {asked}; {_known(experiment)}")
    if not panels:
        raise ValueError("nothing to draw: no panel is given")
    return panels


def _known(experiment: Experiment[Any]) -> str:
    return f"recorded: {', '.join(sorted(experiment.run.metrics)) or 'nothing'}"


def _key(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_share(metric: str) -> bool:
    return "accuracy" in metric.partition("/")[0]


def _shown(value: float, share: bool) -> str:
    return (f"{100 * value:.1f}%" if share else f"{value:.3g}").replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _listed(means: Mapping[str, float], share: bool, places: Mapping[str, str] | None = None) -> str:
    drawn = look.styles(means)
    return ", ".join(f"{drawn[m].label} {_shown(v, share)}{(places or {}).get(m, '')}" for m, v in means.items())
