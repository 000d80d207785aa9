"""The cases of fastopt.bench.losses."""

from fastopt.bench import losses

from . import benchmark_of

Cases = benchmark_of(losses)
