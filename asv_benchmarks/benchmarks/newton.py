"""The cases of fastopt.bench.newton."""

from fastopt.bench import newton

from . import benchmark_of

Cases = benchmark_of(newton)
