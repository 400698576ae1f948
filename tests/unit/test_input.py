"""Raw samples: prepared once, in the federation's floating type, wherever they enter; and never taken for numbers."""

import pytest
import torch
from federations import FLOAT, everything, federation, same, samples

from fedlib import observe
from fedlib.algorithms import FedAvg, FedAvgM, FedDF, FedMD
from fedlib.distill import Distillation
from fedlib.federation import Local

SIZES = (5, 9, 16)


def halved(x):
    """Bytes as numbers between -1 and 1, in single precision whatever the federation computes in."""
    return x.float() / 128 - 1


def pixels(n=30, seed=0):
    return torch.randint(256, (n, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def data(x):
    y = (pixels().long().sum(1) // 300) % 3
    return x, y, list(torch.arange(30).split(list(SIZES)))


ALGORITHMS = {
    "FedAvg": lambda _: FedAvg(),
    "FedDF": lambda public: FedDF(public, Distillation(3, 6), validation=(public, torch.arange(12) % 3)),
    "FedDF, a function": lambda public: FedDF(lambda fed: public, Distillation(3, 6)),
    "FedMD": lambda public: FedMD(public),
}


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT])
@pytest.mark.parametrize("executor", ["sequential", "batched"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_bytes_everywhere_are_what_ready_samples_are(name, executor, dtype):
    """Clients' samples, the server's unlabelled and validation samples, and what observers look at."""
    seen = []
    for turn in (lambda x: x, lambda x: halved(x).to(dtype)):
        test = turn(pixels(40, 2)), torch.arange(40) % 3
        watch = [observe.server_accuracy(*test), observe.client_accuracy(*test), observe.local_accuracies(*test)]
        raw = turn(pixels()).dtype == torch.uint8
        fed = federation(
            ALGORITHMS[name](turn(pixels(12, 1))),
            data=data(turn(pixels())),
            prepare=halved if raw else None,
            executor=executor,
            dtype=dtype,
            local=Local(2, 4, 0.1),
            observers=watch,
            participation=1.0,
        )
        fed.run(2)
        seen.append((everything(fed), [{**row, "seconds": 0} for row in fed.history]))
    same(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[1][1]


def test_ready_samples_are_left_as_they_are_beside_raw_ones():
    fed = federation(data=data(pixels()), prepare=halved)
    ready = torch.randn(4, 5)
    assert torch.equal(fed.input(ready), ready.to(FLOAT))
    assert fed.input(pixels()).dtype == FLOAT
    assert torch.equal(fed.input(pixels()), halved(pixels()).to(FLOAT))


@pytest.mark.parametrize("executor", ["sequential", "auto"])
@pytest.mark.parametrize("prepare", [None, lambda x: x.mul_(2.0)])
def test_looking_at_a_sample_changes_none(prepare, executor):
    """Though what prepares and augments it does so in place."""
    x, y, split = samples()
    local, before = Local(1, 8, 0.1, augment=lambda x, g: x.add_(1.0)), x.clone()
    fed = federation(data=(x, y, split), prepare=prepare, local=local, executor=executor)
    assert torch.equal(x, before)
    work = fed.local_work()
    assert torch.equal(work.tasks[0].input(), (1 if prepare is None else 2) * before[:1] + 1)
    fed.explain()
    assert torch.equal(fed.x, before)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "enter",
    [
        lambda x: federation(data=data(x)),
        lambda x: federation(FedMD(x)),
        lambda x: federation(FedDF(x)).run(1),
        lambda x: federation(FedDF(x.double(), validation=(x, x[:, 0].long()))).run(1),
        lambda x: federation(observers=[observe.server_accuracy(x, x[:, 0].long())]).run(1),
    ],
)
def test_bytes_that_nobody_prepares_are_an_error(enter):
    with pytest.raises(ValueError, match="samples are bytes: give Federation prepare="):
        enter(pixels())


def test_personal_names_keep_the_order_of_the_network():
    """What is kept in their order, such as the server's momentum, is the same in every process."""

    class Heads(FedAvgM):
        personal = ("head.*", "body.*")

    fed = federation(Heads(), participation=1.0)
    assert fed.personal == tuple(fed.state), "the network has nothing else"
    Heads.personal = ("head.bias",)
    fed = federation(Heads(), participation=1.0)
    fed.run(1)
    assert fed.personal == ("head.bias",)
    assert list(fed.memory) == [n for n in fed.state if n != "head.bias"]
    assert all(list(own) == ["head.bias"] for own in fed.own.values())
