"""FedGKT (He, Annavaram and Avestimehr 2020): small networks on the clients, a large one on the server that reads their
features; each side teaches the other by its logits for the same samples, once a round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlib import require, rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Phase
from fedlib.ledger import payload_bytes
from fedlib.losses import cross_entropy, kd
from fedlib.models.net import Net, State, clone
from fedlib.optim import Adam, Memory


@dataclass(frozen=True)
class Serving:
    """How the server trains in each round: ``epochs`` over all the features that it got, shuffled, in batches, by Adam
    at the rate ``lr``, whose moments are kept from round to round. Raises ValueError for numbers that cannot work.
    """

    epochs: int = 5
    batch_size: int = 64
    lr: float = 1e-3

    def __post_init__(self) -> None:
        require.whole("epochs", self.epochs)
        require.whole("batch_size", self.batch_size, 1)
        require.real("lr", self.lr, above=0)


DEFAULT = Serving()


def both_ways(logits: Tensor, other: Tensor, target: Tensor, weight: Tensor | float, temperature: float) -> Tensor:
    """Cross-entropy and ``weight`` times the distillation from the ``other`` side's logits, which are constants:
    CE(z, y) + weight T^2 KL(softmax(other / T) || softmax(z / T)), mean over the batch; logits [B, C], target [B].

    (He et al. 2020, equations 7 and 8, which are one with the sides exchanged.) With a weight of 0, and an other side
    that is finite, it is the cross-entropy. Raises ValueError for a temperature that is not above 0, and for a negative
    or infinite weight or NaN; a weight that is a tensor is taken as it is, for its value may not be known yet.
    """
    if not isinstance(weight, Tensor):
        require.real("weight", weight, least=0)
    require.real("temperature", temperature, above=0)
    return cross_entropy(logits, target) + weight * kd(logits, other, temperature)


class FedGKT(FedAvg):
    """Clients train an edge network, which no one averages; the server trains ``body()`` on the edge's features.

    A client's network answers with logits z_c [B, C], and with ``features=True`` with what it sends, H [B, ...]; the
    body turns H into logits z_s [B, C]. In a round a client trains (:meth:`taught`, in its first round without a
    teacher) and sends H, z_c and the label of each of its samples. The server trains on what came, and answers each
    sample with z_s, by one pass in evaluation mode. ``up`` weighs the clients' lesson to the server, ``down`` the
    server's to the clients; with 0 that side learns from labels alone. Server logits are kept *by sample*,
    ``fed.memory["logits"]`` [N, C]: whatever the order of batches, each sample meets its own answer.

    All clients begin with the same weights, or with those of ``edges()``, drawn for each. With ``down`` 0 clients train
    as if they were alone. Bytes: up n_k (|H| + C + 1) numbers, down n_k C; the answer closes a round and is entered in
    the ledger's, while the history's column ``down``, which is about broadcasts, stays 0. Raises ValueError for a body
    that does not fit the edge, for edges that are no such networks, when two clients hold the same sample, for targets
    that are no classes or that the federation's type cannot tell apart, and for an ``augment``: the server would answer
    another picture than the client trains on.
    """

    personal = ("*",)

    def __init__(
        self,
        body: Callable[[], nn.Module],
        up: float = 1.0,
        down: float = 1.0,
        temperature: float = 3.0,
        serving: Serving = DEFAULT,
        edges: Callable[[], nn.Module] | None = None,
    ):
        for name, make in {"body": body, "edges": edges}.items():
            if not callable(make) and (name == "body" or make is not None):
                raise ValueError(f"{name} must be a function that makes a network, got {make!r}")
        if not isinstance(serving, Serving):
            raise ValueError(f"serving must be a Serving, got {serving!r}")
        self.body, self.edges, self.serving = body, edges, serving
        self.up, self.down = require.real("up", up, least=0), require.real("down", down, least=0)
        self.temperature = require.real("temperature", temperature, above=0)

    def setup(self, fed: Federation) -> None:
        if fed.local.augment:
            raise ValueError("FedGKT's server answers pictures as they are; give Local no augment")
        if fed.y.ndim != 1 or fed.y.is_floating_point():
            raise ValueError(f"FedGKT sends a class for each sample, y [N], got {fed.y.dtype} {list(fed.y.shape)}")
        if int(fed.y.max()) > 2 / torch.finfo(fed.dtype).eps:
            raise ValueError(f"dtype: {fed.dtype} cannot send the class {int(fed.y.max())} as a number")
        rows = torch.cat(list(fed.split)).sort().values
        if len(twice := rows[1:][rows[1:] == rows[:-1]]):
            raise ValueError(f"FedGKT keeps one answer for each sample; two clients hold row {int(twice[0])}")
        logits = self.fits(fed)
        if self.edges is not None:
            fed.own = {k: self._edge(fed, k) for k in range(fed.clients)}
        fed.memory = {
            "body": self.net(fed).initial(),
            "moments": {},
            "steps": torch.zeros((), dtype=torch.int64),
            "logits": logits.new_zeros(len(fed.x), logits.shape[1]),
            "taught": logits.new_zeros(fed.clients),
        }

    def fits(self, fed: Federation) -> Tensor:
        """Logits [1, C] of the first sample, once both sides have answered. Raises ValueError where they do not fit."""
        x = fed.input(fed.x[:1])
        edge = fed.net.predict(fed.state, x)
        features, net = fed.net.predict(fed.state, x, features=True), self.net(fed)
        try:
            body = net.predict(net.initial(), features)
        except RuntimeError as error:
            shape = list(features.shape[1:])
            raise ValueError(f"body: it cannot read the edge's features {shape} of a sample: {error}") from error
        if body.shape != edge.shape:
            wanted, got = list(edge.shape[1:]), list(body.shape[1:])
            raise ValueError(f"body: expected logits of the edge's shape {wanted} for each sample, got {got}")
        return edge

    def net(self, fed: Federation) -> Net:
        """The server's network; its weights are in ``fed.memory["body"]``."""
        key = (FedGKT, self.body)
        if key not in fed.net.notes:
            module = rng.build(self.body, fed.seed, "body")
            fed.net.notes[key] = Net(module, fed.device, fed.dtype, fed.net.precision)
        return fed.net.notes[key]

    def _edge(self, fed: Federation, client: int) -> State:
        assert self.edges is not None
        own = Net(rng.build(self.edges, fed.seed, "edge", client), fed.device, fed.dtype).initial()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in fed.state.items()}:
            raise ValueError("edges: expected the network of the federation, whose tensors have other names or shapes")
        return own

    def phases(self, fed: Federation) -> list[Phase]:
        plain = super().phases(fed)
        if not self.down or not bool(fed.memory["taught"].any()):
            return plain
        y = torch.cat([fed.y.to(fed.dtype).unsqueeze(1), fed.memory["logits"]], 1)
        return [Phase(self.taught, fed.x, y, fed.split, fed.local.epochs, fed.local.augment)]

    def context(self, fed: Federation, client: int) -> State:
        return {"taught": fed.memory["taught"][client]}  # 0: the server has not answered this client yet

    @per_sample
    def taught(self, net: Net, state: State, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """Local objective; the targets y [B, 1 + C] are each sample's label and the server's logits for it."""
        weight = self.down * context.own["taught"]
        return both_ways(net(state, x, train=True), y[..., 1:], y[..., 0].long(), weight, self.temperature)

    def upload(self, fed: Federation, client: int, state: State) -> State:
        rows = fed.split[client]
        x = fed.input(fed.x[rows])
        features = fed.net.predict(state, x, features=True)
        return {"features": features, "logits": fed.net.predict(state, x), "labels": fed.y[rows].to(fed.dtype)}

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        clients = fed.sample(fed.round)
        features, logits, labels = (torch.cat([u[n] for u in uploads]) for n in ("features", "logits", "labels"))
        memory = dict(fed.memory)
        self.serve(fed, memory, features, logits, labels.long())
        answers = self.net(fed).predict(memory["body"], features)
        fed.ledger.down[-1] += payload_bytes({"logits": answers})
        memory["logits"], memory["taught"] = memory["logits"].clone(), memory["taught"].clone()
        memory["logits"][torch.cat([fed.split[k] for k in clients])] = answers
        memory["taught"][clients] = 1
        fed.memory = memory

    def serve(self, fed: Federation, memory: Memory, features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Train the body on features [n, ...] with labels [n] and the clients' logits [n, C]; changes ``memory``."""
        net, how = self.net(fed), self.serving
        state = clone(memory["body"])
        leaves = {n: state[n].requires_grad_() for n in net.parameters}
        params = {n: w.detach() for n, w in leaves.items()}
        adam: Memory = {m: clone(t) for m, t in memory["moments"].items()}
        adam |= {"t": int(memory["steps"])} if adam else {}
        source = rng.stream(fed.seed, "server batches", fed.round)
        for _ in range(how.epochs):
            for rows in torch.randperm(len(labels), generator=source).to(fed.device).split(how.batch_size):
                z = net(state, features[rows], train=True)
                loss = both_ways(z, logits[rows], labels[rows], self.up, self.temperature)
                grads = torch.autograd.grad(loss, list(leaves.values()))
                Adam(how.lr).step(params, dict(zip(params, grads, strict=True)), adam)
        memory["body"] = {n: t.detach() for n, t in state.items()}
        memory["steps"] = torch.tensor(adam.pop("t", 0))
        memory["moments"] = adam

    def predict(self, fed: Federation, client: int, x: Tensor) -> Tensor:
        """Logits [N, C] of what is deployed: the client's extractor under the server's body."""
        state = fed.state | fed.own.get(client, {})
        return self.net(fed).predict(fed.memory["body"], fed.net.predict(state, fed.input(x), features=True))
