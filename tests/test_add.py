"""Parallel branches that are added: what they compute, folding, what does not fit.

Pass criterion: outputs have the bits of the branches run apart and added from left to right; gradients and products
with the Hessian are within RTOL of central differences, relative to the largest.
"""

import copy
from functools import reduce

import numpy as np
import pytest

import fastopt as fo

RTOL = 1e-6
SHAPES = {"vectors": (4,), "images": (5, 3, 4)}
BRANCHES = {
    "one": lambda: [[fo.nn.Dense(4, 3, "relu")]],
    "two": lambda: [[fo.nn.Dense(4, 3, "tanh")], [fo.nn.Dense(4, 5, "gelu"), fo.nn.Dense(5, 3)]],
    "the input": lambda: [[], [fo.nn.Dense(4, 4)]],
    "the input twice": lambda: [[fo.nn.Dense(4, 4)], [], []],
    "normalized": lambda: [[fo.nn.Dense(4, 3), fo.nn.BatchNorm(3, activation="relu")], [fo.nn.Dense(4, 3)]],
    "nested": lambda: [
        [fo.nn.Dense(4, 3, "tanh"), fo.nn.Add([[fo.nn.Dense(3, 2)], [fo.nn.Dense(3, 2, "silu")]])],
        [fo.nn.Concat([[fo.nn.Dense(4, 1)], [fo.nn.Add([[], []]), fo.nn.Dense(4, 1)]])],
    ],
    "a shortcut": lambda: [[fo.nn.Residual([fo.nn.Dense(4, 4, "tanh")]), fo.nn.Dense(4, 2)], [fo.nn.Dense(4, 2)]],
}
every_kind = pytest.mark.parametrize("kind", BRANCHES)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def network(kind, shape, dtype=np.float64):
    """Dense, the branches, dense: what comes before and after has gradients too."""
    branches = fo.nn.Add(BRANCHES[kind]())
    after = fo.nn.Dense(branches.output_shape(shape)[-1], 2)
    return fo.nn.Sequential([fo.nn.Dense(4, 4, "tanh"), branches, after], rng=1, dtype=dtype, input_shape=shape)


@every_shape
@every_kind
def test_the_output_is_the_sum_of_the_branches(kind, shape, dtype):
    net = network(kind, shape, dtype)
    x = normal(7, *shape, dtype=dtype)
    before = fo.nn.Sequential([copy.deepcopy(net.layers[0])], dtype=dtype, input_shape=shape).predict(x)
    apart = [
        fo.nn.Sequential(copy.deepcopy(list(branch)), dtype=dtype, input_shape=shape).predict(before)
        if branch
        else before
        for branch in net.layers[1].branches
    ]
    added = fo.nn.Sequential(copy.deepcopy(list(net.layers[:2])), dtype=dtype, input_shape=shape)
    for threads in (1, 2, 3):
        with fo.num_threads(threads):
            np.testing.assert_array_equal(added.predict(x), reduce(np.add, apart))


@every_shape
@every_kind
def test_gradients_and_products_with_the_hessian_are_those_of_differences(kind, shape):
    net = network(kind, shape)
    x, y, step = normal(4, *shape), normal(4, *shape[:-1], 2, seed=2), 1e-6
    _, grads = net.value_and_grad(x, y, "mse")
    v = [normal(*p.shape, seed=3) for p in net.parameters()]
    product = net.hvp(x, y, v, "mse")
    ends = []
    for sign in (1, -1):
        moved = copy.deepcopy(net)
        for p, d in zip(moved.parameters(), v, strict=True):
            p += sign * step * d
        ends.append(moved.value_and_grad(x, y, "mse"))
    along = sum((g * d).sum() for g, d in zip(grads, v, strict=True))
    assert (ends[0][0] - ends[1][0]) / (2 * step) == pytest.approx(along, rel=RTOL)
    for found, one, other in zip(product, ends[0][1], ends[1][1], strict=True):
        wanted = (one - other) / (2 * step)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=RTOL * max(1, np.abs(wanted).max()))


@every_shape
@every_kind
def test_layers_fold_within_their_branch(kind, shape, dtype):
    net = network(kind, shape, dtype)
    net.calibrate(normal(30, *shape, dtype=dtype))
    x = normal(6, *shape, dtype=dtype, seed=5)
    folded = net.fold()
    tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype.name]
    np.testing.assert_allclose(folded.predict(x), net.predict(x), rtol=tolerance, atol=tolerance)
    if kind == "normalized":
        assert [[type(layer).__name__ for layer in branch] for branch in folded.layers[1].branches] == [["Dense"]] * 2


def test_a_block_of_resnet_changes_the_size_of_images(dtype):
    block = [fo.nn.Conv2d(3, 6, 3, 2, 1, activation="relu"), fo.nn.Conv2d(6, 6, 3, padding=1)]
    net = fo.nn.Sequential([fo.nn.Add([block, [fo.nn.Conv2d(3, 6, 1, 2)]])], rng=0, dtype=dtype, input_shape=(9, 7, 3))
    assert net.output_shape == (5, 4, 6)
    trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.01))
    x = normal(4, 9, 7, 3, dtype=dtype)
    losses = [trainer.step(x, np.zeros((4, 5, 4, 6), dtype)) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fo.nn.Add([]), "branches: expected a list of at least one branch"),
        (lambda: fo.nn.Add([fo.nn.Dense(2, 2)]), None),
        (lambda: fo.nn.Add([[fo.nn.Dense(4, 2)], [fo.nn.Dense(4, 3)]]), r"that end equally wide, got \[2, 3\]"),
        (lambda: fo.nn.Add([[fo.nn.Standardize(4)]]), "expected no Standardize inside a branch"),
        (
            lambda: fo.nn.Sequential([fo.nn.Add([[], [fo.nn.Dense(4, 3)]])]),
            r"that end equally wide, got \[3, 4\]",
        ),
        (
            lambda: fo.nn.Sequential([fo.nn.Add([[fo.nn.Dense(4, 3), fo.nn.Dense(4, 3)]])]),
            r"branches\[0\]: layers\[1\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(TypeError if message is None else ValueError, match=message):
        make()
