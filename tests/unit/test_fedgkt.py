"""FedGKT: a round by hand, lessons that stay with their samples, sides that can be turned off, bytes, and refusals."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from federations import FLOAT, NORMABLE, Normed, federation, same, samples, tensors
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from fedlib import rng, stacking
from fedlib.algorithms import LocalOnly
from fedlib.algorithms.fedgkt import FedGKT, Serving, both_ways
from fedlib.federation import Local
from fedlib.models import MLP, Body, Edge, Net
from fedlib.models.cut import Whole

BODY = partial(MLP, 6, (5,), 3)
LOCAL = Local(2, 8, 0.1, 0.9)
ALL = {"participation": 1.0, "local": LOCAL}


class NormedBody(nn.Module):
    """A body with BatchNorm, whose statistics differ between training and evaluation."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, h):
        return self.head(self.hidden(h))


def played(algorithm, rounds=2, **options):
    fed = federation(algorithm, **ALL | options)
    fed.run(rounds)
    return fed


def lesson(student, teacher, temperature):
    """T^2 KL(teacher || student) by torch's own function."""
    p, log_q = softmax(teacher / temperature, 1), log_softmax(student / temperature, 1)
    return temperature**2 * kl_div(log_q, p, reduction="batchmean")


def test_the_loss_is_its_definition_and_its_gradient_the_formulas():
    z, other, y = (
        torch.randn(7, 4, dtype=FLOAT, requires_grad=True),
        torch.randn(7, 4, dtype=FLOAT),
        torch.arange(7) % 4,
    )
    loss = both_ways(z, other, y, 0.6, 3.0)
    torch.testing.assert_close(loss, cross_entropy(z, y) + 0.6 * lesson(z, other, 3.0))
    (grad,) = torch.autograd.grad(loss, z)
    first = softmax(z, 1) - nn.functional.one_hot(y, 4)
    second = 0.6 * 3.0 * (softmax(z / 3, 1) - softmax(other / 3, 1))  # one of two temperatures is left
    torch.testing.assert_close(grad, (first + second) / 7)


def test_a_teacher_that_agrees_says_nothing_and_one_without_weight_neither():
    z, other, y = torch.randn(5, 3, dtype=FLOAT), torch.randn(5, 3, dtype=FLOAT), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(both_ways(z, other, y, 0.0, 3.0), cross_entropy(z, y))
    torch.testing.assert_close(both_ways(z, z, y, 5.0, 2.0), cross_entropy(z, y))


def test_the_teacher_is_a_constant():
    z, other = (torch.randn(5, 3, dtype=FLOAT, requires_grad=True) for _ in range(2))
    assert torch.autograd.grad(both_ways(z, other, torch.zeros(5).long(), 1.0, 2.0), other, allow_unused=True) == (
        None,
    )


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_lesson_of_nonsense_is_refused(weight):
    z, y = torch.randn(5, 3, dtype=FLOAT), torch.zeros(5).long()
    with pytest.raises(ValueError, match="weight must be a finite number >= 0"):
        both_ways(z, z, y, weight, 3.0)
    with pytest.raises(ValueError, match="temperature must be a finite number > 0"):
        both_ways(z, z, y, 1.0, weight)


def by_hand(rounds, up, down, temperature, how, make_body=BODY):
    """The protocol with modules and optimisers of torch, answers in a dictionary whose keys are samples."""
    x, y, split = samples()
    body = rng.build(make_body, 3, "body").to(FLOAT)
    clients = [rng.build(lambda: MLP(5, (6,), 3), 3, "init").to(FLOAT) for _ in split]
    adam, answers, sent = torch.optim.Adam(body.parameters(), how.lr), {}, None
    for t in range(rounds):
        triples = []
        for k, (net, rows) in enumerate(zip(clients, split, strict=True)):
            sgd, order = torch.optim.SGD(net.parameters(), 0.1, 0.9), rng.stream(3, "batches", t, k, 0)
            for epoch in [torch.randperm(len(rows), generator=order) for _ in range(2)]:
                for batch in rows[epoch].split(8):
                    loss = cross_entropy(net(x[batch]), y[batch])
                    if answers and down:
                        teacher = torch.stack([answers[i] for i in batch.tolist()])
                        loss = loss + down * lesson(net(x[batch]), teacher, temperature)
                    sgd.zero_grad()
                    loss.backward()
                    sgd.step()
            with torch.no_grad():
                triples += zip(rows.tolist(), net(x[rows], features=True), net(x[rows]), y[rows], strict=True)
        ids, (h, z, label) = [one[0] for one in triples], map(torch.stack, list(zip(*triples, strict=True))[1:])
        source, sent = rng.stream(3, "server batches", t), h
        body.train()
        for _ in range(how.epochs):
            for batch in torch.randperm(len(ids), generator=source).split(how.batch_size):
                out = body(h[batch])
                loss = cross_entropy(out, label[batch]) + up * lesson(out, z[batch], temperature)
                adam.zero_grad()
                loss.backward()
                adam.step()
        body.eval()
        with torch.no_grad():
            answers = dict(zip(ids, body(sent), strict=True))
    return clients, body, answers


@pytest.mark.parametrize(("up", "down", "temperature"), [(1.0, 1.0, 3.0), (0.4, 2.0, 1.5), (0.0, 1.0, 3.0)])
def test_three_rounds_equal_a_derivation_by_hand(up, down, temperature):
    how = Serving(2, 16, 0.01)
    fed = played(FedGKT(BODY, up, down, temperature, how), 3)
    clients, body, answers = by_hand(3, up, down, temperature, how)
    for k, net in enumerate(clients):
        same(fed.own[k], dict(net.state_dict()), 1e-10)
    same(fed.memory["body"], dict(body.state_dict()), 1e-10)
    for row, logits in answers.items():
        torch.testing.assert_close(fed.memory["logits"][row], logits, rtol=1e-10, atol=1e-10)


def test_answers_come_from_one_pass_in_evaluation_mode_after_the_last_step():
    how = Serving(2, 16, 0.01)
    fed = played(FedGKT(NormedBody, serving=how), 2)
    _, body, answers = by_hand(2, 1.0, 1.0, 3.0, how, NormedBody)
    same(fed.memory["body"], dict(body.state_dict()), 1e-10)
    torch.testing.assert_close(fed.memory["logits"], torch.stack([answers[i] for i in range(len(answers))]))


def test_each_sample_meets_its_own_answer_in_whatever_order_batches_come():
    """Answers by place in a client's list would be paired with other samples."""
    x, y, split = samples()
    turned = [rows.flip(0) for rows in split]
    plain = played(FedGKT(BODY), 1)
    for rows in (split, turned):
        fed = federation(FedGKT(BODY), data=(x, y, rows), **ALL)
        fed.memory = {**plain.memory}
        (phase,) = fed.algorithm.phases(fed)
        assert torch.equal(phase.y[:, 0].long(), y)
        assert torch.equal(phase.y[:, 1:], plain.memory["logits"])
    k, rows = 4, split[4]
    net, body, state = plain.net, plain.algorithm.net(plain), plain.own[4]
    answer = body.predict(plain.memory["body"], net.predict(state, x[rows], features=True))
    torch.testing.assert_close(plain.memory["logits"][rows], answer)
    torch.testing.assert_close(plain.algorithm.predict(plain, k, x[rows]), answer)


@pytest.mark.parametrize("model", [partial(MLP, 5, (6,), 3), Normed])
def test_without_a_lesson_down_clients_train_as_if_alone_bit_for_bit(model):
    options = {"model": model, "sizes": NORMABLE, "data": None}
    alone, taught = played(LocalOnly(), 3, **options), played(FedGKT(BODY, down=0.0), 3, **options)
    for k in alone.own:
        same(taught.own[k], alone.own[k])
    first, one = played(FedGKT(BODY, down=4.0), 1, **options), played(LocalOnly(), 1, **options)
    for k in one.own:  # in the first round there is no teacher yet
        same(first.own[k], one.own[k])
    second = played(FedGKT(BODY, down=4.0), 2, **options)
    assert any(not torch.equal(second.own[k]["head.weight"], played(LocalOnly(), 2, **options).own[k]["head.weight"])
               for k in one.own)  # fmt: skip


class Identity(nn.Module):
    """An edge whose features are the samples themselves; its classifier learns nothing that anybody reads."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x, features=False):
        return x if features else self.head(x)


def test_with_one_client_and_features_that_are_samples_the_server_trains_centrally():
    x, y, _ = samples()
    whole, how = partial(MLP, 5, (6,), 3), Serving(3, 8, 0.02)
    fed = played(FedGKT(whole, up=0.0, serving=how), 2, model=Identity, data=(x, y, [torch.arange(len(y))]))
    net = rng.build(whole, 3, "body").to(FLOAT)
    adam = torch.optim.Adam(net.parameters(), 0.02)
    for t in range(2):
        source = rng.stream(3, "server batches", t)
        for _ in range(3):
            for rows in torch.randperm(len(y), generator=source).split(8):
                adam.zero_grad()
                cross_entropy(net(x[rows]), y[rows]).backward()
                adam.step()
    same(fed.memory["body"], dict(net.state_dict()), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_bytes_are_the_formula_both_ways(dtype, participation):
    fed = federation(FedGKT(BODY), dtype=dtype, participation=participation, local=LOCAL)
    fed.run(3)
    size = torch.finfo(dtype).bits // 8
    for t in range(3):
        n = sum(len(fed.split[k]) for k in fed.sample(t))
        assert fed.ledger.up[t] == n * (6 + 3 + 1) * size
        assert fed.ledger.down[t] == n * 3 * size


def test_no_weight_leaves_its_client_and_none_is_averaged():
    fed = played(FedGKT(BODY), 2)
    assert fed.algorithm.upload(fed, 0, fed.own[0]).keys() == {"features", "logits", "labels"}
    same(fed.state, federation(FedGKT(BODY), **ALL).state)
    weights = [fed.own[k]["head.weight"] for k in range(fed.clients)]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_a_client_that_was_never_answered_learns_from_labels_alone():
    fed = federation(FedGKT(BODY, down=3.0), participation=0.5, local=LOCAL)
    alone = federation(LocalOnly(), participation=0.5, local=LOCAL)
    fed.run(2), alone.run(2)
    fresh, again = (sorted(set(fed.sample(1)) - set(fed.sample(0))), sorted(set(fed.sample(1)) & set(fed.sample(0))))
    assert fresh
    assert again
    for k in fresh:
        same(fed.own[k], alone.own[k], 1e-12)
    assert all(not torch.allclose(fed.own[k]["head.weight"], alone.own[k]["head.weight"]) for k in again)
    assert fed.memory["taught"].tolist() == [float(k in {*fed.sample(0), *fed.sample(1)}) for k in range(fed.clients)]


def test_edges_of_ones_own_are_drawn_for_each_client():
    edge = partial(MLP, 5, (6,), 3)
    fed = federation(FedGKT(BODY, edges=edge), **ALL)
    starts = [fed.own[k]["head.weight"] for k in range(fed.clients)]
    assert all(not torch.equal(a, b) for i, a in enumerate(starts) for b in starts[:i])
    same(fed.own[2], federation(FedGKT(BODY, edges=edge), **ALL).own[2])


def test_the_first_round_has_no_moments_and_the_second_goes_on_with_them():
    fed = played(FedGKT(BODY, serving=Serving(1, 55)), 2)  # a step a round
    assert int(fed.memory["steps"]) == 2
    idle = played(FedGKT(BODY, serving=Serving(0)), 2)
    same(idle.memory["body"], idle.algorithm.net(idle).initial())


def test_a_round_replaces_what_it_remembers():
    """In place, a round that fails could not be taken back."""
    fed = played(FedGKT(BODY), 1)
    kept = [t for _, t in tensors(fed.memory, "memory")]
    before = [t.clone() for t in kept]
    fed.run(1)
    assert len(kept) > 10
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    assert not torch.equal(fed.memory["logits"], kept[[n for n, _ in tensors(fed.memory, "")].index("/logits")])


NONSENSE = {
    "body: it cannot read the edge's features [6] of a sample": lambda: FedGKT(partial(MLP, 7, (5,), 3)),
    "body: expected logits of the edge's shape [3] for each sample, got [4]": lambda: FedGKT(partial(MLP, 6, (5,), 4)),
    "edges: expected the network of the federation": lambda: FedGKT(BODY, edges=partial(MLP, 5, (7,), 3)),
}


@pytest.mark.parametrize("message", NONSENSE)
def test_networks_that_do_not_fit_are_refused(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        federation(NONSENSE[message](), **ALL)


def test_a_sample_of_two_clients_is_refused():
    x, y, split = samples()
    shared = [split[0], torch.cat([split[1], split[0][:1]]), *split[2:]]
    with pytest.raises(ValueError, match=f"one answer for each sample; two clients hold row {int(split[0][0])}"):
        federation(FedGKT(BODY), data=(x, y, shared), **ALL)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedGKT(None), "body must be a function that makes a network, got None"),
        (lambda: FedGKT(MLP(6, (5,), 3), edges=5), "edges must be a function that makes a network, got 5"),
        (lambda: FedGKT(BODY, serving="x"), "serving must be a Serving, got 'x'"),
        (lambda: FedGKT(BODY, serving=None), "serving must be a Serving, got None"),
    ],
)
def test_what_makes_no_network_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_pictures_that_are_changed_in_training_are_refused():
    """The server has seen the plain ones: its answer would be another picture's."""
    with pytest.raises(ValueError, match="answers pictures as they are; give Local no augment"):
        federation(FedGKT(BODY), local=Local(2, 8, 0.1, augment=lambda x, source: x.flip(1)))


def test_targets_that_are_no_classes_are_refused():
    x, y, split = samples()
    with pytest.raises(ValueError, match=r"a class for each sample, y \[N\], got torch.float64 \[\d+, 1\]"):
        federation(FedGKT(BODY), data=(x, y[:, None].to(FLOAT), split), **ALL)
    with pytest.raises(ValueError, match=r"torch\.bfloat16 cannot send the class 300 as a number"):
        federation(
            FedGKT(partial(MLP, 6, (5,), 301)), data=(x, 150 * y, split), model=partial(MLP, 5, (6,), 301),
            dtype=torch.bfloat16, **ALL,
        )  # fmt: skip


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
def test_every_layer_has_the_norm_that_was_asked_for(norm):
    kind = nn.BatchNorm2d if norm == "batch" else nn.GroupNorm
    found = [
        m for make in (Edge(width=16, hidden=16, norm=norm), Body(16, (16, 32), 1, norm=norm)) for m in make.modules()
    ]
    norms = [m for m in found if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    assert len(norms) == 2 + 2 * 4 + 1  # two layers; two in each of four blocks, and one in the way around the third
    assert all(isinstance(m, kind) for m in norms)
    if norm != "batch":
        assert {m.num_channels // m.num_groups for m in norms} == ({8} if norm == "group" else {16, 32})


@pytest.mark.parametrize(("name", "value"), [("epochs", -1), ("batch_size", 0), ("lr", float("nan")), ("lr", 0.0)])
def test_a_server_of_nonsense_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Serving(**{name: value})


@pytest.mark.parametrize("body", [partial(Body, 8, (16, 24), 1, 7), partial(MLP, 8 * 64, (24,), 7)])
@pytest.mark.parametrize("hidden", [None, 16])
def test_the_whole_network_is_the_body_upon_the_extractor(hidden, body):
    make = partial(Edge, 3, 8, 8, hidden, 7)
    edge, upon, whole = make(), body(), Whole(make, body)
    whole.extractor.load_state_dict(edge.extractor.state_dict())
    whole.body.load_state_dict(upon.state_dict())
    x = torch.randn(4, 3, 8, 8)
    h = edge(x, features=True)
    assert h.shape == (4, 8, 8, 8)
    assert edge(x).shape == (4, 7)
    assert torch.equal(whole(x), upon(h))
    assert torch.equal(whole(x, features=True), upon(h, features=True))
    assert upon(h, features=True).shape == (4, 24)


def test_an_extractor_is_a_convolution_its_norm_and_a_relu():
    edge, x = Edge(width=4).eval(), torch.randn(2, 1, 8, 8)
    convolution, norm, _ = edge.extractor
    norm.running_mean += 0.3
    expected = ((convolution(x) - 0.3) / (1 + norm.eps) ** 0.5).clamp(min=0)
    assert 0.2 < (expected == 0).double().mean() < 0.9
    torch.testing.assert_close(edge(x, features=True), expected)


def test_an_edges_classifier_reads_maps_of_half_the_size():
    x = torch.randn(2, 1, 8, 8)
    plain, deep = Edge(width=4), Edge(width=4, hidden=6)
    pooled = plain(x, features=True).unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1)).flatten(1)
    torch.testing.assert_close(plain(x), plain.head(pooled))
    assert deep.classifier(deep(x, features=True)).shape == (2, 6, 4, 4)
    assert len(Body(4, (6, 8), 2).blocks) == 6
    torch.testing.assert_close(deep(x), deep.head(deep.classifier(deep(x, features=True)).flatten(2).mean(2)))


@pytest.mark.parametrize("make", [Edge, partial(Edge, hidden=6), partial(Whole, Edge, Body)])
def test_each_of_them_can_be_computed_for_many_clients_at_once(make):
    assert stacking.obstacle(Net(make())) == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edge(width=0), "width must be a whole number of at least 1, got 0"),
        (lambda: Edge(size=1), "size must be a whole number of at least 2, got 1"),
        (lambda: Edge(hidden=0), "hidden must be a whole number of at least 1, got 0"),
        (lambda: Edge(classes=2.5), "classes must be a whole number of at least 1, got 2.5"),
        (lambda: Body(widths=()), r"needs one residual block at least, got \(\)"),
        (lambda: Body(widths=8), "needs one residual block at least, got 8"),
        (lambda: Whole(partial(MLP, 3, (2,), 2), Body), "edge must make a network with an extractor, .* got MLP"),
        (lambda: Body(more=-1), "more must be a whole number"),
        (lambda: Body(widths=(8, -1)), r"widths\[1\] must be a whole number of at least 1, got -1"),
        (lambda: Body(widths=(2.5,)), r"widths\[0\] must be a whole number of at least 1, got 2.5"),
        (lambda: Body(classes=0), "classes must be a whole number of at least 1, got 0"),
        (lambda: Body(norm="none"), "norm must be"),
        (lambda: Edge(norm="none"), "norm must be"),
    ],
)
def test_networks_of_nonsense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
