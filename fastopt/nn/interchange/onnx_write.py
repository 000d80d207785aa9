"""Networks as ONNX models: one small function a kind of layer, all of them in the table `WRITERS`.

- Inside a model images lie channels first, as ONNX has them. Where the input comes channels last, the first layer that
  needs channels first is preceded by a Transpose; `Flatten` alone needs none.
- `Flatten` writes nothing: a product that follows reads the flattened image with its columns moved, and any other layer
  turns the image first.
- Initializers are named like the arrays of a model file, ``layers.0.weight``. What training alone needs is absent.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fastopt import _files
from fastopt._kernels import core
from fastopt._numbers import flag, whole_number
from fastopt._version import __version__
from fastopt.nn import files
from fastopt.nn.interchange.flattening import channels_last_columns
from fastopt.nn.interchange.onnx_file import MOST_BYTES, library
from fastopt.nn.layers import ChannelsFirst, Layer
from fastopt.nn.sequential import Sequential

OPSET = 22  # the first whose shape inference knows how many windows a pool with ceil_mode has
LAYOUTS = ("channels_last", "channels_first")
ROOM = 2**20  # bytes of a model besides its weights
ACTIVATIONS: dict[str, tuple[str, dict]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "gelu": ("Gelu", {}),
    "softmax": ("Softmax", {"axis": 1}),
}


def to_onnx(net, path, *, layout="channels_last", fold=False, opset=OPSET, metadata=None) -> None:
    """Write a network for inference as an ONNX model, whole or not at all; needs onnx.

    Parameters
    ----------
    net : Sequential
    path : path-like
    layout : str
        How images come to the model and leave it: "channels_last", (n, height, width, channels) as `Sequential.predict`
        takes them, or "channels_first", as most runtimes prefer. A network that begins with `ChannelsFirst` takes them
        channels first either way. The file states it: in ``metadata_props`` and in the denotations of the input's axes.
    fold : bool
        Write ``net.fold()``, without batch normalization and standardization where they can be absorbed.
    opset : int
        Version of the operators, 22 or later, as far as the onnx library knows.
    metadata : dict, optional
        JSON values to write in place of the network's own `metadata`: ``metadata_props`` has them as the text of
        "metadata".

    Raises
    ------
    ImportError
        onnx is not installed.
    OSError
        The file cannot be written.
    TypeError, ValueError
        A layer that ONNX has no operators for, a layer without statistics, weights that take more than the 2 GB of a
        file, or metadata that JSON cannot hold.

    Examples
    --------
    >>> import os, tempfile, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(4, 8, activation="relu"), fo.nn.Dense(8, 3)], rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fo.nn.to_onnx(net, os.path.join(folder, "model.onnx"))
    ...     fo.nn.from_onnx(os.path.join(folder, "model.onnx"))
    Sequential([
        Dense(in_features=4, out_features=8, activation='relu', bias=True),
        Dense(in_features=8, out_features=3, activation='identity', bias=True),
    ], dtype=float32, input_shape=(4,))
    """
    if not isinstance(net, Sequential):
        raise TypeError(f"net: expected a Sequential, got {type(net).__name__}")
    if flag("fold", fold):
        net = net.fold()
    _files.write_bytes(path, onnx_model(net, layout, opset, metadata).SerializeToString())


def onnx_model(net, layout="channels_last", opset=OPSET, metadata=None):
    """The model of a network, an ``onnx.ModelProto``; arguments as of `to_onnx`."""
    onnx = library("to_onnx")
    opset = whole_number("opset", opset, OPSET, most=onnx.defs.onnx_opset_version())
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected {' or '.join(LAYOUTS)}, got {layout!r}")
    net.require_calibrated()
    metadata = files.as_metadata(net.metadata if metadata is None else metadata)
    size = sum(a.nbytes for a in files.arrays_of(net).values())
    if size > MOST_BYTES - ROOM:
        raise ValueError(f"net: expected weights of less than 2 GB, the most that an ONNX file holds, got {size} bytes")
    graph, first = Graph(onnx, net.dtype), layout == "channels_first"
    shape, input_first = net.input_shape, first
    if isinstance(net.layers[0], ChannelsFirst):  # which takes the input as it comes
        shape, input_first = net.layers[0].output_shape(shape), True
    start = Value("input", net.input_shape, first and shape is net.input_shape)
    graph.finish(graph.chain(net.layers, start, "layers"), first)
    ends = [graph.info("input", shape, input_first), graph.info("output", net.output_shape, first)]
    texts = {"metadata": json.dumps(metadata, sort_keys=True)} if metadata else {}
    if len(net.input_shape) == 3:
        texts["layout"] = LAYOUTS[input_first]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "net", ends[:1], ends[1:], graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=10,
        producer_name="fastopt",
        producer_version=__version__,
        doc_string=f"opset {opset}; " + "; ".join(map(described, ends)),
    )
    onnx.helper.set_model_props(model, texts)
    return model


def described(info) -> str:
    """What an input or output is, in words."""
    dims = info.type.tensor_type.shape.dim
    if len(dims) == 2:
        return f"{info.name} (batch, {dims[1].dim_value})"
    order = ("height, width, channels", "channels, height, width")[dims[1].denotation == "DATA_CHANNEL"]
    return f"{info.name} (batch, {order}) = (batch, {', '.join(str(dim.dim_value) for dim in dims[1:])})"


def file_shape(shape, first) -> tuple[int, ...]:
    """The shape of a sample, channels last, as the file has it."""
    return (shape[-1], *shape[:-1]) if first and len(shape) == 3 else shape


@dataclass(frozen=True)
class Value:
    """A value of the network, and how the file has it."""

    name: str
    shape: tuple[int, ...]  # of a sample, as the network has it
    first: bool = True  # whether the channels of an image come first
    image: tuple[int, ...] | None = None  # shape of the image which the file has instead of this vector


class Graph:
    """Nodes and initializers, added layer by layer.

    Attributes
    ----------
    place : str
        Where the layer that is written stands in the network, ``layers.3.1``; names begin with it.
    """

    def __init__(self, onnx, dtype):
        self.onnx, self.dtype, self.place = onnx, dtype, ""
        self.nodes: list = []
        self.constants: list = []
        self._laid: dict[tuple[str, str], str] = {}  # names of values as they have been laid out otherwise

    def chain(self, layers, x, place, number=0) -> Value:
        """Write layers in a row, numbered from `number` on."""
        for i, layer in enumerate(layers, number):
            kind, self.place = type(layer).__name__, f"{place}.{i}"
            if kind not in WRITERS:
                raise ValueError(f"{self.place}: expected a layer of {', '.join(sorted(WRITERS))}, got {kind}")
            x = WRITERS[kind](self, layer, x)
        return x

    def node(self, kind, *inputs, **attributes) -> str:
        """Add a node; returns the name of what it computes."""
        name = f"{self.place}.{kind}{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name, array) -> str:
        """Add an initializer, a float array in the dtype of the network."""
        with np.errstate(over="ignore"):
            held = array.astype(self.dtype) if array.dtype.kind == "f" else array
        if array.dtype.kind == "f" and np.isinf(held).any() > np.isinf(array).any():
            raise ValueError(f"{self.place}.{name}: expected values that {self.dtype} holds, got larger ones")
        name = f"{self.place}.{name}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(held), name))
        return name

    def activated(self, name, activation) -> str:
        """What an activation makes of a value that has its channels second."""
        if activation == "identity":
            return name
        if activation == "silu":
            return self.node("Mul", name, self.node("Sigmoid", name))
        kind, attributes = ACTIVATIONS[activation]
        return self.node(kind, name, **attributes)

    def laid(self, kind, name, **attributes) -> str:
        """The numbers of a value laid out otherwise, by a node that all layers share which ask for it."""
        key = (kind, name)
        if key not in self._laid:
            self._laid[key] = self.node(kind, name, **attributes)
        return self._laid[key]

    def channels_second(self, x) -> str:
        """A value as (n, features), columns in the order of the network, or as (n, channels, height, width)."""
        if len(x.shape) == 3:
            return x.name if x.first else self.laid("Transpose", x.name, perm=[0, 3, 1, 2])
        if x.image is None:
            return x.name
        last = self.laid("Transpose", x.name, perm=[0, 2, 3, 1]) if x.first else x.name
        return self.laid("Flatten", last, axis=1)

    def linear(self, x, weight, bias, groups=1, part="", **window) -> str:
        """Products with rows of weight (out, in), or with filters (out, height, width, in / groups), and the bias."""
        if len(x.shape) == 1 and groups == 1:
            name, weight = self._as_flattened(x, weight)
            return self.node("Gemm", name, *self._weights(weight, bias, part), transB=1)
        name = self.channels_second(x)
        if len(x.shape) == 1:
            name = self.node("Unsqueeze", name, self.constant("axes", np.array([2, 3])))
        weight = weight[:, :, None, None] if weight.ndim == 2 else np.moveaxis(weight, 3, 1)
        name = self.node("Conv", name, *self._weights(weight, bias, part), group=groups, **window)
        return self.node("Flatten", name, axis=1) if len(x.shape) == 1 else name

    def _weights(self, weight, bias, part) -> list[str]:
        named = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        return [self.constant(key + part, a) for key, a in named.items()]

    def _as_flattened(self, x, weight) -> tuple[str, np.ndarray]:
        """A vector and the weights of its columns; an image that it was made of is flattened as the file has it."""
        if x.image is None:
            return x.name, weight
        if x.first:
            weight = weight[:, np.argsort(channels_last_columns(*x.image))]
        return self.laid("Flatten", x.name, axis=1), weight

    def finish(self, x, first) -> None:
        """Make a value the output, its images channels first or not."""
        self.place = "output"
        if len(x.shape) == 3 and x.first != first:
            self.node("Transpose", x.name, perm=[0, 3, 1, 2] if first else [0, 2, 3, 1])
        elif self.channels_second(x) == "input":
            self.node("Identity", "input")
        self.nodes[-1].output[0] = "output"

    def info(self, name, shape, first):
        """What the file says of the input or the output."""
        helper = self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        info = helper.make_tensor_value_info(name, kind, ["batch", *file_shape(shape, first)])
        axes = ["DATA_FEATURE"] * (len(shape) - 1)
        axes.insert(0 if first else len(axes), "DATA_CHANNEL")
        for dim, axis in zip(info.type.tensor_type.shape.dim, ["DATA_BATCH", *axes], strict=True):
            dim.denotation = axis
        return info


# ---------------------------------------------------------------- a function a kind of layer


def product(graph, layer, x, **window):
    name = graph.linear(x, layer.weight, layer.bias, layer.groups, **window)
    return Value(graph.activated(name, layer.activation), layer.output_shape(x.shape))


def conv2d(graph, layer, x):
    pads = zip(*core.conv2d_padding(layer.padding, layer.kernel_size, layer.dilation), strict=True)
    window = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "dilations": layer.dilation}
    return product(graph, layer, x, **window, pads=[n for ends in pads for n in ends])


def maxout(graph, layer, x):
    k, weight, bias = layer.pieces, layer.weight, layer.bias
    biases = [None if bias is None else bias[j::k] for j in range(k)]
    names = [graph.linear(x, weight[j::k], biases[j], part=f".{j}") for j in range(k)]
    return Value(graph.node("Max", *names), layer.output_shape(x.shape))


def batch_norm(graph, layer, x):
    width, averages = layer.in_features, [layer.running_mean, layer.running_var]
    trained = [layer.gamma, layer.beta] if layer.affine else [np.ones(width), np.zeros(width)]
    names = ("gamma", "beta", "running_mean", "running_var")
    constants = [graph.constant(name, a) for name, a in zip(names, trained + averages, strict=True)]
    options = {"epsilon": layer.eps, "momentum": 1 - layer.momentum}
    name = graph.node("BatchNormalization", graph.channels_second(x), *constants, **options)
    return Value(graph.activated(name, layer.activation), x.shape)


def centered(graph, layer, x):
    """x - mean, of float32 in two steps: a mean has the digits of float64."""
    name, rest = graph.channels_second(x), layer.mean
    for part in ("mean", "mean.rest"):
        rounded = rest.astype(graph.dtype)
        if part == "mean" or rounded.any():
            name = graph.node("Sub", name, graph.constant(part, per_channel(x, rounded)))
        rest = rest - rounded
    return name


def standardize(graph, layer, x):
    name = centered(graph, layer, x)
    return Value(graph.node("Mul", name, graph.constant("scale", per_channel(x, layer.scale))), x.shape)


def whiten(graph, layer, x):
    rows = Value(centered(graph, layer, x), x.shape)
    return Value(graph.linear(rows, layer.weight, None), x.shape)


def per_channel(x, array):
    return array.reshape(-1, *[1] * (len(x.shape) - 1))


def pool(kind, layer, graph, x, **more):
    window = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "pads": layer.padding * 2}
    name = graph.node(kind, graph.channels_second(x), **window, ceil_mode=int(layer.ceil_mode), **more)
    return Value(name, layer.output_shape(x.shape))


def max_pool2d(graph, layer, x):
    return pool("MaxPool", layer, graph, x)


def avg_pool2d(graph, layer, x):
    return pool("AveragePool", layer, graph, x, count_include_pad=int(layer.count_include_pad))


def global_avg_pool2d(graph, layer, x):
    name = graph.node("GlobalAveragePool", graph.channels_second(x))
    return Value(graph.node("Flatten", name, axis=1), layer.output_shape(x.shape))


def flatten(graph, layer, x):
    if len(x.shape) == 1:
        return x
    return replace(x, shape=layer.output_shape(x.shape), image=x.shape)


def channels_first(graph, layer, x):
    """The numbers of x stay where they are, and are read as (channels, height, width)."""
    if x.first:
        x = Value(graph.node("Transpose", x.name, perm=[0, 2, 3, 1]), x.shape)
    return Value(x.name, layer.output_shape(x.shape))


def residual(graph, layer, x):
    x, place = branching(graph, x), graph.place
    ends = graph.chain(layer.layers, x, place), x
    graph.place = place
    return Value(graph.node("Add", *map(graph.channels_second, ends)), x.shape)


def add(graph, layer, x):
    return Value(graph.node("Sum", *branch_ends(graph, layer, x)), layer.output_shape(x.shape))


def concat(graph, layer, x):
    return Value(graph.node("Concat", *branch_ends(graph, layer, x), axis=1), layer.output_shape(x.shape))


def branch_ends(graph, layer, x) -> list[str]:
    """The names of what branches end in."""
    x, place, ends = branching(graph, x), graph.place, []
    for branch, number in zip(layer.chains(), np.cumsum([0, *map(len, layer.chains())]), strict=False):
        ends.append(graph.chain(branch, x, place, int(number)))
    graph.place = place
    return list(map(graph.channels_second, ends))


def branching(graph, x):
    """A value as all branches read it: an image is flattened before them, its columns in the order of the network."""
    return x if x.image is None else Value(graph.channels_second(x), x.shape)


def absent(graph, layer, x):
    return x


WRITERS: dict[str, Callable[[Graph, Layer, Value], Value]] = {
    "Add": add,
    "AvgPool2d": avg_pool2d,
    "BatchNorm": batch_norm,
    "ChannelsFirst": channels_first,
    "Concat": concat,
    "Conv2d": conv2d,
    "Dense": product,
    "Dropout": absent,
    "Flatten": flatten,
    "GlobalAvgPool2d": global_avg_pool2d,
    "GroupedDense": product,
    "MaxPool2d": max_pool2d,
    "Maxout": maxout,
    "RandomFlip": absent,
    "RandomShift": absent,
    "Residual": residual,
    "Standardize": standardize,
    "Whiten": whiten,
}
