"""Mean loss and its gradient."""

import numpy as np

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class Loss(Timed):
    params = [
        THREADS,
        DTYPES,
        ["cross_entropy", "mse", "mae", "huber", "binary_cross_entropy"],
        [(128, 10), (1024, 1000)],
    ]
    param_names = ["threads", "dtype", "loss", "shape"]

    def setup(self, threads, dtype, loss, shape):
        fo.set_num_threads(threads)
        self.call, self.z, self.grad = getattr(fo.functional, loss), random(dtype, *shape), random(dtype, *shape)
        self.targets = np.arange(shape[0]) % shape[1] if loss == "cross_entropy" else random(dtype, *shape)
        if loss == "binary_cross_entropy":
            self.targets = (self.targets > 0).astype(dtype)

    def time_loss(self, threads, dtype, loss, shape):
        self.call(self.z, self.targets, self.grad)
