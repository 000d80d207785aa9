"""The dense layer, forward and backward, against float64.

Pass criterion: componentwise within Higham's bound gamma_k |X||W| of the float64
product, k the length of the sum; for float64 the oracle is computed in long double.
Activations are compared bit for bit with the activation of the stored pre-activation.
"""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import ACTIVATIONS, DTYPES, activation_backward, gamma

import fastopt as fo

F = fo.functional
EXTRA = 4  # roundings beside the sum: bias, final store, panels
DZ_EPS = 8  # error of dZ in units of eps |dY|

LARGE = [(1, 1025, 257), (300, 40, 9), (65, 2100, 33), (9, 64, 1100)]
sizes = st.integers(0, 70)
layouts = st.sampled_from(["plain", "fortran", "strided", "reversed", "unaligned"])


def wide(a):
    return a.astype(np.longdouble)


def lay_out(a, layout):
    """The same values in another memory layout."""
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "strided":
        return np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3]
    if layout == "reversed":
        return a[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "unaligned":
        block = np.empty(a.nbytes + 1, np.uint8)[1:]
        view = block.view(a.dtype).reshape(a.shape)
        view[...] = a
        return view
    return a


def data(n, n_in, n_out, dtype, seed=0):
    rng = np.random.default_rng((seed, n, n_in, n_out))
    shapes = (n, n_in), (n_out, n_in), (n_out,), (n, n_out)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def check_forward(n, n_in, n_out, dtype, layout="plain"):
    x, weight, bias, _ = data(n, n_in, n_out, dtype)
    bound = gamma(n_in + EXTRA, dtype) * (np.abs(wide(x)) @ np.abs(wide(weight)).T + np.abs(bias))
    y = F.dense(lay_out(x, layout), lay_out(weight, layout), bias)
    assert y.shape == (n, n_out)
    assert y.dtype == dtype
    assert (np.abs(y - (wide(x) @ wide(weight).T + bias)) <= bound).all()
    np.testing.assert_array_equal(F.dense(x, weight, bias), y)
    assert (np.abs(F.dense(x, weight) - wide(x) @ wide(weight).T) <= bound).all()


def check_backward(n, n_in, n_out, dtype, activation, layout="plain"):
    x, weight, bias, dy = data(n, n_in, n_out, dtype)
    z = np.empty((n, n_out), dtype)
    y = F.dense(x, weight, bias, activation=activation, z=z)
    np.testing.assert_array_equal(y, F.activation(z, activation))
    eps = np.finfo(dtype).eps
    dz = activation_backward(wide(dy), wide(z) if activation == "softmax" else z.astype(float), activation)
    size = DZ_EPS * eps * np.abs(wide(dy))
    if activation == "softmax":
        size = wide(y) * (np.abs(dy).max(axis=1, keepdims=True, initial=0) * (n_out + DZ_EPS) * eps)
    for form in ({"z": z}, {"y": y}):
        if "y" in form and activation in ("gelu", "silu"):
            continue
        dw, db = np.full_like(weight, np.nan), np.full_like(bias, np.nan)
        dx = F.dense_backward(
            lay_out(dy, layout),
            lay_out(x, layout),
            lay_out(weight, layout),
            activation=activation,
            dw=dw,
            db=db,
            **form,
        )
        for got, left, right, k in (
            (dx, dz, wide(weight), n_out),
            (dw, dz.T, wide(x), n),
            (db, dz.T, np.ones(n, np.longdouble), n),
        ):
            error = size if left is dz else size.T
            bound = (gamma(k + EXTRA, dtype) * np.abs(left) + 2 * error) @ np.abs(right)
            assert (np.abs(got - left @ right) <= bound).all()


@given(sizes, sizes, sizes, st.sampled_from(DTYPES), layouts)
@example(0, 3, 4, np.float32, "plain")
@example(3, 0, 4, np.float32, "plain")
@example(3, 4, 0, np.float64, "plain")
@example(1, 1, 1, np.float32, "plain")
@example(1, 70, 1, np.float32, "plain")
def test_forward_is_within_the_rounding_bound(n, n_in, n_out, dtype, layout):
    check_forward(n, n_in, n_out, dtype, layout)


@given(sizes, sizes, sizes, st.sampled_from(DTYPES), st.sampled_from(list(ACTIVATIONS)), layouts)
@example(0, 3, 4, np.float32, "relu", "plain")
@example(3, 0, 4, np.float32, "gelu", "plain")
@example(3, 4, 0, np.float64, "softmax", "plain")
def test_backward_is_within_the_rounding_bound(n, n_in, n_out, dtype, activation, layout):
    check_backward(n, n_in, n_out, dtype, activation, layout)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 16, 17])
@pytest.mark.parametrize("width", [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])
def test_every_length_around_the_vector_widths_is_within_the_rounding_bound(n, width, dtype):
    check_forward(n, width, width, dtype)
    check_backward(n, width, 18 - n, dtype, "tanh")
    check_backward(n, 18 - n, width, dtype, "tanh")


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_layers_are_within_the_rounding_bound(shape, dtype):
    check_forward(*shape, dtype)
    check_backward(*shape, dtype, "relu")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_its_backward_in_both_forms(activation, dtype):
    check_backward(37, 19, 23, dtype, activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float64_gradients_equal_differences(activation):
    x, weight, bias, dy = data(3, 4, 5, np.float64)
    z = np.empty((3, 5))
    F.dense(x, weight, bias, activation=activation, z=z)
    dw, db = np.empty_like(weight), np.empty_like(bias)
    dx = F.dense_backward(dy, x, weight, z, activation=activation, dw=dw, db=db)
    for array, grad in ((x, dx), (weight, dw), (bias, db)):
        for i in np.ndindex(array.shape):
            before, ends = array[i], []
            for h in (1e-5, -1e-5):
                array[i] = before + h
                ends.append((F.dense(x, weight, bias, activation=activation) * dy).sum())
            array[i] = before
            assert abs((ends[0] - ends[1]) / 2e-5 - grad[i]) <= 1e-7 * max(1, np.abs(grad).max())


@pytest.mark.parametrize("fewer", [(1, 5, 15), (16, 17, 47, 70)], ids=["few rows", "many rows"])
def test_an_element_has_the_same_bits_in_any_batch_of_its_kind_and_any_block_of_outputs(fewer, dtype):
    # few rows are summed along the lanes, many one term after the other
    x, weight, bias, dy = data(fewer[-1], 1100, 37, dtype)
    y, dx = F.dense(x, weight, bias), F.dense_backward(dy, x, weight)
    for n in fewer:
        for i in (0, len(x) - n):
            rows = slice(i, i + n)
            np.testing.assert_array_equal(F.dense(x[rows], weight, bias), y[rows])
            np.testing.assert_array_equal(F.dense_backward(dy[rows], x[rows], weight), dx[rows])
    for j in (0, 3, 36):
        np.testing.assert_array_equal(F.dense(x, weight[j : j + 1], bias[j : j + 1]), y[:, j : j + 1])


def test_outputs_given_are_the_outputs_returned(dtype):
    x, weight, bias, dy = data(5, 6, 7, dtype)
    out, dx = np.empty((5, 7), dtype), np.empty((5, 6), dtype)
    assert F.dense(x, weight, bias, out=out) is out
    assert F.dense_backward(dy, x, weight, dx=dx) is dx
    np.testing.assert_array_equal(out, F.dense(x, weight, bias))
    np.testing.assert_array_equal(dx, F.dense_backward(dy, x, weight))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_inputs_are_not_changed(activation, dtype):
    arrays = data(9, 17, 19, dtype)
    x, weight, bias, dy = arrays
    copies = [a.copy() for a in arrays]
    z = np.empty((9, 19), dtype)
    F.dense(x, weight, bias, activation=activation, z=z)
    F.dense_backward(dy, x, weight, z, activation=activation, dw=np.empty_like(weight), db=np.empty_like(bias))
    for a, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(a, copy)


def test_nan_and_infinity_reach_exactly_the_outputs_they_feed(dtype):
    x, weight, bias, _ = data(4, 8, 5, dtype)
    x[1, 3], x[2, 0] = np.nan, np.inf
    y = F.dense(x, weight, bias)
    assert np.isnan(y[1]).all()
    assert np.isinf(y[2]).all()
    assert np.isfinite(y[[0, 3]]).all()
