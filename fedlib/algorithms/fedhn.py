"""pFedHN (Shamsian et al. 2021): one hypernetwork on the server emits every client's model from an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor

from fedlib import require, rng
from fedlib.algorithms.fedavg import FedAvg
from fedlib.federation import Federation
from fedlib.losses import cross_entropy
from fedlib.models.hyper import Hypernetwork
from fedlib.models.net import State
from fedlib.optim import SGD, Memory, clip_norm


def pulled_back(
    hyper: Hypernetwork, phi: Mapping[str, Tensor], v: Tensor, moved: Sequence[Mapping[str, Tensor]], weights: Tensor
) -> tuple[State, Tensor]:
    """What an optimiser *descends*: minus the vector-Jacobian products of the clients' displacements.

    Client i started from theta_i = h(v_i; phi) and moved by ``moved[i]``; with v [m, size] and weights [m],
    -(sum_i weights_i (d theta_i / d phi)^T moved_i) and, for each row, -(d theta_i / d v_i)^T moved_i. After one step
    of plain SGD at rate eta that is eta times the gradient of the local losses. Nothing goes through the clients' work.
    Raises ValueError unless there is one displacement, of the emitted names and shapes, for each embedding.
    """
    if not len(moved) == len(v) == len(weights):
        raise ValueError(
            f"one displacement and weight for each of {len(v)} embeddings: got {len(moved)}, {len(weights)}"
        )
    for i, one in enumerate(moved):
        found, wanted = {n: tuple(t.shape) for n, t in one.items()}, {n: tuple(s) for n, s in hyper.shapes.items()}
        if found != wanted:
            raise ValueError(f"displacement {i} has {found}; the hypernetwork emits {wanted}")
    with torch.enable_grad():
        leaves = {n: t.detach().requires_grad_() for n, t in phi.items()}
        rows = v.detach().requires_grad_()
        share = weights.to(v)
        along = [
            (share * (t * -torch.stack([one[n] for one in moved])).flatten(1).sum(1)).sum()
            for n, t in hyper(leaves, rows).items()
        ]
        grads = torch.autograd.grad(torch.stack(along).sum(), [*leaves.values(), rows])
    return dict(zip(leaves, grads[:-1], strict=True)), grads[-1] / share[:, None]


class FedHN(FedAvg):
    """Each client trains a model that the server emits for it alone; only that model travels, down and up.

    Client k gets theta_k = h(v_k; phi), trains it, and sends the displacement that its local work made. The server
    pulls it back through the hypernetwork and takes a step of SGD on phi (mean over the round's clients) and on the
    embeddings of these clients. ``participation`` = 1/K is the paper's one client a step.

    ``private``: patterns of parameters that each client keeps and trains itself, such as ``("head.*",)``: pFedHN-PC.
    ``lr`` and ``embedding_lr`` (None: the same) are the server's rates; ``momentum``, ``weight_decay`` and the joint
    norm ``clip`` of both gradients are the released code's. Unlike there, momentum and decay act on an embedding only
    in rounds in which its client takes part. ``size`` of the embeddings; None: 1 + K // 4. ``width`` and ``depth``
    are those of :class:`~fedlib.models.hyper.Hypernetwork`.

    phi stands in ``memory["hyper"]``, embeddings in ``memory["embeddings"]``; neither travels. ``own[k]`` always is the
    model of client k, and the server's model that of the mean embedding. Raises ValueError for a network with
    buffers (running statistics cannot be emitted), for one in which everything is private, and for numbers that cannot
    work.
    """

    personal = ("*",)
    weighting = "uniform"

    def __init__(
        self,
        private: Sequence[str] = (),
        lr: float = 0.01,
        embedding_lr: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 1e-3,
        clip: float = 50.0,
        size: int | None = None,
        width: int = 100,
        depth: int = 4,
    ):
        self.private = tuple(private)
        self.lr = require.real("lr", lr, above=0)
        self.embedding_lr = self.lr if embedding_lr is None else require.real("embedding_lr", embedding_lr, above=0)
        self.momentum = require.real("momentum", momentum, least=0, below=1)
        self.weight_decay = require.real("weight_decay", weight_decay, least=0)
        self.clip = require.real("clip", clip, above=0)
        self.size = None if size is None else require.whole("size", size, 1)
        self.width, self.depth = require.whole("width", width, 1), require.whole("depth", depth)

    def hypernetwork(self, fed: Federation) -> Hypernetwork:
        """h of a federation: it emits all parameters that are not private."""
        shapes = {n: tuple(fed.state[n].shape) for n in self.emitted(fed)}
        size = 1 + fed.clients // 4 if self.size is None else self.size
        return Hypernetwork(shapes, size, self.width, self.depth)

    def emitted(self, fed: Federation) -> list[str]:
        """Names of what the hypernetwork makes and what travels: parameters that are not private."""
        return [n for n in fed.net.parameters if not any(fnmatch(n, pattern) for pattern in self.private)]

    def setup(self, fed: Federation) -> None:
        if not (emitted := self.emitted(fed)):
            raise ValueError(f"private = {self.private} keeps all parameters: nothing is left to emit; use LocalOnly")
        hyper, like = self.hypernetwork(fed), next(iter(fed.state.values()))
        fed.memory["hyper"] = hyper.initial(rng.stream(fed.seed, "hypernetwork"), like)
        fed.memory["embeddings"] = {
            k: torch.randn(hyper.size, generator=rng.stream(fed.seed, "embedding", k), dtype=torch.float64).to(like)
            for k in range(fed.clients)
        }
        fed.memory["hyper velocity"] = {}
        fed.memory["embedding velocity"] = {k: torch.zeros_like(v) for k, v in fed.memory["embeddings"].items()}
        kept = {n: t for n, t in fed.state.items() if n not in emitted}
        fed.own = {k: {n: t.clone() for n, t in kept.items()} for k in range(fed.clients)}
        self.emit(fed)

    @torch.no_grad()
    def emit(self, fed: Federation) -> None:
        """Give every client h(v_k; phi), and the server's model the weights of the mean embedding."""
        v = torch.stack(list(fed.memory["embeddings"].values()))
        theta = self.hypernetwork(fed)(fed.memory["hyper"], torch.cat([v, v.mean(0, keepdim=True)]))
        fed.state = fed.state | {n: t[-1].clone() for n, t in theta.items()}
        each = zip(*(t.unbind() for t in theta.values()), strict=True)
        for k, tensors in zip(range(fed.clients), each, strict=False):  # the last is that of the mean embedding
            fed.own[k] = fed.own[k] | dict(zip(theta, tensors, strict=True))

    def broadcast(self, fed: Federation) -> State:
        """As large as what each client gets; what it gets stands in ``fed.own``."""
        return {n: fed.state[n] for n in self.emitted(fed)}

    def keep(self, fed: Federation, client: int, state: State) -> None:
        """What is not emitted; the rest stays what the server sent."""
        emitted = self.emitted(fed)
        fed.own[client] = fed.own[client] | {n: t.clone() for n, t in state.items() if n not in emitted}

    def upload(self, fed: Federation, client: int, state: State) -> State:
        """The displacement: what local work added to what was received."""
        return {n: state[n] - fed.own[client][n] for n in self.emitted(fed)}

    def aggregate(self, fed: Federation, uploads: list[State], weights: Tensor) -> None:
        clients = fed.sample(fed.round)
        own, speed = fed.memory["embeddings"], fed.memory["embedding velocity"]
        v = torch.stack([own[k] for k in clients])
        down, rows = pulled_back(self.hypernetwork(fed), fed.memory["hyper"], v, uploads, weights)
        clipped = clip_norm({**down, "": rows}, self.clip)
        rows = clipped.pop("")
        rule = SGD(self.lr, self.momentum, self.weight_decay)
        fed.memory["hyper"], fed.memory["hyper velocity"] = stepped(
            rule, fed.memory["hyper"], clipped, fed.memory["hyper velocity"]
        )
        rule, old = SGD(self.embedding_lr, self.momentum, self.weight_decay), torch.stack([speed[k] for k in clients])
        moved, memory = stepped(rule, {"v": v}, {"v": rows}, {"velocity": {"v": old}})
        own |= zip(clients, moved["v"].unbind(), strict=True)
        speed |= zip(clients, memory["velocity"]["v"].unbind(), strict=True)
        self.emit(fed)


def stepped(rule: SGD, weights: State, grads: State, memory: Memory) -> tuple[State, Memory]:
    """New weights and memory after a step; the old tensors are as they were."""
    weights = {n: t.clone() for n, t in weights.items()}
    memory = {slot: {n: t.clone() for n, t in held.items()} for slot, held in memory.items()}
    rule.step(weights, grads, memory)
    return weights, memory


def new_client(fed: Federation, x: Tensor, y: Tensor, steps: int = 100, lr: float = 0.1) -> tuple[Tensor, State]:
    """Embedding [size] and model of a client that was not there: phi rests, and only the embedding is fitted.

    Full-batch SGD with momentum 0.9 on the cross-entropy of the client's samples (x, y), from the mean of the trained
    embeddings. The federation stays as it is. Raises ValueError where a private classifier would be missing, and for
    samples without a label each, or labels that the network has no output for; ArithmeticError when it diverges.
    """
    algorithm = fed.algorithm
    if not isinstance(algorithm, FedHN) or algorithm.private:
        raise ValueError("a new client needs FedHN without private parameters: its embedding alone must make the model")
    steps, lr = require.whole("steps", steps, 1), require.real("lr", lr, above=0)
    x, y = fed.input(x), y.to(fed.device)
    if len(x) != len(y) or not len(y):
        raise ValueError(f"a new client needs samples with a label each, got {len(x)} samples and {len(y)} labels")
    hyper, phi = algorithm.hypernetwork(fed), fed.memory["hyper"]
    v = torch.stack(list(fed.memory["embeddings"].values())).mean(0)
    outputs = fed.net.predict(fed.state, x[:1]).shape[-1]
    if y.is_floating_point() or int(y.min()) < 0 or int(y.max()) >= outputs:
        raise ValueError(f"labels of a new client must be classes 0 to {outputs - 1}, got {y.unique().tolist()}")
    rule = SGD(lr, 0.9)
    memory: Memory = {}
    for _ in range(steps):
        row = v.detach().requires_grad_()
        theta = {n: t[0] for n, t in hyper(phi, row[None]).items()}
        (slope,) = torch.autograd.grad(cross_entropy(fed.net(fed.state | theta, x, train=True), y), row)
        moved, memory = stepped(rule, {"v": v}, {"v": slope}, memory)
        v = moved["v"]
    require.finite("the embedding of a new client", v)
    with torch.no_grad():
        return v, fed.state | {n: t[0] for n, t in hyper(phi, v[None]).items()}
