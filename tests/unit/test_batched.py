"""Many clients in one computation: equal to one after the other, and refused where that cannot be."""

import pytest
import torch
from federations import (
    ALGORITHMS,
    FLOAT,
    NORMABLE,
    UNEVEN,
    Normed,
    Personal,
    Pulled,
    distance,
    everything,
    federation,
    same,
    samples,
    small,
)
from hypothesis import given, settings, strategies as st
from torch import nn

from fedlib import promise, rng
from fedlib.algorithms import FedAvg, FedLSD, FedNTD, FedProx
from fedlib.batched import batched, unstackable
from fedlib.data.augment import crop_and_flip
from fedlib.executors import Context, Diverged, Task, per_sample, sequential
from fedlib.federation import Federation, Local
from fedlib.losses import cross_entropy, kd, proximal
from fedlib.models import MLP, Net, ResNet8, SmallCNN
from fedlib.optim import SGD
from fedlib.stacking import Stack

CASES = settings(deadline=None, max_examples=25)


def pair(algorithm, rounds=3, **options):
    """The same federation played by both executors."""
    feds = [federation(algorithm(), executor=e, **options) for e in ("sequential", "batched")]
    for fed in feds:
        fed.run(rounds)
    return feds


def agree(algorithm, rounds=3, **options):
    one, all_ = pair(algorithm, rounds, **options)
    same(everything(all_), everything(one), 1e-10)
    assert (all_.ledger.down, all_.ledger.up) == (one.ledger.down, one.ledger.up)
    return one, all_


# --- every algorithm, every kind of client ---------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.02), (0.8, 0.02)])
def test_equal_for_every_algorithm_and_optimiser(name, momentum, weight_decay):
    local = Local(2, 8, 0.1, momentum, weight_decay, lr_decay=0.9)
    agree(ALGORITHMS[name], local=local, participation=1.0)


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if not n.startswith("FedMD")])
@pytest.mark.parametrize("buffers", ["average", "local"])
def test_equal_with_batchnorm_under_each_policy(name, buffers):
    one, _ = agree(ALGORITHMS[name], model=Normed, sizes=NORMABLE, buffers=buffers, local=Local(2, 8, 0.1, 0.9))
    if buffers == "local":
        means = [t for n, t in one.own[one.sample(0)[0]].items() if n.endswith("body.1.running_mean")]
        assert means
        assert all(float(t.abs().max()) > 1e-3 for t in means)


@pytest.mark.parametrize("name", ["FedMD, kl", "FedMD, mae"])
def test_equal_with_batchnorm_and_nothing_but_logits_travelling(name):
    agree(ALGORITHMS[name], model=Normed, sizes=NORMABLE, local=Local(2, 8, 0.1, 0.9), participation=1.0)


@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    [
        ((8, 8, 16), 8),  # whole batches only
        ((1, 2, 3), 8),  # all smaller than a batch
        ((1, 40, 3, 17), 8),  # very different numbers of steps
        ((5, 120, 30), 10**6),  # full batch, clients of very different size
        ((9, 9, 9), 8),  # a rest of one sample
        ((7,), 3),  # one client
        ((4, 4, 4, 4), 1),
    ],
)
@pytest.mark.parametrize("algorithm", [FedAvg, lambda: FedNTD(1.0, 2.0), Pulled])
def test_equal_for_clients_of_any_sizes(sizes, batch_size, algorithm):
    agree(algorithm, 2, sizes=sizes, local=Local(2, batch_size, 0.1, 0.5), participation=1.0)


@CASES
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.9]),
    st.sampled_from([FedAvg, lambda: FedProx(0.5), Pulled, lambda: Personal(0.2)]),
)
def test_equal_for_whatever_sizes_there_are(sizes, batch_size, epochs, momentum, algorithm):
    agree(algorithm, 2, sizes=tuple(sizes), local=Local(epochs, batch_size, 0.1, momentum, 0.01), participation=0.8)


@pytest.mark.parametrize(
    ("model", "shape"),
    [(SmallCNN, (1, 8, 8)), (lambda: ResNet8(norm="group"), (3, 8, 8)), (ResNet8, (3, 8, 8))],
)
@pytest.mark.parametrize("algorithm", [FedAvg, lambda: FedLSD(0.5, 2.0), lambda: Personal(0.2)])
def test_equal_for_convolutional_networks(model, shape, algorithm):
    sizes = (4, 9, 6, 2)  # a rest of one image still has several places for a variance
    agree(algorithm, 2, model=model, shape=shape, sizes=sizes, local=Local(1, 4, 0.05, 0.9), participation=1.0)


def test_a_rest_of_one_image_beside_larger_batches_has_a_variance():
    """Over its places: BatchNorm refuses one value, and not one sample."""
    agree(FedAvg, 2, model=ResNet8, shape=(3, 8, 8), sizes=(5, 9, 8), local=Local(1, 4, 0.05), participation=1.0)


# --- what becomes of a batch ------------------------------------------------------------------------


def noisy(x, generator):
    return x + 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def cut(x, generator):
    """Another shape than it was given."""
    begin = int(torch.randint(3, (), generator=generator))
    return x[..., begin : begin + 6]


def halved(x):
    assert x.dtype == torch.uint8
    return x.to(FLOAT) / 128 - 1


def pixels(sizes=UNEVEN, shape=(1, 8, 8)):
    x, y, split = samples(sizes, shape)
    return ((x + 1) * 64).clamp(0, 255).to(torch.uint8), y, split


@pytest.mark.parametrize("name", ["FedAvg", "FedNTD", "FedMD, kl", "personal"])
def test_equal_with_a_plain_augmentation(name):
    one, _ = agree(ALGORITHMS[name], local=Local(2, 8, 0.1, augment=noisy), participation=1.0)
    plain = federation(ALGORITHMS[name](), local=Local(2, 8, 0.1), participation=1.0)
    plain.run(3)
    assert distance(everything(plain), everything(one)) > 1e-4


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("sizes", [UNEVEN, (5, 5, 5)])
def test_equal_with_cropped_and_mirrored_images(prepared, sizes):
    options = {"prepare": halved, "data": pixels(sizes)} if prepared else {}
    local = Local(2, 8, 0.05, augment=crop_and_flip)
    agree(FedAvg, 2, model=SmallCNN, shape=(1, 8, 8), sizes=sizes, local=local, participation=1.0, **options)


@pytest.mark.parametrize("name", ["FedAvg", "FedNTD", "own"])
def test_bytes_are_prepared_batch_by_batch(name):
    x, y, split = pixels(shape=(5,))
    one, _ = agree(ALGORITHMS[name], data=(x, y, split), prepare=halved)
    ready = federation(ALGORITHMS[name](), data=(halved(x), y, split))
    ready.run(3)
    same(everything(ready), everything(one))


def test_an_augmentation_may_change_the_shape():
    agree(FedAvg, 2, model=lambda: MLP(6, (4,), 3), shape=(8,), local=Local(1, 8, 0.1, augment=cut))


# --- tasks themselves ---------------------------------------------------------------------------------


def net(make=small):
    return Net(rng.build(make, 0), dtype=FLOAT)


def tasks(network, sizes=(5, 9, 2), epochs=(1, 2, 1), batch=(4, 4, 4), apart=False):
    """Tasks with states, anchors and own tensors of their own; with data sets of their own, too, if ``apart``."""
    g = torch.Generator().manual_seed(11)
    x, y, split = samples(sizes)
    shared, made = (x, y), []
    for k, rows in enumerate(split):
        state = {n: t + 0.1 * torch.randn(t.shape, generator=g, dtype=FLOAT) for n, t in network.initial().items()}
        context = Context({n: t + 0.3 for n, t in state.items()}, {"pull": torch.tensor(0.1 * k, dtype=FLOAT)}, 7)
        order = torch.stack([torch.randperm(len(rows), generator=g) for _ in range(epochs[k])])
        if apart:
            x, y, split_ = samples((40,), seed=k)
            rows = split_[0][: sizes[k]]
        else:
            x, y = shared
        made.append(Task(k, state, context, x, y, rows, order, batch[k]))
    return made


@per_sample
def objective(net, state, x, y, context):
    """Reads the received model, the client's own tensors and the round."""
    logits = net(state, x, train=True)
    anchor = proximal(net.weights(state), context.received, 0.1)
    return (
        cross_entropy(logits, y) + kd(logits, net(context.received, x)) + anchor + context.round * context.own["pull"]
    )


def both(make, aim=objective, lr=0.1, **options):
    """States and losses by both executors."""
    network, rule = net(), SGD(lr, 0.5, 0.01)
    one, all_ = make(network, **options), make(network, **options)
    return one, sequential(network, one, aim, rule, lr), all_, batched(network, all_, aim, rule, lr)


def equal(one, losses, all_, found):
    assert found == pytest.approx(losses, abs=1e-12)
    for a, b in zip(one, all_, strict=True):
        assert a.client == b.client
        same(b.state, a.state, 1e-12)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("batch", [(4, 4, 4), (1, 9, 5), (100, 2, 3)])
def test_tasks_of_any_kind_at_once(apart, batch):
    equal(*both(tasks, apart=apart, batch=batch, sizes=(5, 9, 2), epochs=(1, 2, 4)))


def test_losses_come_in_the_order_of_the_tasks():
    """Inside, clients are ordered by their steps."""
    one, losses, _, found = both(tasks, sizes=(2, 9, 5), epochs=(1, 2, 3))
    assert [t.steps for t in one] == [1, 6, 6]
    assert found == pytest.approx(losses, abs=1e-12)
    network = net()
    turned = tasks(network, sizes=(2, 9, 5), epochs=(1, 2, 3))[::-1]
    assert batched(network, turned, objective, SGD(0.1, 0.5, 0.01), 0.1) == pytest.approx(losses[::-1], abs=1e-12)


@pytest.mark.parametrize("executor", [sequential, batched])
@pytest.mark.parametrize("make", [small, Normed])
def test_what_a_task_started_from_stays_as_it_was(executor, make):
    network = net(make)
    given_ = tasks(network, sizes=(6, 10, 2))  # no batch of one sample
    old = [(t.state, {n: (w, w.clone(), w._version) for n, w in t.state.items()}) for t in given_]
    received = [{n: w.clone() for n, w in t.context.received.items()} for t in given_]
    inputs = given_[0].x.clone()
    executor(network, given_, objective, SGD(0.1), 0.1)
    for t, (state, before), anchor in zip(given_, old, received, strict=True):
        assert t.state is not state
        for n, (w, value, version) in before.items():
            assert state[n] is w
            assert not w.requires_grad
            assert w._version == version
            assert torch.equal(w, value)
            assert not t.state[n].requires_grad
            assert not torch.equal(t.state[n], value)
        same(dict(t.context.received), anchor)
    assert torch.equal(given_[0].x, inputs)


def test_states_that_are_one_object_come_apart():
    network = net()
    made = tasks(network)
    for t in made:
        t.state = made[0].state
    batched(network, made, objective, SGD(0.1), 0.1)
    assert distance(made[0].state, made[1].state) > 1e-3


def test_the_first_client_in_order_that_diverged_is_named():
    """As one after the other would say it, though the second has more steps."""
    for executor in (sequential, batched):
        network = net()
        made = tasks(network, epochs=(1, 5, 2))
        batched(network, tasks(network), objective, SGD(0.1), 0.1)  # the promise was checked while all was well
        for t in made:
            t.state = {n: torch.full_like(w, float("inf")) for n, w in t.state.items()}
        with pytest.raises(Diverged) as caught:
            executor(network, made, objective, SGD(0.1), 0.1)
        assert (caught.value.round, caught.value.client) == (7, 0)


# --- clients keep different things ------------------------------------------------------------------


class Remembering(FedAvg):
    """A client that took part before is taught by what it had learned then; a new one has nothing to remember."""

    @per_sample
    def objective(self, net, state, x, y, context):
        logits = net(state, x, train=True)
        loss = cross_entropy(logits, y)
        return loss + kd(logits, net(context.own, x), 2.0) if context.own else loss

    def context(self, fed, client):
        return fed.own.get(client, {})

    def keep(self, fed, client, state):
        fed.own[client] = {n: t.clone() for n, t in state.items()}


def test_clients_of_different_memory_are_never_confused():
    sequentially = federation(Remembering(), participation=0.5)
    sequentially.run(6)
    by_choice = federation(Remembering(), participation=0.5, executor="auto")
    by_choice.run(6)
    same(everything(by_choice), everything(sequentially), 1e-10)
    kept = [set(by_choice.sample(t)) for t in range(3)]
    assert kept[0] & kept[1], "some come again"
    assert kept[1] - kept[0], "others are new"
    together = federation(Remembering(), participation=0.5, executor="batched")
    with pytest.raises(ValueError, match="keep different tensors"):
        together.run(6)


def test_clients_that_all_remember_are_computed_together_again():
    one, all_ = (federation(Remembering(), participation=1.0, executor=e) for e in ("sequential", "batched"))
    one.run(3)
    all_.run(3)
    same(everything(all_), everything(one), 1e-10)


# --- the promise ----------------------------------------------------------------------------------------


@per_sample
def over_everything(net, state, x, y, context):
    return nn.functional.cross_entropy(net(state, x, train=True).flatten(0, -2), y.flatten())


@per_sample
def centred(net, state, x, y, context):
    logits = net(state, x, train=True)
    return cross_entropy(logits - logits.mean(-2, keepdim=True), y)


@per_sample
def centred_over_the_first_dimension(net, state, x, y, context):
    logits = net(state, x, train=True)
    return cross_entropy(logits - logits.mean(0, keepdim=True), y)


@per_sample
def summed(net, state, x, y, context):
    return cross_entropy(net(state, x, train=True), y) * y.shape[-1]


@per_sample
def hardest(net, state, x, y, context):
    logits = net(state, x, train=True)
    return nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none").max()


@per_sample
def plain_proximal(net, state, x, y, context):
    """Vanishes where every client starts, and is one number for all of a stack."""
    squares = sum((state[n] - context.received[n]).square().sum() for n in net.parameters)
    return cross_entropy(net(state, x, train=True), y) + 0.2 * squares


@per_sample
def norm_without_square(net, state, x, y, context):
    """The distance to the received model, which couples clients when it is taken of a stack."""
    gaps = torch.cat([(state[n] - context.received[n]).flatten() for n in net.parameters])
    return cross_entropy(net(state, x, train=True), y) + 0.2 * gaps.square().sum().add(1e-12).sqrt()


@per_sample
def for_stacked_anchors_only(net, state, x, y, context):
    """Forgets that one received model may be that of all clients."""
    keep = 1 if isinstance(state, Stack) else 0
    w, anchor = (torch.cat([s[n].flatten(keep) for n in net.parameters], -1) for s in (state, context.received))
    return cross_entropy(net(state, x, train=True), y) + 0.2 * (w - anchor).square().sum(-1)


@per_sample
def reshaped(net, state, x, y, context):
    return cross_entropy(net(state, x.view(len(x), 5), train=True), y)


def unmarked(net, state, x, y, context):
    return cross_entropy(net(state, x, train=True), y)


BROKEN = [
    over_everything,
    centred,
    centred_over_the_first_dimension,
    hardest,
    plain_proximal,
    for_stacked_anchors_only,
    norm_without_square,
    reshaped,
]


def aimed(aim):
    class Aimed(FedAvg):
        objective = staticmethod(aim)

    return Aimed


@pytest.mark.parametrize("aim", [*BROKEN, unmarked])
def test_a_broken_promise_is_refused_and_auto_does_it_one_by_one(aim):
    with pytest.raises(ValueError, match=f"cannot be computed together: objective {aim.__name__}.*'sequential'"):
        federation(aimed(aim)(), executor="batched").run(1)
    one, found = (federation(aimed(aim)(), executor=e, participation=1.0) for e in ("sequential", "auto"))
    one.run(3)
    found.run(3)
    same(everything(found), everything(one))
    assert aim.__name__ in found.explain()


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT])
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("model", [small, Normed])
def test_every_algorithm_keeps_its_promise(name, dtype, model):
    fed = federation(ALGORITHMS[name](), model=model, dtype=dtype, executor="batched", sizes=NORMABLE)
    fed.run(2)  # nothing is refused


def test_a_factor_that_counts_samples_is_found_out():
    """y.shape[-1] is the batch size alone, and 1 in a stack."""
    with pytest.raises(ValueError, match="objective summed or a layer does not give each client its own result"):
        federation(aimed(summed)(), executor="batched").run(1)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT])
@pytest.mark.parametrize("mu", [1.0, 1e-2, 1e-4])
def test_rounding_hides_no_small_term(dtype, mu):
    """A proximal term written for one client is small beside the loss, and many clients times too large."""

    @per_sample
    def slightly_coupled(net, state, x, y, context):
        squares = sum((state[n] - context.received[n]).square().sum() for n in net.parameters)
        return cross_entropy(net(state, x, train=True), y) + 0.5 * mu * squares

    with pytest.raises(ValueError, match="slightly_coupled or a layer does not give each client its own result"):
        federation(aimed(slightly_coupled)(), dtype=dtype, executor="batched").run(1)


def test_an_objective_may_bring_tensors_of_its_own():
    """They have the federation's precision: the promise is tried in that, too."""
    mixing = torch.tensor([[1.0, 0.2, 0.0], [0.0, 1.0, 0.3], [0.4, 0.0, 1.0]])

    @per_sample
    def mixed(net, state, x, y, context):
        return cross_entropy(net(state, x, train=True) @ mixing, y)

    one, all_ = (federation(aimed(mixed)(), dtype=torch.float32, executor=e) for e in ("sequential", "batched"))
    one.run(2)
    all_.run(2)
    same(all_.state, one.state, 1e-5)

    @per_sample
    def mixed_and_broken(net, state, x, y, context):
        logits = net(state, x, train=True) @ mixing
        return cross_entropy(logits - logits.mean(-2, keepdim=True), y)

    with pytest.raises(ValueError, match="mixed_and_broken or a layer does not give each client its own result"):
        federation(aimed(mixed_and_broken)(), dtype=torch.float32, executor="batched").run(1)


def test_preparing_is_a_part_of_the_promise():
    def coupled(x):
        return x.to(FLOAT) - x.to(FLOAT).mean(0)

    with pytest.raises(ValueError, match="does not give each client its own result"):
        federation(data=pixels(shape=(5,)), prepare=coupled, executor="batched").run(1)


def test_a_network_that_mixes_clients_is_found_out():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(1, 3, 2), nn.Linear(27, 3)

        def forward(self, x):
            return self.head(self.layer(x).softmax(1).flatten(1))

    images = {"model": Normalised, "shape": (1, 4, 4)}
    one, found = (federation(executor=e, **images) for e in ("sequential", "auto"))
    one.run(2)
    found.run(2)
    same(everything(found), everything(one))
    assert "its forward pass mixes clients" in found.explain()
    with pytest.raises(ValueError, match=r"FedAvg\.objective or a layer"):
        federation(executor="batched", **images).run(1)


def test_a_network_of_linear_layers_may_do_with_a_sample_what_it_likes():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return torch.cat([self.layer(x).softmax(1), x[:, :1]], 1)

    one, all_ = (federation(model=Normalised, executor=e) for e in ("sequential", "batched"))
    one.run(2)
    all_.run(2)
    same(everything(all_), everything(one), 1e-10)


def test_a_network_without_a_stacked_form_is_refused():
    with pytest.raises(ValueError, match="layer 1 is a Dropout, which has no stacked form; use executor 'auto'"):
        federation(model=lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.0)), executor="batched").run(1)


def test_the_promise_is_checked_once_for_each_network_and_objective(monkeypatch):
    calls, real = [], promise._tried
    monkeypatch.setattr(promise, "_tried", lambda *args: calls.append(args) or real(*args))
    fed = federation(FedNTD(), executor="batched")
    fed.run(3)
    fed.explain()
    assert len(calls) == 1
    federation(fed.algorithm, executor="batched").run(2)
    assert len(calls) == 2, "another network"
    fed.algorithm = FedNTD(2.0)
    fed.run(2)
    assert len(calls) == 3, "another objective"
    broken = federation(aimed(centred)(), executor="auto", participation=1.0)
    broken.run(3)
    assert len(calls) == 4, "a refusal is remembered, too"


def test_the_check_changes_nothing_it_looks_at():
    fed = federation(Pulled(), model=Normed, sizes=NORMABLE)
    task = next(fed._round()).tasks
    before = [{n: t.clone() for n, t in s.items()} for t in task for s in (t.state, t.context.received, t.context.own)]
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    assert unstackable(fed.net, fed.algorithm.objective, task) == ""
    assert torch.equal(torch.rand(3), expected), "the global generator plays no part"
    after = [dict(s) for t in task for s in (t.state, t.context.received, t.context.own)]
    for a, b in zip(after, before, strict=True):
        same(a, b)


def test_data_that_cannot_be_computed_with_are_no_broken_promise():
    """The first samples of the first client are among what the promise is tried on."""
    for executor in ("sequential", "batched", "auto"):
        fed = federation(executor=executor, participation=1.0)
        fed.x[fed.split[0]] = float("nan")  # which a federation is not made of
        with pytest.raises(Diverged) as caught:
            fed.run(1)
        assert caught.value.client == 0


@pytest.mark.parametrize("bad", range(len(UNEVEN)))
def test_a_client_whose_data_are_broken_breaks_nobody_else(bad):
    """Padding is made of samples, too: it must never be those of another client."""
    x, y, split = samples()
    order = torch.cat([split[bad], *split[:bad], *split[bad + 1 :]])  # its samples come first in x
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    x, y, split = x[order].clone(), y[order], [place[rows] for rows in split]
    fed = federation(data=(x.clone(), y, split), executor="batched", participation=1.0)
    fed.x[split[bad]] = float("nan")
    with pytest.raises(Diverged) as caught:
        fed.run(1)
    assert caught.value.client == bad
    others = [rows for k, rows in enumerate(split) if k != bad]
    agree(FedAvg, 1, data=(x, y, others), participation=1.0)


def test_an_error_of_the_objective_comes_through():
    @per_sample
    def faulty(net, state, x, y, context):
        raise LookupError("no such term")

    for executor in ("sequential", "batched", "auto"):
        with pytest.raises(LookupError, match="no such term"):
            federation(aimed(faulty)(), executor=executor).run(1)


def test_full_batches_of_a_federation_are_one_step_each():
    fed = Federation(small, *samples((5, 50)), FedAvg(), local=Local(1, 10**9, 0.1), dtype=FLOAT, executor="batched")
    assert [t.steps for t in next(fed._round()).tasks] == [1, 1]
    fed.run(1)
