"""pFedHN: the sign of its step, what rests and what moves, what travels, and the linear case against PCA."""

import math

import pytest
import torch
from federations import FLOAT, Normed, everything, federation, same, samples
from torch.nn.functional import cross_entropy

from fedlib import checkpoint
from fedlib.algorithms import FedAvg, FedHN, LocalOnly
from fedlib.algorithms.fedhn import new_client, pulled_back, stepped
from fedlib.federation import Local
from fedlib.ledger import payload_bytes
from fedlib.models import MLP, Hypernetwork
from fedlib.optim import SGD

HEAD = ("head.*",)
ONE_STEP = {"local": Local(1, 100, 0.05), "participation": 1.0}  # full batch, plain SGD
PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "clip": 1e9, "width": 7, "depth": 2}


def played(algorithm, rounds=3, **options):
    fed = federation(algorithm, **options)
    fed.run(rounds)
    return fed


def hyper(**changes):
    return Hypernetwork(**{"shapes": {"a": (2, 3), "b": (4,)}, "size": 3, "width": 5, "depth": 2} | changes)


def phi_of(h, seed=0):
    return h.initial(torch.Generator().manual_seed(seed), torch.zeros((), dtype=FLOAT))


def mean_loss(fed, phi, embeddings):
    """(1/K) sum_k L_k(h(v_k; phi)), by autograd through everything."""
    theta = fed.algorithm.hypernetwork(fed)(phi, embeddings)
    each = [
        cross_entropy(fed.net({n: t[k] for n, t in theta.items()}, fed.x[rows]), fed.y[rows])
        for k, rows in enumerate(fed.split)
    ]
    return torch.stack(each)


# The hypernetwork


def test_it_emits_what_its_layers_say():
    """Written out with torch's own layers: a trunk with a ReLU between its layers, and a head for each tensor."""
    h = hyper()
    phi, v = phi_of(h), torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    inner = (v @ phi["trunk.0.weight"].T + phi["trunk.0.bias"]).clamp(min=0)
    inner = inner @ phi["trunk.1.weight"].T + phi["trunk.1.bias"]
    out = h(phi, v)
    assert {n: tuple(t.shape) for n, t in out.items()} == {"a": (4, 2, 3), "b": (4, 4)}
    torch.testing.assert_close(out["b"], inner @ phi["head.b.weight"].T + phi["head.b.bias"])
    torch.testing.assert_close(out["a"].flatten(1), inner @ phi["head.a.weight"].T + phi["head.a.bias"])
    assert h.emitted == 10


def test_without_a_trunk_it_is_affine():
    h = hyper(depth=0)
    phi = phi_of(h)
    v = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    middle = h(phi, v.mean(0, keepdim=True))["a"][0]
    torch.testing.assert_close(middle, h(phi, v)["a"].mean(0))
    assert set(phi) == {"head.a.weight", "head.a.bias", "head.b.weight", "head.b.bias"}


def test_first_weights_have_one_scale_whatever_the_target():
    """The pitfall of the paper's heads: a target layer of 400 inputs gets weights as large as one of 4."""
    h = Hypernetwork({"wide": (10, 400), "narrow": (10, 4)}, 5)
    out = h(phi_of(h), torch.randn(200, 5, generator=torch.Generator().manual_seed(1), dtype=FLOAT))
    assert 0.8 < float(out["wide"].std() / out["narrow"].std()) < 1.25


@pytest.mark.parametrize(
    "change", [{"size": 0}, {"width": 0}, {"depth": -1}, {"shapes": {}}, {"shapes": {"a": (0, 2)}}]
)
def test_a_hypernetwork_of_nonsense_is_refused_by_name(change):
    with pytest.raises(ValueError, match="shapes" if "shapes" in change else next(iter(change))):
        hyper(**change)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3)])
def test_embeddings_of_another_shape_are_refused(shape):
    h = hyper()
    with pytest.raises(ValueError, match=r"embeddings must be \[B, 3\], got"):
        h(phi_of(h), torch.zeros(shape, dtype=FLOAT))


# The server's step


def test_one_local_step_gives_the_gradient_of_the_whole():
    """One step of plain SGD at rate eta: the server descends eta times autograd's gradient."""
    fed = federation(FedHN(**PLAIN), **ONE_STEP)
    phi = {n: t.clone().requires_grad_() for n, t in fed.memory["hyper"].items()}
    v = torch.stack(list(fed.memory["embeddings"].values())).requires_grad_()
    losses = mean_loss(fed, phi, v)
    slopes = torch.autograd.grad(losses.mean(), list(phi.values()), retain_graph=True)
    (rows,) = torch.autograd.grad(losses.sum(), v)
    fed.run(1)
    for (n, before), slope in zip(phi.items(), slopes, strict=True):
        expected = before.detach() - 0.01 * 0.05 * slope
        torch.testing.assert_close(fed.memory["hyper"][n], expected, rtol=0, atol=1e-13)
    after = torch.stack(list(fed.memory["embeddings"].values()))
    torch.testing.assert_close(after, v.detach() - 0.01 * 0.05 * rows, rtol=0, atol=1e-13)


def test_a_round_lowers_the_loss_and_the_printed_sign_raises_it():
    """The paper's Algorithm 1 has a minus before the product with theta~ - theta; that is ascent."""

    class Printed(FedHN):
        def upload(self, fed, client, state):
            return {n: -t for n, t in super().upload(fed, client, state).items()}

    for kind, sign in ((FedHN, -1), (Printed, 1)):
        fed = federation(kind(lr=0.05, **PLAIN), **ONE_STEP)
        before = mean_loss(fed, fed.memory["hyper"], torch.stack(list(fed.memory["embeddings"].values()))).mean()
        fed.run(1)
        after = mean_loss(fed, fed.memory["hyper"], torch.stack(list(fed.memory["embeddings"].values()))).mean()
        assert sign * float(after - before) > 0


def test_the_product_is_the_transposed_jacobian_with_the_displacement():
    """Against the Jacobian itself, written out; other clients' displacements never reach a row."""
    h = hyper()
    phi, g = phi_of(h), torch.Generator().manual_seed(2)
    v = torch.randn(2, 3, generator=g, dtype=FLOAT)
    moved = [{n: torch.randn(s, generator=g, dtype=FLOAT) for n, s in h.shapes.items()} for _ in range(2)]
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    down, rows = pulled_back(h, phi, v, moved, weights)
    for i in range(2):
        flat = torch.cat([moved[i][n].flatten() for n in h.shapes])
        jacobian = torch.autograd.functional.jacobian(
            lambda row: torch.cat([t.flatten() for t in h(phi, row[None]).values()]), v[i]
        )
        torch.testing.assert_close(rows[i], -jacobian.T @ flat)
    expected = -(0.25 * moved[0]["b"] + 0.75 * moved[1]["b"])
    torch.testing.assert_close(down["head.b.bias"], expected)


def test_nobody_moves_where_no_client_moved():
    fed = federation(FedHN(**PLAIN), participation=1.0)
    before = everything(fed)
    idle = [{n: torch.zeros_like(fed.state[n]) for n in fed.algorithm.emitted(fed)} for _ in fed.split]
    fed.aggregate(idle, torch.full((6,), 1 / 6, dtype=torch.float64))
    after = everything(fed)
    same({n: after[n] for n in before}, before)


def test_only_embeddings_of_the_rounds_clients_move():
    """One optimiser for all rows would decay the others, and push them on by old momentum."""
    fed = federation(FedHN(lr=0.05, momentum=0.9, weight_decay=0.1, width=7), participation=0.5)
    for number in range(4):
        before = dict(fed.memory["embeddings"])
        fed.run(1)
        moved = [k for k in range(6) if not torch.equal(before[k], fed.memory["embeddings"][k])]
        assert moved == fed.sample(number)


def test_both_rates_are_used_and_both_gradients_are_clipped_together():
    start = federation(FedHN(**PLAIN)).memory
    steps = {}
    for name, changes in {"one": {}, "faster": {"embedding_lr": 0.03}, "clipped": {"clip": 1e-3}}.items():
        fed = played(FedHN(**PLAIN | changes), 1, **ONE_STEP)
        shift = [fed.memory["hyper"][n] - start["hyper"][n] for n in start["hyper"]]
        rows = [fed.memory["embeddings"][k] - start["embeddings"][k] for k in range(6)]
        steps[name] = torch.cat([t.flatten() for t in shift]), torch.cat(rows)
    torch.testing.assert_close(steps["faster"][0], steps["one"][0])
    torch.testing.assert_close(steps["faster"][1], 3 * steps["one"][1])
    assert float(torch.cat(steps["clipped"]).norm()) == pytest.approx(0.01 * 1e-3, rel=1e-3)


def test_a_step_is_that_of_torch_and_leaves_the_old_tensors_alone():
    weights, grads = {"a": torch.ones(3, dtype=FLOAT)}, {"a": torch.arange(3, dtype=FLOAT)}
    theirs = torch.nn.Parameter(weights["a"].clone())
    optimiser = torch.optim.SGD([theirs], 0.1, 0.9, weight_decay=0.01)
    ours, memory = weights, {}
    for _ in range(3):
        old = {n: t.clone() for n, t in ours.items()}
        new, memory = stepped(SGD(0.1, 0.9, 0.01), ours, grads, memory)
        same(ours, old)
        ours = new
        theirs.grad = grads["a"].clone()
        optimiser.step()
    torch.testing.assert_close(ours["a"], theirs.detach())


@pytest.mark.parametrize("moved", [[], [{"a": torch.zeros(2, 3)}], [{"a": torch.zeros(3, 2), "b": torch.zeros(4)}]])
def test_displacements_that_do_not_fit_are_refused(moved):
    h = hyper()
    with pytest.raises(ValueError, match=r"one displacement and weight for each of 1|the hypernetwork emits"):
        pulled_back(h, phi_of(h), torch.zeros(1, 3, dtype=FLOAT), moved, torch.ones(1))


# Who has what


def test_every_client_starts_from_the_model_that_its_embedding_makes():
    seen = []
    fed = federation(FedHN(width=7), observers=[lambda fed, r: seen.append(r) or {}], participation=1.0)
    h = fed.algorithm.hypernetwork(fed)
    for _ in range(2):
        theta = h(fed.memory["hyper"], torch.stack(list(fed.memory["embeddings"].values())))
        fed.run(1)
        for k, received in enumerate(seen[-1].received):
            same({n: received[n] for n in theta}, {n: t[k] for n, t in theta.items()}, 1e-15)
    assert not torch.equal(seen[-1].received[0]["head.bias"], seen[-1].received[1]["head.bias"])


def test_between_rounds_clients_hold_what_the_server_would_send():
    fed = played(FedHN(HEAD, width=7), 3, participation=0.5)
    embeddings = torch.stack(list(fed.memory["embeddings"].values()))
    theta = fed.algorithm.hypernetwork(fed)(fed.memory["hyper"], embeddings)
    for k in range(6):
        for n, t in theta.items():
            torch.testing.assert_close(fed.own[k][n], t[k], rtol=0, atol=1e-14)


def test_private_classifiers_stay_and_are_kept():
    """Nobody but the client moves its head, and the head is in no message."""
    seen = []
    fed = federation(FedHN(HEAD, width=7), observers=[lambda fed, r: seen.append(r) or {}], participation=0.5)
    heads = {k: fed.own[k]["head.weight"] for k in range(6)}
    assert not any(n.startswith("head.head.") for n in fed.memory["hyper"])
    for number in range(3):
        fed.run(1)
        assert not any("head" in n for sent in seen[-1].uploads for n in sent)
        for k in range(6):
            trained = dict(zip(seen[-1].clients, seen[-1].states, strict=True))
            expected = trained[k]["head.weight"] if k in trained else heads[k]
            assert torch.equal(fed.own[k]["head.weight"], expected)
        heads = {k: fed.own[k]["head.weight"] for k in range(6)}
        assert set(trained) == set(fed.sample(number))


@pytest.mark.parametrize("private", [(), HEAD])
def test_bytes_are_twice_the_emitted_model_whatever_the_hypernetwork(private):
    found = []
    for width in (7, 300):
        fed = played(FedHN(private, width=width), 2, participation=0.5)
        emitted = sum(fed.state[n].numel() for n in fed.net.parameters if not (private and n.startswith("head")))
        assert emitted == fed.algorithm.hypernetwork(fed).emitted
        assert fed.ledger.down == fed.ledger.up == [3 * 8 * emitted] * 2
        found.append((fed.ledger.total, payload_bytes(fed.memory["hyper"])))
    assert found[0][0] == found[1][0]
    assert found[1][1] > 30 * found[0][1]
    plain = played(FedAvg(), 2, participation=0.5)
    assert (fed.ledger.total == plain.ledger.total) == (private == ())


def test_buffers_stay_with_their_clients():
    fed = played(FedHN(width=7), 2, model=Normed, sizes=(4, 7, 8, 13, 20, 6), participation=1.0)
    means = [fed.own[k]["body.1.running_mean"] for k in range(6)]
    assert not torch.equal(means[0], means[1])
    assert not any("running" in n for n in fed.memory["hyper"])


def test_everything_private_is_refused():
    with pytest.raises(ValueError, match="nothing is left to emit; use LocalOnly"):
        federation(FedHN(("*",)))


def test_private_heads_alone_with_a_hypernetwork_at_rest_is_training_on_what_it_emits():
    """With a rate too small to count, every client's emitted part stays, and only its head learns."""
    fed = federation(FedHN(HEAD, lr=1e-300, weight_decay=0.0, width=7), participation=1.0)
    before = {k: fed.own[k]["body.1.weight"] for k in range(6)}
    fed.run(2)
    for k in range(6):
        torch.testing.assert_close(fed.own[k]["body.1.weight"], before[k], rtol=0, atol=1e-15)
    assert float((fed.own[0]["head.weight"] - fed.own[1]["head.weight"]).abs().max()) > 1e-3


def test_it_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path):
    whole, parts = (federation(FedHN(HEAD, 0.05, width=7)) for _ in range(2))
    whole.run(4)
    checkpoint.play(parts, 2, tmp_path / "fed")
    again = federation(FedHN(HEAD, 0.05, width=7))
    checkpoint.play(again, 4, tmp_path / "fed")
    same(everything(again), everything(whole))


def test_embeddings_differ_from_the_start_and_by_seed():
    a, b = federation(FedHN(width=7)).memory, federation(FedHN(width=7), seed=4).memory
    assert not torch.equal(a["embeddings"][0], a["embeddings"][1])
    assert not torch.equal(a["embeddings"][0], b["embeddings"][0])
    assert a["embeddings"][0].shape == (1 + 6 // 4,)


# The linear case


def test_the_linear_case_is_principal_components_of_the_local_optima():
    """Losses 1/2 ||theta - theta*_i||^2, h affine in v: what is learned are the centred rank-k projections."""
    g = torch.Generator().manual_seed(3)
    optima = torch.randn(12, 6, generator=g, dtype=FLOAT) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.3, 0.2], dtype=FLOAT)
    h = Hypernetwork({"w": (6,)}, 2, depth=0)
    phi, v = phi_of(h), torch.randn(12, 2, generator=g, dtype=FLOAT)
    rule, kept, rows = SGD(0.05, 0.9), {}, {}
    for _ in range(600):
        moved = [{"w": 0.5 * (best - t)} for best, t in zip(optima, h(phi, v)["w"], strict=True)]
        down, slope = pulled_back(h, phi, v, moved, torch.full((12,), 1 / 12, dtype=FLOAT))
        phi, kept = stepped(rule, phi, down, kept)
        new, rows = stepped(rule, {"v": v}, {"v": slope}, rows)
        v = new["v"]
    centre = optima.mean(0)
    u, s, right = torch.linalg.svd(optima - centre, full_matrices=False)
    projected = centre + (u[:, :2] * s[:2]) @ right[:2]
    assert float((h(phi, v)["w"] - projected).norm() / projected.norm()) < 1e-6
    assert float((optima - projected).norm() / projected.norm()) > 0.1


# A client that was not there


def test_a_new_client_learns_by_its_embedding_alone():
    x, y, split = samples()
    fed = played(FedHN(lr=0.05, width=20), 40, participation=1.0)
    before = everything(fed)
    rows = torch.cat(split)[:30]
    v, model = new_client(fed, x[rows], y[rows], 50)
    same(everything(fed), before)
    start = fed.algorithm.hypernetwork(fed)(
        fed.memory["hyper"], torch.stack(list(fed.memory["embeddings"].values())).mean(0, keepdim=True)
    )
    first = cross_entropy(fed.net({n: t[0] for n, t in start.items()}, x[rows]), y[rows])
    assert cross_entropy(fed.net(model, x[rows]), y[rows]) < first
    made = fed.algorithm.hypernetwork(fed)(fed.memory["hyper"], v[None])
    same({n: model[n] for n in made}, {n: t[0] for n, t in made.items()})


def test_a_new_client_of_nonsense_is_refused():
    x, y, _ = samples()
    fed = federation(FedHN(width=7))
    with pytest.raises(ValueError, match="30 samples and 29 labels"):
        new_client(fed, x[:30], y[:29])
    with pytest.raises(ValueError, match="classes 0 to 2, got"):
        new_client(fed, x[:2], torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="got 0 samples"):
        new_client(fed, x[:0], y[:0])
    with pytest.raises(ValueError, match="lr must be"):
        new_client(fed, x[:3], y[:3], lr=math.nan)
    for other in (FedHN(HEAD, width=7), LocalOnly()):
        with pytest.raises(ValueError, match="its embedding alone must make the model"):
            new_client(federation(other), x[:3], y[:3])
    poisoned = x[:3].clone()
    poisoned[0, 0] = math.inf
    with pytest.raises(ArithmeticError, match="the embedding of a new client"):
        new_client(fed, poisoned, y[:3])


def test_a_network_of_its_own_kind_is_emitted_whole():
    fed = federation(FedHN(width=7), model=lambda: MLP(5, (4, 3), 3))
    assert set(fed.algorithm.hypernetwork(fed).shapes) == set(fed.net.parameters)
