"""The table of a network: every number equals what the network holds and does."""

import numpy as np
import pytest

import fastopt as fo


def layers():
    return [
        fo.nn.Standardize(6),
        fo.nn.Whiten(6, "pca"),
        fo.nn.GroupedDense(6, 12, 3, activation="gelu", bias=False),
        fo.nn.Residual([fo.nn.Dropout(0.25), fo.nn.Residual([fo.nn.Dense(12, 12, "tanh")])]),
        fo.nn.Maxout(12, 1000, pieces=4),
    ]


def network(dtype=np.float32):
    return fo.nn.Sequential(layers(), rng=0, dtype=dtype)


def table(net, input_shape=None):
    """Lines as (name, shape, depth, parameters, multiply-adds, bytes)."""
    lines = [line.rsplit(maxsplit=7) for line in fo.nn.summary(net, input_shape).splitlines()[1:]]
    return [(p[0], " ".join(p[1:4]), *(int(n.replace(",", "")) for n in p[4:])) for p in lines]


def test_every_layer_has_its_line():
    item = 4
    assert table(network()) == [
        ("Standardize", "6 -> 6", 0, 0, 0, 12 * 8),  # its statistics are float64
        ("Whiten pca", "6 -> 6", 0, 0, 36, 6 * 8 + 36 * item),
        ("GroupedDense gelu 3 groups", "6 -> 12", 1, 24, 24, 24 * item),
        ("Residual", "12 -> 12", 1, 0, 0, 0),
        ("  Dropout 0.25", "12 -> 12", 0, 0, 0, 8),
        ("  Residual", "12 -> 12", 1, 0, 0, 0),
        ("    Dense tanh", "12 -> 12", 1, 156, 144, 156 * item),
        ("Maxout 4 pieces", "12 -> 1000", 1, 52_000, 48_000, 52_000 * item),
        ("total", "6 -> 1000", 3, 52_180, 48_204, 52_216 * item + 19 * 8),
    ]


def test_totals_are_those_of_the_network(dtype):
    net = network(dtype)
    parameters, _, size = table(net)[-1][3:]
    assert parameters == sum(a.size for a in net.parameters())
    assert size == sum(a.nbytes for a in fo.nn.files.arrays_of(net).values())


def test_columns_stand_under_their_heads():
    lines = fo.nn.summary(network()).splitlines()
    assert lines[0].split() == ["layer", "shape", "depth", "parameters", "multiply-adds", "bytes"]
    assert len({len(line) for line in lines}) == 1
    assert "52,180" in lines[-1]


@pytest.mark.parametrize("make", [lambda net: net.fold(), lambda net: net])
def test_a_folded_network_has_one_too(make):
    x = np.random.default_rng(0).normal(size=(50, 6))
    net = make(network().calibrate(x))
    assert len(table(net)) == len(list(fo.nn.layers.walk(net.layers))) + 1


def branches():
    three = [fo.nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), activation="relu"), fo.nn.BatchNorm(6)]
    return [fo.nn.Concat([three, [fo.nn.Conv2d(4, 4, (1, 2), stride=(2, 1), groups=2), fo.nn.Conv2d(4, 4, 1)]])]


def test_layers_are_counted_before_they_have_arrays():
    assert fo.nn.summary(layers()) == fo.nn.summary(network())
    assert table(layers(), (4, 3, 6))[-1][2] == 3


def test_parallel_branches_are_as_deep_as_the_deepest():
    rows = {name: (depth, counted) for name, _, depth, *counted in table(branches(), (8, 5, 4))}
    assert rows["Concat"] == (2, [0, 0, 0])
    assert rows["total"][0] == 2
    assert rows["  Conv2d 3x2/2x1 relu"] == (1, [150, 4 * 4 * 6 * 24, 600])


@pytest.mark.parametrize(("call", "error"), [
    (lambda: fo.nn.summary(network(), (6,)), "input_shape: expected None, for the network has"),
    (lambda: fo.nn.summary([]), "layers: expected at least one layer"),
    (lambda: fo.nn.summary([fo.nn.Dense(4, 3)], (5,)), "expected 4 columns, got 5"),
    (lambda: fo.nn.summary([fo.nn.Dense(4, 3)], 4), "input_shape: expected"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, error):
    with pytest.raises(ValueError, match=error):
        call()
