"""The cases of fastopt.bench.grouped_dense."""

from fastopt.bench import grouped_dense

from . import benchmark_of

Cases = benchmark_of(grouped_dense)
