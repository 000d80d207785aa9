"""Training on the ranks of an MPI job, on one machine or many.

Needs mpi4py and an MPI (`pip install "fastopt[mpi]"`); `import fastopt` never loads them. Planning needs neither, so
what trains is loaded when it is asked for, and no plan starts MPI.
"""

import importlib
import importlib.util
import warnings

from fastopt.parallel.scaling import predict_scaling

HOMES = {
    "ColumnParallelDense": "model_parallel",
    "Communicator": "communicator",
    "DataParallel": "data_parallel",
    "Grid": "grid",
    "ParameterServer": "parameter_server",
    "ShareRows": "model_parallel",
    "column_parallel": "model_parallel",
    "measure_network": "network",
    "one_weird_trick": "model_parallel",
}
__all__ = [*HOMES, "predict_scaling"]

if importlib.util.find_spec("mpi4py") is None:
    warnings.warn(
        'fastopt.parallel needs mpi4py 4 and an MPI, which are not installed: pip install "fastopt[mpi]"; without '
        "them there is predict_scaling alone",
        stacklevel=2,
    )


def __getattr__(name):
    if name in HOMES:
        return getattr(importlib.import_module(f"fastopt.parallel.{HOMES[name]}"), name)
    raise AttributeError(f"module 'fastopt.parallel' has no attribute {name!r}")
