"""fastopt's own times by thread count, dtype and size; `python -m fastopt bench` compares with peers.

What is shared here: random arrays whose pages have been touched, and settings that keep a
whole `asv run` under five minutes. Every class sets the thread count in `setup`.
"""

import numpy as np

THREADS = [1, 2]
DTYPES = ["float32", "float64"]


class Timed:
    """Settings of every benchmark: one process, up to seven repeats in at most a second."""

    rounds, repeat, sample_time, warmup_time, timeout = 1, (3, 7, 0.5), 0.01, 0.05, 60


def random(dtype, *shape):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)
