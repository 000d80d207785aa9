"""functional.standardize."""

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class Standardize(Timed):
    params = [THREADS, DTYPES, [(1, 64), (1024, 512)]]
    param_names = ["threads", "dtype", "shape"]

    def setup(self, threads, dtype, shape):
        fo.set_num_threads(threads)
        self.x, self.out = random(dtype, *shape), random(dtype, *shape)
        self.mean, self.scale = random(dtype, shape[1]), random(dtype, shape[1])

    def time_standardize(self, threads, dtype, shape):
        fo.functional.standardize(self.x, self.mean, self.scale, self.out)
