"""Networks as objects: what they are made of and stay, what they refuse, copies and files.

Pass criterion: bits equal wherever a copy is promised to equal its original.
"""

import copy
import pickle

import numpy as np
import pytest
from test_fit import rows

import fastopt as fo

# ---------------------------------------------------------------- networks


def test_an_int_seed_gives_the_same_network_and_another_seed_another(small_net):
    one, same, other = small_net(seed=1), small_net(seed=1), small_net(seed=2)
    np.testing.assert_array_equal(one.layers[-1].weight, same.layers[-1].weight)
    assert (one.layers[-1].weight != other.layers[-1].weight).any()


def test_initial_weights_have_the_variance_of_their_rule():
    for init, variance in (("he", 2 / 300), (None, 2 / 500)):
        net = fo.nn.Sequential([fo.nn.Dense(300, 200, activation="relu", init=init)], rng=0)
        assert net.layers[0].weight.var() == pytest.approx(variance, rel=0.05)
        np.testing.assert_array_equal(net.layers[0].bias, 0)


def test_a_network_shows_its_layers(small_net):
    text = repr(small_net())
    assert all(
        word in text for word in ("Sequential", "Standardize", "Residual", "Dense", "activation='tanh'", "float64")
    )


def test_a_chain_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"layers\[1\] \(Dense\): expected 6 columns, got 5 from layers\[0\]"):
        fo.nn.Sequential([fo.nn.Dense(4, 5), fo.nn.Dense(6, 2)])
    layer = fo.nn.Dense(4, 4)
    with pytest.raises(ValueError, match="each layer once"):
        fo.nn.Sequential([layer, layer])
    with pytest.raises(ValueError, match="as wide as it begins"):
        fo.nn.Residual([fo.nn.Dense(4, 5)])
    with pytest.raises(ValueError, match="no Standardize inside"):
        fo.nn.Residual([fo.nn.Standardize(4)])


def test_a_network_that_was_not_calibrated_refuses_to_train():
    net = fo.nn.Sequential([fo.nn.Standardize(4), fo.nn.Dense(4, 3)], rng=0)
    with pytest.raises(ValueError, match="calibrate"):
        net.value_and_grad(*rows())
    with pytest.raises(ValueError, match="calibrate"):
        fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters())).step(*rows())


def test_fit_calibrates_a_network_that_was_not():
    X, y = rows()
    net = fo.nn.Sequential([fo.nn.Standardize(4), fo.nn.Dense(4, 3)], rng=0)
    fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters())).fit(X, y)
    np.testing.assert_allclose(net.layers[0].mean, X.mean(axis=0), rtol=1e-5)


# ---------------------------------------------------------------- what stays as it was made

MADE = {
    "Dense": (lambda: fo.nn.Dense(4, 4, l2=0.1), "in_features out_features activation init l1 l2 max_norm groups"),
    "GroupedDense": (lambda: fo.nn.GroupedDense(4, 4, 2), "in_features out_features groups activation init l1 l2"),
    "Maxout": (lambda: fo.nn.Maxout(4, 4), "in_features out_features pieces activation groups init l1 l2 max_norm"),
    "Standardize": (lambda: fo.nn.Standardize(4), "in_features out_features features"),
    "Whiten": (lambda: fo.nn.Whiten(4), "in_features out_features features kind eps"),
    "BatchNorm": (lambda: fo.nn.BatchNorm(4), "in_features out_features features eps momentum activation affine"),
    "Dropout": (lambda: fo.nn.Dropout(0.5), "in_features out_features rate"),
    "Residual": (lambda: fo.nn.Residual([fo.nn.Dense(4, 4)]), "in_features out_features layers"),
    "RandomShift": (lambda: fo.nn.RandomShift(1, 0), "in_features out_features height width"),
    "RandomFlip": (lambda: fo.nn.RandomFlip(), "in_features out_features horizontal vertical"),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_a_layer_was_made_with_cannot_be_assigned(kind):
    make, names = MADE[kind]
    net = fo.nn.Sequential([fo.nn.Dense(4, 4), make()], rng=0, input_shape=(3, 2, 4))
    layer, described = net.layers[1], repr(net)
    for name in names.split():
        with pytest.raises(AttributeError, match=f"{name}: stays what the {kind} was made with, got 7"):
            setattr(layer, name, 7)
    assert repr(net) == described
    assert repr(copy.deepcopy(net)) == described


def test_layers_and_dtype_of_a_network_cannot_be_assigned(small_net):
    net = small_net()
    for name in ("layers", "dtype", "in_features", "out_features"):
        with pytest.raises(AttributeError):
            setattr(net, name, 7)
    with pytest.raises(AttributeError):
        net.layers.append(fo.nn.Dense(3, 3))
    with pytest.raises(TypeError):
        net.layers[0] = fo.nn.Standardize(4)
    with pytest.raises(TypeError):
        net.layers[1].layers[0] = fo.nn.Dense(4, 5)
    net.draws, net.metadata = 3, {"labels": ["a", "b", "c"]}


def test_a_dropout_keeps_the_width_it_has_in_a_network():
    layer = fo.nn.Dropout(0.5)
    fo.nn.Sequential([fo.nn.Dense(4, 3), layer], rng=0)
    fo.nn.Sequential([fo.nn.Dense(5, 3), layer], rng=0)
    with pytest.raises(
        ValueError, match=r"layers\[1\] \(Dropout\): expected 3 columns, as where this Dropout stands already"
    ):
        fo.nn.Sequential([fo.nn.Dense(3, 4), layer], rng=0)


TAMPERED = {
    "wider Dense": (1, "in_features", 400_000),
    "more outputs": (1, "out_features", 400_000),
    "wider Standardize": (0, "in_features", 400_000),
    "wider outputs of a Standardize": (0, "out_features", 400_000),
    "wider BatchNorm": (2, "out_features", 400_000),
    "no groups": (3, "groups", 0),
    "groups that do not divide": (3, "groups", 4),
    "other groups": (3, "groups", 2),
    "pieces": (4, "pieces", 5),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_state_whose_widths_are_not_those_of_its_arrays_is_refused(case):
    place, name, value = TAMPERED[case]
    layers = [
        fo.nn.Standardize(4),
        fo.nn.Dense(4, 6),
        fo.nn.BatchNorm(6),
        fo.nn.GroupedDense(6, 6, 3),
        fo.nn.Maxout(6, 2),
    ]
    net = fo.nn.Sequential(layers, rng=0)
    net.layers[place].__dict__[name] = value
    try:
        twin = copy.deepcopy(net)
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017
    else:  # a width that the program does not take from here
        np.testing.assert_array_equal(twin.predict(rows(5)[0]), net.predict(rows(5)[0]))


def test_the_first_width_of_a_network_is_checked_against_its_weights():
    net = fo.nn.Sequential([fo.nn.Dense(4, 6), fo.nn.Dense(6, 2)], rng=0)
    net.layers[0].__dict__["in_features"] = 400_000
    says = (
        r"entries\[0\] \(dense\) weight: expected a C-contiguous float32 array of shape \(6, 400000\), got .* \(6, 4\)"
    )
    for way in (copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), lambda net: net.fold()):
        with pytest.raises(ValueError, match=says):
            way(net)


def test_arrays_of_another_shape_are_refused():
    net = fo.nn.Sequential([fo.nn.Dense(4, 6), fo.nn.Dense(6, 2)], rng=0)
    net.layers[0]._arrays["weight"] = net.layers[0].weight.reshape(4, 6)
    with pytest.raises(ValueError, match=r"weight: expected .* shape \(6, 4\), got .* \(4, 6\)"):
        pickle.loads(pickle.dumps(net))


# ---------------------------------------------------------------- copies and files


COPIES = {
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "file": lambda net, path: (net.save(path), fo.nn.load(path))[1],
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_predicts_the_same_bits_and_owns_its_arrays(way, small_net, dtype, tmp_path):
    net = small_net("gelu", dtype)
    X = rows(50, dtype)[0]
    want = net.predict(X)
    twin = COPIES[way](net, tmp_path / "m.safetensors")
    np.testing.assert_array_equal(twin.predict(X), want)
    assert repr(twin) == repr(net)
    assert all(a.ctypes.data % 64 == 0 for a in twin.parameters())
    for a in twin.parameters():
        a[...] = 0
    np.testing.assert_array_equal(net.predict(X), want)
    assert (twin.predict(X) != want).any()


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_can_be_trained(way, small_net, tmp_path):
    twin = COPIES[way](small_net(dtype=np.float32), tmp_path / "m.safetensors")
    history = fo.nn.Trainer(twin, "cross_entropy", fo.optim.Adam(twin.parameters(), lr=0.01)).fit(*rows(), epochs=20)
    assert history["loss"][-1] < history["loss"][0]
