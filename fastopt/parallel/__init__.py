"""Training on the ranks of an MPI job, on one machine or many.

Needs mpi4py and an MPI (`pip install "fastopt[mpi]"`); `import fastopt` never loads them.
"""

from fastopt.parallel.communicator import Communicator
from fastopt.parallel.data_parallel import DataParallel
from fastopt.parallel.grid import Grid
from fastopt.parallel.model_parallel import ColumnParallelDense, ShareRows, column_parallel, one_weird_trick
from fastopt.parallel.parameter_server import ParameterServer

__all__ = [
    "ColumnParallelDense",
    "Communicator",
    "DataParallel",
    "Grid",
    "ParameterServer",
    "ShareRows",
    "column_parallel",
    "one_weird_trick",
]
