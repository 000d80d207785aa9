"""How weights start.

Pass criterion: means within 4 standard deviations of what the rule promises, variances within 5 %,
orthogonality to 1e-12 in float64; scale of a deep network within a factor of 2, of its gradients of 5.
"""

import copy
import warnings

import numpy as np
import pytest

import fastopt as fo
from fastopt.nn.initialization import RULES

N_IN, N_OUT = 300, 200
VARIANCES = {"glorot": 2 / (N_IN + N_OUT), "he": 2 / N_IN, "lecun": 1 / N_IN}
DRAWN = [name for name in RULES if name != "zeros"]


def start(init, activation="identity", n_in=N_IN, n_out=N_OUT, rng=0):
    """The weights of a layer alone."""
    layer = fo.nn.Dense(n_in, n_out, activation, init=init)
    fo.nn.Sequential([layer], rng=rng, dtype=np.float64)
    assert (layer.bias == 0).all()
    return layer.weight


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_a_rule_has_its_mean_variance_and_shape_whatever_the_activation(name, normal, activation):
    weight, variance = start(name + "_normal" * normal, activation), VARIANCES[name]
    assert abs(weight.mean()) < 4 * np.sqrt(variance / weight.size)
    assert weight.var() == pytest.approx(variance, rel=0.05)
    kurtosis = (weight**4).mean() / weight.var() ** 2
    assert kurtosis == pytest.approx(3 if normal else 9 / 5, rel=0.05)
    if not normal:
        assert np.abs(weight).max() <= np.sqrt(3 * variance)


ACTIVATIONS = ["identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "softmax"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_layers_start_by_glorots_rule_where_nobody_chooses(activation):
    np.testing.assert_array_equal(start(None, activation), start("glorot", activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_convolutions_start_by_hes_rule_before_what_halves_the_mean_square(activation):
    rule = "he" if activation in ("relu", "leaky_relu", "gelu", "silu") else "glorot"
    started, chosen = (fo.nn.Conv2d(3, 8, 3, activation=activation, init=init) for init in (None, rule))
    for layer in (started, chosen):
        fo.nn.Sequential([layer], rng=0, input_shape=(4, 4, 3))
    np.testing.assert_array_equal(started.weight, chosen.weight)


@pytest.mark.parametrize("shape", [(30, 30), (50, 20), (20, 50), (1, 7), (7, 1)])
@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1), ("relu", 2)])
def test_orthogonal_rows_or_columns_are_orthonormal_but_for_the_gain(shape, activation, gain):
    weight = start("orthogonal", activation, shape[1], shape[0])
    product = weight @ weight.T if shape[0] <= shape[1] else weight.T @ weight
    np.testing.assert_allclose(product, gain * np.eye(min(shape)), atol=1e-12)


def test_orthogonal_matrices_are_drawn_from_all_sides():
    corners = [start("orthogonal", n_in=3, n_out=3, rng=n)[0, 0] for n in range(1000)]
    assert abs(np.mean(corners)) < 4 * np.sqrt(1 / 3 / 1000)
    assert np.var(corners) == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1), ("relu", 2)])
def test_sparse_outputs_have_fifteen_inputs_all_over_the_row(activation, gain):
    weight = start("sparse", activation)
    assert ((weight != 0).sum(axis=1) == 15).all()
    assert weight[weight != 0].var() == pytest.approx(gain / 15, rel=0.06)
    used = (weight != 0).sum(axis=0)
    assert used.max() < 10 + 5 * np.sqrt(10)  # N_OUT * 15 / N_IN = 10 of each on average
    assert used.min() > 0
    assert (start("sparse", n_in=4) != 0).all()


@pytest.mark.parametrize("name", VARIANCES)
def test_a_convolution_starts_with_the_fans_of_a_group_times_its_kernel(name):
    layer = fo.nn.Conv2d(20, 60, (3, 5), groups=2, init=name)
    fo.nn.Sequential([layer], rng=0, dtype=np.float64, input_shape=(3, 5, 20))
    n_in, n_out = 15 * 10, 15 * 30
    variance = {"glorot": 2 / (n_in + n_out), "he": 2 / n_in, "lecun": 1 / n_in}[name]
    assert layer.weight.shape == (60, 3, 5, 10)
    assert layer.weight.var() == pytest.approx(variance, rel=0.05)


def test_orthogonal_filters_are_orthonormal_within_their_group():
    layer = fo.nn.Conv2d(4, 10, (3, 2), groups=2, init="orthogonal")
    fo.nn.Sequential([layer], rng=0, dtype=np.float64, input_shape=(3, 2, 4))
    for group in layer.weight.reshape(2, 5, -1):
        np.testing.assert_allclose(group @ group.T, np.eye(5), atol=1e-12)


def test_zeros_are_zeros():
    assert (start("zeros") == 0).all()


@pytest.mark.parametrize("init", DRAWN)
def test_no_two_outputs_start_equal_and_a_seed_repeats(init):
    weight = start(init)
    assert len(np.unique(weight, axis=0)) == N_OUT
    np.testing.assert_array_equal(weight, start(init))
    assert (weight != start(init, rng=1)).any()


@pytest.mark.parametrize(
    ("init", "activation"),
    [
        ("he", "relu"),
        ("he_normal", "relu"),
        ("orthogonal", "relu"),
        ("sparse", "relu"),
        ("glorot", "identity"),
        ("lecun", "identity"),
        ("orthogonal", "identity"),
        ("sparse", "identity"),
    ],
)
def test_the_scale_goes_through_ten_layers_and_back(init, activation):
    layers = [fo.nn.Dense(256, 256, activation, init=init) for _ in range(10)]
    net = fo.nn.Sequential(layers, rng=0, dtype=np.float64)
    x = np.random.default_rng(1).normal(size=(256, 256))
    assert 0.5 < np.mean(net.predict(x) ** 2) < 2
    grads = net.value_and_grad(x[:1], np.zeros((1, 256)), "mse")[1][::2]  # of one row: rows are alike behind relu
    sizes = [np.sqrt((g**2).mean()) for g in grads]
    assert max(sizes) < 5 * min(sizes)  # a missing gain of relu: 32


def test_groups_and_pieces_start_each_on_its_own():
    grouped, maxout = fo.nn.GroupedDense(80, 40, 4, init="orthogonal"), fo.nn.Maxout(30, 20, 3, init="orthogonal")
    fo.nn.Sequential([grouped], rng=0, dtype=np.float64)
    fo.nn.Sequential([maxout], rng=0, dtype=np.float64)
    parts = [*grouped.weight.reshape(4, 10, 20), *maxout.weight.reshape(20, 3, 30).transpose(1, 0, 2)]
    for part in parts:
        np.testing.assert_allclose(part @ part.T, np.eye(len(part)), atol=1e-12)
    assert len({part.tobytes() for part in parts}) == 7


# ---------------------------------------------------------------- zeros


def dense(n_in=4, n_out=4, init="zeros"):
    return fo.nn.Dense(n_in, n_out, "tanh", init=init)


HIDDEN = {
    "before a layer": lambda: [dense(), dense(init=None)],
    "before a shortcut": lambda: [dense(), fo.nn.Residual([dense(init=None)])],
    "first in a shortcut": lambda: [fo.nn.Residual([dense(), dense(init=None)])],
    "far from the end": lambda: [dense(), fo.nn.Standardize(4), fo.nn.Maxout(4, 4), fo.nn.Dropout(0.5)],
}
LAST = {
    "alone": lambda: [dense()],
    "last": lambda: [dense(init=None), dense(), fo.nn.Dropout(0.5)],
    "last in a shortcut": lambda: [fo.nn.Residual([dense(init=None), dense()]), dense(init=None)],
}


@pytest.mark.parametrize("where", HIDDEN)
def test_zeros_in_a_hidden_layer_warn_once_and_copies_do_not(where, tmp_path):
    with pytest.warns(UserWarning, match=r"Dense.*init='zeros'.*symmetry") as caught:
        net = fo.nn.Sequential(HIDDEN[where](), rng=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.save(tmp_path / "m.safetensors")
        fo.nn.load(tmp_path / "m.safetensors")
        copy.deepcopy(net).calibrate(np.eye(4)).fold()


@pytest.mark.parametrize("where", LAST)
def test_zeros_at_an_end_do_not_warn(where):
    fo.nn.Sequential(LAST[where](), rng=0)


def test_what_the_warning_says_is_so():
    with pytest.warns(UserWarning, match="zero"):
        net = fo.nn.Sequential([dense(2, 5), dense(5, 1)], rng=0, dtype=np.float64)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.1)).fit(x, np.tanh(x @ [[1.0], [2.0]]), epochs=20)
    assert len(np.unique(net.layers[0].weight, axis=0)) == 1


@pytest.mark.parametrize("init", RULES)
def test_a_file_keeps_the_rule(init, tmp_path):
    net = fo.nn.Sequential([fo.nn.Dense(3, 2, init=init)], rng=0)
    net.save(tmp_path / "m.safetensors")
    twin = fo.nn.load(tmp_path / "m.safetensors")
    assert twin.layers[0].init == init
    np.testing.assert_array_equal(twin.layers[0].weight, net.layers[0].weight)
