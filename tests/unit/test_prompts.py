"""Soft prompts: what stands before the input, how prompts begin and vote, and that what is frozen stays so."""

import copy
import math
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from fedlib import frozen, prompts, reading, rng
from fedlib.frozen import Batch
from fedlib.models import Reader
from fedlib.models.reader import prepend
from fedlib.models.transformer import Transformer

FLOAT = torch.float64
WORDS, ASK, WIDTH = 12, 11, 8


def reader(seed=0, **options):
    given = {"heads": 2, "layers": 2} | options
    return rng.build(lambda: Reader(WORDS, ASK, WIDTH, **given), seed, "init").to(FLOAT)


def texts(n=5, length=4, seed=0):
    """Words and, at the end of each, the one that asks."""
    words = torch.randint(1, ASK, (n, length), generator=rng.stream(seed, "texts"))
    return torch.cat([words, torch.full((n, 1), ASK)], 1)


def everywhere(words):
    """All places of some texts."""
    return torch.arange(words.shape[-1]).expand(words.shape)


def prompt(count=3, seed=1):
    return prompts.uniform(count, WIDTH, rng.stream(seed, "prompt"))


def prefix(count=3, layers=2, seed=1):
    return prompts.uniform(layers * 2 * count, WIDTH, rng.stream(seed, "prefix")).reshape(layers, 2, count, WIDTH)


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# The reader


def test_the_reader_computes_what_the_transformer_computes():
    """With an input of which all places ask alike, its hidden states are those of the encoder of FedKD."""
    one, other = reader(length=5), Transformer(WORDS, 5, WORDS, WIDTH, 2, 2).to(FLOAT)
    state = one.state_dict()
    other.load_state_dict({n: t for n, t in state.items() if n in other.state_dict()})
    words = texts()
    pooled = other(words, features=True)
    close(one.hidden(*one.embed(words), everywhere(words)).mean(1), pooled)


def test_no_prompt_is_the_frozen_model():
    net, words = reader(), texts()
    assert torch.equal(net(words, prompt=prompt(0)), net(words))
    for kind in (FLOAT, torch.float32):  # bit for bit
        own = net.to(kind)
        assert torch.equal(own(words, prefix=prefix(0).to(kind)), own(words))


def test_the_embeddings_of_words_are_the_words():
    """A hard prompt, and the same as vectors: written before the text, which has no places, they are one."""
    net, words = reader(), texts()
    hard = [3, 7, 7, 1]
    longer = torch.cat([torch.tensor(hard).expand(len(words), -1), words], 1)
    close(net(words, prompt=prompts.written(hard, net.word.weight)), net(longer))


def test_a_prompt_moves_no_place_of_the_text():
    net, words = reader(length=5), texts()
    h, seen = net.embed(words)
    both, there = prepend(prompt(), h, seen)
    assert torch.equal(both[:, 3:], h)
    assert bool(there[:, :3].all())
    turned = prompt()[[2, 0, 1]]
    close(net(words, prompt=turned), net(words, prompt=prompt()))  # nor has it places of its own


def test_words_behind_the_places_have_no_order():
    net, words = reader(length=2), texts()
    close(net(words[:, [0, 1, 3, 2, 4]]), net(words))
    assert float((net(words[:, [1, 0, 2, 3, 4]]) - net(words)).abs().max().detach()) > 1e-3


def test_padding_stays_hidden_behind_a_prompt():
    net, words = reader(length=5), texts()
    longer = F.pad(words, (0, 3))
    close(net(longer, prompt=prompt()), net(words, prompt=prompt()))
    table = net.word.weight.detach().clone()
    net.word.weight.data[0] += 5.0  # whatever stands there
    close(net(longer, prompt=prompt()), net(words, prompt=prompt()))
    assert not torch.equal(table, net.word.weight)


def test_the_answer_is_read_where_the_text_asks():
    net, words = reader(), texts()
    answers = net.head(net.hidden(*net.embed(words), everywhere(words)))
    close(net(words), answers[:, -1])
    places = torch.tensor([[0, 2]]).expand(5, -1)
    close(net(words, places=places), answers[:, [0, 2]])
    close(net(words, prompt=prompt(), places=places)[:, 1], net(words, prompt=prompt(), places=places[:, 1:])[:, 0])
    changed = words.clone()
    changed[:, 0] = ASK  # of two that ask, the first
    close(net(changed), net.head(net.hidden(*net.embed(changed), everywhere(changed)))[:, 0])


def test_images_stand_behind_the_words_and_have_places():
    net, words = reader(image=(4, 6)), texts()
    rows = torch.randn(5, 4, 6, generator=rng.stream(0, "rows"), dtype=FLOAT)
    z = net(words, rows)
    close(net(words.flip(1), rows), z)  # words without places have no order
    assert float((net(words, rows.flip(1)) - z).abs().max().detach()) > 1e-3
    with pytest.raises(ValueError, match="rows: this reader expects an image"):
        net(words)


def pair_of(block, states):
    """The keys and values [2, p, width] that a block makes of hidden states [p, width]."""
    return block.ask(block.before(states)).tensor_split(3, -1)[1:]


def test_a_prompt_is_a_prefix_of_the_keys_and_values_that_it_makes():
    """In one block the two are one; in two as well, for a text whose prompt's states are known in each block."""
    words, p = texts(), prompt()
    one = reader(layers=1)
    close(one(words, prefix=torch.stack(pair_of(one.blocks[0], p))[None]), one(words, prompt=p))
    two = reader()
    inner = two.blocks[0](*prepend(p, *two.embed(words)))[0][0, :3]  # what the prompt becomes, for the first text
    both = torch.stack([torch.stack(pair_of(b, t)) for b, t in zip(two.blocks, (p, inner), strict=True)])
    close(two(words[:1], prefix=both), two(words[:1], prompt=p))
    assert float((two(words, prefix=both[[0, 0]]) - two(words, prompt=p)).abs().max().detach()) > 1e-3


def test_a_prefix_is_attention_written_out():
    """Text by text, place by place and head by head, with padding left away: nothing of the reader but its layers."""
    net, words, own = reader(layers=3, length=3), texts(), prefix(4, 3)
    words[1:3, 1] = 0  # nobody looks there
    z = net(words, prefix=own)
    for text, found in zip(words, z, strict=True):
        shown = [i for i, word in enumerate(text.tolist()) if word]
        h = [net.word.weight[text[i]] + (net.place.weight[i] if i < 3 else 0) for i in shown]
        for block, (keys, values) in zip(net.blocks, own, strict=True):
            query, key, value = zip(*(block.ask(block.before(one)).tensor_split(3) for one in h), strict=True)
            seen_keys, seen_values, new = [*keys, *key], [*values, *value], []
            for one, q in zip(h, query, strict=True):
                heads = []
                for part in (slice(0, 4), slice(4, 8)):
                    looks = torch.stack([q[part] @ k[part] / 2 for k in seen_keys]).softmax(0)
                    heads.append(sum(a * v[part] for a, v in zip(looks, seen_values, strict=True)))
                one = one + block.mix(torch.cat(heads))
                new.append(one + block.think(block.between(one)))
            h = new
        close(found, net.head(net.norm(h[shown.index(4)])))


def test_padding_stays_hidden_behind_a_prefix_and_its_rows_have_no_order():
    net, words = reader(length=5), texts()
    close(net(F.pad(words, (0, 3)), prefix=prefix()), net(words, prefix=prefix()))
    close(net(words, prefix=prefix()[:, :, [2, 0, 1]]), net(words, prefix=prefix()))


def test_readers_refuse_nonsense():
    with pytest.raises(ValueError, match="ask: the word that asks"):
        Reader(WORDS, 0, WIDTH)
    with pytest.raises(ValueError, match="ask: the word that asks"):
        Reader(WORDS, WORDS, WIDTH)
    with pytest.raises(ValueError, match="cannot be shared out"):
        Reader(WORDS, ASK, WIDTH, heads=3)
    net = reader(length=6)
    with pytest.raises(ValueError, match="texts of 5 words, padding included; all 6 places are needed"):
        net(texts())
    for wrong in (torch.zeros(WIDTH), torch.zeros(3, WIDTH + 1), torch.zeros(2, 3, WIDTH)):
        with pytest.raises(ValueError, match="prompt: expected"):
            reader()(texts(), prompt=wrong.to(FLOAT))
    for wrong in ({"heads": 0}, {"layers": 0}, {"layers": -1}, {"length": -1}, {"image": (0, 4)}, {"image": (4, 2.5)}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least {int(name != 'length')}"):
            reader(**wrong)
    for given in ((1, 1, 8), (5, 1.5, 8), (5, 1, 0), (5, 1, -8)):
        with pytest.raises(ValueError, match="must be a whole number of at least"):
            Reader(*given)
    rows = torch.zeros(5, 4, 6, dtype=FLOAT)
    with pytest.raises(ValueError, match="rows: this reader has no place for an image"):
        reader()(texts(), rows)
    for wrong in (rows[:, :3], rows[..., :5]):
        with pytest.raises(ValueError, match=r"rows: this reader expects images \[4, 6\], got"):
            reader(image=(4, 6))(texts(), wrong)
    for wrong in (prefix(2, 3), prefix()[:, :1], prefix()[..., :4], prompt(), prefix()[None]):
        with pytest.raises(ValueError, match=r"prefix: expected \[2, 2, p, 8\], keys and values for each block; got"):
            reader()(texts(), prefix=wrong)


# How prompts begin


def test_a_random_prompt_is_uniform():
    p = prompts.uniform(4000, 4, rng.stream(0, "u"))
    assert p.dtype == FLOAT
    assert float(p.abs().max()) <= 0.5
    close(p.mean(), torch.tensor(0.0, dtype=FLOAT), 0.02)
    close(p.square().mean(), torch.tensor(1 / 12, dtype=FLOAT), 0.005)


def test_a_prefix_begins_as_what_each_block_makes_of_a_prompt_alone():
    """So that in a network of one block nothing changes when the prompt gives way to it."""
    nets = [reader(s, layers=3) for s in range(2)]
    several, seen = torch.stack([prompt(seed=s) for s in range(2)]), torch.ones(1, 3, dtype=torch.bool)
    found = prompts.activations(reader(5, layers=3), frozen.stack(nets), several)
    assert not found.requires_grad
    assert found.shape == (2, 3, 2, 3, WIDTH)
    for net, p, own in zip(nets, several, found, strict=True):
        once = net.blocks[0](p[None], seen)[0]
        for block, states, pair in zip(net.blocks, (p, once[0], net.blocks[1](once, seen)[0][0]), own, strict=True):
            close(pair, torch.stack(pair_of(block, states)))
    one, words = reader(layers=1), texts()
    own = prompts.activations(reader(layers=1), frozen.stack([one]), several[:1])
    close(one(words, prefix=own[0]), one(words, prompt=several[0]))
    for wrong in (several[:1], several[..., 1:], several[0]):
        with pytest.raises(ValueError, match=r"prompts: expected one for each network, \[S, p, 8\]; got"):
            prompts.activations(nets[0], frozen.stack(nets), wrong)


def test_words_are_drawn_without_putting_back_from_the_frequent_ones():
    table = torch.arange(20.0)[:, None].expand(-1, 3)
    among = range(5, 12)
    for seed in range(20):
        rows = prompts.sampled(7, table, among, rng.stream(seed, "s"))[:, 0].tolist()
        assert sorted(rows) == [float(n) for n in among]
    first = Counter(int(prompts.sampled(1, table, among, rng.stream(s, "s"))[0, 0]) for s in range(700))
    assert set(first) == set(among)
    assert min(first.values()) > 60
    learned = torch.randn(9, 3).requires_grad_()
    for p in (prompts.sampled(2, learned, range(9), rng.stream(0)), prompts.written([1], learned)):
        assert not p.requires_grad  # a prompt is a leaf of its own, not a view into the network


def test_labels_stand_first_and_the_mean_of_their_words_counts():
    table = torch.randn(10, 3, dtype=FLOAT, generator=rng.stream(0, "t"))
    p = prompts.labelled(3, table, [[3], [5, 7]], [1], rng.stream(0, "l"))
    close(p, torch.stack([table[3], (table[5] + table[7]) / 2, table[1]]))
    assert not p.requires_grad


def test_labels_never_fall_away_unseen():
    table = torch.randn(10, 3)
    with pytest.raises(ValueError, match="no room for the labels of 3 classes"):
        prompts.labelled(2, table, [[1], [2], [3]], range(10), rng.stream(0, "l"))
    for empty in ([], [[1], []]):
        with pytest.raises(ValueError, match="labels: each class needs at least one word"):
            prompts.labelled(5, table, empty, range(10), rng.stream(0, "l"))


def test_beginnings_refuse_nonsense():
    table, draws = torch.randn(10, 3), rng.stream(0, "n")
    with pytest.raises(ValueError, match="among: 4 different words are to be drawn, from 3"):
        prompts.sampled(4, table, range(3), draws)
    for wrong in ([10], [-1]):
        with pytest.raises(ValueError, match="have numbers from 0 to 9"):
            prompts.written(wrong, table)
        with pytest.raises(ValueError, match="labels: words have numbers"):
            prompts.labelled(2, table, [wrong, [1]], range(10), draws)
    with pytest.raises(ValueError, match="table: expected finite embeddings"):
        prompts.written([1], table * float("nan"))
    with pytest.raises(ValueError, match="table: expected finite embeddings"):
        prompts.written([1], table[0])
    with pytest.raises(ValueError, match="among: each word stands there once; of 3 only 2 differ"):
        prompts.sampled(2, table, [1, 4, 1], draws)
    for wrong in (1.5, True, "a"):
        with pytest.raises(ValueError, match="words must be a whole number"):
            prompts.written([wrong], table)
    for count in (-1, 1.5, None):
        with pytest.raises(ValueError, match="count must be a whole number"):
            prompts.uniform(count, 3, draws)
        with pytest.raises(ValueError, match="count must be a whole number"):
            prompts.sampled(count, table, range(9), draws)
    with pytest.raises(ValueError, match="reach must be"):
        prompts.uniform(2, 3, draws, reach=float("nan"))


# Several prompts


def test_a_batch_of_copies_is_as_many_passes():
    rows = torch.randn(2, 5, 4, 6, generator=rng.stream(0, "rows"), dtype=FLOAT)
    words = torch.stack([texts(seed=s) for s in range(2)])
    several = torch.stack([torch.stack([prompt(3, 10 * s + i) for i in range(4)]) for s in range(2)])
    for options, images in (({"image": (4, 6)}, rows), ({}, None)):
        nets = [reader(s, **options) for s in range(2)]
        together = prompts.ensemble(nets[0], frozen.stack(nets), several, words, images)
        assert together.shape == (2, 4, 5, WORDS)
        for s, net in enumerate(nets):
            own = () if images is None else (images[s],)
            close(together[s], torch.stack([net(words[s], *own, prompt=p) for p in several[s]]))
    for wrong in (several[:, :0], several[0]):
        with pytest.raises(ValueError, match="prompts: expected at least one"):
            prompts.ensemble(nets[0], frozen.stack(nets), wrong, words)


def test_the_majority_wins_and_a_tie_goes_to_the_first_prompt():
    answers = torch.tensor([[1, 5, 2, 4], [3, 6, 2, 4], [3, 5, 9, 4], [1, 6, 8, 7]])
    assert prompts.vote(answers).tolist() == [1, 5, 2, 4]
    assert prompts.vote(answers[[1, 2, 0]]).tolist() == [3, 5, 2, 4]
    assert prompts.vote(answers[:1]).tolist() == answers[0].tolist()
    for wrong in (answers[:0], answers.double(), torch.tensor(3), answers > 3):
        with pytest.raises(ValueError, match="answers: expected whole numbers"):
            prompts.vote(wrong)


def test_votes_and_those_who_vote_are_counted_on_the_images_that_are_given():
    """The same texts with images and with others: each count is that of one network, prompt and text after another."""
    nets, many, n = [reader(s, image=(4, 6)) for s in range(2)], 3, 32
    several = torch.stack([torch.stack([9 * prompt(2, 10 * s + i) for i in range(many)]) for s in range(2)])
    found = []
    for look in ("test", "shifted"):
        rows = 20 * torch.randn(2, n, 4, 6, generator=rng.stream(0, look), dtype=FLOAT)
        words = [texts(n, seed=s) for s in range(2)]
        said = [[net(w, r, prompt=p).argmax(-1).tolist() for p in own]
                for net, w, r, own in zip(nets, words, rows, several, strict=True)]  # fmt: skip
        right = [[voters[i % many][i] for i in range(n)] for voters in said]  # each voter is right somewhere
        if look == "shifted":
            right = found[0]["right"]  # another look changes no right answer
        tasks = [reading.Task(w, torch.tensor(y), r) for w, y, r in zip(words, right, rows, strict=True)]
        z = prompts.ensemble(nets[0], frozen.stack(nets), several, *reading.beside(tasks)).argmax(-1)
        votes = [task.share(prompts.vote(one)) for task, one in zip(tasks, z, strict=True)]
        means = [task.share(one) for task, one in zip(tasks, z, strict=True)]
        for s in range(2):
            most = [Counter(text).most_common(1)[0][0] for text in zip(*said[s], strict=True)]  # of equals the first
            assert votes[s] == sum(a == b for a, b in zip(most, right[s], strict=True)) / n
            one = [sum(a == b for a, b in zip(voter, right[s], strict=True)) / n for voter in said[s]]
            assert means[s] == pytest.approx(sum(one) / many, abs=1e-12)
        found.append({"right": right, "votes": votes, "means": means})
    # nothing of one look can be taken for that of the other, nor the mean for the vote
    assert len({tuple(look[count]) for look in found for count in ("votes", "means")}) == 4


# Training beside frozen weights


def batches(steps=6, many=3, size=4):
    draws = rng.stream(0, "batches")
    for _ in range(steps):
        words = torch.randint(1, ASK, (many, size, 4), generator=draws)
        words[..., -1] = ASK
        yield Batch(words, torch.randint(1, ASK, (many, size), generator=draws))


def stacked(many=3):
    return frozen.stack([reader(seed) for seed in range(many)])


def test_each_network_of_a_stack_answers_as_it_does_alone():
    words = torch.stack([texts(seed=s) for s in range(3)])
    before = torch.stack([prompt(2, s) for s in range(3)])
    z = frozen.answers(reader(), stacked(), words, prompt=before)
    close(z, torch.stack([reader(s)(words[s], prompt=before[s]) for s in range(3)]))


def test_batches_of_several_networks_are_put_beside_one_another():
    words, right, rows = texts(), torch.arange(5), torch.ones(5, 2, 3)
    (both,) = frozen.beside([[Batch(words, right, rows)], [Batch(words + 0, right + 5, 2 * rows)]])
    assert torch.equal(both.words, torch.stack([words, words]))
    assert both.right.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert torch.equal(both.rows[1], 2 * rows)
    assert both.places is None
    with pytest.raises(ValueError, match="rows: the batches of some networks have it"):
        list(frozen.beside([[Batch(words, right, rows)], [Batch(words, right)]]))
    with pytest.raises(ValueError, match="shorter"):
        list(frozen.beside([[Batch(words, right)], []]))


def test_only_the_prompt_is_trained():
    net, weights = reader(), stacked()
    mark, first = frozen.fingerprint(weights), torch.stack([prompt(5, s) for s in range(3)])
    after, own = frozen.adapt(net, weights, batches(), 0.1, before={"prompt": first}, weight_decay=0.1)
    assert frozen.fingerprint(after) == mark == frozen.fingerprint(weights)
    assert own["prompt"].numel() == 3 * 5 * WIDTH  # all that is trained, for three tasks
    assert float((own["prompt"] - first).abs().min(0).values.max()) > 1e-3
    assert not own["prompt"].requires_grad
    assert net.word.weight.grad is None


def test_only_the_prefix_is_trained():
    weights, first = stacked(), torch.stack([prefix(5, 2, s) for s in range(3)])
    mark = frozen.fingerprint(weights)
    after, own = frozen.adapt(reader(), weights, batches(), 0.1, before={"prefix": first}, weight_decay=0.1)
    assert frozen.fingerprint(after) == mark == frozen.fingerprint(weights)
    assert list(own) == ["prefix"]
    assert own["prefix"].numel() == 3 * 2 * 2 * 5 * WIDTH  # keys and values in two blocks, for three tasks
    moved = (own["prefix"] - first).abs()
    assert bool((moved.amax((3, 4)) > 0.05).all())  # in every block, and not by weight decay alone


def test_the_gradient_reaches_the_prefix_alone():
    """In plain PyTorch: frozen parameters get none, and the prefix's is that of central differences."""
    net, batch = reader().requires_grad_(False), next(iter(batches(1, 1)))
    own = prefix(2).requires_grad_(True)

    def loss(p):
        return F.cross_entropy(net(batch.words[0], prefix=p), batch.right[0])

    loss(own).backward()
    assert all(p.grad is None for p in net.parameters())
    for place in ((0, 0, 0, 0), (0, 1, 1, 3), (1, 0, 1, 5), (1, 1, 0, 7)):
        nudge = torch.zeros_like(own)
        nudge[place] = 1e-6
        slope = float((loss(own + nudge) - loss(own - nudge)).detach()) / 2e-6
        assert float(own.grad[place]) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_only_what_is_free_is_trained():
    weights = stacked()
    mark = frozen.fingerprint(weights)
    after, own = frozen.adapt(reader(), weights, batches(), 0.1, free=["head.weight", "head.bias"], weight_decay=0.1)
    moved = {name for name in weights if not torch.equal(after[name], weights[name])}
    assert moved == {"head.weight", "head.bias"}
    assert own == {}
    assert frozen.fingerprint(weights) == mark != frozen.fingerprint(after)
    every, _ = frozen.adapt(reader(), weights, batches(), 0.1, free=list(weights))
    still = {name for name in weights if torch.equal(every[name], weights[name])}
    assert not still


def test_training_is_that_of_one_network_alone_in_plain_pytorch():
    rates = [0.1, 0.05, 0.2, 0.0, 0.1, 0.02]
    start = torch.stack([prompt(2, s) for s in range(3)])
    free = {"blocks.0.mix.weight", "head.bias"}
    after, own = frozen.adapt(
        reader(), stacked(), batches(), rates.__getitem__, free=free, before={"prompt": start}, weight_decay=0.3
    )
    for s in range(3):
        net, p = reader(s), start[s].clone().requires_grad_(True)
        named = dict(net.named_parameters())
        adam = torch.optim.AdamW([*(named[n] for n in free), p], weight_decay=0.3)
        for rate, batch in zip(rates, batches(), strict=True):
            adam.param_groups[0]["lr"] = rate
            adam.zero_grad()
            F.cross_entropy(net(batch.words[s], prompt=p), batch.right[s]).backward()
            adam.step()
        close(own["prompt"][s], p.detach(), 1e-9)
        for name in free:
            close(after[name][s], named[name].detach(), 1e-9)


def test_a_prefix_is_trained_as_by_one_network_alone_in_plain_pytorch():
    """With images and padding, and other texts, images and beginnings for each network."""
    nets, rates, batch_of = [reader(s, image=(4, 6)) for s in range(3)], [0.1, 0.05, 0.2, 0.02], []
    start = torch.stack([prefix(2, 2, s) for s in range(3)])
    for batch in batches(len(rates)):
        rows = torch.randn(3, 4, 4, 6, generator=rng.stream(len(batch_of), "rows"), dtype=FLOAT)
        batch.words[:, 1::2, 1] = 0  # in half of the texts
        batch_of.append(Batch(batch.words, batch.right, rows))
    _, own = frozen.adapt(
        nets[0], frozen.stack(nets), batch_of, rates.__getitem__, before={"prefix": start}, weight_decay=0.3
    )
    for s, net in enumerate(nets):
        alone = start[s].clone().requires_grad_(True)
        adam = torch.optim.AdamW([alone], weight_decay=0.3)
        for rate, batch in zip(rates, batch_of, strict=True):
            adam.param_groups[0]["lr"] = rate
            adam.zero_grad()
            F.cross_entropy(net(batch.words[s], batch.rows[s], prefix=alone), batch.right[s]).backward()
            adam.step()
        close(own["prefix"][s], alone.detach(), 1e-9)


def test_the_gradient_passes_the_frozen_network():
    """Against central differences, in the first step: Adam's is the sign of the gradient times the rate."""
    net, batch = reader(), next(iter(batches(1, 1)))
    start = prompt(2)[None]
    _, own = frozen.adapt(net, stacked(1), [batch], 1e-3, before={"prompt": start})

    def loss(p):
        return float(F.cross_entropy(net(batch.words[0], prompt=p), batch.right[0]))

    for place in ((0, 0), (1, 3), (1, 7)):
        nudge = torch.zeros_like(start[0])
        nudge[place] = 1e-6
        slope = (loss(start[0] + nudge) - loss(start[0] - nudge)) / 2e-6
        assert float((own["prompt"] - start)[0][place]) == pytest.approx(-1e-3 if slope > 0 else 1e-3, rel=1e-3)


def test_several_answers_for_a_text_are_a_mean():
    net, weights = reader(), stacked(1)
    words, right = texts(4)[None], torch.tensor([[[1, 2], [3, 4], [5, 6], [7, 8]]])
    places = torch.tensor([0, 3]).expand(1, 4, 2)
    after, _ = frozen.adapt(net, weights, [Batch(words, right, places=places)], 0.1, free=["head.bias"])
    alone = copy.deepcopy(reader(0))
    z = alone(words[0], places=places[0])
    F.cross_entropy(z.flatten(0, 1), right[0].flatten()).backward()
    moved = (after["head.bias"] - weights["head.bias"])[0]
    close(moved.sign(), -alone.head.bias.grad.sign())


def test_one_that_diverges_leaves_the_others():
    start = torch.stack([prompt(2, s) for s in range(3)])
    right = frozen.adapt(reader(), stacked(), batches(), 0.1, before={"prompt": start})[1]["prompt"]
    start[1] = float("nan")
    found = frozen.adapt(reader(), stacked(), batches(), 0.1, before={"prompt": start})[1]["prompt"]
    assert bool(found[1].isnan().all())
    close(found[[0, 2]], right[[0, 2]])


def test_training_refuses_nonsense():
    net, weights, before = reader(), stacked(), {"prompt": torch.stack([prompt()] * 3)}
    with pytest.raises(ValueError, match="nothing is trained"):
        frozen.adapt(net, weights, batches(), 0.1)
    with pytest.raises(ValueError, match="'tail' is no weight"):
        frozen.adapt(net, weights, batches(), 0.1, free=["tail"])
    with pytest.raises(ValueError, match="'suffix' is no weight"):
        frozen.adapt(net, weights, batches(), 0.1, before={"suffix": before["prompt"]})
    with pytest.raises(ValueError, match="different numbers of networks"):
        frozen.adapt(net, weights, batches(), 0.1, before={"prompt": before["prompt"][:2]})
    with pytest.raises(ValueError, match="batch 0: words"):
        frozen.adapt(net, weights, batches(many=2), 0.1, before=before)
    for wrong in (float("nan"), -0.1):
        with pytest.raises(ValueError, match="lr must be"):
            frozen.adapt(net, weights, batches(), wrong, before=before)
        with pytest.raises(ValueError, match="weight_decay must be"):
            frozen.adapt(net, weights, batches(), 0.1, before=before, weight_decay=wrong)
    with pytest.raises(ValueError, match="at least one is needed"):
        frozen.stack([])
    with pytest.raises(ValueError, match="networks of one form"):
        frozen.stack([reader(), reader(layers=1)])
    with pytest.raises(ValueError, match="a network is given must be 'prompt' or 'prefix' or 'places', got 'suffix'"):
        frozen.answers(net, weights, torch.stack([texts()] * 3), suffix=before["prompt"])
    with pytest.raises(ValueError, match="weights: none are given"):
        frozen.answers(net, {}, torch.stack([texts()] * 3))
    silent = torch.stack([texts()] * 3)
    silent[1, 2, -1] = 1
    with pytest.raises(ValueError, match="each text has a word that asks, 11, and some have none"):
        frozen.answers(net, weights, silent)
    places = torch.zeros(3, 5, 1, dtype=torch.long)
    assert frozen.answers(net, weights, silent, places=places).shape == (3, 5, 1, WORDS)  # they are told


def test_rates_go_up_and_down():
    rate = frozen.up_and_down(0.5, 40)
    rates = [rate(step) for step in range(40)]
    assert rates[0] == 0.5 / 4
    assert rates.index(max(rates)) == 3  # a tenth of the steps
    assert max(rates) == pytest.approx(0.5 * (1 + math.cos(math.pi * 3 / 40)) / 2)
    assert rates[20] == pytest.approx(0.25)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.001
    for wrong in ((float("nan"), 4), (-1.0, 4), (0.1, 0), (0.1, 1.5)):
        with pytest.raises(ValueError, match=r"(peak|last) must be"):
            frozen.up_and_down(*wrong)


def test_the_fingerprint_tells_names_shapes_types_and_every_bit():
    weights = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    mark = frozen.fingerprint(weights)
    assert mark == frozen.fingerprint({"b": torch.zeros(2), "a": torch.arange(6.0)})
    others = [
        {"a": torch.arange(6.0), "c": torch.zeros(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)},
        {"a": torch.arange(6.0), "b": torch.zeros(2, dtype=FLOAT)},
        {"a": torch.arange(6.0).nextafter(torch.tensor(9.0)), "b": torch.zeros(2)},
        {"a": torch.arange(6.0), "b": -torch.zeros(2)},
    ]
    assert mark not in {frozen.fingerprint(other) for other in others}
