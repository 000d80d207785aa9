"""Hessian-vector and Gauss-Newton products of networks, and steps of optim.NewtonCG."""

import numpy as np

import fastopt as fo
from fastopt._kernels import core

from . import DTYPES, THREADS, Timed, random
from .program import network


class Products(Timed):
    params = [THREADS, DTYPES, ["64-64-10", "784-256-128-10"], [32, 128]]
    param_names = ["threads", "dtype", "net", "batch"]

    def setup(self, threads, dtype, net, batch):
        fo.set_num_threads(threads)
        self.net = network(net, dtype)
        self.x, self.y = random(dtype, batch, self.net.in_features), np.arange(batch) % 10
        self.v = [random(dtype, *p.shape) for p in self.net.parameters()]
        self.training = core.Training(self.net._training_program, "cross_entropy", None, batch)

    def time_gradient(self, threads, dtype, net, batch):
        self.training.step(self.x, self.y)

    def time_hvp(self, threads, dtype, net, batch):
        self.training.hvp(self.x, self.y, self.v)

    def time_gauss_newton(self, threads, dtype, net, batch):
        self.training.hvp(self.x, self.y, self.v, gauss_newton=True)

    def time_public_hvp(self, threads, dtype, net, batch):
        self.net.hvp(self.x, self.y, self.v)


class NewtonCG(Timed):
    params = [THREADS, ["float32"], ["64-64-10"], [1000]]
    param_names = ["threads", "dtype", "net", "batch"]

    def setup(self, threads, dtype, net, batch):
        fo.set_num_threads(threads)
        self.net = network(net, dtype)
        self.start = [p.copy() for p in self.net.parameters()]
        self.x, self.y = random(dtype, batch, self.net.in_features), np.arange(batch) % 10

    def time_step(self, threads, dtype, net, batch):
        for p, start in zip(self.net.parameters(), self.start, strict=True):
            p[...] = start
        newton = fo.optim.NewtonCG(self.net.parameters(), max_iter=10)
        fo.nn.Trainer(self.net, "cross_entropy", newton, max_batch=batch).step(self.x, self.y)
