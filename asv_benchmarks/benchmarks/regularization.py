"""A training step whose weights are penalized or bounded, beside one that is free."""

import numpy as np

import fastopt as fo

from . import THREADS, Timed, random

OPTIONS = {"none": {}, "l1": {"l1": 1e-4}, "l2": {"l2": 1e-4}, "max_norm": {"max_norm": 3.0}}


class Step(Timed):
    params = [THREADS, ["float32"], list(OPTIONS)]
    param_names = ["threads", "dtype", "option"]

    def setup(self, threads, dtype, option):
        fo.set_num_threads(threads)
        layers = [fo.nn.Dense(a, b, "relu", **OPTIONS[option]) for a, b in ((784, 256), (256, 128))]
        net = fo.nn.Sequential([*layers, fo.nn.Dense(128, 10, **OPTIONS[option])], rng=0, dtype=dtype)
        adam = fo.optim.Adam(net.parameters(), lr=1e-7)  # so small that the steps do not end in denormals
        self.trainer = fo.nn.Trainer(net, "cross_entropy", adam, max_batch=128)
        self.x, self.y = random(dtype, 128, 784), np.arange(128) % 10

    def time_step(self, threads, dtype, option):
        self.trainer.step(self.x, self.y)
