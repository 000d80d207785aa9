"""One optimizer step, gradients given: a single tensor, and 200 small ones."""

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class OneTensor(Timed):
    params = [THREADS, DTYPES, ["SGD", "Adam"], [1_000, 100_000, 1_000_000, 4_000_000]]
    param_names = ["threads", "dtype", "rule", "size"]

    def setup(self, threads, dtype, rule, size):
        fo.set_num_threads(threads)
        self.params_, self.grads = [random(dtype, size)], [random(dtype, size)]
        options = {"momentum": 0.9} if rule == "SGD" else {}
        self.optimizer = getattr(fo.optim, rule)(self.params_, lr=1e-3, **options)
        self.optimizer.step(self.grads)

    def time_step(self, threads, dtype, rule, size):
        self.optimizer.step(self.grads)


class ManyTensors(Timed):
    params = [THREADS, ["float32"], [1_000]]
    param_names = ["threads", "dtype", "size"]

    def setup(self, threads, dtype, size):
        fo.set_num_threads(threads)
        self.grads = [random(dtype, size) for _ in range(200)]
        self.optimizer = fo.optim.Adam([random(dtype, size) for _ in range(200)])
        self.bound = fo.optim.Adam([random(dtype, size) for _ in range(200)])
        self.bound.bind(self.grads)

    def time_step(self, threads, dtype, size):
        self.optimizer.step(self.grads)

    def time_bound_step(self, threads, dtype, size):
        self.bound.step()
