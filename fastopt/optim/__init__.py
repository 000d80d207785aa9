"""Optimizers: torch.optim's names and defaults, NumPy arrays, updated in place."""

from fastopt.optim.newton_cg import NewtonCG
from fastopt.optim.optimizer import Optimizer
from fastopt.optim.param_groups import groups
from fastopt.optim.python_rule import PythonRule
from fastopt.optim.rules import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lion, NAdam, RAdam, RMSprop

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "NewtonCG",
    "Optimizer",
    "PythonRule",
    "RAdam",
    "RMSprop",
    "groups",
]
