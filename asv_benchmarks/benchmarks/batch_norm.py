"""The cases of fastopt.bench.batch_norm."""

from fastopt.bench import batch_norm

from . import benchmark_of

Cases = benchmark_of(batch_norm)
