"""Split learning: the messages of a step, gradients through the cuts, optimisers that survive."""

import copy
import itertools
import re
from functools import partial

import pytest
import torch
from torch import nn

from fedlib import require, rng
from fedlib.split import Cut, Part, Wire, back, forth_and_back, in_turn, mean_state, unify

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.01)
judge = nn.functional.cross_entropy


def network(seed=0):
    """Five layers, to be cut wherever a test wants."""

    def layers():
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))

    return rng.build(layers, seed, "init").double()


def cut_at(net, *places):
    """Parts of the network, cut before these layers; they share its tensors."""
    ends = (0, *places, len(net))
    return [net[a:b] for a, b in itertools.pairwise(ends)]


def batch(seed=0, size=5):
    draws = rng.stream(seed, "batch")
    return torch.randn(size, 6, generator=draws, dtype=torch.float64), torch.randint(3, (size,), generator=draws)


U = (2, 4)


# Gradients


@pytest.mark.parametrize("places", [(), (2,), (2, 4), (1, 3), (1, 2, 4), (1, 2, 3, 4)])
def test_gradients_through_the_messages_are_those_of_the_composed_network(places):
    net, (x, y) = network(), batch()
    expected = torch.autograd.grad(judge(net(x), y), list(net.parameters()))
    loss = forth_and_back(cut_at(net, *places), x, y, judge, Wire(), 0)
    assert loss.item() == pytest.approx(judge(net(x), y).item(), abs=1e-14)
    assert not loss.requires_grad  # whoever keeps losses keeps no graphs
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [SGD, ADAM])
@pytest.mark.parametrize("places", [(2,), U, (1, 4)])
def test_one_client_is_centralised_training_bit_for_bit(make, places):
    net, alone = network(), network()
    parts = [Part(piece, make) for piece in cut_at(net, *places)]
    optimiser = make(alone.parameters())
    batches = [batch(i) for i in range(50)]
    losses = in_turn(parts, [batches], judge, Wire())
    for (x, y), seen in zip(batches, losses, strict=True):
        optimiser.zero_grad()
        loss = judge(alone(x), y)
        loss.backward()
        optimiser.step()
        assert torch.equal(loss, seen)
    for a, b in zip(net.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_cut_that_hands_on_no_gradient_is_noticed():
    """Forgetting requires_grad on what was received stops the head's training without a word."""
    net, (x, y) = network(), batch()
    head, body, tail = cut_at(net, *U)
    up, down = Cut(Wire(), "up", "up", 0), Cut(Wire(), "down", "down", 0)
    loss = judge(tail(down.cross(body(up.cross(head(x)).detach()))), y)  # the wrong way
    loss.backward()
    back(down)
    with pytest.raises(ValueError, match="'up' has no gradient"):
        back(up)


def test_no_graph_leads_across_a_cut():
    net, (x, _) = network(), batch()
    head, body, _tail = cut_at(net, *U)
    cut = Cut(Wire(), "up", "up", 0)
    received = cut.cross(head(x))
    assert received.is_leaf
    body(received).sum().backward()
    assert all(p.grad is None for p in head.parameters())
    back(cut)
    assert all(p.grad is not None for p in head.parameters())


def test_cuts_behind_one_part_go_back_together():
    """A server that computes two clients' batches in one has one graph for both."""
    net, other = network(), network()
    head, body, tail = cut_at(net, *U)
    (x, y), (x2, y2) = batch(1), batch(2)
    wire = Wire()
    ups = [Cut(wire, "h", "up", k) for k in range(2)]
    downs = [Cut(wire, "b", "down", k) for k in range(2)]
    out = body(torch.cat([up.cross(head(own)) for up, own in zip(ups, (x, x2), strict=True)]))
    loss = sum(judge(tail(d.cross(b)), t) for d, b, t in zip(downs, out.split(5), (y, y2), strict=True))
    loss.backward()
    back(*downs)
    back(*ups)
    (judge(other(x), y) + judge(other(x2), y2)).backward()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)


# Messages


def test_a_step_in_a_u_is_four_tensors_of_equal_shape():
    wire, (x, y) = Wire(), batch()
    forth_and_back(cut_at(network(), *U), x, y, judge, wire, 3)
    assert [(m.name, m.direction) for m in wire.messages] == [
        ("activations 1", "up"),
        ("activations 2", "down"),
        ("gradient of activations 2", "up"),
        ("gradient of activations 1", "down"),
    ]
    assert {(m.client, m.shape, m.bytes) for m in wire.messages} == {(3, (5, 8), 5 * 8 * 8)}


class Spy(Wire):
    """Keeps what was sent."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def send(self, name, tensor, direction, client):
        self.seen.append((direction, tensor))
        return super().send(name, tensor, direction, client)


@pytest.mark.parametrize(("places", "told"), [((2,), True), (U, False), ((1, 2, 4), True), ((1, 2, 3, 4), False)])
def test_labels_go_up_only_where_the_server_ends_the_network(places, told):
    wire, (x, y) = Spy(), batch()
    forth_and_back(cut_at(network(), *places), x, y, judge, wire, 0)
    assert any(t.dtype == y.dtype and torch.equal(t, y) for _, t in wire.seen) is told
    assert not any(t.shape == x.shape and torch.equal(t, x) for _, t in wire.seen)
    assert len(wire.seen) == 2 * len(places) + told


def test_images_do_not_cross_a_cut():
    with pytest.raises(ValueError, match="these have no gradient"):
        Cut(Wire(), "h", "up", 0).cross(batch()[0])


def test_bytes_of_a_round_go_into_the_ledger():
    wire, (x, y) = Wire(), batch()
    for k in range(2):
        forth_and_back(cut_at(network(), *U), x, y, judge, wire, k)
    each = 5 * 8 * 8
    assert wire.total == 8 * each
    assert wire.end_round() == (4 * each, 4 * each)
    assert (wire.messages, wire.ledger.down, wire.ledger.up) == ([], [4 * each], [4 * each])
    forth_and_back(cut_at(network(), 2), x, y, judge, wire, 0)
    assert wire.end_round() == (each, each + 5 * 8)  # a gradient; activations and labels of eight bytes
    assert (wire.ledger.down, wire.ledger.up) == ([4 * each, each], [4 * each, each + 40])
    assert wire.total == 10 * each + 40


def test_clients_in_rows_are_messages_of_their_own():
    wire = Wire()
    wire.send("h", torch.zeros(3, 5, 8), "up", [4, 5, 9])
    assert [(m.client, m.shape, m.bytes) for m in wire.messages] == [(k, (5, 8), 160) for k in (4, 5, 9)]


def test_what_arrives_has_its_own_memory():
    sent = torch.ones(3)
    arrived = Wire().send("h", sent, "up", 0)
    sent += 1
    assert arrived.tolist() == [1, 1, 1]
    assert not arrived.requires_grad


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ((torch.ones(2), "sideways", 0), "direction must be 'up' or 'down'"),
        ((torch.ones(2, 3), "up", [0, 1, 2]), r"3 clients need a row each, got \[2, 3\]"),
        ((torch.tensor(1.0), "up", [0]), "1 clients need a row each"),
        ((torch.ones(0, 3), "up", 0), "nothing in a message of shape"),
        ((torch.ones(2), "up", -1), "client must be a whole number of at least 0"),
        ((torch.ones(2), "up", 1.5), "client must be a whole number of at least 0, got 1.5"),
        ((torch.ones(2, 3), "up", [0, None]), "client must be a whole number of at least 0, got None"),
        ((torch.ones(2, 3), "up", "ab"), "client must be a whole number of at least 0, got 'a'"),
    ],
)
def test_nonsense_is_not_sent(what, message):
    with pytest.raises(ValueError, match=message):
        Wire().send("h", *what)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_sent(bad):
    with pytest.raises(require.NotFinite, match="the message 'h': 1 of 2 numbers"):
        Wire().send("h", torch.tensor([bad, 1.0]), "up", 0)


def test_a_cut_is_crossed_and_then_come_back_over():
    net, (x, _) = network(), batch()
    cut = Cut(Wire(), "h", "up", 0)
    with pytest.raises(ValueError, match="nothing has crossed the cut 'h'"):
        back(cut)
    cut.cross(net(x))
    with pytest.raises(ValueError, match="'h' still awaits a gradient"):
        cut.cross(net(x))
    cut.received.sum().backward()
    back(cut)
    with pytest.raises(ValueError, match="nothing has crossed the cut 'h'"):
        back(cut)  # a gradient comes back once
    with pytest.raises(ValueError, match="direction must be"):
        Cut(Wire(), "h", "left", 0)
    with pytest.raises(ValueError, match="at least one part"):
        forth_and_back([], x, x, judge, Wire(), 0)


# Parts


@pytest.mark.parametrize("make", [SGD, ADAM])
def test_a_load_in_place_leaves_the_optimiser_at_work(make):
    part, (x, y) = Part(network(), make), batch()
    judge(part(x), y).backward()
    part.step()
    remembered = copy.deepcopy(part.optimiser.state_dict()["state"])
    part.load(network(1).state_dict())
    torch.testing.assert_close(part.optimiser.state_dict()["state"], remembered)  # its memory stays
    before = part.state
    judge(part(x), y).backward()
    part.step()
    assert all(not torch.equal(before[n], t) for n, t in part.state.items())


def test_a_part_that_was_replaced_is_noticed():
    """A public version puts a deep copy in the place of the server's blocks; its optimiser then trains nobody."""
    part = Part(network(), ADAM)
    part.module = copy.deepcopy(part.module)
    with pytest.raises(ValueError, match="never replace it"):
        part.step()


def test_a_state_is_a_copy_and_another_does_not_fit():
    part = Part(network(), SGD)
    state = part.state
    state["0.weight"].zero_()
    assert part.module[0].weight.abs().min() > 0
    with pytest.raises(ValueError, match=r"the part has 0.weight, .*; the state has nothing"):
        part.load({})
    with pytest.raises(ValueError, match=re.escape("0.weight: the part has [8, 6], the state [2, 6]")):
        part.load(part.state | {"0.weight": torch.zeros(2, 6)})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(7), r"4.bias: the part has \[3\], the state \[7\]"),
        (
            torch.zeros(3, dtype=torch.complex128),
            "4.bias: the part has real numbers, torch.float64, the state torch.com",
        ),
        (torch.zeros(3, dtype=torch.int64), "4.bias: the part has real numbers, torch.float64, the state torch.int64"),
        (torch.tensor([1.0, float("nan"), 2.0]), "4.bias: a part takes finite numbers; 1 of 3 numbers are NaN"),
        (torch.tensor([float("inf"), 0.0, 2.0]), "4.bias: a part takes finite numbers; 1 of 3 numbers"),
    ],
)
def test_a_part_that_refuses_a_state_is_as_it_was(bad, message):
    """The last of the tensors is wrong: none before it may have been written."""
    part = Part(network(), SGD)
    before = part.state
    with pytest.raises(ValueError, match=message):
        part.load({n: torch.zeros_like(t) for n, t in before.items()} | {"4.bias": bad})
    assert all(torch.equal(before[n], t) for n, t in part.state.items())


def test_counts_are_loaded_as_counts():
    part = Part(nn.BatchNorm1d(2), SGD)
    with pytest.raises(
        ValueError, match=r"num_batches_tracked: the part has whole numbers, torch.int64, the state tor"
    ):
        part.load(part.state | {"num_batches_tracked": torch.tensor(1.5)})
    part.load(part.state | {"num_batches_tracked": torch.tensor(7)})
    assert part.module.num_batches_tracked == 7


def test_unified_parts_are_equal_and_their_mean():
    net = [nn.Sequential(network(k), nn.BatchNorm1d(3).double()) for k in range(3)]
    for k, own in enumerate(net):
        own(batch(k, 4 + k)[0])  # running statistics differ
    parts, wire = [Part(own, SGD) for own in net], Wire()
    states = [part.state for part in parts]
    unify(parts, "head", wire)
    for n, t in parts[0].state.items():
        mean = torch.stack([s[n].double() for s in states]).mean(0)
        assert torch.equal(t, mean.to(t.dtype))
        assert all(torch.equal(part.state[n], t) for part in parts)
    size = sum(t.numel() * t.element_size() for t in states[0].values())
    assert wire.end_round() == (3 * size, 3 * size)


def test_the_mean_of_states_needs_states_alike():
    with pytest.raises(ValueError, match="the mean of none"):
        mean_state([])
    with pytest.raises(ValueError, match="one has a, one b"):
        mean_state([{"a": torch.ones(1)}, {"b": torch.ones(1)}])
    with pytest.raises(ValueError, match="one has a, one nothing"):
        mean_state([{"a": torch.ones(1)}, {}])
    with pytest.raises(ValueError, match=r"a is torch.float32 \[1\] in the first, torch.float32 \[2\] in state 1"):
        mean_state([{"a": torch.ones(1)}, {"a": torch.ones(2)}])
    with pytest.raises(ValueError, match=r"a is torch.float32 \[1\] in the first, torch.float64 \[1\] in state 2"):
        mean_state([{"a": torch.ones(1)}, {"a": torch.ones(1)}, {"a": torch.ones(1).double()}])
    with pytest.raises(ValueError, match=r"a: real numbers have a mean here, got torch\.complex64"):
        mean_state([{"a": torch.ones(1, dtype=torch.complex64)}])
    with pytest.raises(require.NotFinite, match="a of state 1: 1 of 1 numbers"):
        mean_state([{"a": torch.ones(1)}, {"a": torch.tensor([float("nan")])}])
    with pytest.raises(ValueError, match="parts: there is none to average as 'head'"):
        unify([], "head", Wire())
    assert mean_state([{"n": torch.tensor(1)}, {"n": torch.tensor(2)}, {"n": torch.tensor(2)}])["n"] == 2


# Plain split learning


def test_in_turn_the_next_client_goes_on_where_the_last_one_stopped():
    net, alone, wire = network(), network(), Wire()
    parts = [Part(piece, SGD) for piece in cut_at(net, *U)]
    mine, theirs = [batch(1), batch(2)], [batch(3)]
    in_turn(parts, [mine, theirs], judge, wire)
    optimiser = SGD(alone.parameters())
    for x, y in mine + theirs:
        optimiser.zero_grad()
        judge(alone(x), y).backward()
        optimiser.step()
    for a, b in zip(net.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
    handed = [m for m in wire.messages if m.name.startswith("part")]
    ends = sum(p.numel() for part in (parts[0], parts[2]) for p in part.module.parameters())
    assert sum(m.bytes for m in handed) == 2 * 8 * ends  # head and tail, up from client 0 and down to client 1
    assert {(m.direction, m.client) for m in handed} == {("up", 0), ("down", 1)}


def test_the_last_client_of_a_round_hands_on_to_the_first_of_the_next():
    """Rounds in turn are one long turn: the same weights, and a hand-over between any two clients at work."""
    net, alone, wire = network(), network(), Wire()
    parts = [Part(piece, SGD) for piece in cut_at(net, *U)]
    ends = 8 * sum(p.numel() for part in (parts[0], parts[2]) for p in part.module.parameters())
    for t in range(3):
        in_turn(parts, [[batch(2 * t)], [batch(2 * t + 1)]], judge, wire, before=1 if t else None)
        handed = [m for m in wire.messages if m.name.startswith("part")]
        ways = {("up", 0), ("down", 1)} | ({("up", 1), ("down", 0)} if t else set())
        assert {(m.direction, m.client) for m in handed} == ways
        assert {m.name.split("/")[0] for m in handed} == {"part 0", "part 2"}
        assert sum(m.bytes for m in handed) == ends * len(ways)
        assert wire.end_round() == (2 * 2 * 320 + ends * len(ways) // 2,) * 2
    optimiser = SGD(alone.parameters())  # one momentum for all rounds and clients
    for i in range(6):
        optimiser.zero_grad()
        x, y = batch(i)
        judge(alone(x), y).backward()
        optimiser.step()
    for a, b in zip(net.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_client_that_goes_on_alone_hands_nothing_on():
    wire, parts = Wire(), [Part(piece, SGD) for piece in cut_at(network(), *U)]
    in_turn(parts, [[batch()]], judge, wire, before=0)
    assert not [m for m in wire.messages if m.name.startswith("part")]


def test_a_client_without_batches_is_refused():
    parts = [Part(piece, SGD) for piece in cut_at(network(), *U)]
    with pytest.raises(ValueError, match="client 1 has none"):
        in_turn(parts, [[batch()], []], judge, Wire())
    with pytest.raises(ValueError, match="at least one client are needed, got 3 and 0"):
        in_turn(parts, [], judge, Wire())
    with pytest.raises(ValueError, match="at least one client are needed, got 0 and 1"):
        in_turn([], [[batch()]], judge, Wire())
    with pytest.raises(ValueError, match="before must be a whole number of at least 0, got -1"):
        in_turn(parts, [[batch()]], judge, Wire(), before=-1)


def test_full_batches_of_equal_clients_averaged_each_step_are_federated_sgd():
    """SplitFed with a body for each client, all averaged after one step of plain SGD, is one step on the mean loss."""
    plain, wire = partial(torch.optim.SGD, lr=0.1), Wire()
    nets, alone = [network() for _ in range(3)], network()
    clients = [[Part(piece, plain) for piece in cut_at(net, *U)] for net in nets]
    batches = [batch(k) for k in range(3)]
    for k, (parts, (x, y)) in enumerate(zip(clients, batches, strict=True)):
        forth_and_back(parts, x, y, judge, wire, k)
        for part in parts:
            part.step()
    for name, same in zip(("head", "body", "tail"), zip(*clients, strict=True), strict=True):
        unify(same, name, wire)
    optimiser = plain(alone.parameters())
    sum(judge(alone(x), y) / 3 for x, y in batches).backward()
    optimiser.step()
    for net in nets:
        for a, b in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
