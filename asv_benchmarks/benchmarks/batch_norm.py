"""functional.batch_norm, batch_norm_backward, batch_norm_inference and batch_statistics."""

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class BatchNorm(Timed):
    params = [THREADS, DTYPES, [(32, 128), (128, 512), (1024, 512)]]
    param_names = ["threads", "dtype", "shape"]

    def setup(self, threads, dtype, shape):
        fo.set_num_threads(threads)
        self.x, self.dy, self.y, self.dx = (random(dtype, *shape) for _ in range(4))
        self.gamma, self.beta, self.dgamma, self.dbeta = (random(dtype, shape[1]) for _ in range(4))
        self.mean, self.var = fo.functional.batch_statistics(self.x)

    def time_batch_norm(self, threads, dtype, shape):
        fo.functional.batch_norm(self.x, self.gamma, self.beta, 1e-5, self.y)

    def time_batch_norm_backward(self, threads, dtype, shape):
        outputs = self.dx, self.dgamma, self.dbeta
        fo.functional.batch_norm_backward(self.dy, self.x, self.gamma, self.mean, self.var, 1e-5, *outputs)

    def time_batch_norm_inference(self, threads, dtype, shape):
        fo.functional.batch_norm_inference(self.x, self.gamma, self.beta, self.mean, self.var, 1e-5, self.y)

    def time_batch_statistics(self, threads, dtype, shape):
        fo.functional.batch_statistics(self.x)


class ChannelStatistics(Timed):
    params = [THREADS, DTYPES, [(32, 16, 28, 28), (32, 256, 7, 7)]]
    param_names = ["threads", "dtype", "shape"]

    def setup(self, threads, dtype, shape):
        fo.set_num_threads(threads)
        self.x = random(dtype, *shape)

    def time_batch_statistics(self, threads, dtype, shape):
        fo.functional.batch_statistics(self.x)
