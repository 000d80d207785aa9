"""Images on their way into a network: channels first, flat rows, flattening, and what says that an array does not fit.

Pass criterion: moving numbers changes none of them: bits are equal; recorded outputs of torch are met within TORCH of the
largest.
"""

import copy
import pickle

import numpy as np
import pytest

import fastopt as fo
from fastopt._kernels import core

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
        np.testing.assert_allclose(training.program.predict(x), output, rtol=1e-13)
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
    with pytest.raises(ValueError, match="layers: expected a layer with a width of its own, .* input_shape"):
        fo.nn.Sequential([fo.nn.Flatten(), fo.nn.Dense(784, 10)])


# ---------------------------------------------------------------- files and copies


def test_files_copies_and_pickles_keep_layers_of_images(tmp_path):
    first, _, x = pair()
    first.save(tmp_path / "m.safetensors")
    for twin in (fo.nn.load(tmp_path / "m.safetensors"), copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert repr(twin) == repr(first)
        np.testing.assert_array_equal(twin.predict(turned(x)), first.predict(turned(x)))
