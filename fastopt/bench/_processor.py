"""`python -m fastopt tune --machine`: which numbers of the table of processors suit this machine.

- Each entry of the table (_kernels/processors.py) has the work that it serves and a few candidates, the table's own
  among them. Candidates take turns on every work, on one thread, in rounds; the CPU time of the thread counts, so
  other programs disturb little.
- A candidate's gain is the table's time divided by its own, in the same round, as the geometric mean over the works.
  It replaces the table's if it gains MARGIN in three rounds of four: less is noise. Of several, the one that gains most
  does.
"""

import time
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

import fastopt as fo
from fastopt._kernels import core, processor
from fastopt.bench._cases import random
from fastopt.nn.tuning import calls_for

ROUNDS, SECONDS, MARGIN = 11, 0.01, 1.02


class Measured(NamedTuple):
    """What came of one entry.

    Attributes
    ----------
    name : str
    own : int
        The table's number.
    values : tuple of int
        The candidates, in order.
    works : tuple of str
    gains : ndarray, shape (rounds, works, values)
        Above 1 where a candidate is faster than the table's number.
    """

    name: str
    own: int
    values: tuple[int, ...]
    works: tuple[str, ...]
    gains: np.ndarray

    @property
    def best(self) -> int:
        """The number that suits the machine; the table's, unless another gains beyond the noise."""
        overall = geometric_mean(self.gains, axis=1)
        clear = np.quantile(overall, 0.25, axis=0) >= MARGIN
        return self.values[int(np.argmax(np.where(clear, np.median(overall, axis=0), 0)))] if clear.any() else self.own

    def table(self) -> str:
        """Median gains as text, a line for each work; * marks the table's number."""
        heads = [self.shown(value) + ("*" if value == self.own else "") for value in self.values]
        lines = [f"{self.name}: speed, 1 is the table's number, *"]
        lines += [f"{'':28}" + "".join(f"{head:>12}" for head in heads)]
        overall = geometric_mean(self.gains, axis=1)
        rows = [*zip(self.works, np.median(self.gains, axis=0), strict=True), ("all", np.median(overall, axis=0))]
        lines += [f"{work:28}" + "".join(f"{gain:12.2f}" for gain in gains) for work, gains in rows]
        return "\n".join([*lines, f"{self.shown(self.best)} {'stays' if self.best == self.own else 'is better'}"])

    def shown(self, value) -> str:
        """A number as people write it; bytes in the largest unit that leaves it whole."""
        units = ((1 << 20, " MiB"), (1 << 10, " KiB")) if self.name.endswith("_bytes") and value else ()
        return next((f"{value // size}{unit}" for size, unit in units if value % size == 0), str(value))


def geometric_mean(gains, axis) -> np.ndarray:
    return np.exp(np.log(gains).mean(axis=axis))


# ---------------------------------------------------------------- entries: the work that they serve, their candidates


def updates() -> dict[str, Callable]:
    """Steps whose arrays lie in L2, in L3 and in memory."""
    calls = {}
    for rule, n in (("Adam", 100_000), ("Adam", 1_000_000), ("Adam", 4_000_000), ("SGD", 1_000_000)):
        optimizer = getattr(fo.optim, rule)([random(n)], lr=1e-6, **({"momentum": 0.9} if rule == "SGD" else {}))
        optimizer.bind([random(n)])
        calls[f"{rule}, {n}"] = optimizer.step
    return calls


def few_rows() -> dict[str, Callable]:
    """Products of one row and of a few with weights of 1 to 64 MiB."""
    calls: dict[str, Callable] = {}
    for n in (512, 1024, 1792, 2048, 4096):
        weight = random(n, n)
        for rows in (1, 4):
            x, out = random(rows, n), np.empty((rows, n), np.float32)
            calls[f"{n}x{n}, batch {rows}"] = partial(fo.functional.dense, x, weight, out=out)
    return calls


def images() -> dict[str, Callable]:
    """Predictions of many images, as many together as stay in L2."""

    def layers(size, n, kernel):
        chain = [fo.nn.Conv2d(n, n, kernel, padding=kernel // 2, activation="relu") for _ in range(4)]
        net, x = fo.nn.Sequential(chain, rng=0, input_shape=(size, size, n)).fold(), random(32, size, size, n)
        return lambda: net.predict(x)

    return {f"4 layers {n}x{s}x{s}, {k}x{k}": layers(s, n, k) for s, n, k in ((32, 32, 3), (14, 64, 3), (28, 16, 1))}


def mib(*counts) -> tuple[int, ...]:
    return tuple(int(count * (1 << 20)) for count in counts)


ENTRIES: dict[str, tuple[Callable[[], dict[str, Callable]], tuple[int, ...]]] = {
    "update_prefetch": (updates, (0, 32, 64, 128, 256, 512, 1024)),
    "dot_prefetch_bytes": (few_rows, mib(0, 8, 16, 24, 32, 64, 1024)),
    "l2_bytes": (images, mib(0.25, 0.5, 1, 2, 4, 8)),
}


# ---------------------------------------------------------------- measuring


def tune_processor() -> Iterator[Measured]:
    """Measure one entry after the other; the numbers in use are put back after each."""
    for name, (works, candidates) in ENTRIES.items():
        yield measure(name, works(), candidates)


def measure(name, calls, candidates) -> Measured:
    """Gains of the candidates of one entry, the others as the table has them."""
    table, before = processor.tuning._asdict(), core.get_tuning()
    values = tuple(sorted({*candidates, table[name]}))
    times = np.empty((ROUNDS, len(calls), len(values)))
    try:
        with fo.num_threads(1):
            core.set_tuning(table)
            timers = [timeit.Timer(call, timer=time.thread_time) for call in calls.values()]
            numbers = [calls_for(timer, SECONDS) for timer in timers]
            for i, j, k in np.ndindex(times.shape):
                core.set_tuning(table | {name: values[k]})
                timers[j].timeit(1)  # the caches are as this number leaves them
                times[i, j, k] = timers[j].timeit(numbers[j]) / numbers[j]
    finally:
        core.set_tuning(before)
    own = values.index(table[name])
    return Measured(name, table[name], values, tuple(calls), times[:, :, own : own + 1] / times)
