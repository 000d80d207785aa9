"""The cases of fastopt.bench.lowrank."""

from fastopt.bench import lowrank

from . import benchmark_of

Cases = benchmark_of(lowrank)
