"""Images on their way into a network: channels first, flat rows, flattening, and what says that an array does not fit.

Pass criterion: bits are equal, for numbers are moved and not changed; of whole numbers, those recorded from torch too.
"""

import copy
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastopt as fo
from fastopt._kernels import core

sys.path.insert(0, str(Path(__file__).parent / "data"))

import torch_images

SHAPE = (6, 5, 4)  # height, width, channels: unlike, so that none is taken for another
THREADS = (1, 2, 3, 8)


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def turned(x):
    """(n, height, width, channels) as (n, channels, height, width)."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def layers():
    return [fo.nn.Dense(4, 7, "tanh"), fo.nn.Flatten(), fo.nn.Dense(6 * 5 * 7, 3)]


def pair(dtype=np.float64):
    """A network over images as torch has them, the same over ours, and images for it."""
    first = fo.nn.Sequential([fo.nn.ChannelsFirst(), *layers()], rng=0, dtype=dtype, input_shape=(4, 6, 5))
    last = fo.nn.Sequential(layers(), rng=0, dtype=dtype, input_shape=SHAPE)
    return first, last, normal(9, *SHAPE, dtype=dtype)


# ---------------------------------------------------------------- channels first


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 5), (1, 7, 3), (16, 4, 4), (17, 2, 9), (40, 3, 2)], ids=str)
def test_channels_come_last(shape, dtype):
    net = fo.nn.Sequential([fo.nn.ChannelsFirst()], dtype=dtype, input_shape=shape)
    x = normal(3, *shape, dtype=dtype)
    for threads in THREADS:
        with fo.num_threads(threads):
            np.testing.assert_array_equal(net.predict(x), np.moveaxis(x, 1, -1))


@pytest.mark.parametrize("threads", THREADS)
def test_a_network_over_channels_first_computes_what_it_does_over_channels_last(threads, dtype):
    first, last, x = pair(dtype)
    y = normal(9, 3, dtype=dtype)
    v = [normal(*p.shape, dtype=dtype, seed=3) for p in first.parameters()]
    with fo.num_threads(threads):
        np.testing.assert_array_equal(first.predict(turned(x)), last.predict(x))
        np.testing.assert_equal(first.value_and_grad(turned(x), y, "mse"), last.value_and_grad(x, y, "mse"))
        np.testing.assert_equal(first.hvp(turned(x), y, v, "mse"), last.hvp(x, y, v, "mse"))


def turning(border):
    """Dense, turned three times, which is as it was, into borders; added to what was not turned."""
    sizes = [(4, 6, 5), (6, 5, 4), (5, 4, 6), (4, 6, 5)]
    weight = normal(5, 5, seed=7)
    values = [{"shape": sizes[0]}, *({"shape": size, "border": border} for size in sizes), {"shape": sizes[0]}]
    kinds = ["dense", "channels_first", "channels_first", "channels_first"]
    entries = [{"kind": kind, "sources": (i,), "dst": i + 1} for i, kind in enumerate(kinds)]
    entries[0]["weights"] = [weight]
    return values, [*entries, {"kind": "add", "sources": (4, 1), "dst": 5}], weight


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("border", [(0, 0), (1, 2), (2, 0), (0, 1)])
def test_images_are_turned_within_borders_forward_and_backward(border, threads):
    values, entries, weight = turning(border)
    training = core.Training(core.Program(values, entries, np.dtype(np.float64).num), "mse", None, 4)
    x, y = normal(3, 4, 6, 5), normal(3, 4, 6, 5, seed=1)
    with fo.num_threads(threads):
        output = 2 * (x @ weight.T)
        np.testing.assert_allclose(training.program.predict(x), output, rtol=1e-13, atol=1e-14)
        training.step(x, y)
        grad = np.einsum("nijo,nijd->od", 4 * (output - y) / y.size, x)
        np.testing.assert_allclose(training.grads[0], grad, rtol=1e-11)
        direction = normal(5, 5, seed=4)
        (product,) = training.hvp(x, y, [direction])
        want = np.einsum("nijo,nijd->od", 8 * (x @ direction.T) / y.size, x)
        np.testing.assert_allclose(product, want, rtol=1e-11)


# ---------------------------------------------------------------- flat rows, and arrays that do not fit


def test_images_may_come_as_rows_of_their_numbers(dtype):
    _, net, x = pair(dtype)
    flat, y = x.reshape(9, -1), normal(9, 3, dtype=dtype)
    np.testing.assert_array_equal(net.predict(flat), net.predict(x))
    np.testing.assert_array_equal(net.predict(flat.tolist()), net.predict(x))
    assert net.predict(flat[:0]).shape == (0, 3)
    assert net.evaluate(flat, y, "mse") == net.evaluate(x, y, "mse")
    np.testing.assert_equal(net.value_and_grad(flat, y, "mse"), net.value_and_grad(x, y, "mse"))
    trainers = [fo.nn.Trainer(copy.deepcopy(net), "mse", "adam") for _ in range(2)]
    histories = [trainer.fit(a, y, epochs=2, validation=(a, y)) for trainer, a in zip(trainers, (flat, x), strict=True)]
    assert histories[0] == histories[1]


def test_statistics_may_be_taken_of_rows_of_numbers():
    nets = [fo.nn.Sequential([fo.nn.Standardize(4)], input_shape=SHAPE) for _ in range(2)]
    x = normal(9, *SHAPE) + 100
    np.testing.assert_array_equal(nets[0].calibrate(x).predict(x), nets[1].calibrate(x.reshape(9, -1)).predict(x))


def test_a_flattened_input_is_read_in_the_precision_it_comes_in():
    net = fo.nn.Sequential([fo.nn.Flatten(), fo.nn.Standardize(120)], input_shape=SHAPE)
    x = normal(50, *SHAPE) + 1e6
    mean, scale = x.mean(axis=0), 1 / x.std(axis=0)
    net.calibrate(x)
    net.layers[1].mean, net.layers[1].scale = mean.ravel(), scale.ravel()
    np.testing.assert_allclose(net.predict(x), ((x - mean) * scale).reshape(50, -1), rtol=0, atol=1e-5)


CALLS = {
    "predict": lambda net, x, y: net.predict(x),
    "evaluate": lambda net, x, y: net.evaluate(x, y, "mse"),
    "value_and_grad": lambda net, x, y: net.value_and_grad(x, y, "mse"),
    "hvp": lambda net, x, y: net.hvp(x, y, net.parameters(), "mse"),
    "calibrate": lambda net, x, y: net.calibrate(x),
    "fit": lambda net, x, y: fo.nn.Trainer(net, "mse", "sgd").fit(x, y),
    "step": lambda net, x, y: fo.nn.Trainer(net, "mse", "sgd").step(x, y),
}
LAST = r"expected shape \(n, 6, 5, 4\)"
UNFIT = {
    "channels first": (
        (9, 4, 6, 5),
        LAST + r", got \(9, 4, 6, 5\); arrays are \(n, height, width, channels\): pass [xX]\.transpose\(0, 2, 3, 1\), "
        r"or put nn\.ChannelsFirst\(\) first",
    ),
    "another size": ((9, 5, 6, 4), LAST + r", got \(9, 5, 6, 4\); or rows of shape \(n, 120\)"),
    "rows of another size": ((9, 119), LAST + r", got \(9, 119\); or rows"),
    "one image": (SHAPE, LAST + r", got \(6, 5, 4\); pass [xX]\.reshape\(1, 6, 5, 4\) for one image"),
    "one row": ((120,), LAST + r", got \(120,\); pass [xX]\.reshape\(1, 6, 5, 4\) for one image"),
    "five axes": ((9, 6, 5, 4, 1), LAST + r", got \(9, 6, 5, 4, 1\)"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", UNFIT)
def test_an_array_that_does_not_fit_is_one_clear_error(case, call):
    _, net, _ = pair()
    shape, message = UNFIT[case]
    before = [p.copy() for p in net.parameters()]
    with pytest.raises(ValueError, match=message):
        CALLS[call](net, np.zeros(shape), np.zeros((shape[0], 3)))
    for p, kept in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(p, kept)


def test_channels_last_for_a_network_of_channels_first_are_named():
    first, _, x = pair()
    with pytest.raises(ValueError, match=r"the network takes channels first: pass x\.transpose\(0, 3, 1, 2\)"):
        first.predict(x)


def test_an_image_of_one_channel_needs_its_axis():
    net = fo.nn.Sequential([fo.nn.Flatten()], input_shape=(6, 5, 1))
    with pytest.raises(ValueError, match=r"expected shape \(n, 6, 5, 1\), got \(9, 6, 5\); pass x\[\.\.\., None\]"):
        net.predict(np.zeros((9, 6, 5)))


MISFITS = {
    "channels first for a convolution": (
        lambda: [fo.nn.Conv2d(3, 8, 3)],
        (3, 32, 28),
        "layers[0] (Conv2d): expected 3 channels, got 28 from the input; arrays are (n, height, width, channels): "
        "put nn.ChannelsFirst() first, or transpose",
    ),
    "channels": (
        lambda: [fo.nn.Conv2d(3, 8, 3), fo.nn.Conv2d(7, 8, 3)],
        (32, 28, 3),
        "layers[1] (Conv2d): expected 7 channels, got 8 from layers[0] (Conv2d)",
    ),
    "a kernel larger than the padded image": (
        lambda: [fo.nn.Conv2d(3, 8, (3, 5), padding=(0, 1), dilation=(1, 2))],
        (4, 5, 3),
        "layers[0] (Conv2d): expected an image of at least 3 x 9 with its padding, got 4 x 7 from the input",
    ),
    "no shape": (
        lambda: [fo.nn.Conv2d(3, 8, 3)],
        None,
        "layers[0] (Conv2d): expected an image (height, width, channels), got (3,) from the input; "
        "give Sequential an input_shape=",
    ),
    "a vector": (
        lambda: [fo.nn.ChannelsFirst()],
        (3,),
        "layers[0] (ChannelsFirst): expected an image (channels, height, width), got (3,) from the input; "
        "give Sequential an input_shape=",
    ),
    "branches": (
        lambda: [fo.nn.Concat([[fo.nn.Conv2d(3, 8, 3)], [fo.nn.Conv2d(3, 4, 3, padding="same")]])],
        (32, 28, 3),
        "layers[0] (Concat): expected branches that end in one size, to join their channels, "
        "got (30, 26, 8), (32, 28, 4) from the input",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_layer_of_images_that_does_not_fit_says_why(case):
    make, shape, message = MISFITS[case]
    with pytest.raises(ValueError, match=r".") as error:
        fo.nn.Sequential(make(), input_shape=shape)
    assert str(error.value) == message


def test_a_first_layer_that_flattens_needs_a_shape():
    with pytest.raises(ValueError, match=r"layers: expected a layer with a width of its own, .* input_shape"):
        fo.nn.Sequential([fo.nn.Flatten(), fo.nn.Dense(784, 10)])


# ---------------------------------------------------------------- networks of convolutions

RTOL = 1e-6  # of central differences, relative to the largest
NETWORKS = {  # from images (6, 5, 4)
    "of the input": lambda: [fo.nn.Conv2d(4, 3, 3, padding=1, activation="tanh")],
    "in a row": lambda: [
        fo.nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, activation="silu"),
        fo.nn.Conv2d(6, 4, 3, padding="same", dilation=2, activation="gelu"),
        fo.nn.AvgPool2d(2, 1),
        fo.nn.Conv2d(4, 3, (1, 2), activation="softmax"),
    ],
    "a shortcut": lambda: [
        fo.nn.Conv2d(4, 4, 1),
        fo.nn.Residual([fo.nn.Conv2d(4, 5, 3, padding=1, activation="tanh"), fo.nn.Conv2d(5, 4, 3, padding=1)]),
        fo.nn.BatchNorm(4, activation="tanh"),
        fo.nn.GlobalAvgPool2d(),
    ],
    "readers of unlike borders": lambda: [
        fo.nn.Conv2d(4, 5, 1, activation="tanh"),
        fo.nn.Concat(
            [
                [fo.nn.Conv2d(5, 2, 1)],
                [fo.nn.Conv2d(5, 3, 3, padding=1), fo.nn.Conv2d(3, 2, 5, padding=2)],
                [fo.nn.AvgPool2d(3, 1, 1), fo.nn.Conv2d(5, 1, 1)],
                [],
            ]
        ),
        fo.nn.Conv2d(10, 2, 3, padding=1),
    ],
    "beside its own vector": lambda: [
        fo.nn.Conv2d(4, 2, 3, activation="tanh"),
        fo.nn.Concat([[fo.nn.Flatten(), fo.nn.Dense(24, 3)], [fo.nn.Conv2d(2, 2, 3, padding=1), fo.nn.Flatten()]]),
    ],
    "branches of the input": lambda: [
        fo.nn.Concat([[fo.nn.Conv2d(4, 2, 3, padding=1)], [], [fo.nn.Conv2d(4, 2, 5, padding=2)]]),
        fo.nn.Conv2d(8, 2, 2, padding=1),
    ],
    "nested branches": lambda: [
        fo.nn.Concat(
            [
                [fo.nn.Conv2d(4, 3, 1), fo.nn.Concat([[fo.nn.Conv2d(3, 2, 3, padding=1, activation="tanh")], []])],
                [fo.nn.Conv2d(4, 2, 1)],
            ]
        ),
        fo.nn.Conv2d(7, 2, 3, padding=1, stride=2),
    ],
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def network(name, dtype=np.float64):
    """Ending in two outputs, whatever comes before."""
    layers = NETWORKS[name]()
    end = fo.nn.layers.shapes(layers, SHAPE)[-1]
    return fo.nn.Sequential(
        [*layers, fo.nn.Flatten(), fo.nn.Dense(int(np.prod(end)), 2)], rng=0, dtype=dtype, input_shape=SHAPE
    )


@every_network
def test_gradients_and_products_with_the_hessian_are_those_of_differences(name):
    net, x, y, step = network(name), normal(4, *SHAPE), normal(4, 2, seed=2), 1e-6
    _, grads = net.value_and_grad(x, y, "mse")
    v = [normal(*p.shape, seed=3) for p in net.parameters()]
    product, ends = net.hvp(x, y, v, "mse"), []
    for sign in (1, -1):
        moved = copy.deepcopy(net)
        for p, d in zip(moved.parameters(), v, strict=True):
            p += sign * step * d
        ends.append(moved.value_and_grad(x, y, "mse"))
    along = sum((g * d).sum() for g, d in zip(grads, v, strict=True))
    assert (ends[0][0] - ends[1][0]) / (2 * step) == pytest.approx(along, rel=RTOL)
    for got, plus, minus in zip(product, ends[0][1], ends[1][1], strict=True):
        want = (plus - minus) / (2 * step)
        np.testing.assert_allclose(got, want, rtol=0, atol=RTOL * max(1, np.abs(want).max()))


@every_network
def test_training_and_predicting_give_the_same_bits_at_any_number_of_threads(name, dtype):
    found, x, y = [], normal(9, *SHAPE, dtype=dtype), normal(9, 2, dtype=dtype)
    for threads in THREADS:
        with fo.num_threads(threads):
            net = network(name, dtype)
            fo.nn.Trainer(net, "mse", "adam").fit(x, y, epochs=2, batch_size=4)
            found.append([net.predict(x), net.predict(x[:1]), net.fold().predict(x)])
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(a, b)


@st.composite
def layers_of(draw, shape, same=False, nested=2):
    """A chain of layers from images of this shape; with `same` it keeps height and width."""
    chain = []
    for _ in range(draw(st.integers(0 if same else 1, 3))):
        channels, kinds = (
            shape[-1],
            ["same", "pool", "norm", "dropout", *["shrink"] * (not same), *["inside"] * bool(nested)],
        )
        kind = draw(st.sampled_from(kinds))
        if kind == "inside" and draw(st.booleans()):
            branches = draw(st.lists(layers_of(shape, True, nested - 1), min_size=1, max_size=3))
            layer = fo.nn.Concat(branches)
        elif kind == "inside":
            inner = draw(layers_of(shape, True, nested - 1))
            width = fo.nn.layers.shapes(inner, shape)[-1][-1]
            layer = fo.nn.Residual([*inner, fo.nn.Conv2d(width, channels, 3, padding=1)])
        elif kind == "pool":
            layer = draw(st.sampled_from([fo.nn.MaxPool2d, fo.nn.AvgPool2d]))(3, 1, 1)
        elif kind == "norm":
            layer = fo.nn.BatchNorm(channels, activation=draw(st.sampled_from(["identity", "relu"])))
        elif kind == "dropout":
            layer = fo.nn.Dropout(0.5)
        else:
            kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
            padding = "same" if kind == "same" else draw(st.integers(0, 2))
            options = {"stride": draw(st.integers(1, 2)) if kind == "shrink" else 1, "activation": "tanh"}
            layer = fo.nn.Conv2d(channels, draw(st.integers(1, 4)), kernel, padding=padding, **options)
            if any(n + 2 * (0 if kind == "same" else padding) < 3 for n in shape[:2]):
                continue
        chain.append(layer)
        shape = layer.output_shape(shape)
    return chain


def apart(layers, x):
    """What a chain gives, each layer in a network of its own."""
    for layer in layers:
        if isinstance(layer, fo.nn.Concat):
            x = np.concatenate([apart(branch, x) for branch in layer.branches], axis=-1)
        elif isinstance(layer, fo.nn.Residual):
            x = apart(layer.layers, x) + x
        elif not layer.training_only:
            x = fo.nn.Sequential([copy.deepcopy(layer)], dtype=x.dtype, input_shape=x.shape[1:]).predict(x)
    return x


@given(layers_of(SHAPE), st.booleans(), st.integers(1, 3))
def test_a_network_has_the_bits_of_its_layers_one_by_one_whoever_reads_whose_border(chain, flat, n):
    chain = [fo.nn.Conv2d(4, 4, 1), *chain, *[fo.nn.Flatten()] * flat]
    net, x = fo.nn.Sequential(chain, rng=0, dtype=np.float64, input_shape=SHAPE), normal(n, *SHAPE)
    want = apart(net.layers, x)
    for threads in (1, 2):
        with fo.num_threads(threads):
            np.testing.assert_array_equal(net.predict(x), want)
    fast = net.fold()
    fast.predict(np.full((5, *SHAPE), np.nan))
    np.testing.assert_allclose(fast.predict(x), want, rtol=0, atol=1e-10 * max(1, np.abs(want).max()))


@every_network
def test_what_a_call_leaves_in_memory_is_not_seen_by_the_next(name):
    net, x = network(name).fold(), normal(9, *SHAPE)
    want = copy.deepcopy(net).predict(x)
    net.predict(np.full((9, *SHAPE), np.nan))
    np.testing.assert_array_equal(net.predict(x), want)


@every_network
def test_files_keep_a_network_of_convolutions(name, tmp_path):
    net, x = network(name), normal(3, *SHAPE)
    net.save(tmp_path / "m.safetensors")
    for twin in (fo.nn.load(tmp_path / "m.safetensors"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(twin) == repr(net)
        np.testing.assert_array_equal(twin.predict(x), net.predict(x))
    trainers = [fo.nn.Trainer(network(name), "mse", "adam") for _ in range(2)]
    trainers[0].fit(x, normal(3, 2))
    trainers[0].save(tmp_path / "run.safetensors")
    trainers[1].resume(tmp_path / "run.safetensors")
    assert trainers[0].fit(x, normal(3, 2)) == trainers[1].fit(x, normal(3, 2))


BAD = {
    "kernel_size": (lambda: fo.nn.Conv2d(2, 2, 0), r"kernel_size: expected a whole number of at least 1, got 0"),
    "three sizes": (lambda: fo.nn.Conv2d(2, 2, (1, 2, 3)), r"kernel_size: expected .* a pair, \(rows, columns\), got"),
    "stride": (lambda: fo.nn.Conv2d(2, 2, 1, stride=(1, 0.5)), r"stride\[1\]: expected a whole number .* got 0\.5"),
    "padding": (lambda: fo.nn.Conv2d(2, 2, 1, padding=-1), r"padding: expected a whole number of at least 0, got -1"),
    "another padding": (
        lambda: fo.nn.Conv2d(2, 2, 1, padding="full"),
        r"padding: expected 'same', 'valid' or .*'full'",
    ),
    "same with a stride": (lambda: fo.nn.Conv2d(2, 2, 1, 2, "same"), r"padding: expected numbers where the stride is"),
    "dilation": (
        lambda: fo.nn.Conv2d(2, 2, 1, dilation="2"),
        r"dilation: expected a whole number of at least 1, got '2'",
    ),
    "groups": (lambda: fo.nn.Conv2d(4, 6, 1, groups=4), r"groups: expected a divisor of out_channels, 6, got 4"),
    "channels": (lambda: fo.nn.Conv2d(0, 6, 1), r"in_channels: expected a whole number of at least 1, got 0"),
    "activation": (lambda: fo.nn.Conv2d(4, 6, 1, activation="up"), r"activation: expected one of .*, got 'up'"),
    "max_norm": (lambda: fo.nn.Conv2d(4, 6, 1, max_norm=0), r"max_norm: expected a finite number above 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_convolution_that_cannot_be_is_refused(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- torch


def stand_in(name, options):
    """What `from_torch` reads of a module, of the recorded weights."""
    weight, bias = (torch_images.arrays()[f"{name}.{part}"] for part in ("weight", "bias"))
    tensors = {"weight": SimpleNamespace(detach=lambda: weight), "bias": SimpleNamespace(detach=lambda: bias)}
    return SimpleNamespace(**tensors, **options)


def of_torch(dtype=np.float64):
    """The recorded network of torch as ours."""
    conv = stand_in("conv", {**torch_images.CONV, "padding_mode": "zeros"})
    linear = stand_in("linear", {"in_features": 72, "out_features": 5})
    layers = [
        fo.nn.ChannelsFirst(),
        fo.nn.Conv2d.from_torch(conv, activation="relu"),
        fo.nn.Flatten(),
        fo.nn.Dense.from_torch(linear, image_shape=torch_images.IMAGE),
    ]
    return fo.nn.Sequential(layers, dtype=dtype, input_shape=torch_images.SHAPES["x"][1:])


def test_a_convolution_flattened_into_a_linear_layer_gives_what_torch_gave(dtype):
    net, x = of_torch(dtype), torch_images.arrays()["x"]
    assert net.layers[1].output_shape(net.layers[0].output_shape(net.input_shape)) == torch_images.IMAGE
    with np.load(torch_images.TABLE) as table:
        assert str(table["torch"]).startswith("2.13.0")
        for other in (net, net.fold()):
            np.testing.assert_array_equal(other.predict(x), table["y"])
        np.testing.assert_array_equal(
            fo.nn.Sequential(net.layers[1:], dtype=dtype, input_shape=(7, 5, 4)).predict(np.moveaxis(x, 1, -1)),
            table["y"],
        )


def test_layers_go_to_torch_as_they_came(dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    net, given = of_torch(dtype), torch_images.arrays()
    conv, linear = net.layers[1].to_torch(), net.layers[3].to_torch(image_shape=torch_images.IMAGE)
    assert (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups) == (
        (3, 2),
        (2, 1),
        (1, 0),
        (1, 2),
        2,
    )
    for name, module in (("conv", conv), ("linear", linear)):
        assert module.weight.dtype == torch.from_numpy(np.zeros(1, dtype)).dtype
        for part in ("weight", "bias"):
            np.testing.assert_array_equal(getattr(module, part).detach().numpy(), given[f"{name}.{part}"])
    with torch.no_grad():
        y = linear(torch.relu(conv(torch.from_numpy(given["x"].astype(dtype)))).flatten(1))
    np.testing.assert_array_equal(y.numpy(), net.predict(given["x"]))
    again = fo.nn.Conv2d.from_torch(conv, activation="relu")
    assert repr(again) == repr(net.layers[1])


@pytest.mark.parametrize("padding", ["same", "valid", 1, (1, 0)])
def test_every_padding_goes_to_torch_and_back(padding):
    pytest.importorskip("torch", reason="torch is not installed")
    layer = fo.nn.Conv2d(2, 3, (2, 3), padding=padding, bias=False)
    net = fo.nn.Sequential([layer], rng=0, input_shape=(6, 5, 2))
    back = fo.nn.Sequential([fo.nn.Conv2d.from_torch(layer.to_torch())], input_shape=(6, 5, 2))
    np.testing.assert_array_equal(back.layers[0].weight, layer.weight)
    assert back.output_shape == net.output_shape


def test_what_torch_pads_with_other_numbers_is_refused():
    conv = stand_in("conv", {**torch_images.CONV, "padding_mode": "reflect"})
    with pytest.raises(ValueError, match="conv: expected padding_mode 'zeros', got 'reflect'"):
        fo.nn.Conv2d.from_torch(conv)


@pytest.mark.parametrize(("shape", "message"), [
    ((4, 3, 5), r"image_shape: expected 72 numbers in all, got \(4, 3, 5\)"),
    ((72,), r"image_shape: expected \(height, width, channels\), got \(72,\)"),
    ((4, 3, 6.0), r"image_shape\[2\]: expected a whole number"),
])  # fmt: skip
def test_an_image_that_is_none_of_a_dense_layers_input_is_refused(shape, message):
    linear = stand_in("linear", {"in_features": 72, "out_features": 5})
    for call in (
        fo.nn.Dense(72, 5).to_torch,
        lambda image_shape: fo.nn.Dense.from_torch(linear, image_shape=image_shape),
    ):
        with pytest.raises(ValueError, match=message):
            call(image_shape=shape)


# ---------------------------------------------------------------- files and copies


def test_files_copies_and_pickles_keep_layers_of_images(tmp_path):
    first, _, x = pair()
    first.save(tmp_path / "m.safetensors")
    for twin in (fo.nn.load(tmp_path / "m.safetensors"), copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert repr(twin) == repr(first)
        np.testing.assert_array_equal(twin.predict(turned(x)), first.predict(turned(x)))
