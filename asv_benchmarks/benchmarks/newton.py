"""newton.glm: whole fits, and what they are made of: a pass with the gradient, one with the Hessian too."""

import numpy as np

import fastopt as fo
from fastopt._kernels import core

from . import DTYPES, THREADS, Timed, random


def counts(n):
    return np.random.default_rng(1).poisson(1.0, n).astype(float)


TARGETS = {
    "gaussian": counts,
    "binomial": lambda n: np.minimum(counts(n), 1),
    "poisson": counts,
    "multinomial": lambda n: np.arange(n) % 5,
}


class Fit(Timed):
    params = [THREADS, list(TARGETS), [(20_000, 20), (4_000, 200)]]
    param_names = ["threads", "family", "shape"]

    def setup(self, threads, family, shape):
        fo.set_num_threads(threads)
        self.x, self.y = random("float64", *shape) / 10, TARGETS[family](shape[0])
        self.far = self.x + 100

    def time_glm(self, threads, family, shape):
        fo.newton.glm(self.x, self.y, family)

    def time_glm_of_far_columns(self, threads, family, shape):
        fo.newton.glm(self.far, self.y, family)


class Pass(Timed):
    params = [THREADS, DTYPES, [(100_000, 50), (20_000, 300)]]
    param_names = ["threads", "dtype", "shape"]

    def setup(self, threads, dtype, shape):
        fo.set_num_threads(threads)
        n, d = shape
        self.data = core.GlmData("binomial", random("float64", n, d), TARGETS["binomial"](n), None, 1, False)
        self.theta, self.grad, self.hessian = np.zeros((1, d)), np.zeros((1, d)), np.zeros((d, d), dtype)
        self.data.value(self.theta, self.grad)

    def time_gradient(self, threads, dtype, shape):
        self.data.value(self.theta, self.grad)

    def time_product(self, threads, dtype, shape):
        self.data.product(self.theta, self.grad)

    def time_gradient_and_hessian(self, threads, dtype, shape):
        self.data.value(self.theta, self.grad, self.hessian)

    def time_hessian(self, threads, dtype, shape):
        self.data.hessian(self.hessian)
