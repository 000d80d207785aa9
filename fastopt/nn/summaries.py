"""A network as a table: what each layer takes, gives, holds and costs. Nothing is allocated for that."""

import copy
import math

import numpy as np

from fastopt.nn.layers import chain
from fastopt.nn.sequential import Sequential

HEAD = ("layer", "shape", "depth", "parameters", "multiply-adds", "bytes")


def summary(net, input_shape=None) -> str:
    """A table of the layers of a network, for printing.

    Parameters
    ----------
    net : Sequential or list of Layer
        Layers need not be in a network: their arrays are counted as those of a float32 network, and not made.
    input_shape : tuple of int, optional
        Of a sample, for a list of layers; as `Sequential` takes it.

    Returns
    -------
    str
        A line a layer, those inside others indented, and one of totals: shape of a sample before and
        after; depth, the layers with weights that follow each other, in the longest of parallel branches; trained
        numbers; multiply-adds of one sample in inference, those of matrix products only; bytes of all arrays a model
        file keeps. Where layers are frozen, a last line has how many of the parameters are trainable and frozen.

    Raises
    ------
    TypeError
        `net` is neither a network nor a list of layers.
    ValueError
        Layers that do not fit, or an `input_shape` of a network, which has its own.

    Examples
    --------
    >>> import fastopt as fo
    >>> layers = [fo.nn.Dense(8, 16, activation="relu"), fo.nn.Dropout(0.2), fo.nn.Dense(16, 3)]
    >>> net = fo.nn.Sequential(layers, rng=0)
    >>> print(fo.nn.summary(net))
    layer          shape  depth  parameters  multiply-adds  bytes
    Dense relu   8 -> 16      1         144            128    576
    Dropout 0.2 16 -> 16      0           0              0      8
    Dense        16 -> 3      1          51             48    204
    total         8 -> 3      2         195            176    788
    """
    if isinstance(net, Sequential):
        if input_shape is not None:
            raise ValueError(f"input_shape: expected None, for the network has {net.input_shape}, got {input_shape}")
        layers, dtype, shape = list(net.layers), net.dtype, net.input_shape
    elif isinstance(net, list | tuple):
        layers, dtype = chain.check(net), np.dtype(np.float32)
        shape = chain.first_shape(layers) if input_shape is None else chain.as_input_shape(input_shape)
    else:
        raise TypeError(f"net: expected a Sequential or a list of layers, got {type(net).__name__}")
    shapes = chain.shapes(layers, shape)
    rows = [row for layer, before in zip(layers, shapes[:-1], strict=True) for row in _rows(layer, before, 0, dtype)]
    counts = [sum(row[i] for row in rows) for i in (3, 4, 5)]
    rows.append(("total", _arrow(shape, shapes[-1]), sum(map(depth, layers)), *counts))
    frozen = sum(trained(layer, dtype) for _, layer in chain.named(layers) if not layer.trainable)
    table = [HEAD, *((name, arrow, *(f"{n:,}" for n in numbers)) for name, arrow, *numbers in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
    widths = [widths[0], widths[1] + 1, *(w + 2 for w in widths[2:])]
    lines = [row[0].ljust(widths[0]) + "".join(map(str.rjust, row[1:], widths[1:])) for row in table]
    if frozen:
        lines.append(f"trainable parameters: {counts[0] - frozen:,}, frozen: {frozen:,}")
    return "\n".join(lines)


def depth(layer) -> int:
    """Layers with weights that follow each other, this one or those inside, in the longest of its chains."""
    chains = layer.chains()
    return max(sum(map(depth, inner)) for inner in chains) if chains else int(layer.weighted)


def trained(layer, dtype) -> int:
    """Trained numbers of a layer, whether it has its arrays or not."""
    if not layer.layers and not layer._arrays:
        specs = layer.array_specs(dtype)
        layer = copy.copy(layer)
        layer._arrays = {name: np.broadcast_to(np.zeros((), spec.dtype), spec.shape) for name, spec in specs.items()}
    return sum(a.size for a in layer.parameters())


def _size(layer, dtype) -> int:
    """Bytes of the arrays that a model file keeps of a layer."""
    if layer._arrays:
        return sum(a.nbytes for a in layer.stored().values())
    return sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in layer.array_specs(dtype).values())


def _rows(layer, input_shape, indent, dtype):
    """What stands in a line, of a layer and of those inside it, which hold its arrays."""
    holds = not layer.layers
    yield (
        "  " * indent + " ".join([type(layer).__name__, *layer.marks(), *([] if layer.trainable else ["frozen"])]),
        _arrow(input_shape, layer.output_shape(input_shape)),
        depth(layer),
        trained(layer, dtype) if holds else 0,
        layer.multiply_adds(input_shape),
        _size(layer, dtype) if holds else 0,
    )
    for inner, shape in chain.inside(layer, input_shape):
        yield from _rows(inner, shape, indent + 1, dtype)


def _arrow(before, after) -> str:
    """``8 -> 16``, or ``28x28x3 -> 28x28x8``."""
    return " -> ".join("x".join(map(str, shape)) for shape in (before, after))
