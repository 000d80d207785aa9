"""Decompositions of weights: seconds, and the relative errors that these buy."""

import numpy as np

import fastopt as fo

from . import THREADS

CASES = {
    "truncated_svd 4096x1024, rank 64": ((4096, 1024), lambda W: fo.lowrank.truncated_svd(W, 64)),
    "two_factor 256x3x3x256, rank 96": ((256, 3, 3, 256), lambda W: fo.lowrank.two_factor(W, 96)),
    "tucker2 256x3x3x256, ranks 96": ((256, 3, 3, 256), lambda W: fo.lowrank.tucker2(W, 96)),
    "cp 64x64x3x3, rank 32, 50 sweeps": (
        (64, 64, 3, 3),
        lambda T: fo.lowrank.cp(T, 32, tol=0, max_sweeps=50, restarts=1),
    ),
}


class Decompositions:
    params = [THREADS, list(CASES)]
    param_names = ["threads", "case"]

    def setup(self, threads, case):
        shape, self.call = CASES[case]
        self.weights = np.random.default_rng(0).standard_normal(shape)

    def time_decomposition(self, threads, case):
        with fo.num_threads(threads):
            self.call(self.weights)

    def track_relative_error(self, threads, case):
        with fo.num_threads(threads):
            return self.call(self.weights).relative_error
