"""The cases of fastopt.bench.parallel, on ranks of one thread; skipped where there is no mpi4py or no launcher."""

from fastopt.bench import parallel

from . import benchmark_of


class Cases(benchmark_of(parallel)):
    def setup(self, threads, case):
        try:
            parallel.require_ranks(threads)
        except ImportError as error:
            raise NotImplementedError(error) from error
