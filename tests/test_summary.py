"""The table of a network: every number equals what the network holds and does."""

import numpy as np
import pytest

import fastopt as fo


def network(dtype=np.float32):
    layers = [
        fo.nn.Standardize(6),
        fo.nn.Whiten(6, "pca"),
        fo.nn.GroupedDense(6, 12, 3, activation="gelu", bias=False),
        fo.nn.Residual([fo.nn.Dropout(0.25), fo.nn.Residual([fo.nn.Dense(12, 12, "tanh")])]),
        fo.nn.Maxout(12, 1000, pieces=4),
    ]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype)


def table(net):
    """Lines as (name, shape, parameters, multiply-adds, bytes)."""
    lines = [line.rsplit(maxsplit=6) for line in fo.nn.summary(net).splitlines()[1:]]
    return [(p[0], " ".join(p[1:4]), *(int(n.replace(",", "")) for n in p[4:])) for p in lines]


def test_every_layer_has_its_line():
    item = 4
    assert table(network()) == [
        ("Standardize", "6 -> 6", 0, 0, 12 * 8),  # its statistics are float64
        ("Whiten pca", "6 -> 6", 0, 36, 6 * 8 + 36 * item),
        ("GroupedDense gelu 3 groups", "6 -> 12", 24, 24, 24 * item),
        ("Residual", "12 -> 12", 0, 0, 0),
        ("  Dropout 0.25", "12 -> 12", 0, 0, 8),
        ("  Residual", "12 -> 12", 0, 0, 0),
        ("    Dense tanh", "12 -> 12", 156, 144, 156 * item),
        ("Maxout 4 pieces", "12 -> 1000", 52_000, 48_000, 52_000 * item),
        ("total", "6 -> 1000", 52_180, 48_204, 52_216 * item + 19 * 8),
    ]


def test_totals_are_those_of_the_network(dtype):
    net = network(dtype)
    parameters, _, size = table(net)[-1][2:]
    assert parameters == sum(a.size for a in net.parameters())
    assert size == sum(a.nbytes for a in fo.nn.files.arrays_of(net).values())


def test_columns_stand_under_their_heads():
    lines = fo.nn.summary(network()).splitlines()
    assert lines[0].split() == ["layer", "shape", "parameters", "multiply-adds", "bytes"]
    assert len({len(line) for line in lines}) == 1
    assert "52,180" in lines[-1]


@pytest.mark.parametrize("make", [lambda net: net.fold(), lambda net: net])
def test_a_folded_network_has_one_too(make):
    x = np.random.default_rng(0).normal(size=(50, 6))
    net = make(network().calibrate(x))
    assert len(table(net)) == len(list(fo.nn.layers.walk(net.layers))) + 1
