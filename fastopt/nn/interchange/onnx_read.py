"""ONNX models as networks: the walk over the nodes; what each means stands in `onnx_operators.py`.

A file is believed step by step: its size, the graph, its sizes, and each array after the bytes that are there. Only
nodes that lead to the output are looked at, in the order of the file, in which a node comes after those it reads.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastopt import _files
from fastopt._numbers import whole_number
from fastopt.nn import files
from fastopt.nn.interchange.onnx_file import MOST_AXES, Constants, dtype_of, library, read_model
from fastopt.nn.interchange.onnx_graph import MOST, Node, Start, Value, layers_of
from fastopt.nn.interchange.onnx_operators import FOLDED, OPERATORS, SAMPLES
from fastopt.nn.interchange.onnx_write import LAYOUTS
from fastopt.nn.layers import ChannelsFirst, Standardize, chain
from fastopt.nn.sequential import Sequential, assembled

MALFORMED = (*_files.MALFORMED, IndexError)
MOST_PARTS = {"node": 2**13, "initializer": 2**15, "input": 2**15}  # of a graph: what follows takes up to 1 kB for each
MOST_SCALED = 2**20
KNOWN = {*OPERATORS, *FOLDED, "Constant", "Shape"}
OLDEST = 7  # opset in which Gemm, Add and their like took the meaning that they have


def from_onnx(path, input_shape=None, *, layout="channels_last") -> Sequential:
    """Read a network from an ONNX model; needs onnx.

    Parameters
    ----------
    path : path-like
        External data is read from files in the folder of the model.
    input_shape : tuple of int, optional
        Of one sample, (features,) or (height, width, channels), where the model leaves a size open.
    layout : str
        How the network takes images: "channels_last", as all of fastopt does, or "channels_first", as most models do,
        by a `ChannelsFirst` as its first layer. It gives images channels last.

    Returns
    -------
    Sequential
        It can be trained. Its `metadata` is that of `to_onnx`.

    Raises
    ------
    ImportError
        onnx is not installed.
    OSError
        The file is missing or unreadable.
    ValueError
        The file is damaged, or has an operator, an option of one, or branches that fastopt has no layer for: the
        message names the node.

    Examples
    --------
    >>> import os, tempfile, numpy as np, fastopt as fo
    >>> net = fo.nn.models.lenet()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fo.nn.to_onnx(net, os.path.join(folder, "model.onnx"), layout="channels_first")
    ...     twin = fo.nn.from_onnx(os.path.join(folder, "model.onnx"))
    >>> x = np.random.default_rng(0).normal(size=(2, 28, 28, 1))
    >>> bool((twin.predict(x) == net.predict(x)).all())
    True
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected {' or '.join(LAYOUTS)}, got {layout!r}")
    shape = None if input_shape is None else chain.as_input_shape(input_shape)
    model = read_model(path)
    try:
        return _network(Reader(model, Path(path).parent, shape), model, layout)
    except MALFORMED as error:
        raise ValueError(f"{path}: {_files.why(error)}") from error


def _network(reader, model, layout) -> Sequential:
    end, shape = reader.read(), reader.input_shape
    dtypes = {end.dtype} | reader.dtypes
    if len(dtypes) > 1:
        raise ValueError(f"expected one dtype throughout, got {', '.join(sorted(map(str, dtypes)))}")
    layers = layers_of(end.drafts, end.dtype)
    if layout == "channels_first" and len(shape) == 3:
        layers, shape = [ChannelsFirst(), *layers], (shape[2], *shape[:2])
    net = assembled(layers, end.dtype, shape)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if model.producer_name == "fastopt" and "metadata" in texts:
        net.metadata = files.as_metadata(json.loads(texts["metadata"]))
    return net


class Reader:
    """The values of a graph by their names, node after node.

    Attributes
    ----------
    input_shape : tuple of int
        Of a sample, channels last.
    samples : int or None
        The number of samples that the model is for, where it is fixed.
    """

    def __init__(self, model, folder, input_shape):
        graph = model.graph
        for name, most in MOST_PARTS.items():
            if len(getattr(graph, name)) > most:
                raise ValueError(f"expected at most {most} {name}s, got {len(getattr(graph, name))}")
        self.opset = self._version(model)
        self.constants = Constants(folder)
        for tensor in graph.initializer:
            self._take(tensor.name, tensor)
        self.nodes = [Node(node) for node in graph.node]
        inputs = [info for info in graph.input if info.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            found = f"{len(inputs)} and {len(graph.output)}"
            raise ValueError(f"expected a model with one input and one output, got {found}")
        self.input, self.output, self._stated = inputs[0].name, graph.output[0].name, graph.output[0]
        self.live, self.readers = self._leading_to(self.output)
        self.values: dict[str, Value] = {}
        self.dtypes: set[np.dtype] = set()
        self._scaled = 0  # channels of elementwise layers so far, which a file of a few bytes may ask for
        self._put(self.input, self._first(inputs[0], input_shape))

    def _version(self, model) -> int:
        newest = library("from_onnx").defs.onnx_opset_version()
        versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
        if len(versions) != 1:
            raise ValueError(f"expected one version of the ONNX operators, got {versions[:8]}")
        return whole_number("opset", versions[0], OLDEST, newest)

    def _take(self, name, constant) -> None:
        if not name or name in self.constants:
            raise ValueError(f"expected every name once, got {name!r} twice")
        self.constants.add(name, constant)

    def _leading_to(self, output) -> tuple[list[Node], dict[str, int]]:
        """The nodes that the output needs, in their order, and how often each name is read by them."""
        makers = {}
        for node in self.nodes:
            for name in filter(None, node.outputs):
                if name in makers or name in self.constants or name == self.input:
                    raise ValueError(f"{node}: expected a name of its own for {name!r}, got one that is taken")
                makers[name] = node
        readers, waiting, found = {output: 1}, [output], set()
        while waiting:
            maker = makers.get(waiting.pop())
            if maker is None or id(maker) in found:
                continue
            found.add(id(maker))
            for name in filter(None, maker.inputs):
                readers[name] = readers.get(name, 0) + (maker.op != "Shape")  # which ends no branch
                waiting.append(name)
        return [node for node in self.nodes if id(node) in found], readers

    def _first(self, info, input_shape) -> Value:
        """The input; its images lie channels last where its denotation or a Transpose says so."""
        tensor = info.type.tensor_type
        dims = tensor.shape.dim
        if len(dims) not in (2, 4):
            raise ValueError(f"input: expected vectors (n, features) or images of four axes, got {len(dims)} axes")
        self.samples = dims[0].dim_value if dims[0].HasField("dim_value") else None
        axes = "nc" if len(dims) == 2 else "nchw"
        if len(dims) == 4 and (dims[3].denotation == "DATA_CHANNEL" or self._turns()):
            axes = "nhwc"
        given = dict(zip(axes.replace("n", ""), (dim.dim_value or None for dim in dims[1:]), strict=True))
        order = "c" if axes == "nc" else "hwc"
        wanted = dict(zip(order, input_shape or [None] * len(order), strict=False))
        if input_shape is not None and len(input_shape) != len(order):
            raise ValueError(f"input_shape: expected {len(order)} numbers, as the model has, got {input_shape}")
        for letter in order:
            if wanted[letter] and given[letter] not in (None, wanted[letter]):
                raise ValueError(f"input_shape: expected {given[letter]} where the model has it, got {wanted[letter]}")
        sizes = [given[letter] or wanted[letter] for letter in order]
        if None in sizes:
            raise ValueError("input: expected sizes for all axes but the first, got one left open; give input_shape=")
        self.input_shape = tuple(whole_number("input", n, 1, MOST) for n in sizes)
        return Value(Start(None, 1), self.input_shape, axes, dtype_of(tensor.elem_type))

    def _turns(self) -> bool:
        """Whether the input meets a Transpose from channels last to channels first before anything that has axes."""
        name = self.input
        for node in self.live:
            if name in node.inputs:
                if node.op == "Transpose":
                    return node.attribute("perm", "ints") == [0, 3, 1, 2]
                if node.op not in ("Cast", "Identity", "Add", "Sub", "Mul", "Div"):
                    return False
                name = node.outputs[0]
        return False

    # --- what operators ask for

    def operand(self, node, i):
        """An input of a node: a Value, or the array of a constant."""
        name = node.inputs[i] if i < len(node.inputs) else ""
        if name in self.values:
            value = self.values[name]
            return value if value.drafts else replace(value, drafts=[])  # each branch has a chain of its own
        if name in self.constants:
            return self.constants[name]
        raise ValueError(f"input {i}: expected a value or a constant that comes before, got {name!r}")

    def value(self, node, i=0) -> Value:
        """An input that depends on that of the model."""
        found = self.operand(node, i)
        if not isinstance(found, Value):
            raise ValueError(f"input {i}: expected a value, got the constant {node.inputs[i]!r}")
        return found

    def constant(self, node, i) -> np.ndarray | None:
        """An input that is constant; None where it is absent."""
        if i >= len(node.inputs) or not node.inputs[i]:
            return None
        found = self.operand(node, i)
        if isinstance(found, Value):
            raise ValueError(f"input {i}: expected a constant, got the value {node.inputs[i]!r}")
        return found

    def own(self, x, array) -> np.ndarray:
        """An array that a layer takes over, of the dtype of the values x."""
        if array.dtype != x.dtype:
            raise ValueError(f"expected arrays of {x.dtype}, as the values, got {array.dtype}")
        self.dtypes.add(array.dtype)
        return self.constants.spend(array)

    # --- the walk

    def read(self) -> Value:
        """What the model computes; an operator that nobody knows is refused before any node is followed."""
        for node in self.live:
            if node.op not in KNOWN:
                raise ValueError(f"{node}: {_no_layer(node)}")
        for node in self.live:
            try:
                self._follow(node)
            except MALFORMED as error:
                raise ValueError(f"{node}: {_files.why(error)}") from error
        end = self.values.get(self.output)
        if end is None:
            raise ValueError(f"expected an output {self.output!r} that depends on the input, got none")
        if end.start.before is not None or end.start.branches > 1:
            raise ValueError("expected branches that all meet before the output, got one that does not")
        self._check_stated(end)
        if len(end.shape) == 3 and end.axes not in ("nchw", "nhwc"):
            raise ValueError(f"expected an output of images, channels first or last, got axes {end.axes}")
        if len(end.shape) == 1:
            moved, end = end.image, end.flattened()
            if moved:
                raise ValueError("expected a Gemm after the flattened image, whose columns fastopt counts otherwise")
        return end

    def _check_stated(self, end) -> None:
        """Refuse an output of other sizes, or with its channels elsewhere, than the file states."""
        dims = self._stated.type.tensor_type.shape.dim[1:]
        denoted = [letter for dim, letter in zip(dims, end.axes[1:], strict=False) if dim.denotation == "DATA_CHANNEL"]
        if denoted not in ([], ["c"]):
            raise ValueError(f"expected an output whose channels are denoted as such, got axes {end.axes}")
        stated = [dim.dim_value for dim in dims]
        sizes = [end.size(letter) for letter in end.axes[1:]]
        if stated and (len(stated) != len(sizes) or any(n not in (0, m) for n, m in zip(stated, sizes, strict=True))):
            raise ValueError(f"expected an output that is stated to have sizes {sizes}, got {stated[:MOST_AXES]}")

    def _follow(self, node) -> None:
        if node.op == "Constant":
            self.constants.add(node.outputs[0], _constant(node))
        elif node.op == "Shape" and node.inputs and node.inputs[0] in self.values:
            x = self.values[node.inputs[0]]
            sizes = [SAMPLES if letter == "n" else x.size(letter) for letter in x.axes]
            start, end = (node.attribute(name, "i") for name in ("start", "end"))
            self.constants.add(node.outputs[0], np.array(sizes[start:end], np.int64))
        elif node.op in FOLDED and node.inputs and all(not name or name in self.constants for name in node.inputs):
            arrays = [self.constants[name] for name in node.inputs if name]
            folded = self.constants.spend(np.asarray(FOLDED[node.op](node, *arrays)))
            self.constants.add(node.outputs[0], folded)
        elif node.op in OPERATORS:
            self._put(node.outputs[0], OPERATORS[node.op](self, node))
        else:
            raise ValueError(_no_layer(node))

    def _put(self, name, value) -> None:
        """Keep a value; one that several nodes read starts branches."""
        if value.drafts and value.drafts[-1].kind is Standardize:
            self._scaled += value.channels
            if self._scaled > MOST_SCALED:
                raise ValueError(
                    f"expected at most {MOST_SCALED} channels that are scaled one by one, in all, got more"
                )
        n = self.readers.get(name, 1)
        if n > 1:
            before = value if self.values else None
            value = replace(value, start=Start(before, n), drafts=[], depth=0)
        self.values[name] = value


def _no_layer(node) -> str:
    known = ", ".join(sorted({*OPERATORS, "Constant"}))
    return f"expected an operator that has a layer, got {node.op}; those that have are {known}"


def _constant(node):
    """The array of a Constant node, or its tensor."""
    numbers = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}
    for name, kind in numbers.items():
        value = node.attribute(name, kind)
        if value is not None:
            return np.array(value, np.float32 if kind in ("f", "floats") else np.int64)
    tensor = node.attribute("value", "t")
    if tensor is None:
        raise ValueError(f"expected one of value, {', '.join(numbers)}, got none")
    return tensor
