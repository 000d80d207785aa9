"""How a case is measured, by `bench` and over commits alike.

- Sides take turns, REPEATS times at least SECONDS each after a warm-up; medians count.
- Everyone gets the same number of threads.
- The limit of a case is the larger of FLOP / FMA peak and bytes / read bandwidth, both measured in the
  same run; bytes count from 1 MiB on (what a core reads from its L1 is not measured). Where reading is not
  what takes the time, a case brings a side of its own that moves its memory.
"""

import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

import fastopt as fo
from fastopt.bench import limits
from fastopt.bench._cases import Case
from fastopt.nn.tuning import calls_for

REPEATS, SECONDS = 7, 0.02
PAUSE = 0.15  # idle threads of other runtimes spin: OpenMP's for about 8 ms after a region, OpenBLAS's for 100


def seconds(case: Case, threads: int) -> dict[str, float]:
    """Median seconds of a call by side, as in `Case.sides`; peers that are not installed are left out."""
    calls = {}
    with equal_threads(threads):
        for name in case.sides:
            try:
                calls[name] = case.call(name)
            except ImportError:
                if name == "ours":
                    raise
    return measure(calls, threads)


def measure(calls: dict[str, Callable], threads: int) -> dict[str, float]:
    """Median seconds of each call; the calls take turns. Runtimes loaded while they were prepared are held here."""
    with equal_threads(threads):
        timers = {name: call if hasattr(call, "timeit") else timeit.Timer(call) for name, call in calls.items()}
        number = {name: calls_for(timer, SECONDS) for name, timer in timers.items()}
        times: dict[str, list[float]] = {name: [] for name in timers}
        for _ in range(REPEATS):
            for name, timer in timers.items():
                time.sleep(PAUSE if threads > 1 and len(timers) > 1 else 0)
                timer.timeit(1)  # wakes the team, refills the caches
                times[name].append(timer.timeit(number[name]) / number[name])
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def equal_threads(n) -> Iterator[None]:
    """n threads for fastopt, for every OpenMP and BLAS loaded so far, and for torch."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(n), fo.num_threads(n):
        if sys.modules.get("torch"):
            sys.modules["torch"].set_num_threads(n)
        yield


def floor(case: Case, best: dict) -> float:
    """The least seconds that a machine of these limits needs for a case; 0 where none is known."""
    dtype = np.dtype(case.dtype)
    size = case.moved * dtype.itemsize
    smaller = [mib for mib in limits.SIZES if mib << 20 <= size]  # read as fast as this much, or more slowly
    moved = size / best[smaller[-1]] if smaller else 0.0
    return max(moved, case.flops / best["fma"] * dtype.itemsize / 4)  # the peak is float32's
