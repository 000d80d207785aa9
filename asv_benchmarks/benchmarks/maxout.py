"""functional.maxout and maxout_backward."""

import fastopt as fo

from . import DTYPES, THREADS, Timed, random


class Maxout(Timed):
    params = [THREADS, DTYPES, [(32, 256), (256, 1024)], [2, 4]]
    param_names = ["threads", "dtype", "shape", "pieces"]

    def setup(self, threads, dtype, shape, pieces):
        fo.set_num_threads(threads)
        n, n_out = shape
        self.x, self.dx = (random(dtype, n, n_out * pieces) for _ in range(2))
        self.y, self.dy = random(dtype, n, n_out), random(dtype, n, n_out)

    def time_maxout(self, threads, dtype, shape, pieces):
        fo.functional.maxout(self.x, pieces, self.y)

    def time_maxout_backward(self, threads, dtype, shape, pieces):
        fo.functional.maxout_backward(self.dy, self.x, pieces, self.dx)
