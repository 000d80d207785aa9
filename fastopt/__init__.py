"""Neural networks and second-order models inside CPU-only Python programs.

NumPy arrays in, NumPy arrays out. `functional` holds one checked function per
kernel, `optim` the optimizers, `nn` layers, networks and the Trainer, `metrics` scores,
`newton` the second order. `lowrank` makes networks smaller, `estimators` has scikit-learn's
interface, `parallel` trains on the ranks of an MPI job; these three load when they are asked for.
"""

import importlib

from fastopt import functional, metrics, newton, nn, optim, schedules
from fastopt._version import __version__
from fastopt.threads import config, get_num_threads, num_threads, set_num_threads, show_config

__all__ = [
    "__version__",
    "config",
    "functional",
    "get_num_threads",
    "metrics",
    "newton",
    "nn",
    "num_threads",
    "optim",
    "schedules",
    "set_num_threads",
    "show_config",
]


def __getattr__(name):
    if name in ("estimators", "lowrank", "parallel"):
        return importlib.import_module(f"fastopt.{name}")
    raise AttributeError(f"module 'fastopt' has no attribute {name!r}")
