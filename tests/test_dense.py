"""The dense layer, forward and backward, against float64.

Pass criterion: componentwise within Higham's bound gamma_k |X||W| of the float64
product, k the length of the sum; for float64 the oracle is computed in long double.
Activations are compared bit for bit with the activation of the stored preactivation.

Every shape: the operands of a shape are the first rows and columns of those of the largest, so one
oracle serves for all that share the summed dimension. Batches of several sizes are computed into one
array of blocks and compared in one go.
"""

import functools
import os

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pairs import ALL, OTHER_LEVEL, pairwise
from reference import ACTIVATIONS, DTYPES, activation_backward, gamma

import fastopt as fo

F = fo.functional
EXTRA = 4  # roundings beside the sum: bias, final store, blocks
DZ_EPS = 8  # error of dZ in units of eps |dY|

LARGE = [(1, 1025, 257), (300, 40, 9), (65, 2100, 33), (9, 64, 1100)]
# n, in and out around multiples of 48, 256, 384, 512 and 1024: the lengths of strips and blocks
BLOCKS = [
    *((1, 1024, 513), (2, 47, 1023), (3, 255, 512), (5, 511, 385), (6, 385, 769), (7, 1025, 256), (8, 383, 385)),
    *((16, 257, 255), (31, 768, 97), (33, 1023, 49), (47, 145, 384), (48, 96, 1025), (49, 384, 143)),
    *((64, 192, 256), (65, 49, 767), (100, 257, 144), (127, 513, 48), (200, 48, 511)),
    *((255, 95, 383), (256, 512, 47), (257, 49, 257), (299, 1024, 24), (300, 25, 1024)),
]
LONGEST = 70
sizes = st.integers(0, LONGEST)
layouts = st.sampled_from(["plain", "fortran", "strided", "reversed", "unaligned"])


def wide(a):
    """In the precision of the oracle."""
    return a.astype(np.longdouble if a.dtype == np.float64 else np.float64)


def magnitude(a):
    return np.abs(a).astype(float)


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
    bound = gamma(n_in + EXTRA, dtype) * (magnitude(x) @ magnitude(weight).T + magnitude(bias))
    y, product = F.dense(lay_out(x, layout), lay_out(weight, layout), bias), wide(x) @ wide(weight).T
    assert y.shape == (n, n_out)
    assert y.dtype == dtype
    assert (np.abs(y - (product + bias)) <= bound).all()
    np.testing.assert_array_equal(F.dense(x, weight, bias), y)
    assert (np.abs(F.dense(x, weight) - product) <= bound).all()


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
    sums = (dz, wide(weight), n_out), (dz.T, wide(x), n), (dz.T, np.ones(n, dz.dtype), n)  # of dX, dW, db
    exact = [left @ right for left, right, _ in sums]
    bounds = [
        magnitude(gamma(k + EXTRA, dtype) * np.abs(left) + 2 * (size if left is dz else size.T)) @ magnitude(right)
        for left, right, k in sums
    ]
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
        for got, want, bound in zip((dx, dw, db), exact, bounds, strict=True):
            assert (np.abs(got - want) <= bound).all()


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


@pairwise(
    width=[1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65],
    n=[1, 2, 5, 6, 7, 16, 17],
    dtype=DTYPES,
)
def test_every_length_around_the_vector_widths_is_within_the_rounding_bound(n, width, dtype):
    check_forward(n, width, width, dtype)
    check_backward(n, width, 18 - n, dtype, "tanh")
    check_backward(n, 18 - n, width, dtype, "tanh")


@pairwise(shape=[*LARGE, *BLOCKS], dtype=DTYPES)
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


@pytest.mark.parametrize("fewer", [(1, 5, 24), (25, 33, 47, 70)], ids=["few rows", "many rows"])
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


@pytest.mark.parametrize("shape", [(64, 96), (1100, 37), (3000, 80)], ids=str)
def test_many_rows_have_the_bits_of_a_packed_weight_whichever_operand_is_packed(shape, dtype):
    # few of them are packed themselves, of more the weight is; sums of more than 1024 terms are cut
    x, weight, bias, _ = data(700, *shape, dtype)
    y = packed(weight, bias, "relu")(x)
    for n in (25, 100, 700):
        np.testing.assert_array_equal(F.dense(x[:n], weight, bias, activation="relu"), y[:n])


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


# ---------------------------------------------------------------- every shape


class Batches:
    """Batches of several sizes, the first rows of the largest; their outputs are blocks of one array."""

    def __init__(self, sizes):
        self.sizes = list(sizes)
        self.stops = np.cumsum(self.sizes)
        self.size_of = np.repeat(self.sizes, self.sizes)  # of the block that a row belongs to
        self.row_of = np.concatenate([np.arange(n) for n in self.sizes])  # and the row's number there

    def outputs(self, width, dtype):
        """(whole, blocks) to be written."""
        whole = np.full((len(self.row_of), width), np.nan, dtype)
        return whole, np.split(whole, self.stops[:-1])

    def require(self, got, want, bound, n_in, n_out):
        """`want` and `bound` hold the rows of the largest batch, block after block."""
        wrong = outside(got, want, bound).any(axis=1)
        assert not wrong.any(), f"(n, in, out) = {self.size_of[wrong.argmax()]}, {n_in}, {n_out}"


LENGTHS = range(LONGEST + 1)
EDGES = (0, 1, 2, 8, 17, 33, 48, 65)
EVERY, SOME = Batches(LENGTHS), Batches(EDGES)
ALONE, PAIRED = ([Batches(sorted({n, *others})) for n in LENGTHS] for others in ((), EDGES))
# where all is tried, the other levels and the sanitizers take the sample of shapes
EXHAUSTIVE = ALL and not OTHER_LEVEL and "FASTOPT_SANITIZE" not in os.environ


def batches(n_in, n_out, every):
    """The batches to try, if any.

    By default every two lengths meet in some shape, and every length with every two of EDGES; at the other levels every
    length with every one of EDGES. Where all is tried, the sample leaves one dimension of the three in EDGES.
    """
    edge, n = n_in in EDGES or n_out in EDGES, (n_in + n_out) % len(LENGTHS)
    if ALL:
        return EVERY if every or edge else SOME
    if OTHER_LEVEL:
        return ALONE[n] if edge else None
    return PAIRED[n] if edge else ALONE[n]


def split(exact):
    """Two float64 that add up to a long double."""
    high = exact.astype(float)
    return high, (exact - high).astype(float)


def outside(got, want, bound):
    """Where `got` is further than `bound` from the sum of the pair `want`; the first difference is exact."""
    return ~(np.abs(got - want[0] - want[1]) <= bound)


def largest(dtype):
    return data(LONGEST, LONGEST, LONGEST, dtype)


def check_forwards(n_in, dtype, every, layer):
    """`layer(weight, bias, activation)` returns what is called with x and out, for all n and out.

    The bias is there for half of the lengths, relu for half of those.
    """
    x, weight, bias, _ = largest(dtype)
    x, weight = x[:, :n_in].copy(), weight[:, :n_in].copy()
    activation = "relu" if n_in % 4 > 1 else "identity"
    added = bias if n_in % 2 else np.zeros_like(bias)
    y = wide(x) @ wide(weight).T + added
    bound = gamma(n_in + EXTRA, dtype) * (magnitude(x) @ magnitude(weight).T + magnitude(added))
    oracle = *split(np.maximum(y, 0) if activation == "relu" else y), bound
    rows_of = functools.cache(lambda tried: [a[tried.row_of] for a in oracle])
    for n_out in LENGTHS:
        tried = batches(n_in, n_out, every)
        call = tried and layer(weight[:n_out], bias[:n_out] if n_in % 2 else None, activation)
        if call is None:
            continue
        got, blocks = tried.outputs(n_out, dtype)
        for n, out in zip(tried.sizes, blocks, strict=True):
            call(x[:n], out)
        *want, bound = (a[:, :n_out] for a in rows_of(tried))
        tried.require(got, want, bound, n_in, n_out)


def plain(weight, bias, activation):
    return lambda x, out: F.dense(x, weight, bias, activation, out)


def packed(weight, bias, activation):
    """The layer in an inference network; None where it has no inputs or outputs."""
    if not weight.size:
        return None
    layer = fo.nn.Dense(*weight.shape[::-1], activation, bias is not None)
    net = fo.nn.Sequential([layer], rng=0, dtype=weight.dtype)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return net.fold().predict


@pytest.mark.parametrize("layer", [plain, packed])
def test_forward_is_within_the_rounding_bound_for_every_two_lengths_and_every_shape_up_to_70(layer, dtype):
    for n_in in LENGTHS:
        check_forwards(n_in, dtype, EXHAUSTIVE, layer)


def every_prefix(left, right, dtype):
    """Products left[:, :k] right[:k] for all k, (71, 70, columns), as a pair, and their bounds."""
    products, bounds = [], []
    for k in LENGTHS:
        a, b = wide(left[:, :k]), wide(right[:k])
        products.append(split(a @ b))
        bounds.append(gamma(k + EXTRA, dtype) * (magnitude(a) @ magnitude(b)))
    return *(np.stack(each) for each in zip(*products, strict=True)), np.stack(bounds)


def check_backwards(dtype, every):
    x, weight, _, dy = largest(dtype)
    xs, weights, dys = ([a[:, :k].copy() for k in LENGTHS] for a in (x, weight, dy))
    dx_oracle = every_prefix(dy, weight, dtype)
    # the column of ones gives db
    dw_oracle = every_prefix(dy.T, np.c_[x, np.ones(LONGEST, dtype)], dtype)
    sizes_of = functools.cache(lambda tried: [a[tried.sizes] for a in dw_oracle])
    for n_out in LENGTHS:
        rows_of = functools.cache(lambda tried, n_out=n_out: [a[n_out][tried.row_of] for a in dx_oracle])
        for n_in in LENGTHS:
            tried = batches(n_in, n_out, every)
            if tried is None:
                continue
            dx, blocks = tried.outputs(n_in, dtype)
            dw = np.full((len(blocks), n_out, n_in), np.nan, dtype)
            db = np.full((len(blocks), n_out), np.nan, dtype)
            for i, n in enumerate(tried.sizes):
                F.dense_backward(dys[n_out][:n], xs[n_in][:n], weights[n_in][:n_out], dx=blocks[i], dw=dw[i], db=db[i])
            *want, bound = (a[:, :n_in] for a in rows_of(tried))
            tried.require(dx, want, bound, n_in, n_out)
            *want, bound = (a[:, :n_out, :n_in] for a in sizes_of(tried))
            wrong = outside(dw, want, bound).any(axis=(1, 2))
            *want, bound = (a[:, :n_out, -1] for a in sizes_of(tried))
            wrong |= outside(db, want, bound).any(axis=1)
            assert not wrong.any(), f"(n, in, out) = {tried.sizes[wrong.argmax()]}, {n_in}, {n_out}"


def test_backward_is_within_the_rounding_bound_for_every_two_lengths_and_every_shape_up_to_70():
    check_backwards(np.dtype(np.float32), EXHAUSTIVE)


def test_float64_backward_is_within_the_rounding_bound_for_every_two_lengths_up_to_70():
    check_backwards(np.dtype(np.float64), every=False)


@pairwise(shape=[*LARGE, *BLOCKS], dtype=DTYPES)
def test_packed_large_layers_are_within_the_rounding_bound(shape, dtype):
    n, n_in, n_out = shape
    x, weight, bias, _ = data(n, n_in, n_out, dtype)
    bound = gamma(n_in + EXTRA, dtype) * (magnitude(x) @ magnitude(weight).T + magnitude(bias))
    y = packed(weight, bias, "identity")(x)
    assert (np.abs(y - (wide(x) @ wide(weight).T + bias)) <= bound).all()
