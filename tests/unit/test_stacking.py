"""Many clients in one network: each gets what the plain network gives it alone, in value, gradient and statistics."""

import pytest
import torch
from federations import FLOAT, Normed, small
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from fedlib import costs, losses, rng, stacking
from fedlib.models import MLP, Cnn1d, LeNet5, McMahanCNN, Net, ResNet8, SmallCNN
from fedlib.stacking import Stack, StackedNet, first, obstacle, predict_each, stacked, take

CASES = settings(deadline=None, max_examples=25)


def chain(*layers):
    return lambda: nn.Sequential(*(layer() if isinstance(layer, type) else layer for layer in layers))


class Tied(nn.Module):
    """An autoencoder-like network that uses one weight twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x, features=False):
        h = torch.tanh(self.a(x))
        return h if features else self.b(h)


class Twice(nn.Module):
    """A network whose layers, BatchNorm among them, are used twice, beside a residual connection."""

    def __init__(self):
        super().__init__()
        self.mix, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5, affine=False)

    def forward(self, x):
        h = self.norm(torch.relu(self.mix(x)))
        return x + self.norm(self.mix(h))


NETS = {
    "MLP": (small, (5,)),
    "MLP on images": (lambda: MLP(2 * 3 * 4, (6, 7), 3), (2, 3, 4)),
    "MLP with LayerNorm": (lambda: MLP(5, (6, 4), 3, layer_norm=True), (5,)),
    "no hidden layer": (lambda: MLP(5, (), 3), (5,)),
    "one layer": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "BatchNorm": (Normed, (5,)),
    "BatchNorm used twice": (Twice, (5,)),
    "tied": (Tied, (5,)),
    "SmallCNN": (SmallCNN, (1, 8, 8)),
    "LeNet5": (LeNet5, (1, 28, 28)),
    "Cnn1d": (Cnn1d, (1, 1, 40)),
    "McMahanCNN": (lambda: McMahanCNN(2, 4, 3), (2, 4, 4)),
    "ResNet8, batch": (ResNet8, (3, 8, 8)),
    "ResNet8, group": (lambda: ResNet8(norm="group"), (3, 8, 8)),
    "strided": (chain(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.GELU, nn.Flatten, nn.Linear(64, 3)), (2, 7, 8)),
    "bias-free": (chain(nn.Conv2d(2, 4, 3, bias=False), nn.ELU, nn.Flatten, nn.Linear(16, 3, bias=False)), (2, 4, 4)),
    "grouped": (chain(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU, nn.Conv2d(8, 8, 1, groups=8), nn.Flatten), (4, 4, 4)),
    "dilated": (chain(nn.Conv2d(2, 3, 3, dilation=2, padding="same"), nn.Tanh, nn.Flatten), (2, 5, 5)),
    "not square": (chain(nn.Conv2d(2, 3, (1, 3), stride=(2, 1), padding=(0, 1)), nn.SiLU, nn.Flatten), (2, 5, 4)),
    "AvgPool": (chain(nn.Conv2d(1, 3, 3, padding=1), nn.AvgPool2d(2), nn.Flatten, nn.Linear(12, 3)), (1, 4, 4)),
    "AdaptiveAvgPool": (
        chain(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten, nn.Linear(8, 3)),
        (1, 6, 6),
    ),
    "MaxPool": (chain(nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(2, 3, 2), nn.Softplus, nn.Flatten), (2, 4, 5)),
    "GroupNorm": (chain(nn.Conv2d(1, 6, 2), nn.GroupNorm(3, 6, eps=0.1), nn.Hardtanh, nn.Flatten), (1, 4, 4)),
    "norms without weights": (
        chain(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4, affine=False), nn.BatchNorm2d(4, affine=False), nn.Flatten),
        (1, 4, 4),
    ),
    "LayerNorm without weights": (chain(nn.Linear(5, 4), nn.LayerNorm(4, elementwise_affine=False), nn.ReLU6), (5,)),
    "LayerNorm without bias": (chain(nn.Linear(5, 4), nn.LayerNorm(4, bias=False), nn.LeakyReLU(0.3)), (5,)),
    "BatchNorm, other settings": (chain(nn.Linear(5, 4), nn.BatchNorm1d(4, eps=0.3, momentum=0.7)), (5,)),
    "BatchNorm of sequences": (chain(nn.BatchNorm1d(3), nn.Flatten, nn.Linear(12, 2), nn.Sigmoid), (3, 4)),
    "sequences": (chain(nn.Linear(4, 5), nn.Tanh, nn.LayerNorm(5), nn.Flatten, nn.Linear(15, 2)), (3, 4)),
    "convolved sequences": (
        chain(
            nn.Conv1d(2, 4, 3, padding=1),
            nn.BatchNorm1d(4),
            nn.ReLU,
            nn.MaxPool1d(2),
            nn.Conv1d(4, 3, 2, groups=1),
            nn.AvgPool1d(2),
            nn.AdaptiveAvgPool1d(2),
            nn.Flatten,
            nn.Linear(6, 3),
        ),
        (2, 13),
    ),
    "ReLU before pooling": (
        chain(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU, nn.MaxPool2d(2), nn.Flatten, nn.Linear(12, 3)),
        (1, 4, 5),
    ),
    "empty shortcut": (chain(nn.Linear(5, 4), nn.Sequential(), nn.Identity, nn.ReLU), (5,)),
}


def network(name):
    make, shape = NETS[name]
    return Net(rng.build(make, 0), dtype=FLOAT), shape


def models(net, clients, seed=0):
    """Different states, statistics included: variances stay positive."""
    g = torch.Generator().manual_seed(seed)

    def shaken(t):
        return t + 0.3 * torch.rand(t.shape, generator=g, dtype=t.dtype) if t.is_floating_point() else t + 2

    return [{n: shaken(t) for n, t in net.initial().items()} for _ in range(clients)]


def batches(counts, shape, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=g, dtype=FLOAT) for n in counts]


def side_by_side(xs, fill=1e6):
    """Batches [n_k, ...] as [B, K, 1, ...]: what is too short is filled with garbage; shares and counts with it."""
    width, counts = max(map(len, xs)), torch.tensor([len(x) for x in xs])
    x = torch.full((width, len(xs), *xs[0].shape[1:]), fill, dtype=xs[0].dtype)
    for k, part in enumerate(xs):
        x[: len(part), k] = part
    share = (torch.arange(width)[:, None] < counts) / counts.to(FLOAT)
    return x.unsqueeze(2), share, counts


def step(net, state, x, pull, train, **options):
    """Output, gradient of the mean of <pull, output>, and the state afterwards, statistics moved."""
    state = {n: t.clone() for n, t in state.items()}
    leaves = [state[n].requires_grad_() for n in net.parameters]
    out = net(state, x, train, **options)
    loss = (out * pull).flatten(1).sum(1).mean()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return out.detach(), dict(zip(net.parameters, grads, strict=True)), {n: t.detach() for n, t in state.items()}


def check(name, counts, train, seed=0, fill=1e6, **options):
    net, shape = network(name)
    states, xs = models(net, len(counts), seed), batches(counts, shape, seed + 1)
    pulls = [torch.randn_like(net(s, x, **options)) for s, x in zip(states, xs, strict=True)]
    x, share, number = side_by_side(xs, fill)
    pull, many = side_by_side(pulls, 0.0)[0], stacked(net)
    many.weigh(share, None if len(set(counts)) == 1 else number)
    stack = take(states)
    leaves = [stack[n].requires_grad_() for n in net.parameters]
    out = many(stack, x, train, **options)
    loss = ((out * pull).flatten(2).sum(2) * share).sum(0)
    grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    for k, n in enumerate(counts):
        expected, slopes, after = step(net, states[k], xs[k], pulls[k], train, **options)
        close = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(out[:n, k, 0].detach(), expected, **close)
        for name_, grad in zip(net.parameters, grads, strict=True):
            assert (grad is None) == (slopes[name_] is None)
            if grad is not None:
                torch.testing.assert_close(grad[k], slopes[name_], **close)
        for name_ in net.buffers:
            torch.testing.assert_close(stack[name_][k], after[name_], **close)


# --- every kind of layer, against the plain network client by client ------------------------------


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_every_client_gets_what_the_plain_network_gives_it_alone(name, train):
    assert obstacle(network(name)[0]) == ""
    check(name, (4, 4, 4), train)


@pytest.mark.parametrize("name", NETS)
def test_garbage_in_the_padding_does_not_matter(name):
    check(name, (4, 2, 3), True)
    check(name, (4, 2, 3), False)


@CASES
@given(st.lists(st.integers(2, 6), min_size=1, max_size=5), st.integers(0, 1000), st.sampled_from([0.0, -1e8, 7.0]))
def test_batchnorm_with_ragged_batches_of_any_sizes(counts, seed, fill):
    check("BatchNorm", counts, True, seed, fill)
    check("norms without weights", counts, True, seed, fill)


@pytest.mark.parametrize("name", ["MLP", "SmallCNN", "ResNet8, batch", "BatchNorm", "tied"])
@pytest.mark.parametrize("counts", [(3, 3), (3, 2)])
def test_features_are_stacked_too(name, counts):
    check(name, counts, True, features=True)


def test_the_comparison_can_fail(monkeypatch):
    monkeypatch.setattr(torch, "baddbmm", lambda b, x, w: b + torch.bmm(x, w.roll(1, 0)))  # another client's weights
    with pytest.raises(AssertionError):
        check("MLP", (3, 3), True)


# --- BatchNorm: numbers from the definition --------------------------------------------------------


def test_ragged_statistics_are_each_clients_own_by_definition():
    """Batch variance divides by n_k in the forward pass and by n_k - 1 in the running variance."""
    net = Net(nn.BatchNorm2d(2, eps=1e-5, momentum=0.25), dtype=FLOAT)
    counts, states = (2, 5, 3), models(net, 3)
    xs = batches(counts, (2, 3, 2))
    x, share, number = side_by_side(xs)
    many, stack = stacked(net), take(states)
    many.weigh(share, number)
    out = many(stack, x, train=True)
    for k, part in enumerate(xs):
        values = part.transpose(0, 1).flatten(1)  # [C, n_k places]
        n, mean = values.shape[1], values.mean(1)
        spread = (values - mean[:, None]).square().sum(1)
        normal = (part - mean[:, None, None]) / (spread / n + 1e-5).sqrt()[:, None, None]
        expected = normal * states[k]["weight"][:, None, None] + states[k]["bias"][:, None, None]
        torch.testing.assert_close(out[: len(part), k, 0], expected, rtol=1e-12, atol=1e-12)
        for name, new in (("running_mean", mean), ("running_var", spread / (n - 1))):
            torch.testing.assert_close(stack[name][k], 0.75 * states[k][name] + 0.25 * new, rtol=1e-12, atol=1e-12)
        assert stack["num_batches_tracked"][k] == 3


@pytest.mark.parametrize("counts", [(3, 1), (1, 1)])
def test_a_batch_of_one_value_has_no_variance_and_says_so(counts):
    net, shape = network("BatchNorm")
    x, share, number = side_by_side(batches(counts, shape))
    many = stacked(net)
    many.weigh(share, number)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        many(take(models(net, 2)), x, train=True)
    many(take(models(net, 2)), x)  # in evaluation mode there is no need of one


def test_evaluation_leaves_the_statistics_alone():
    net, shape = network("ResNet8, batch")
    stack = take(models(net, 2))
    before = {n: t.clone() for n, t in stack.items()}
    stacked(net)(stack, side_by_side(batches((2, 2), shape))[0])
    assert all(torch.equal(t, before[n]) for n, t in stack.items())


# --- a plain state is everybody's -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MLP", "SmallCNN", "ResNet8, batch", "ResNet8, group"])
def test_a_plain_state_is_a_teacher_for_all(name):
    net, shape = network(name)
    xs, (teacher,) = batches((3, 3), shape), models(net, 1)
    out = stacked(net)(teacher, side_by_side(xs)[0])
    for k, part in enumerate(xs):
        torch.testing.assert_close(out[:, k, 0], net(teacher, part), rtol=1e-12, atol=1e-12)


# --- stacks ------------------------------------------------------------------------------------------


def test_take_copies_and_first_shares_memory():
    net, _ = network("BatchNorm")
    states = models(net, 3)
    before = {n: t.clone() for n, t in states[0].items()}
    stack = take(states)
    two = first(stack, 2)
    assert isinstance(stack, Stack)
    assert isinstance(two, Stack)
    for n in stack:
        assert stack[n].shape == (3, *states[0][n].shape)
        assert two[n].shape == (2, *states[0][n].shape)
        two[n].zero_()
        assert not stack[n][:2].any()
        assert torch.equal(stack[n][2], states[2][n])
        assert torch.equal(states[0][n], before[n])


def test_weights_of_a_stack_are_a_stack_and_of_a_state_a_state():
    net, _ = network("BatchNorm")
    many, states = stacked(net), models(net, 2)
    kept, plain = many.weights(take(states)), many.weights(states[0])
    assert isinstance(kept, Stack)
    assert not isinstance(plain, Stack)
    assert tuple(kept) == tuple(plain) == net.parameters
    assert all(plain[n] is states[0][n] for n in plain)


def test_the_stacked_form_is_made_once_and_says_when_there_is_none():
    net, _ = network("MLP")
    assert stacked(net) is stacked(net)
    with pytest.raises(ValueError, match="Dropout"):
        StackedNet(Net(nn.Sequential(nn.Linear(2, 2), nn.Dropout())))


def test_the_networks_own_module_is_left_alone():
    net, shape = network("BatchNorm")
    state, (x,) = net.initial(), batches((4,), shape)
    before = net(state, x)
    many = stacked(net)
    many(take([state, state]), torch.stack([x, x], 1).unsqueeze(2), train=True)
    assert torch.equal(net(state, x), before)
    assert all("forward" not in vars(m) for m in net.module.modules())


# --- what has no stacked form -----------------------------------------------------------------------


class Scaled(nn.Module):
    """Parameters beside its layers."""

    def __init__(self, buffer=False):
        super().__init__()
        self.layer = nn.Linear(5, 3)
        if buffer:
            self.register_buffer("scale", torch.ones(3))
        else:
            self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.layer(x) * self.scale


class Own(nn.Linear):
    """A layer that looks like one with a stacked form, and computes something else."""

    def forward(self, x):
        return super().forward(x) ** 2


ODD = {
    "Dropout": (chain(nn.Linear(5, 3), nn.Dropout()), "layer 1 is a Dropout, which has no stacked form"),
    "Flatten from 0": (chain(nn.Flatten(0)), "flattening from another dimension than 1"),
    "Flatten from 2": (chain(nn.Conv2d(1, 1, 1), nn.Flatten(2)), "layer 1 is a Flatten"),
    "parameter beside layers": (Scaled, "layer itself is a Scaled, which has parameters of its own"),
    "buffer beside layers": (lambda: nn.Sequential(Scaled(True)), "layer 0 is a Scaled, which has parameters"),
    "momentum None": (chain(nn.Linear(5, 3), nn.BatchNorm1d(3, momentum=None)), "without the usual running statistics"),
    "no statistics": (chain(nn.BatchNorm1d(5, track_running_stats=False)), "without the usual running statistics"),
    "padding mode": (chain(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), "padding other than zeros"),
    "LayerNorm over two": (chain(nn.LayerNorm((3, 5))), "over more than one dimension"),
    "subclass": (chain(Own(5, 3)), "layer 0 is a Own, which has no stacked form"),
    "PReLU": (chain(nn.PReLU), "PReLU"),
    "Conv3d": (chain(nn.Conv3d(1, 1, 1)), "Conv3d"),
    "InstanceNorm": (chain(nn.InstanceNorm2d(2)), "InstanceNorm2d"),
    "Softmax": (chain(nn.Softmax(1)), "Softmax"),
    "Unflatten": (chain(nn.Unflatten(1, (1, 5))), "Unflatten"),
    "GRU": (lambda: nn.GRU(3, 3), "GRU"),
    "weight norm": (chain(nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))), "ParametrizedLinear"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_has_no_stacked_form_is_named(name):
    make, words = ODD[name]
    assert words in obstacle(Net(make()))


# --- answers of several states ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MLP", "SmallCNN", "ResNet8, batch", "MLP with LayerNorm"])
@pytest.mark.parametrize("lengths", [(5, 5, 5), (1, 7, 4), (4, 0, 2), (3,)])
@pytest.mark.parametrize("batch", [1, 4, 2048])
def test_several_states_answer_together_as_one_by_one(name, lengths, batch):
    net, shape = network(name)
    states, xs = models(net, len(lengths)), batches(lengths, shape)
    with torch.no_grad():
        found = predict_each(net, states, xs, batch)
    assert len(found) == len(xs)
    for out, state, x in zip(found, states, xs, strict=True):
        torch.testing.assert_close(out, net.predict(state, x), rtol=1e-12, atol=1e-12)


def test_several_states_answer_for_the_same_inputs():
    net, shape = network("BatchNorm")
    states, (x,) = models(net, 4), batches((9,), shape)
    expected = torch.stack([net.predict(s, x) for s in states])
    for batch in (2048, 3, 1):
        torch.testing.assert_close(net.predict_all(states, x, batch), expected, rtol=1e-12, atol=1e-12)
    assert not net.predict_all(states, x).requires_grad


@pytest.fixture
def joined(monkeypatch):
    """How often several states were asked together."""
    calls, real = [], stacking.predict_each
    monkeypatch.setattr(stacking, "predict_each", lambda *args: calls.append(1) or real(*args))
    return calls


def test_small_work_is_joined_and_large_work_is_not(joined):
    net, _ = network("MLP")
    cost, states = costs.work(net, torch.zeros(1, 5, dtype=FLOAT)).products, models(net, 2)
    assert cost == 5 * 6 + 6 * 3
    few, many = (torch.zeros(n, 5, dtype=FLOAT) for n in (10, -(-2_000_000 // cost)))
    net.predict_all(states, few)
    assert len(joined) == 1
    net.predict_all(states, many)
    net.predict_each(states, [few, many])
    net.predict_each(states[:1], [few])  # one state has nobody to be joined with
    net.predict_each(states, [few[:0], few[:0]])
    assert len(joined) == 1


def test_a_network_without_a_stacked_form_answers_one_by_one(joined):
    net = Net(nn.Sequential(nn.Linear(5, 3), nn.Dropout()), dtype=FLOAT)
    states, (x,) = models(net, 2), batches((4,), (5,))
    expected = torch.stack([net.predict(s, x) for s in states])
    assert torch.equal(net.predict_all(states, x), expected)
    assert not joined


class Branches(nn.Module):
    """Every layer has a stacked form, but what the forward pass does between them has not."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.b, self.head = kind, nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(8, 3)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        if self.kind == "cat":
            return self.head(torch.cat([a, b], 1))
        if self.kind == "softmax":
            return self.head(torch.cat([a, a], 1)).softmax(1) + b.sum()
        return self.head(torch.cat([a, b - x[:, :4]], 1))


@pytest.mark.parametrize("kind", ["cat", "softmax", "shapes"])
def test_a_forward_pass_that_mixes_clients_is_found_out_before_it_answers(kind):
    net = Net(rng.build(lambda: Branches(kind), 0), dtype=FLOAT)
    states, xs = models(net, 3), batches((4, 4, 4), (5,))
    found = net.predict_each(states, xs)
    for out, state, x in zip(found, states, xs, strict=True):
        torch.testing.assert_close(out, net.predict(state, x), rtol=1e-12, atol=1e-12)


class Channels(nn.Module):
    """A forward pass that joins maps of two convolutions: beside each other lie the clients."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 3, 3), nn.Linear(20, 3)

    def forward(self, x):
        return self.head(torch.cat([self.a(x), self.b(x)], 1).flatten(1))


def test_joined_maps_are_found_out_and_joined_features_need_not_be():
    """Where no layer needs the clients beside each other, samples are rows, and what is done to a row is right."""
    for make, shape, found in ((Channels, (1, 4, 4), False), (lambda: Branches("cat"), (5,), True)):
        net = Net(rng.build(make, 0), dtype=FLOAT)
        assert stacking.faithful(net, torch.zeros(1, *shape, dtype=FLOAT)) == found
        assert stacked(net).clients_first == found


def test_a_linear_layers_gradients_are_right_to_the_second_order_and_lie_as_its_weights():
    g = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=g, dtype=FLOAT, requires_grad=True) for s in ((3, 4, 2), (3, 5, 2), (3, 5)))
    assert torch.autograd.gradcheck(stacking._Affine.apply, (x, w, b))
    assert torch.autograd.gradgradcheck(stacking._Affine.apply, (x, w, b))
    assert torch.autograd.gradcheck(stacking._Affine.apply, (x, w, None))
    turned = x.detach().transpose(0, 1).contiguous().transpose(0, 1)
    grads = torch.autograd.grad(stacking._Affine.apply(turned, w, b).square().sum(), (w, b))
    assert [grad.stride() for grad in grads] == [w.stride(), b.stride()]


# --- losses keep leading dimensions -----------------------------------------------------------------

LOSSES = {
    "cross_entropy": lambda z, t, y: losses.cross_entropy(z, y),
    "kl": lambda z, t, y: losses.kl(t, z),
    "kd": lambda z, t, y: losses.kd(z, t, 2.5),
    "not_true_distillation": lambda z, t, y: losses.not_true_distillation(z, t, y, 1.5),
}


@CASES
@given(st.sampled_from(sorted(LOSSES)), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_losses_of_many_batches_are_those_of_each(name, batch, clients, inner, seed):
    g = torch.Generator().manual_seed(seed)
    z, teacher = torch.randn(2, batch, clients, inner, 5, generator=g, dtype=FLOAT).unbind()
    y = torch.randint(5, (batch, clients, inner), generator=g)
    found = LOSSES[name](z, teacher, y)
    assert found.shape == (batch, clients)
    for b in range(batch):
        for k in range(clients):
            expected = LOSSES[name](z[b, k], teacher[b, k], y[b, k])
            assert expected.shape == ()
            assert float(found[b, k]) == pytest.approx(float(expected), abs=1e-13)


@CASES
@given(st.integers(1, 9), st.integers(2, 6), st.integers(0, 10**6), st.sampled_from([torch.float32, FLOAT]))
def test_cross_entropy_of_one_batch_is_torchs_bit_for_bit(batch, classes, seed, dtype):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, classes, generator=g, dtype=dtype)
    y = torch.randint(classes, (batch,), generator=g)
    assert torch.equal(losses.cross_entropy(z, y), F.cross_entropy(z, y))


@CASES
@given(st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_proximal_of_a_stack_is_that_of_each(clients, seed, shared):
    g = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (3, 2), "vector": (4,), "number": ()}

    def draw():
        return {n: torch.randn(s, generator=g, dtype=FLOAT) for n, s in shapes.items()}

    states, anchors = [draw() for _ in range(clients)], [draw() for _ in range(clients)]
    found = losses.proximal(take(states), anchors[0] if shared else take(anchors), 0.7)
    assert found.shape == (clients,)
    for k, state in enumerate(states):
        anchor = anchors[0 if shared else k]
        by_hand = 0.35 * sum(float((state[n] - anchor[n]).square().sum()) for n in shapes)
        assert float(losses.proximal(state, anchor, 0.7)) == pytest.approx(by_hand, abs=1e-13)
        assert float(found[k]) == pytest.approx(by_hand, abs=1e-13)


@CASES
@given(st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_the_inner_product_of_a_stack_is_that_of_each(clients, seed, shared):
    g = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (3, 2), "vector": (4,), "number": ()}

    def draw():
        return {n: torch.randn(s, generator=g, dtype=FLOAT) for n, s in shapes.items()}

    states, directions = [draw() for _ in range(clients)], [draw() for _ in range(clients)]
    stack = Stack({n: t.requires_grad_() for n, t in take(states).items()})
    found = losses.inner(stack, directions[0] if shared else take(directions))
    assert found.shape == (clients,)
    grads = dict(zip(shapes, torch.autograd.grad(found.sum(), list(stack.values())), strict=True))
    for k, state in enumerate(states):
        direction = directions[0 if shared else k]
        by_hand = sum(float((state[n] * direction[n]).sum()) for n in shapes)
        assert float(losses.inner(state, direction)) == pytest.approx(by_hand, abs=1e-13)
        assert float(found[k].detach()) == pytest.approx(by_hand, abs=1e-13)
        for n in shapes:
            torch.testing.assert_close(grads[n][k], direction[n], rtol=0, atol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_alone_is_what_the_network_ends_with(bias):
    class Ending(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last = nn.Linear(5, 4), nn.Linear(4, 3, bias=bias)

        def forward(self, x, features=False):
            h = torch.tanh(self.body(x))
            return h if features else self.last(h)

    net = Net(rng.build(Ending, 0), dtype=FLOAT)
    states, xs = models(net, 3), batches((4, 4, 4), (5,))
    together, all_, x = stacked(net), take(states), torch.stack(xs, 1).unsqueeze(2)
    z = together(all_, x, features=True)
    torch.testing.assert_close(together.linear(all_, z, "last"), together(all_, x), rtol=0, atol=1e-13)
    for k, (state, own) in enumerate(zip(states, xs, strict=True)):
        alone = net.linear(state, net(state, own, features=True), "last")
        torch.testing.assert_close(alone, net(state, own), rtol=0, atol=1e-14)
        shared = together.linear(state, z, "last")  # a plain state is common to all
        torch.testing.assert_close(shared[:, k, 0], net.linear(state, z[:, k, 0], "last"), rtol=0, atol=1e-14)


class InTraining(nn.Module):
    """Does something of its own while it trains, and only then."""

    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Linear(5, 3), what

    def forward(self, x):
        z = self.layer(x)
        return self.what(z) if self.training else z


@pytest.mark.parametrize(
    "what",
    [
        lambda z: z - z.mean(0),
        lambda z: z / z.std(),
        lambda z: F.dropout(z, 0.5),
        lambda z: z if z.abs().max() < 1e3 else 0 * z,
    ],
    ids=["centred", "scaled", "dropout", "a branch"],
)
def test_what_a_network_does_only_in_training_is_found_out(what):
    """Students of several federations are trained together on the word of this trial."""
    net, x = Net(InTraining(what), dtype=FLOAT), torch.zeros(1, 5, dtype=FLOAT)
    assert not stacking.faithful(net, x)
    assert stacking.faithful(Net(InTraining(torch.tanh), dtype=FLOAT), x)


def test_a_branch_that_activations_decide_is_not_taken_for_faithful():
    """Whatever it decided for the inputs of the trial."""

    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.abs().max() < 1e3 else x[:, :3]

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return self.layer(x) if x.abs().max() < 1e3 else 0 * self.layer(x)

    assert "Branching" in obstacle(Net(Branching(5, 3)))
    net = Net(Whole(), dtype=FLOAT)
    assert obstacle(net) == ""
    assert not stacking.faithful(net, torch.zeros(1, 5, dtype=FLOAT))


@pytest.mark.parametrize("name", NETS)
def test_networks_are_faithful_in_both_modes(name):
    net, shape = network(name)
    assert stacking.faithful(net, torch.zeros(1, *shape, dtype=FLOAT))
