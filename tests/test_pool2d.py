"""Pooling of images: functions, layers, and torch's results for all options.

Pass criterion: maxima round nothing, so they equal NumPy's max and argmax bit for bit. A sum of k pixels stays within
gamma(k + 1) of the sum of magnitudes over the count; gradients in float64 within 1e-7 of differences.
"""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from hypothesis import assume, example, given
from hypothesis import strategies as st
from reference import DTYPES, forward, gamma

import fastopt as fo
from fastopt._kernels import core

sys.path.insert(0, str(Path(__file__).parent / "data"))
import pools

F = fo.functional
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0]
POOLS = {
    "max": lambda x, **options: F.max_pool2d(x, **options),
    "avg": lambda x, **options: F.avg_pool2d(x, count_include_pad=True, **options),
    "avg of real pixels": lambda x, **options: F.avg_pool2d(x, count_include_pad=False, **options),
}
every_pool = pytest.mark.parametrize("pool", POOLS)


def gradient(pool, dy, x, **options):
    if pool == "max":
        return F.max_pool2d_backward(dy, x, **options)
    return F.avg_pool2d_backward(dy, x.shape, count_include_pad=pool == "avg", **options)


def wanted(pool, x, dy, **options):
    """y and dx in float64; dy is a function of the shape of y."""
    if pool == "max":
        y = reference.max_pool2d(x, **options)
        return y, reference.max_pool2d_backward(dy(y.shape), x, **options)
    options["count_include_pad"] = pool == "avg"
    y = reference.avg_pool2d(x, **options)
    return y, reference.avg_pool2d_backward(dy(y.shape), x.shape, **options)


def normal(shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def assert_pools(pool, x, **options):
    """Our outputs and gradients are those of the reference."""
    dtype = x.dtype

    def dy(shape):
        return normal(shape, 1).astype(dtype)

    want, want_dx = wanted(pool, x, dy, **options)
    y = POOLS[pool](x, **options)
    dx = gradient(pool, dy(y.shape), x, **options)
    assert y.dtype == dx.dtype == dtype
    if pool == "max":
        np.testing.assert_array_equal(y, want)
        np.testing.assert_allclose(dx, want_dx, rtol=0, atol=40 * np.finfo(dtype).eps)
        return
    wide = x.astype(float)
    want, want_dx = wanted(pool, wide, lambda shape: dy(shape).astype(float), **options)
    size = wanted(pool, np.abs(wide), lambda shape: np.abs(dy(shape)).astype(float), **options)
    most = gamma(x.shape[1] * x.shape[2] + 2, dtype)
    assert (np.abs(y - want) <= most * size[0]).all()
    assert (np.abs(dx - want_dx) <= most * size[1]).all()


numbers, pads = st.integers(1, 7), st.tuples(st.integers(0, 3), st.integers(0, 3))


@every_pool
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 11), st.integers(1, 11), st.integers(1, 70)),
    st.tuples(numbers, numbers),
    st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads,
    st.booleans(),
    st.sampled_from(DTYPES),
)
@example((1, 1, 1, 1), (1, 1), None, (0, 0), False, np.float32)
@example((2, 3, 3, 70), (3, 3), (2, 2), (1, 1), True, np.float64)
def test_outputs_and_gradients_are_those_of_the_formula(pool, shape, kernel, stride, padding, ceil, dtype):
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    assume(all(k <= n + 2 * p for k, n, p in zip(kernel, shape[1:], padding, strict=False)))
    x = normal(shape).astype(dtype)
    assert_pools(pool, x, kernel_size=kernel, stride=stride, padding=padding, ceil_mode=ceil)


@every_pool
@pytest.mark.parametrize("channels", [*range(1, 36), 64, 65, 70, 1024, 1025, 2100])
def test_every_number_of_channels_is_right(pool, channels, dtype):
    assert_pools(pool, normal((2, 4, 5, channels)).astype(dtype), kernel_size=3, stride=2, padding=1)


@every_pool
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((1, 3000), {"kernel_size": (1, 7), "stride": (1, 3)}),
        ((2, 2500), {"kernel_size": (2, 2500)}),
        ((60, 70), {"kernel_size": (57, 64), "stride": 1}),
        ((40, 3), {"kernel_size": 1, "stride": (9, 2)}),
    ],
)
def test_wide_images_and_large_windows_are_right(pool, size, options, dtype):
    assert_pools(pool, normal((1, *size, 3)).astype(dtype), **options)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 20), numbers, st.integers(1, 3), st.sampled_from(DTYPES))
def test_nan_wins_and_the_first_of_equal_pixels_gets_the_gradient(height, width, channels, kernel, stride, dtype):
    kernel = min(kernel, height, width)
    rng = np.random.default_rng((height, width, channels, kernel))
    x = rng.choice(SPECIAL, (2, height, width, channels)).astype(dtype)
    assert_pools("max", x, kernel_size=kernel, stride=stride, padding=kernel // 2)


def test_a_constant_image_hands_the_gradient_to_the_first_pixel_of_a_window(dtype):
    dx = F.max_pool2d_backward(np.ones((1, 2, 2, 5), dtype), np.zeros((1, 4, 4, 5), dtype), 2)
    want = np.zeros((4, 4))
    want[::2, ::2] = 1
    np.testing.assert_array_equal(dx, np.broadcast_to(want[None, ..., None], dx.shape))


@every_pool
def test_outputs_given_are_the_outputs_returned_and_inputs_are_not_changed(pool, dtype):
    x = normal((2, 6, 7, 9)).astype(dtype)
    dy, copy, dx = normal((2, 3, 3, 9), 1).astype(dtype), x.copy(), np.full_like(x, np.nan)
    out = np.full_like(dy, np.nan)
    assert POOLS[pool](x, kernel_size=2, out=out) is out
    assert gradient(pool, dy, x, kernel_size=2, dx=dx) is dx
    np.testing.assert_array_equal(out, POOLS[pool](np.asfortranarray(x), kernel_size=2))
    np.testing.assert_array_equal(dx, gradient(pool, dy, x, kernel_size=2))
    np.testing.assert_array_equal(x, copy)


@every_pool
def test_a_row_has_the_same_bits_in_any_batch(pool, dtype):
    x = normal((5, 9, 8, 33)).astype(dtype)
    y = POOLS[pool](x, kernel_size=3, stride=2, padding=1)
    for i in range(5):
        np.testing.assert_array_equal(POOLS[pool](x[i : i + 1], kernel_size=3, stride=2, padding=1)[0], y[i])


# ---------------------------------------------------------------- torch

RECORDED = list(zip(pools.CASES, pools.recorded(), strict=True))


@pytest.mark.parametrize(("case", "want"), RECORDED, ids=map(str, range(len(RECORDED))))
def test_torch_computes_the_same_with_every_option(case, want, dtype):
    x = pools.images(1, *case.size, 2, seed=1).astype(dtype)
    name = "max_pool2d" if case.count_include_pad is None else "avg_pool2d"
    pool, backward = getattr(F, name), getattr(F, name + "_backward")
    if want is None:
        with pytest.raises(ValueError, match="kernel_size: expected at most the padded image"):
            pool(x, **case.options)
        return
    y, dx = want
    dy = pools.images(*y.shape, seed=2).astype(dtype)
    tolerance = 0 if name == "max_pool2d" else 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(pool(x, **case.options), y, rtol=tolerance, atol=0)
    got = backward(dy, x if name == "max_pool2d" else x.shape, **case.options)
    np.testing.assert_allclose(got, dx, rtol=tolerance, atol=20 * tolerance)


def test_the_table_holds_what_torch_computes():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    pytest.importorskip("torch", reason="torch is not installed")
    table = np.load(pools.TABLE)
    for name, a in pools.record().items():
        np.testing.assert_allclose(table[name], a, rtol=1e-14, atol=1e-14)


# ---------------------------------------------------------------- layers

LAYERS = {
    "max": lambda: [fo.nn.MaxPool2d(2)],
    "max, overlapping": lambda: [fo.nn.MaxPool2d(3, 2, 1)],
    "max, ceil": lambda: [fo.nn.MaxPool2d(2, ceil_mode=True)],
    "avg": lambda: [fo.nn.AvgPool2d((2, 3), (1, 2))],
    "avg of real pixels": lambda: [fo.nn.AvgPool2d(3, 2, 1, True, False)],
    "global": lambda: [fo.nn.GlobalAvgPool2d()],
    "in a row": lambda: [
        fo.nn.MaxPool2d(3, 1, 1),
        fo.nn.Dense(5, 5, "tanh"),
        fo.nn.AvgPool2d(2),
        fo.nn.GlobalAvgPool2d(),
    ],
    "in a shortcut": lambda: [fo.nn.Residual([fo.nn.MaxPool2d(3, 1, 1)]), fo.nn.MaxPool2d(2)],
}
every_layout = pytest.mark.parametrize("layout", LAYERS)
SHAPE = (5, 7, 3)


def network(layout, dtype=np.float64):
    layers = [fo.nn.Dense(3, 5, "tanh"), *LAYERS[layout](), fo.nn.Dense(5, 2)]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=SHAPE)


def loss_of(net, x, y):
    return ((forward(net.layers, x) - y) ** 2).mean()


@every_layout
def test_predict_is_the_formula(layout, dtype):
    net, x = network(layout, dtype), normal((4, *SHAPE))
    want = forward(net.layers, x.astype(dtype).astype(float))
    assert net.output_shape == want.shape[1:]
    np.testing.assert_allclose(net.predict(x), want, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(net.fold().predict(x), want, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@every_layout
def test_gradients_are_those_of_the_formula(layout):
    net, x = network(layout), normal((3, *SHAPE))
    y = normal((3, *net.output_shape), 2)
    value, grads = net.value_and_grad(x, y, "mse")
    assert value == pytest.approx(loss_of(net, x, y), rel=1e-12)
    for p, g in zip(net.parameters(), grads, strict=True):
        v, before = normal(p.shape, 3), p.copy()
        change = 0.0
        for step in (1e-6, -1e-6):
            p[...] = before + step * v
            change += np.sign(step) * loss_of(net, x, y) / 2e-6
        p[...] = before
        assert (g * v).sum() == pytest.approx(change, rel=1e-7, abs=1e-9)


@every_layout
def test_products_with_the_hessian_are_differences_of_gradients(layout):
    net, x = network(layout), normal((3, *SHAPE))
    y, v = normal((3, *net.output_shape), 2), [normal(p.shape, 3) for p in net.parameters()]
    before, want = [p.copy() for p in net.parameters()], []
    for step in (1e-6, -1e-6):
        for p, a, b in zip(net.parameters(), before, v, strict=True):
            p[...] = a + step * b
        want.append([g.copy() for g in net.value_and_grad(x, y, "mse")[1]])
    for p, a in zip(net.parameters(), before, strict=True):
        p[...] = a
    for got, plus, minus in zip(net.hvp(x, y, v, "mse"), *want, strict=True):
        np.testing.assert_allclose(got, (plus - minus) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pools_may_write_slices_of_one_value_within_a_border(threads, dtype):
    weight, x = normal((2, 6)).astype(dtype), normal((3, *SHAPE)).astype(dtype)
    where = {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    values = [
        {"shape": SHAPE},
        {"shape": (*SHAPE[:2], 3), "border": (2, 1)},
        {"shape": (3, 4, 6), "border": (1, 2)},
        {"shape": (3, 4, 3), "owner": 2, "first": 3},
        {"shape": (3, 4, 3), "owner": 2, "first": 0},
        {"shape": (3, 4, 2)},
    ]
    entries = [
        {"kind": "dense", "sources": (0,), "dst": 1, "weights": [np.eye(3, dtype=dtype)]},
        {"kind": "max_pool2d", "sources": (1,), "dst": 3, "own": where},
        {"kind": "avg_pool2d", "sources": (1,), "dst": 4, "own": {**where, "count_include_pad": False}},
        {"kind": "dense", "sources": (2,), "dst": 5, "weights": [weight]},
    ]
    training = core.Training(core.Program(values, entries, dtype.num), "mse", None, 3)
    joined = [reference.avg_pool2d(x, 3, 2, 1, count_include_pad=False), reference.max_pool2d(x, 3, 2, 1)]
    y = np.concatenate(joined, axis=3) @ weight.T
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    with fo.num_threads(threads):
        np.testing.assert_allclose(training.program.predict(x), y, rtol=0, atol=tolerance)
        training.step(x, np.zeros_like(y))
    dy = (2 * y / y.size) @ weight
    dx = reference.avg_pool2d_backward(dy[..., :3], x.shape, 3, 2, 1, count_include_pad=False)
    dx = dx + reference.max_pool2d_backward(dy[..., 3:], x, 3, 2, 1)
    np.testing.assert_allclose(training.grads[0], np.einsum("nhwd,nhwc->dc", dx, x), rtol=0, atol=tolerance)


def test_a_trained_network_with_pools_comes_back_from_a_file_and_a_pickle(tmp_path):
    layers = [
        fo.nn.Dense(3, 6, "relu"),
        fo.nn.MaxPool2d(3, 2, 1, True),
        fo.nn.AvgPool2d(2, 1, 1, count_include_pad=False),
        fo.nn.GlobalAvgPool2d(),
        fo.nn.Dense(6, 2),
    ]
    net = fo.nn.Sequential(layers, rng=0, input_shape=SHAPE)
    x = normal((40, *SHAPE))
    trainer = fo.nn.Trainer(net, "cross_entropy", "adam")
    history = trainer.fit(x, (x.mean(axis=(1, 2, 3)) > 0).astype(int), epochs=20)
    assert history["loss"][-1] < history["loss"][0]
    trainer.save(tmp_path / "run.safetensors")
    trainer.resume(tmp_path / "run.safetensors")
    for twin in (fo.nn.load(tmp_path / "run.safetensors"), pickle.loads(pickle.dumps(net))):
        assert repr(twin) == repr(net)
        np.testing.assert_array_equal(twin.predict(x), net.predict(x))


def test_a_table_shows_the_windows():
    lines = fo.nn.summary(network("avg")).splitlines()
    assert lines[2].split() == ["AvgPool2d", "2x3/1x2", "5x7x5", "->", "4x3x5", "0", "0", "0", "0"]


MADE = {
    "MaxPool2d": (lambda: fo.nn.MaxPool2d(2), "kernel_size stride padding ceil_mode"),
    "AvgPool2d": (lambda: fo.nn.AvgPool2d(2), "kernel_size stride padding ceil_mode count_include_pad"),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_a_pool_was_made_with_cannot_be_assigned(kind):
    make, names = MADE[kind]
    layer = make()
    for name in names.split():
        with pytest.raises(AttributeError, match=f"{name}: stays what the {kind} was made with, got 7"):
            setattr(layer, name, 7)


BAD = {
    "no window": (lambda: fo.nn.MaxPool2d(0), "kernel_size: expected a whole number of at least 1, got 0"),
    "three numbers": (
        lambda: fo.nn.AvgPool2d((1, 2, 3)),
        r"kernel_size: expected a whole number or a pair, .*, got \(1, 2, 3\)",
    ),
    "a fraction": (
        lambda: fo.nn.AvgPool2d(2, (1, 1.5)),
        r"stride\[1\]: expected a whole number of at least 1, got 1.5",
    ),
    "padding below zero": (lambda: fo.nn.AvgPool2d(2, 1, -1), "padding: expected a whole number of at least 0, got -1"),
    "too much padding": (
        lambda: fo.nn.MaxPool2d((2, 5), padding=2),
        r"padding: expected at most half of the kernel, \(1, 2\), got \(2, 2\)",
    ),
    "a flag of text": (lambda: fo.nn.MaxPool2d(2, ceil_mode="no"), "ceil_mode: expected True or False, got 'no'"),
    "another flag": (
        lambda: fo.nn.AvgPool2d(2, count_include_pad=2),
        "count_include_pad: expected True or False, got 2",
    ),
    "a larger kernel": (
        lambda: fo.nn.Sequential([fo.nn.MaxPool2d(5, padding=1)], input_shape=(4, 2, 1)),
        r"layers\[0\] \(MaxPool2d\): kernel_size: expected .* image, \(6, 4\), got \(5, 5\) from the input",
    ),
    **{
        f"a vector for {name}": (
            lambda make=make: fo.nn.Sequential([fo.nn.Dense(4, 3), make()]),
            r"layers\[1\] .*: expected an image \(height, width, channels\), got \(3,\) from layers.*input_shape=",
        )
        for name, make in (("max", lambda: fo.nn.MaxPool2d(1)), ("global", fo.nn.GlobalAvgPool2d))
    },
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_and_shapes_have_one_clear_error(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()


@pytest.mark.parametrize("kind", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"kernel_size": (3, 3), "stride": (1, 1), "padding": (0, 0)}, (4, 4, 2)),  # other channels
        ({"kernel_size": (3, 3), "stride": (1, 1), "padding": (2, 2)}, (4, 4, 3)),
        ({"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}, (4, 2, 3)),  # a window beyond the image
        ({"kernel_size": (2, 2), "stride": (0, 2), "padding": (0, 0)}, (2, 2, 3)),
    ],
)
def test_a_program_refuses_windows_without_pixels(kind, options, shape):
    entry = {"kind": kind, "sources": (0,), "dst": 1, "own": options}
    with pytest.raises(ValueError, match=r"entries\[0\] .*: expected (windows that hold pixels|shapes that fit)"):
        core.Program([{"shape": (5, 5, 3)}, {"shape": shape}], [entry], np.dtype(np.float32).num)
