"""The cases of fastopt.bench.optim."""

from fastopt.bench import optim

from . import benchmark_of

Cases = benchmark_of(optim)
