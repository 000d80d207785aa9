"""What the machine can do at most, tracked so that a slower machine is not taken for slower code."""

import numpy as np

import fastopt as fo
from fastopt._kernels import core

from . import THREADS


class Limits:
    params = [THREADS]
    param_names = ["threads"]

    def setup(self, threads):
        fo.set_num_threads(threads)

    def track_fma(self, threads):
        return max(core.fma_rate() for _ in range(30)) / 1e9

    track_fma.unit = "GFLOP/s"


class Read:
    params = [THREADS, [1, 16, 256]]
    param_names = ["threads", "MiB"]

    def setup(self, threads, mib):
        fo.set_num_threads(threads)
        self.x = np.ones(mib << 18, np.float32)

    def track_read(self, threads, mib):
        return max(core.read_rate(self.x, max(1, 64 // mib)) for _ in range(7)) / 1e9

    track_read.unit = "GB/s"
