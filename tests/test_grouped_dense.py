"""The grouped dense layer, forward and backward, against float64, a block-diagonal Dense and torch.

Pass criterion: componentwise within Higham's bound gamma_k |X||W| of the product of each
group, k the length of the sum; the oracle is computed in long double. Activations are
compared bit for bit with the activation of the stored preactivation.
"""

import copy
import os
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pairs import pairwise
from reference import ACTIVATIONS, DTYPES, activation_backward, gamma, grouped_dense, grouped_dense_backward
from test_dense import DZ_EPS, EXTRA, lay_out, layouts, magnitude, wide

import fastopt as fo

F = fo.functional
RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
LARGE = [(1, 300, 40, 4), (300, 9, 40, 3), (65, 1100, 17, 2), (9, 3, 5, 101)]  # rows, in and out of a group, groups
sizes = st.integers(0, 40)
counts = st.integers(1, 9)


def data(n, depth, width, groups, dtype):
    rng = np.random.default_rng((n, depth, width, groups))
    shapes = (n, depth * groups), (width * groups, depth), (width * groups,), (n, width * groups)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def check_forward(n, depth, width, groups, dtype, layout="plain"):
    x, weight, bias, _ = data(n, depth, width, groups, dtype)
    size = grouped_dense(magnitude(x), magnitude(weight), magnitude(bias), groups)
    bound = gamma(depth + EXTRA, dtype) * size
    y = F.grouped_dense(lay_out(x, layout), lay_out(weight, layout), bias, groups)
    assert y.shape == (n, width * groups)
    assert y.dtype == dtype
    assert (np.abs(y - grouped_dense(wide(x), wide(weight), bias, groups)) <= bound).all()
    np.testing.assert_array_equal(F.grouped_dense(x, weight, bias, groups), y)
    plain = F.grouped_dense(x, weight, groups=groups)
    assert (np.abs(plain - grouped_dense(wide(x), wide(weight), None, groups)) <= bound).all()


def check_backward(n, depth, width, groups, dtype, activation, layout="plain"):
    x, weight, bias, dy = data(n, depth, width, groups, dtype)
    how, z = {"groups": groups, "activation": activation}, np.empty_like(dy)
    y = F.grouped_dense(x, weight, bias, z=z, **how)
    np.testing.assert_array_equal(y, F.activation(z, activation))
    eps = np.finfo(dtype).eps
    dz = activation_backward(wide(dy), wide(z) if activation == "softmax" else z.astype(float), activation)
    error = DZ_EPS * eps * np.abs(wide(dy))
    if activation == "softmax":
        largest = np.abs(dy).max(axis=1, keepdims=True, initial=0)
        error = wide(y) * (largest * (width * groups + DZ_EPS) * eps)
    exact = grouped_dense_backward(dz, wide(x), wide(weight), None, groups)
    sizes = [magnitude(a) for a in (dz, x, weight)]
    summed = grouped_dense_backward(*sizes, None, groups)
    inherited = grouped_dense_backward(magnitude(2 * error), *sizes[1:], None, groups)
    for form in ({"z": z}, {"y": y}):
        if "y" in form and activation in ("gelu", "silu"):
            continue
        dw, db = np.full_like(weight, np.nan), np.full_like(bias, np.nan)
        arrays = (lay_out(a, layout) for a in (dy, x, weight))
        dx = F.grouped_dense_backward(*arrays, dw=dw, db=db, **form, **how)
        for i, (got, k) in enumerate(((dx, width), (dw, n), (db, n))):
            bound = gamma(k + EXTRA, dtype) * summed[i] + inherited[i]
            assert (np.abs(got - exact[i]) <= bound).all()


@given(sizes, sizes, sizes, counts, st.sampled_from(DTYPES), layouts)
@example(0, 3, 4, 2, np.float32, "plain")
@example(3, 0, 4, 2, np.float32, "plain")
@example(3, 4, 0, 2, np.float64, "plain")
@example(1, 1, 1, 1, np.float32, "plain")
def test_forward_is_within_the_rounding_bound(n, depth, width, groups, dtype, layout):
    check_forward(n, depth, width, groups, dtype, layout)


@given(sizes, sizes, sizes, counts, st.sampled_from(DTYPES), st.sampled_from(list(ACTIVATIONS)), layouts)
@example(0, 3, 4, 2, np.float32, "relu", "plain")
@example(3, 0, 4, 2, np.float32, "gelu", "plain")
@example(3, 4, 0, 2, np.float64, "softmax", "plain")
def test_backward_is_within_the_rounding_bound(n, depth, width, groups, dtype, activation, layout):
    check_backward(n, depth, width, groups, dtype, activation, layout)


@pairwise(shape=LARGE, dtype=DTYPES)
def test_large_layers_are_within_the_rounding_bound(shape, dtype):
    check_forward(*shape, dtype)
    check_backward(*shape, dtype, "relu")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_its_backward_in_both_forms(activation, dtype):
    check_backward(37, 7, 5, 4, dtype, activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float64_gradients_equal_differences(activation):
    x, weight, bias, dy = data(3, 2, 3, 2, np.float64)
    how, z = {"groups": 2, "activation": activation}, np.empty_like(dy)
    F.grouped_dense(x, weight, bias, z=z, **how)
    dw, db = np.empty_like(weight), np.empty_like(bias)
    dx = F.grouped_dense_backward(dy, x, weight, z, dw=dw, db=db, **how)
    for array, grad in ((x, dx), (weight, dw), (bias, db)):
        for i in np.ndindex(array.shape):
            before, ends = array[i], []
            for h in (1e-5, -1e-5):
                array[i] = before + h
                ends.append((F.grouped_dense(x, weight, bias, **how) * dy).sum())
            array[i] = before
            assert abs((ends[0] - ends[1]) / 2e-5 - grad[i]) <= 1e-7 * max(1, np.abs(grad).max())


def test_a_group_has_the_bits_of_a_dense_layer_of_its_own(dtype):
    x, weight, bias, dy = data(70, 300, 17, 3, dtype)
    dw, part_dw = np.empty_like(weight), np.empty_like(weight[:17])
    y, dx = F.grouped_dense(x, weight, bias, 3), F.grouped_dense_backward(dy, x, weight, groups=3, dw=dw)
    for g in range(3):
        rows, columns = slice(17 * g, 17 * (g + 1)), slice(300 * g, 300 * (g + 1))
        np.testing.assert_array_equal(y[:, rows], F.dense(x[:, columns], weight[rows], bias[rows]))
        part_dx = F.dense_backward(dy[:, rows], x[:, columns], weight[rows], dw=part_dw)
        np.testing.assert_array_equal(dx[:, columns], part_dx)
        np.testing.assert_array_equal(dw[rows], part_dw)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_group_gives_the_bits_of_dense(activation, dtype):
    x, weight, bias, dy = data(33, 40, 30, 1, dtype)
    z = np.empty_like(dy)
    np.testing.assert_array_equal(
        F.grouped_dense(x, weight, bias, 1, activation, z=z), F.dense(x, weight, bias, activation)
    )
    np.testing.assert_array_equal(
        F.grouped_dense_backward(dy, x, weight, z, 1, activation), F.dense_backward(dy, x, weight, z, activation)
    )


def test_outputs_given_are_the_outputs_returned_and_inputs_are_not_changed(dtype):
    arrays = data(9, 5, 7, 3, dtype)
    x, weight, bias, dy = arrays
    copies = [a.copy() for a in arrays]
    out, dx = np.empty_like(dy), np.empty_like(x)
    assert F.grouped_dense(x, weight, bias, 3, "tanh", out=out) is out
    assert F.grouped_dense_backward(dy, x, weight, groups=3, activation="tanh", y=out, dx=dx) is dx
    np.testing.assert_array_equal(out, F.grouped_dense(x, weight, bias, 3, "tanh"))
    for a, kept in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(a, kept)


def test_nan_reaches_its_own_group_only(dtype):
    x, weight, bias, _ = data(4, 5, 3, 3, dtype)
    x[1, 7] = np.nan
    wrong = np.isnan(F.grouped_dense(x, weight, bias, 3))
    assert wrong[1, 3:6].all()
    assert wrong.sum() == 3


# ---------------------------------------------------------------- torch


@pytest.fixture
def torch():
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (17, 8, 16, 4), (3, 1, 1, 7)], ids=str)
def test_weights_of_a_grouped_convolution_of_torch_mean_the_same(shape, dtype, torch):
    _, depth, width, groups = shape
    x, weight, bias, dy = data(*shape, dtype)
    conv = torch.nn.Conv1d(depth * groups, width * groups, 1, groups=groups)
    conv.weight = torch.nn.Parameter(torch.from_numpy(weight[..., None].copy()))
    conv.bias = torch.nn.Parameter(torch.from_numpy(bias.copy()))
    leaf = torch.tensor(x[..., None], requires_grad=True)
    theirs = conv(leaf)
    theirs.backward(torch.from_numpy(dy[..., None]))
    dw, db = np.empty_like(weight), np.empty_like(bias)
    y, dx = (
        F.grouped_dense(x, weight, bias, groups),
        F.grouped_dense_backward(dy, x, weight, None, groups, dw=dw, db=db),
    )
    peers = (theirs.detach(), leaf.grad, conv.weight.grad, conv.bias.grad)
    for mine, peer in zip((y, dx, dw, db), peers, strict=True):
        rtol = RTOL[dtype]
        np.testing.assert_allclose(mine, peer.numpy().reshape(mine.shape), rtol=rtol, atol=rtol * np.abs(mine).max())


# ---------------------------------------------------------------- the layer


def network(dtype=np.float32, activation="tanh", bias=True):
    layers = [
        fo.nn.GroupedDense(12, 18, groups=3, activation=activation, bias=bias),
        fo.nn.GroupedDense(18, 4, groups=2),
    ]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype)


def rows(n=50, dtype=np.float32):
    x = np.random.default_rng(n).normal(size=(n, 12)).astype(dtype)
    return x, (x.sum(axis=1) > 0).astype(int) + 2 * (x[:, 0] > 0)


def block_diagonal(layer):
    """A Dense layer that computes the same, most of its weights zero."""
    twin = fo.nn.Dense(layer.in_features, layer.out_features, layer.activation)
    fo.nn.Sequential([twin], dtype=layer.weight.dtype)
    depth, width = layer.in_features // layer.groups, layer.out_features // layer.groups
    twin.weight[...] = 0
    for g in range(layer.groups):
        outputs = slice(g * width, (g + 1) * width)
        twin.weight[outputs, g * depth : (g + 1) * depth] = layer.weight[outputs]
    twin.bias = layer.bias
    return twin


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_network_equals_one_of_block_diagonal_dense_layers(activation, dtype):
    net, (x, y) = network(dtype, activation), rows(40, dtype)
    twin = fo.nn.Sequential([block_diagonal(layer) for layer in net.layers], dtype=dtype)
    rtol = RTOL[dtype]
    np.testing.assert_allclose(net.predict(x), twin.predict(x), rtol=rtol, atol=rtol)
    (loss, grads), (twin_loss, twin_grads) = net.value_and_grad(x, y), twin.value_and_grad(x, y)
    assert loss == pytest.approx(twin_loss, rel=rtol)
    for i, layer in enumerate(net.layers):
        blocks = twin_grads[2 * i].reshape(layer.groups, -1, layer.groups, grads[2 * i].shape[1])
        diagonal = np.concatenate([blocks[g, :, g] for g in range(layer.groups)])
        np.testing.assert_allclose(grads[2 * i], diagonal, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(grads[2 * i + 1], twin_grads[2 * i + 1], rtol=rtol, atol=rtol)


def test_initial_weights_have_the_variance_of_one_group():
    for init, variance in (("he", 2 / 100), (None, 2 / 300)):
        net = fo.nn.Sequential([fo.nn.GroupedDense(400, 800, 4, activation="relu", init=init)], rng=0)
        assert net.layers[0].weight.var() == pytest.approx(variance, rel=0.05)
        np.testing.assert_array_equal(net.layers[0].bias, 0)


COPIES = {
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "file": lambda net, path: (net.save(path), fo.nn.load(path))[1],
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_copy_predicts_the_same_bits_and_can_be_trained(way, bias, tmp_path):
    net, (x, y) = network(bias=bias), rows()
    twin = COPIES[way](net, tmp_path / "m.safetensors")
    assert repr(twin) == repr(net)
    assert "groups=3" in repr(net)
    np.testing.assert_array_equal(twin.predict(x), net.predict(x))
    before = net.predict(x)
    history = fo.nn.Trainer(twin, "cross_entropy", fo.optim.Adam(twin.parameters(), lr=0.01)).fit(x, y, epochs=20)
    assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_array_equal(net.predict(x), before)


@pytest.mark.parametrize("bias", [True, False])
def test_folding_takes_a_standardize_over_and_makes_parameters_read_only(bias, dtype):
    x = rows(dtype=dtype)[0] * 3 + 1
    layers = [fo.nn.Standardize(12), *network(dtype, bias=bias).layers]
    net = fo.nn.Sequential(layers, dtype=dtype).calibrate(x)
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == ["GroupedDense", "GroupedDense"]
    np.testing.assert_allclose(fast.predict(x), net.predict(x), rtol=RTOL[dtype], atol=RTOL[dtype])
    with pytest.raises(ValueError, match="read-only"):
        fast.layers[0].weight[0, 0] = 1
