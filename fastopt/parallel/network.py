"""What a message between two ranks of this job takes, for `predict_scaling`."""

import time

import numpy as np

from fastopt.nn import Dense, Sequential, Trainer
from fastopt.parallel.communicator import wait
from fastopt.parallel.cuts import PIECE
from fastopt.parallel.data_parallel import DataParallel
from fastopt.parallel.scaling import Network, measure_work, predictions

SHORTEST, LONGEST = 8, PIECE  # bytes of the messages that are timed
TAG = 2 << 14  # beyond those of sums


def measure_network(comm=None, repeats=50) -> Network:
    """Measure messages between the ranks of this job; all of them call it, and all get the same numbers.

    Each rank exchanges messages with the one half the job away, all at the same time, as in a step: with as many
    ranks a machine as train later, the bandwidth is what each has of the machine's link.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; all of the job by default.
    repeats : int
        Messages of each length, of which the median counts.

    Returns
    -------
    Network
        `latency`, `bandwidth` and `overhead`; ``predict_scaling(net, batch, ranks, **network._asdict())`` takes them.
        On one rank, which sends nothing, messages take no time.

    Examples
    --------
    >>> from fastopt.parallel import measure_network
    >>> network = measure_network(repeats=3)
    >>> network.latency >= 0 and network.bandwidth > 0
    True
    """
    net = Sequential([Dense(1, 1)], rng=0)
    parallel = DataParallel(Trainer(net, "mse", "adam", max_batch=1), comm)
    ranks = parallel.comm.size
    short, long = (_seconds_of_exchange(parallel.comm, n, repeats) for n in (SHORTEST, LONGEST))
    network = Network(short, (LONGEST - SHORTEST) / max(long - short, 1e-9)) if ranks > 1 else Network(0.0, 1e30)
    x, y = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    step = _median(parallel.comm, lambda: parallel.step(x, y), repeats)
    ways = predictions(measure_work(net, 1, "adam"), network, 1, [ranks], node_ranks=ranks)
    modeled = next(p for p in ways if p.way == way_of(parallel.comm))
    told = parallel.comm.tell("overhead", step - modeled.seconds)
    return network._replace(overhead=max(0.0, float(np.median(told))))


def way_of(comm) -> str:
    """How `DataParallel` sums on these ranks, as `predict_scaling` names it."""
    return "shared memory" if 1 < comm.size == comm.node_size else "ordered"


def _seconds_of_exchange(comm, n, repeats) -> float:
    """Median seconds of a message of n bytes to the rank half the job away, and of one from there; of the slowest."""
    half = comm.size // 2
    to, source = (comm.rank + half) % comm.size, (comm.rank - half) % comm.size
    sent, received = np.zeros(n, np.uint8), np.zeros(n, np.uint8)

    def exchange():
        if half:
            wait(comm.receive(received, source, TAG), comm.send(sent, to, TAG), n_bytes=n)

    return _median(comm, exchange, repeats)


def _median(comm, call, repeats) -> float:
    """Median seconds of a call that all ranks make, on the rank where it takes longest."""
    times = []
    for _ in range(repeats):
        comm.tell("measure")
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(comm.tell("measured", float(np.median(times))).max())
