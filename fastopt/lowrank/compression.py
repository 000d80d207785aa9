"""What `compress` returns: the network, what became of each layer, and how well and how fast it does."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastopt.lowrank.budgets import Budget, stored_bytes
from fastopt.lowrank.latency import Timing
from fastopt.nn.sequential import Sequential

HEAD = ("layer", "method", "rank", "error", "µs before", "after", "noise", "bytes before", "after")


class Row(NamedTuple):
    """A layer, and what stands in its place.

    Attributes
    ----------
    layer : str
        Its place, as model files name it, and its kind.
    method : str or None
        None for a layer that stays.
    rank : int, tuple or None
    error : float
        Of its outputs on samples of X that its factors were not made by: the norm of the differences, relative to
        that of the outputs, as the relative errors of decompositions.
    before, after : Timing
    bytes_before, bytes_after, multiply_adds_before, multiply_adds_after : int
    degeneracy : float or None
        Of a CP decomposition: the sum of the squared norms of its terms, relative to that of the weights.
    converged : bool or None
        Of a CP decomposition: whether its error had stopped falling after the 100 sweeps that it is given.
    """

    layer: str
    method: str | None
    rank: int | tuple[int, int] | None
    error: float
    before: Timing
    after: Timing
    bytes_before: int
    bytes_after: int
    multiply_adds_before: int
    multiply_adds_after: int
    degeneracy: float | None
    converged: bool | None


class Estimate(NamedTuple):
    """A choice of ranks that no other beats: seconds of a call, and the sum of the squares of the layers' errors."""

    seconds: float
    error: float


@dataclass(frozen=True, eq=False)
class Compression:
    """A compressed network, and how it came about.

    Attributes
    ----------
    network : Sequential
        It can be trained further, saved and folded as any other.
    compressed : Sequential
        A network of its own: that before fine-tuning.
    budget : Latency, MultiplyAdds or Bytes
    rows : list of Row
        A line a layer that could have been replaced.
    before, after : Timing
        Of the whole network, measured in turns.
    cost_before, cost_after : int or float
        What the budget limits.
    scores : dict of str to dict
        Of the network "before", "compressed" and "tuned", as far as there was one: `loss` and, of classes,
        `accuracy`.
    measured_on : str
        Which data the scores are of: "validation", or "X" where none was given.
    frontier : list of Estimate
        By rising time: what other budgets would give, as estimated.
    """

    network: Sequential
    compressed: Sequential
    budget: Budget
    rows: list[Row]
    before: Timing
    after: Timing
    cost_before: float
    cost_after: float
    scores: dict[str, dict[str, float]]
    measured_on: str
    frontier: list[Estimate]

    def table(self) -> str:
        """A line a layer, one of the whole network, and one of the budget."""
        lines = [HEAD, *map(_cells, self.rows)]
        kept = stored_bytes(self.network)
        total = kept + sum(row.bytes_before - row.bytes_after for row in self.rows), kept
        noise = max(self.before.noise, self.after.noise)
        lines.append(
            ("network", "", "", "", _us(self.before.seconds), _us(self.after.seconds), _us(noise), *map(_count, total))
        )
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
        left = 2  # columns of text
        text = [
            "  ".join(
                cell.ljust(width) if i < left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*text, self._met()])

    def _met(self) -> str:
        shown, limit = self.budget.shown, self.budget.shown(self.budget.limit)
        if self.cost_before <= self.budget.limit:
            return f"budget {limit}: met before, {shown(self.cost_before)}; nothing was changed"
        return f"budget {limit}: {shown(self.cost_before)} before, {shown(self.cost_after)} after"

    def plot(self, path) -> None:
        """Draw accuracy, or the loss, over latency; needs matplotlib.

        Points are the network before, compressed and fine-tuned, as measured; the line is the estimated squared error
        of the layers' outputs at other latencies.
        """
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
        what = "accuracy" if "accuracy" in self.scores["before"] else "loss"
        times = {"before": self.before, "compressed": self.after, "tuned": self.after}
        for (name, found), marker in zip(self.scores.items(), "osD", strict=False):
            timing = times[name]
            ax.errorbar(timing.seconds * 1e6, found[what], xerr=timing.noise * 1e6, fmt=marker, label=name, capsize=3)
        ax.set(xlabel="Microseconds of a call", ylabel=f"{what.capitalize()} on {self.measured_on}", xlim=(0, None))
        if what == "accuracy":  # a difference of a few samples should not fill the picture
            low, high = ax.get_ylim()
            ax.set_ylim(low - 0.02, high + 0.02)
        if self.frontier:
            errors = ax.twinx()
            seconds, sums = np.array(self.frontier).T
            errors.step(seconds * 1e6, sums, where="post", color="gray", linewidth=1, label="estimated error")
            errors.set(ylabel="Sum of the layers' squared errors", ylim=(0, min(sums.max(), 1.0) or None))
        ax.grid(alpha=0.25)
        figure.legend(loc="outside upper center", ncols=4)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _cells(row):
    rank = "" if row.rank is None else "x".join(map(str, np.atleast_1d(row.rank)))
    noise = max(row.before.noise, row.after.noise)
    error = "" if row.method is None else f"{row.error:.2g}"
    times = [_us(seconds) for seconds in (row.before.seconds, row.after.seconds, noise)]
    method = row.method or ""
    if row.degeneracy is not None:
        method += f", degeneracy {row.degeneracy:.2g}" + ("" if row.converged else ", not converged")
    return (row.layer, method, rank, error, *times, _count(row.bytes_before), _count(row.bytes_after))


def _us(seconds) -> str:
    return f"{seconds * 1e6:.4g}"


def _count(n) -> str:
    return f"{n:,}"
