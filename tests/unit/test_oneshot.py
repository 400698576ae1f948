"""What a server makes of distilled parts: the course of its steps, whose start counts, what diverges, what travels."""

import pytest
import torch

from fedlib import metrics, oneshot, rng
from fedlib.models import MLP
from fedlib.models.net import Net
from fedlib.prescribed import Distilled, follow, one_after_another


def network(seed):
    return Net(rng.build(lambda: MLP(6, (5,), 3), seed, "init"), dtype=torch.float64)


def part(k, raw=0.5):
    draws = rng.stream("part", k)
    images, labels = (torch.randn(2, 4, n, generator=draws, dtype=torch.float64) for n in (6, 3))
    return Distilled(images, labels, torch.full((4,), raw, dtype=torch.float64))


@pytest.fixture
def there():
    draws = rng.stream("real")
    x = torch.randn(60, 6, generator=draws, dtype=torch.float64)
    net = network(0)
    return net, net.initial(), network(1).initial(), [part(k) for k in range(3)], x, x[:, :3].argmax(1)


def test_each_way_to_follow_the_parts(there):
    net, start, other, parts, x, y = there
    told = oneshot.judged(*there)

    def good(state):
        return metrics.accuracy(net.predict(state, x), y)

    steps = one_after_another(parts)
    alone = [follow(net, start, p.prescription()) for p in parts]
    assert told["accuracy"] == good(follow(net, start, steps))
    assert told["fresh-accuracy"] == good(follow(net, other, steps))
    assert told["alternating-accuracy"] == good(follow(net, start, one_after_another(parts, True)))
    assert told["own-accuracy"] == pytest.approx(sum(map(good, alone)) / 3)
    thief = [good(follow(net, other, p.prescription())) for p in parts]
    assert told["own-fresh-accuracy"] == pytest.approx(sum(thief) / 3)
    assert told["averaged-accuracy"] == good({n: sum(w[n] for w in alone) / 3 for n in start})
    assert told["diverged"] == 0


def test_the_course_ends_where_all_steps_end(there):
    net, start, _other, parts, x, y = there
    path, end = oneshot.course(net, start, parts, x, y)
    assert len(path) == 12
    assert path[-1] == oneshot.judged(*there)["accuracy"]
    reached = follow(net, start, one_after_another(parts))
    assert all(torch.allclose(end[n], w) for n, w in reached.items())
    assert path[3] == oneshot.course(net, start, parts[:1], x, y)[0][-1]


def test_what_diverges_scores_chance_and_is_counted(there):
    net, start, other, parts, x, y = there
    told = oneshot.judged(net, start, other, [parts[0], part(1, raw=1e200)], x, y)
    assert told["diverged"] == 1
    assert told["accuracy"] == told["fresh-accuracy"] == pytest.approx(1 / 3)
    assert 0 <= told["own-accuracy"] <= 1


def test_bytes_of_a_round(there):
    _, start, _, parts, *_ = there
    each, model = 8 * (2 * 4 * (6 + 3) + 4), 8 * sum(w.numel() for w in start.values())
    assert oneshot.round_bytes(parts, start, serial=False) == 3 * each + 3 * 8
    assert oneshot.round_bytes(parts, start, serial=True) == 3 * each + 8 + 2 * model
