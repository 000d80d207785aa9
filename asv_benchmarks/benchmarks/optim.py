"""One optimizer step, gradients given: a single tensor, 200 small ones, every rule on a large one."""

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class OneTensor(Timed):
    params = [THREADS, DTYPES, [1_000, 10_000, 100_000, 1_000_000, 16_000_000]]
    param_names = ["threads", "dtype", "size"]

    def setup(self, threads, dtype, size):
        fo.set_num_threads(threads)
        self.grads = [random(dtype, size)]
        self.optimizer = fo.optim.Adam([random(dtype, size)])
        self.optimizer.step(self.grads)

    def time_step(self, threads, dtype, size):
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


class Rules(Timed):
    params = [THREADS, ["SGD", "Adagrad", "RMSprop", "Adadelta", "AdamW", "RAdam", "NAdam", "Adamax", "Lion"]]
    param_names = ["threads", "rule"]

    def setup(self, threads, rule):
        fo.set_num_threads(threads)
        self.grads = [random("float32", 16_000_000)]
        options = {"momentum": 0.9} if rule == "SGD" else {}
        self.optimizer = getattr(fo.optim, rule)([random("float32", 16_000_000)], lr=1e-3, **options)
        self.optimizer.step(self.grads)

    def time_step(self, threads, rule):
        self.optimizer.step(self.grads)


class Hygiene(Timed):
    params = [THREADS, ["max_norm", "clip_value", "check_finite", "accumulate", "ema_decay"]]
    param_names = ["threads", "option"]
    values = {"max_norm": 1.0, "clip_value": 1.0, "check_finite": "raise", "accumulate": 4, "ema_decay": 0.999}

    def setup(self, threads, option):
        fo.set_num_threads(threads)
        self.grads = [random("float32", 1_000_000)]
        self.optimizer = fo.optim.Adam([random("float32", 1_000_000)], **{option: self.values[option]})
        self.optimizer.step(self.grads)

    def time_step(self, threads, option):
        self.optimizer.step(self.grads)
