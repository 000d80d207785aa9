"""The cases of fastopt.bench.dropout."""

from fastopt.bench import dropout

from . import benchmark_of

Cases = benchmark_of(dropout)
