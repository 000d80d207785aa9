"""The cases of fastopt.bench.program."""

from fastopt.bench import program

from . import benchmark_of

Cases = benchmark_of(program)
