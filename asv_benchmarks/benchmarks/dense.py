"""functional.dense and dense_backward with bias and ReLU, square weights."""

import numpy as np

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class Dense(Timed):
    params = [THREADS, DTYPES, [256, 1024], [1, 8, 32, 256]]
    param_names = ["threads", "dtype", "size", "batch"]

    def setup(self, threads, dtype, size, batch):
        fo.set_num_threads(threads)
        self.x, self.y = random(dtype, batch, size), random(dtype, batch, size)
        self.weight, self.bias = random(dtype, size, size), random(dtype, size)

    def time_dense(self, threads, dtype, size, batch):
        fo.functional.dense(self.x, self.weight, self.bias, "relu", self.y)


class DenseBackward(Timed):
    params = [THREADS, ["float32"], [256, 1024], [1, 32, 256]]
    param_names = ["threads", "dtype", "size", "batch"]

    def setup(self, threads, dtype, size, batch):
        fo.set_num_threads(threads)
        self.x, self.z, self.dy, self.dx = (random(dtype, batch, size) for _ in range(4))
        self.weight, self.dw = random(dtype, size, size), random(dtype, size, size)
        self.db = np.ones(size, dtype)

    def time_dense_backward(self, threads, dtype, size, batch):
        fo.functional.dense_backward(self.dy, self.x, self.weight, self.z, "relu", self.dx, self.dw, self.db)
