"""Networks: layers, Sequential, the Trainer, and model files."""

import importlib
from typing import TYPE_CHECKING

from fastopt.nn import models
from fastopt.nn.conditioning import condition_number
from fastopt.nn.csv_logger import CSVLogger
from fastopt.nn.layers import (
    Add,
    AvgPool2d,
    BatchNorm,
    ChannelsFirst,
    Concat,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    GroupedDense,
    Layer,
    Maxout,
    MaxPool2d,
    RandomFlip,
    RandomShift,
    Residual,
    Standardize,
    Whiten,
)
from fastopt.nn.loading import load, read_metadata
from fastopt.nn.losses import CrossEntropy, Huber
from fastopt.nn.noise import GradientNoise, gradient_noise
from fastopt.nn.sequential import Sequential
from fastopt.nn.summaries import summary
from fastopt.nn.trainer import History, Trainer
from fastopt.nn.tuning import Tuning, tune

if TYPE_CHECKING:
    from fastopt.nn.interchange.from_torch import from_torch
    from fastopt.nn.interchange.onnx_read import from_onnx
    from fastopt.nn.interchange.onnx_write import to_onnx

__all__ = [
    "Add",
    "AvgPool2d",
    "BatchNorm",
    "CSVLogger",
    "ChannelsFirst",
    "Concat",
    "Conv2d",
    "CrossEntropy",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GradientNoise",
    "GroupedDense",
    "History",
    "Huber",
    "Layer",
    "MaxPool2d",
    "Maxout",
    "RandomFlip",
    "RandomShift",
    "Residual",
    "Sequential",
    "Standardize",
    "Trainer",
    "Tuning",
    "Whiten",
    "condition_number",
    "from_onnx",
    "from_torch",
    "gradient_noise",
    "load",
    "models",
    "read_metadata",
    "summary",
    "to_onnx",
    "tune",
]

INTERCHANGE = {"from_torch": "from_torch", "from_onnx": "onnx_read", "to_onnx": "onnx_write"}  # loaded when asked for


def __getattr__(name):
    if name in INTERCHANGE:
        return getattr(importlib.import_module(f"fastopt.nn.interchange.{INTERCHANGE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *INTERCHANGE})
