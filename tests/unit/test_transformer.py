"""The encoder of texts, in float64: shapes, padding that changes nothing, order that counts only by places."""

import pytest
import torch
from torch.nn import functional as F

from fedlib.models import Net
from fedlib.models.transformer import Block, Transformer

FLOAT = torch.float64


def network(**options):
    torch.manual_seed(3)
    return Transformer(20, 9, 4, **{"width": 12, "heads": 3, "layers": 2, **options}).to(FLOAT)


def texts(n=5, length=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(1, 20, (n, length), generator=g).to(FLOAT)


def test_shapes_of_logits_features_and_attention():
    x, net = texts(), network()
    assert net(x).shape == (5, 4)
    assert net(x, features=True).shape == (5, 12)
    pooled, looks = net(x, attention=True)
    assert torch.equal(pooled, net(x, features=True))
    assert torch.equal(net.head(pooled), net(x))
    assert looks.shape == (5, 6, 6)
    torch.testing.assert_close(looks.sum(-1), torch.ones(5, 6, dtype=FLOAT), rtol=0, atol=1e-14)
    assert torch.equal(net(x.long()), net(x.float()))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_padding_changes_nothing(layers):
    x, net = texts(), network(layers=layers)
    longer = F.pad(x, (0, 3))
    torch.testing.assert_close(net(longer), net(x), rtol=0, atol=1e-13)
    looks, padded = net(x, attention=True)[1], net(longer, attention=True)[1]
    torch.testing.assert_close(padded[:, :6, :6], looks, rtol=0, atol=1e-14)
    assert not padded[:, 6:].any()
    assert not padded[:, :, 6:].any()
    one = net(longer[:1])  # nor do the other texts of a batch
    torch.testing.assert_close(one, net(longer)[:1], rtol=0, atol=1e-13)


def test_padding_has_no_gradient():
    net, x = network(), F.pad(texts(), (0, 3))
    net(x).square().sum().backward()
    assert not net.word.weight.grad[0].any()
    assert not net.place.weight.grad[6:].any()
    assert net.word.weight.grad[1:].any()


def test_a_text_without_words_has_an_answer():
    assert bool(network()(torch.zeros(2, 6, dtype=FLOAT)).isfinite().all())


def test_order_counts_by_positions_alone():
    x, turned = texts(), texts().flip(1)
    blind, net = network(positions=False), network()
    torch.testing.assert_close(blind(turned), blind(x), rtol=0, atol=1e-13)
    assert float((net(turned) - net(x)).detach().abs().max()) > 1e-3


def test_a_block_is_torchs_layer_with_the_norm_first():
    torch.manual_seed(1)
    block = Block(12, 3, 20).to(FLOAT)
    theirs = torch.nn.TransformerEncoderLayer(12, 3, 20, 0.0, F.gelu, norm_first=True, batch_first=True, dtype=FLOAT)
    names = {"self_attn.in_proj_": "ask.", "self_attn.out_proj.": "mix.", "norm1.": "before.", "norm2.": "between.",
             "linear1.": "think.0.", "linear2.": "think.2."}  # fmt: skip
    own = {n: t + 0.1 * torch.randn_like(t) for n, t in block.state_dict().items()}
    block.load_state_dict(own)
    theirs.load_state_dict({f"{a}{k}": own[f"{b}{k}"] for a, b in names.items() for k in ("weight", "bias")})
    h, seen = torch.randn(4, 6, 12, dtype=FLOAT), torch.ones(4, 6, dtype=torch.bool)
    seen[:2, 4:] = False
    found, expected = block(h, seen)[0], theirs.train()(h, src_key_padding_mask=~seen)
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-12)


def test_heads_share_the_width_evenly():
    with pytest.raises(ValueError, match="among 5 heads"):
        network(heads=5)


def test_it_serves_as_a_function_of_its_state():
    module, x = network(), texts()
    net = Net(module, dtype=FLOAT)
    state = {n: 2 * t for n, t in net.initial().items()}
    module.load_state_dict(state)
    assert torch.equal(net(state, x), module(x))
    pooled, looks = net(state, x, train=True, attention=True)
    assert pooled.shape == (5, 12)
    assert looks.shape == (5, 6, 6)
