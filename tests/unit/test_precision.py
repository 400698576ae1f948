"""Precision: what products round to, where that is in force, that it ends there, and what a run says of it."""

import threading
import warnings
from contextlib import suppress

import pytest
import torch
from federations import ALGORITHMS, Normed, federation, samples, small
from torch import nn
from torch.nn import functional as F

from fedlib import checkpoint, evidence, precision, rng, stacking, swa
from fedlib.algorithms import FedAvg
from fedlib.executors import per_sample
from fedlib.federation import Local, together
from fedlib.models import MLP, ResNet8, SmallCNN
from fedlib.models.net import Net

FLOAT32, FLOAT64 = torch.float32, torch.float64
EPS = 2.0**-8  # the largest relative error of rounding to bfloat16, which has 8 bits
CUDA = torch.backends.cuda.matmul
CUDNN = torch.backends.cudnn
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def flags():
    """All that is process-wide, by the newer settings and by the older ones; "unreadable" where these disagree."""
    found = [place.fp32_precision for place in precision._PLACES]
    for read in (lambda: CUDA.allow_tf32, lambda: CUDNN.allow_tf32, torch.get_float32_matmul_precision):
        with suppress(RuntimeError):
            found.append(read())
            continue
        found.append("unreadable")
    return found


def in_force():
    """Whether TF32 is allowed in products and in convolutions: one answer for both settings and both kinds."""
    newer = {place.fp32_precision for place in (CUDA, CUDNN.conv, CUDNN.rnn)}
    assert len(newer) == 1
    assert [CUDA.allow_tf32, CUDNN.allow_tf32] == [newer == {"tf32"}] * 2
    return newer.pop()


@pytest.fixture(autouse=True)
def as_it_was():
    before = flags()
    yield
    assert flags() == before
    precision.used.clear()


# --- settings of the process


def start(older, cudnn):
    torch.set_float32_matmul_precision(older)
    CUDNN.allow_tf32 = cudnn


@pytest.mark.parametrize("older", ["highest", "high", "medium"])
@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("allowed", [True, False])
def test_within_tf32_is_as_asked_for_and_afterwards_all_is_as_before(older, cudnn, allowed):
    try:
        start(older, cudnn)
        before = flags()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with precision.tf32(allowed):
                within = flags()
                assert [p == "tf32" for p in within[:6]] == [allowed] * 3 + [False] * 3
                assert within[6:] == [allowed, allowed, "high" if allowed else "highest"]
                with precision.tf32(not allowed):
                    assert flags()[6:8] == [not allowed] * 2
                with precision.tf32(allowed):
                    assert flags() == within
                assert flags() == within
        assert flags() == before
    finally:
        _default()


def _default():
    """What a fresh process has."""
    torch.backends.fp32_precision = "none"
    start("highest", True)
    for place in (CUDA, *precision._PLACES[3:]):
        place.fp32_precision = "none"


def test_settings_by_the_newer_names_come_back_too():
    try:
        torch.backends.fp32_precision = "tf32"
        before = flags()[:6]
        assert before == ["tf32"] * 6
        with precision.tf32(False):
            assert flags() == ["ieee"] * 6 + [False, False, "highest"]
        assert flags()[:6] == before
    finally:
        _default()


@pytest.mark.parametrize("allowed", [True, False])
def test_an_error_ends_it_as_well(allowed):
    before = flags()
    with pytest.raises(KeyError), precision.tf32(allowed):
        raise KeyError
    assert flags() == before


# --- names


@pytest.mark.parametrize(
    ("given", "dtype", "name"),
    [
        (None, FLOAT32, "float32"),
        (None, FLOAT64, "float64"),
        ("float32", FLOAT32, "float32"),
        ("float64", FLOAT64, "float64"),
        ("tf32", FLOAT32, "tf32"),
        ("bf16", FLOAT32, "bf16"),
    ],
)
def test_the_type_names_its_own_precision_and_float32_has_two_narrower_ones(given, dtype, name):
    assert precision.pick(given, dtype) == name
    assert Net(small(), "cpu", dtype, given).precision == name
    assert federation(dtype=dtype, precision=given).net.precision == name


@pytest.mark.parametrize(
    ("given", "dtype", "message"),
    [
        ("fp16", FLOAT32, "precision of float32 networks must be 'float32' or 'tf32' or 'bf16', got 'fp16'"),
        ("float64", FLOAT32, "'float32' or 'tf32' or 'bf16', got 'float64'"),
        ("tf32", FLOAT64, "precision 'tf32' is for networks with dtype=torch.float32, and this one's is float64"),
        ("bf16", FLOAT64, "precision 'bf16' is for networks with dtype=torch.float32, and this one's is float64"),
        ("float32", FLOAT64, "must be 'float64', got 'float32'"),
        ("tf32", torch.bfloat16, "dtype=torch.float32, and this one's is bfloat16"),
    ],
)
def test_a_precision_that_cannot_be_is_named(given, dtype, message):
    with pytest.raises(ValueError, match=message):
        Net(small(), "cpu", dtype, given)
    with pytest.raises(ValueError, match=message):
        federation(dtype=dtype, precision=given)


@pytest.mark.parametrize(
    ("name", "device", "capability", "found"),
    [
        ("float32", "cpu", None, "float32"),
        ("float64", "cpu", None, "float64"),
        ("tf32", "cpu", None, "tf32 (here: float32)"),
        ("tf32", "mps", None, "tf32 (here: float32)"),
        ("tf32", "cuda", (7, 5), "tf32 (here: float32)"),
        ("tf32", "cuda", (8, 0), "tf32"),
        ("tf32", "cuda", (9, 0), "tf32"),
        ("bf16", "cpu", None, "bf16"),
        ("bf16", "cuda", (9, 0), "bf16"),
        ("bf16", "mps", None, "bf16 (here: float32)"),
    ],
)
def test_what_is_in_effect_depends_on_the_device(monkeypatch, name, device, capability, found):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision.in_effect(name, torch.device(device)) == found


# --- TF32: flags around everything


class Watched(FedAvg):
    """Notes what is in force wherever a round computes something."""

    def __init__(self):
        self.seen = {}

    def note(self, where):
        self.seen.setdefault(where, set()).add(in_force())

    @per_sample
    def objective(self, net, state, x, y, context):
        self.note("forward")
        loss = super().objective(net, state, x, y, context)
        loss.register_hook(lambda _: self.note("backward"))
        return loss

    def upload(self, fed, client, state):
        self.note("upload")
        return super().upload(fed, client, state)

    def aggregate(self, fed, uploads, weights):
        self.note("aggregate")
        yield Noted(self)
        self.note("after the job")
        fed.state = {**fed.state, **uploads[0]}

    def observe(self, fed, seen):
        self.note("observer")


class Noted:
    """A job of the server that nobody shares."""

    def __init__(self, algorithm):
        self.algorithm = algorithm

    def fits(self, other):
        return False

    def do(self, others):
        self.algorithm.note("job")


PLACES = ("forward", "backward", "upload", "aggregate", "job", "after the job", "observer")


@pytest.mark.parametrize("executor", ["sequential", "batched", "threads"])
def test_a_whole_round_is_in_its_own_precision_beside_others(executor):
    names, watched = ("tf32", "float32", "bf16", None), [Watched() for _ in range(4)]
    feds = [
        federation(a, precision=p, dtype=FLOAT32, observers=[a.observe], executor=executor, participation=1.0)
        for a, p in zip(watched, names, strict=True)
    ]
    before = flags()
    together(feds, 2)
    assert flags() == before
    for algorithm, name in zip(watched, names, strict=True):
        assert algorithm.seen == {place: {"tf32" if name == "tf32" else "ieee"} for place in PLACES}


def test_the_server_step_alone_and_what_explains_a_choice_are_in_it_too():
    algorithm = Watched()
    fed = federation(algorithm, precision="tf32", dtype=FLOAT32, executor="auto")
    fed.aggregate([fed.state], torch.ones(1))
    assert algorithm.seen == {place: {"tf32"} for place in ("aggregate", "job", "after the job")}
    algorithm.seen.clear()
    fed.explain()
    assert set().union(*algorithm.seen.values()) <= {"tf32"}


class Sensor(nn.Linear):
    """A layer that notes what is in force when it computes."""

    seen: list

    def forward(self, x):
        self.seen.append(in_force())
        return super().forward(x)


@pytest.mark.parametrize(("name", "wanted"), [("tf32", "tf32"), ("float32", "ieee")])
def test_on_a_cuda_device_predictions_outside_of_rounds_are_in_it(name, wanted):
    net = Net(nn.Sequential(Sensor(5, 3)), precision=name)
    Sensor.seen, state = [], net.initial()
    net.device = torch.device("cuda")  # the flags are the same without the device
    x = torch.ones(4, 5)
    net(state, x)
    net.predict(state, x)
    net.answer(Sensor(5, 3), x)
    assert Sensor.seen == [wanted] * 3


def test_networks_of_another_precision_never_share_a_computation():
    forms = {Net(small(), precision=p).form for p in ("float32", "tf32", "bf16")}
    assert len(forms) == 3
    assert Net(small(), precision="float32").form.split()[-1] == Net(small()).form.split()[-1] == "float32"


@pytest.mark.parametrize("name", ["FedAvg", "FedDF", "FedGen"])
def test_as_the_type_says_is_the_default_and_changes_no_bit(name):
    """Also of TF32 where a device has none."""

    def end(**options):
        fed = federation(ALGORITHMS[name](), **options)
        fed.run(2)
        return fed.state

    base = end()
    for n, t in end(precision="float64").items():
        assert torch.equal(t, base[n])
    if name == "FedAvg":
        base = end(dtype=FLOAT32)
        for other in ("float32", "tf32"):
            for n, t in end(dtype=FLOAT32, precision=other).items():
                assert torch.equal(t, base[n])


# --- bf16: a narrower forward pass


def rounded(t):
    """In double, with the gradient of what has not been rounded."""
    return t.double() + (t.to(torch.bfloat16).double() - t.double()).detach()


def by_hand(state, x):
    """An MLP of two layers in which each product takes rounded factors and leaves a rounded result."""
    h = rounded(rounded(x) @ rounded(state["body.1.weight"]).T + rounded(state["body.1.bias"])).relu()
    return rounded(h @ rounded(state["head.weight"]).T + rounded(state["head.bias"]))


@pytest.fixture
def mlp():
    module = rng.build(lambda: MLP(64, (48,), 10), 0)
    net, exact = Net(module, precision="bf16"), Net(module, dtype=FLOAT64)
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    return net, exact, net.initial(), x


def test_the_forward_pass_is_that_of_bfloat16_to_its_rounding(mlp):
    net, _, state, x = mlp
    out, wanted = net(state, x), by_hand(state, x)
    assert out.dtype == FLOAT32
    assert torch.equal(out, out.bfloat16().float())  # what came out had 8 bits
    size = wanted.abs().max()
    assert float((out - wanted).abs().max() / size) < 2 * EPS  # sums in another order may round the other way
    exact = Net(net.module)(state, x)
    assert float((out - exact).abs().max() / size) > EPS / 8
    assert torch.equal(net.predict(state, x), out)


def test_weights_and_gradients_stay_float32_and_are_those_of_the_rounded_pass(mlp):
    net, exact, state, x = mlp
    y = torch.arange(32) % 10
    leaves = [state[n].requires_grad_() for n in net.parameters]
    loss = F.cross_entropy(net(state, x, train=True), y)
    grads = torch.autograd.grad(loss, leaves)
    wide = {n: t.detach().double().requires_grad_() for n, t in state.items()}
    true = F.cross_entropy(by_hand(wide, x), y)
    wanted = torch.autograd.grad(true, [wide[n] for n in net.parameters])
    plain = torch.autograd.grad(F.cross_entropy(exact(wide, x.double()), y), [wide[n] for n in net.parameters])
    assert loss.dtype == FLOAT32
    assert abs(loss.item() - true.item()) < EPS
    for leaf, grad, other, unrounded in zip(leaves, grads, wanted, plain, strict=True):
        assert (leaf.dtype, grad.dtype) == (FLOAT32, FLOAT32)
        assert float((grad - other).norm() / other.norm()) < 4 * EPS
        assert float((grad - unrounded).norm() / unrounded.norm()) > EPS / 4


def test_the_head_alone_is_computed_in_it_too(mlp):
    net, _, state, x = mlp
    z = net(state, x, features=True)
    assert torch.equal(net.linear(state, z), net(state, x))
    states = [state, {n: 2 * t for n, t in state.items()}]
    zs = torch.stack([z, z], 1).unsqueeze(2)
    found = stacking.stacked(net).linear(stacking.take(states), zs).squeeze(2)
    assert found.dtype == FLOAT32
    for k, s in enumerate(states):
        wanted = net.linear(s, z)
        assert float((found[:, k] - wanted).abs().max() / wanted.abs().max()) < 2 * EPS
        plain = F.linear(z, s["head.weight"], s["head.bias"])
        assert not torch.equal(found[:, k], plain)


class LayerNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


MODELS = {
    "MLP": (small, (5,)),
    "LayerNorm": (LayerNormed, (5,)),
    "BatchNorm": (Normed, (5,)),
    "convolutions": (SmallCNN, (1, 8, 8)),
    "GroupNorm": (lambda: ResNet8(norm="group"), (3, 8, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_stack_of_clients_answers_as_each_alone_with_the_same_gradients(name):
    make, shape = MODELS[name]
    net = Net(rng.build(make, 0), precision="bf16")
    draw = torch.Generator().manual_seed(2)
    states = [{n: t * (1 + 0.1 * k) for n, t in net.initial().items()} for k in range(2)]
    x = torch.randn(6, 2, *shape, generator=draw)
    form, stack = stacking.stacked(net), stacking.take(states)
    form.weigh(torch.full((6, 2), 1 / 6), None)
    for n in net.parameters:
        stack[n].requires_grad_()
    out = form(stack, x.unsqueeze(2), train=True).squeeze(2)
    direction = torch.randn(out.shape, generator=draw)
    grads = dict(
        zip(
            net.parameters,
            torch.autograd.grad((out * direction).sum(), [stack[n] for n in net.parameters]),
            strict=True,
        )
    )
    assert {t.dtype for t in (out, *grads.values())} == {FLOAT32}
    for k, state in enumerate(states):
        leaves = [state[n].requires_grad_() for n in net.parameters]
        alone = net(state, x[:, k], train=True)
        wanted = torch.autograd.grad((alone * direction[:, k]).sum(), leaves)
        assert ((out[:, k] - alone).norm() / alone.norm()).item() < 4 * EPS
        total = torch.cat([g.flatten() for g in wanted]).norm()
        gaps = torch.cat([(grads[n][k] - g).flatten() for n, g in zip(net.parameters, wanted, strict=True)])
        assert float(gaps.norm() / total) < 16 * EPS


@pytest.mark.parametrize("executor", ["sequential", "batched", "threads"])
@pytest.mark.parametrize("model", [small, Normed])
def test_a_round_differs_from_float32_by_bfloat16s_rounding_and_no_more(executor, model):
    sizes = (4, 7, 8, 13, 20, 6)

    def end(name, how):
        fed = federation(
            dtype=FLOAT32, precision=name, executor=how, participation=1.0, sizes=sizes, model=model,
            local=Local(1, 8, 0.1, 0.9),
        )  # fmt: skip
        begin = torch.cat([fed.state[n].flatten() for n in fed.net.parameters])
        fed.run(1)
        assert {t.dtype for t in fed.state.values() if t.is_floating_point()} == {FLOAT32}
        return torch.cat([fed.state[n].flatten() for n in fed.net.parameters]) - begin, fed.history[0]["loss"]

    moved, loss = end("bf16", executor)
    wanted, other = end("float32", "sequential")
    gap = float((moved - wanted).norm() / wanted.norm())
    assert EPS / 100 < gap < 8 * EPS
    assert 0 < abs(loss - other) < 4 * EPS * other


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_plays_in_bf16(name):
    x, y, split = samples()
    algorithm = ALGORITHMS[name]()
    if hasattr(algorithm, "x"):
        algorithm.x = algorithm.x.float()
    fed = federation(algorithm, data=(x.float(), y, split), dtype=FLOAT32, precision="bf16", executor="auto")
    fed.run(2)
    assert all(t.dtype == FLOAT32 for t in fed.state.values() if t.is_floating_point())


def test_a_student_of_averaged_weights_learns_in_it():
    net, other = (Net(rng.build(small, 0), precision=p) for p in ("bf16", None))
    draw = torch.Generator().manual_seed(0)
    x, logits, start = torch.randn(12, 5, generator=draw), torch.randn(12, 3, generator=draw), net.initial()
    how = swa.SWA(steps=4, every=2, batch_size=6)
    found, exact = (how(n, start, x, logits, torch.Generator().manual_seed(0)) for n in (net, other))
    assert all(t.dtype == FLOAT32 for t in found.values())
    assert any(not torch.equal(found[n], exact[n]) for n in found)


# --- what a run says of it


def test_a_checkpoint_of_another_precision_is_another_federation(tmp_path):
    path = tmp_path / "checkpoint"
    checkpoint.save(federation(dtype=FLOAT32), path)
    checkpoint.restore(federation(dtype=FLOAT32, precision="float32"), path)
    with pytest.raises(ValueError, match=r"another federation \(precision: 'float32' there, 'bf16' here\)"):
        checkpoint.restore(federation(dtype=FLOAT32, precision="bf16"), path)


def test_evidence_says_which_precisions_were_in_effect():
    run = evidence.Run("smoke", [0])
    assert run.evidence()["precision"] is None
    federation()
    assert run.evidence()["precision"] == "float64"
    federation(dtype=FLOAT32, precision="bf16")
    federation(dtype=FLOAT32, precision="tf32")
    assert run.evidence()["precision"] == "bf16, float64, tf32 (here: float32)"


def test_results_that_are_kept_keep_their_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLIB_RESUME", str(tmp_path))

    def compute():
        return federation(dtype=FLOAT32, precision="bf16").run(0)

    evidence.Run("smoke", [0]).once("a", compute)
    precision.used.clear()  # another process
    run = evidence.Run("smoke", [0])
    assert run.once("a", lambda: pytest.fail("it is kept")) == []
    assert run.evidence()["precision"] == "bf16"


# --- on a GPU


def products(net, state, x):
    leaves = [state[n].detach().requires_grad_() for n in net.parameters]
    with net.arithmetic():
        out = net(dict(zip(net.parameters, leaves, strict=True)), x)
        return [out, *torch.autograd.grad(out.square().sum(), leaves)]


@cuda
def test_a_gpu_is_exact_in_float32_and_narrower_where_asked():
    module = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.Flatten(), nn.Linear(64 * 64, 32))
    x = torch.randn(16, 32, 8, 8).cuda()
    true = Net(module, "cuda", FLOAT64)
    wanted = products(true, true.initial(), x.double())
    gaps = {}
    for name in ("float32", "tf32", "bf16"):
        net = Net(module, "cuda", precision=name)
        found = products(net, net.initial(), x)
        gaps[name] = [float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
    assert max(gaps["float32"]) < 1e-5
    assert max(gaps["bf16"]) < 8 * EPS
    if precision.in_effect("tf32", torch.device("cuda")) == "tf32":
        assert 1e-5 < max(gaps["tf32"]) < EPS


# --- threads, and autocast from outside


def test_two_threads_of_one_precision_do_not_switch_it_off_for_each_other():
    before = flags()
    entered, leave = threading.Event(), threading.Event()

    def other():
        with precision.tf32(False):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with precision.tf32(False):
        thread.start()
        entered.wait(10)
    try:
        assert [p == "tf32" for p in flags()[:6]] == [False] * 6, "the other is still at work"
    finally:
        leave.set()
        thread.join()
    assert flags() == before


def test_two_threads_of_two_precisions_are_an_error():
    found = []

    def other():
        try:
            with precision.tf32(False):
                pass
        except RuntimeError as error:
            found.append(str(error))

    with precision.tf32(True):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "two threads compute in different precisions" in found[0]


def test_a_network_on_a_gpu_makes_the_process_exact(monkeypatch):
    before = flags()
    try:
        start("high", True)
        precision.exactly()
        assert [p == "tf32" for p in flags()[:6]] == [False] * 6
        with precision.tf32(True):
            precision.exactly()  # somebody is at work who wants another
            assert flags()[0] == "tf32"
        assert [p == "tf32" for p in flags()[:6]] == [False] * 6
    finally:
        precision._tell(list(before[:6]), before[8])


def test_autocast_from_outside_is_refused():
    fed = federation(dtype=torch.float32)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(RuntimeError, match=r"give the federation .*precision='bf16'"),
    ):
        fed.run(1)
    assert fed.round == 0
    narrow = federation(dtype=torch.float32, precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):
        narrow.run(1)


def test_provenance_names_what_was_computed_in():
    net = Net(nn.Linear(5, 3), precision="bf16")
    precision.used.clear()
    Net(nn.Linear(5, 3))
    assert precision.used == set()
    net(net.initial(), torch.zeros(1, 5))
    assert precision.used == {"bf16"}
