"""What ranks send is what predictions count, and every rank measures the same network."""

from collections import Counter

import numpy as np
import pytest

from fastopt import nn
from fastopt.parallel import Communicator, DataParallel, ParameterServer, measure_network
from fastopt.parallel.communicator import NUMBERS
from fastopt.parallel.cuts import BUCKET, PIECE, SHORT
from fastopt.parallel.scaling import Network, measure_work, predictions, sent_by_ordered

NETS = {
    "short": [(6, 5, "relu"), (5, 3)],
    "sliced": [(70, 61, "relu"), (61, 3)],
    "buckets": [(512, 601, "relu"), (601, 520, "relu"), (520, 3)],
    "pieces": [(1100, 1001, "relu"), (1001, 3)],
}


class Counting:
    """A communicator of mpi4py that counts what this rank sends."""

    def __init__(self, mpi):
        self.mpi, self.calls, self.n_bytes = mpi, Counter(), Counter()

    def __getattr__(self, name):
        value = getattr(self.mpi, name)
        if name not in ("Isend", "Irecv", "Iallgather", "Allreduce"):
            return value

        def call(array, *arguments):
            self.calls[name] += 1
            self.n_bytes[name] += getattr(array, "nbytes", 0)
            return value(array, *arguments)

        return call


@pytest.fixture
def apart(monkeypatch):
    """Every rank as if it had a machine of its own."""
    make = Communicator.__init__

    def init(self, comm=None):
        make(self, comm)
        self.node_rank, self.node_size = 0, 1

    monkeypatch.setattr(Communicator, "__init__", init)


def network(kind, dtype):
    return nn.Sequential([nn.Dense(*widths) for widths in NETS[kind]], rng=0, dtype=dtype)


def predicted(work, ranks, way):
    (found,) = (p for p in predictions(work, Network(1e-5, 1e9), 2, [ranks]) if p.way == way)
    return found


@pytest.mark.parametrize("kind", NETS)
def test_a_step_sends_the_messages_and_bytes_that_are_predicted(comm, kind, dtype, apart):
    net = network(kind, dtype)
    parallel = DataParallel(nn.Trainer(net, "mse", "sgd"))
    x, y = np.zeros((2, *net.input_shape)), np.zeros((2, 3))
    parallel.step(x, y)
    counting = parallel.comm.mpi = Counting(parallel.comm.mpi)
    parallel.step(x, y)
    parallel.comm.mpi = counting.mpi
    work = measure_work(net, 2, "sgd", 1e-9, 1)
    assert (counting.calls["Isend"], counting.n_bytes["Isend"]) == sent_by_ordered(work, comm.size, comm.rank)
    assert counting.calls["Irecv"] == counting.calls["Isend"]
    assert (counting.calls["Iallgather"], counting.n_bytes["Iallgather"]) == (1, 8 * (1 + NUMBERS))
    most = comm.tell("sent", counting.calls["Isend"], counting.n_bytes["Isend"]).max(axis=0)
    found = predicted(work, comm.size, "ordered")
    assert most.tolist() == [found.messages, found.n_bytes]


def test_the_networks_of_these_tests_are_cut_in_all_ways(dtype):
    short, sliced, buckets, pieces = (measure_work(network(kind, dtype), 2, "sgd", 1e-9, 1) for kind in NETS)
    assert short.n_bytes * 3 <= SHORT < sliced.n_bytes
    assert len(buckets.buckets) > 1
    assert buckets.n_bytes > BUCKET
    assert max(pieces.buckets) * pieces.itemsize > PIECE


@pytest.mark.parametrize("kind", ["short", "sliced"])
def test_servers_and_workers_in_step_send_what_is_predicted(comm, kind, dtype):
    if comm.size == 1:
        pytest.skip("a parameter server takes two ranks")
    sent = []
    for steps in (1, 3):  # what a run begins and ends with is the same
        net = network(kind, dtype)
        server = ParameterServer(net, "sgd", max_staleness=0, loss="mse")
        x = np.zeros((2 * steps * (comm.size - 1), *net.input_shape))
        counting = server.comm.mpi = Counting(server.comm.mpi)
        server.fit(x, np.zeros((len(x), 3)), batch_size=2)
        server.comm.mpi = counting.mpi
        sent.append([counting.calls["Isend"], counting.n_bytes["Isend"]])
    a_step = (np.array(sent[1]) - sent[0]) / 2
    most = comm.tell("sent", *a_step).max(axis=0)
    found = predicted(measure_work(net, 2, "sgd", 1e-9, 1), comm.size, "server")
    assert most.tolist() == [found.messages, found.n_bytes]


def test_all_ranks_measure_the_same_network(comm):
    found = measure_network(repeats=5)
    assert len({tuple(numbers) for numbers in comm.tell("measured", *found).tolist()}) == 1
    assert found.bandwidth > 0
    assert found.overhead >= 0
    assert (found.latency > 0) == (comm.size > 1)
