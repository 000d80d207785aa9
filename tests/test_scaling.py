"""Predictions of many ranks: formulas by hand on small cases; what is refused. tests/mpi counts real messages.

Pass criterion: counts are equal, seconds to 1e-12.
"""

import copy
import math

import numpy as np
import pytest

import fastopt as fo
from fastopt.parallel.cuts import PIECE, SHORT, segments
from fastopt.parallel.scaling import Network, Work, measure_work, predictions, sent_by_ordered, sent_by_server

NETWORK = Network(latency=2.0, bandwidth=8.0, overhead=0.5)
WORK = Work(alone=7.0, gradient=4.0, update=3.0, add=1.2, copy=0.25, buckets=[8, 4], itemsize=4)  # 48 bytes
ALONE = 4 + 3 + 0.5


def step(way, ranks, work=WORK, **options):
    """Seconds, messages and bytes."""
    options = {"node_ranks": ranks, **options}
    (found,) = (p for p in predictions(work, NETWORK, 5, [ranks], **options) if p.way == way)
    return found.seconds, found.messages, found.n_bytes


# seconds and counts of 48 bytes, worked out by hand: a message of n bytes takes 2 + n / 8
BY_HAND = {
    ("ring", 2): (ALONE + 2 * (2 + 24 / 8) + 1.2 / 2, 2, 48),
    ("ring", 3): (ALONE + 4 * (2 + 16 / 8) + 1.2 * 2 / 3, 4, 64),
    ("ring", 4): (ALONE + 6 * (2 + 12 / 8) + 1.2 * 3 / 4, 6, 72),
    ("tree", 2): (ALONE + 2 * (2 + 6) + 1.2, 1, 48),
    ("tree", 3): (ALONE + 4 * (2 + 6) + 2 * 1.2, 2, 96),
    ("tree", 4): (ALONE + 4 * (2 + 6) + 2 * 1.2, 2, 96),
    ("tree", 1024): (ALONE + 20 * (2 + 6) + 10 * 1.2, 10, 480),
    # buckets of 32 and 16 bytes are short: each goes whole to all others, after a round
    ("ordered", 2): (ALONE + 2 + (2 + 4) + (2 + 2) + 1.2, 2, 48),
    ("ordered", 3): (ALONE + 4 + 2 * (2 + 4) + 2 * (2 + 2) + 2 * 1.2, 4, 96),
    ("shared memory", 2): (ALONE + 2 * 2 + 0.25, 0, 0),
    ("shared memory", 5): (ALONE + 2 * 6 + 0.25, 0, 0),
    # a server for 1, 2 and 3 workers: 48 bytes and a header of 40 to each
    ("server", 2): (4 + 0.5 + 2 * (2 + 6) + 3, 2, 88),
    ("server", 3): (4 + 0.5 + 4 * (2 + 6) + 1.2 + 3, 4, 176),
    ("server", 4): (4 + 0.5 + 6 * (2 + 6) + 2 * 1.2 + 3, 6, 264),
    ("asynchronous server", 2): (4 + 0.5 + 2 * (2 + 6) + 3, 2, 88),
    ("asynchronous server", 4): (3 * (2 * (2 + 6) + 3), 6, 264),  # the server is busy all the time
}


@pytest.mark.parametrize(("way", "ranks"), BY_HAND, ids=str)
def test_predictions_are_those_made_by_hand(way, ranks):
    seconds, messages, n_bytes = BY_HAND[way, ranks]
    assert step(way, ranks)[0] == pytest.approx(seconds, rel=1e-12)
    assert step(way, ranks)[1:] == (messages, n_bytes)


@pytest.mark.parametrize("way", ["ordered", "shared memory", "ring", "tree", "server", "asynchronous server"])
def test_one_rank_sends_nothing(way):
    assert step(way, 1) == (ALONE, 0, 0)


def test_a_long_gradient_goes_in_slices():
    n = 2 * SHORT  # elements, in one piece
    work = WORK._replace(buckets=[n])
    slices = math.ceil(n / 3) * 4
    seconds = ALONE + 4 + 4 * (2 + slices / 8) + 1.2 * 2 * math.ceil(n / 3) / n
    assert step("ordered", 3, work) == (pytest.approx(seconds, rel=1e-12), 4, 4 * (n + math.ceil(n / 3)))


def test_a_longer_one_in_pieces():
    n = PIECE // 4 + 1  # elements, in two pieces
    work = WORK._replace(buckets=[n])
    assert step("ordered", 2, work)[1:] == (4, 4 * n)


@pytest.mark.parametrize("n", [1, 2, 7, 5000, 5001, 5003])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_no_rank_sends_more_than_the_first_and_all_together_send_what_is_needed(n, ranks):
    work = WORK._replace(buckets=[n])
    sent = [sent_by_ordered(work, ranks, rank) for rank in range(ranks)]
    assert max(n_bytes for _, n_bytes in sent) == sent[0][1]
    short = 4 * n * (ranks - 1) <= SHORT
    assert sum(n_bytes for _, n_bytes in sent) == 4 * n * (ranks - 1) * (ranks if short else 2)


def ring_by_rank(n, ranks):
    """Elements that each rank of a ring sends, by making the steps."""
    slices, sent = [len(part) for part in np.array_split(np.empty(n), ranks)], [0] * ranks
    for rank in range(ranks):
        for k in range(ranks - 1):
            sent[rank] += slices[(rank - k) % ranks] + slices[(rank + 1 - k) % ranks]
    return sent


@pytest.mark.parametrize("n", [1, 5, 12, 13, 14, 15])
@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_the_ring_sends_what_its_steps_send(n, ranks):
    assert step("ring", ranks, WORK._replace(buckets=[n]))[2] == 4 * max(ring_by_rank(n, ranks))


def test_any_number_of_ranks_is_predicted_at_once():
    found = predictions(WORK, NETWORK, 5, [10**12], servers=10**6)
    assert len(found) == len({p.way for p in found}) == 5
    assert all(math.isfinite(p.seconds) and 0 <= p.efficiency < 1 for p in found)


def test_several_servers_divide_the_work():
    # 24 bytes of each of 2 servers for 2 workers; the first also tells the other whom to send to, and what to apply
    assert sent_by_server(WORK, 2, 2, 1) == (2 * 2 + 2 + 2, 2 * (40 + 24) + 2 * 40 + 40 + 16)
    seconds = 4 + 0.5 + 4 * (2 + 3) + (1.2 + 3) / 2
    assert step("server", 4, servers=2)[0] == pytest.approx(seconds, rel=1e-12)


def test_ways_without_enough_ranks_are_left_out():
    found = predictions(WORK, NETWORK, 5, [1, 2, 3, 8], servers=2, node_ranks=2)
    assert [p.ranks for p in found if p.way == "server"] == [1, 3, 8]
    assert [p.ranks for p in found if p.way == "shared memory"] == [1, 2]


def test_rows_and_efficiency_are_those_of_the_seconds():
    ring, server = (p for p in predictions(WORK, NETWORK, 5, [4]) if p.way in ("ring", "server"))
    assert ring.rows_per_second == pytest.approx(4 * 5 / ring.seconds)
    assert ring.efficiency == pytest.approx(7.0 / ring.seconds)
    assert server.rows_per_second == pytest.approx(3 * 5 / server.seconds)
    assert server.efficiency == pytest.approx(3 / 4 * 7.0 / server.seconds)


def test_an_asynchronous_server_saturates():
    rates = [p.rows_per_second for p in predictions(WORK, NETWORK, 5, [2, 3, 64, 1024]) if p.way.startswith("async")]
    assert rates[0] < rates[1] == pytest.approx(5 / (2 * (2 + 6) + 3))
    assert rates[1:] == pytest.approx([rates[1]] * 3)


def test_buckets_are_runs_of_entries_from_the_last_on():
    assert segments([0, 100, 300], 400, 4, least=400) == [(2, 3, 300, 400), (1, 2, 100, 300), (0, 1, 0, 100)]
    assert segments([0, 100, 300], 400, 4, least=401) == [(1, 3, 100, 400), (0, 1, 0, 100)]
    assert segments([0, 100, 300], 400, 4, least=10_000) == [(0, 3, 0, 400)]


# ---------------------------------------------------------------- predict_scaling


@pytest.fixture
def net():
    return fo.nn.Sequential([fo.nn.Dense(6, 5, "relu"), fo.nn.Dense(5, 3)], rng=0)


def hasty(net, **options):
    found = {"batch": 4, "ranks": [1, 2, 8], "latency": 1e-5, "bandwidth": 1e9, "seconds": 1e-9, "repeats": 1}
    return fo.parallel.predict_scaling(net, **{**found, **options})


def test_the_network_is_measured_and_left_as_it_is(net):
    before = copy.deepcopy(net)
    scaling = hasty(net)
    assert all((a == b).all() for a, b in zip(net.parameters(), before.parameters(), strict=True))
    assert min(scaling.work[:5]) > 0
    assert scaling.work.n_bytes == net.bind("mse").gradient.nbytes
    assert scaling.of("ring")[0].seconds == scaling.work.gradient + scaling.work.update
    assert [p.ranks for p in scaling.of("tree")] == [1, 2, 8]


def test_images_and_batch_norm_are_measured_too():
    layers = [fo.nn.Conv2d(1, 2, 3), fo.nn.BatchNorm(2), fo.nn.GlobalAvgPool2d(), fo.nn.Dense(2, 3)]
    work = measure_work(fo.nn.Sequential(layers, rng=0, input_shape=(6, 6, 1)), 4, "sgd", 1e-9, 1)
    assert min(work[:5]) > 0


def test_the_table_and_the_most_ranks_say_what_was_predicted(net):
    scaling = hasty(net, latency=1.0)
    table = scaling.table().splitlines()
    assert [line.split()[0] for line in table[2:]] == ["1", "2", "8"]
    assert "shared memory" in table[1]
    assert table[3].split()[3] == "-"  # of two ranks none share memory
    # efficiencies are measured, and on a busy machine may be anything above 0
    assert scaling.most_ranks("tree", 0.0) == 8
    assert scaling.most_ranks("tree", np.inf) == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch": 0}, "batch: expected a whole number of at least 1, got 0"),
        ({"ranks": []}, "ranks: expected some whole numbers of at least 1, got none"),
        ({"ranks": [2, 0]}, "ranks: expected a whole number of at least 1, got 0"),
        ({"ranks": [1.5]}, "ranks: expected a whole number"),
        ({"latency": -1e-6}, "latency: expected a finite number of at least 0"),
        ({"latency": "1e-6"}, "latency: expected a finite number"),
        ({"bandwidth": 0}, "bandwidth: expected a finite number above 0"),
        ({"bandwidth": np.inf}, "bandwidth: expected a finite number above 0"),
        ({"overhead": np.nan}, "overhead: expected a finite number of at least 0"),
        ({"servers": 0}, "servers: expected a whole number of at least 1"),
        ({"node_ranks": 0}, "node_ranks: expected a whole number of at least 1"),
        ({"seconds": 0}, "seconds: expected a finite number above 0"),
        ({"repeats": 0}, "repeats: expected a whole number of at least 1"),
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_are_refused(net, options, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}"):
        hasty(net, **options)


def test_a_number_of_ranks_stands_for_itself(net):
    assert [p.ranks for p in hasty(net, ranks=8).of("ring")] == [8]


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"^net: expected a Sequential, got list$"):
        hasty([])


@pytest.mark.parametrize("optimizer", ["newtoncg", "best", None])
def test_optimizers_that_do_not_fit_are_refused(net, optimizer):
    with pytest.raises(TypeError, match=r"^optimizer: expected"):
        hasty(net, optimizer=optimizer)
