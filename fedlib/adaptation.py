"""Adaptation: how good each client's model is after a few steps on the client's own training samples.

Every method is asked the same: from the model that a client holds before local training
(:func:`fedlib.personal.client_models`), ``steps`` full-batch gradient steps at one rate on the client's training
samples, judged on its test samples. After no step that is the server's model, after one step what Per-FedAvg trains
for; FedAvg after a step is "FedAvg + update". The public code of pFedMe takes these steps on *test* batches, with
their labels: here only rows that the client holds in the federation can adapt, and none that judges, nor its copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlib import personal, require
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, Diverged, Task
from fedlib.federation import Federation, Observer, Round
from fedlib.jobs import Work
from fedlib.models.net import State
from fedlib.optim import SGD

PLAIN = FedAvg()
"""Whose objective the steps descend: the cross-entropy of the client's samples, whatever the method trained by."""


def adapted(
    fed: Federation,
    rate: float,
    steps: int,
    *,
    states: Sequence[State | None] | None = None,
    rows: Sequence[Tensor] | None = None,
) -> list[State | None]:
    """The models of all K clients after gradient steps on all of their training samples at once; None where the steps
    ruin a model: its loss or a weight is no finite number any more.

    ``states`` [K] are where they start instead of :func:`~fedlib.personal.client_models` (None: already ruined);
    ``rows[k]``, a part of ``fed.split[k]``, takes the place of all training samples. The federation stays as it is.
    Raises ValueError for other rows, for a rate that is negative or no number, and for no whole number of steps.
    """
    require.real("rate", rate, least=0)
    require.whole("steps", steps)
    rows = fed.split if rows is None else _own(fed, rows)
    begin = personal.client_models(fed) if states is None else list(states)
    if len(begin) != fed.clients:
        raise ValueError(f"states: one for each of {fed.clients} clients is needed, got {len(begin)}")
    if not steps:
        return [state if state is not None and require.all_finite(state.values()) else None for state in begin]
    found = _walk(fed, rate, steps, {k: state for k, state in enumerate(begin) if state is not None}, rows)
    return [found.get(k) for k in range(fed.clients)]


def accuracies_after(
    fed: Federation,
    rate: float,
    steps: Sequence[int],
    x: Tensor,
    y: Tensor,
    split: Sequence[Tensor],
    *,
    states: Sequence[State] | None = None,
    rows: Sequence[Tensor] | None = None,
) -> dict[int, list[float]]:
    """For each number of steps the accuracies of all K clients, each on its rows ``split[k]`` of (x, y), in [0, 1].

    A model that its steps ruin answers at chance: one over the number of classes. ``steps`` ascend, such as (0, 1, 5).
    Other arguments as for :func:`adapted`. Raises ValueError, too, for test rows that are missing or that adapt, and
    for classes that the network has no output for.
    """
    require.real("rate", rate, least=0)
    numbers = _ascending(steps)
    if len(split) != fed.clients:
        raise ValueError(f"split: test rows are needed for each of {fed.clients} clients, got {len(split)}")
    if not len(x) or len(x) != len(y):
        raise ValueError(
            f"test samples: as many labels as samples, and one at least, are needed; got {len(x)}, {len(y)}"
        )
    rows = list(fed.split) if rows is None else _own(fed, rows)
    _apart(fed, rows, x, y, split)
    classes = fed.net.predict(fed.state | fed.own.get(0, {}), fed.input(fed.x[:1])).shape[-1]
    if int(y.max()) >= classes:
        raise ValueError(f"the network has {classes} outputs, classes 0 to {classes - 1}; y has {int(y.max())}")
    now: list[State | None] = list(personal.client_models(fed) if states is None else states)
    found, taken = {}, 0
    for number in numbers:
        now, taken = adapted(fed, rate, number - taken, states=now, rows=rows), number
        alive = {k: state for k, state in enumerate(now) if state is not None}
        own = _judged(fed, alive, x, y, split)
        found[number] = [own.get(k, 1 / classes) for k in range(fed.clients)]
    return found


def after_steps(
    rate: float, steps: Sequence[int], x: Tensor, y: Tensor, split: Sequence[Tensor], by_client: bool = False
) -> Observer:
    """Columns ``adapted_0``, ``adapted_1``, ...: mean over all K clients of :func:`accuracies_after`, with its spread
    between clients ``adapted_1_sd`` and, if wanted, the list ``adapted_1_clients``. Raises ValueError at once for
    a rate and for steps that :func:`accuracies_after` would refuse.
    """
    require.real("rate", rate, least=0)
    _ascending(steps)

    def observe(fed: Federation, seen: Round) -> dict:
        row: dict = {}
        for number, values in accuracies_after(fed, rate, steps, x, y, split).items():
            middle, spread = personal.mean_and_spread(values)
            row |= {f"adapted_{number}": middle, f"adapted_{number}_sd": spread}
            row |= {f"adapted_{number}_clients": values} if by_client else {}
        return row

    return observe


def _own(fed: Federation, rows: Sequence[Tensor]) -> list[Tensor]:
    """The rows. Raises ValueError unless client k holds all of ``rows[k]``, and at least one."""
    if len(rows) != fed.clients:
        raise ValueError(f"rows: those of each of {fed.clients} clients are needed, got {len(rows)}")
    for k, (some, own) in enumerate(zip(rows, fed.split, strict=True)):
        if not len(some):
            raise ValueError(f"rows[{k}] is empty: client {k} has nothing to adapt on")
        if strange := sorted({*some.tolist()} - {*own.tolist()}):
            raise ValueError(f"rows[{k}]: row {strange[0]} is no training sample of client {k}; adapt on its own alone")
    return list(rows)


def _ascending(steps: Sequence[int]) -> list[int]:
    """The numbers of steps. Raises ValueError unless they are whole and ascend, and there is one at least."""
    numbers = [require.whole("steps", s) for s in steps] if isinstance(steps, Sequence) else []
    if not numbers or numbers != sorted({*numbers}):
        raise ValueError(f"steps must be ascending numbers, such as (0, 1, 5); got {steps!r}")
    return numbers


def _apart(fed: Federation, rows: Sequence[Tensor], x: Tensor, y: Tensor, split: Sequence[Tensor]) -> None:
    """Raises ValueError where a client is judged on a sample that adapts, be it the same row or a copy of it: equal
    numbers and an equal label.
    """
    if x.shape[1:] != fed.x.shape[1:]:
        return  # nothing here can be a copy
    test, train = _marks(x), _marks(fed.x)
    for k, (judging, own) in enumerate(zip(split, rows, strict=True)):
        seen = {value: i for i, value in zip(own.tolist(), train[own.cpu()].tolist(), strict=True)}
        for i, value in zip(judging.tolist(), test[judging.cpu()].tolist(), strict=True):
            j = seen.get(value)
            if j is not None and torch.equal(x[i].to(fed.x), fed.x[j]) and int(y[i]) == int(fed.y[j]):
                raise ValueError(f"client {k}: test row {i} is among those that adapt; judge on other samples")


def _marks(x: Tensor) -> Tensor:
    """A whole number for each sample [N], by its numbers alone: equal samples have equal ones, others hardly ever."""
    bits = (x.detach().flatten(1).cpu().double() + 0.0).view(torch.int64)  # -0.0 is 0.0
    factors = torch.randint(2**62, bits.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 + 1
    return (bits * factors).sum(1)  # modulo 2^64, so in any order


def _judged(
    fed: Federation, states: dict[int, State], x: Tensor, y: Tensor, split: Sequence[Tensor]
) -> dict[int, float]:
    """Accuracies by client, without those whose answers are no finite numbers."""
    if not states:
        return {}
    try:
        found = personal.accuracies(fed, list(states.values()), x, y, [split[k] for k in states])
    except require.NotFinite:
        each = [_judged(fed, {k: state}, x, y, split) for k, state in states.items() if len(states) > 1]
        return {k: value for one in each for k, value in one.items()}
    return dict(zip(states, found, strict=True))


def _walk(
    fed: Federation, rate: float, steps: int, begin: dict[int, State], rows: Sequence[Tensor]
) -> dict[int, State]:
    """States after the steps, of all clients at once, or of each alone where one of them fails."""
    tasks = [
        Task(
            client=k,
            state=state,
            context=Context(state),
            x=fed.x,
            y=fed.y,
            samples=rows[k].cpu(),
            order=torch.arange(len(rows[k])).expand(steps, -1),
            batch_size=max(map(len, rows)),
            prepare=fed.prepare,
        )
        for k, state in begin.items()
    ]
    if not tasks:
        return {}
    try:
        with fed.net.arithmetic():
            Work(fed.executor, fed.net, tasks, PLAIN.objective, SGD(rate), rate).do(())
    except Diverged:
        each = [_walk(fed, rate, steps, {k: state}, rows) for k, state in begin.items() if len(begin) > 1]
        return {k: state for one in each for k, state in one.items()}
    return {task.client: task.state for task in tasks if require.all_finite(task.state.values())}
