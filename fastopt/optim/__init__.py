"""Optimizers: torch.optim's names and defaults, NumPy arrays, updated in place."""

from fastopt.optim.optimizer import Optimizer
from fastopt.optim.rules import SGD, Adam

__all__ = ["SGD", "Adam", "Optimizer"]
