"""What the machine can do at most, so that a slower machine is not taken for slower code; how near kernels come."""

from fastopt.bench import limits
from fastopt.bench._measure import floor
from fastopt.bench.kernels import KERNELS

from . import THREADS, VERSION, seconds

LARGEST = {name: kernel.case(kernel.sizes[-1], "float32") for name, kernel in KERNELS.items()}


class Limits:
    params = [THREADS]
    param_names = ["threads"]
    unit = "GFLOP/s"
    version = VERSION

    def track_fma(self, threads):
        return limits.fma_rate(threads) / 1e9


class Read:
    params = [THREADS, list(limits.SIZES)]
    param_names = ["threads", "MiB"]
    unit = "GB/s"
    version = VERSION

    def track_read(self, threads, mib):
        return limits.read_rate(threads, mib) / 1e9


class Kernels:
    """The share of the limit that each kernel reaches at its largest size, in float32; 1 is the machine's."""

    params = [THREADS, [name for name, case in LARGEST.items() if case.moved]]
    param_names = ["threads", "kernel"]
    unit = "of the limit"
    version = VERSION

    def track_share(self, threads, kernel):
        case = LARGEST[kernel]
        least = floor(case, limits.limits(threads))
        if not least:
            raise ValueError(f"{kernel}: no limit is known of {case.what}")  # asv would take NaN for unchanged
        return least / seconds(case, threads)["ours"]
