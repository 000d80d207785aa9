"""The cases of fastopt.bench.pool2d."""

from fastopt.bench import pool2d

from . import benchmark_of

Cases = benchmark_of(pool2d)
