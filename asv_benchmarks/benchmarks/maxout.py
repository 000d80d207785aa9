"""The cases of fastopt.bench.maxout."""

from fastopt.bench import maxout

from . import benchmark_of

Cases = benchmark_of(maxout)
