"""Networks as ONNX models: what ONNX Runtime makes of a file that `to_onnx` wrote, and what `from_onnx` reads back.

Pass criterion: outputs of ONNX Runtime lie within RTOL of the network's, relative to the largest of them; a network
that went out and came back has the same arrays, and so gives the same bits, unless layers became others: within RTOL.
ONNX Runtime lacks kernels of float64: networks of float64 are compared with the same one in float32.
"""

import itertools
import json
import os

import numpy as np
import pytest

import fastopt as fo
from fastopt._kernels import core
from fastopt.nn.layers import LAYERS, walk

onnx = pytest.importorskip("onnx", reason="models of ONNX need onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is the judge")

RTOL = 4e-6
LAYOUTS = ("channels_last", "channels_first")
nn = fo.nn
VECTORS = {
    **{f"dense {name}": lambda name=name: [nn.Dense(4, 6, name), nn.Dense(6, 3)] for name in core.ACTIVATIONS},
    "dense without bias": lambda: [nn.Dense(4, 3, bias=False)],
    "grouped dense": lambda: [nn.GroupedDense(4, 6, 2, "tanh"), nn.GroupedDense(6, 3, 3, bias=False)],
    "maxout": lambda: [nn.Maxout(4, 3, pieces=3), nn.Maxout(3, 2, pieces=2, bias=False)],
    "one piece": lambda: [nn.Dense(4, 3), nn.Maxout(3, 2, pieces=1)],
    "batch norm": lambda: [nn.Dense(4, 5), nn.BatchNorm(5, 1e-3, 0.2, "silu"), nn.BatchNorm(5, affine=False)],
    "standardize": lambda: [nn.Standardize(4), nn.Dense(4, 3, "relu")],
    "whiten": lambda: [nn.Whiten(4, "pca"), nn.Dense(4, 3)],
    "residual": lambda: [nn.Residual([nn.Dense(4, 5, "relu"), nn.Residual([nn.Dense(5, 5)]), nn.Dense(5, 4)])],
    "concat": lambda: [nn.Concat([[nn.Dense(4, 2, "gelu")], [], [nn.Concat([[], [nn.Maxout(4, 3)]])]])],
    "add": lambda: [nn.Add([[nn.Dense(4, 3, "tanh")], [nn.Dense(4, 3)], [nn.Add([[], []]), nn.Dense(4, 3)]])],
    "dropout": lambda: [nn.Dense(4, 4), nn.Dropout(0.5), nn.Concat([[nn.Dropout(0.5)], [nn.Dense(4, 1)]])],
    "dropout last": lambda: [nn.Dense(4, 4), nn.Dropout(0.5)],
    "flatten": lambda: [nn.Flatten(), nn.Dense(4, 2), nn.Flatten()],
}
IMAGES = {  # of 7 x 6 x 4
    **{f"conv2d {name}": lambda name=name: [nn.Conv2d(4, 5, 3, activation=name)] for name in core.ACTIVATIONS},
    "conv2d strided": lambda: [nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), groups=2, bias=False), nn.Conv2d(6, 2, 1)],
    "conv2d depthwise": lambda: [nn.Conv2d(4, 4, 3, padding=2, dilation=(2, 1), groups=4)],
    "conv2d same": lambda: [nn.Conv2d(4, 3, (2, 4), padding="same"), nn.Conv2d(3, 3, 3, padding="same", dilation=2)],
    "conv2d valid": lambda: [nn.Conv2d(4, 3, 2, padding="valid")],
    "max pool": lambda: [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True)],
    "avg pool": lambda: [nn.AvgPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True), nn.AvgPool2d(2, 1, 1)],
    "avg pool of real pixels": lambda: [nn.AvgPool2d(3, 2, 1, count_include_pad=False)],
    "global pool": lambda: [nn.Conv2d(4, 3, 2), nn.GlobalAvgPool2d(), nn.Dense(3, 2)],
    "dense": lambda: [nn.Dense(4, 6, "tanh"), nn.GroupedDense(6, 4, 2), nn.Maxout(4, 2)],
    "batch norm": lambda: [nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm(5, activation="relu")],
    "standardize": lambda: [nn.Standardize(4), nn.RandomShift(1, 1), nn.Conv2d(4, 2, 3, padding=1)],
    "whiten": lambda: [nn.RandomFlip(), nn.Whiten(4), nn.Conv2d(4, 2, 3)],
    "residual": lambda: [nn.Conv2d(4, 3, 1), nn.Residual([nn.Conv2d(3, 3, 3, padding=1, activation="relu")])],
    "residual first": lambda: [nn.Residual([nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 4, 1)])],
    "concat": lambda: [nn.Concat([[nn.MaxPool2d(3, 1, 1)], [], [nn.Conv2d(4, 2, 3, padding=1)]])],
    "add": lambda: [nn.Add([[nn.Conv2d(4, 5, 3, 2, 1), nn.BatchNorm(5)], [nn.Conv2d(4, 5, 1, 2)]]), nn.BatchNorm(5)],
    "concat of vectors": lambda: [nn.Concat([[nn.GlobalAvgPool2d()], [nn.GlobalAvgPool2d(), nn.Dense(4, 2)]])],
    "flatten first": lambda: [nn.Flatten(), nn.Dense(168, 3)],
    "flatten": lambda: [nn.Conv2d(4, 5, 3), nn.Dropout(0.2), nn.Flatten(), nn.Dropout(0.5), nn.Dense(100, 3)],
    "flatten, maxout": lambda: [nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Maxout(100, 3)],
    "flatten, groups": lambda: [nn.Conv2d(4, 5, 3), nn.Flatten(), nn.GroupedDense(100, 4, 2)],
    "flatten, batch norm": lambda: [nn.Conv2d(4, 5, 3), nn.Flatten(), nn.BatchNorm(100), nn.Dense(100, 2)],
    "flatten, residual": lambda: [nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Residual([nn.Dense(40, 40)])],
    "flatten, concat": lambda: [nn.Flatten(), nn.Concat([[], [nn.Dense(168, 2)]])],
    "channels first": lambda: [nn.ChannelsFirst(), nn.Conv2d(7, 3, 3), nn.Flatten(), nn.Dense(24, 2)],
    "channels first twice": lambda: [nn.ChannelsFirst(), nn.Conv2d(7, 3, 1), nn.ChannelsFirst(), nn.Conv2d(6, 2, 1)],
}
EXAMPLES = {name: (make, (4,)) for name, make in VECTORS.items()} | {
    f"images: {name}": (make, (7, 6, 4)) for name, make in IMAGES.items()
}
TWICE = "images: channels first twice"  # which `from_onnx` has no layers for
each = pytest.mark.parametrize("name", EXAMPLES)
each_way = pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name in EXAMPLES for layout in LAYOUTS[: 2 if "image" in name else 1]]
)


def network(name, dtype=np.float32):
    """A network of an example whose arrays are all different, and not those it starts with."""
    make, shape = EXAMPLES[name]
    net, rng = nn.Sequential(make(), rng=0, dtype=dtype, input_shape=shape), np.random.default_rng(1)
    net.calibrate(rng.normal(3, 2, (40, *net.input_shape)))
    for layer in walk(net.layers):
        for key, a in layer.arrays().items() if not layer.layers else ():
            if key in ("bias", "beta", "gamma"):
                setattr(layer, key, rng.normal(1, 0.5, a.shape))
    return net


def samples(net, dtype=np.float32):
    return np.random.default_rng(2).normal(3, 2, (3, *net.input_shape)).astype(dtype)


def moved(x, layout):
    """Images channels first where the layout says so."""
    return np.ascontiguousarray(np.moveaxis(x, 3, 1)) if layout == "channels_first" and x.ndim == 4 else x


def judged(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=RTOL * max(1.0, np.abs(b).max()))


def takes_channels_first(net):
    return isinstance(net.layers[0], nn.ChannelsFirst)


@each_way
@pytest.mark.parametrize("fold", [False, True], ids=["", "folded"])
def test_onnx_runtime_gives_what_the_network_gives(name, layout, fold, tmp_path):
    net, path = network(name), tmp_path / "model.onnx"
    nn.to_onnx(net, path, layout=layout, fold=fold)
    onnx.checker.check_model(path, full_check=True)
    x = samples(net)
    y = judged(path, x if takes_channels_first(net) else moved(x, layout))
    assert_close(y, moved(net.predict(x), layout))


@each_way
@pytest.mark.parametrize("fold", [False, True], ids=["", "folded"])
def test_a_network_comes_back(name, layout, fold, tmp_path):
    net, path = network(name), tmp_path / "model.onnx"
    nn.to_onnx(net, path, layout=layout, fold=fold)
    if name == TWICE:
        with pytest.raises(ValueError, match=r"\(Conv\): expected an image, channels first, got axes nhwc"):
            nn.from_onnx(path)
        return
    back = nn.from_onnx(path, layout=LAYOUTS[takes_channels_first(net)])
    assert back.dtype == net.dtype
    assert back.input_shape == net.input_shape
    assert back.output_shape == net.output_shape
    x = samples(net)
    assert_close(back.predict(x), net.predict(x))


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "standardize" not in name and name != TWICE])
def test_a_network_that_comes_back_gives_the_same_bits(name, dtype, tmp_path):
    """But one that standardizes: the scale, of float64, is rounded in a file of float32."""
    net, path = network(name, dtype), tmp_path / "model.onnx"
    nn.to_onnx(net, path)
    back = nn.from_onnx(path, layout=LAYOUTS[takes_channels_first(net)])
    np.testing.assert_array_equal(back.predict(samples(net, dtype)), net.predict(samples(net, dtype)))


@each
def test_float64_lies_within_the_bounds_of_float32(name, tmp_path):
    """ONNX Runtime runs the network in float32; the network of float64 is the reference."""
    net, wide, path = network(name), network(name, np.float64), tmp_path / "model.onnx"
    nn.to_onnx(net, path)
    assert_close(judged(path, samples(net)), wide.predict(samples(net)))
    nn.to_onnx(wide, path)
    onnx.checker.check_model(path, full_check=True)


def test_every_kind_of_layer_is_among_the_examples():
    kinds = {type(layer).__name__ for make, _ in EXAMPLES.values() for layer in walk(make())}
    ours = {name for name, kind in LAYERS.items() if kind.__module__.startswith("fastopt.nn.layers")}
    assert kinds == ours


def test_inception_v1_goes_both_ways(tmp_path):
    net, path, rng = nn.models.inception_v1(classes=5), tmp_path / "model.onnx", np.random.default_rng(0)
    x = rng.normal(size=(2, 224, 224, 3)).astype(np.float32)
    for layer in walk(net.layers):
        if isinstance(layer, nn.BatchNorm):
            width = layer.in_features
            layer.gamma, layer.running_var = rng.uniform(0.5, 1.5, width), rng.uniform(0.5, 1.5, width)
            layer.beta, layer.running_mean = rng.normal(0, 0.2, width), rng.normal(0, 0.2, width)
    wanted = net.predict(x)
    for layout, fold in itertools.product(LAYOUTS, (False, True)):
        nn.to_onnx(net, path, layout=layout, fold=fold)
        assert_close(judged(path, moved(x, layout)), wanted)
        back = nn.from_onnx(path)
        assert_close(back.predict(x), wanted)
        if not fold:
            kept = [layer for layer in net.layers if not isinstance(layer, nn.Dropout)]
            assert [repr(layer) for layer in back.layers] == [repr(layer) for layer in kept]
            for a, b in zip(back.parameters(), net.parameters(), strict=True):
                np.testing.assert_array_equal(a, b)
    onnx.checker.check_model(path, full_check=True)


def test_blocks_in_a_row_do_not_lie_inside_each_other(tmp_path):
    """ResNet-152 has 50."""
    blocks = [nn.Residual([nn.Dense(4, 3, activation="tanh"), nn.Dense(3, 4)]) for _ in range(50)]
    net, path = nn.Sequential([nn.Dense(4, 4), *blocks, nn.Dense(4, 2)], rng=0), tmp_path / "model.onnx"
    nn.to_onnx(net, path)
    back = nn.from_onnx(path)
    assert [repr(layer) for layer in back.layers] == [repr(layer) for layer in net.layers]
    np.testing.assert_array_equal(back.predict(samples(net)), net.predict(samples(net)))


def test_a_network_that_comes_back_can_be_trained(tmp_path):
    net, path = network("images: flatten"), tmp_path / "model.onnx"
    nn.to_onnx(net, path)
    back = nn.from_onnx(path)
    before = back.evaluate(samples(back), [0, 1, 2])
    trainer = nn.Trainer(back, "cross_entropy", fo.optim.SGD(back.parameters(), lr=1e-3))
    trainer.step(samples(back), [0, 1, 2])
    assert back.evaluate(samples(back), [0, 1, 2]) < before


def test_means_keep_the_digits_of_float64(tmp_path):
    """A column far from zero, of little spread: a mean rounded to float32 would move it by half of its deviation."""
    net, path = nn.Sequential([nn.Standardize(2), nn.Dense(2, 2)], rng=0), tmp_path / "model.onnx"
    x = np.array([[1000, 1], [1000.0001, 2], [1000.0002, 4]], np.float32)
    net.calibrate(x.astype(np.float64) + 0.00002)
    nn.to_onnx(net, path)
    assert_close(judged(path, x), net.predict(x))
    np.testing.assert_allclose(nn.from_onnx(path).layers[0].mean, net.layers[0].mean, rtol=1e-14)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_says_what_it_is(layout, tmp_path):
    net, path = network("images: flatten"), tmp_path / "model.onnx"
    net.metadata = {"classes": ["a", "b", "c"], "version": 2}
    nn.to_onnx(net, path, layout=layout, opset=23)
    model = onnx.load(path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["layout"] == layout
    assert json.loads(properties["metadata"]) == net.metadata
    assert (model.producer_name, model.producer_version) == ("fastopt", fo.__version__)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    first = layout == "channels_first"
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", *((4, 7, 6) if first else (7, 6, 4))]
    assert [dim.denotation for dim in dims].index("DATA_CHANNEL") == (1 if first else 3)
    order = "channels, height, width" if first else "height, width, channels"
    assert model.doc_string.startswith(f"opset 23; input (batch, {order}) = (batch, ")
    assert nn.from_onnx(path).metadata == net.metadata
    names = {tensor.name for tensor in model.graph.initializer}
    assert names == {"layers.0.weight", "layers.0.bias", "layers.4.weight", "layers.4.bias"}


def test_metadata_may_be_given(tmp_path):
    nn.to_onnx(network("maxout"), tmp_path / "model.onnx", metadata={"note": "given"})
    assert nn.from_onnx(tmp_path / "model.onnx").metadata == {"note": "given"}
    with pytest.raises(ValueError, match="metadata: expected JSON values"):
        nn.to_onnx(network("maxout"), tmp_path / "model.onnx", metadata={"note": object()})


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.onnx"
    nn.to_onnx(network("maxout"), path)
    before = path.read_bytes()
    nn.to_onnx(network("maxout"), path)
    assert path.read_bytes() == before  # the same network, the same bytes
    with pytest.raises(ValueError, match="layout"):
        nn.to_onnx(network("maxout"), path, layout="nchw")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_images_that_end_in_an_order_that_fastopt_does_not_give_are_refused(tmp_path):
    """What a last ChannelsFirst reads as channels, the file denotes so, and has in the place of rows."""
    layers = [nn.Conv2d(2, 3, 2), nn.ChannelsFirst()]
    nn.to_onnx(nn.Sequential(layers, rng=0, input_shape=(5, 4, 2)), tmp_path / "model.onnx", layout="channels_first")
    with pytest.raises(ValueError, match="expected an output whose channels are denoted as such, got axes nhwc"):
        nn.from_onnx(tmp_path / "model.onnx")


class TwiceHere(nn.Layer):
    def config(self):
        return {}

    def lay_out(self, layout, src):
        dst = layout.value(layout.shapes[src])
        layout.add("add", (src, src), dst)
        return dst


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([nn.Dense(2, 2)], {"layout": "NHWC"}, "layout: expected channels_last or channels_first, got 'NHWC'"),
        ([nn.Dense(2, 2)], {"opset": 21}, "opset: expected a whole number from 22"),
        ([nn.Dense(2, 2)], {"fold": "yes"}, "fold: expected True or False"),
        ([nn.Standardize(2)], {}, "statistics"),
        (
            [nn.Dense(2, 2), nn.Residual([TwiceHere()])],
            {},
            r"layers\.1\.0: expected a layer of Add, AvgPool2d.*, got TwiceHere",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(layers, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        nn.to_onnx(nn.Sequential(layers), tmp_path / "model.onnx", **options)
    assert not os.listdir(tmp_path)


def test_only_a_network_is_written(tmp_path):
    trainer = nn.Trainer(nn.Sequential([nn.Dense(2, 1)]), "mse", "sgd")
    with pytest.raises(TypeError, match=r"^net: expected a Sequential, got Trainer"):
        nn.to_onnx(trainer, tmp_path / "model.onnx")


def test_weights_that_no_file_holds_are_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("fastopt.nn.interchange.onnx_write.MOST_BYTES", 2**20 + 100)
    with pytest.raises(ValueError, match=r"net: expected weights of less than 2 GB, .* got 204 bytes"):
        nn.to_onnx(network("dense relu"), tmp_path / "model.onnx")
    assert not os.listdir(tmp_path)


def test_numbers_that_float32_does_not_hold_are_refused(tmp_path):
    net = nn.Sequential([nn.Standardize(2)]).calibrate(np.eye(2))
    net.layers[0].scale = np.array([1.0, 1e300])
    with pytest.raises(ValueError, match=r"layers\.0\.scale: expected values that float32 holds, got larger ones"):
        nn.to_onnx(net, tmp_path / "model.onnx")


def test_onnx_is_imported_where_it_is_used(python):
    program = "import sys, fastopt; print([m for m in ('onnx', 'onnxruntime', 'google.protobuf') if m in sys.modules])"
    assert python(program) == "[]\n"


def test_a_missing_library_is_named(python):
    program = """
import sys
sys.modules["onnx"] = None
import fastopt as fo
net = fo.nn.Sequential([fo.nn.Dense(2, 2)])
for call in (lambda: fo.nn.to_onnx(net, "x.onnx"), lambda: fo.nn.from_onnx("x.onnx")):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    to, back = python(program).splitlines()
    assert to.startswith("nn.to_onnx needs onnx")
    assert back.startswith("nn.from_onnx needs onnx")
    assert to.endswith("pip install fastopt[onnx]")
