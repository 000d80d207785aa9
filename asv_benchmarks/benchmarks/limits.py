"""What the machine can do at most, tracked so that a slower machine is not taken for slower code."""

from fastopt.bench import limits

from . import THREADS


class Limits:
    params = [THREADS]
    param_names = ["threads"]
    unit = "GFLOP/s"

    def track_fma(self, threads):
        return limits.fma_rate(threads) / 1e9


class Read:
    params = [THREADS, list(limits.SIZES)]
    param_names = ["threads", "MiB"]
    unit = "GB/s"

    def track_read(self, threads, mib):
        return limits.read_rate(threads, mib) / 1e9
