"""FeSTA: its messages and gradients against the composed network, its unifying rounds, and what it is compared with."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedlib import require, rng
from fedlib.course import Central, Held, InTurn, Whole, drawn, pick, play
from fedlib.festa import FeSTA, Stacked, Task, crossing, stack, weights_of, wire_bytes
from fedlib.models.vit import DenseTail, Encoder, FlatTail, PatchHead
from fedlib.split import Part, Wire, forth_and_back, mean_state, unify

SEEDS, WIDTH, TOKENS, BATCH = (3, 5), 4, 4, 2
HEAD, BODY = partial(PatchHead, 1, 2, WIDTH), partial(Encoder, TOKENS, WIDTH, 2, 1)
SGD, ADAM = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.Adam, lr=0.01)
DOUBLE = {"dtype": torch.float64}


def entropy(z, y):
    return F.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(-1)


def squares(z, y):
    return (z - y).square().flatten(1).mean(1)


def tasks(clients=3, weight=1.0):
    """A class of three for some clients, a mask for two."""
    return [
        Task("class", clients, HEAD, partial(FlatTail, TOKENS, WIDTH, 3), entropy),
        Task("mask", 2, HEAD, partial(DenseTail, WIDTH, 2), squares, weight),
    ]


def batches(number=0, clients=3, names=("class", "mask")):
    draws = rng.stream(number, "test batches")

    def images(k):
        return torch.randn(len(SEEDS), k, BATCH, 1, 4, 4, generator=draws, dtype=torch.float64)

    made = {
        "class": (images(clients), torch.randint(3, (len(SEEDS), clients, BATCH), generator=draws)),
        "mask": (images(2), torch.rand(len(SEEDS), 2, BATCH, 4, 4, generator=draws, dtype=torch.float64)),
    }
    return {n: made[n] for n in names}


def values(part):
    return [w.detach().clone() for w in part.module.weights]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def copied(part, row):
    """One module of a stacked part, alone."""
    one = part.module
    module = copy.deepcopy(one._one[0]).to_empty(device="cpu")
    module.load_state_dict({n: w[row].detach().clone() for n, w in zip(one.names, one.weights, strict=True)})
    return module


# Stacks


def test_each_row_of_a_stack_is_its_module():
    made = [rng.build(BODY, k).double() for k in range(3)]
    x = torch.randn(3, 5, TOKENS, WIDTH, generator=rng.stream(0), dtype=torch.float64)
    for row, one in zip(Stacked(made)(x), (m(v) for m, v in zip(made, x, strict=True)), strict=True):
        torch.testing.assert_close(row, one, rtol=1e-12, atol=1e-14)


def test_a_stack_needs_modules_without_statistics():
    with pytest.raises(ValueError, match="a stack of none"):
        Stacked([])
    with pytest.raises(ValueError, match=r"running_mean, .* would not be averaged"):
        Stacked([nn.BatchNorm1d(3)])


def test_copies_of_a_seed_are_alike_and_seeds_are_not():
    w = stack(HEAD, SEEDS, 2, "head", dtype=torch.float64).weights[0]
    assert torch.equal(w[0], w[1])
    assert torch.equal(w[2], w[3])
    assert not torch.equal(w[0], w[2])


# A step


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_a_step_is_that_of_messages_client_by_client(weight):
    """Each client goes through the U by itself, the server adds up and divides by the number of clients."""
    way = FeSTA(tasks(weight=weight), BODY, SGD, SEEDS, **DOUBLE)
    for s in range(len(SEEDS)):
        body, clients = copied(way.body, s), []
        for name, (x, y) in batches().items():
            for k in range(x.shape[1]):
                row = s * x.shape[1] + k
                head, tail = copied(way.heads[name], row), copied(way.tails[name], row)

                def judge(z, t, name=name):
                    task = way.tasks[name]
                    return task.weight * task.loss(z[None], t[None])[0]

                forth_and_back([head, body, tail], x[s, k], y[s, k], judge, Wire(), k)
                clients.append((name, row, head, tail))
        for p in body.parameters():
            p.grad /= 5
        for module in [body, *(m for one in clients for m in one[2:])]:
            SGD(module.parameters()).step()
        if s == 0:
            expected, own = [], []
        expected.append((s, body, clients))
    way.step(batches())
    for s, body, clients in expected:
        own = [(way.body, s, body)]
        own += [pair for n, r, h, t in clients for pair in ((way.heads[n], r, h), (way.tails[n], r, t))]
        for part, row, module in own:
            for w, p in zip(part.module.weights, module.parameters(), strict=True):
                torch.testing.assert_close(w[row], p, rtol=1e-11, atol=1e-13)


def test_a_client_sends_and_receives_four_tensors_of_one_shape_and_no_labels():
    way = FeSTA(tasks(), BODY, SGD, SEEDS, **DOUBLE)
    way.step(batches())
    shape = (BATCH, TOKENS, WIDTH)
    for name, clients in (("class", 3), ("mask", 2)):
        for k in range(clients):
            mine = [m for m in way.wire.messages if m.client == k and name in m.name]
            assert sorted(m.direction for m in mine) == ["down"] * 2 * len(SEEDS) + ["up"] * 2 * len(SEEDS)
            assert {(m.shape, m.bytes) for m in mine} == {(shape, 8 * BATCH * TOKENS * WIDTH)}


def test_bytes_are_the_formula_and_do_not_depend_on_the_body():
    small, large = (
        FeSTA(tasks(), body, SGD, SEEDS, **DOUBLE) for body in (BODY, partial(Encoder, TOKENS, WIDTH, 2, 5))
    )
    for way in (small, large):
        way.round([batches(i) for i in range(3)])
    ends = sum(
        2 * 8 * task.clients * sum(w[0].numel() for p in (small.heads[n], small.tails[n]) for w in p.module.weights)
        for n, task in small.tasks.items()
    )
    steps = 3 * 5 * 4 * 8 * BATCH * TOKENS * WIDTH
    assert small.wire.total == large.wire.total == len(SEEDS) * (steps + ends)
    formula = wire_bytes(tasks(), TOKENS, WIDTH, rounds=1, steps=3, size=BATCH, each=8)
    assert formula == steps + ends
    assert weights_of(partial(nn.Linear, 3, 2), partial(nn.Linear, 1, 1, bias=False)) == 9


def test_bytes_cross_where_the_formula_says():
    """As many samples as the crossing, and the activations take what a network takes that is sent both ways."""
    whole = Whole(tasks()[:1], BODY, SGD, SEEDS[:1], **DOUBLE)
    whole.unify()
    weights = sum(w[0].numel() for part in whole.parts for w in part.module.weights)
    split = FeSTA(tasks()[:1], BODY, SGD, SEEDS[:1], unifying=False, **DOUBLE)
    one = {"class": tuple(t[:1] for t in batches(names=("class",))["class"])}
    split.step(one)
    assert whole.wire.total / split.wire.total == pytest.approx(crossing(weights, TOKENS, WIDTH) / BATCH)
    assert crossing(86_000_000, 256, 768) == pytest.approx(218.7, abs=0.1)  # a ViT-B on 16 x 16 tokens
    for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            crossing(*wrong)


def test_the_body_moves_and_its_optimiser_remembers():
    way = FeSTA(tasks(), BODY, ADAM, SEEDS, **DOUBLE)
    for i in range(3):
        before = values(way.body)
        way.round([batches(i)])
        assert not any(torch.equal(a, b) for a, b in zip(before, values(way.body), strict=True))
    assert {int(state["step"]) for part in way.parts for state in part.optimiser.state.values()} == {3}


def test_a_frozen_body_stays_and_heads_go_on():
    way = FeSTA(tasks(), BODY, ADAM, SEEDS, **DOUBLE)
    way.step(batches(0))
    way.freeze()
    body, heads = values(way.body), values(way.heads["class"])
    way.step(batches(1))
    assert same(body, values(way.body))
    assert not any(torch.equal(a, b) for a, b in zip(heads, values(way.heads["class"]), strict=True))


# Unifying


def test_after_a_unifying_round_heads_of_a_task_are_equal_and_those_of_tasks_are_not():
    way = FeSTA(tasks(), BODY, ADAM, SEEDS, **DOUBLE)
    way.step(batches())
    before = [w.detach().clone() for w in way.heads["class"].module.weights]
    way.unify()
    for old, w in zip(before, way.heads["class"].module.weights, strict=True):
        clients = w.unflatten(0, (len(SEEDS), 3))
        assert torch.equal(clients[:, 0], clients[:, 1])
        assert torch.equal(clients[:, 0], clients[:, 2])
        torch.testing.assert_close(clients[:, 0], old.unflatten(0, (len(SEEDS), 3)).mean(1))
        assert not torch.equal(clients[0], clients[1])
    assert not same(values(way.heads["class"])[:1], [w[:6] for w in values(way.heads["mask"])[:1]][:1])


def test_never_unified_heads_stay_apart():
    way = FeSTA(tasks(), BODY, ADAM, SEEDS, unifying=False, **DOUBLE)
    way.round([batches()])
    w = way.heads["class"].module.weights[0]
    assert not torch.equal(w[0], w[1])


def test_unified_in_each_step_it_is_training_in_one_place():
    """Plain SGD, equal batches, one task: the mean of heads is a step on the mean loss, as the body's is."""
    split, central = (kind(tasks()[:1], BODY, SGD, SEEDS, **DOUBLE) for kind in (FeSTA, Central))
    for i in range(5):
        for way in (split, central):
            way.round([batches(i, names=("class",))])
    for a, b in zip(split.parts, central.parts, strict=True):
        for w, v in zip(a.module.weights, b.module.weights, strict=True):
            torch.testing.assert_close(w[:: len(w) // len(v)], v, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("make", [SGD, ADAM])
def test_one_client_is_the_composed_network(make):
    way, alone = (kind(tasks(1)[:1], BODY, make, SEEDS, **DOUBLE) for kind in (FeSTA, Whole))
    for i in range(50):
        a, b = (one.step(batches(i, 1, ("class",)))["class"] for one in (way, alone))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


# What it is compared with


def test_splitfed_with_a_body_for_each_client_trains_as_federated_averaging_does():
    """Only where the body is computed, and what travels, is another matter."""
    whole = Whole(tasks()[:1], BODY, ADAM, SEEDS[:1], **DOUBLE)
    clients = [
        [Part(copied(p, k), ADAM) for p in (whole.heads["class"], whole.body, whole.tails["class"])] for k in range(3)
    ]
    for i in range(2):
        steps = [{"class": tuple(t[:1] for t in batches(3 * i + j, names=("class",))["class"])} for j in range(3)]
        whole.round(steps)
        for step in steps:
            x, y = step["class"]
            for k, parts in enumerate(clients):
                forth_and_back(parts, x[0, k], y[0, k], F.cross_entropy, Wire(), k)
                for part in parts:
                    part.step()
        for held in zip(*clients, strict=True):
            unify(held, "part", Wire())
    for part, one in zip((whole.heads["class"], whole.body, whole.tails["class"]), clients[0], strict=True):
        for w, v in zip(part.module.weights, one.module.parameters(), strict=True):
            torch.testing.assert_close(w[0], v, rtol=1e-9, atol=1e-11)


def test_federated_averaging_sends_the_whole_network_each_way():
    way = Whole(tasks()[:1], BODY, SGD, SEEDS, **DOUBLE)
    way.round([batches(i, names=("class",)) for i in range(4)])
    weights = sum(w[0].numel() for part in way.parts for w in part.module.weights)
    assert way.wire.total == len(SEEDS) * 3 * 2 * 8 * weights


def test_alone_nobody_hears_of_the_others():
    way = Whole(tasks()[:1], BODY, SGD, SEEDS, unifying=False, **DOUBLE)
    first = batches(names=("class",))
    x, y = (t.clone() for t in first["class"])
    x[:, 1:], y[:, 1:] = 0, 0
    other = Whole(tasks()[:1], BODY, SGD, SEEDS, unifying=False, **DOUBLE)
    way.round([first])
    other.round([{"class": (x, y)}])
    for a, b in zip(way.parts, other.parts, strict=True):
        for w, v in zip(a.module.weights, b.module.weights, strict=True):
            torch.testing.assert_close(w[::3], v[::3])
    assert way.wire.total == 0


def test_in_turn_clients_hand_on_head_and_tail():
    way, alone = InTurn(tasks()[:1], BODY, ADAM, SEEDS, **DOUBLE), Whole(tasks(1)[:1], BODY, ADAM, SEEDS, **DOUBLE)
    steps = [batches(i, names=("class",)) for i in range(2)]
    for _ in range(2):
        way.round(steps)
    for _ in range(2):
        for k in range(3):
            for step in steps:
                x, y = step["class"]
                alone.step({"class": (x[:, k : k + 1], y[:, k : k + 1])})
    for a, b in zip(way.parts, alone.parts, strict=True):
        for w, v in zip(a.module.weights, b.module.weights, strict=True):
            torch.testing.assert_close(w, v, rtol=1e-10, atol=1e-12)
    for end in ("head", "tail"):  # up from whoever worked last, down to whoever is next; one of each seed
        label = next((m.name for m in way.wire.messages if m.name.startswith(f"class {end}/")), None)
        assert label is not None, f"no {end} was handed on"
        for direction, order in (("up", [0, 1, 2, 0, 1]), ("down", [1, 2, 0, 1, 2])):
            sent = [m.client for m in way.wire.messages if (m.name, m.direction) == (label, direction)]
            assert sent == [k for k in order for _ in SEEDS]
    ends = sum(w[0].numel() for p in (way.heads["class"], way.tails["class"]) for w in p.module.weights)
    activations = 2 * 3 * 2 * 4 * BATCH * TOKENS * WIDTH
    assert way.wire.total == len(SEEDS) * 8 * (activations + 5 * 2 * ends)  # six turns, five times handed on


# The course of training


def held(clients=3, n=6):
    draws = rng.stream("held")
    x = torch.randn(len(SEEDS), clients, n, 1, 4, 4, generator=draws, dtype=torch.float64)
    y = torch.randint(3, (len(SEEDS), clients, n), generator=draws)
    return {"class": Held(x, y, x[:, 0], y[:, 0])}


def right(z, y):
    return (z.argmax(-1) == y).double().mean(-1)


@pytest.mark.parametrize("kind", [FeSTA, Whole, Central, InTurn])
def test_a_seed_beside_others_is_the_seed_alone(kind):
    both = play(kind(tasks()[:1], BODY, ADAM, SEEDS, **DOUBLE), held(), {"class": right}, rounds=2, steps=2, size=2)
    second = {"class": Held(*(t[1:] for t in held()["class"]))}
    one = kind(tasks()[:1], BODY, ADAM, SEEDS[1:], **DOUBLE)
    assert play(one, second, {"class": right}, rounds=2, steps=2, size=2) == both[1:]


def test_what_is_looked_at():
    way = FeSTA(tasks()[:1], BODY, ADAM, SEEDS, **DOUBLE)
    seen = play(way, held(), {"class": right}, rounds=4, steps=3, size=2, looks=2)
    assert [row["samples"] for row in seen] == [[12, 24]] * 2
    assert seen[0]["bytes"][1] == 2 * seen[0]["bytes"][0] == way.wire.total // 2
    z = way.answers("class", held()["class"].x_test)
    assert seen[1]["class"][-1] == pytest.approx(right(z[1], held()["class"].y_test[1].expand(3, -1)).mean().item())


class Watched(FeSTA):
    """Keeps what it was trained on."""

    def round(self, steps):
        self.rounds = [*getattr(self, "rounds", []), steps]
        super().round(steps)


def test_a_course_goes_through_its_steps_one_after_the_other():
    """No step comes twice, and none is left out: rounds are pieces of one long course."""
    way = Watched(tasks()[:1], BODY, ADAM, SEEDS, **DOUBLE)
    play(way, held(), {"class": right}, rounds=3, steps=2, size=4)
    assert [len(steps) for steps in way.rounds] == [2, 2, 2]
    seen = [x for steps in way.rounds for x, _ in (step["class"] for step in steps)]
    course = [x for x, _ in (step["class"] for step in drawn(held(), SEEDS, 0, 6, 4))]
    assert all(torch.equal(a, b) for a, b in zip(seen, course, strict=True))
    assert not any(torch.equal(a, b) for i, a in enumerate(course) for b in course[:i])


def test_a_body_that_is_frozen_from_a_round_on():
    way = FeSTA(tasks()[:1], BODY, ADAM, SEEDS, **DOUBLE)
    play(way, held(), {"class": right}, rounds=3, steps=2, size=2, freeze=2)
    assert {int(state["step"]) for state in way.body.optimiser.state.values()} == {4}
    assert {int(state["step"]) for state in way.heads["class"].optimiser.state.values()} == {6}


def test_answers_are_those_of_each_clients_own_network():
    way = FeSTA(tasks(), BODY, ADAM, SEEDS, unifying=False, **DOUBLE)
    way.step(batches())
    x = held()["class"].x_test
    z = way.answers("class", x)
    for s in range(2):
        for k in range(3):
            row = 3 * s + k
            alone = copied(way.tails["class"], row)(copied(way.body, s)(copied(way.heads["class"], row)(x[s])))
            torch.testing.assert_close(z[s, k], alone, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", [FeSTA, Whole])
def test_one_answers_for_all_while_they_are_alike(kind):
    """Right after an averaging, and not after the next step."""
    way = kind(tasks()[:1], BODY, ADAM, SEEDS, **DOUBLE)
    x = held()["class"].x_test
    way.round([batches(0, names=("class",))])
    short = way.answers("class", x)
    assert way.alike
    way.alike = False
    torch.testing.assert_close(short, way.answers("class", x), rtol=1e-11, atol=1e-13)
    way.alike = True
    way.step(batches(1, names=("class",)))
    assert not way.alike
    z = way.answers("class", x)
    assert not torch.allclose(z[:, 0], z[:, 1])


def test_batches_depend_on_seed_task_client_and_step_alone():
    all_, own = held(), {"class": Held(*(t[1:] for t in held()["class"]))}
    for a, b in zip(drawn(all_, SEEDS, 4, 3, 2), drawn(own, SEEDS[1:], 4, 3, 2), strict=True):
        assert torch.equal(a["class"][0][1:], b["class"][0])
    apart = [step for at in (4, 6) for step in drawn(all_, SEEDS, at, 2, 2)]
    for a, b in zip(drawn(all_, SEEDS, 4, 4, 2), apart, strict=True):  # however often one averages
        assert torch.equal(a["class"][0], b["class"][0])
    first, later = (drawn(all_, SEEDS, at, 3, 4)[0]["class"][0] for at in (0, 3))
    assert not torch.equal(first, later)
    many = {n: Held(*(t.repeat(1, 1, 100, *[1] * (t.ndim - 3)) for t in own[:2]), *own[2:])
            for n, own in {"class": held()["class"], "other": held()["class"]}.items()}  # fmt: skip
    rows = drawn(many, SEEDS, 4, 1, 20)[0]
    numbers = [rows[n][0][s, k].flatten(1).sum(1).tolist() for n in many for s in range(2) for k in range(3)]
    places = [drawn({"class": Held(torch.arange(600).expand(2, 3, -1), many["class"].y, *own["class"][2:])},
                    SEEDS, 4, 1, 20)[0]["class"][0]]  # fmt: skip
    assert len({tuple(row) for row in places[0].flatten(0, 1).tolist()}) == 6  # seeds and clients draw apart
    assert len({tuple(row) for row in numbers}) == 12  # and so do tasks
    x = torch.arange(2 * 3 * 6).view(2, 3, 6)
    assert pick(x, torch.tensor([[[0, 5]] * 3] * 2))[1].tolist() == [[18, 23], [24, 29], [30, 35]]


# Nonsense


def test_tasks_have_names_of_their_own():
    for wrong in ([], [*tasks()[:1], *tasks()[:1]]):
        with pytest.raises(ValueError, match="at least one is needed, each with a name of its own"):
            FeSTA(wrong, BODY, SGD, SEEDS)
    for kind in (Whole, Central, InTurn):
        with pytest.raises(ValueError, match=r"this way of training has one task; got \['class', 'mask'\]"):
            kind(tasks(), BODY, SGD, SEEDS)
    for wrong, message in (
        ({"clients": 0}, "clients must be"),
        ({"weight": 0.0}, "weight must be a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Task(**{"name": "a", "clients": 1, "head": HEAD, "tail": HEAD, "loss": squares} | wrong)
    with pytest.raises(ValueError, match="weight"):
        tasks(weight=float("nan"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda own: {"class": own["class"]}, "batches of class; the tasks are class, mask"),
        (lambda own: {}, "batches of nothing"),
        (lambda own: own | {"mask": tuple(t[:1] for t in own["mask"])}, "mask: x and y begin with 2 seeds, 2 clients"),
        (lambda own: own | {"class": tuple(t[:, :2] for t in own["class"])}, "class: x and y begin with 2 seeds"),
        (lambda own: own | {"class": (own["class"][0][:, :, :1], own["class"][1])}, "class: x and y begin"),
        (lambda own: own | {"class": tuple(t[:, :, :0] for t in own["class"])}, "class: x and y begin"),
    ],
)
def test_batches_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FeSTA(tasks(), BODY, SGD, SEEDS, **DOUBLE).step(wrong(batches()))


def test_a_course_without_samples_is_refused():
    empty = {"class": Held(*(t[:, :, :0] for t in held()["class"][:2]), *held()["class"][2:])}
    with pytest.raises(ValueError, match=r"class: samples .* are needed"):
        drawn(empty, SEEDS, 0, 1, 1)
    with pytest.raises(ValueError, match="first must be a whole number of at least 0, got -1"):
        drawn(held(), SEEDS, -1, 1, 1)
    with pytest.raises(ValueError, match="seeds: at least one is needed, got none"):
        drawn(held(), (), 0, 1, 1)
    for seeds in (SEEDS[:1], (*SEEDS, 9)):  # one set of samples would serve all seeds, or a seed none
        with pytest.raises(
            ValueError, match=f"class: samples for each of {len(seeds)} seeds are needed, got those of 2"
        ):
            drawn(held(), seeds, 0, 1, 1)
    for name in ("steps", "size"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            drawn(held(), SEEDS, **{"first": 0, "steps": 1, "size": 1} | {name: 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds must be a whole number of at least 1"),
        ({"looks": 0}, "looks must be a whole number of at least 1"),
        ({"looks": 3}, "looks: there are 2 rounds to look at, and 3 looks"),
        ({"freeze": 2}, "freeze: there are 2 rounds, after 2 of which nothing is left"),
        ({"freeze": -1}, "freeze must be a whole number of at least 0"),
        ({"scores": {}}, "scores: none is given for class; there are none"),
        ({"held": {"class": held()["class"]._replace(y=held()["class"].y[:, :, 1:])}}, "a label for each sample"),
    ],
)
def test_a_course_that_cannot_be_is_refused(change, message):
    given = {"held": held(), "scores": {"class": right}, "rounds": 2, "steps": 1, "size": 1} | change
    with pytest.raises(ValueError, match=message):
        play(FeSTA(tasks()[:1], BODY, SGD, SEEDS, **DOUBLE), **given)


def test_seeds_and_tasks_are_known():
    for seeds in ([], [1, 1]):
        with pytest.raises(ValueError, match="seeds: at least one is needed, and each once"):
            FeSTA(tasks(), BODY, SGD, seeds)
    with pytest.raises(ValueError, match="task must be 'class' or 'mask'"):
        FeSTA(tasks(), BODY, SGD, SEEDS, **DOUBLE).answers("other", torch.zeros(2, 1, 1, 4, 4))


def test_training_that_diverges_says_so():
    own = held()["class"]
    wrong = {"class": Held(own.x * float("nan"), *own[1:])}
    for kind, what in ((FeSTA, "the message 'class tokens'"), (Central, "weights after round 1")):
        with pytest.raises(require.NotFinite, match=what):
            play(kind(tasks()[:1], BODY, SGD, SEEDS, **DOUBLE), wrong, {"class": right}, rounds=1, steps=1, size=2)


def test_the_mean_of_heads_is_what_a_mean_of_states_says():
    way = FeSTA(tasks(), BODY, ADAM, SEEDS[:1], **DOUBLE)
    way.step({n: tuple(t[:1] for t in own) for n, own in batches().items()})
    states = [copied(way.heads["class"], k).state_dict() for k in range(3)]
    way.unify()
    for n, w in zip(way.heads["class"].module.names, way.heads["class"].module.weights, strict=True):
        torch.testing.assert_close(w[0], mean_state(states)[n])


def test_a_stack_that_fails_has_no_weights_left_in_its_module():
    made = Stacked([rng.build(BODY, k).double() for k in range(2)])
    with pytest.raises(ValueError, match="tokens"):
        made(torch.zeros(2, 5, TOKENS + 1, WIDTH, dtype=torch.float64))
    assert all(w.is_meta for w in made._one[0].parameters())
