"""The cases of fastopt.bench.train."""

from fastopt.bench import train

from . import benchmark_of

Cases = benchmark_of(train)
