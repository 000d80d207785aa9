"""The cases of fastopt.bench.dense."""

from fastopt.bench import dense

from . import benchmark_of

Cases = benchmark_of(dense)
