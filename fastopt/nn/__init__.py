"""Networks: layers, Sequential, the Trainer, and model files."""

from fastopt.nn import models
from fastopt.nn.conditioning import condition_number
from fastopt.nn.csv_logger import CSVLogger
from fastopt.nn.interchange.from_torch import from_torch
from fastopt.nn.interchange.onnx_read import from_onnx
from fastopt.nn.interchange.onnx_write import to_onnx
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
