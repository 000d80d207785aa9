"""The cases of fastopt.bench.regularization."""

from fastopt.bench import regularization

from . import benchmark_of

Cases = benchmark_of(regularization)
