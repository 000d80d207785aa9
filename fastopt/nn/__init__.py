"""Networks: layers, Sequential, the Trainer, and model files."""

from fastopt.nn.layers import Dense, GroupedDense, Layer, Maxout, Residual, Standardize
from fastopt.nn.losses import CrossEntropy, Huber
from fastopt.nn.sequential import Sequential, load
from fastopt.nn.trainer import History, Trainer
from fastopt.nn.tuning import Tuning, tune

__all__ = [
    "CrossEntropy",
    "Dense",
    "GroupedDense",
    "History",
    "Huber",
    "Layer",
    "Maxout",
    "Residual",
    "Sequential",
    "Standardize",
    "Trainer",
    "Tuning",
    "load",
    "tune",
]
