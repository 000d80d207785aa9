"""Networks: layers, Sequential, the Trainer, and model files."""

from fastopt.nn.conditioning import condition_number
from fastopt.nn.layers import (
    AvgPool2d,
    BatchNorm,
    Dense,
    Dropout,
    GlobalAvgPool2d,
    GroupedDense,
    Layer,
    Maxout,
    MaxPool2d,
    Residual,
    Standardize,
    Whiten,
)
from fastopt.nn.losses import CrossEntropy, Huber
from fastopt.nn.sequential import Sequential, load
from fastopt.nn.summaries import summary
from fastopt.nn.trainer import History, Trainer
from fastopt.nn.tuning import Tuning, tune

__all__ = [
    "AvgPool2d",
    "BatchNorm",
    "CrossEntropy",
    "Dense",
    "Dropout",
    "GlobalAvgPool2d",
    "GroupedDense",
    "History",
    "Huber",
    "Layer",
    "MaxPool2d",
    "Maxout",
    "Residual",
    "Sequential",
    "Standardize",
    "Trainer",
    "Tuning",
    "Whiten",
    "condition_number",
    "load",
    "summary",
    "tune",
]
