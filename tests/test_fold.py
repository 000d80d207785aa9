"""Inference networks: folded, packed, read-only.

Pass criterion: outputs are within RTOL of the network folded, relative to the largest of them;
where bits are promised, all of them.
"""

import copy
import itertools
import pickle

import numpy as np
import pytest
from pairs import pairwise

import fastopt as fo
from fastopt._kernels import core

RTOL = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-14}


def rows(n, width, dtype):
    return np.random.default_rng(n).normal(1, 2, (n, width)).astype(dtype)


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=RTOL[a.dtype] * max(1.0, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "softmax"])
def test_a_folded_network_computes_the_same(activation, small_net, dtype):
    net = small_net(activation, dtype)
    x = rows(37, 4, dtype)
    assert_close(net.fold().predict(x), net.predict(x))


@pairwise(n_in=[1, 2, 17, 256, 257, 300], n_out=[1, 23, 24, 25, 48, 49, 97], bias=[True, False], dtype=RTOL)
def test_every_shape_of_a_layer_is_packed_right(n_in, n_out, bias, dtype):
    net = fo.nn.Sequential([fo.nn.Dense(n_in, n_out, bias=bias)], rng=0, dtype=dtype)
    fast = net.fold()
    for n in (0, 1, 7, 8, 9, 65):
        x = rows(n, n_in, dtype)
        assert_close(fast.predict(x), net.predict(x))


@pytest.mark.parametrize("widths", [[70, 130, 10], [700, 700]], ids=["in L2", "beyond"])
def test_bits_do_not_depend_on_threads(widths, dtype):
    layers = [fo.nn.Dense(a, b, "tanh") for a, b in itertools.pairwise(widths)]
    fast = fo.nn.Sequential(layers, rng=0, dtype=dtype).fold()
    for n in (1, 20, 63, 64, 300):
        x = rows(n, widths[0], dtype)
        with fo.num_threads(1):
            wanted = fast.predict(x)
        for threads in (2, 3, 8):
            with fo.num_threads(threads):
                np.testing.assert_array_equal(fast.predict(x), wanted)


@pytest.mark.parametrize("bias", [True, False])
def test_standardize_is_absorbed_by_the_dense_that_follows(bias, dtype):
    layers = [fo.nn.Standardize(5), fo.nn.Dense(5, 3, bias=bias), fo.nn.Standardize(3)]
    net = fo.nn.Sequential(layers, rng=0, dtype=dtype)
    x = rows(50, 5, dtype)
    net.calibrate(x)
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == ["Dense", "Standardize"]
    assert_close(fast.predict(x), net.predict(x))


FIRST = {
    "Standardize": lambda: fo.nn.Standardize(3),
    "Whiten": lambda: fo.nn.Whiten(3),
    "BatchNorm": lambda: fo.nn.BatchNorm(3, eps=1e-12),
}


@pytest.mark.parametrize("ratio", [0, 1, 15, 17, 1e4])
@pytest.mark.parametrize("first", FIRST)
def test_a_first_layer_is_absorbed_where_no_more_than_4_bits_are_lost(first, ratio, tmp_path):
    x = np.random.default_rng(0).normal(size=(500, 3))
    x = ((x - x.mean(axis=0)) / x.std(axis=0) + [0, ratio, 0]) * [1.0, 0.1, 10.0]
    net = fo.nn.Sequential([FIRST[first](), fo.nn.Dense(3, 8, "tanh"), fo.nn.Dense(8, 2)], rng=0).calibrate(x)
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == [first] * (ratio > 16) + ["Dense", "Dense"]
    assert len(fo.nn.summary(fast).splitlines()) == 2 + len(fast.layers)
    eps = np.finfo(np.float32).eps
    fast.save(tmp_path / "m.safetensors")
    for other in (fast, copy.deepcopy(fast), fo.nn.load(tmp_path / "m.safetensors")):
        for rows_at_once in (1, 7, 100):
            got, want = other.predict(x[:rows_at_once]), net.predict(x[:rows_at_once])
            np.testing.assert_allclose(got, want, rtol=0, atol=64 * eps)


def test_a_first_layer_of_columns_near_the_ends_of_the_range_is_not_absorbed(dtype):
    x = np.random.default_rng(0).normal(size=(50, 2)) * ([1e25, 1e-25] if dtype == np.float32 else [1e250, 1e-250])
    net = fo.nn.Sequential([fo.nn.Standardize(2), fo.nn.Dense(2, 2)], rng=0, dtype=dtype).calibrate(x)
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == ["Standardize", "Dense"]
    assert_close(fast.predict(x), net.predict(x))


CONVOLUTIONS = {  # layers from images (6, 5, 4), and what is left of them
    "before a norm": (
        lambda: [fo.nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), fo.nn.BatchNorm(6, activation="silu")],
        ["Conv2d"],
    ),
    "after a norm": (lambda: [fo.nn.BatchNorm(4), fo.nn.Conv2d(4, 6, (2, 3), groups=2, activation="relu")], ["Conv2d"]),
    "after a shift, with padding": (
        lambda: [fo.nn.BatchNorm(4), fo.nn.Conv2d(4, 6, 3, padding=(0, 1))],
        ["BatchNorm", "Conv2d"],
    ),
    "after a shift, of one pixel": (lambda: [fo.nn.Standardize(4), fo.nn.Conv2d(4, 6, 1, padding="same")], ["Conv2d"]),
    "after a matrix": (lambda: [fo.nn.Whiten(4), fo.nn.Conv2d(4, 6, (2, 3), stride=2)], ["Conv2d"]),
    "after a matrix, in groups": (lambda: [fo.nn.Whiten(4), fo.nn.Conv2d(4, 6, 2, groups=2)], ["Whiten", "Conv2d"]),
    "in a shortcut": (
        lambda: [fo.nn.Residual([fo.nn.Conv2d(4, 4, 3, padding=1), fo.nn.BatchNorm(4)])],
        ["Residual", "Conv2d"],
    ),
    "in a branch": (
        lambda: [
            fo.nn.Concat(
                [[fo.nn.BatchNorm(4), fo.nn.Conv2d(4, 2, 1), fo.nn.BatchNorm(2)], [fo.nn.MaxPool2d(3, 1, 1)]]
            )
        ],
        ["Concat", "Conv2d", "MaxPool2d"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_take_over_what_their_borders_allow(case, dtype):
    make, left = CONVOLUTIONS[case]
    net = fo.nn.Sequential(make(), rng=0, dtype=dtype, input_shape=(6, 5, 4))
    x = np.random.default_rng(0).normal(1, 2, (30, 6, 5, 4)).astype(dtype)
    fast = net.calibrate(x).fold()
    assert [type(layer).__name__ for layer in fo.nn.layers.walk(fast.layers)] == left
    assert_close(fast.predict(x), net.predict(x))


def test_a_scale_alone_is_absorbed_whatever_the_padding(dtype):
    net = fo.nn.Sequential(
        [fo.nn.BatchNorm(4), fo.nn.Conv2d(4, 6, 3, padding=1)], rng=0, dtype=dtype, input_shape=(6, 5, 4)
    )
    net.layers[0].running_var, net.layers[0].gamma = [0.5, 2, 3, 1], [1, -2, 0.5, 3]
    fast, x = net.fold(), np.random.default_rng(0).normal(size=(3, 6, 5, 4)).astype(dtype)
    assert [type(layer).__name__ for layer in fast.layers] == ["Conv2d"]
    assert_close(fast.predict(x), net.predict(x))


def test_the_two_networks_go_separate_ways(small_net):
    net = small_net()
    x, fast = rows(9, 4, np.float64), net.fold()
    before, described = net.predict(x), repr(net)
    kept = fast.predict(x)
    for a in net.parameters():
        a += 1
    np.testing.assert_array_equal(fast.predict(x), kept)
    assert (net.predict(x) != before).any()
    assert repr(net) == described


LAYERS = {
    "dense": lambda n_in, n_out: fo.nn.Dense(n_in, n_out),
    "grouped": lambda n_in, n_out: fo.nn.GroupedDense(3 * n_in, 3 * n_out, 3),
    "maxout": lambda n_in, n_out: fo.nn.Maxout(n_in, n_out, 3),
    "convolution": lambda n_in, n_out: fo.nn.Conv2d(n_in, n_out, (3, 2)),
    "grouped convolution": lambda n_in, n_out: fo.nn.Conv2d(2 * n_in, 2 * n_out, 2, groups=2),
    "depthwise convolution": lambda n_in, n_out: fo.nn.Conv2d(n_out, n_out, (1 + n_in % 3, 2), groups=n_out),
}


@pairwise(kind=LAYERS, n_in=[1, 7, 16, 33], n_out=[1, 15, 16, 17, 64, 65, 130], dtype=RTOL)
def test_weights_are_unpacked_as_they_were(kind, n_in, n_out, dtype, tmp_path):
    layer = LAYERS[kind](n_in, n_out)
    shape = (4, 4, layer.in_features) if isinstance(layer, fo.nn.Conv2d) else None
    net = fo.nn.Sequential([layer], rng=0, dtype=dtype, input_shape=shape)
    fast = net.fold()
    fast.save(tmp_path / "m.safetensors")
    for other in (fast, fast.fold(), fo.nn.load(tmp_path / "m.safetensors")):
        for mine, theirs in zip(other.parameters(), net.parameters(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert not any(a.flags.writeable for a in fast.parameters())


NETWORKS = {
    "dense": lambda: [fo.nn.Dense(3000, 70, "relu"), fo.nn.Dense(70, 33, "gelu"), fo.nn.Dense(33, 10, "softmax")],
    "maxout": lambda: [fo.nn.Maxout(3000, 40, 3), fo.nn.Residual([fo.nn.Dense(40, 40)]), fo.nn.GroupedDense(40, 20, 4)],
    "convolutions": lambda: [
        fo.nn.Conv2d(3, 20, 3, padding=1, activation="silu"),
        fo.nn.MaxPool2d(2),
        fo.nn.Conv2d(20, 20, 3, padding=1, groups=20, activation="relu"),
        fo.nn.Conv2d(20, 33, 3),
        fo.nn.GlobalAvgPool2d(),
        fo.nn.Dense(33, 10),
    ],
}


@pytest.mark.parametrize("layers", NETWORKS)
def test_a_sample_has_the_same_bits_in_every_batch(layers, dtype):
    shape = (20, 50, 3) if layers == "convolutions" else (3000,)
    fast = fo.nn.Sequential(NETWORKS[layers](), rng=0, dtype=dtype, input_shape=shape).fold()
    x = rows(65, 3000, dtype).reshape(-1, *shape)
    whole = fast.predict(x)
    for n in (1, 2, 6, 7, 13, 24, 25, 64):
        np.testing.assert_array_equal(fast.predict(x[:n]), whole[:n])


def test_a_weight_without_outputs_is_refused():
    for weight in (np.array(3, np.float32), np.ones((3, 2), np.float32)):
        with pytest.raises(ValueError, match="outputs make 2 groups"):
            core.PackedWeight(weight, 2)


def test_gradients_of_a_folded_network_are_those_of_the_network(dtype):
    net = fo.nn.Sequential([fo.nn.Dense(4, 9, "tanh"), fo.nn.Dense(9, 3)], rng=0, dtype=dtype)
    fast, x, y = net.fold(), rows(8, 4, dtype), np.arange(8) % 3
    v = [np.ones_like(p) for p in net.parameters()]
    want, got = (each.value_and_grad(x, y)[1] + each.hvp(x, y, v) for each in (net, fast))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("way", [lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_parameters_stay_read_only_so_that_no_packed_weight_can_be_stale(way, small_net):
    fast = way(small_net().fold())
    with pytest.raises(ValueError, match="read-only"):
        fast.layers[-1].weight[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        fast.layers[-1].weight = np.zeros_like(fast.layers[-1].weight)
    with pytest.raises(ValueError, match="read-only"):
        fo.optim.SGD(fast.parameters())


@pytest.mark.parametrize("way", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_gives_the_same_bits(way, small_net):
    fast = small_net().fold()
    x = rows(100, 4, np.float64)
    np.testing.assert_array_equal(way(fast).predict(x), fast.predict(x))


def test_a_folded_network_is_saved_as_one_that_can_be_trained(small_net, tmp_path):
    fast = small_net().fold()
    fast.save(tmp_path / "m.safetensors")
    net = fo.nn.load(tmp_path / "m.safetensors")
    x = rows(9, 4, np.float64)
    assert_close(net.predict(x), fast.predict(x))
    net.layers[-1].weight[...] = 0
    assert (net.fold().predict(x) != fast.predict(x)).any()


def test_folding_waits_for_statistics():
    with pytest.raises(ValueError, match="statistics"):
        fo.nn.Sequential([fo.nn.Standardize(3), fo.nn.Dense(3, 2)], rng=0).fold()


@pytest.mark.parametrize(("weight", "gamma", "x"), [(1e30, 1e30, 1e-30), (1e-30, 1e-20, 1e30)])
def test_a_norm_whose_product_with_the_weights_leaves_the_dtype_stays(weight, gamma, x):
    net = fo.nn.Sequential([fo.nn.Dense(1, 1), fo.nn.BatchNorm(1, eps=1e-12)], rng=0)
    net.layers[0].weight, net.layers[1].gamma = [[weight]], [gamma]
    fast, rows = net.fold(), np.array([[x]], np.float32)
    assert len(fast.layers) == 2
    np.testing.assert_allclose(fast.predict(rows), net.predict(rows), rtol=1e-5)
    assert fast.predict(rows)[0, 0] == pytest.approx(gamma, rel=1e-5)
