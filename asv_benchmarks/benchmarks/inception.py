"""The cases of fastopt.bench.inception."""

from fastopt.bench import inception

from . import benchmark_of

Cases = benchmark_of(inception)
