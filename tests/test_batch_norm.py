"""Batch normalization: column statistics, the kernels, the layer in training, inference and folding.

Pass criterion: float32 statistics to six digits of those of the same numbers in float64, outputs and
gradients within RTOL of the oracle, relative to the largest of their kind; gradients of networks within
1e-7 of central differences; where bits are promised, all of them.
"""

import copy
import itertools
import os
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pairs import pairwise
from reference import (
    ACTIVATIONS,
    DTYPES,
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    batch_statistics,
    forward,
)
from test_dense import lay_out, layouts

import fastopt as fo

F = fo.functional
RTOL = {np.dtype(np.float32): 3e-6, np.dtype(np.float64): 1e-13}
STATISTICS_RTOL = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-12}
EPS = 1e-5


def data(n, c, dtype):
    """x, dy, gamma, beta"""
    rng = np.random.default_rng((n, c))
    return [rng.normal(1, 2, shape).astype(dtype) for shape in ((n, c), (n, c), (c,), (c,))]


def assert_close(got, want, rtol=None):
    rtol = rtol or RTOL[got.dtype]
    np.testing.assert_allclose(got, want, rtol=0, atol=rtol * max(1.0, np.abs(want).max(initial=0)))


def require_torch():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    return pytest.importorskip("torch", reason="torch is not installed")


# ---------------------------------------------------------------- statistics


@given(st.integers(1, 200), st.integers(0, 70), st.sampled_from(DTYPES), st.sampled_from([0, 1e3]), layouts)
@example(1, 5, np.float32, 0, "plain")
def test_statistics_of_rows_equal_the_oracle(n, c, dtype, offset, layout):
    x = (np.random.default_rng((n, c)).normal(size=(n, c)) + offset).astype(dtype)
    rtol = STATISTICS_RTOL[np.dtype(dtype)]
    for correction in range(min(n, 2)):
        got, want = F.batch_statistics(lay_out(x, layout), correction), batch_statistics(x.astype(float), correction)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@given(st.integers(1, 4), st.integers(0, 5), st.integers(1, 40), st.integers(1, 40), st.sampled_from(DTYPES))
@example(1, 20, 1, 1, np.float32)
@example(2, 1, 40, 60, np.float32)
def test_statistics_of_channels_equal_the_oracle(n, c, h, w, dtype):
    x = np.random.default_rng((n, c, h, w)).normal(3, 1, (n, c, h, w)).astype(dtype)
    rtol = STATISTICS_RTOL[np.dtype(dtype)]
    for correction in range(min(n * h * w, 2)):
        got, want = F.batch_statistics(x, correction), batch_statistics(x.astype(float), correction)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("shape", [(10_000, 5), (100, 3, 10, 10)], ids=str)
def test_float32_of_mean_1e6_and_variance_1_has_statistics_to_six_digits(shape, rng):
    x = (1e6 + rng.normal(size=shape)).astype(np.float32)
    for a, b in zip(F.batch_statistics(x), batch_statistics(x.astype(float)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


ORDERS = {
    "sorted": lambda x: np.sort(x, axis=0),
    "first row far away": lambda x: np.concatenate([x[:1] + 1e5, x[1:]]),
    "last row far away": lambda x: np.concatenate([x[:-1], x[-1:] - 1e5]),
    "two levels": lambda x: np.concatenate([x[:500], x[500:] + 1e4]),
}


@pytest.mark.parametrize("order", ORDERS)
def test_statistics_do_not_suffer_from_the_order_of_rows(order, rng):
    x = ORDERS[order](rng.normal(size=(2000, 3))).astype(np.float32)
    images = np.ascontiguousarray(x.T).reshape(1, 3, 40, 50)
    for data in (x, images):
        mean, var = batch_statistics(data.astype(float))
        got_mean, got_var = F.batch_statistics(data)
        assert (np.abs(got_mean - mean) <= 1e-6 * np.sqrt(var)).all()
        np.testing.assert_allclose(got_var, var, rtol=2e-6)


def test_a_large_mean_costs_float32_no_digits():
    x = (1e6 + np.arange(16)).astype(np.float32).reshape(-1, 1)
    mean, var = F.batch_statistics(x)
    assert var[0] == np.float32(np.arange(16).var())
    assert mean[0] == np.float32(1e6 + 7.5)


def test_a_constant_column_has_variance_zero(dtype):
    x = np.full((1000, 3), 0.1, dtype)
    mean, var = F.batch_statistics(x)
    np.testing.assert_array_equal(mean, dtype.type(0.1))
    np.testing.assert_array_equal(var, 0)
    np.testing.assert_array_equal(F.batch_norm(x)[0], 0)


# ---------------------------------------------------------------- columns at the ends of the dtype's range

EXACT = np.longdouble  # of a wider range, and more digits, than float64
POWERS = {np.float32: st.integers(-37, 36), np.float64: st.integers(-290, 305)}
scaled = st.sampled_from(DTYPES).flatmap(lambda dtype: st.tuples(st.just(dtype), POWERS[dtype]))


def scaled_column(n, dtype, power, ratio):
    """A column of deviations near 10^power about a mean of `ratio` of them, and its neighbors of ordinary size."""
    rng = np.random.default_rng((n, power + 400))
    x = rng.normal(size=(n, 3))
    x[:, 1] = (x[:, 1] + ratio) * 10.0**power
    return x.astype(dtype)


def exact_statistics(x):
    """Mean and variance of the columns, in extended precision."""
    mean = x.astype(EXACT).mean(axis=0)
    return mean, ((x.astype(EXACT) - mean) ** 2).mean(axis=0)


def assert_held(got, want, rtol):
    """Equal as far as the dtype holds it: beyond, infinity; below, within a few of the smallest numbers."""
    info = np.finfo(got.dtype)
    beyond = want > info.max
    assert (got[beyond] == np.inf).all()
    want = np.where(beyond, 0, want)
    bound = rtol * np.abs(want) + 4 * EXACT(info.smallest_subnormal)
    assert (np.abs(np.where(beyond, 0, got).astype(EXACT) - want) <= bound).all()


@given(st.sampled_from([2, 5, 64, 200]), scaled, st.sampled_from([0, 7]), st.booleans())
@example(5, (np.float32, -25), 7, False)
@example(5, (np.float32, 18), 0, False)
@example(200, (np.float64, 200), 0, True)
@example(64, (np.float64, -200), 7, True)
def test_statistics_are_right_wherever_the_dtype_holds_them(n, kind, ratio, images):
    dtype, power = kind
    x = scaled_column(n, dtype, power, ratio)
    mean, var = exact_statistics(x)
    got = F.batch_statistics(np.ascontiguousarray(x.T)[None, :, :, None] if images else x)
    rtol = STATISTICS_RTOL[np.dtype(dtype)]
    assert (np.abs(got[0] - mean) <= rtol * (np.abs(mean) + np.sqrt(var))).all()
    assert_held(got[1], var, rtol)


@given(st.sampled_from([2, 5, 64, 200]), scaled, st.sampled_from([0, 7]), st.sampled_from([1e-5, 1e-300]))
@example(2, (np.float32, 18), 0, 1e-5)
@example(64, (np.float32, 20), 0, 1e-5)
@example(64, (np.float32, 35), 7, 1e-5)
@example(64, (np.float32, -25), 7, 1e-300)
@example(64, (np.float64, 200), 0, 1e-5)
@example(64, (np.float64, -200), 0, 1e-300)
def test_columns_of_any_size_are_normalized_and_have_gradients(n, kind, ratio, eps):
    dtype, power = kind
    x = scaled_column(n, dtype, power, ratio)
    dy, gamma = np.random.default_rng(n).normal(size=(n, 3)).astype(dtype), np.array([1.5, 0.5, 2.0], dtype)
    with np.errstate(under="ignore"):
        mean, var = exact_statistics(x)
        sigma = np.sqrt(var + EXACT(eps))
        hat = (x - mean) / sigma
        want = gamma * hat
        dz = dy.astype(EXACT)
        dgamma, dbeta = (dz * hat).sum(axis=0), dz.sum(axis=0)
        dx = gamma / sigma * (dz - dbeta / n - hat * (dgamma / n))
    y, *statistics = F.batch_norm(x, gamma, eps=eps)
    got = F.batch_norm_backward(dy, x, gamma, *statistics, eps=eps)
    rtol = 10 * RTOL[np.dtype(dtype)] * (1 + ratio) * n**0.5
    tiny = float(np.finfo(dtype).tiny)
    assert (np.abs(y - want).max(axis=0) <= rtol * np.abs(want).max(axis=0) + tiny).all()
    assert (np.abs(got[1] - dgamma) <= rtol * np.abs(dz * hat).sum(axis=0) + tiny).all()
    assert_close(got[2], dbeta, rtol)
    if n > 2:  # of two rows the gradient is all but zero, rounding apart
        size = np.abs(gamma / sigma) * np.abs(dz).max()
        held = size < np.finfo(dtype).max
        assert (np.abs(got[0] - dx).max(axis=0) <= rtol * size + tiny)[held].all()


def test_two_levels_of_any_size_become_one_and_minus_one(dtype):
    for power in (-10, 5, 18, 20, 37) if dtype == np.float32 else (-100, 18, 170, 300):
        x = np.array([[5.0], [-5.0]] * 9).astype(dtype) * dtype.type(10.0**power)
        np.testing.assert_allclose(F.batch_norm(x, eps=1e-250)[0], np.sign(x), rtol=2e-7)


def test_a_column_of_any_size_is_trained_on_and_leaves_its_neighbors_bits(dtype):
    x, y = rows(40, dtype)
    large = x.copy()
    large[:, 2] *= dtype.type(1e19)
    steps = [build("first", dtype).value_and_grad(a, y, "mse")[1] for a in (x, large)]
    np.testing.assert_allclose(steps[1][0], steps[0][0], rtol=1e-3, atol=1e-5)
    for n in (1, 2, 3):
        with fo.num_threads(n):
            again = build("first", dtype).value_and_grad(large, y, "mse")[1]
        for a, b in zip(again, steps[1], strict=True):
            np.testing.assert_array_equal(a, b)
    one, other = (F.batch_norm(a, eps=1e-3)[0][:, [0, 1, 3]] for a in (x, large))
    np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------- the kernels


@given(
    st.integers(2, 150),
    st.integers(0, 70),
    st.sampled_from(DTYPES),
    st.sampled_from(list(ACTIVATIONS)),
    layouts,
    st.booleans(),
)
@example(2, 0, np.float32, "identity", "plain", True)
@example(3, 600, np.float32, "softmax", "plain", True)
@example(130, 530, np.float64, "relu", "plain", False)
def test_forward_and_backward_equal_the_oracle(n, c, dtype, activation, layout, affine):
    x, dy, gamma, beta = data(n, c, dtype)
    if n == 2:  # every normalized value is 1 or -1 but for eps
        x[1] = x[0] + 1
    if not affine:
        gamma = beta = None
    z = np.empty_like(x)
    y, mean, var = F.batch_norm(lay_out(x, layout), gamma, beta, activation=activation, z=z)
    grads = F.batch_norm_backward(lay_out(dy, layout), lay_out(x, layout), gamma, mean, var, activation=activation, z=z)
    X, DY, G, B = (None if a is None else a.astype(float) for a in (x, dy, gamma, beta))
    want = batch_norm(X, G, B, EPS, activation)
    for got, exact in zip((y, mean, var), want, strict=True):
        assert got.dtype == dtype
        assert_close(got, exact)
    # derivatives at 0 are taken on the side where the kernel stands
    exact = batch_norm_backward(DY, X, G, *want[1:], z.astype(float), EPS, activation)
    for got, one in zip(grads, exact, strict=True):
        assert_close(got, one, RTOL[np.dtype(dtype)] * n**0.5)
    assert_close(
        F.batch_norm_inference(lay_out(x, layout), gamma, beta, mean, var, activation=activation),
        batch_norm_inference(X, G, B, mean.astype(float), var.astype(float), EPS, activation),
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backward_takes_y_for_z_where_it_may(activation, dtype):
    x, dy, gamma, beta = data(33, 19, dtype)
    z = np.empty_like(x)
    y, mean, var = F.batch_norm(x, gamma, beta, activation=activation, z=z)
    if activation in ("gelu", "silu"):
        pytest.skip("their slopes need z")
    one = F.batch_norm_backward(dy, x, gamma, mean, var, activation=activation, z=z)
    other = F.batch_norm_backward(dy, x, gamma, mean, var, activation=activation, y=y)
    for a, b in zip(one, other, strict=True):
        assert_close(a, b)


def test_float64_gradients_equal_differences():
    x, dy, gamma, beta = data(6, 5, np.float64)
    _, mean, var = F.batch_norm(x, gamma, beta)
    grads = F.batch_norm_backward(dy, x, gamma, mean, var)
    for array, grad in zip((x, gamma, beta), grads, strict=True):
        for i in np.ndindex(array.shape):
            before, ends = array[i], []
            for h in (1e-5, -1e-5):
                array[i] = before + h
                ends.append((F.batch_norm(x, gamma, beta)[0] * dy).sum())
            array[i] = before
            assert abs((ends[0] - ends[1]) / 2e-5 - grad[i]) <= 1e-7 * max(1, np.abs(grad).max())


def test_normalized_columns_far_from_zero_have_mean_zero(rng):
    x = (1e4 + rng.normal(size=(1000, 3))).astype(np.float32)
    y = F.batch_norm(x)[0].astype(float)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(axis=0), 1, rtol=2e-5)


def test_outputs_given_are_the_outputs_returned_and_inputs_are_not_changed(dtype):
    arrays = x, dy, gamma, beta = data(9, 17, dtype)
    copies = [a.copy() for a in arrays]
    out, dx, dgamma, dbeta = np.empty_like(x), np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    y, mean, var = F.batch_norm(x, gamma, beta, out=out)
    assert y is out
    grads = F.batch_norm_backward(dy, x, gamma, mean, var, dx=dx, dgamma=dgamma, dbeta=dbeta)
    assert all(a is b for a, b in zip(grads, (dx, dgamma, dbeta), strict=True))
    again = F.batch_norm_backward(dy, x, gamma, mean, var)
    for a, b in zip(grads, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(a, b)
    want = F.batch_norm_inference(x, gamma, beta, mean, var)
    assert F.batch_norm_inference(x, gamma, beta, mean, var, out=x) is x
    np.testing.assert_array_equal(x, want)


def test_a_row_has_the_same_bits_in_any_batch_at_inference(dtype):
    x, _, gamma, beta = data(50, 37, dtype)
    mean, var = F.batch_statistics(x)
    y = F.batch_norm_inference(x, gamma, beta, mean, var, activation="gelu")
    for i in (0, 17, 49):
        np.testing.assert_array_equal(
            F.batch_norm_inference(x[i : i + 1], gamma, beta, mean, var, activation="gelu"), y[i : i + 1]
        )


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_columns_of_a_batch_larger_than_cache_have_the_bits_of_those_alone(activation, dtype):
    n, c, few = 4000, 501, 37  # 8 MB of float32, rows that start anywhere within a cache line
    x, dy, gamma, beta = data(n, c, dtype)

    def run(*arrays):
        x, dy, gamma, beta = map(np.ascontiguousarray, arrays)
        rooms = [np.full(x.size + 40, 7, dtype) for _ in range(2)]
        y, dx = (room[20:-20].reshape(x.shape) for room in rooms)
        _, mean, var = F.batch_norm(x, gamma, beta, EPS, y, activation=activation)
        _, dgamma, dbeta = F.batch_norm_backward(dy, x, gamma, mean, var, EPS, dx, activation=activation, y=y)
        for room in rooms:
            assert (room[:20] == 7).all()
            assert (room[-20:] == 7).all()
        return y, dx, mean, var, dgamma, dbeta

    alone = run(x[:, :few], dy[:, :few], gamma[:few], beta[:few])
    for threads in (1, 3):
        with fo.num_threads(threads):
            for whole, part in zip(run(x, dy, gamma, beta), alone, strict=True):
                assert whole[..., :few].tobytes() == part.tobytes()


@pytest.mark.parametrize("shape", [(32, 128), (70, 33), (2, 5)], ids=str)
def test_torch_computes_the_same(shape, dtype):
    torch = require_torch()
    x, dy, gamma, beta = data(*shape, dtype)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    theirs = torch.nn.functional.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
    theirs.backward(torch.from_numpy(dy))
    y, mean, var = F.batch_norm(x, gamma, beta)
    assert_close(y, theirs.detach().numpy(), 10 * RTOL[dtype])
    if len(x) > 2:  # of two rows the gradient is all but zero, rounding apart
        for got, leaf in zip(F.batch_norm_backward(dy, x, gamma, mean, var), leaves, strict=True):
            assert_close(got, leaf.grad.numpy(), 10 * RTOL[dtype])
    images = np.random.default_rng(0).normal(5, 2, (4, 3, 5, 7)).astype(dtype)
    want = torch.var_mean(torch.from_numpy(images), (0, 2, 3), correction=1)
    for got, one in zip(F.batch_statistics(images, correction=1), want[::-1], strict=True):
        assert_close(got, one.numpy())


# ---------------------------------------------------------------- the layer in training

LAYOUTS = {
    "first": lambda: [fo.nn.BatchNorm(4), fo.nn.Dense(4, 3)],
    "last": lambda: [fo.nn.Dense(4, 3), fo.nn.BatchNorm(3)],
    "alone": lambda: [fo.nn.BatchNorm(4)],
    "between": lambda: [fo.nn.Dense(4, 6, bias=False), fo.nn.BatchNorm(6, activation="tanh"), fo.nn.Dense(6, 3)],
    "twice": lambda: [fo.nn.Dense(4, 4), fo.nn.BatchNorm(4), fo.nn.BatchNorm(4, affine=False), fo.nn.Dense(4, 3)],
    "in a shortcut": lambda: [
        fo.nn.Dense(4, 5),
        fo.nn.Residual([fo.nn.BatchNorm(5, activation="silu"), fo.nn.Dense(5, 5)]),
        fo.nn.Dense(5, 3),
    ],
    "around a shortcut": lambda: [
        fo.nn.Dense(4, 5),
        fo.nn.BatchNorm(5, eps=0.1),
        fo.nn.Residual([fo.nn.Dense(5, 5, activation="tanh")]),
        fo.nn.BatchNorm(5, affine=False, activation="sigmoid"),
        fo.nn.Dense(5, 3),
    ],
    **{
        activation: lambda activation=activation: [
            fo.nn.Dense(4, 6),
            fo.nn.BatchNorm(6, activation=activation),
            fo.nn.Dense(6, 3),
        ]
        for activation in ACTIVATIONS
    },
}


def norms(net):
    return [layer for layer in fo.nn.layers.walk(net.layers) if isinstance(layer, fo.nn.BatchNorm)]


def build(layout, dtype=np.float64, layers=None):
    """A network with other arrays than those it starts with."""
    net, rng = fo.nn.Sequential(layers or LAYOUTS[layout](), rng=0, dtype=dtype), np.random.default_rng(1)
    for layer in norms(net):
        layer.running_mean, layer.running_var = rng.normal(size=layer.in_features), rng.uniform(1, 2, layer.in_features)
        if layer.affine:
            layer.gamma, layer.beta = rng.uniform(0.5, 1.5, layer.in_features), rng.normal(size=layer.in_features)
    return net


def rows(n, dtype=np.float64, width=4, k=3):
    rng = np.random.default_rng(n)
    return rng.normal(2, 3, (n, width)).astype(dtype), rng.normal(size=(n, k)).astype(dtype)


@pytest.mark.parametrize("weight", [None, [1.0, 0.5, 0.0, 2.0, 1.0, 1.5, 0.7]], ids=["plain", "weighted"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_equal_differences(layout, weight):
    net = build(layout)
    x, y = rows(7, k=net.out_features)
    before = [(a.running_mean.copy(), a.running_var.copy()) for a in norms(net)]
    grads = net.value_and_grad(x, y, "mse", sample_weight=weight)[1]
    largest = max(np.abs(g).max() for g in grads)
    for param, grad in zip(net.parameters(), grads, strict=True):
        for i in np.ndindex(param.shape):
            kept, ends = param[i], []
            for h in (1e-5, -1e-5):
                param[i] = kept + h
                ends.append(net.value_and_grad(x, y, "mse", sample_weight=weight)[0])
            param[i] = kept
            assert abs((ends[0] - ends[1]) / 2e-5 - grad[i]) <= 1e-7 * max(1, largest)
    for layer, (mean, var) in zip(norms(net), before, strict=True):  # only a Trainer's steps move them
        np.testing.assert_array_equal(layer.running_mean, mean)
        np.testing.assert_array_equal(layer.running_var, var)


@pairwise(layout=LAYOUTS, n=[1, 2, 17, 300], dtype=RTOL)
def test_predict_equals_the_oracle_by_running_averages(layout, n, dtype):
    net, x = build(layout, dtype), rows(n, dtype)[0]
    assert_close(net.predict(x), forward(net.layers, x.astype(float)), 10 * RTOL[dtype])


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_several_steps_of_a_trainer_equal_those_of_torch(momentum, dtype):
    torch = require_torch()
    layers = LAYOUTS["between"]()
    layers[1] = fo.nn.BatchNorm(6, momentum=momentum, activation="tanh")
    net = build("between", dtype, layers)
    twin = net.to_torch().train()
    trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.1))
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
    for n in (32, 17, 2, 64):
        x, y = rows(n, dtype)
        loss = torch.nn.functional.mse_loss(twin(torch.from_numpy(x)), torch.from_numpy(y))
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        assert trainer.step(x, y) == pytest.approx(loss.item(), rel=1e-4 if dtype == np.float32 else 1e-10)
    rtol = 1e-4 if dtype == np.float32 else 1e-10
    layer, module = net.layers[1], twin[1]
    assert_close(layer.running_mean, module.running_mean.numpy(), rtol)
    assert_close(layer.running_var, module.running_var.numpy(), rtol)
    x = rows(9, dtype)[0]
    with torch.inference_mode():
        assert_close(net.predict(x), twin.eval()(torch.from_numpy(x)).numpy(), rtol)


def trained(net, **options):
    return fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.01, **options), max_batch=8)


def test_running_averages_have_the_variance_of_a_sample(dtype):
    net = build("first", dtype)
    layer, (x, y) = net.layers[0], rows(20, dtype)
    mean, var = layer.running_mean.astype(float), layer.running_var.astype(float)
    trained(net).step(x, y)
    assert_close(layer.running_mean, 0.9 * mean + 0.1 * x.mean(axis=0, dtype=float))
    assert_close(layer.running_var, 0.9 * var + 0.1 * x.var(axis=0, ddof=1, dtype=float))


@pytest.mark.parametrize("check_finite", ["raise", "skip"])
def test_a_step_left_out_leaves_the_running_averages_as_they_were(check_finite):
    net = build("between")
    trainer, (x, y) = trained(net, check_finite=check_finite), rows(6)
    kept = [a.tobytes() for a in fo.nn.files.arrays_of(net).values()]
    x[2, 1] = np.nan
    if check_finite == "raise":
        with pytest.raises(FloatingPointError):
            trainer.step(x, y)
    else:
        trainer.step(x, y)
    assert [a.tobytes() for a in fo.nn.files.arrays_of(net).values()] == kept
    trainer.step(*rows(6))
    assert net.layers[1].running_mean.tobytes() not in kept


def test_every_call_of_an_accumulated_step_moves_the_running_averages():
    net = build("first")
    trainer, layer = trained(net, accumulate=2), net.layers[0]
    for n in (5, 6):
        before = layer.running_mean.copy()
        trainer.step(*rows(n))
        assert (layer.running_mean != before).all()


# ---------------------------------------------------------------- few rows


def test_one_row_is_an_error_before_anything_is_changed():
    net = build("between")
    x, y = rows(1)
    trainer = trained(net)
    kept = [a.tobytes() for a in fo.nn.files.arrays_of(net).values()]
    for call in (lambda: trainer.step(x, y), lambda: net.value_and_grad(x, y, "mse"), lambda: trainer.fit([(x, y)])):
        with pytest.raises(ValueError, match="x: expected at least two rows"):
            call()
    with pytest.raises(ValueError, match="X: expected at least two rows"):
        trainer.fit(x, y)
    with pytest.raises(ValueError, match="batch_size: expected at least 2 rows for BatchNorm, got 1"):
        trainer.fit(*rows(9), batch_size=1)
    with pytest.raises(ValueError, match="batch_size: expected at least 2 at batch 1"):
        trainer.fit(*rows(9), batch_size=fo.schedules.Constant(1))
    assert [a.tobytes() for a in fo.nn.files.arrays_of(net).values()] == kept
    net.evaluate(x, y, "mse")  # inference takes one row


@pytest.mark.parametrize("size", [8, fo.schedules.Constant(8)], ids=["number", "schedule"])
@pytest.mark.parametrize("n", [9, 17, 33, 16, 18])
def test_a_last_batch_of_one_row_joins_the_batch_before_it(n, size, monkeypatch):
    x, y = rows(n)
    cuts = [*range(8, n - 1, 8), n]
    batches = [(x[a:b], y[a:b]) for a, b in itertools.pairwise([0, *cuts])]
    one, other, sliced = (trained(build("between")) for _ in range(3))
    one.fit(x, y, epochs=2, batch_size=size, shuffle=False)
    for batch in batches * 2:
        other.step(*batch)
    monkeypatch.setattr("fastopt.nn.trainer.SLICE", 0.0)  # a batch at a time
    monkeypatch.setattr("fastopt.nn.fit_data.AHEAD", 2)
    sliced.fit(x, y, epochs=2, batch_size=size, shuffle=False)
    for trainer in (other, sliced):
        for (name, a), b in zip(
            fo.nn.files.arrays_of(one.net).items(), fo.nn.files.arrays_of(trainer.net).values(), strict=True
        ):
            np.testing.assert_array_equal(a, b, err_msg=name)


# ---------------------------------------------------------------- files and copies

COPIES = {
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "file": lambda net, path: (net.save(path), fo.nn.load(path))[1],
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_predicts_the_same_bits_and_moves_averages_of_its_own(way, tmp_path):
    net = build("around a shortcut", np.float32)
    trained(net).fit(*rows(50, np.float32), epochs=2)
    twin = COPIES[way](net, tmp_path / "m.safetensors")
    x, y = rows(20, np.float32)
    before = net.predict(x)
    assert repr(twin) == repr(net)
    np.testing.assert_array_equal(twin.predict(x), before)
    trained(twin).step(x, y)
    assert (twin.predict(x) != before).any()
    np.testing.assert_array_equal(net.predict(x), before)


def test_a_resumed_run_continues_bit_for_bit(tmp_path, dtype):
    x, y = rows(41, dtype)
    one, other = (
        trained(build("in a shortcut", dtype), momentum=0.9),
        trained(build("in a shortcut", dtype), momentum=0.9),
    )
    one.fit(x, y, epochs=2, batch_size=8)
    one.save(tmp_path / "run.safetensors")
    other.resume(tmp_path / "run.safetensors")
    assert one.fit(x, y, epochs=2, batch_size=8) == other.fit(x, y, epochs=2, batch_size=8)
    for a, b in zip(*(fo.nn.files.arrays_of(t.net).values() for t in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_early_stopping_gives_the_running_averages_of_the_best_epoch_back():
    net = build("between")
    x, y = rows(60)
    seen = []
    trainer = trained(net)
    history = trainer.fit(
        x, y, epochs=30, batch_size=8, validation=rows(20), patience=1,
        callbacks=lambda trainer, history: seen.append(net.layers[1].running_mean.copy()),
    )  # fmt: skip
    np.testing.assert_array_equal(net.layers[1].running_mean, seen[history.best_epoch])


# ---------------------------------------------------------------- calibration and folding


@pytest.mark.parametrize("layout", LAYOUTS)
def test_calibration_takes_the_statistics_of_what_reaches_each_layer(layout):
    net, x = build(layout), rows(300)[0]
    assert net.calibrate(x) is net

    def check(layers, x):
        for layer in layers:
            if isinstance(layer, fo.nn.BatchNorm):
                assert_close(layer.running_mean, x.mean(axis=0), 1e-12)
                assert_close(layer.running_var, x.var(axis=0, ddof=1), 1e-12)
            check(getattr(layer, "layers", []), x)
            x = forward([layer], x)

    check(net.layers, x)


@pairwise(layout=LAYOUTS, size=[2, 7, 50, 300], dtype=RTOL)
def test_calibration_by_mini_batches_takes_the_mean_of_their_statistics(layout, size, dtype):
    net, x = build(layout, dtype), rows(300, dtype)[0]
    assert net.calibrate(x, batch_size=size) is net

    def check(layers, x):
        for layer in layers:
            if isinstance(layer, fo.nn.BatchNorm):
                batches = [x[i : i + size] for i in range(0, len(x) - size + 1, size)]
                mean = np.mean([b.mean(axis=0) for b in batches], axis=0)
                var = size / (size - 1) * np.mean([b.var(axis=0) for b in batches], axis=0)
                assert_close(layer.running_mean, mean, 10 * STATISTICS_RTOL[dtype])
                assert_close(layer.running_var, var, 10 * STATISTICS_RTOL[dtype])
            check(getattr(layer, "layers", []), x)
            x = forward([layer], x)

    check(net.layers, x.astype(float))


def test_one_mini_batch_of_all_rows_is_the_whole_and_other_layers_do_not_heed_it():
    x = rows(60)[0]
    nets = [
        fo.nn.Sequential([fo.nn.Standardize(4), fo.nn.Whiten(4), fo.nn.BatchNorm(4)], dtype=np.float64)
        for _ in range(3)
    ]
    for net, size in zip(nets, (None, 60, 20), strict=True):
        net.calibrate(x, batch_size=size)
    arrays = [fo.nn.files.arrays_of(net) for net in nets]
    for name, a in arrays[0].items():
        np.testing.assert_array_equal(arrays[1][name], a)
        if "running" not in name:
            np.testing.assert_array_equal(arrays[2][name], a)


@pytest.mark.parametrize("size", [1, 0, -3, 61, 2.0, True, "all"])
def test_a_batch_size_that_does_not_fit_is_refused_before_anything_is_changed(size):
    net = build("first")
    kept = [a.tobytes() for a in fo.nn.files.arrays_of(net).values()]
    with pytest.raises(ValueError, match="batch_size: expected a whole number from 2 to 60"):
        net.calibrate(rows(60)[0], batch_size=size)
    assert [a.tobytes() for a in fo.nn.files.arrays_of(net).values()] == kept


def test_calibration_can_leave_the_running_averages_as_they_are():
    net, x = fo.nn.Sequential([fo.nn.Standardize(4), fo.nn.BatchNorm(4)], dtype=np.float64), rows(60)[0]
    net.calibrate(x, batch_norm=False)
    np.testing.assert_allclose(net.layers[0].mean, x.mean(axis=0))
    np.testing.assert_array_equal(net.layers[1].running_mean, 0)
    with pytest.raises(ValueError, match=r"batch_norm: expected True or False, got 'no'"):
        net.calibrate(x, batch_norm="no")


def test_a_calibration_that_fails_later_leaves_the_layers_before_as_they_were():
    net = fo.nn.Sequential([fo.nn.Standardize(2), fo.nn.Dense(2, 2), fo.nn.BatchNorm(2)], rng=0)
    with pytest.raises(ValueError, match="at least two rows"):
        net.calibrate([[1.0, 2.0]])
    assert not net.layers[0].calibrated
    np.testing.assert_array_equal(net.layers[0].mean, 0)
    np.testing.assert_array_equal(net.layers[0].scale, 1)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=f"got {bad} in column 1"):
            fo.nn.Sequential([fo.nn.BatchNorm(2)]).calibrate([[0.0, bad], [1.0, 2.0]])
    with pytest.raises(ValueError, match="got a variance that float32 cannot hold in column 0"):
        fo.nn.Sequential([fo.nn.BatchNorm(2)]).calibrate([[1e20, 1.0], [3e20, 2.0]])


def test_fit_calibrates_standardize_and_leaves_batch_norm_alone():
    def make(*first):
        return fo.nn.Sequential([*first, fo.nn.BatchNorm(4), fo.nn.Dense(4, 3)], rng=0, dtype=np.float64)

    x, y = rows(20)
    net = make(fo.nn.Standardize(4))
    fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.01)).fit(x, y, batch_size=20)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    assert_close(net.layers[1].running_mean, 0.1 * standard.mean(axis=0), 1e-12)
    assert_close(net.layers[1].running_var, 0.9 + 0.1 * standard.var(axis=0, ddof=1), 1e-12)


D, B, S, G, M = fo.nn.Dense, fo.nn.BatchNorm, fo.nn.Standardize, fo.nn.GroupedDense, fo.nn.Maxout
FOLDS = {
    "after a dense": ([D(4, 6), B(6, activation="gelu"), D(6, 3)], ["Dense", "Dense"]),
    "after a dense without bias": ([D(4, 6, bias=False), B(6), D(6, 3)], ["Dense", "Dense"]),
    "after a grouped dense": ([G(4, 6, 2), B(6, activation="relu"), D(6, 3)], ["GroupedDense", "Dense"]),
    "after an activation": ([D(4, 6, activation="relu"), B(6), D(6, 3, bias=False)], ["Dense", "Dense"]),
    "before a grouped dense": ([D(4, 6, "tanh"), B(6), G(6, 3, 3)], ["Dense", "GroupedDense"]),
    "around a maxout": ([B(4), M(4, 6, 3), B(6), D(6, 3)], ["Maxout", "Dense"]),
    "between activations": ([D(4, 6, "relu"), B(6, activation="tanh"), D(6, 3)], ["Dense", "BatchNorm", "Dense"]),
    "last after an activation": ([D(4, 3, activation="relu"), B(3)], ["Dense", "BatchNorm"]),
    "not affine": ([D(4, 6), B(6, affine=False, activation="softmax"), D(6, 3)], ["Dense", "Dense"]),
    "twice": ([D(4, 6), B(6), B(6, activation="silu"), D(6, 3)], ["Dense", "Dense"]),
    "after standardize": ([S(4), B(4), D(4, 3)], ["Dense"]),
    "in a shortcut": ([D(4, 4), fo.nn.Residual([B(4), D(4, 4), B(4, activation="relu")])], ["Dense", "Residual"]),
}


@pytest.mark.parametrize("fold", FOLDS)
def test_a_folded_network_computes_the_same(fold, dtype):
    layers, kinds = FOLDS[fold]
    net, rng, x = (
        fo.nn.Sequential(copy.deepcopy(layers), rng=0, dtype=dtype),
        np.random.default_rng(1),
        rows(50, dtype)[0],
    )
    net.calibrate(x)
    for layer in norms(net):
        if layer.affine:
            layer.gamma, layer.beta = rng.normal(size=(2, layer.in_features))
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == kinds
    if fold == "in a shortcut":
        assert [type(layer).__name__ for layer in fast.layers[1].layers] == ["Dense"]
    for n in (1, 50):
        assert_close(fast.predict(x[:n]), net.predict(x[:n]), 3 * RTOL[dtype])
    assert all(not a.flags.writeable for a in fo.nn.files.arrays_of(fast).values())


def test_tuning_of_training_starts_at_two_rows():
    tuning = fo.nn.tune(build("first"), train=True, threads=[1], seconds=1e-4, repeats=1)
    assert tuning.batch_sizes[0] == 2


@pairwise(n=[2, 24, 25, 31, 32, 70], widths=[(272, 272), (40, 50), (7, 3), (33, 600)], folded=[False, True])
def test_bits_after_a_dense_layer_do_not_depend_on_threads(n, widths, folded):
    rng = np.random.default_rng(n)
    inside, outside = widths
    x, y = rng.standard_normal((n, inside)).astype(np.float32), rng.integers(0, 4, n)
    layers = [
        fo.nn.Dense(inside, outside, "relu"),
        fo.nn.BatchNorm(outside, activation="relu"),
        fo.nn.Dense(outside, 4),
    ]
    net = fo.nn.Sequential(layers, rng=0)
    net = net.fold() if folded else net
    results = []
    for threads in (1, 2, 3, 8):
        with fo.num_threads(threads):
            loss, grads = net.value_and_grad(x, y)
        results.append((loss, *grads))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
