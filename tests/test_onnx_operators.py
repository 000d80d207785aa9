"""Models of ONNX that others wrote: what `from_onnx` makes of each operator, of torch's files, and of files that lie.

Pass criterion: outputs lie within RTOL of ONNX Runtime's, or of torch's, relative to the largest of them. A file that
cannot be read is one ValueError that names the place, and takes less memory than MOST_MEMORY.
"""

import math
import os
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt as fo

sys.path.insert(0, str(Path(__file__).parent / "data"))
import torch_onnx

onnx = pytest.importorskip("onnx", reason="models of ONNX need onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is the judge")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto

RTOL = 4e-6
MOST_MEMORY = 10_000_000  # bytes
node = helper.make_node
VECTOR, IMAGE = (4,), (4, 7, 6)


def array(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).normal(0.5, 1, shape).astype(dtype)


def model(nodes, constants=None, shape=VECTOR, opset=22, batch="n", output=None, dtype=TensorProto.FLOAT):
    """A model of nodes that lead from x to y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, [batch, *shape])],
        [helper.make_tensor_value_info("y", dtype, output)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in (constants or {}).items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8
    )


def saved(built, folder):
    path = folder / "model.onnx"
    path.write_bytes(built.SerializeToString())
    return path


def judged(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def check(built, folder, last=False, batch=3):
    """Compare with ONNX Runtime, on images as the file has them; returns the network."""
    path = saved(built, folder)
    net = fo.nn.from_onnx(path)
    sizes = [dim.dim_value for dim in built.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(3).normal(1, 2, (batch, *sizes)).astype(np.float32)
    wanted = judged(path, x)
    ours = net.predict(np.moveaxis(x, 1, 3) if x.ndim == 4 and not last else x)
    ours = np.moveaxis(ours, 3, 1) if ours.ndim == 4 and not last else ours
    np.testing.assert_allclose(ours, wanted.reshape(ours.shape), rtol=0, atol=RTOL * max(1.0, np.abs(wanted).max()))
    return net


def kinds(net):
    return [type(layer).__name__ for layer in net.layers]


# ---------------------------------------------------------------- operators

W, IN, V = array(4, 5), array(5, 4), array(4, seed=1)
NORM = {"gamma": array(4), "beta": array(4, seed=1), "mean": array(4, seed=2), "var": np.abs(array(4, seed=3))}
F = array(5, 4, 3, 2)
SHIFT = np.array([[[1.0]], [[2.0]], [[3.0]], [[-1.0]]], np.float32)
TO_LAST, TO_FIRST = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}


def chain(*steps):
    """Nodes in a row, each (operator, its other inputs, attributes)."""
    names = ["x", *(f"v{i}" for i in range(len(steps) - 1)), "y"]
    return [
        node(op, [names[i], *others], [names[i + 1]], **attributes) for i, (op, others, attributes) in enumerate(steps)
    ]


ON_VECTORS = {
    "Gemm": ([node("Gemm", ["x", "w", "v"], ["y"])], {"w": W, "v": V[:1]}, ["Dense"]),
    "Gemm with options": (
        [node("Gemm", ["x", "w", "v"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        {"w": IN, "v": array(1, 5)},
        ["Dense"],
    ),
    "Gemm of columns": (
        [node("Transpose", ["x"], ["t"]), node("Gemm", ["w", "t", "v"], ["u"]), node("Transpose", ["u"], ["y"])],
        {"w": IN, "v": array(5, 1)},
        ["Dense"],
    ),
    "Gemm that turns both": (
        [node("Transpose", ["x"], ["t"]), node("Gemm", ["t", "w"], ["y"], transA=1, transB=1)],
        {"w": IN},
        ["Dense"],
    ),
    "MatMul and Add": (chain(("MatMul", ["w"], {}), ("Add", ["v"], {})), {"w": W, "v": array(5)}, ["Dense"]),
    "Add from the left": (
        [node("MatMul", ["x", "w"], ["t"]), node("Add", ["v", "t"], ["y"])],
        {"w": W, "v": array(1, 5)},
        ["Dense"],
    ),
    "MatMul by columns": (
        [node("Transpose", ["x"], ["t"]), node("MatMul", ["w", "t"], ["u"]), node("Transpose", ["u"], ["y"])],
        {"w": IN},
        ["Dense"],
    ),
    "Sub and Div": (chain(("Sub", ["v"], {}), ("Div", ["s"], {})), {"v": V, "s": np.float32(3)}, ["Standardize"]),
    "Scaler": (
        [node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0, 2.0, 3.0, 4.0], scale=[0.5] * 4)],
        {},
        ["Standardize"],
    ),
    "Mul and Add": (chain(("Mul", ["v"], {}), ("Add", ["s"], {})), {"v": V, "s": V}, ["Standardize", "Standardize"]),
    "Mul and Relu": (chain(("Mul", ["v"], {}), ("Relu", [], {})), {"v": V}, ["GroupedDense"]),
    "BatchNormalization": (
        chain(("BatchNormalization", list(NORM), {"epsilon": 1e-3}), ("Tanh", [], {})),
        NORM,
        ["BatchNorm"],
    ),
    **{
        name: (chain((name, [], {})), {}, ["GroupedDense"])
        for name in ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "Softmax", "Gelu")
    },
    "activations in a row": (
        chain(("MatMul", ["w"], {}), ("Relu", [], {}), ("Tanh", [], {})),
        {"w": W},
        ["Dense", "GroupedDense"],
    ),
    "silu in parts": (
        [node("MatMul", ["x", "w"], ["a"]), node("Sigmoid", ["a"], ["s"]), node("Mul", ["s", "a"], ["y"])],
        {"w": W},
        ["Dense"],
    ),
    "gelu in parts": (
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Div", ["a", "root"], ["b"]),
            node("Erf", ["b"], ["e"]),
            node("Add", ["e", "one"], ["f"]),
            node("Mul", ["a", "f"], ["g"]),
            node("Mul", ["g", "half"], ["y"]),
        ],
        {"w": W, "root": np.float32(math.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)},
        ["Dense"],
    ),
    "gelu in other parts": (
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Mul", ["a", "root"], ["b"]),
            node("Erf", ["b"], ["e"]),
            node("Add", ["e", "one"], ["f"]),
            node("Mul", ["a", "half"], ["h"]),
            node("Mul", ["h", "f"], ["y"]),
        ],
        {"w": W, "root": np.float32(math.sqrt(0.5)), "one": np.float32(1), "half": np.float32(0.5)},
        ["Dense"],
    ),
    "shortcuts": (
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("MatMul", ["b", "v"], ["c"]),
            node("Add", ["c", "x"], ["d"]),
            node("Relu", ["d"], ["e"]),
            node("MatMul", ["e", "w"], ["f"]),
            node("Identity", ["e"], ["g"]),
            node("Concat", ["g", "f", "e"], ["y"], axis=-1),
        ],
        {"w": W, "v": array(5, 4, seed=4)},
        ["Residual", "GroupedDense", "Concat"],
    ),
    "a shortcut with a layer": (
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("MatMul", ["x", "v"], ["c"]),
            node("Add", ["b", "c"], ["d"]),
            node("Relu", ["d"], ["y"]),
        ],
        {"w": W, "v": array(4, 5, seed=4)},
        ["Add", "GroupedDense"],
    ),
    "Sum": ([node("MatMul", ["x", "w"], ["a"]), node("Sum", ["x", "a", "x"], ["y"])], {"w": array(4, 4)}, ["Add"]),
    "Concat": (
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Tanh", ["a"], ["b"]),
            node("Concat", ["x", "b", "x"], ["y"], axis=1),
        ],
        {"w": W},
        ["Concat"],
    ),
    "branches inside branches": (
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Tanh", ["a"], ["b"]),
            node("MatMul", ["b", "v"], ["c"]),
            node("Sigmoid", ["b"], ["d"]),
            node("MatMul", ["d", "v"], ["e"]),
            node("Concat", ["c", "e"], ["f"], axis=1),
            node("MatMul", ["f", "u"], ["g"]),
            node("Add", ["x", "g"], ["y"]),
        ],
        {"w": W, "v": array(5, 4, seed=4), "u": array(8, 4)},
        ["Residual"],
    ),
    "Max of products": (
        [
            node("Gemm", ["x", "w", "v"], ["a"]),
            node("MatMul", ["x", "u"], ["b"]),
            node("Max", ["a", "b"], ["y"]),
        ],
        {"w": W, "u": array(4, 5, seed=5), "v": array(5)},
        ["Maxout"],
    ),
    "convolution of one pixel": (
        [
            node("Unsqueeze", ["x", "axes"], ["a"]),
            node("Conv", ["a", "f", "b"], ["c"], group=2),
            node("Squeeze", ["c", "axes"], ["y"]),
        ],
        {"axes": np.array([2, 3]), "f": array(6, 2, 1, 1), "b": array(6)},
        ["GroupedDense"],
    ),
    "constants of constants": (
        [
            node("Constant", [], ["flat"], value=numpy_helper.from_array(W.reshape(-1))),
            node("Constant", [], ["shape"], value_ints=[5, 4]),
            node("Reshape", ["flat", "shape"], ["m"]),
            node("Transpose", ["m"], ["t"], perm=[1, 0]),
            node("Identity", ["t"], ["i"]),
            node("MatMul", ["x", "i"], ["y"]),
        ],
        {},
        ["Dense"],
    ),
    "Reshape that changes nothing": (
        chain(("Reshape", ["s"], {}), ("MatMul", ["w"], {})),
        {"s": np.array([0, 4]), "w": W},
        ["Dense"],
    ),
    "dropout and casts": (
        chain(("Dropout", ["half"], {}), ("Cast", [], {"to": 1}), ("MatMul", ["w"], {})),
        {"half": np.float32(0.5), "w": W},
        ["Dense"],
    ),
}

ON_IMAGES = {
    "Conv": (chain(("Conv", ["f", "b"], {"strides": [2, 1], "pads": [1, 0, 1, 0]})), {"f": F, "b": array(5)}),
    "Conv in groups": (chain(("Conv", ["f"], {"group": 2, "dilations": [2, 1]})), {"f": array(6, 2, 3, 2)}),
    "Conv and Add": (chain(("Conv", ["f"], {}), ("Add", ["b"], {}), ("Relu", [], {})), {"f": F, "b": array(5, 1, 1)}),
    "shifted channels": (chain(("Add", ["s"], {}), ("Relu", [], {})), {"s": SHIFT[None]}),
    "GlobalAveragePool": (chain(("GlobalAveragePool", [], {}), ("Flatten", [], {})), {}),
    "a pool, and single pixels": (
        chain(("GlobalAveragePool", [], {}), ("Conv", ["f"], {}), ("Relu", [], {}), ("Squeeze", ["axes"], {})),
        {"f": array(3, 4, 1, 1), "axes": np.array([-1, -2])},
    ),
    "ReduceMean": (chain(("ReduceMean", ["axes"], {"keepdims": 0})), {"axes": np.array([2, 3])}),
    "ReduceMean and Reshape": (
        chain(("ReduceMean", ["axes"], {}), ("Reshape", ["s"], {})),
        {"axes": np.array([-1, -2]), "s": np.array([-1, 4])},
    ),
    "Flatten": (chain(("Flatten", [], {}), ("Gemm", ["w"], {})), {"w": array(168, 3)}),
    "Reshape": (chain(("Reshape", ["s"], {}), ("Gemm", ["w"], {})), {"w": array(168, 3), "s": np.array([0, -1])}),
    "flattened, and convolved as one pixel": (
        chain(("Flatten", [], {}), ("Unsqueeze", ["axes"], {}), ("Conv", ["f", "b"], {}), ("Squeeze", ["axes"], {})),
        {"axes": np.array([2, 3]), "f": array(5, 168, 1, 1), "b": array(5)},
    ),
    "a part of the shape": (
        [
            node("Shape", ["x"], ["n"], start=0, end=1),
            node("Concat", ["n", "rest"], ["to"], axis=0),
            node("Reshape", ["x", "to"], ["f"]),
            node("MatMul", ["f", "w"], ["y"]),
        ],
        {"rest": np.array([-1]), "w": array(168, 3)},
    ),
    "flattened, and constants for its columns": (
        chain(
            ("Flatten", [], {}),
            ("Sub", ["a"], {}),
            ("Mul", ["b"], {}),
            ("BatchNormalization", ["b", "a", "a", "c"], {}),
            ("MatMul", ["w"], {}),
        ),
        {"a": array(168), "b": array(168, seed=1), "c": np.abs(array(168, seed=2)), "w": array(168, 3)},
    ),
    "BatchNormalization": (chain(("BatchNormalization", list(NORM), {}), ("Relu", [], {})), NORM),
    "Softmax": (chain(("Softmax", [], {"axis": 1})), {}),
    "shortcut": (
        [
            node("Conv", ["x", "f"], ["a"], pads=[1, 1, 1, 1]),
            node("Add", ["a", "x"], ["b"]),
            node("Relu", ["b"], ["y"]),
        ],
        {"f": array(4, 4, 3, 3)},
    ),
    "shape that the model computes": (
        [
            node("Relu", ["x"], ["a"]),
            node("Shape", ["a"], ["s"]),
            node("Gather", ["s", "zero"], ["n"], axis=0),
            node("Unsqueeze", ["n", "axis"], ["u"]),
            node("Concat", ["u", "rest"], ["to"], axis=0),
            node("Reshape", ["a", "to"], ["f"]),
            node("MatMul", ["f", "w"], ["y"]),
        ],
        {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1]), "w": array(168, 3)},
    ),
}
LAST = {  # images channels last, as TensorFlow has them
    "convolution": (("Transpose", [], TO_FIRST), ("Conv", ["f"], {}), ("Relu", [], {}), ("Transpose", [], TO_LAST)),
    "scaled": (("Mul", ["s"], {}), ("Transpose", [], TO_FIRST), ("Conv", ["f"], {}), ("Transpose", [], TO_LAST)),
    "products": (("Transpose", [], TO_FIRST), ("Relu", [], {}), ("Transpose", [], TO_LAST), ("MatMul", ["w"], {})),
    "flattened": (("Transpose", [], TO_FIRST), ("Transpose", [], TO_LAST), ("Flatten", [], {}), ("MatMul", ["v"], {})),
}


@pytest.mark.parametrize("name", ON_VECTORS)
def test_an_operator_on_vectors_is_layers(name, tmp_path):
    nodes, constants, layers = ON_VECTORS[name]
    assert kinds(check(model(nodes, constants), tmp_path)) == layers


@pytest.mark.parametrize("name", ON_IMAGES)
def test_an_operator_on_images_is_layers(name, tmp_path):
    nodes, constants = ON_IMAGES[name]
    check(model(nodes, constants, IMAGE), tmp_path)


@pytest.mark.parametrize("name", LAST)
def test_a_model_that_takes_images_channels_last(name, tmp_path):
    constants = {"f": F, "s": np.float32(0.5), "w": array(4, 2), "v": array(168, 2)}
    check(model(chain(*LAST[name]), constants, (7, 6, 4)), tmp_path, last=True)


def test_softmax_of_older_models(tmp_path):
    check(model(chain(("Softmax", [], {})), opset=12), tmp_path)
    with pytest.raises(ValueError, match="axis: expected that of the channels, got 1 of nchw"):
        fo.nn.from_onnx(saved(model(chain(("Softmax", [], {})), shape=IMAGE, opset=12), tmp_path))


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
rules = st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])


@given(kind=st.sampled_from(["Conv", "MaxPool", "AveragePool"]), data=st.data(), kernel=pairs, rule=rules)
def test_windows_are_those_of_onnx_runtime(kind, data, kernel, rule, tmp_path_factory):
    """What is read gives the same; what fastopt has no layer for is refused, and by this alone.

    ONNX Runtime 1.32 itself refuses dilations beside SAME, and pools with SAME whose stride is larger than the kernel.
    """
    strides = [data.draw(st.integers(1, k if rule.startswith("SAME") else 3)) for k in kernel]
    attributes = {"kernel_shape": kernel, "strides": strides, "auto_pad": rule}
    if rule == "NOTSET":
        attributes["pads"] = [data.draw(st.integers(0, k - 1)) for k in kernel * 2]
    if kind == "Conv" and not rule.startswith("SAME"):
        attributes["dilations"] = data.draw(pairs)
    elif kind != "Conv":
        attributes["ceil_mode"] = data.draw(st.integers(0, 1))
    if kind == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    others, constants = (["f"], {"f": array(3, 4, *kernel)}) if kind == "Conv" else ([], {})
    built, folder = model(chain((kind, others, attributes)), constants, (4, 9, 8)), tmp_path_factory.mktemp("windows")
    refused = None
    try:
        fo.nn.from_onnx(saved(built, folder))
    except ValueError as error:
        refused = str(error)
    if refused is None:
        check(built, folder)
    else:
        pads = attributes.get("pads", kernel * 2)
        assert "pads: expected" in refused or "padding: expected" in refused
        assert (
            rule.startswith("SAME")
            or pads[:2] != pads[2:]
            or any(2 * n > k for n, k in zip(pads, kernel * 2, strict=True))
        )


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("size", "strides"), [((8, 8), (2, 2)), ((7, 9), (2, 3)), ((6, 5), (1, 1))])
def test_same_padding_of_convolutions_and_pools(rule, size, strides, tmp_path):
    options = {"auto_pad": rule, "strides": strides}
    check(model(chain(("Conv", ["f"], options)), {"f": array(3, 4, 3, 4)}, (4, *size)), tmp_path)
    for kind in ("MaxPool", "AveragePool"):
        check(model(chain((kind, [], options | {"kernel_shape": [3, 3]})), shape=(4, *size)), tmp_path)


# ---------------------------------------------------------------- files of torch


@pytest.mark.parametrize("path", [torch_onnx.MODEL, torch_onnx.OLDER], ids=["with external data", "older exporter"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_model_of_torch_is_read(path, layout, tmp_path):
    net = fo.nn.from_onnx(path, layout=layout)
    with np.load(torch_onnx.TABLE) as table:
        x, y = table["x"], table["y"]
    np.testing.assert_allclose(net.predict(x if layout == "channels_first" else np.moveaxis(x, 1, 3)), y, atol=1e-6)
    names = ["Conv2d", "BatchNorm", "Residual", "Concat", "MaxPool2d", "AvgPool2d", "Flatten", "Dense", "Dense"]
    assert kinds(net)[-len(names) :] == names
    norm = net.layers[-8]
    assert (norm.eps, norm.momentum, norm.activation) == (1e-5, 0.1, "identity")
    fo.nn.to_onnx(net, tmp_path / "model.onnx", layout=layout)
    np.testing.assert_allclose(
        judged(tmp_path / "model.onnx", x if layout == "channels_first" else np.moveaxis(x, 1, 3)), y, atol=1e-6
    )


def test_sizes_that_a_model_leaves_open_may_be_given(tmp_path):
    built = model(chain(("Conv", ["f"], {})), {"f": F}, ("c", "h", "w"))
    path = saved(built, tmp_path)
    with pytest.raises(ValueError, match="give input_shape="):
        fo.nn.from_onnx(path)
    assert fo.nn.from_onnx(path, (9, 8, 4)).output_shape == (7, 7, 5)
    assert fo.nn.from_onnx(path, (9, 8, 4), layout="channels_first").input_shape == (4, 9, 8)
    with pytest.raises(ValueError, match="input_shape: expected 3 numbers"):
        fo.nn.from_onnx(path, (9,))
    fixed = saved(model(chain(("Conv", ["f"], {})), {"f": F}, (4, 7, 6)), tmp_path)
    with pytest.raises(ValueError, match="input_shape: expected 7 where the model has it, got 9"):
        fo.nn.from_onnx(fixed, (9, 6, 4))


@pytest.mark.parametrize("samples", [3, "n", None], ids=str)
def test_the_number_of_samples_does_not_matter(samples, tmp_path):
    target = np.array([samples if samples == 3 else -1, 168])
    net = check(
        model(
            chain(("Reshape", ["s"], {}), ("MatMul", ["w"], {})),
            {"s": target, "w": array(168, 2)},
            IMAGE,
            batch=samples,
        ),
        tmp_path,
    )
    assert net.predict(np.zeros((5, 7, 6, 4))).shape == (5, 2)


def test_values_that_are_listed_are_read_as_raw_ones_are(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 5], W.reshape(-1).tolist())
    built = model(chain(("MatMul", ["w"], {})))
    built.graph.initializer.append(weight)
    check(built, tmp_path)


# ---------------------------------------------------------------- what is refused

LINEAR = chain(("MatMul", ["w"], {}))


def tensor(*dims, content=b"1234" * 16, dtype=TensorProto.FLOAT):
    return TensorProto(name="w", dims=dims, data_type=dtype, raw_data=content)


def external(*dims, **entries):
    made = TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        made.external_data.add(key=key, value=str(value))
    return made


def with_tensors(*tensors, nodes=LINEAR, shape=VECTOR):
    built = model(nodes, shape=shape)
    built.graph.initializer.extend(tensors)
    return built


def nested(depth):
    steps, last = [], "x"
    for i in range(depth):
        steps += [node("MatMul", [last, "w"], [f"a{i}"]), node("Add", ["x", f"a{i}"], [f"b{i}"])]
        last = f"b{i}"
    return [*steps, node("Identity", [last], ["y"])]


def pool(kind="MaxPool", **attributes):
    return model(chain((kind, [], {"kernel_shape": [3, 3]} | attributes)), shape=IMAGE)


SHARED = [("MatMul", ["w"], {})] * 300
REFUSED = {
    # arrays that lie
    "terabytes": (with_tensors(tensor(2**20, 2**20)), r"'w': expected 4398046511104 bytes for float32 .*, got 64"),
    "more than a number": (with_tensors(tensor(2**62, 2**62)), "expected .* bytes"),
    "a negative size": (with_tensors(tensor(-4, -4)), "expected a whole tensor of sizes of at least 0"),
    "no elements": (with_tensors(tensor(0, 4, content=b"")), "expected a matrix for 4 channels, got one for 0"),
    "too few bytes": (with_tensors(tensor(4, 5)), "expected 80 bytes for float32 .*, got 64"),
    "too many axes": (with_tensors(tensor(*[1] * 1000)), "expected a whole tensor"),
    "float16": (with_tensors(tensor(4, 8, dtype=10)), "expected values of float32 or float64, got FLOAT16"),
    "no dtype": (with_tensors(tensor(4, 4, dtype=99)), "expected values of float32 or float64, got 99"),
    "another dtype": (with_tensors(tensor(4, 2, dtype=11)), "expected arrays of float32, as the values, got float64"),
    "whole numbers": (with_tensors(tensor(4, 4, dtype=6)), "expected arrays of float32, as the values, got int32"),
    "too few values": (
        with_tensors(TensorProto(name="w", dims=[4, 4], data_type=1, float_data=[1.0])),
        r"expected 16 values for shape \(4, 4\), got 1",
    ),
    "external: above": (with_tensors(external(4, 4, location="../data")), "in the folder of the model, got '../data'"),
    "external: absolute": (with_tensors(external(4, 4, location="/etc/passwd")), "in the folder of the model"),
    "external: a link": (with_tensors(external(4, 4, location="link")), "in the folder of the model, got 'link'"),
    "external: missing": (with_tensors(external(4, 4, location="none")), "expected the file 'none' beside the model"),
    "external: a long name": (
        with_tensors(external(4, 4, location="a" * 5000)),
        "expected the file 'a+' beside the model",
    ),
    "external: no name": (with_tensors(external(4, 4)), "in the folder of the model"),
    "external: short": (
        with_tensors(external(4, 4, location="data", offset=8)),
        "expected 64 bytes .* in a file of 64",
    ),
    "external: long": (with_tensors(external(2**30, 2**30, location="data")), "expected 4611686018427387904 bytes"),
    "external: length": (with_tensors(external(4, 4, location="data", length=8)), "expected 64 bytes of external data"),
    "external: no number": (with_tensors(external(4, 4, location="data", offset=-8)), "expected numbers as offset"),
    # graphs
    "an unknown operator": (model(chain(("Frobnicate", [], {}))), r"'y' \(Frobnicate\): expected an operator that has"),
    "another domain": (model([node("Relu", ["x"], ["y"], domain="com.microsoft")]), r"com\.microsoft\.Relu"),
    "a missing input": (model(LINEAR), r"'y' \(MatMul\): input 1: expected a value .* that comes before, got 'w'"),
    "a cycle": (
        model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])]),
        r"'a' \(Add\): input 1: expected a value or a constant that comes before, got 'b'",
    ),
    "a name twice": (model([node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"])]), "a name of its own for 'y'"),
    "an array twice": (with_tensors(tensor(4, 4), tensor(4, 4)), "expected every name once, got 'w' twice"),
    "no output": (model([node("Relu", ["x"], ["z"])]), "expected an output 'y' that depends on the input, got none"),
    "no inputs": (model([node("Add", [], ["y"])]), "expected an input that depends on that of the model, got none"),
    "a branch that ends": (
        model(
            [node("Relu", ["x"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("Sub", ["b", "a"], ["y"])],
            {"w": array(4, 4)},
        ),
        r"\(Sub\): expected a value and then a constant, or branches that meet",
    ),
    "branches that cross": (
        model(
            [
                node("Tanh", ["x"], ["a"]),
                node("Relu", ["x"], ["b"]),
                node("MatMul", ["a", "w"], ["c"]),
                node("Concat", ["a", "b"], ["d"], axis=1),
                node("Concat", ["c", "d"], ["y"], axis=1),
            ],
            {"w": array(4, 4)},
        ),
        "expected branches that part from one value and meet in one",
    ),
    "many nodes": (model(chain(*[("Relu", [], {})] * 8193)), "expected at most 8192 nodes, got 8193"),
    "branches of branches": (model(nested(40), {"w": array(4, 4)}), "expected at most 32 branches inside each other"),
    "a shared array": (
        model(chain(*SHARED), {"w": array(300, 300)}, (300,)),
        "expected weights of its own, got initializers that many nodes share",
    ),
    "a version of old": (model(LINEAR, {"w": W}, opset=6), "opset: expected a whole number from 7 to"),
    "a version to come": (model(LINEAR, {"w": W}, opset=99), "opset: expected a whole number from 7 to"),
    # sizes
    "another width": (model(LINEAR, {"w": array(5, 4)}), "expected a matrix for 4 channels, got one for 5"),
    "another output": (model(LINEAR, {"w": W}, output=["n", 7]), r"is stated to have sizes \[5\], got \[7\]"),
    "a huge vector": (
        model(chain(("Relu", [], {})), shape=(2**30,)),
        "expected at most 262144 channels where the file",
    ),
    "wide layers in a row": (
        model(chain(*[("Relu", [], {})] * 1000), shape=(2**17,)),
        "expected at most 1048576 channels that are scaled one by one, in all",
    ),
    "a huge constant": (model(chain(("Add", ["c"], {})), {"c": np.float32(1)}, (2**30,)), "expected at most 262144"),
    "a huge image": (model(chain(("MaxPool", [], {"kernel_shape": [2, 2]})), shape=(2**30,) * 3), r"at most 2\*\*40"),
    "a negative input": (model(LINEAR, {"w": W}, (-4,)), "input: expected a whole number from 1"),
    "an input of five axes": (model(LINEAR, {"w": W}, (1, 2, 3, 4)), "got 5 axes"),
    "a flattened image": (model(chain(("Flatten", [], {})), shape=IMAGE), "expected a Gemm after the flattened image"),
    "an unfit reshape": (model(chain(("Reshape", ["s"], {})), {"s": np.array([2, -1])}), "expected a vector for each"),
    # attributes
    "NaN": (model(chain(("LeakyRelu", [], {"alpha": math.nan}))), "alpha: expected a finite number, got nan"),
    "another slope": (model(chain(("LeakyRelu", [], {"alpha": 0.2}))), "alpha: expected 0.01, .* got 0.2"),
    "gelu by tanh": (model(chain(("Gelu", [], {"approximate": "tanh"}))), "approximate: expected 'none'"),
    "another type": (model(chain(("Gemm", ["w"], {"alpha": "a"})), {"w": W}), "alpha: expected an attribute FLOAT"),
    "a negative variance": (
        model(
            chain(("BatchNormalization", ["v", "v", "v", "m"], {})),
            {"v": np.ones(4, np.float32), "m": -np.ones(4, np.float32)},
        ),
        "running_var: expected variances of at least 0",
    ),
    "training": (model(chain(("BatchNormalization", list(NORM), {"training_mode": 1})), NORM), "expected inference"),
    "training of old": (
        model([node("BatchNormalization", ["x", *NORM], ["y", "a", "b", "c", "d"])], NORM, opset=9),
        "expected inference with an average a channel, got training, of several outputs",
    ),
    "error functions": (model(chain(("Erf", [], {}))), "expected Erf as a part of gelu"),
    "gelu of another scale for each channel": (
        model(
            [
                node("Mul", ["x", "root"], ["a"]),
                node("Erf", ["a"], ["b"]),
                node("Add", ["b", "one"], ["c"]),
                node("Mul", ["c", "halves"], ["d"]),
                node("Mul", ["x", "d"], ["y"]),
            ],
            {
                "root": np.float32(math.sqrt(0.5)),
                "one": np.float32(1),
                "halves": np.array([0.5, 0.5, 0.1, 0.4], np.float32),
            },
        ),
        r"expected x \* sigmoid\(x\) or gelu by erf",
    ),
    "twice gelu": (
        model(
            [
                node("Mul", ["x", "root"], ["a"]),
                node("Erf", ["a"], ["b"]),
                node("Add", ["b", "one"], ["c"]),
                node("Mul", ["x", "c"], ["y"]),
            ],
            {"root": np.float32(math.sqrt(0.5)), "one": np.float32(1)},
        ),
        "expected Erf as a part of gelu",
    ),
    "images whose axes are exchanged": (
        model(chain(("Relu", [], {}), ("Transpose", [], {"perm": [0, 1, 3, 2]})), shape=(4, 6, 6)),
        "expected an output of images, channels first or last, got axes ncwh",
    ),
    "groups of a flattened image": (
        model(
            chain(("Flatten", [], {}), ("Unsqueeze", ["axes"], {}), ("Conv", ["f"], {"group": 2})),
            {"axes": np.array([2, 3]), "f": array(4, 84, 1, 1)},
            IMAGE,
        ),
        "group: expected 1 after a flattened image",
    ),
    "a pool of another axis": (
        model(chain(("Transpose", [], TO_LAST), ("GlobalAveragePool", [], {})), shape=IMAGE),
        "expected an average over height and width, got axes 'wc' of nhwc",
    ),
    "a convolution of other axes": (
        model(chain(("Transpose", [], TO_LAST), ("Conv", ["f"], {})), {"f": array(5, 6, 3, 2)}, IMAGE),
        "expected an image, channels first, got axes nhwc",
    ),
    "a softmax of another axis": (
        model(chain(("Softmax", [], {"axis": -1})), shape=IMAGE),
        "axis: expected that of the channels, got -1 of nchw",
    ),
    "side by side, of samples": (
        model([node("Relu", ["x"], ["a"]), node("Concat", ["x", "a"], ["y"], axis=0)]),
        "axis: expected that of the channels, got 0 of nc",
    ),
    "a product of another axis": (
        model(LINEAR, {"w": array(6, 5)}, IMAGE),
        "expected a product with the channels, got one with axis 'w' of nchw",
    ),
    "a constant of another axis": (
        model(chain(("Add", ["c"], {})), {"c": array(6)}, IMAGE),
        r"expected a constant for each of 4 channels, got one of \(6,\)",
    ),
    "dilated maxima": (pool(dilations=[2, 1]), "dilations: expected 1"),
    "a kernel of very many axes": (pool(kernel_shape=[2] * 200_000), "expected at most 131072 numbers, got 200000"),
    "a kernel of none": (pool(kernel_shape=[0, 3]), "kernel_shape: expected a whole number from 1"),
    "a huge kernel": (pool(kernel_shape=[2**40, 3]), "kernel_shape: expected a whole number from 1 to 2147483647"),
    "negative pads": (pool(pads=[-1, 0, 0, 0]), "pads: expected a whole number from 0"),
    "huge pads": (
        model(chain(("Conv", ["f"], {"pads": [0, 0, 2**30, 0]})), {"f": F}, IMAGE),
        "pads: expected ends alike, or apart by less than a filter",
    ),
    "no such rule": (pool(auto_pad="SAME"), "auto_pad: expected NOTSET"),
    "three axes": (pool(kernel_shape=[2, 2, 2]), "kernel_shape: expected 2 numbers, got 3"),
    "groups of none": (model(chain(("Conv", ["f"], {"group": 0})), {"f": F}, IMAGE), "group: expected a whole number"),
    "many groups": (
        model(chain(("Conv", ["f"], {"group": 2**30})), {"f": F}, IMAGE),
        "expected filters for 4 channels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_lies_is_one_error_and_takes_no_memory(name, tmp_path):
    built, message = REFUSED[name]
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(b"1234" * 16)
    (tmp_path / "data").write_bytes(b"1234" * 16)
    os.symlink(outside, tmp_path / "link")
    path = saved(built, tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            fo.nn.from_onnx(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


def test_a_damaged_file_is_refused(tmp_path):
    content, path = torch_onnx.MODEL.read_bytes(), tmp_path / "model.onnx"
    shutil.copy(f"{torch_onnx.MODEL}.data", tmp_path / "torch_onnx.onnx.data")
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="expected an ONNX model"):
            fo.nn.from_onnx(path)
    path.write_bytes(content)
    fo.nn.from_onnx(path)
    os.truncate(tmp_path / "torch_onnx.onnx.data", 1000)
    with pytest.raises(ValueError, match="bytes of external data"):
        fo.nn.from_onnx(path)
    os.remove(tmp_path / "torch_onnx.onnx.data")
    with pytest.raises(ValueError, match="beside the model"):
        fo.nn.from_onnx(path)


def test_what_is_no_file_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fo.nn.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(IsADirectoryError):
        fo.nn.from_onnx(tmp_path)
    with pytest.raises(ValueError, match="layout: expected"):
        fo.nn.from_onnx(tmp_path / "none.onnx", layout="NCHW")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="expected a regular file"):
        fo.nn.from_onnx(tmp_path / "pipe")
