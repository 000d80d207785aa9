"""The cases of fastopt.bench.activations."""

from fastopt.bench import activations

from . import benchmark_of

Cases = benchmark_of(activations)
