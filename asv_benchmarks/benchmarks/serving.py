"""The cases of fastopt.bench.serving."""

from fastopt.bench import serving

from . import benchmark_of

Cases = benchmark_of(serving)
