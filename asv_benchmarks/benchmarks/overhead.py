"""The cases of fastopt.bench.overhead."""

from fastopt.bench import overhead

from . import benchmark_of

Cases = benchmark_of(overhead)
