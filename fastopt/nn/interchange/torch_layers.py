"""Layers as modules of torch: a converter for each kind, and the chain that they stand in. Importing it loads torch.

Flatten counts the numbers of an image channel by channel there. Where a product follows, its columns move, and so do
the arrays of a BatchNorm between; everywhere else the image is turned before it is flattened.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fastopt.nn import layers as ours
from fastopt.nn.interchange import torch_modules as own
from fastopt.nn.interchange.flattening import channels_last_columns, order_matters
from fastopt.nn.layers import chain

ACTIVATIONS: dict[str, Callable] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # of slope 0.01 by default
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softmax": lambda: nn.Softmax(dim=1),
}
NAMES = {"gamma": "weight", "beta": "bias"}  # of arrays that torch calls otherwise


class Place(NamedTuple):
    """Where a layer stands."""

    name: str
    shape: tuple[int, ...]  # of a sample before it
    image: tuple[int, ...] | None  # whose numbers come flattened, channel by channel

    def theirs(self, array):
        """An array whose last axis is along our vector, along torch's."""
        return array if self.image is None else np.take(array, np.argsort(channels_last_columns(*self.image)), axis=-1)


def modules(layers, shape, place="layers", first=0) -> list:
    """The modules of a chain whose first layer takes `shape`; `place` and `first` number the layers in errors."""
    out, image = [], None
    for i, (layer, before) in enumerate(zip(layers, chain.shapes(layers, shape), strict=False)):
        here = Place(f"{place}.{first + i}", before, image)
        if isinstance(layer, ours.Flatten):
            image = before if order_matters(before) and _meets_columns(layers[i + 1 :]) else None
            out += _flatten(before, turn=order_matters(before) and image is None)
        elif here.name == "layers.0" and _takes_channels_first(layers):
            pass  # torch's images are so anyway
        elif type(layer) in CONVERTERS:
            made = CONVERTERS[type(layer)](layer, here)
            if not layer.trainable and not layer.layers:
                made = [module.requires_grad_(False) for module in made]
            out += made
            image = image if isinstance(layer, BY_COLUMN) else None
        else:
            known = ", ".join(sorted(kind.__name__ for kind in CONVERTERS))
            raise TypeError(
                f"{here.name}: expected one of {known}, got {type(layer).__name__}, which torch does not know"
            )
        if layer.activation != "identity":
            out.append(ACTIVATIONS[layer.activation]())
    return out


def _takes_channels_first(layers) -> bool:
    """Whether images come channels first: one turn is there for them, two in a row are `from_torch`'s turn back."""
    return [isinstance(layer, ours.ChannelsFirst) for layer in layers[:2]] in ([True], [True, False])


def _meets_columns(layers) -> bool:
    """Whether the next layer that is not column by column has a weight whose columns can move."""
    return isinstance(next((layer for layer in layers if not isinstance(layer, BY_COLUMN)), None), HAS_COLUMNS)


def _flatten(shape, turn) -> list:
    if len(shape) == 1:
        return []
    return [own.ChannelsLast(), nn.Flatten()] if turn else [nn.Flatten()]


def _tensor(array):
    """A copy of an array, as a tensor."""
    return torch.from_numpy(np.array(array, order="C"))


def _filled(module, arrays) -> list:
    """The module, with copies of the arrays for its parameters and buffers of these names."""
    for name, a in arrays.items():
        tensor = _tensor(a)
        trained = isinstance(getattr(module, name), nn.Parameter)
        setattr(module, name, nn.Parameter(tensor) if trained else tensor)
    return [module]


# ---------------------------------------------------------------- a converter for each kind of layer


def _dense(layer, here):
    return _pointwise(layer) if len(here.shape) == 3 else [layer.to_torch(image_shape=here.image)]


def _grouped_dense(layer, here):
    if len(here.shape) == 3:
        return _pointwise(layer)
    arrays = layer.arrays()
    return _filled(own.GroupedLinear(layer.in_features, layer.out_features, layer.groups, "bias" in arrays), arrays)


def _pointwise(layer):
    """A dense layer at every position of an image: a 1 x 1 convolution."""
    arrays = layer.arrays()
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, groups=layer.groups, bias="bias" in arrays)
    return _filled(conv, {**arrays, "weight": arrays["weight"][:, :, None, None]})


def _maxout(layer, here):
    arrays = layer.arrays()
    arrays["weight"] = here.theirs(arrays["weight"])
    return _filled(own.Maxout(layer.in_features, layer.out_features, layer.pieces, "bias" in arrays), arrays)


def _batch_norm(layer, here):
    arrays = {NAMES.get(name, name): here.theirs(a) for name, a in layer.arrays().items()}
    kind = nn.BatchNorm2d if len(here.shape) == 3 else nn.BatchNorm1d
    return _filled(kind(layer.in_features, layer.eps, layer.momentum, layer.affine), arrays)


def _windows(layer):
    return {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "ceil_mode")}


def _branches(kind, layer, here):
    branches, first = [], 0
    for branch in layer.branches:
        branches.append(nn.Sequential(*modules(branch, here.shape, here.name, first)))
        first += len(branch)
    return [kind(branches)]


CONVERTERS: dict[type, Callable] = {
    ours.Dense: _dense,
    ours.GroupedDense: _grouped_dense,
    ours.Maxout: _maxout,
    ours.Conv2d: lambda layer, here: [layer.to_torch()],
    ours.BatchNorm: _batch_norm,
    ours.Dropout: lambda layer, here: [nn.Dropout(layer.rate)],
    ours.MaxPool2d: lambda layer, here: [nn.MaxPool2d(**_windows(layer))],
    ours.AvgPool2d: lambda layer, here: [nn.AvgPool2d(**_windows(layer), count_include_pad=layer.count_include_pad)],
    ours.GlobalAvgPool2d: lambda layer, here: [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    ours.ChannelsFirst: lambda layer, here: [own.ChannelsLast()],
    ours.Residual: lambda layer, here: [own.Residual(nn.Sequential(*modules(layer.layers, here.shape, here.name)))],
    ours.Add: lambda layer, here: _branches(own.Add, layer, here),
    ours.Concat: lambda layer, here: _branches(own.Concat, layer, here),
    ours.Standardize: lambda layer, here: [own.Standardize(_tensor(layer.mean), _tensor(layer.scale))],
    ours.Whiten: lambda layer, here: [own.Whiten(_tensor(layer.mean), _tensor(layer.weight), layer.kind, layer.eps)],
    ours.RandomFlip: lambda layer, here: [own.RandomFlip(layer.horizontal, layer.vertical)],
    ours.RandomShift: lambda layer, here: [own.RandomShift(layer.height, layer.width)],
}
BY_COLUMN = (ours.BatchNorm, ours.Dropout)  # what they do to a column depends on no other one
HAS_COLUMNS = (ours.Dense, ours.Maxout)
