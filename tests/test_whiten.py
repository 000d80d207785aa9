"""Whitening of inputs, and condition numbers.

Pass criterion: the covariance of what was whitened is the identity within ATOL, as far as eps leaves it.
"""

import copy
import pickle

import numpy as np
import pytest

import fastopt as fo

ATOL = {np.dtype(np.float32): 2e-3, np.dtype(np.float64): 1e-9}
KINDS = ("zca", "pca")
C = 7


def rows(n=500, dtype=np.float64, offset=20.0):
    """Correlated columns, standard deviations from about 0.03 to 3."""
    rng = np.random.default_rng(n)
    return (rng.normal(size=(n, C)) * np.logspace(-1.5, 0.5, C) @ rng.normal(size=(C, C)) + offset).astype(dtype)


def network(kind="zca", eps=0.0, dtype=np.float64):
    return fo.nn.Sequential([fo.nn.Whiten(C, kind, eps)], dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_whitened_has_mean_zero_and_covariance_one(kind, dtype):
    x = rows(dtype=dtype)
    y = network(kind, dtype=dtype).calibrate(x).predict(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=ATOL[dtype])
    np.testing.assert_allclose(np.cov(y.T.astype(float), bias=True), np.eye(C), atol=ATOL[dtype])
    assert fo.nn.condition_number(x) > 1000
    assert fo.nn.condition_number(y) == pytest.approx(1, abs=10 * ATOL[dtype])


def test_zca_is_symmetric_and_pca_has_the_components_in_order():
    x = rows()
    zca, pca = (network(kind).calibrate(x).layers[0].weight for kind in KINDS)
    np.testing.assert_allclose(zca, zca.T, atol=1e-10 * np.abs(zca).max())
    np.testing.assert_allclose(zca @ zca, pca.T @ pca, rtol=1e-9, atol=1e-9 * np.abs(zca @ zca).max())
    lengths = np.linalg.norm(pca, axis=1)  # one over the standard deviation of a component
    assert (np.diff(lengths) > 0).all()
    directions = pca / lengths[:, None]
    np.testing.assert_allclose(directions @ directions.T, np.eye(C), atol=1e-12)
    assert (directions[np.arange(C), np.abs(directions).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_eps_is_a_share_of_the_largest_variance(kind):
    x = rows()
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    y = network(kind, 0.01).calibrate(x).predict(x)
    left = values / (values + 0.01 * values.max())
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(y.T, bias=True)), np.sort(left), rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_repeat_or_stand_still_are_not_blown_up(kind, dtype):
    x = rows(dtype=dtype)
    x[:, 3], x[:, 5] = 4, x[:, 0]
    assert fo.nn.condition_number(x) == np.inf
    y = network(kind, 1e-6, dtype).calibrate(x).predict(x)
    assert np.abs(y).max() < 10
    constant = np.full((9, C), 3, dtype)
    np.testing.assert_array_equal(network(kind, dtype=dtype).calibrate(constant).predict(constant), 0)
    with pytest.raises(ValueError, match=r"eps: expected more than 0, .*7 columns is singular"):
        network(kind, 0.0, dtype).calibrate(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_calibration_refuses_what_is_not_finite_and_keeps_its_statistics(bad):
    net, x = network().calibrate(rows()), rows()
    kept = net.layers[0].weight.copy()
    x[3, 2] = bad
    with pytest.raises(ValueError, match=f"got {bad} in column 2"):
        net.calibrate(x)
    np.testing.assert_array_equal(net.layers[0].weight, kept)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "power"), [(np.float32, -25), (np.float32, 19), (np.float64, -200), (np.float64, 200)]
)
def test_data_of_any_size_is_whitened_as_data_of_size_one(given, power, kind):
    x = rows(dtype=given)
    scaled = np.ldexp(x, int(power / np.log10(2)))
    dtype = np.float64 if given is np.float64 else np.float32
    want = network(kind, dtype=dtype).calibrate(x).predict(x)
    np.testing.assert_array_equal(network(kind, dtype=dtype).calibrate(scaled).predict(scaled), want)
    assert fo.nn.condition_number(scaled) == fo.nn.condition_number(x)


def test_weights_that_the_network_cannot_hold_are_refused():
    net = network(dtype=np.float32)
    with pytest.raises(ValueError, match="X: expected deviations that float32 can divide by"):
        net.calibrate(rows() * 1e-60)
    assert not net.layers[0].calibrated


@pytest.mark.parametrize("kind", KINDS)
def test_float64_data_far_from_zero_keeps_its_digits_in_a_network_of_float32(kind):
    near = rows(offset=0.0)
    far = near + 1e6
    want = network(kind).calibrate(near).predict(near)
    np.testing.assert_allclose(network(kind, dtype=np.float32).calibrate(far).predict(far), want, atol=2e-4)


def test_condition_numbers_of_known_spectra():
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    assert fo.nn.condition_number(x) == pytest.approx(4)
    assert fo.nn.condition_number(x + 1e3) == pytest.approx(4)
    assert fo.nn.condition_number([[0], [3]]) == 1
    assert fo.nn.condition_number(np.ones((3, 2))) == np.inf


def test_statistics_do_not_depend_on_threads(dtype):
    x = np.random.default_rng(0).normal(size=(9000, 60)).astype(dtype)
    weights = []
    for n in (1, 2, 3):
        with fo.num_threads(n):
            weights.append(fo.nn.Sequential([fo.nn.Whiten(60)], dtype=dtype).calibrate(x).layers[0].weight)
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


# ---------------------------------------------------------------- in a network


def classifier(kind="zca", first=None, dtype=np.float64):
    layers = [fo.nn.Standardize(C), fo.nn.Whiten(C, kind), first or fo.nn.Dense(C, 8, "tanh"), fo.nn.Dense(8, 2)]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype)


FIRST = {
    "Dense": lambda: fo.nn.Dense(C, 8, "tanh"),
    "Dense without bias": lambda: fo.nn.Dense(C, 8, bias=False),
    "Maxout": lambda: fo.nn.Maxout(C, 8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", FIRST)
def test_folding_takes_it_and_a_standardize_before_it_over(first, kind):
    x = rows(offset=2.0)
    net = classifier(kind, FIRST[first]()).calibrate(x)
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == [first.split()[0], "Dense"]
    np.testing.assert_allclose(fast.predict(x), net.predict(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_folding_leaves_it_where_the_mean_is_far_from_zero(kind):
    x = rows(offset=1e6)
    net = fo.nn.Sequential([fo.nn.Whiten(C, kind), fo.nn.Dense(C, 8, "tanh"), fo.nn.Dense(8, 2)], rng=0).calibrate(x)
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == ["Whiten", "Dense", "Dense"]
    np.testing.assert_allclose(fast.predict(x), net.predict(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fast.predict(x[:1]), net.predict(x[:1]), rtol=1e-5, atol=1e-6)


def test_groups_cannot_take_a_whole_matrix_over():
    x = rows()[:, :6].copy()
    layers = [fo.nn.Whiten(6), fo.nn.GroupedDense(6, 4, 2), fo.nn.Whiten(4)]
    net = fo.nn.Sequential(layers, rng=0, dtype=np.float64).calibrate(x)
    fast = net.fold()
    assert [type(layer).__name__ for layer in fast.layers] == ["Whiten", "GroupedDense", "Whiten"]
    np.testing.assert_array_equal(fast.predict(x), net.predict(x))
    np.testing.assert_allclose(np.cov(net.predict(x).T, bias=True), np.eye(4), atol=1e-4)


COPIES = {
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "file": lambda net, path: (net.save(path), fo.nn.load(path))[1],
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_predicts_the_same_bits_and_knows_its_statistics(way, tmp_path):
    x = rows()
    net = classifier("pca").calibrate(x)
    twin = COPIES[way](net, tmp_path / "m.safetensors")
    assert repr(twin) == repr(net)
    np.testing.assert_array_equal(twin.predict(x), net.predict(x))
    assert twin.layers[1].calibrated


def test_fit_takes_the_statistics_and_whitened_inputs_train_faster():
    x = rows()
    y = (x - x.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T.sum(axis=1, keepdims=True)
    losses = []
    for front in (fo.nn.Standardize(C), fo.nn.Whiten(C)):
        net = fo.nn.Sequential([front, fo.nn.Dense(C, 1)], rng=0, dtype=np.float64)
        trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.1))
        losses.append(trainer.fit(x, y, epochs=20)["loss"][-1])
        assert front.calibrated
    assert losses[1] < 1e-3 * losses[0]


@pytest.mark.parametrize("size", [1e39, 1e60, 1e200])
def test_data_whose_deviations_the_network_cannot_hold_is_refused(size):
    X = size * np.random.default_rng(0).normal(size=(50, 3))
    net = fo.nn.Sequential([fo.nn.Whiten(3)], rng=0)
    with pytest.raises(ValueError, match="X: expected deviations that float32 holds, got one of"):
        net.calibrate(X)
    assert not net.layers[0].calibrated
