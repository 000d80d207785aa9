"""Published networks: what is counted, without a weight, and that they predict, fold and train.

Pass criterion: counts are equal to the last digit; a folded network is within RTOL of the largest output.
"""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastopt as fo
from fastopt.nn.layout import Layout
from fastopt.nn.summaries import depth

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
# so many normalized layers magnify rounding: in float32 the network itself is as far from that in float64
RTOL = {np.dtype(np.float32): 5e-3, np.dtype(np.float64): 1e-11}
SHAPES = {"lenet": (28, 28, 1), "alexnet": (227, 227, 3), "vgg16": (224, 224, 3), "inception_v1": (224, 224, 3)}
LAYERS = {name: getattr(fo.nn.models, f"{name}_layers") for name in SHAPES}
TOTALS = {  # depth, trained numbers, multiply-adds
    "lenet": (4, 317_066, 4_002_304),
    "alexnet": (8, 60_965_224, 724_406_816),
    "vgg16": (16, 138_357_544, 15_470_264_320),
    "inception_v1": (22, 7_005_832, 1_582_671_872),
}
# Szegedy et al. 2015, table 1: parameters in thousands of 1024, multiply-adds in millions
PUBLISHED = {
    "convolution 7×7/2": (2.7, 34),
    "max pool": None,
    "convolution 1×1, 3×3": (112, 360),
    "max pool ": None,
    "inception 3a": (159, 128),
    "inception 3b": (380, 304),
    "max pool  ": None,
    "inception 4a": (364, 73),
    "inception 4b": (437, 88),
    "inception 4c": (463, 100),
    "inception 4d": (580, 119),
    "inception 4e": (840, 170),
    "max pool   ": None,
    "inception 5a": (1072, 54),
    "inception 5b": (1388, 71),
    "average pool": None,
    "dropout": None,
    "linear": (1000, 1),
}


def total(layers, input_shape):
    """Depth, trained numbers and multiply-adds of the last line of the table."""
    return tuple(int(n.replace(",", "")) for n in fo.nn.summary(layers, input_shape).splitlines()[-1].split()[-4:-1])


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_network_has_and_does_is_what_is_known_of_it(name):
    assert total(LAYERS[name](), SHAPES[name]) == TOTALS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_classes_are_the_outputs(name):
    assert fo.nn.layers.shapes(LAYERS[name](classes=7), SHAPES[name])[-1] == (7,)


def test_a_network_is_summarized_without_its_weights():
    tracemalloc.start()
    try:
        table = fo.nn.summary(fo.nn.models.vgg16_layers(), input_shape=(224, 224, 3))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert table.splitlines()[-1].split()[-1] == "553,430,192"  # bytes
    assert peak < 10e6


# ---------------------------------------------------------------- Inception-v1 beside the published table


def parts():
    """Layers of Inception-v1 as the published table has them, each with the shape before."""
    layers = fo.nn.models.inception_v1_layers(batch_norm=False)
    shapes = fo.nn.layers.shapes(layers, (224, 224, 3))
    groups = [[i] for i in range(len(layers)) if i != 3]
    groups[2] = [2, 3]  # the convolution 3x3 with the reduction before it
    return {name: ([layers[i] for i in group], shapes[group[0]]) for name, group in zip(PUBLISHED, groups, strict=True)}


def multiply_adds(layers, before):
    shapes = fo.nn.layers.shapes(layers, before)
    return sum(
        layer.multiply_adds(shape) + sum(multiply_adds(inner, shape) for inner in layer.chains())
        for layer, shape in zip(layers, shapes[:-1], strict=True)
    )


def counted(layers, before):
    """Output, depth, weights without biases, and multiply-adds."""
    held = [layer for layer in fo.nn.layers.walk(layers) if layer.weighted]
    weights = sum(np.prod(layer.array_specs(np.dtype(np.float32))["weight"].shape) for layer in held)
    end = fo.nn.layers.shapes(layers, before)[-1]
    return end, sum(map(depth, layers)), int(weights), multiply_adds(layers, before)


def line(name, layers, before):
    """A line of the table on the page."""
    output, deep, weights, work = counted(layers, before)
    ours, theirs = (f"{weights / 1024:,.1f}", f"{work / 1e6:,.0f}"), PUBLISHED[name]
    pairs = zip(ours, ("", "") if theirs is None else (f"{n:,}" for n in theirs), strict=True)
    cells = ["×".join(map(str, output)), str(deep), *itertools.chain.from_iterable(pairs)]
    if theirs is None:
        cells[2:] = [""] * 4
    return f"| {' | '.join([name.strip(), *cells])} |".replace("  ", " ")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_shows_what_is_counted_beside_what_was_published(name):
    assert line(name, *parts()[name]) in PAGE.read_text().splitlines()


def test_counts_differ_from_the_published_ones_where_the_page_says_so():
    far = []
    for name, theirs in PUBLISHED.items():
        if theirs is not None:
            _, _, weights, work = counted(*parts()[name])
            ours = (weights / 1024, work / 1e6)
            far += [name] * any(abs(a - b) > max(0.02 * b, 1) for a, b in zip(ours, theirs, strict=True))
    assert far == ["convolution 7×7/2", "inception 4c", "inception 5a"]


# ---------------------------------------------------------------- what they compute


def small_inception(dtype):
    """Inception-v1 on small images, which global pooling allows, its statistics not those it starts with."""
    net = fo.nn.Sequential(fo.nn.models.inception_v1_layers(classes=5), 0, dtype, input_shape=(33, 40, 3))
    return net.calibrate(images(dtype))


def images(dtype):
    return np.random.default_rng(0).normal(size=(4, 33, 40, 3)).astype(dtype)


def test_inception_folds_into_convolutions(dtype):
    net, x = small_inception(dtype), images(dtype)
    fast = net.fold()
    left = {type(layer).__name__ for layer in fo.nn.layers.walk(fast.layers)}
    assert left == {"Conv2d", "MaxPool2d", "Concat", "GlobalAvgPool2d", "Dense"}
    wanted = net.predict(x)
    np.testing.assert_allclose(fast.predict(x), wanted, rtol=0, atol=RTOL[dtype] * np.abs(wanted).max())


def test_inception_gives_the_same_bits_at_any_number_of_threads():
    found = []
    for threads in (1, 2, 3):
        with fo.num_threads(threads):
            net, x = small_inception(np.dtype(np.float32)), images(np.float32)
            trainer = fo.nn.Trainer(net, "cross_entropy", "sgd")
            found.append([trainer.step(x, [0, 1, 2, 3]), net.predict(x), net.fold().predict(x)])
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_whole_of_inception_predicts():
    net = fo.nn.models.inception_v1()
    y = net.predict(np.random.default_rng(0).normal(size=(1, 224, 224, 3)))
    assert y.shape == (1, 1000)
    assert np.isfinite(y).all()
    assert sum(p.size for p in net.parameters()) == TOTALS["inception_v1"][1]


def test_inference_by_inception_copies_nothing_but_its_input_into_a_border():
    layout, layers = Layout((224, 224, 3), False), fo.nn.models.inception_v1_layers(batch_norm=False)
    layout.end(fo.nn.layers.chain.lay_out(fo.nn.layers.inference(layers), layout, 0))
    assert [entry["sources"] for entry in layout.entries if entry["kind"] == "add"] == [(0,)]


@pytest.mark.parametrize("seed", [0, 1])
def test_lenet_learns_and_starts_from_its_seed(seed, dtype):
    net, twin = fo.nn.models.lenet(rng=seed, dtype=dtype), fo.nn.models.lenet(rng=seed, dtype=dtype)
    assert net.dtype == dtype
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)
    x, y = np.zeros((20, 28, 28, 1)), np.arange(20) % 10
    for i, k in enumerate(y):
        x[i, 2 * k : 2 * k + 8, 4:20] = 1
    trainer = fo.nn.Trainer(net, "cross_entropy", "adam")
    history = trainer.fit(x, y, epochs=8, batch_size=10)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
