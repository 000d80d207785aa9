"""Layers: the register of their names, their shapes, and how they fold into their neighbors.

Pass criterion: shapes, names and messages are equal to the letter; outputs within RTOL of NumPy.
"""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastopt as fo
from fastopt.nn.layers import LAYERS, ArraySpec, inference, named, shapes
from fastopt.nn.layers.layer import Array
from fastopt.nn.layout import Layout

RTOL = 1e-12
EXAMPLES = {  # from 4 columns, by name
    "Add": lambda: fo.nn.Add([[fo.nn.Dense(4, 3), fo.nn.Dropout(0.5)], [fo.nn.Dense(4, 3, "tanh")]]),
    "BatchNorm": lambda: fo.nn.BatchNorm(4, activation="tanh"),
    "Concat": lambda: fo.nn.Concat([[fo.nn.Dense(4, 3), fo.nn.Dropout(0.5)], []]),
    "Dense": lambda: fo.nn.Dense(4, 6, "relu"),
    "Dropout": lambda: fo.nn.Dropout(0.25),
    "GroupedDense": lambda: fo.nn.GroupedDense(4, 6, 2),
    "Maxout": lambda: fo.nn.Maxout(4, 3, pieces=2),
    "Residual": lambda: fo.nn.Residual([fo.nn.Dense(4, 7), fo.nn.Dropout(0.5), fo.nn.Dense(7, 4)]),
    "Standardize": lambda: fo.nn.Standardize(4),
    "Whiten": lambda: fo.nn.Whiten(4, "pca"),
}
OF_IMAGES = {  # from images (6, 5, 4), which they take as a whole
    "AvgPool2d": lambda: fo.nn.AvgPool2d(3, (2, 1), (1, 0), count_include_pad=False),
    "ChannelsFirst": lambda: fo.nn.ChannelsFirst(),
    "Conv2d": lambda: fo.nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2, activation="relu"),
    "Flatten": lambda: fo.nn.Flatten(),
    "GlobalAvgPool2d": lambda: fo.nn.GlobalAvgPool2d(),
    "MaxPool2d": lambda: fo.nn.MaxPool2d(2, ceil_mode=True),
    "RandomFlip": lambda: fo.nn.RandomFlip(vertical=True),
    "RandomShift": lambda: fo.nn.RandomShift(2, 1),
}
every_layer = pytest.mark.parametrize("name", EXAMPLES)


@pytest.fixture
def uncompiled(monkeypatch):
    """Networks are built, and not compiled: one of their layers has no kernel."""
    monkeypatch.setattr(Layout, "program", lambda self, typenum, fixed, input_gradient: None)


def rows(n=20, columns=4):
    return np.random.default_rng(n).normal(1, 2, (n, columns))


def description(path):
    with safe_open(path, framework="numpy") as stream:
        return json.loads(stream.metadata()["fastopt"])


def rewrite(path, **entries):
    """Change entries of the description in a file."""
    document = description(path) | entries
    save_file(load_file(path), path, {"fastopt": json.dumps(document)})


# ---------------------------------------------------------------- layers of one's own


class Sum(fo.nn.Layer):
    """x @ first.T + x @ second.T, of kernels that are there."""

    first = Array()
    second = Array()
    weighted = True
    init = None

    def __init__(self, in_features, out_features):
        self.in_features, self.out_features = in_features, out_features

    def config(self):
        return {"in_features": self.in_features, "out_features": self.out_features}

    def array_specs(self, dtype):
        return dict.fromkeys(("first", "second"), ArraySpec((self.out_features, self.in_features), dtype))

    def start(self, rng):
        self.first, self.second = rng.normal(size=(2, self.out_features, self.in_features))

    def parameters(self):
        return [self.first, self.second]

    def lay_out(self, layout, src):
        one, other, dst = (layout.value(self.output_shape(layout.shapes[src])) for _ in range(3))
        layout.add("dense", src, one, weights=[self.first])
        layout.add("dense", src, other, weights=[self.second])
        layout.add("add", (one, other), dst)
        return dst


class Twice(fo.nn.Layer):
    """2 x, of any shape."""

    def config(self):
        return {}

    def scale_and_shift(self):
        return np.full(4, 2.0), np.zeros(4)

    def lay_out(self, layout, src):
        dst = layout.value(layout.shapes[src])
        layout.add("add", (src, src), dst)
        return dst


class Halved(fo.nn.Layer):
    """Every second row and column of an image; never computed."""

    def config(self):
        return {}

    def output_shape(self, input_shape):
        if len(input_shape) != 3:
            raise ValueError(f"expected an image (height, width, channels), got {input_shape}")
        height, width, channels = input_shape
        return (height // 2, width // 2, channels)

    def lay_out(self, layout, src):
        dst = layout.value(self.output_shape(layout.shapes[src]))
        layout.add("halved", src, dst)
        return dst


def test_the_layers_of_the_package_are_known_by_their_names():
    ours = {name: layer for name, layer in LAYERS.items() if layer.__module__.startswith("fastopt.nn.")}
    assert ours == {name: getattr(fo.nn, name) for name in EXAMPLES | OF_IMAGES}
    assert ours == {name: getattr(fo.nn.layers, name) for name in EXAMPLES | OF_IMAGES}


def test_a_layer_of_ones_own_registers_itself_and_is_saved_and_loaded_by_its_name(tmp_path, dtype):
    assert LAYERS["Sum"] is Sum
    net = fo.nn.Sequential([Sum(4, 3), fo.nn.Residual([Sum(3, 3)])], rng=0, dtype=dtype)
    net.save(tmp_path / "m.safetensors")
    twin = fo.nn.load(tmp_path / "m.safetensors")
    assert repr(twin) == repr(net)
    for other in (twin, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other.predict(rows()), net.predict(rows()))
    np.testing.assert_allclose(net.fold().predict(rows()), net.predict(rows()), rtol=0, atol=1e-4)


def test_a_layer_of_ones_own_trains_as_one_of_ours():
    net = fo.nn.Sequential([Sum(4, 3)], rng=0, dtype=np.float64)
    layer, x, y = net.layers[0], rows(), rows(columns=3)
    twin = fo.nn.Sequential([fo.nn.Dense(4, 3, bias=False)], rng=0, dtype=np.float64)
    twin.layers[0].weight = layer.first + layer.second
    np.testing.assert_allclose(net.predict(x), twin.predict(x), rtol=RTOL)
    (value, grads), (want, (grad,)) = net.value_and_grad(x, y, "mse"), twin.value_and_grad(x, y, "mse")
    assert value == pytest.approx(want, rel=RTOL)
    for each in grads:
        np.testing.assert_allclose(each, grad, rtol=1e-9, atol=1e-12)


def test_a_run_with_a_layer_of_ones_own_is_resumed(tmp_path):
    x, y = rows(), rows(columns=3)
    trainers = [fo.nn.Trainer(fo.nn.Sequential([Sum(4, 3)], rng=i), "mse", "adam") for i in range(2)]
    trainers[0].fit(x, y)
    trainers[0].save(tmp_path / "run.safetensors")
    trainers[1].resume(tmp_path / "run.safetensors")
    assert trainers[0].fit(x, y) == trainers[1].fit(x, y)


@pytest.mark.parametrize("name", ["Conv9d", "Layer", "Product", "FromData", "Sequential", "", None, ["Dense"]])
def test_a_file_with_a_layer_of_another_name_is_refused(name, tmp_path):
    path = tmp_path / "m.safetensors"
    fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0).save(path)
    rewrite(path, layers=[description(path)["layers"][0] | {"type": name}])
    with pytest.raises(ValueError, match=r"layers\.0: expected a layer of type .*Dense, .*, got "):
        fo.nn.load(path)


def test_a_class_without_kernels_or_description_has_no_name_in_files():
    class Bare(fo.nn.Layer):
        def config(self):
            return {}

    class Shared(fo.nn.Layer):
        def lay_out(self, layout, src):
            return src

    assert not {"Bare", "Shared", "Layer", "Product", "FromData", "TrainingOnly", "Augmentation"} & LAYERS.keys()


def test_a_name_belongs_to_one_layer():
    with pytest.raises(TypeError, match=r"Dense: .* model files know fastopt\.nn\.layers\.dense\.Dense by; rename"):
        type("Dense", (fo.nn.Dense,), {})
    assert LAYERS["Dense"] is fo.nn.Dense


def test_a_class_statement_that_is_run_again_takes_its_own_place():
    classes = [type("Anew", (Sum,), {}) for _ in range(2)]
    assert LAYERS["Anew"] is classes[1]


# ---------------------------------------------------------------- shapes


@every_layer
def test_the_output_shape_of_a_layer_is_that_of_what_predict_gives(name):
    net = fo.nn.Sequential([EXAMPLES[name](), fo.nn.Dropout(0.0), fo.nn.BatchNorm(EXAMPLES[name]().out_features or 4)])
    x = rows()
    net.calibrate(x)
    found = shapes(net.layers, (4,))
    assert (net.input_shape, net.output_shape) == (found[0], found[-1])
    assert net.predict(x).shape == (len(x), *found[-1])
    assert (net.in_features, net.out_features) == (found[0][-1], found[-1][-1])


@pytest.mark.parametrize("name", EXAMPLES | OF_IMAGES)
def test_predict_sees_a_weight_that_is_changed_through_a_view(name):
    layers, x = [fo.nn.Dense(4, 4), (EXAMPLES | OF_IMAGES)[name]()], rows(60).reshape(2, 6, 5, 4)
    net = fo.nn.Sequential(layers, rng=0, dtype=np.float64, input_shape=(6, 5, 4)).calibrate(x)
    before = net.predict(x)
    for array in net.parameters():
        array.reshape(-1)[:1] += 1
        changed = net.predict(x)
        assert not np.array_equal(changed, before)
        np.testing.assert_array_equal(changed, copy.deepcopy(net).predict(x))
        before = changed


@every_layer
def test_a_layer_acts_on_the_last_axis_of_an_image(name):
    layer = EXAMPLES[name]()
    (columns,) = layer.output_shape((4,))
    assert layer.output_shape((28, 20, 4)) == (28, 20, columns)
    assert layer.multiply_adds((28, 20, 4)) == 28 * 20 * layer.multiply_adds((4,))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_the_shape_of_a_layer_of_images_is_that_of_what_predict_gives(name):
    net = fo.nn.Sequential([fo.nn.Dense(4, 4), OF_IMAGES[name]()], rng=0, input_shape=(6, 5, 4))
    assert net.output_shape == net.layers[1].output_shape((6, 5, 4))
    assert net.predict(rows(30).reshape(1, 6, 5, 4)).shape == (1, *net.output_shape)


def block(*layers):
    return fo.nn.Residual(list(layers))


MISFITS = {
    "after a layer": (
        lambda: ([fo.nn.Dense(8, 16), fo.nn.Dense(16, 100), fo.nn.Dense(128, 10)], None),
        "layers[2] (Dense): expected 128 columns, got 100 from layers[1] (Dense)",
    ),
    "after the input": (
        lambda: ([fo.nn.Dense(8, 16)], (9,)),
        "layers[0] (Dense): expected 8 columns, got 9 from the input",
    ),
    "after a dropout": (
        lambda: ([fo.nn.Dense(8, 16), fo.nn.Dropout(0.5), fo.nn.BatchNorm(15)], None),
        "layers[2] (BatchNorm): expected 15 columns, got 16 from layers[1] (Dropout)",
    ),
    "channels": (
        lambda: ([fo.nn.Standardize(3), fo.nn.Maxout(4, 2)], (28, 28, 3)),
        "layers[1] (Maxout): expected 4 channels, got 3 from layers[0] (Standardize)",
    ),
    "a shortcut": (
        lambda: ([fo.nn.Dense(8, 6), block(fo.nn.Dense(5, 5))], None),
        "layers[1] (Residual): expected 5 columns, got 6 from layers[0] (Dense)",
    ),
    "inside a shortcut": (
        lambda: ([fo.nn.Dense(8, 5), block(fo.nn.Dense(5, 7), fo.nn.Dense(6, 5))], None),
        "layers[1] (Residual): layers[1] (Dense): expected 6 columns, got 7 from layers[0] (Dense)"
        " from layers[0] (Dense)",
    ),
    "a shortcut around another shape": (
        lambda: ([fo.nn.Dense(3, 8), block(fo.nn.Dense(8, 8), Halved())], (28, 28, 3)),
        "layers[1] (Residual): expected the shortcut to end in the shape in which it begins, (28, 28, 8), "
        "got (14, 14, 8) from layers[0] (Dense)",
    ),
    "a vector for an image": (
        lambda: ([fo.nn.Dense(3, 8), Halved()], None),
        "layers[1] (Halved): expected an image (height, width, channels), got (8,) from layers[0] (Dense)",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_layer_that_does_not_fit_is_named_with_what_came_and_what_was_expected(case):
    make, says = MISFITS[case]
    layers, input_shape = make()
    with pytest.raises(ValueError, match=r".") as error:
        fo.nn.Sequential(layers, input_shape=input_shape)
    assert str(error.value) == says
    assert not any(layer.arrays() for _, layer in named(layers))  # nothing has been made


def test_a_dropout_takes_what_stands_before_it_and_keeps_it():
    layer = fo.nn.Dropout(0.5)
    assert (layer.in_features, layer.out_features) == (None, None)
    with pytest.raises(ValueError, match="expected 7 columns"):
        fo.nn.Sequential([fo.nn.Dense(4, 3), layer, fo.nn.Dense(7, 1)])
    assert layer.in_features is None
    fo.nn.Sequential([fo.nn.Dense(4, 3), layer], rng=0)
    assert (layer.in_features, layer.out_features) == (3, 3)
    says = (
        r"layers\[1\] \(Dropout\): expected 3 columns, as where this Dropout stands already .*, got 4 from layers\[0\]"
    )
    with pytest.raises(ValueError, match=says):
        fo.nn.Sequential([fo.nn.Dense(3, 4), layer], rng=0)
    with pytest.raises(AttributeError, match="in_features: stays"):
        layer.in_features = 4


def test_where_no_layer_has_a_width_the_input_shape_gives_it():
    with pytest.raises(
        ValueError, match=r"layers: expected a layer with a width of its own, got Twice; give .*input_shape"
    ):
        fo.nn.Sequential([Twice()])
    net = fo.nn.Sequential([Twice(), fo.nn.Dropout(0.5), Twice()], input_shape=(5,), dtype=np.float64)
    assert net.output_shape == (5,)
    np.testing.assert_array_equal(net.predict(rows(columns=5)), 4 * rows(columns=5))


@pytest.mark.parametrize("input_shape", [None, (4,)])
def test_a_network_of_nothing_but_dropout_is_refused(input_shape):
    with pytest.raises(
        ValueError, match="layers: expected a layer besides Dropout, which inference leaves out, got none"
    ):
        fo.nn.Sequential([fo.nn.Dropout(0.5), fo.nn.Dropout(0.0)], input_shape=input_shape)


@pytest.mark.parametrize(
    "value", [4, "4", (), (4, 4), (1, 2, 3, 4), {"4": 4}, (0,), (4.0,), (True,), (8, -1, 4), ("4",)]
)
def test_an_input_shape_that_is_none_is_refused_by_constructor_and_reader(value, tmp_path):
    with pytest.raises(ValueError, match=r"^input_shape(\[\d\])?: expected "):
        fo.nn.Sequential([fo.nn.Dense(4, 3)], input_shape=value)
    path = tmp_path / "m.safetensors"
    fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0).save(path)
    rewrite(path, input_shape=value)
    with pytest.raises(ValueError, match=r"m\.safetensors: .*input_shape(\[\d\])?: expected "):
        fo.nn.load(path)


@pytest.mark.parametrize("value", [(4,), [4], (np.int64(4),)])
def test_a_width_may_be_given_as_input_shape(value):
    net = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0, input_shape=value)
    assert (net.input_shape, net.output_shape) == ((4,), (3,))
    plain = fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0)
    np.testing.assert_array_equal(net.predict(rows()), plain.predict(rows()))
    for name in ("input_shape", "output_shape"):
        with pytest.raises(AttributeError):
            setattr(net, name, (4,))


# ---------------------------------------------------------------- where a shape is kept


def image_layers():
    return [
        fo.nn.Standardize(3),
        fo.nn.Dense(3, 8, bias=False),
        fo.nn.BatchNorm(8, activation="relu"),
        fo.nn.Dropout(0.5),
        Halved(),
        fo.nn.Residual([fo.nn.Dense(8, 4), fo.nn.Dense(4, 8)]),
        fo.nn.Maxout(8, 2),
    ]


def written(net, tmp_path):
    net.save(tmp_path / "m.safetensors")
    return fo.nn.load(tmp_path / "m.safetensors")


WAYS = {
    "file": written,
    "pickle": lambda net, tmp_path: pickle.loads(pickle.dumps(net)),
    "copy": lambda net, tmp_path: copy.deepcopy(net),
    "fold": lambda net, tmp_path: net.fold(),
    "file of a folded one": lambda net, tmp_path: written(net.fold(), tmp_path),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_input_shape_survives(way, uncompiled, tmp_path):
    net = fo.nn.Sequential(image_layers(), rng=0, input_shape=(28, 20, 3))
    net.layers[0].calibrated = True
    twin = WAYS[way](net, tmp_path)
    assert twin.input_shape == net.input_shape == (28, 20, 3)
    assert twin.output_shape == net.output_shape == (14, 10, 2)
    assert (twin.in_features, twin.out_features) == (3, 2)
    assert repr(twin).endswith("dtype=float32, input_shape=(28, 20, 3))")


@pytest.mark.parametrize("way", WAYS)
def test_a_shape_that_was_not_given_is_not_kept(way, tmp_path):
    net = WAYS[way](fo.nn.Sequential([fo.nn.BatchNorm(4), fo.nn.Dense(4, 3)], rng=0), tmp_path)
    assert net.input_shape == (4,)
    assert "input_shape" not in repr(net)
    net.save(tmp_path / "again.safetensors")
    assert "input_shape" not in description(tmp_path / "again.safetensors")


def test_a_file_whose_input_shape_does_not_fit_its_layers_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0, input_shape=(4,)).save(path)
    rewrite(path, input_shape=[2, 2, 5])
    with pytest.raises(
        ValueError, match=r"m\.safetensors: .*layers\[0\] \(Dense\): expected 4 channels, got 5 from the"
    ):
        fo.nn.load(path)


@pytest.mark.parametrize("given", [None, (4,)])
@pytest.mark.parametrize("written_with", [None, (4,)])
def test_a_run_of_the_same_shape_is_resumed_and_of_another_refused(given, written_with, tmp_path):
    path, x, y = tmp_path / "run.safetensors", rows(), rows(columns=3)

    def trainer(input_shape):
        return fo.nn.Trainer(fo.nn.Sequential([fo.nn.Dense(4, 3)], rng=0, input_shape=input_shape), "mse", "sgd")

    one, other = trainer(written_with), trainer(given)
    one.fit(x, y)
    one.save(path)
    assert fo.nn.load(path).input_shape == (4,)
    other.resume(path)
    np.testing.assert_array_equal(other.net.predict(x), one.net.predict(x))
    rewrite(path, input_shape=[2, 2, 4])
    with pytest.raises(ValueError, match=r"expected input_shape \(4,\), got \(2, 2, 4\)"):
        other.resume(path)


def test_the_table_of_a_network_shows_images(uncompiled):
    net = fo.nn.Sequential(image_layers(), rng=0, input_shape=(28, 20, 3))
    lines = [line.split() for line in fo.nn.summary(net).splitlines()]
    table = {" ".join(line[:-7]): (" ".join(line[-7:-4]), line[-2]) for line in lines[1:]}
    assert table == {
        "Standardize": ("28x20x3 -> 28x20x3", "0"),
        "Dense": ("14x10x4 -> 14x10x8", f"{140 * 32:,}"),  # inside the shortcut, the last of this name
        "BatchNorm relu": ("28x20x8 -> 28x20x8", "0"),
        "Dropout 0.5": ("28x20x8 -> 28x20x8", "0"),
        "Halved": ("28x20x8 -> 14x10x8", "0"),
        "Residual": ("14x10x8 -> 14x10x8", "0"),
        "Maxout 2 pieces": ("14x10x8 -> 14x10x2", f"{140 * 32:,}"),
        "total": ("28x20x3 -> 14x10x2", f"{560 * 24 + 140 * (32 + 32 + 32):,}"),
    }


@pytest.mark.parametrize("name", [name for name in EXAMPLES if LAYERS[name].calibration])
def test_statistics_of_images_are_those_of_their_channels(name):
    images = rows(30).reshape(5, 2, 3, 4)
    one, other = EXAMPLES[name](), EXAMPLES[name]()
    for layer in (one, other):
        layer.build(None, np.float64, (2, 3, 4))
    one.calibrate(images)
    other.calibrate(rows(30))
    for a, b in zip(one.arrays().values(), other.arrays().values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_mini_batch_of_images_is_one_of_all_their_positions():
    images = rows(30).reshape(5, 2, 3, 4)
    one, other = fo.nn.BatchNorm(4), fo.nn.BatchNorm(4)
    for layer in (one, other):
        layer.build(None, np.float64, (2, 3, 4))
    one.calibrate(images, 2)
    other.calibrate(images[:4].reshape(-1, 4), 12)
    np.testing.assert_array_equal(one.running_mean, other.running_mean)
    np.testing.assert_array_equal(one.running_var, other.running_var)


# ---------------------------------------------------------------- neighbors in inference

NEIGHBORS = {
    "Standardize": lambda: fo.nn.Standardize(4),
    "Whiten": lambda: fo.nn.Whiten(4),
    "BatchNorm": lambda: fo.nn.BatchNorm(4),
    "BatchNorm relu": lambda: fo.nn.BatchNorm(4, activation="relu"),
    "Dense": lambda: fo.nn.Dense(4, 4),
    "Dense relu": lambda: fo.nn.Dense(4, 4, "relu", bias=False),
    "GroupedDense": lambda: fo.nn.GroupedDense(4, 4, 2),
    "Maxout": lambda: fo.nn.Maxout(4, 4),
    "Dropout": lambda: fo.nn.Dropout(0.5),
    "Twice": Twice,
    "Residual": lambda: block(fo.nn.Dense(4, 4)),
}
LEFT = {  # of two layers in a row, where that is not both
    **{(first, then): [then] for first in ("Standardize", "BatchNorm", "Twice") for then in ("Dense", "GroupedDense")},
    **{(first, "Maxout"): ["Maxout"] for first in ("Standardize", "BatchNorm", "Twice", "Whiten")},
    **{(first, "Dense relu"): ["Dense"] for first in ("Standardize", "BatchNorm", "Twice", "Whiten")},
    **{(first, then): [first] for first in ("Dense", "GroupedDense") for then in ("BatchNorm", "BatchNorm relu")},
    ("Whiten", "Dense"): ["Dense"],
    **{(first, "Dropout"): [first.split()[0]] for first in NEIGHBORS if first != "Dropout"},
    **{("Dropout", then): [then.split()[0]] for then in NEIGHBORS if then != "Dropout"},
}
PAIRS = [pair for pair in itertools.product(NEIGHBORS, NEIGHBORS) if pair != ("Dropout", "Dropout")]
IN_SHORTCUTS = [pair for pair in PAIRS if not {"Standardize", "Whiten"} & set(pair)]


def assert_folds(pair, wrap, unwrap):
    layers = wrap([NEIGHBORS[name]() for name in pair])
    net = fo.nn.Sequential(layers, rng=0, dtype=np.float64, input_shape=(4,)).calibrate(rows())
    folded = net.fold()
    left = [type(layer).__name__ for layer in unwrap(folded.layers)]
    assert left == LEFT.get(pair, [name.split()[0] for name in pair])
    np.testing.assert_allclose(folded.predict(rows()), net.predict(rows()), rtol=0, atol=1e-11)


@pytest.mark.parametrize("pair", PAIRS, ids=" then ".join)
def test_a_layer_folds_into_its_neighbor_where_the_two_are_one_product(pair):
    assert_folds(pair, list, list)


@pytest.mark.parametrize("pair", IN_SHORTCUTS, ids=" then ".join)
def test_layers_inside_a_shortcut_fold_likewise(pair):
    assert_folds(pair, lambda layers: [fo.nn.Dense(4, 4, "relu"), block(*layers)], lambda layers: layers[1].layers)


def test_a_layer_that_only_trains_is_left_out_of_inference_wherever_it_stands():
    layers = [fo.nn.Dropout(0.5), fo.nn.Dense(4, 4), block(block(fo.nn.Dropout(0.1), fo.nn.Dense(4, 4)))]
    left = inference(layers)
    assert [place for place, _ in named(left)] == ["layers.0", "layers.1.0.0"]
    assert not any(layer.training_only for _, layer in named(left))
