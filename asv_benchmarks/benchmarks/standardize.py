"""The cases of fastopt.bench.standardize."""

from fastopt.bench import standardize

from . import benchmark_of

Cases = benchmark_of(standardize)
