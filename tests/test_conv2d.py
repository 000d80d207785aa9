"""Convolutions, forward and backward, against float64, finite differences and torch's recorded results.

Pass criterion: componentwise within Higham's bound gamma_k |W||x| of the sum of k products; in float64 the reference
rounds as well, so twice that. Outputs with an activation have the bits of the activation of the stored preactivation.
"""

import copy
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import pairwise
from reference import ACTIVATIONS, DTYPES, conv2d, conv2d_backward, gamma, pair
from test_dense import lay_out, layouts, magnitude

import fastopt as fo
from fastopt._kernels import core

sys.path.insert(0, str(Path(__file__).parent / "data"))

import convolutions
import torch_training

F = fo.functional
TEAMS = (1, 2, 3, 8)
# (rows, columns, channels of a batch, filters, size of a filter, options): parts of every way to divide the work
LARGE = [
    ((2, 23, 25, 16), (33, 3, 3), {"padding": 1}),  # more than a block of pixels
    ((3, 60, 61, 3), (9, 3, 3), {"padding": 1}),  # chunks of pixels for dW; lanes of dx are all elements of a filter
    ((1, 95, 101, 16), (8, 1, 1), {}),  # the same, lanes of dW are inputs
    ((2, 90, 91, 5), (10, 3, 3), {"stride": 2, "padding": (1, 0), "groups": 5}),
    ((2, 7, 7, 160), (130, 3, 3), {"padding": "same"}),  # more weights than pixels
    ((1, 2, 1, 300), (300, 2, 1), {"padding": (1, 0)}),
    ((9, 29, 31, 24), (24, 3, 3), {"stride": (2, 1), "padding": "valid", "groups": 24}),
    ((2, 41, 37, 17), (34, 4, 3), {"stride": 3, "padding": 2, "dilation": 2}),
]


def normal(dtype, *shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(dtype)


def arrays(dtype, x, filters, **options):
    """x, weight (out, kernel, in / groups), bias and dy, of the shapes that a convolution of these options has."""
    weight = (*filters, x[3] // options.get("groups", 1))
    given = [normal(dtype, *shape, seed=i) for i, shape in enumerate((x, weight, filters[:1]))]
    return *given, normal(dtype, *F.conv2d(*given, **options).shape, seed=3)


def gradients(dy, x, weight, **options):
    """dx, dw and db"""
    dw, db = (np.full(shape, np.nan, weight.dtype) for shape in (weight.shape, len(weight)))
    return F.conv2d_backward(dy, x, weight, dw=dw, db=db, **options), dw, db


def assert_right(dtype, x, filters, layout="plain", **options):
    """Outputs and gradients are within the bound."""
    x, weight, bias, dy = arrays(dtype, x, filters, **options)
    wide, sizes = ([of(a) for a in (x, weight, bias, dy)] for of in (lambda a: a.astype(float), magnitude))
    own = 1 if dtype == np.float32 else 2
    depth, taps = weight[0].size, weight.shape[1] * weight.shape[2]
    width = len(weight) // options.get("groups", 1)
    for b in (False, True):
        y = F.conv2d(lay_out(x, layout), lay_out(weight, layout), bias if b else None, **options)
        assert y.dtype == dtype
        want = conv2d(*wide[: 2 + b], **options)
        assert y.shape == want.shape
        assert (np.abs(y - want) <= own * gamma(depth + b, dtype) * conv2d(*sizes[: 2 + b], **options)).all()
    got = gradients(lay_out(dy, layout), lay_out(x, layout), lay_out(weight, layout), **options)
    want = conv2d_backward(wide[3], *wide[:2], wide[3], **options)
    size = conv2d_backward(sizes[3], *sizes[:2], sizes[3], **options)
    lengths = taps * width + 1, dy[..., 0].size + 1, dy[..., 0].size + 1
    for a, b, most, k in zip(got, want, size, lengths, strict=True):
        assert a.dtype == dtype
        assert (np.abs(a - b) <= own * gamma(k, dtype) * most).all()


# ---------------------------------------------------------------- the formula


@pairwise(
    kernel=convolutions.KERNELS,
    stride=convolutions.STRIDES,
    padding=convolutions.PADDINGS,
    dilation=convolutions.DILATIONS,
    size=convolutions.SIZES,
    channels=convolutions.CHANNELS,
    n=[1, 2, 9],
    dtype=DTYPES,
)
def test_outputs_and_gradients_are_within_the_rounding_bound(
    kernel, stride, padding, dilation, size, channels, n, dtype
):
    case = convolutions.possible(convolutions.Case(kernel, stride, padding, dilation, size, channels))
    n_in, n_out, _ = channels
    assert_right(dtype, (n, *case.size, n_in), (n_out, *pair(kernel)), **case.options)


axes = st.tuples(st.integers(1, 7), st.integers(1, 7))


@given(
    st.integers(1, 9),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4)),
    axes,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    layouts,
    st.sampled_from(DTYPES),
)
def test_axes_may_differ_in_everything(n, size, channels, kernel, stride, padding, dilation, layout, dtype):
    depth, width, groups = channels
    case = convolutions.possible(
        convolutions.Case(kernel, stride, padding, dilation, size, (depth * groups, width * groups, groups))
    )
    assert_right(dtype, (n, *case.size, depth * groups), (width * groups, *kernel), layout, **case.options)


@pytest.mark.parametrize("channels", range(1, 71))
def test_every_number_of_channels_is_within_the_rounding_bound(channels, dtype):
    for n_in, n_out, groups in ((channels, 5, 1), (5, channels, 1), (channels, channels, channels)):
        assert_right(dtype, (2, 4, 5, n_in), (n_out, 3, 2), stride=(2, 1), padding=1, groups=groups)


@pairwise(
    channels=[1, 3, 16, 17, 64, 130],
    kernel=[1, 2, 3, 4, 5, 7, (1, 3), (3, 1), (2, 9)],
    stride=[1, 2, (3, 1)],
    padding=[0, 1, (4, 0), "same"],
    dilation=[1, 2, (1, 3)],
    size=[(1, 1), (5, 4), (17, 23), (2, 300)],
    n=[1, 3],
    layout=["plain", "fortran", "strided"],
    dtype=DTYPES,
)
def test_depthwise_convolutions_are_within_the_rounding_bound(
    channels, kernel, stride, padding, dilation, size, n, layout, dtype
):
    case = convolutions.Case(kernel, stride, padding, dilation, size, (channels, channels, channels))
    case = convolutions.possible(case)
    assert_right(dtype, (n, *case.size, channels), (channels, *pair(kernel)), layout, **case.options)


def test_gradients_of_whole_numbers_are_exact_in_every_chunk_of_a_depthwise_convolution(dtype):
    shapes = (5, 41, 37, 19), (19, 3, 3, 1)
    x, weight = (convolutions.whole_numbers(shape, 5).astype(dtype) for shape in shapes)
    options = {"padding": 1, "groups": 19}
    dy = F.conv2d(x[::-1], weight, **options)
    want = conv2d_backward(dy, x, weight, dy, **options)
    for a, b in zip(gradients(dy, x, weight, **options), want, strict=True):
        np.testing.assert_array_equal(a, b)


@pairwise(case=range(len(LARGE)), dtype=DTYPES)
def test_large_images_are_within_the_rounding_bound(case, dtype):
    x, filters, options = LARGE[case]
    assert_right(dtype, x, filters, **options)


@pytest.mark.parametrize("padding", ["same", 1])
@pytest.mark.parametrize("n", [1, 6])
def test_a_pixel_alone_is_an_image(n, padding, dtype):
    assert_right(dtype, (n, 1, 1, 7), (9, 3, 3), padding=padding)
    x, weight, bias, _ = arrays(dtype, (n, 1, 1, 7), (9, 3, 3), padding=padding)
    dense = F.dense(x.reshape(n, 7), weight[:, 1, 1], bias)
    np.testing.assert_allclose(F.conv2d(x, weight, bias, padding=padding).reshape(n, 9), dense, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", [0, 3, 6, 7])
def test_an_image_has_the_same_bits_in_any_batch(case, dtype):
    x, filters, options = LARGE[case]
    x, weight, bias, dy = arrays(dtype, (5, 11, 12, *x[3:]), filters, **options)
    y, dx = F.conv2d(x, weight, bias, **options), F.conv2d_backward(dy, x, weight, **options)
    for i in range(5):
        one = slice(i, i + 1)
        np.testing.assert_array_equal(F.conv2d(x[one], weight, bias, **options), y[one])
        np.testing.assert_array_equal(F.conv2d_backward(dy[one], x[one], weight, **options), dx[one])


@pytest.mark.parametrize(("width", "groups"), [(15, 3), (12, 12)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_its_backward_in_both_forms(name, width, groups, dtype):
    options = {"stride": (1, 2), "padding": (1, 2), "groups": groups}
    x, weight, bias, dy = arrays(dtype, (4, 7, 6, 12), (width, 3, 4), **options)
    z, plain = np.full_like(dy, np.nan), F.conv2d(x, weight, bias, **options)
    y = F.conv2d(x, weight, bias, activation=name, z=z, **options)
    np.testing.assert_array_equal(z, plain)
    flat = F.activation(z.reshape(-1, width), name)
    np.testing.assert_array_equal(y.reshape(flat.shape), flat)
    np.testing.assert_array_equal(F.conv2d(x, weight, bias, activation=name, **options), y)
    wide = [a.astype(float) for a in (dy, x, weight, z)]
    want = conv2d_backward(*wide, **options, activation=name)
    for form in ({"z": z}, *([] if name in ("gelu", "silu") else [{"y": y}])):
        for a, b in zip(gradients(dy, x, weight, activation=name, **options, **form), want, strict=True):
            tolerance = 1e-5 if dtype == np.float32 else 1e-13
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(("width", "groups"), [(6, 2), (4, 4)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float64_gradients_equal_differences(name, width, groups):
    options = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": groups, "activation": name}
    x, weight, bias, dy = arrays(float, (2, 5, 6, 4), (width, 3, 2), **options)
    z = np.empty_like(dy)
    F.conv2d(x, weight, bias, z=z, **options)
    for array, grad in zip((x, weight, bias), gradients(dy, x, weight, z=z, **options), strict=True):
        ends = []
        direction = normal(float, *array.shape, seed=5)
        for h in (1e-5, -1e-5):
            moved = [a + h * direction if a is array else a for a in (x, weight, bias)]
            ends.append((F.conv2d(*moved, **options) * dy).sum())
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx((direction * grad).sum(), rel=1e-7)


# ---------------------------------------------------------------- torch


def test_torch_computes_the_same_bits_of_whole_numbers(dtype):
    for case, *want in convolutions.recorded():
        x, weight, bias = (a.astype(dtype) for a in convolutions.arrays(case))
        y = F.conv2d(x, weight, bias, **case.options)
        dy = convolutions.output_gradient(y.shape).astype(dtype)
        for name, a, b in zip(convolutions.RESULTS, (y, *gradients(dy, x, weight, **case.options)), want, strict=True):
            np.testing.assert_array_equal(a, b, f"{name} of {case}")


# ---------------------------------------------------------------- arrays of the caller


def test_outputs_given_are_the_outputs_returned_and_inputs_are_not_changed(dtype):
    x, weight, bias, dy = given = arrays(dtype, (3, 6, 7, 9), (10, 3, 3), stride=2, padding=1)
    copies = [a.copy() for a in given]
    how = {"stride": 2, "padding": 1, "activation": "tanh"}
    out, dx, dw, db = (np.full_like(a, np.nan) for a in (dy, x, weight, bias))
    assert F.conv2d(x, weight, bias, **how, out=out) is out
    assert F.conv2d_backward(dy, x, weight, y=out, **how, dx=dx, dw=dw, db=db) is dx
    np.testing.assert_array_equal(out, F.conv2d(x, weight, bias, **how))
    np.testing.assert_array_equal(dx, F.conv2d_backward(dy, x, weight, y=out, **how))
    for alone, want in (("dw", dw), ("db", db)):
        got = np.full_like(want, np.nan)
        np.testing.assert_array_equal(F.conv2d_backward(dy, x, weight, y=out, **how, **{alone: got}), dx)
        np.testing.assert_array_equal(got, want)
    for a, before in zip(given, copies, strict=True):
        np.testing.assert_array_equal(a, before)


@pytest.mark.parametrize(
    ("x", "filters"), [((0, 5, 6, 3), 4), ((2, 5, 6, 3), 0), ((2, 5, 6, 0), 4), ((0, 5, 6, 0), 0)], ids=str
)
def test_without_images_channels_or_filters_sums_are_empty(x, filters, dtype):
    x, weight = normal(dtype, *x), normal(dtype, filters, 3, 2, x[3])
    bias = normal(dtype, filters)
    y = F.conv2d(x, weight, bias, padding=1)
    assert y.shape == (len(x), 5, 7, filters)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, y.shape))
    dx, dw, db = gradients(np.ones_like(y), x, weight, padding=1)
    assert (dx.shape, dx.any(), dw.any()) == (x.shape, False, False)
    np.testing.assert_array_equal(db, np.full(filters, y[..., :1].size if filters else 0))


# ---------------------------------------------------------------- numbers that are none


@pairwise(
    value=[np.nan, np.inf],
    stride=[1, 2, (3, 1)],
    channels=[(3, 5, 1), (16, 33, 1), (18, 6, 2), (7, 7, 7)],
    dilation=[1, 2],
    dtype=DTYPES,
)
def test_what_is_not_finite_reaches_the_outputs_that_read_it_and_no_other(value, stride, channels, dilation, dtype):
    n_in, n_out, groups = channels
    options = {"stride": stride, "padding": (1, 2), "dilation": dilation, "groups": groups}
    x, weight, _, dy = arrays(dtype, (3, 9, 8, n_in), (n_out, 3, 2), **options)
    weight = np.abs(weight) + 1
    for pixel in ((1, 4, 3), (0, 0, 0), (2, 8, 7)):
        one, seen = x.copy(), np.zeros_like(x)
        one[*pixel, -1], seen[*pixel, -1] = value, 1
        y = F.conv2d(one, weight, **options)
        reads = F.conv2d(seen, np.ones_like(weight), **options) > 0
        np.testing.assert_array_equal(np.isfinite(y), ~reads)
        np.testing.assert_array_equal(y[~reads], F.conv2d(x, weight, **options)[~reads])
        assert not reads.any() or np.array_equal(y[reads], np.full(reads.sum(), value), equal_nan=True)
    for output in ((1, *np.array(dy.shape[1:3]) // 2), (0, 0, 0), (2, -1, -1)):
        one, seen = dy.copy(), np.zeros_like(dy)
        one[*output, 0], seen[*output, 0] = value, 1
        dx, dw, db = gradients(one, x, weight, **options)
        np.testing.assert_array_equal(np.isfinite(dx), F.conv2d_backward(seen, x, np.ones_like(weight), **options) == 0)
        reads = conv2d_backward(seen, np.ones_like(x), weight, seen, **options)[1][0] != 0
        assert not np.isfinite(dw[0][reads]).any()  # where its filter reads padding, it is not multiplied, or by zero
        np.testing.assert_array_equal(np.isfinite([*dw[1:].ravel(), *db[1:]]), True)
        assert not np.isfinite(db[0])


@pytest.mark.parametrize("channels", [(3, 5, 1), (16, 33, 1), (6, 6, 6)], ids=str)
def test_an_infinite_weight_reaches_what_it_reads_within_the_image(channels, dtype):
    n_in, n_out, groups = channels
    x, weight, _, _ = arrays(dtype, (1, 4, 5, n_in), (n_out, 3, 3), padding=1, groups=groups)
    weight[-1, 0, 0, 0] = np.inf  # reads the pixel above and to the left
    y = F.conv2d(np.abs(x) + 1, weight, padding=1, groups=groups)
    assert np.isposinf(y[:, 1:, 1:, -1]).all()
    edge = np.concatenate([y[:, 0, :, -1].ravel(), y[:, :, 0, -1].ravel()])
    assert not np.isinf(edge).any()  # it is not multiplied there, or by zero
    assert np.isfinite(y[..., :-1]).all()
    dy, dw = np.ones_like(y), np.empty_like(weight)
    dy[0, 0, 0, -1] = np.inf  # its filter reads padding above and to the left
    F.conv2d_backward(dy, np.abs(x) + 1, np.ones_like(weight), padding=1, groups=groups, dw=dw)
    assert np.isposinf(dw[-1, 1:, 1:]).all()
    edge = np.concatenate([dw[-1, 0].ravel(), dw[-1, :, 0].ravel()])
    assert not np.isinf(edge).any()
    assert np.isfinite(dw[:-1]).all()


# ---------------------------------------------------------------- errors

WRONG = {
    "F.conv2d(x[0], weight)": (ValueError, r"^x: expected shape \(n, n, n, n\), got \(5, 6, 4\)"),
    "F.conv2d(x.tolist(), weight)": (TypeError, "^x: expected a NumPy array, got list"),
    "F.conv2d(x.astype(int), weight)": (TypeError, "^x: expected dtype float32 or float64, got int64"),
    "F.conv2d(x, weight.astype(np.float32))": (TypeError, "^weight: expected dtype float64, got float32"),
    "F.conv2d(x, weight[0])": (ValueError, r"^weight: expected shape \(n, n, n, 4\), got \(3, 2, 4\)"),
    "F.conv2d(x[..., :3].copy(), weight)": (ValueError, r"^weight: expected shape \(n, n, n, 3\), got \(6, 3, 2, 4\)"),
    "F.conv2d(x[:, :0], weight, padding=2)": (ValueError, "^x: expected images of at least one pixel, got shape"),
    "F.conv2d(x, weight, groups=2)": (ValueError, r"^weight: expected shape \(n, n, n, 2\), got \(6, 3, 2, 4\)"),
    "F.conv2d(x, weight, groups=3)": (ValueError, "^groups: expected a divisor of the 4 channels of x, got 3"),
    "F.conv2d(x, weight[:5, ..., :2].copy(), groups=2)": (
        ValueError,
        "^groups: expected a divisor of the 5 filters of weight, got 2",
    ),
    "F.conv2d(x, weight, groups=0)": (ValueError, "^groups: expected a whole number of at least 1, got 0"),
    "F.conv2d(x, weight, bias[1:].copy())": (ValueError, r"^bias: expected shape \(6,\), got \(5,\)"),
    "F.conv2d(x, weight, stride=0)": (ValueError, "^stride: expected a whole number of at least 1, got 0"),
    "F.conv2d(x, weight, stride=(1, 2, 3))": (ValueError, r"^stride: expected .* pair, .*, got \(1, 2, 3\)"),
    "F.conv2d(x, weight, dilation=(1, 1.5))": (ValueError, r"^dilation\[1\]: expected a whole number .*, got 1.5"),
    "F.conv2d(x, weight, padding=-1)": (ValueError, "^padding: expected a whole number of at least 0, got -1"),
    "F.conv2d(x, weight, padding='full')": (ValueError, "^padding: expected .*'same' or 'valid', got 'full'"),
    "F.conv2d(x, weight, stride=2, padding='same')": (ValueError, r"^padding: expected stride 1 .*\(2, 2\); give num"),
    "F.conv2d(x[:, :2].copy(), weight)": (ValueError, r"^weight: expected filters that fit .* \(2, 6\) .* \(3, 2\)"),
    "F.conv2d(x, weight, dilation=(1, 6))": (ValueError, "^weight: expected filters that fit the padded image"),
    "F.conv2d(x, weight[:, :0].copy())": (ValueError, "^weight: expected filters that fit the padded image"),
    "F.conv2d(x, weight, activation='rleu')": (ValueError, "^activation: expected one of identity, .*, got 'rleu'"),
    "F.conv2d(x, weight, out=out[1:])": (ValueError, r"^out: expected shape \(2, 3, 5, 6\), got \(1, 3, 5, 6\)"),
    "F.conv2d(x, weight, out=out.astype(np.float32))": (TypeError, "^out: expected dtype float64 to write to"),
    "F.conv2d(x, weight, out=read_only)": (ValueError, "^out: expected a writable array, got a read-only one"),
    "F.conv2d(x, weight, out=np.asfortranarray(out))": (ValueError, "^out: expected a C-contiguous, aligned array"),
    "F.conv2d(x, weight, out=x.reshape(-1)[:180].reshape(out.shape))": (ValueError, "^out: .* that overlaps x"),
    "F.conv2d(x, weight, out=out, z=out)": (ValueError, "^z: .* that overlaps out"),
    "F.conv2d(x, weight, z=out[:, 1:])": (ValueError, r"^z: expected shape \(2, 3, 5, 6\)"),
    "F.conv2d_backward(out[:, 1:].copy(), x, weight)": (ValueError, r"^dy: expected shape \(2, 3, 5, 6\), got"),
    "F.conv2d_backward(out, x, weight, activation='relu')": (ValueError, "^z: expected .* for relu"),
    "F.conv2d_backward(out, x, weight, activation='gelu', y=y)": (
        ValueError,
        "^y: cannot stand for z with gelu; pass the z",
    ),
    "F.conv2d_backward(out, x, weight, dx=x)": (ValueError, "^dx: .* that overlaps x"),
    "F.conv2d_backward(out, x, weight, dw=weight)": (ValueError, "^dw: .* that overlaps weight"),
    "F.conv2d_backward(out, x, weight, dw=bias)": (ValueError, r"^dw: expected shape \(6, 3, 2, 4\), got \(6,\)"),
    "F.conv2d_backward(out, x, weight, db=out[0, 0, 0])": (ValueError, "^db: .* that overlaps dy"),
    "F.conv2d_backward(out, x, weight, dx=read_only)": (ValueError, r"^dx: expected shape \(2, 5, 6, 4\)"),
}


@pytest.mark.parametrize("call", WRONG)
def test_bad_arguments_have_one_clear_error_and_nothing_is_written(call):
    x, weight, bias, out = arrays(float, (2, 5, 6, 4), (6, 3, 2))
    given = {"x": x, "weight": weight, "bias": bias, "out": out, "y": out.copy(), "read_only": out.copy()}
    given["read_only"].flags.writeable = False
    before = {name: a.tobytes() for name, a in given.items()}
    error, message = WRONG[call]
    with pytest.raises(error, match=message):
        eval(call, {"F": F, "np": np}, given)
    assert {name: a.tobytes() for name, a in given.items()} == before


# ---------------------------------------------------------------- in programs

OPTIONS = {
    "same size": {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)},
    "strides": {"stride": (2, 3), "padding": (1, 0), "dilation": (1, 2)},
    "far apart": {"stride": (1, 2), "padding": (2, 3), "dilation": (2, 3)},
}
PLACES = {  # of the convolved images: whether they are channels of one value from the start, and the border
    "plain": (False, (0, 0)),
    "in borders": (False, (2, 1)),
    "slices": (True, (0, 0)),
    "slices in borders": (True, (1, 3)),
}
SIZE, WIDTHS = (9, 8), (8, 3, 20, 6)


def branches(dtype, options, place):
    """Two images within borders, four convolutions of these, joined, and a product of all channels.

    What is not joined from the start is joined by sums with zeros, which round nothing.
    """
    sliced, border = PLACES[place]
    image = conv2d(np.zeros((1, *SIZE, 1)), np.zeros((1, 3, 2, 1)), **options).shape[1:3]
    starts = [sum(WIDTHS[:i]) for i in range(4)]
    whole = {"shape": (*image, sum(WIDTHS)), "border": border}
    values = [
        {"shape": (*SIZE, 4)},
        {"shape": (*SIZE, 6), "border": (6, 6)},
        {"shape": (*SIZE, 5), "border": (6 + border[1], 6 + border[0])},
    ]
    entries = []

    def add(kind, src, dst, shape, **parts):
        weights = [normal(dtype, *shape, seed=7) / 3, normal(dtype, shape[0], seed=7)]
        entries.append({"kind": kind, "sources": (src,), "dst": dst, "weights": weights, **parts})

    if sliced:
        values += [
            whole,
            *({"shape": (*image, c), "owner": 3, "first": k} for c, k in zip(WIDTHS, starts, strict=True)),
        ]
    else:
        values += [{"shape": (*image, c), "border": border} for c in WIDTHS]
    parts = range(len(values) - 4, len(values))
    add("dense", 0, 1, (6, 4), activation="tanh")
    add("dense", 0, 2, (5, 4), activation="tanh")
    add("conv2d", 1, parts[0], (8, 3, 2, 3), activation="relu", own={**options, "groups": 2})
    add("conv2d", 2, parts[1], (3, 3, 2, 5), activation="silu", own={**options})
    add("conv2d", 1, parts[2], (20, 3, 2, 6), own={**options})
    add("conv2d", 1, parts[3], (6, 3, 2, 1), activation="relu", own={**options, "groups": 6})
    if not sliced:
        for src, c, first in zip(parts, WIDTHS, starts, strict=True):
            own = {"constant": np.eye(sum(WIDTHS), c, -first, dtype=dtype)}
            entries.append({"kind": "dense", "sources": (src,), "dst": len(values), "own": own})
            values.append(whole)
        entries.append({"kind": "add", "sources": (7, 8, 9, 10), "dst": 11})
        values.append(whole)
    add("dense", 3 if sliced else 11, len(values), (2, sum(WIDTHS)))
    values.append({"shape": (*image, 2)})
    return core.Training(core.Program(values, entries, np.dtype(dtype).num), "mse", None, 5)


def computed(dtype, options, place, n, threads):
    """Outputs, loss, gradients and both products with the Hessian."""
    training, x = branches(dtype, options, place), normal(dtype, n, *SIZE, 4, seed=1)
    with fo.num_threads(threads):
        y = training.program.predict(x)
        target = normal(dtype, *y.shape, seed=2)
        loss = training.step(x, target)
        grads = [g.copy() for g in training.grads]
        v = [normal(dtype, *g.shape, seed=3) for g in grads]
        return y, loss, *grads, *training.hvp(x, target, v), *training.hvp(x, target, v, gauss_newton=True)


@pairwise(options=OPTIONS, place=PLACES, n=[1, 5], threads=TEAMS, dtype=DTYPES)
def test_borders_slices_and_teams_do_not_change_a_bit(options, place, n, threads, dtype):
    want = computed(dtype, OPTIONS[options], "plain", n, 1)
    for a, b in zip(computed(dtype, OPTIONS[options], place, n, threads), want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_depthwise_convolution_reads_no_border(threads, dtype):
    x, weight, bias, _ = arrays(dtype, (3, 9, 8, 35), (35, 3, 5), padding=2, groups=35)
    own = {"padding": (2, 2), "groups": 35}
    entry = {"kind": "conv2d", "sources": (0,), "dst": 1, "weights": [weight, bias], "own": own}
    with fo.num_threads(threads):
        y = core.Program([{"shape": x.shape[1:]}, {"shape": (11, 8, 35)}], [entry], x.dtype.num).predict(x)
        np.testing.assert_array_equal(y, F.conv2d(x, weight, bias, **own))


def network(kernel, stride, padding, dilation, groups, activation, dtype=np.float64):
    padding = padding if stride == 1 or padding != "same" else 2
    width, groups = (6, 6) if groups == "depthwise" else (12, groups)
    layers = [
        fo.nn.Conv2d(2, 6, 2, padding=1, activation="tanh"),
        fo.nn.Conv2d(6, width, kernel, stride, padding, dilation, groups, activation=activation),
        fo.nn.Conv2d(width, 2, 1, bias=False),
    ]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=(8, 9, 2))


def moved(net, v, step):
    """A network whose parameters are `step` further along v."""
    other = copy.deepcopy(net)
    for p, d in zip(other.parameters(), v, strict=True):
        p += step * d
    return other


networks = pairwise(
    kernel=[1, 3, (2, 4)],
    stride=[1, 2, (3, 1)],
    padding=[0, (1, 2), "same"],
    dilation=[1, 2],
    groups=[1, 2, 6, "depthwise"],
    activation=["identity", "tanh", "gelu", "softmax"],
)


@networks
def test_products_with_the_hessian_are_differences_of_gradients(kernel, stride, padding, dilation, groups, activation):
    net = network(kernel, stride, padding, dilation, groups, activation)
    x, y = normal(float, 3, 8, 9, 2), normal(float, 3, *net.output_shape)
    v = [normal(float, *p.shape, seed=3) for p in net.parameters()]
    plus, minus = (moved(net, v, step).value_and_grad(x, y, "mse")[1] for step in (1e-6, -1e-6))
    for got, a, b in zip(net.hvp(x, y, v, "mse"), plus, minus, strict=True):
        want = (a - b) / 2e-6
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-7 * max(1, np.abs(want).max()))


@networks
def test_gauss_newton_products_are_gradients_of_what_the_outputs_move(
    kernel, stride, padding, dilation, groups, activation
):
    """Of a squared error, G v is the gradient where the targets are the outputs less their derivative along v."""
    net = network(kernel, stride, padding, dilation, groups, activation)
    x = normal(float, 3, 8, 9, 2)
    v = [normal(float, *p.shape, seed=3) for p in net.parameters()]
    plus, minus = (moved(net, v, step).predict(x) for step in (1e-6, -1e-6))
    wanted = net.value_and_grad(x, net.predict(x) - (plus - minus) / 2e-6, "mse")[1]
    for got, want in zip(net.hvp(x, 0 * plus, v, "mse", gauss_newton=True), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-7 * max(1, np.abs(want).max()))


# ---------------------------------------------------------------- a network that torch trained


def of_torch(dtype):
    """The recorded network of torch before its first step."""
    given = torch_training.arrays()
    first, second = (fo.nn.Conv2d(**conv, activation="relu") for conv in torch_training.CONVS)
    linear = fo.nn.Dense(int(np.prod(torch_training.IMAGE)), 4)
    layers = [fo.nn.ChannelsFirst(), first, fo.nn.MaxPool2d(**torch_training.POOL), second, fo.nn.Flatten(), linear]
    net = fo.nn.Sequential(layers, dtype=dtype, input_shape=torch_training.SHAPES["x"][1:])
    for p, a in zip(net.parameters(), ours(given), strict=True):
        p[...] = a
    return net, given["x"]


def ours(arrays):
    """Weights of torch, our six arrays in order, with channels last."""
    arrays = [arrays[name] for name in list(torch_training.SHAPES)[:6]]
    height, width, channels = torch_training.IMAGE
    arrays[0], arrays[2] = (np.moveaxis(a, 1, 3) for a in (arrays[0], arrays[2]))
    arrays[4] = np.moveaxis(arrays[4].reshape(-1, channels, height, width), 1, 3).reshape(len(arrays[4]), -1)
    return arrays


@pytest.mark.parametrize("threads", [1, 2])
def test_five_steps_of_descent_lose_what_torch_recorded(threads, dtype):
    net, x = of_torch(dtype)
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), **torch_training.OPTIONS))
    with fo.num_threads(threads):
        losses = [trainer.step(x, torch_training.CLASSES) for _ in range(torch_training.STEPS)]
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    with np.load(torch_training.TABLE) as table:
        assert str(table["torch"]).startswith("2.13.0")
        np.testing.assert_allclose(losses, table["losses"], rtol=tolerance)
        assert losses[-1] < 0.9 * losses[0]
        for p, want in zip(net.parameters(), ours(table), strict=True):
            np.testing.assert_allclose(p, want, rtol=0, atol=tolerance)


def test_torch_still_trains_as_recorded():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    pytest.importorskip("torch", reason="torch is not installed")
    with np.load(torch_training.TABLE) as table:
        for name, a in torch_training.computed().items():
            np.testing.assert_allclose(a, table[name], rtol=1e-12, atol=1e-12)
