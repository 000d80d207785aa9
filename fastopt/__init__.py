"""Neural networks and second-order models inside CPU-only Python programs.

NumPy arrays in, NumPy arrays out. `functional` holds one checked function per
kernel, `optim` the optimizers, `nn` layers, networks and the Trainer, `metrics` scores,
`newton` the second order. `estimators` has scikit-learn's interface; it loads when it is asked for.
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
    if name == "estimators":  # which needs scikit-learn
        return importlib.import_module("fastopt.estimators")
    raise AttributeError(f"module 'fastopt' has no attribute {name!r}")
