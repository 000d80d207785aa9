"""Maxout, forward and backward, and the layer.

Pass criterion: the kernels round nothing, so they equal NumPy's max and argmax bit for bit;
networks stay within rtol of the oracle.
"""

import copy
import os
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import DTYPES, forward, maxout, maxout_backward
from test_dense import lay_out, layouts

import fastopt as fo

F = fo.functional
RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0]


def data(n, width, pieces, dtype, special=False):
    """x and dy; special: few different values, so that pieces are often equal or NaN."""
    rng = np.random.default_rng((n, width, pieces))
    x, dy = rng.normal(size=(n, width * pieces)), rng.normal(size=(n, width))
    if special:
        x = rng.choice(SPECIAL, x.shape)
    return x.astype(dtype), dy.astype(dtype)


@given(st.integers(0, 40), st.integers(0, 70), st.integers(1, 9), st.sampled_from(DTYPES), st.booleans(), layouts)
@example(0, 3, 2, np.float32, False, "plain")
@example(3, 0, 2, np.float32, False, "plain")
@example(1, 1, 1, np.float64, True, "plain")
def test_forward_and_backward_equal_max_and_argmax(n, width, pieces, dtype, special, layout):
    x, dy = data(n, width, pieces, dtype, special)
    y, dx = F.maxout(lay_out(x, layout), pieces), F.maxout_backward(lay_out(dy, layout), lay_out(x, layout), pieces)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(y, maxout(x, pieces))
    np.testing.assert_array_equal(dx, maxout_backward(dy, x, pieces))


@pytest.mark.parametrize("pieces", [2, 3, 4, 5])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 63, 64, 65, 1000])
def test_every_length_around_the_vector_widths_equals_max_and_argmax(width, pieces, dtype):
    x, dy = data(3, width, pieces, dtype, special=True)
    np.testing.assert_array_equal(F.maxout(x, pieces), maxout(x, pieces))
    np.testing.assert_array_equal(F.maxout_backward(dy, x, pieces), maxout_backward(dy, x, pieces))


@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_the_first_of_equal_pieces_gets_the_gradient(pieces, dtype):
    x, dy = np.zeros((2, 5 * pieces), dtype), np.ones((2, 5), dtype)
    dx = F.maxout_backward(dy, x, pieces).reshape(2, 5, pieces)
    np.testing.assert_array_equal(dx[..., 0], 1)
    np.testing.assert_array_equal(dx[..., 1:], 0)


def test_outputs_given_are_the_outputs_returned_and_inputs_are_not_changed(dtype):
    x, dy = data(9, 17, 3, dtype)
    copies, out, dx = (x.copy(), dy.copy()), np.empty_like(dy), np.empty_like(x)
    assert F.maxout(x, 3, out) is out
    assert F.maxout_backward(dy, x, 3, dx) is dx
    np.testing.assert_array_equal(out, maxout(x, 3))
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(dy, copies[1])


@pytest.mark.parametrize("pieces", [2, 5])
def test_torch_computes_the_same(pieces, dtype):
    if "FASTOPT_SANITIZE" in os.environ:
        pytest.skip("a sanitizer run: torch is not built for it")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, dy = data(33, 41, pieces, dtype)
    leaf = torch.tensor(x, requires_grad=True)
    theirs = leaf.view(33, 41, pieces).max(-1).values
    theirs.backward(torch.from_numpy(dy))
    np.testing.assert_array_equal(F.maxout(x, pieces), theirs.detach().numpy())
    np.testing.assert_array_equal(F.maxout_backward(dy, x, pieces), leaf.grad.numpy())


# ---------------------------------------------------------------- the layer


def network(dtype=np.float32, bias=True):
    layers = [fo.nn.Maxout(6, 9, pieces=3, bias=bias), fo.nn.Maxout(9, 4)]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype)


def rows(n=50, dtype=np.float32):
    x = np.random.default_rng(n).normal(size=(n, 6)).astype(dtype)
    return x, (x.sum(axis=1) > 0).astype(int) + 2 * (x[:, 0] > 0)


@pytest.mark.parametrize("n", [1, 17, 300])
def test_predict_equals_the_oracle(n, dtype):
    net, x = network(dtype), rows(n, dtype)[0]
    np.testing.assert_allclose(net.predict(x), forward(net.layers, x.astype(float)), rtol=RTOL[dtype], atol=RTOL[dtype])


def test_two_pieces_of_opposite_sign_are_the_absolute_value(dtype):
    net = fo.nn.Sequential([fo.nn.Maxout(1, 1)], dtype=dtype)
    net.layers[0].weight = [[1.0], [-1.0]]
    np.testing.assert_array_equal(net.predict([[-3.0], [2.0]]), [[3], [2]])


def test_initial_weights_keep_the_mean_square_of_a_layer_as_wide_as_its_input():
    net = fo.nn.Sequential([fo.nn.Maxout(400, 400)], rng=0)
    assert net.layers[0].weight.shape == (800, 400)
    assert net.layers[0].weight.var() == pytest.approx(2 / 800, rel=0.05)
    np.testing.assert_array_equal(net.layers[0].bias, 0)
    x = np.random.default_rng(0).normal(size=(500, 400))
    assert (net.predict(x) ** 2).mean() == pytest.approx(1, rel=0.05)


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
    assert "pieces=3" in repr(net)
    np.testing.assert_array_equal(twin.predict(x), net.predict(x))
    before = net.predict(x)
    history = fo.nn.Trainer(twin, "cross_entropy", fo.optim.Adam(twin.parameters(), lr=0.01)).fit(x, y, epochs=20)
    assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_array_equal(net.predict(x), before)


@pytest.mark.parametrize("bias", [True, False])
def test_folding_takes_a_standardize_over_and_makes_parameters_read_only(bias, dtype):
    x = rows(dtype=dtype)[0] * 3 + 1
    net = fo.nn.Sequential([fo.nn.Standardize(6), *network(dtype, bias).layers], dtype=dtype).calibrate(x)
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == ["Maxout", "Maxout"]
    np.testing.assert_allclose(fast.predict(x), net.predict(x), rtol=RTOL[dtype], atol=RTOL[dtype])
    with pytest.raises(ValueError, match="read-only"):
        fast.layers[0].weight[0, 0] = 1
