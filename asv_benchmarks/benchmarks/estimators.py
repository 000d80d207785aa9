"""The cases of fastopt.bench.estimators."""

from fastopt.bench import estimators

from . import benchmark_of

Cases = benchmark_of(estimators)
