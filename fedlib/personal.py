"""Personal models: what each client holds, how good it is on the client's own test samples, and when one looks.

Accuracies of two methods can be compared only at the same moment. *Before* local training, a client holds the server's
shared part and whatever it kept itself; *after*, the same model once more trained on its own samples. Everything here
treats every method alike: FedAvg after local training is FedAvg with fine-tuning, and a method that shares nothing is
local training alone.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedlib import metrics, require, rng
from fedlib.federation import Federation, Job, Observer, Round
from fedlib.models.net import Net, State

if TYPE_CHECKING:
    from fedlib.algorithms.fedavg import FedAvg


def client_models(fed: Federation) -> list[State]:
    """The model that each of the K clients holds before local training: the server's, with the client's own tensors.

    A client that was never sampled has what it started with. The states share memory with the federation.
    """
    return [fed.state | fed.own.get(k, {}) for k in range(fed.clients)]


def trained(fed: Federation, epochs: int | None = None, algorithm: FedAvg | None = None) -> list[State]:
    """The models of all K clients after one more stretch of local work, from :func:`client_models`; nothing is sent.

    The work is that of the federation's algorithm, or of another (one that trains the head alone, say), over
    ``epochs`` epochs instead of the usual number. The federation stays as it is; on its batches a next round would
    train. Raises ArithmeticError when a model does not stay finite.
    """
    play = copy.copy(fed)
    play.local = fed.local if epochs is None else replace(fed.local, epochs=epochs)
    play.algorithm = algorithm or fed.algorithm
    models = client_models(fed)
    states, _ = _finish(play._local_work(list(range(fed.clients)), dict(enumerate(models))))
    for k, state in states.items():
        require.finite(f"the model that client {k} trained", *state.values())
    return [states[k] for k in range(fed.clients)]


def _finish(work: Generator[Job, None, tuple[dict[int, State], dict[int, float]]]) -> tuple[dict[int, State], dict]:
    while True:
        try:
            next(work).do(())
        except StopIteration as end:
            return end.value


def accuracies(fed: Federation, states: Sequence[State], x: Tensor, y: Tensor, split: Sequence[Tensor]) -> list[float]:
    """Accuracy of every state on its own rows of (x, y): ``split[i]`` for ``states[i]``; each in [0, 1].

    Raises ValueError when their numbers differ, or rows are missing or not there.
    """
    if len(states) != len(split) or any(len(rows) == 0 for rows in split):
        empty = [i for i, rows in enumerate(split) if len(rows) == 0]
        raise ValueError(
            f"every model needs test samples of its own: {len(states)} models, {len(split)} lists of rows, "
            f"empty ones: {empty or 'none'}"
        )
    for i, rows in enumerate(split):
        if rows.is_floating_point() or int(rows.min()) < 0 or int(rows.max()) >= len(y) or len(x) != len(y):
            raise ValueError(
                f"split[{i}] must hold rows of {len(x)} samples with {len(y)} targets, got {rows.tolist()}"
            )
    inputs, target = [fed.input(x[rows.to(x.device)]) for rows in split], y.to(fed.device)
    logits = fed.net.predict_each(states, inputs)
    return [metrics.accuracy(z, target[rows.to(fed.device)]) for z, rows in zip(logits, split, strict=True)]


def moments(
    fed: Federation, x: Tensor, y: Tensor, split: Sequence[Tensor], epochs: int | None = None
) -> dict[str, list[float]]:
    """``before`` and ``after`` local training: accuracies of all K clients, each on its rows ``split[k]`` of (x, y)."""
    pairs = (("before", client_models(fed)), ("after", trained(fed, epochs)))
    return {moment: accuracies(fed, states, x, y, split) for moment, states in pairs}


def before_training(x: Tensor, y: Tensor, split: Sequence[Tensor], by_client: bool = False) -> Observer:
    """``personal_before``: mean over all K clients of the accuracy on their own test rows ``split[k]`` of (x, y) right
    after aggregation; ``personal_before_sd``, its spread over clients; ``personal_before_clients`` (a list) if wanted.
    """

    def observe(fed: Federation, seen: Round) -> dict:
        return _columns("personal_before", accuracies(fed, client_models(fed), x, y, split), by_client)

    return observe


def after_training(x: Tensor, y: Tensor, split: Sequence[Tensor], by_client: bool = False) -> Observer:
    """``personal_after``: the same for the models as local training of this round left them, of the sampled clients;
    with its spread ``personal_after_sd`` and, if wanted, the list ``personal_after_clients``.
    """

    def observe(fed: Federation, seen: Round) -> dict:
        own = [split[k] for k in seen.clients]
        return _columns("personal_after", accuracies(fed, seen.states, x, y, own), by_client)

    return observe


def _columns(name: str, values: list[float], by_client: bool) -> dict:
    mean, sd = mean_and_spread(values)
    return {name: mean, f"{name}_sd": sd} | ({f"{name}_clients": values} if by_client else {})


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean over clients and the standard deviation between them (that of a sample; 0 for one client).

    Raises ValueError when there is no client, and NotFinite when a value is not finite.
    """
    if not len(values):
        raise ValueError("a mean over clients needs at least one")
    v = torch.tensor(values, dtype=torch.float64)
    require.finite("the values of the clients", v)
    return float(v.mean()), float(v.std()) if len(v) > 1 else 0.0


def last_layers(model: nn.Module, count: int) -> tuple[str, ...]:
    """Patterns for the names of the last ``count`` layers that have parameters, such as ``("body.3.*", "head.*")``.

    Layers count in the order in which the module lists them. Raises ValueError when there are not as many.
    """
    require.whole("count", count)
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in model.named_parameters()))
    if not 0 <= count <= len(layers):
        raise ValueError(f"{count} layers wanted, the model has {len(layers)}: {', '.join(layers)}")
    return tuple(f"{layer}.*" for layer in layers[len(layers) - count :])


def drawn_again(net: Net, *key: int | str) -> State:
    """First tensors of the network, every layer drawn anew by its own ``reset_parameters`` on the stream of a key.

    Parameters that no such layer holds, and initialisations that a network puts in place of its layers' own, are not
    drawn: what the network started with, and its layers' default, stand there.
    """
    module = copy.deepcopy(net.module).to("cpu", torch.float32)
    with rng.isolated(*key):
        for layer in module.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
    floating = {
        n: t.detach().to(net.device, net.dtype) for n, t in module.state_dict().items() if t.is_floating_point()
    }
    return net.initial() | floating
