"""The cases of fastopt.bench.conv2d."""

from fastopt.bench import conv2d

from . import benchmark_of

Cases = benchmark_of(conv2d)
