"""Layers, a file a family; what each is to networks, files and tables stands in `layer.py`."""

from fastopt.nn.layers.add import Add
from fastopt.nn.layers.augment import RandomFlip, RandomShift
from fastopt.nn.layers.batch_norm import BatchNorm
from fastopt.nn.layers.chain import inference, named, shapes, walk
from fastopt.nn.layers.channels_first import ChannelsFirst
from fastopt.nn.layers.concat import Concat
from fastopt.nn.layers.conv2d import Conv2d
from fastopt.nn.layers.dense import Dense, GroupedDense
from fastopt.nn.layers.dropout import Dropout
from fastopt.nn.layers.flatten import Flatten
from fastopt.nn.layers.layer import LAYERS, ArraySpec, Fixed, Layer
from fastopt.nn.layers.maxout import Maxout
from fastopt.nn.layers.pool2d import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from fastopt.nn.layers.residual import Residual
from fastopt.nn.layers.standardize import FromData, Standardize
from fastopt.nn.layers.whiten import Whiten

__all__ = [
    "LAYERS",
    "Add",
    "ArraySpec",
    "AvgPool2d",
    "BatchNorm",
    "ChannelsFirst",
    "Concat",
    "Conv2d",
    "Dense",
    "Dropout",
    "Fixed",
    "Flatten",
    "FromData",
    "GlobalAvgPool2d",
    "GroupedDense",
    "Layer",
    "MaxPool2d",
    "Maxout",
    "RandomFlip",
    "RandomShift",
    "Residual",
    "Standardize",
    "Whiten",
    "inference",
    "named",
    "shapes",
    "walk",
]
