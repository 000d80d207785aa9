"""functional.activation over a whole array."""

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class Activation(Timed):
    names = ["relu", "tanh", "sigmoid", "gelu", "silu", "softmax"]
    params = [THREADS, DTYPES, names, [100_000]]
    param_names = ["threads", "dtype", "name", "size"]

    def setup(self, threads, dtype, name, size):
        fo.set_num_threads(threads)
        self.x, self.y = random(dtype, size // 100, 100), random(dtype, size // 100, 100)

    def time_activation(self, threads, dtype, name, size):
        fo.functional.activation(self.x, name, self.y)
