"""Values of a program: images as rows of positions, within a border or in slices of channels.

Pass criterion: a network on images has the bits of the same network on a matrix of their positions, and a program
whose values lie in borders or slices those of one over plain values: outputs, gradients, products with the Hessian.
"""

import copy

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

import fastopt as fo
from fastopt._kernels import core

HEIGHT, WIDTH = 5, 3
THREADS = (1, 2, 3)


def normal(dtype, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def on_rows(dtype, channels=6):
    """Layers that act on rows, of all kinds but one that draws numbers by the sample."""
    return [
        fo.nn.Standardize(channels),
        fo.nn.Whiten(channels),
        fo.nn.Dense(channels, 7, "gelu"),
        fo.nn.BatchNorm(7, activation="silu"),
        fo.nn.Residual([fo.nn.Dense(7, 9, "tanh"), fo.nn.GroupedDense(9, 9, 3, "relu"), fo.nn.Dense(9, 7)]),
        fo.nn.Dropout(0.3),
        fo.nn.Maxout(7, 5, pieces=3),
        fo.nn.BatchNorm(5, activation="softmax", affine=False),
        fo.nn.Dense(5, 4),
    ]


def pair(dtype, channels=6):
    """The same network over images and over rows, and images."""
    shape = (HEIGHT, WIDTH, channels)
    images = fo.nn.Sequential(on_rows(dtype, channels), rng=0, dtype=dtype, input_shape=shape)
    rows = fo.nn.Sequential(on_rows(dtype, channels), rng=0, dtype=dtype)
    x = normal(dtype, 8, *shape)
    for net in (images, rows):
        net.calibrate(x.reshape(-1, *net.input_shape))
    return images, rows, x


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("n", [1, 2, 8])
def test_images_are_predicted_as_rows_of_their_positions(n, threads, dtype):
    images, rows, x = pair(dtype)
    with fo.num_threads(threads):
        for one, other in ((images, rows), (images.fold(), rows.fold())):
            y = one.predict(x[:n])
            assert y.shape == (n, HEIGHT, WIDTH, 4)
            np.testing.assert_array_equal(y.reshape(-1, 4), other.predict(x[:n].reshape(-1, 6)))


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_gradients_and_products_of_images_are_those_of_rows(loss, threads, dtype):
    images, rows, x = pair(dtype)
    y = (
        np.arange(x[..., 0].size).reshape(x.shape[:3]) % 4
        if loss == "cross_entropy"
        else normal(dtype, *x.shape[:3], 4)
    )
    flat = y.reshape(-1) if loss == "cross_entropy" else y.reshape(-1, 4)
    v = [normal(dtype, *p.shape, seed=5) for p in images.parameters()]
    with fo.num_threads(threads):
        for call in (lambda net, x, y: net.value_and_grad(x, y, loss)[1], lambda net, x, y: net.hvp(x, y, v, loss)):
            for a, b in zip(call(images, x, y), call(rows, x.reshape(-1, 6), flat), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_trainer_fits_images(dtype):
    images, _, x = pair(dtype)
    y = (x[..., 0] > 0).astype(int)
    trainer = fo.nn.Trainer(images, "cross_entropy", "adam")
    history = trainer.fit(x, y, epochs=3, batch_size=3, sample_weight=np.linspace(0, 1, 8), validation=(x, y))
    assert len(history["val_accuracy"]) == 3
    assert images.evaluate(x, y) == pytest.approx(history["val_loss"][-1])


def test_a_weight_of_a_sample_is_that_of_its_positions(dtype):
    images, rows, x = pair(dtype)
    y, weight = np.zeros(x.shape[:3], int), np.linspace(0, 2, 8)
    one = images.value_and_grad(x, y, sample_weight=weight)
    other = rows.value_and_grad(x.reshape(-1, 6), y.ravel(), sample_weight=np.repeat(weight, HEIGHT * WIDTH))
    np.testing.assert_equal(one, other)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((2, 3, 5, 6), (2, 5, 3), r"^x: expected shape \(n, 5, 3, 6\), got \(2, 3, 5, 6\)"),
        ((2, 5, 3, 6), (2, 15), r"^targets: expected shape \(2, 5, 3, 4\), got \(2, 15\)"),
        ((2, 5, 3, 6), (2, 3, 5), r"^targets: expected shape \(2, 5, 3\), got \(2, 3, 5\)"),
    ],
)
def test_images_and_targets_of_another_shape_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        pair(np.float32)[0].value_and_grad(np.zeros(x), np.zeros(y, int))


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
def test_targets_of_one_channel_need_no_axis_of_their_own(loss, dtype):
    net = fo.nn.Sequential([fo.nn.Dense(6, 1)], rng=0, dtype=dtype, input_shape=(HEIGHT, WIDTH, 6))
    x, y = normal(dtype, 4, HEIGHT, WIDTH, 6), np.linspace(0, 1, 4 * HEIGHT * WIDTH).reshape(4, HEIGHT, WIDTH)
    np.testing.assert_equal(net.value_and_grad(x, y, loss), net.value_and_grad(x, y[..., None], loss))
    assert net.evaluate(x, y, loss) == net.evaluate(x, y[..., None], loss)
    one, other = (fo.nn.Trainer(copy.deepcopy(net), loss, "sgd") for _ in range(2))
    np.testing.assert_equal(one.fit(x, y, batch_size=3), other.fit(x, y[..., None], batch_size=3))


def test_one_image_has_positions_enough_for_batch_statistics(dtype):
    images, _, x = pair(dtype)
    assert images.least_rows == 1
    images.value_and_grad(x[:1], np.zeros((1, HEIGHT, WIDTH), int))


# ---------------------------------------------------------------- borders and slices, which the layout asks for


def program(dtype, places, entries):
    """A program over a loss, and what its arrays are: `places` describes its values."""
    training = core.Training(core.Program(places, entries, np.dtype(dtype).num), "mse", None, 8)
    return training


def images(channels, **place):
    return {"shape": (HEIGHT, WIDTH, channels), **place}


def entries(dtype, keeps=3):
    """Input of 4 channels -> two branches of 7 and 2 channels, joined -> every kind -> 4 channels."""
    rng = np.random.default_rng(3)

    def array(*shape):
        return rng.normal(size=shape).astype(dtype)

    running = {"mean": np.zeros(9, dtype), "var": np.ones(9, dtype)}
    statistics = rng.normal(size=(2, 9))
    split = np.array([statistics[0], np.zeros(9), statistics[1]], np.float32)
    return [
        {"kind": "dense", "sources": (0,), "dst": 1, "weights": [array(7, 4), array(7)], "activation": "gelu"},
        {"kind": "dense", "sources": (0,), "dst": 2, "weights": [array(2, 4)], "penalty": (0.0, 0.1, 0.0)},
        {"kind": "batch_norm", "sources": (3,), "dst": 4, "weights": [array(9), array(9)], "activation": "tanh",
         "own": {**running, "eps": 1e-5, "momentum": 0.1}},
        {"kind": "standardize", "sources": (4,), "dst": 5,
         "own": {"mean": statistics[0], "scale": statistics[1], "split": split, "reading": np.array(1, np.uint8)}},
        {"kind": "dropout", "sources": (5,), "dst": 6, "own": {"rate": 0.3, "seed": np.array(5, np.uint64)}},
        {"kind": "add", "sources": (6, 3, 5), "dst": 7},
        {"kind": "dense", "sources": (7,), "dst": 8, "weights": [array(9, 3), array(9)], "own": {"groups": 3},
         "activation": "softmax"},
        {"kind": "maxout", "sources": (8,), "dst": 9},
        {"kind": "batch_norm_averages", "sources": (9,), "dst": 10, "weights": [array(3), array(3)],
         "activation": "silu",
         "own": {"mean": array(3), "var": np.full(3, 0.7, dtype), "eps": 1e-5}},
        {"kind": "augment", "sources": (10,), "dst": 11,
         "own": {"shift": (2, 1), "flip": (True, True), "seed": np.array(6, np.uint64)}},
        {"kind": "max_pool2d", "sources": (11,), "dst": 12, "own": WINDOWS},
        {"kind": "avg_pool2d", "sources": (12,), "dst": 13, "own": {**WINDOWS, "count_include_pad": False}},
        {"kind": "conv2d", "sources": (13,), "dst": 14, "weights": [array(3, 3, 3, 3), array(3)], "activation": "tanh",
         "own": {"padding": (1, 1)}},
        {"kind": "dense", "sources": (14,), "dst": 15, "weights": [array(4, 3), array(4)]},
    ]  # fmt: skip


WINDOWS = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1)}
# of each value after the input: where it lies; the convolution reads beyond the edge of its source
PLAIN = [images(9)] * 6 + [images(3)] * 4 + [images(3, border=(1, 1)), images(3), images(4)]
BORDERED = [images(9, border=(i % 3, (i + 1) % 2)) for i in range(6)] + [
    images(3, border=(1, 2)),
    images(3, border=(2, 0)),
    images(3, border=(0, 1)),
    images(3, border=(1, 1)),
    images(3, border=(1, 3)),
    images(3, border=(0, 3)),
    images(4),
]
JOINED = {
    "plain": PLAIN,
    "in borders": BORDERED,
    "in one border": [images(9, border=(1, 1)), *PLAIN[1:]],
    "a border without columns": [images(9, border=(2, 0)), *PLAIN[1:]],
}


def laid_out(dtype, place):
    """Values 1 and 2 are slices of value 3, which comes first then: an owner stands before its slices."""
    rest = JOINED[place]
    numbers = [0, 2, 3, 1, *range(4, 16)]  # the joined value is number 1
    values = [images(4), rest[0], images(7, owner=1, first=0), images(2, owner=1, first=7), *rest[1:]]
    renamed = [
        {**e, "sources": tuple(numbers[s] for s in e["sources"]), "dst": numbers[e["dst"]]} for e in entries(dtype)
    ]
    return values, renamed


def apart(dtype):
    """The same without slices: each branch in a value of its own, widened by zeros and added."""
    given = entries(dtype)
    widen = [np.eye(9, 7, dtype=dtype), np.eye(9, 2, -7, dtype=dtype)]
    values = [images(4), images(7), images(2), images(9), images(9), images(9), *PLAIN[1:]]
    moved = {3: 5, **{k: k + 2 for k in range(4, 16)}}
    head = [
        {"kind": "dense", "sources": (k + 1,), "dst": k + 3, "own": {"constant": w}} for k, w in enumerate(widen)
    ] + [{"kind": "add", "sources": (3, 4), "dst": 5}]
    tail = [{**e, "sources": tuple(moved[s] for s in e["sources"]), "dst": moved[e["dst"]]} for e in given[2:]]
    return values, given[:2] + head + tail


def results(dtype, values, given, n, threads, first=None):
    """Loss, gradients and products with the Hessian, of the first call or of one after samples `first`."""
    training = core.Training(core.Program(values, given, np.dtype(dtype).num), "mse", None, 8)
    if first is not None:
        nothing = np.zeros((len(first), HEIGHT, WIDTH, 4), dtype)
        training.step(first, nothing)
        training.hvp(first, nothing, training.grads)
    x, y = normal(dtype, n, HEIGHT, WIDTH, 4), normal(dtype, n, HEIGHT, WIDTH, 4, seed=1)
    with fo.num_threads(threads):
        loss = training.step(x, y)
        v = [normal(dtype, *g.shape, seed=9) for g in training.grads]
        return [np.array(loss), *(g.copy() for g in training.grads), *training.hvp(x, y, v),
                *training.hvp(x, y, v, gauss_newton=True)]  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("place", JOINED)
def test_borders_and_slices_do_not_change_a_bit(place, n, dtype):
    want = results(dtype, *laid_out(dtype, "plain"), n, 1)
    for threads in THREADS:
        for a, b in zip(results(dtype, *laid_out(dtype, place), n, threads), want, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [1, 8])
def test_branches_joined_in_slices_compute_as_branches_apart(n, dtype):
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    for a, b in zip(
        results(dtype, *laid_out(dtype, "in borders"), n, 2), results(dtype, *apart(dtype), n, 1), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("n", [1, 2, 8])
def test_predict_in_borders_and_slices_does_not_change_a_bit(n, dtype):
    x = normal(dtype, n, HEIGHT, WIDTH, 4)
    want = core.Program(*laid_out(dtype, "plain"), np.dtype(dtype).num).predict(x)
    for place in JOINED:
        np.testing.assert_array_equal(core.Program(*laid_out(dtype, place), np.dtype(dtype).num).predict(x), want)


def test_another_shape_of_a_value_is_the_same_memory(dtype):
    w, v = normal(dtype, 3, HEIGHT * WIDTH * 4), normal(dtype, 4, 2)
    values = [images(2), images(4), {"shape": (HEIGHT * WIDTH * 4,), "owner": 1}, {"shape": (3,)}]
    given = [
        {"kind": "dense", "sources": (0,), "dst": 1, "weights": [v]},
        {"kind": "dense", "sources": (2,), "dst": 3, "weights": [w]},
    ]
    training = core.Training(core.Program(values, given, np.dtype(dtype).num), "mse", None, 4)
    x = normal(dtype, 6, HEIGHT, WIDTH, 2)
    want = (x @ v.T).reshape(6, -1) @ w.T
    np.testing.assert_allclose(training.program.predict(x), want, rtol=1e-4, atol=1e-4)
    loss = training.step(x, np.zeros((6, 3)))
    assert loss == pytest.approx((want.astype(float) ** 2).mean(), rel=1e-4)
    slope = (want @ w / 9).reshape(6, HEIGHT, WIDTH, 4)
    np.testing.assert_allclose(training.grads[0], np.einsum("nhwc,nhwd->cd", slope, x), rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- memory that values share


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("place", JOINED)
def test_what_a_call_leaves_in_memory_is_not_seen_by_the_next(place, threads, dtype):
    """NaN in the samples of a call gets into all of the memory that it writes."""
    values, given = laid_out(dtype, place)
    x, nan = normal(dtype, 8, HEIGHT, WIDTH, 4), np.full((8, HEIGHT, WIDTH, 4), np.nan, dtype)
    used = core.Program(values, given, np.dtype(dtype).num)
    with fo.num_threads(threads):
        assert np.isnan(used.predict(nan)).any()
        for n in (8, 3, 1):
            fresh = core.Program(values, given, np.dtype(dtype).num)
            np.testing.assert_array_equal(used.predict(x[:n]), fresh.predict(x[:n]))
            got = results(dtype, values, given, n, threads, nan)
            for a, b in zip(got, results(dtype, values, given, n, threads), strict=True):
                np.testing.assert_array_equal(a, b)


@st.composite
def graphs(draw):
    """Sources of each entry, and whether it adds them or multiplies the first by a matrix; some values nobody reads."""
    n = draw(st.integers(1, 12))
    sources = [draw(st.lists(st.integers(max(0, i - 4), i), min_size=1, max_size=3)) for i in range(n)]
    return [(s if draw(st.booleans()) else s[:1], draw(st.booleans()), draw(st.integers(0, 2))) for s in sources]


@drawn(graphs(), st.sampled_from([1, 3, 8]))
def test_memory_is_shared_without_a_change_of_bits_whoever_reads_whom(graph, n):
    """The weights of a grouped layer stand in the way of an update after backward, which would read all gradients."""
    values, listed = [images(4)], []
    for i, (sources, dense, border) in enumerate(graph):
        last = i == len(graph) - 1
        values.append(images(4) if last else images(4, border=(border, border)))
        weights = [normal(np.float64, 4, 4, seed=i)] if dense else []
        listed.append({"kind": "dense" if dense else "add", "sources": tuple(sources[:1] if dense else sources),
                       "dst": i + 1, "weights": weights})  # fmt: skip
    beside = {"kind": "dense", "sources": (0,), "dst": 1, "weights": [np.ones((4, 2))], "own": {"groups": 2}}
    apart = [{**e, "sources": tuple(s and s + 1 for s in e["sources"]), "dst": e["dst"] + 1} for e in listed]
    shared = [values[0], images(4), *values[1:]], [beside, *apart]
    x, nan = normal(np.float64, n, HEIGHT, WIDTH, 4), np.full((8, HEIGHT, WIDTH, 4), np.nan)
    whole = core.Training(core.Program(values, listed, np.dtype(float).num), "mse", None, 8)
    parts = core.Training(core.Program(*shared, np.dtype(float).num), "mse", None, 8)
    parts.program.predict(nan)
    y = parts.program.predict(x)
    np.testing.assert_array_equal(y, whole.program.predict(x))
    assert parts.step(x, np.zeros_like(x)) == whole.step(x, np.zeros_like(x)) == pytest.approx((y**2).mean())
    grads = [g.copy() for g in whole.grads]
    v = [normal(np.float64, *g.shape, seed=k) for k, g in enumerate(grads)]
    for _ in range(2):
        assert not parts.grads[0].any()
        for a, b in zip(parts.grads[1:], grads, strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(parts.hvp(x, 0 * x, [np.ones((4, 2)), *v])[1:], whole.hvp(x, 0 * x, v), strict=True):
            np.testing.assert_array_equal(a, b)
        parts.step(x, np.zeros_like(x))


def convolutions(dtype):
    """Layers that read beyond the edges of images, or write beside each other."""
    branches = [
        [fo.nn.Conv2d(8, 4, 1, activation="relu"), fo.nn.Conv2d(4, 6, 3, padding=1, activation="relu")],
        [fo.nn.MaxPool2d(3, 1, 1), fo.nn.Conv2d(8, 4, 1)],
    ]
    layers = [
        fo.nn.Conv2d(3, 8, 3, padding=1, activation="relu"),
        fo.nn.Conv2d(8, 8, 5, padding="same"),
        fo.nn.BatchNorm(8, activation="relu"),
        fo.nn.Concat(branches),
        fo.nn.Residual([fo.nn.Conv2d(10, 10, 3, padding=1, activation="gelu")]),
        fo.nn.AvgPool2d(2),
        fo.nn.Conv2d(10, 12, 3, padding=2),
        fo.nn.Flatten(),
        fo.nn.Dense(12 * 7 * 6, 5),
    ]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=(10, 8, 3))


@pytest.mark.parametrize("threads", THREADS)
def test_convolutions_find_zeros_around_images_whatever_lay_there_before(threads, dtype):
    used, x, y = convolutions(dtype), normal(dtype, 9, 10, 8, 3), np.arange(9) % 5
    nan, folded, training = np.full((20, 10, 8, 3), np.nan, dtype), used.fold(), used.bind("cross_entropy")
    with fo.num_threads(threads):
        for net in (used, folded):
            assert np.isnan(net.predict(nan)).all()
            for n in (9, 4, 1):
                fresh = convolutions(dtype)
                want = (fresh if net is used else fresh.fold()).predict(x[:n])
                np.testing.assert_array_equal(net.predict(x[:n]), want)
        training.step(nan[:9], y)
        loss, grads = convolutions(dtype).value_and_grad(x, y)
        assert training.step(x, y) == loss
        np.testing.assert_equal(training.grads, grads)


class Branches(fo.nn.Layer):
    """Two dense branches into slices of one value, within a border, as a layer lays them out."""

    def __init__(self, channels):
        self.in_features, self.out_features = channels, 5
        self.one, self.other = (np.full((k, channels), 0.1 * k, np.float32) for k in (3, 2))

    def config(self):
        return {"channels": self.in_features}

    def output_shape(self, input_shape):
        return (*input_shape[:-1], 5)

    def parameters(self):
        return [self.one, self.other]

    def lay_out(self, layout, src):
        shape = layout.shapes[src][:-1]
        joined = layout.value((*shape, 5), border=(1, 1))
        for weight, first in ((self.one, 0), (self.other, 3)):
            part = layout.value((*shape, len(weight)), owner=joined, first=first)
            layout.add("dense", src, part, weights=[weight])
        dst = layout.value((*shape, 5))
        layout.add("add", joined, dst)
        return dst


def test_a_layer_may_lay_out_borders_and_slices():
    net = fo.nn.Sequential([Branches(4)], input_shape=(HEIGHT, WIDTH, 4))
    x, v = normal(np.float32, 3, HEIGHT, WIDTH, 4), np.concatenate([net.layers[0].one, net.layers[0].other])
    np.testing.assert_allclose(net.predict(x), x @ v.T, rtol=1e-5, atol=1e-5)
    _, grads = net.value_and_grad(x, np.zeros((3, HEIGHT, WIDTH, 5)), "mse")
    want = np.einsum("nhwc,nhwd->cd", x @ v.T, x) * 2 / (3 * HEIGHT * WIDTH * 5)
    np.testing.assert_allclose(np.concatenate(grads), want, rtol=1e-4, atol=1e-5)


# to another shape: within borders and beside others in test_images.py; some of the columns: with those of others in
# test_trainer.py and mpi/test_model_parallel.py
MOVES = {"channels_first", "gather_columns"}


def test_every_kind_is_among_the_entries_that_lie_in_borders_and_slices():
    with pytest.raises(ValueError, match="kind: expected one of") as error:
        core.Program([images(4), images(4)], [{"kind": "?", "sources": (0,), "dst": 1}], 11)
    known = str(error.value).split("one of ")[1].split(", got")[0].split(", ")
    assert sorted(known) == sorted({e["kind"] for e in entries(np.float32)} | MOVES)


WRONG = {
    "a slice beyond its owner": (
        [images(4), images(4), images(3, owner=1, first=2)],
        [],
        "expected channels of value 1",
    ),
    "another shape of a bordered value": (
        [images(4), images(4, border=(1, 1)), {"shape": (HEIGHT * WIDTH * 4,), "owner": 1}],
        [],
        "without a border",
    ),
    "an output in a border": (
        [images(4), images(4, border=(1, 1))],
        [("add", (0,), 1)],
        "an input and an output without",
    ),
    "half a value": (
        [images(4), images(4), images(2, owner=1), images(2)],
        [("dense", (0,), 2), ("dense", (1,), 3)],
        "have been written",
    ),
    "part of a value": (
        [images(4), images(4), images(2, owner=1), images(2)],
        [("add", (0,), 1), ("add", (2,), 3)],
        "have been written",
    ),
    "positions that differ": ([images(4), {"shape": (4, 4, 4)}], [("add", (0,), 1)], "expected shapes that fit"),
    "an unknown kind": (
        [images(4), images(4)],
        [("nothing", (0,), 1)],
        "^kind: expected one of .*dense.*got 'nothing'",
    ),
    "a second source that is not read": (
        [images(4), images(4), images(4)],
        [("add", (0,), 1), ("dense", (1, 0), 2)],
        "expected one source",
    ),
    "more than memory holds": ([images(2**41)], [], "at most 2\\*\\*40 numbers"),
    "no channels": ([images(0)], [], "a shape of numbers above 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_layout_that_does_not_fit_is_refused(case):
    values, given, message = WRONG[case]
    specs = []
    for kind, sources, dst in given:
        weight = np.zeros((values[dst]["shape"][-1], values[sources[0]]["shape"][-1]), np.float32)
        specs.append({"kind": kind, "sources": sources, "dst": dst, "weights": [weight] if kind == "dense" else []})
    with pytest.raises(ValueError, match=message):
        core.Program(values, specs, np.dtype(np.float32).num)


BAD_PARTS = {
    "no weights": ({"kind": "dense"}, "weight: expected an array among the weights, got 0"),
    "a weight too many": ({"kind": "dense", "weights": [np.ones((4, 4), np.float32)] * 3}, "expected 1 weights|bias"),
    "text": ({"kind": "dense", "weights": ["abc"]}, "weight: expected a NumPy array, got str"),
    "an option of another name": (
        {"kind": "dense", "weights": [np.ones((4, 4), np.float32)], "own": {"grops": 2}},
        r"nothing besides, got 1 and \['grops'\]",
    ),
    "an activation of a sum": ({"kind": "add", "activation": "relu"}, "no activation, got .* 'relu'"),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_what_a_kind_does_not_take_is_refused_by_name(case):
    parts, message = BAD_PARTS[case]
    with pytest.raises((TypeError, ValueError), match=rf"entries\[0\] \({parts['kind']}\).*({message})"):
        core.Program([images(4), images(4)], [{"sources": (0,), "dst": 1, **parts}], np.dtype(np.float32).num)


def test_batch_norm_saves_little_for_backward():
    net = fo.nn.Sequential([fo.nn.BatchNorm(512)])
    assert 0 < net.bind("mse", max_batch=1024).saved_bytes <= 20_000
