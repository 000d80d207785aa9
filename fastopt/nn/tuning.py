"""Which batch size and how many threads serve a network best on this machine, by measuring.

Rows per second rise with the batch until the machine is busy; the knee is the smallest
batch that comes within SHARE of the most. Beyond it a larger batch only adds latency.
"""

import copy
import timeit
from typing import NamedTuple

import numpy as np

from fastopt._numbers import whole_number
from fastopt.nn.trainer import Trainer
from fastopt.optim.rules import SGD
from fastopt.threads import get_num_threads, num_threads

SHARE = 0.9
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Tuning(NamedTuple):
    """Rows per second of a network by batch size and thread count.

    Attributes
    ----------
    what : str
        predict or train.
    batch_sizes, threads : tuple of int
    rows_per_second : ndarray, shape (batch sizes, threads)
    """

    what: str
    batch_sizes: tuple[int, ...]
    threads: tuple[int, ...]
    rows_per_second: np.ndarray

    def knee(self, threads) -> int:
        """The smallest batch size with at least nine tenths of the most rows per second at this thread count."""
        rates = self.rows_per_second[:, self.threads.index(threads)]
        return self.batch_sizes[int(np.argmax(rates >= SHARE * rates.max()))]

    def table(self) -> str:
        """Rows per second as text, the knee of each thread count marked with a star."""
        knees = [self.knee(n) for n in self.threads]
        lines = [f"{self.what}: rows per second; * is the knee, {SHARE:.0%} of the most"]
        lines.append("batch".rjust(7) + "".join(f"{n} thread{'s' * (n > 1)}".rjust(16) for n in self.threads))
        for size, rates in zip(self.batch_sizes, self.rows_per_second, strict=True):
            cells = [f"{rate:,.0f}{'*' if size == knee else ' '}" for rate, knee in zip(rates, knees, strict=True)]
            lines.append(f"{size:7}" + "".join(cell.rjust(16) for cell in cells))
        return "\n".join(lines)

    def plot(self, path) -> None:
        """Draw rows per second over batch size, a line for each thread count; needs matplotlib."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
        for n, rates in zip(self.threads, self.rows_per_second.T, strict=True):
            (line,) = ax.plot(self.batch_sizes, rates, marker=".", label=f"{n} thread{'s' * (n > 1)}")
            knee = self.knee(n)
            ax.plot(knee, rates[self.batch_sizes.index(knee)], "o", color=line.get_color(), markersize=9)
        ax.set_xscale("log", base=2)
        ax.set(xlabel="Batch size", ylabel="Rows per second", title=f"{self.what}; the large dots are the knees")
        ax.set_xticks(self.batch_sizes, [str(size) for size in self.batch_sizes])
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(matplotlib.ticker.EngFormatter())
        ax.grid(alpha=0.25)
        ax.legend()
        figure.savefig(path, dpi=150)
        plt.close(figure)


def tune(net, *, train=False, batch_sizes=None, threads=None, seconds=0.02, repeats=5) -> Tuning:
    """Measure rows per second of a network over batch sizes and thread counts, on random rows or images.

    Parameters
    ----------
    net : Sequential
        Left as it is: a copy is measured.
    train : bool
        Measure training steps with momentum and mean squared error instead of `predict`.
    batch_sizes : iterable of int, optional
        By default powers of two to 1024; to train a network with `BatchNorm`, from 2 on.
    threads : iterable of int, optional
        By default 1 and what `get_num_threads` gives.
    seconds : float
        Least time of one measurement, after a warm-up.
    repeats : int
        Measurements of each pair, of which the median counts; the pairs take turns.

    Returns
    -------
    Tuning

    Raises
    ------
    ValueError
        A batch size or thread count below 1, or none.

    Examples
    --------
    >>> import fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(8, 4)], rng=0)
    >>> tuning = fo.nn.tune(net, batch_sizes=[1, 8], threads=[1], seconds=0.001, repeats=1)
    >>> tuning.rows_per_second.shape
    (2, 1)
    """
    least = net.least_rows if train else 1
    sizes = _counts("batch_sizes", [n for n in BATCHES if n >= least] if batch_sizes is None else batch_sizes)
    threads = _counts("threads", (1, get_num_threads()) if threads is None else threads)
    net, rng = copy.deepcopy(net), np.random.default_rng(0)
    x = rng.standard_normal((max(sizes), *net.input_shape)).astype(net.dtype)
    net.calibrate(x, batch_norm=False)
    y = np.zeros((len(x), *net.output_shape), net.dtype)
    trainer = Trainer(net, "mse", SGD(net.parameters(), lr=1e-9, momentum=0.9), max_batch=max(sizes)) if train else None

    def call(n):
        rows, targets = x[:n], y[:n]
        return (lambda: trainer.step(rows, targets)) if trainer else (lambda: net.predict(rows))

    pairs = [(n, count) for count in threads for n in sizes]
    timers, calls = {}, {}
    times: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    for n, count in pairs:
        with num_threads(count):
            timers[n, count] = timeit.Timer(call(n))
            calls[n, count] = calls_for(timers[n, count], seconds)
    for _ in range(repeats):
        for n, count in pairs:
            with num_threads(count):
                times[n, count].append(timers[n, count].timeit(calls[n, count]) / calls[n, count])
    rates = np.array([[n / np.median(times[n, count]) for count in threads] for n in sizes])
    return Tuning("train" if train else "predict", sizes, threads, rates)


def _counts(name, values) -> tuple[int, ...]:
    values = sorted({whole_number(name, n) for n in values})
    if not values:
        raise ValueError(f"{name}: expected a whole number of at least 1, got none")
    return tuple(values)


def calls_for(timer, seconds) -> int:
    """How many calls take so many seconds, after a first one to warm up."""
    timer.timeit(1)
    number = 1
    while (spent := timer.timeit(number)) < seconds:
        number = max(2 * number, int(1.2 * number * seconds / max(spent, 1e-6)))
    return number
