"""functional.dropout and dropout_backward."""

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class Dropout(Timed):
    params = [THREADS, DTYPES, [(32, 256), (1000, 1000)]]
    param_names = ["threads", "dtype", "shape"]

    def setup(self, threads, dtype, shape):
        fo.set_num_threads(threads)
        self.x, self.y, self.dy, self.dx = (random(dtype, *shape) for _ in range(4))

    def time_dropout(self, threads, dtype, shape):
        fo.functional.dropout(self.x, 0.3, 1, 2, self.y)

    def time_dropout_backward(self, threads, dtype, shape):
        fo.functional.dropout_backward(self.dy, 0.3, 1, 2, self.dx)
