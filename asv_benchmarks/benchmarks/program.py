"""Whole networks through the compiled program: predict, and training steps with Adam."""

from itertools import pairwise

import numpy as np

import fastopt as fo

from . import THREADS, Timed, random

NETS = ["64-64-10", "64-128-64-10", "784-256-128-10", "784-512-512-10"]


def network(name, dtype):
    widths = [int(n) for n in name.split("-")]
    hidden = [fo.nn.Dense(*pair, activation="relu") for pair in pairwise(widths[:-1])]
    return fo.nn.Sequential([*hidden, fo.nn.Dense(*widths[-2:])], rng=0, dtype=dtype)


class Predict(Timed):
    params = [THREADS, ["float32"], NETS, [1, 32]]
    param_names = ["threads", "dtype", "net", "batch"]

    def setup(self, threads, dtype, net, batch):
        fo.set_num_threads(threads)
        self.net = network(net, dtype)
        self.x = random(dtype, batch, self.net.in_features)

    def time_predict(self, threads, dtype, net, batch):
        self.net.predict(self.x)


class Step(Timed):
    params = [THREADS, ["float32"], NETS, [1, 32, 128]]
    param_names = ["threads", "dtype", "net", "batch"]

    def setup(self, threads, dtype, net, batch):
        fo.set_num_threads(threads)
        net = network(net, dtype)
        adam = fo.optim.Adam(net.parameters(), lr=1e-7)  # so small that the steps do not end in denormals
        self.trainer = fo.nn.Trainer(net, "cross_entropy", adam, max_batch=batch)
        self.x, self.y = random(dtype, batch, net.in_features), np.arange(batch) % 10

    def time_step(self, threads, dtype, net, batch):
        self.trainer.step(self.x, self.y)
