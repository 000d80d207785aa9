"""ONNX operators as layers: one small function an operator, all of them in the table `OPERATORS`.

Each takes the reader, which knows values and constants by their names, and the node, and returns the value that the
node computes. What constants alone go into is computed at once, by the table `FOLDED`.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fastopt._kernels import core
from fastopt.nn.interchange.onnx_branches import meet
from fastopt.nn.interchange.onnx_file import MOST_AXES, dtype_of
from fastopt.nn.interchange.onnx_graph import Draft, Value
from fastopt.nn.layers import AvgPool2d, BatchNorm, Conv2d, Dense, GlobalAvgPool2d, GroupedDense, MaxPool2d

SAMPLES = -(2**62)  # the number of samples where a model computes a shape
MOST_SHAPE = 64  # numbers in such a shape


# ---------------------------------------------------------------- products


def gemm(reader, node):
    alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
    turned = [bool(node.whole(name, 0, most=1)) for name in ("transA", "transB")]
    y = _product(reader, node, turned, alpha)
    bias = reader.constant(node, 2)
    return y if bias is None else y.shifted(y.per_channel(bias) * beta)


def matmul(reader, node):
    return _product(reader, node, (False, False), 1.0)


def _product(reader, node, turned, alpha):
    """x @ weight.T of rows x, or weight @ x of columns x, either factor turned by the node."""
    operands = [reader.operand(node, i) for i in (0, 1)]
    at = next((i for i, operand in enumerate(operands) if isinstance(operand, Value)), 0)
    x, weight = operands[at], operands[1 - at]
    if isinstance(x, np.ndarray) or isinstance(weight, Value) or weight.ndim != 2:
        raise ValueError("expected a value and a constant matrix as factors, got others")
    axes = x.axes[::-1] if turned[at] else x.axes
    weight = weight if turned[1 - at] == (at == 0) else weight.T  # as (out, in)
    if axes[-1 if at == 0 else 0] != "c" or (at == 1 and axes != "cn"):
        raise ValueError(f"expected a product with the channels, got one with axis {axes[-1]!r} of {axes}")
    weight = reader.own(x, weight)
    if weight.shape[1] != x.channels:
        raise ValueError(f"expected a matrix for {x.channels} channels, got one for {weight.shape[1]}")
    weight = x.ours(weight if alpha == 1 else weight * weight.dtype.type(alpha))
    config = {"in_features": x.channels, "out_features": len(weight), "bias": False}
    return x.followed(Draft(Dense, config, {"weight": weight}), (*x.shape[:-1], len(weight)), axes)


def conv(reader, node):
    x, weight, bias = reader.value(node, 0), reader.constant(node, 1), reader.constant(node, 2)
    if weight is None or weight.ndim != 4:
        raise ValueError("expected constant filters of images, (out, in / groups, height, width), got others")
    size = (1, 1) if x.axes == "nc11" else image(x)[:2]
    weight, kernel, groups = reader.own(x, weight), weight.shape[2:], node.whole("group", 1, 1)
    if tuple(node.attribute("kernel_shape", "ints", kernel)) != kernel:
        raise ValueError(f"kernel_shape: expected {kernel}, as the filters, got another")
    stride, dilation = (tuple(node.wholes(name, 2, 1, 1)) for name in ("strides", "dilations"))
    if weight.shape[1] * groups != x.channels:
        got = weight.shape[1] * groups
        raise ValueError(f"expected filters for {x.channels} channels, got {got} in {groups} groups")
    ends = pads(node, size, kernel, stride, dilation)
    if x.axes == "nc11" and kernel == (1, 1) and not any(map(any, ends)):
        if groups > 1 and x.image:
            raise ValueError("group: expected 1 after a flattened image, whose columns fastopt counts otherwise")
        sizes = {"in_features": x.channels, "out_features": len(weight), "bias": False}
        kind, config = (GroupedDense, sizes | {"groups": groups}) if groups > 1 else (Dense, sizes)
        y = x.followed(Draft(kind, config, {"weight": x.ours(weight[:, :, 0, 0])}), (len(weight),))
    else:
        padding, weight = _symmetric(ends, weight, stride, dilation)
        window = {"kernel_size": weight.shape[2:], "stride": stride, "padding": padding, "dilation": dilation}
        config = {"in_channels": x.channels, "out_channels": len(weight), **window, "groups": groups, "bias": False}
        shape = Conv2d(**config).output_shape(image(x))
        y = x.followed(Draft(Conv2d, config, {"weight": np.moveaxis(weight, 1, 3)}), shape)
    return y if bias is None else y.shifted(y.per_channel(_one_axis(bias)[:, None, None]))


def _symmetric(ends, weight, stride, dilation):
    """Padding that is the same on both sides, and filters that zeros make longer on the side that has less."""
    if all(begin == end for begin, end in ends):
        return tuple(begin for begin, _ in ends), weight
    if stride == (1, 1) and tuple(ends) == core.conv2d_padding("same", weight.shape[2:], dilation):
        return "same", weight
    widths = [(0, 0), (0, 0)]
    for (begin, end), step, kernel in zip(ends, dilation, weight.shape[2:], strict=True):
        more, rest = divmod(abs(end - begin), step)
        if rest or more >= kernel:
            raise ValueError(f"pads: expected ends alike, or apart by less than a filter, got {begin} and {end}")
        widths.append((more, 0) if begin < end else (0, more))
    return tuple(map(max, ends)), np.pad(weight, widths)


def pads(node, size, kernel, stride, dilation) -> list[tuple[int, int]]:
    """Pixels (before, after) an image along each axis, by `pads` or `auto_pad`."""
    rule = node.text("auto_pad", "NOTSET")
    if rule == "NOTSET":
        numbers = node.wholes("pads", 4, 0)
        return list(zip(numbers[:2], numbers[2:], strict=True))
    if rule == "VALID":
        return [(0, 0), (0, 0)]
    if rule not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {rule!r}")
    found = []
    for n, k, step, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // step) - 1) * step + (k - 1) * d + 1 - n, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if rule == "SAME_UPPER" else (more, less))
    return found


# ---------------------------------------------------------------- pools


def pool(kind, reader, node):
    """Windows that start where those of the file do, and are as many."""
    x = reader.value(node, 0)
    size, kernel, stride = image(x)[:2], node.wholes("kernel_shape", 2, 0, 1), node.wholes("strides", 2, 1, 1)
    if node.wholes("dilations", 2, 1, 1) != [1, 1]:
        raise ValueError("dilations: expected 1, which pools of fastopt have, got another")
    ends, ceil = pads(node, size, kernel, stride, (1, 1)), bool(node.whole("ceil_mode", 0, most=1))
    counted = bool(node.whole("count_include_pad", 0, most=1))
    if kind is AvgPool2d and counted and any(begin != end for begin, end in ends):
        raise ValueError("pads: expected ends alike where they count, got others")
    found = tuple(_windows(n, k, s, *end, ceil) for n, k, s, end in zip(size, kernel, stride, ends, strict=True))
    window = {"kernel_size": kernel, "stride": stride, "padding": [begin for begin, _ in ends]}
    window |= {"count_include_pad": counted} if kind is AvgPool2d else {}
    for mode in (ceil, not ceil):
        shape = kind(**window, ceil_mode=mode).output_shape(x.shape)
        if shape[:2] == found:
            return x.followed(Draft(kind, window | {"ceil_mode": mode}), shape)
    raise ValueError(f"pads: expected windows as those of {kind.__name__}, got {ends}")


def _windows(n, kernel, stride, begin, end, ceil) -> int:
    """Windows along an axis of n pixels; one that would start behind the image is none."""
    steps, rest = divmod(n + begin + end - kernel, stride)
    return steps + 1 + (ceil and rest > 0 and (steps + 1) * stride < n + begin)


def global_average(reader, node):
    x = reader.value(node, 0)
    return _averaged(x, x.axes[2:], True)


def reduce_mean(reader, node):
    x = reader.value(node, 0)
    return _averaged(x, "".join(map(x.axis, _axes(reader, node))), bool(node.whole("keepdims", 1, most=1)))


def _averaged(x, letters, keeps):
    axes = "".join("1" if letter in "hw" else letter for letter in x.axes if keeps or letter not in letters)
    if letters and set(letters) <= {"1"} and keeps:  # of single pixels
        return x
    if len(x.shape) != 3 or sorted(letters) != ["h", "w"]:
        raise ValueError(f"expected an average over height and width, got axes {letters!r} of {x.axes}")
    return x.followed(Draft(GlobalAvgPool2d, {}), (x.channels,), axes)


# ---------------------------------------------------------------- elementwise


def batch_norm(reader, node):
    x, arrays = reader.value(node, 0), [reader.constant(node, i) for i in range(1, 5)]
    if node.whole("training_mode", 0) or any(node.outputs[1:]) or not node.whole("spatial", 1):
        raise ValueError("expected inference with an average a channel, got training, of several outputs, or spatial=0")
    if len(x.axes) < 2 or x.axes[1] != "c" or any(a is None for a in arrays):
        raise ValueError(f"expected constants for the channels along axis 1, got axes {x.axes}")
    named = {}
    for name, a in zip(("gamma", "beta", "running_mean", "running_var"), arrays, strict=True):
        if a.shape != (x.channels,):
            raise ValueError(f"{name}: expected shape ({x.channels},), got {a.shape}")
        named[name] = x.ours(reader.own(x, a))
    momentum = round(1 - node.number("momentum", 0.9), 7)  # ours is the weight of a batch, not of the average
    config = {"features": x.channels, "eps": node.number("epsilon", 1e-5), "momentum": momentum}
    return x.followed(Draft(BatchNorm, config, named))


def arithmetic(reader, node):
    """Add, Sub, Mul, Div, Max, Sum: with a constant, or of branches that meet."""
    operands = [reader.operand(node, i) for i in range(len(node.inputs))]
    values = [operand for operand in operands if isinstance(operand, Value)]
    if not values:
        raise ValueError("expected an input that depends on that of the model, got none")
    if len(values) == len(operands) > 1 and node.op not in ("Sub", "Div"):
        return meet(node.op, values)
    if len(operands) == len(values) == 1 and node.op in ("Max", "Sum"):
        return values[0]
    first = isinstance(operands[0], Value)
    if len(values) != 1 or len(operands) != 2 or node.op == "Max" or (node.op in ("Sub", "Div") and not first):
        raise ValueError("expected a value and then a constant, or branches that meet, got others")
    x, constant = values[0], operands[first]
    a = x.per_channel(constant)
    if node.op in ("Add", "Sum"):
        return x.shifted(a)
    if node.op == "Sub":
        return x.elementwise(mean=a)
    with np.errstate(divide="ignore"):
        return x.scaled(a if node.op == "Mul" else 1 / a)


def scaler(reader, node):
    """(x - offset) * scale, of the operators for machine learning."""
    x = reader.value(node, 0)
    offset, scale = (node.attribute(name, "floats", default) for name, default in (("offset", [0]), ("scale", [1])))
    mean, factor = (x.per_channel(np.array(numbers, x.dtype)) for numbers in (offset, scale))
    return x.elementwise(mean=mean).scaled(factor)


def activation(name, reader, node):
    return reader.value(node, 0).activated(name)


def leaky_relu(reader, node):
    if node.number("alpha", 0.01) != 0.01:
        raise ValueError(f"alpha: expected 0.01, the slope of leaky_relu, got {node.number('alpha', 0.01)}")
    return activation("leaky_relu", reader, node)


def gelu(reader, node):
    if node.text("approximate", "none") != "none":
        raise ValueError("approximate: expected 'none', the erf form of gelu, got another")
    return activation("gelu", reader, node)


def swish(reader, node):
    if node.number("alpha", 1.0) != 1:
        raise ValueError(f"alpha: expected 1, as silu has it, got {node.number('alpha', 1.0)}")
    return activation("silu", reader, node)


def softmax(reader, node):
    x, flattens = reader.value(node, 0), reader.opset < 13
    axis = node.whole("axis", 1 if flattens else -1, least=-MOST_AXES, most=MOST_AXES)
    if x.axis(axis) != "c" or (flattens and axis not in (1, -1)) or (flattens and len(x.shape) == 3):
        raise ValueError(f"axis: expected that of the channels, got {axis} of {x.axes}")
    return x.activated("softmax")


# ---------------------------------------------------------------- shapes


def concat(reader, node):
    values = [reader.value(node, i) for i in range(max(len(node.inputs), 1))]
    axis = node.whole("axis", None, least=-MOST_AXES, most=MOST_AXES)
    if any(value.axis(axis) != "c" for value in values):
        raise ValueError(f"axis: expected that of the channels, got {axis} of {values[0].axes}")
    return meet("Concat", values) if len(values) > 1 else values[0]


def flatten(reader, node):
    x = reader.value(node, 0)
    if x.axis(node.whole("axis", 1, least=-MOST_AXES, most=MOST_AXES)) != x.axes[1] or x.axes.index("n"):
        raise ValueError("axis: expected 1, a vector for each sample, got another")
    return x.flattened()


def reshape(reader, node):
    """A vector of each sample, or the same numbers with axes of length 1 more or less."""
    x, shape = reader.value(node, 0), reader.constant(node, 1)
    if shape is None or shape.dtype != np.int64 or shape.size > MOST_SHAPE:
        raise ValueError("shape: expected a constant, or the number of samples and constants, got another")
    sizes, target = [x.size(letter) for letter in x.axes[1:]], shape.reshape(-1).tolist()
    copies = not node.whole("allowzero", 0, most=1)
    target[1:] = [sizes[i] if n == 0 and copies and i < len(sizes) else n for i, n in enumerate(target[1:])]
    whole, known = math.prod(sizes), math.prod(n for n in target[1:] if n != -1)
    if -1 in target[1:] and known and whole % known == 0:
        target[1 + target[1:].index(-1)] = whole // known
    samples = target and (target[0] in (-1, SAMPLES, reader.samples) or (target[0] == 0 and copies))
    if x.axes[0] == "n" and samples and target[1:] == [whole]:
        return x.flattened()
    if x.axes[0] == "n" and samples and target[1:] == sizes:
        return x
    if x.axes[0] == "n" and samples and len(x.shape) == 1 and [n for n in target[1:] if n != 1] == [x.channels]:
        return replace(x, axes="n" + "".join("1" if n == 1 else "c" for n in target[1:]))
    got = str(target[:MOST_AXES]).replace(str(SAMPLES), "samples")
    raise ValueError(f"shape: expected a vector for each sample, of {whole} numbers, got {got}")


def squeeze(reader, node):
    x, axes = reader.value(node, 0), _axes(reader, node)
    gone = {n % len(x.axes) for n in axes}
    letters = "".join(letter for i, letter in enumerate(x.axes) if i not in gone)
    if "".join(sorted(x.axes[i] for i in gone)) == "hw" and x.shape[:2] == (1, 1):
        return x.flattened()
    if any(x.axis(n) != "1" for n in axes):
        raise ValueError(f"axes: expected axes of length 1 by their numbers, got {axes} of {x.axes}")
    return replace(x, axes=letters)


def unsqueeze(reader, node):
    x, axes = reader.value(node, 0), _axes(reader, node)
    rank = len(x.axes) + len(axes)
    if rank > MOST_AXES or not all(-rank <= n < rank for n in axes) or len({n % rank for n in axes}) < len(axes):
        raise ValueError(f"axes: expected new axes, got {axes}")
    letters, new = iter(x.axes), {n % rank for n in axes}
    return replace(x, axes="".join("1" if i in new else next(letters) for i in range(rank)))


def transpose(reader, node):
    x = reader.value(node, 0)
    order = node.attribute("perm", "ints") or list(range(len(x.axes)))[::-1]
    if sorted(order) != list(range(len(x.axes))):
        raise ValueError(f"perm: expected the axes of {x.axes} in another order, got {order[:MOST_AXES]}")
    return replace(x, axes="".join(x.axes[i] for i in order))


def cast(reader, node):
    dtype = dtype_of(node.whole("to", None))
    if dtype.kind != "f":
        raise ValueError(f"to: expected float32 or float64, got {dtype}")
    return replace(reader.value(node, 0), dtype=dtype)


def unchanged(reader, node):
    training = reader.constant(node, 2)
    if training is not None and training.any():
        raise ValueError("training_mode: expected False, got True")
    return reader.value(node, 0)


def image(x) -> tuple[int, int, int]:
    """The shape of an image that lies channels first."""
    if x.axes != "nchw":
        raise ValueError(f"expected an image, channels first, got axes {x.axes}")
    return x.shape


def _axes(reader, node) -> list[int]:
    axes = node.attribute("axes", "ints")
    if axes is None:
        constant = reader.constant(node, 1)
        axes = [] if constant is None or constant.dtype != np.int64 else _one_axis(constant).tolist()
    if not 0 < len(axes) <= MOST_AXES:
        raise ValueError(f"axes: expected from 1 to {MOST_AXES} whole numbers, got {len(axes)}")
    return axes


def _one_axis(array) -> np.ndarray:
    if array.ndim != 1:
        raise ValueError(f"expected a constant of one axis, got shape {array.shape}")
    return array


OPERATORS: dict[str, Callable] = {
    "Add": arithmetic,
    "AveragePool": lambda reader, node: pool(AvgPool2d, reader, node),
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "Concat": concat,
    "Conv": conv,
    "Div": arithmetic,
    "Dropout": unchanged,
    "Erf": lambda reader, node: activation("erf", reader, node),
    "Flatten": flatten,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_average,
    "Identity": unchanged,
    "LeakyRelu": leaky_relu,
    "MatMul": matmul,
    "Max": arithmetic,
    "MaxPool": lambda reader, node: pool(MaxPool2d, reader, node),
    "Mul": arithmetic,
    "ReduceMean": reduce_mean,
    "Relu": lambda reader, node: activation("relu", reader, node),
    "Reshape": reshape,
    "Sigmoid": lambda reader, node: activation("sigmoid", reader, node),
    "Softmax": softmax,
    "Squeeze": squeeze,
    "Sub": arithmetic,
    "Sum": arithmetic,
    "Swish": swish,
    "Tanh": lambda reader, node: activation("tanh", reader, node),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "ai.onnx.ml.Scaler": scaler,
}


# ---------------------------------------------------------------- of constants


def _folded_cast(node, a):
    return a.astype(dtype_of(node.whole("to", None)))


def _folded_concat(node, *arrays):
    if sum(a.size for a in arrays) > MOST_SHAPE:
        raise ValueError("expected the parts of a shape, got large constants side by side")
    return np.concatenate(arrays, node.whole("axis", None, least=-MOST_AXES, most=MOST_AXES))


def _folded_gather(node, a, indices):
    if indices.size > MOST_SHAPE or a.ndim != 1:
        raise ValueError("expected parts of a shape, got parts of a large constant")
    return np.take(a, indices, 0)


def _folded_reshape(node, a, shape):
    return a.reshape(shape.tolist()[:MOST_AXES])


def _folded_squeeze(node, a, axes=None):
    axes = node.attribute("axes", "ints") if axes is None else axes.tolist()
    return np.squeeze(a, None if axes is None else tuple(axes))


def _folded_transpose(node, a):
    return a.transpose(node.attribute("perm", "ints"))


def _folded_unsqueeze(node, a, axes=None):
    axes = node.attribute("axes", "ints") if axes is None else axes.tolist()
    return np.expand_dims(a, tuple(axes[:MOST_AXES]))


FOLDED: dict[str, Callable] = {
    "Cast": _folded_cast,
    "Concat": _folded_concat,
    "Gather": _folded_gather,
    "Identity": lambda node, a: a,
    "Reshape": _folded_reshape,
    "Squeeze": _folded_squeeze,
    "Transpose": _folded_transpose,
    "Unsqueeze": _folded_unsqueeze,
}
