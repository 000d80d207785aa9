"""How long steps of many ranks would take, from the times of one rank and of a message, before there are many.

- One process measures what a rank computes: forward and backward, the optimizer's step, adding and copying gradients.
  Nothing here needs MPI.
- A message takes latency + bytes / bandwidth. A rank sends one after the other and computes nothing meanwhile, so the
  predictions err to the slow side where a network carries several at a time.
- Messages and bytes are counted, not modeled: they are those that `DataParallel` and `ParameterServer` send.
"""

import copy
import timeit
from collections.abc import Callable
from math import ceil, log2
from typing import NamedTuple

import numpy as np

from fastopt._numbers import finite_number, whole_number
from fastopt.nn.sequential import Sequential
from fastopt.nn.trainer import Trainer
from fastopt.nn.tuning import calls_for
from fastopt.optim.named import optimizer_over
from fastopt.parallel.cuts import is_short, n_pieces, segments, size_of_part

HEADER = 40  # bytes before each message of a parameter server
COUNT = 8  # bytes that say what a worker's gradient counts
LR = 1e-9  # of steps that are timed: thousands of them on one batch do not end in denormals


class Network(NamedTuple):
    """What a message between two ranks takes, in seconds and bytes a second.

    Attributes
    ----------
    latency : float
        Seconds of an empty message.
    bandwidth : float
        Bytes a second of a long one.
    overhead : float
        Seconds a step that a rank spends besides computing, sending and waiting.
    """

    latency: float
    bandwidth: float
    overhead: float = 0.0

    def message(self, n_bytes) -> float:
        """Seconds of a message."""
        return self.latency + n_bytes / self.bandwidth

    def meeting(self, ranks) -> float:
        """Seconds until all ranks know of all: short messages along a tree of ranks."""
        return ceil(log2(ranks)) * self.latency


class Work(NamedTuple):
    """What one rank does in a step: seconds of it, and the gradient, in elements.

    Attributes
    ----------
    alone : float
        Seconds of a step of a Trainer.
    gradient, update : float
        Seconds of forward and backward, and of the optimizer's step.
    add, copy : float
        Seconds of adding two gradients, and of copying one.
    buckets : list of int
        Elements of the parts of the gradient that are summed one after the other.
    itemsize : int
        Bytes of an element.
    """

    alone: float
    gradient: float
    update: float
    add: float
    copy: float
    buckets: list[int]
    itemsize: int

    @property
    def size(self) -> int:
        """Elements of the gradient."""
        return sum(self.buckets)

    @property
    def n_bytes(self) -> int:
        """Bytes of the gradient."""
        return self.size * self.itemsize


class Prediction(NamedTuple):
    """A step of so many ranks.

    Attributes
    ----------
    way : str
        How gradients are summed, see `predict_scaling`.
    ranks : int
        All of them; servers count.
    seconds : float
        Of a step; of as many updates as there are workers where each makes its own.
    rows_per_second : float
        Of all ranks.
    efficiency : float
        Rows per second, over those of as many Trainers that work apart.
    messages, n_bytes : int
        That the rank which sends most sends in a step, besides the round that opens it.
    """

    way: str
    ranks: int
    seconds: float
    rows_per_second: float
    efficiency: float
    messages: int
    n_bytes: int


class Scaling(NamedTuple):
    """Predicted steps of a network by way and number of ranks.

    Attributes
    ----------
    batch : int
        Rows of a rank.
    work : Work
        What has been measured.
    network : Network
    predictions : list of Prediction
    """

    batch: int
    work: Work
    network: Network
    predictions: list[Prediction]

    def of(self, way) -> list[Prediction]:
        """The predictions of a way, by the number of ranks."""
        return [prediction for prediction in self.predictions if prediction.way == way]

    def most_ranks(self, way, efficiency=0.5) -> int:
        """The largest number of ranks that was asked for with at least this efficiency; 0 where there is none."""
        if not self.of(way):
            known = ", ".join(dict.fromkeys(p.way for p in self.predictions))
            raise ValueError(f"way: expected one of {known}, got {way!r}")
        return max((p.ranks for p in self.of(way) if p.efficiency >= efficiency), default=0)

    def table(self) -> str:
        """Rows per second and efficiency as text, a line for each number of ranks."""
        ways = list(dict.fromkeys(p.way for p in self.predictions))
        found = {(p.way, p.ranks): f"{p.rows_per_second:,.0f} ({p.efficiency:.0%})" for p in self.predictions}
        lines = ["rows per second (efficiency)", "ranks".rjust(7) + "".join(way.rjust(22) for way in ways)]
        for ranks in dict.fromkeys(p.ranks for p in self.predictions):
            lines.append(f"{ranks:7}" + "".join(found.get((way, ranks), "-").rjust(22) for way in ways))
        return "\n".join(lines)


def predict_scaling(
    net,
    batch,
    ranks,
    latency,
    bandwidth,
    *,
    overhead=0.0,
    optimizer="adam",
    servers=1,
    node_ranks=1,
    seconds=0.02,
    repeats=5,
) -> Scaling:
    """Predict steps of a network on many ranks from those of one, which are measured here.

    Parameters
    ----------
    net : Sequential
        Left as it is: a copy is measured, on as many threads as `get_num_threads` gives.
    batch : int
        Rows of a rank.
    ranks : int or iterable of int
        How many; all of them count, servers included.
    latency, bandwidth : float
        Seconds of an empty message between two ranks, and bytes a second of a long one.
    overhead : float
        Seconds a step that a rank spends besides; `measure_network` measures all three.
    optimizer : str
        Name of a rule.
    servers : int
        Ranks that hold the parameters, in the ways of a parameter server.
    node_ranks : int
        Ranks that see the same memory: those of one machine.
    seconds, repeats
        As of `nn.tune`.

    Returns
    -------
    Scaling

    Raises
    ------
    TypeError, ValueError
        A number that does not fit, or an optimizer that is none, or does not step by gradients.

    Notes
    -----
    With M ranks, a gradient of n bytes, latency a, bandwidth b, and k servers, the ways and what they send:

    - ``ordered``: `DataParallel` between machines. 2 (M - 1) messages of n/M bytes a rank for each piece of the
      gradient, or M - 1 of n bytes where it is short.
    - ``shared memory``: `DataParallel` on one machine, up to `node_ranks`. No messages: each rank reads a slice of all
      gradients and writes its sum to all, between two meetings.
    - ``ring``: 2 (M - 1) messages of n/M bytes a rank.
    - ``tree``: the sum goes up a binomial tree and down again, 2 log2(M) messages of n bytes one after the other.
    - ``server``: `ParameterServer` in step. A server gets n/k bytes from each of M - k workers and sends as many.
    - ``asynchronous server``: the same without waiting: rows per second are what the workers make, and at most what a
      server serves.

    Examples
    --------
    A cluster with 10 Gbit/s Ethernet:

    >>> import fastopt as fo
    >>> from fastopt.parallel import predict_scaling
    >>> net = fo.nn.Sequential([fo.nn.Dense(8, 4)], rng=0)
    >>> scaling = predict_scaling(net, 32, [1, 2, 64], latency=25e-6, bandwidth=1.2e9)
    >>> [(p.ranks, p.messages, p.n_bytes) for p in scaling.of("ring")]
    [(1, 0, 0), (2, 2, 192), (64, 126, 384)]
    """
    if not isinstance(net, Sequential):
        raise TypeError(f"net: expected a Sequential, got {type(net).__name__}")
    batch = whole_number("batch", batch, net.least_rows)
    everyones = sorted({whole_number("ranks", n) for n in (ranks if np.iterable(ranks) else [ranks])})
    if not everyones:
        raise ValueError("ranks: expected some whole numbers of at least 1, got none")
    network = Network(
        finite_number("latency", latency, 0),
        finite_number("bandwidth", bandwidth, above=0),
        finite_number("overhead", overhead, 0),
    )
    servers, node_ranks = whole_number("servers", servers), whole_number("node_ranks", node_ranks)
    seconds, repeats = finite_number("seconds", seconds, above=0), whole_number("repeats", repeats)
    work = measure_work(net, batch, optimizer, seconds, repeats)
    return Scaling(batch, work, network, predictions(work, network, batch, everyones, servers, node_ranks))


def predictions(work, network, batch, everyones, servers=1, node_ranks=1) -> list[Prediction]:
    """Predictions of all ways, as far as there are ranks for them."""
    found = []
    for way, step in WAYS.items():
        held = [servers] if way in SERVED else []
        for ranks in everyones:
            workers = max(ranks - sum(held), 0) if ranks > 1 else 1
            if not workers or (way == "shared memory" and ranks > node_ranks):
                continue
            alone = rank_alone(work, network), 0, 0
            time, messages, n_bytes = step(work, network, workers, *held) if ranks > 1 else alone
            rate = workers * batch / time
            found.append(Prediction(way, ranks, time, rate, rate * work.alone / batch / ranks, messages, n_bytes))
    return found


# ---------------------------------------------------------------- ways: seconds of a step, most messages and bytes


def rank_alone(work, network) -> float:
    """Seconds of what every rank does in a step."""
    return work.gradient + work.update + network.overhead


def ordered(work, network, ranks) -> tuple[float, int, int]:
    """`DataParallel` by messages."""
    time = rank_alone(work, network) + network.meeting(ranks)
    for piece, whole in pieces(work, ranks):
        elements, n = (piece, ranks - 1) if whole else (size_of_part(piece, ranks, 0), 2 * (ranks - 1))
        time += n * network.message(elements * work.itemsize) + (ranks - 1) * work.add * elements / work.size
    return time, *sent_by_ordered(work, ranks)


def pieces(work, ranks):
    """Elements of each piece of the gradient, and whether it goes whole to all ranks."""
    for bucket in work.buckets:
        n_bytes = bucket * work.itemsize
        parts = n_pieces(n_bytes)
        for part in range(parts):
            yield size_of_part(bucket, parts, part), is_short(n_bytes, ranks)


def sent_by_ordered(work, ranks, rank=0) -> tuple[int, int]:
    """Messages and bytes that a rank sends; rank 0 sends most."""
    messages = elements = 0
    for piece, whole in pieces(work, ranks):
        mine = size_of_part(piece, ranks, rank)
        messages += (1 if whole else 2) * (ranks - 1)
        # the slices of the others, and the sum of its own to each of them
        elements += (ranks - 1) * piece if whole else piece - mine + (ranks - 1) * mine
    return messages, elements * work.itemsize


def shared_memory(work, network, ranks) -> tuple[float, int, int]:
    """`DataParallel` on one machine: all read and write at the same time, each a slice of all gradients."""
    return rank_alone(work, network) + 2 * network.meeting(ranks) + work.copy, 0, 0


def ring(work, network, ranks) -> tuple[float, int, int]:
    """Slices go round and are added, and the sums go round; a rank sends all slices but one, twice."""
    n, slices = 2 * (ranks - 1), [size_of_part(work.size, ranks, part) for part in (0, ranks - 2, ranks - 1)]
    time = n * network.message(slices[0] * work.itemsize) + (ranks - 1) / ranks * work.add
    # the two that a rank does not send are neighbors, of the one that sends most the last two
    return rank_alone(work, network) + time, n, (2 * work.size - sum(slices[1:])) * work.itemsize


def tree(work, network, ranks) -> tuple[float, int, int]:
    """Gradients are added up a binomial tree and the sum is sent down; the root has a child a level."""
    levels = ceil(log2(ranks))
    time = levels * (2 * network.message(work.n_bytes) + work.add)
    return rank_alone(work, network) + time, levels, levels * work.n_bytes


def server(work, network, workers, servers) -> tuple[float, int, int]:
    """All workers send gradients to all servers, which update their shards and send them."""
    shard = work.n_bytes / servers
    time = 2 * max(workers, servers) * network.message(shard)
    time += ((workers - 1) * work.add + work.update) / servers
    return work.gradient + network.overhead + time, *sent_by_server(work, workers, servers, 1)


def asynchronous_server(work, network, workers, servers) -> tuple[float, int, int]:
    """Each worker sends, waits for its update and gets parameters; a server serves one at a time."""
    served = 2 * network.message(work.n_bytes / servers) + work.update / servers
    cycle = work.gradient + network.overhead + 2 * servers * network.message(work.n_bytes / servers)
    cycle += work.update / servers
    return max(cycle, workers * served), *sent_by_server(work, workers, servers, workers)


def sent_by_server(work, workers, servers, updates) -> tuple[int, int]:
    """Messages and bytes that the first server or a worker sends, for a batch of each worker and so many updates."""
    shard = work.size // servers * work.itemsize
    messages, n_bytes = 2 * workers, workers * (HEADER + shard)  # a header, and parameters
    # it tells every other server whom to send to, and which gradients to apply
    messages += (servers - 1) * (workers + 2 * updates)
    n_bytes += (servers - 1) * (workers * HEADER + updates * (HEADER + COUNT * workers))
    largest = -(-work.size // servers) * work.itemsize
    return max(messages, 2 * servers), max(n_bytes, workers * (HEADER + largest), servers * HEADER + work.n_bytes)


SERVED: dict[str, Callable] = {"server": server, "asynchronous server": asynchronous_server}
WAYS: dict[str, Callable] = {
    "ordered": ordered,
    "shared memory": shared_memory,
    "ring": ring,
    "tree": tree,
    **SERVED,
}

# ---------------------------------------------------------------- what one rank does


def measure_work(net, batch, optimizer, seconds=0.02, repeats=5) -> Work:
    """Median seconds of the parts of a step on random rows or images, which take turns."""
    net, rng = copy.deepcopy(net), np.random.default_rng(0)
    x = rng.standard_normal((batch, *net.input_shape)).astype(net.dtype)
    net.calibrate(x, batch_norm=False)
    y = np.zeros((batch, *net.output_shape), net.dtype)
    trainer = Trainer(net, "mse", _rule(net, optimizer), max_batch=batch)
    apart = copy.deepcopy(net)
    training, update = apart.bind("mse", max_batch=batch), _rule(apart, optimizer)
    update.bind(training.grads)
    total, gradient = training.gradient.copy(), training.gradient
    calls = {
        "alone": lambda: trainer.step(x, y),
        "gradient": lambda: training.step(x, y),
        "update": update.step,
        "add": lambda: np.add(total, gradient, out=total),
        "copy": lambda: np.copyto(total, gradient),
    }
    timers = {name: timeit.Timer(call) for name, call in calls.items()}
    numbers = {name: calls_for(timer, seconds) for name, timer in timers.items()}
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(repeats):
        for name, timer in timers.items():
            times[name].append(timer.timeit(numbers[name]) / numbers[name])
    cut = segments(training.program.starts, gradient.size, gradient.itemsize)
    medians = {name: float(np.median(found)) for name, found in times.items()}
    return Work(**medians, buckets=[end - start for *_, start, end in cut], itemsize=gradient.itemsize)


def _rule(net, optimizer):
    """An optimizer over the network, by the name of a rule that steps by gradients."""
    if not isinstance(optimizer, str):
        raise TypeError(f"optimizer: expected the name of a rule, like 'adam', got {type(optimizer).__name__}")
    made = optimizer_over(net.parameters(), optimizer)
    if made.compiled_update is None:
        raise TypeError(
            f"optimizer: expected one that steps by gradients, got {type(made).__name__}, whose steps need the "
            "curvature of all rows"
        )
    for group in made.param_groups:
        group["lr"] = LR
    return made
