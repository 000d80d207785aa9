"""functional.grouped_dense and grouped_dense_backward with bias and ReLU, square weights."""

import numpy as np

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class GroupedDense(Timed):
    params = [THREADS, DTYPES, [(256, 4), (1024, 32)], [1, 32, 256]]
    param_names = ["threads", "dtype", "size_groups", "batch"]

    def setup(self, threads, dtype, size_groups, batch):
        fo.set_num_threads(threads)
        size, self.groups = size_groups
        self.x, self.y = random(dtype, batch, size), random(dtype, batch, size)
        self.weight, self.bias = random(dtype, size, size // self.groups), random(dtype, size)

    def time_grouped_dense(self, threads, dtype, size_groups, batch):
        fo.functional.grouped_dense(self.x, self.weight, self.bias, self.groups, "relu", self.y)


class GroupedDenseBackward(Timed):
    params = [THREADS, ["float32"], [(256, 4), (1024, 32)], [1, 32, 256]]
    param_names = ["threads", "dtype", "size_groups", "batch"]

    def setup(self, threads, dtype, size_groups, batch):
        fo.set_num_threads(threads)
        size, self.groups = size_groups
        self.x, self.z, self.dy, self.dx = (random(dtype, batch, size) for _ in range(4))
        self.weight, self.dw = (random(dtype, size, size // self.groups) for _ in range(2))
        self.db = np.ones(size, dtype)

    def time_grouped_dense_backward(self, threads, dtype, size_groups, batch):
        fo.functional.grouped_dense_backward(
            self.dy, self.x, self.weight, self.z, self.groups, "relu", self.dx, self.dw, self.db
        )
