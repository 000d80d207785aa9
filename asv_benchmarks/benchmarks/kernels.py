"""A benchmark for each kernel of fastopt.bench.kernels."""

from fastopt.bench.kernels import KERNELS

from . import benchmark_of_kernel

globals().update({name: benchmark_of_kernel(name, kernel) for name, kernel in KERNELS.items()})
