"""Parallel branches joined along channels: what they compute, where their values lie, files, folding.

Pass criterion: outputs have the bits of the branches run apart; gradients and products with the Hessian are within RTOL
of central differences, relative to the largest.
"""

import copy
import pickle

import numpy as np
import pytest

import fastopt as fo
from fastopt.nn.layout import Layout

RTOL = 1e-6
SHAPES = {"vectors": (4,), "images": (5, 3, 4)}
BRANCHES = {
    "one": lambda: [[fo.nn.Dense(4, 3, "relu")]],
    "two": lambda: [[fo.nn.Dense(4, 3, "tanh")], [fo.nn.Dense(4, 5, "gelu"), fo.nn.Dense(5, 2)]],
    "the input": lambda: [[], [fo.nn.Dense(4, 3)]],
    "the input twice": lambda: [[fo.nn.Dense(4, 3)], [], []],
    "normalized": lambda: [[fo.nn.Dense(4, 3), fo.nn.BatchNorm(3, activation="relu")], [fo.nn.BatchNorm(4)]],
    "softmax": lambda: [[fo.nn.Dense(4, 3, "softmax")], [fo.nn.Maxout(4, 5)], [fo.nn.GroupedDense(4, 6, 2, "silu")]],
    "nested": lambda: [
        [fo.nn.Dense(4, 3, "tanh"), fo.nn.Concat([[fo.nn.Dense(3, 2)], [fo.nn.Dense(3, 1)], []])],
        [fo.nn.Concat([[fo.nn.Dense(4, 2, "silu")], [fo.nn.Dense(4, 3)]])],
    ],
    "a shortcut": lambda: [[fo.nn.Residual([fo.nn.Dense(4, 4, "tanh")])], [fo.nn.Dense(4, 1)]],
}
every_kind = pytest.mark.parametrize("kind", BRANCHES)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def network(kind, shape, dtype=np.float64):
    """Dense, the branches, dense: what comes before and after has gradients too."""
    branches = fo.nn.Concat(BRANCHES[kind]())
    after = fo.nn.Dense(branches.output_shape(shape)[-1], 2)
    return fo.nn.Sequential([fo.nn.Dense(4, 4, "tanh"), branches, after], rng=1, dtype=dtype, input_shape=shape)


@every_shape
@every_kind
def test_the_output_is_that_of_the_branches_side_by_side(kind, shape, dtype):
    net = network(kind, shape, dtype)
    x = normal(7, *shape, dtype=dtype)
    before = fo.nn.Sequential([copy.deepcopy(net.layers[0])], dtype=dtype, input_shape=shape).predict(x)
    apart = [
        fo.nn.Sequential(copy.deepcopy(list(branch)), dtype=dtype, input_shape=shape).predict(before)
        if branch
        else before
        for branch in net.layers[1].branches
    ]
    joined = fo.nn.Sequential(copy.deepcopy(list(net.layers[:2])), dtype=dtype, input_shape=shape)
    assert joined.output_shape == net.layers[1].output_shape(shape)
    for threads in (1, 2, 3):
        with fo.num_threads(threads):
            np.testing.assert_array_equal(joined.predict(x), np.concatenate(apart, axis=-1))


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
    for got, plus, minus in zip(product, ends[0][1], ends[1][1], strict=True):
        want = (plus - minus) / (2 * step)
        np.testing.assert_allclose(got, want, rtol=0, atol=RTOL * max(1, np.abs(want).max()))


@every_shape
@every_kind
def test_the_bits_of_a_step_do_not_depend_on_threads(kind, shape, dtype):
    found = []
    for threads in (1, 2, 3, 8):
        with fo.num_threads(threads):
            net = network(kind, shape, dtype)
            trainer = fo.nn.Trainer(net, "mse", "adam")
            trainer.fit(normal(9, *shape), normal(9, *shape[:-1], 2), epochs=2, batch_size=4)
            found.append(net.predict(normal(9, *shape)))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("gauss_newton", [False, True])
def test_a_branch_that_moves_with_no_weight_has_no_tangent(gauss_newton):
    """Beside a branch with weights lie channels of the input alone: a product must not read memory there."""
    net = fo.nn.Sequential([fo.nn.Concat([[], [fo.nn.Dense(4, 3)]]), fo.nn.Dense(7, 1)], rng=0, dtype=np.float64)
    x, y, v = normal(6, 4), normal(6, 1, seed=1), [normal(*p.shape, seed=2) for p in net.parameters()]
    training = net.bind("mse")
    want = training.hvp(x, y, v, gauss_newton=gauss_newton)
    training.hvp(1e3 * x, y, v, gauss_newton=gauss_newton)
    for a, b in zip(training.hvp(x, y, v, gauss_newton=gauss_newton), want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(a).all() for a in want)


def test_branches_that_say_no_width_stand_where_a_width_is_checked():
    doubled = [fo.nn.Concat([[], []]), fo.nn.Dense(8, 4)]
    net = fo.nn.Sequential([fo.nn.Residual(doubled)], rng=0, input_shape=(4,), dtype=np.float64)
    x = normal(3, 4)
    np.testing.assert_allclose(net.predict(x), x + np.hstack([x, x]) @ doubled[1].weight.T, rtol=1e-12)
    with pytest.raises(ValueError, match="layers: expected a layer with a width of its own"):
        fo.nn.Sequential(doubled)


# ---------------------------------------------------------------- neighbors, statistics, files


@every_kind
def test_a_folded_network_computes_the_same(kind):
    net = network(kind, (5, 3, 4)).calibrate(normal(50, 5, 3, 4))
    fast, x = net.fold(), normal(7, 5, 3, 4)
    np.testing.assert_allclose(fast.predict(x), net.predict(x), rtol=0, atol=1e-12)


def test_layers_fold_within_their_branch():
    branch = [fo.nn.Dense(4, 3), fo.nn.BatchNorm(3, activation="relu"), fo.nn.Dropout(0.5)]
    net = fo.nn.Sequential(
        [fo.nn.Concat([branch, [fo.nn.BatchNorm(4), fo.nn.Dense(4, 2)], [fo.nn.Dropout(0.5)]])], rng=0
    )
    folded = net.fold().layers[0]
    assert [[type(layer).__name__ for layer in branch] for branch in folded.branches] == [["Dense"], ["Dense"], []]
    assert folded.branches[0][0].activation == "relu"
    assert [len(branch) for branch in net.layers[0].branches] == [3, 2, 1]


def test_statistics_inside_a_branch_are_those_of_what_it_reads():
    branches = [[fo.nn.Dense(4, 3), fo.nn.BatchNorm(3)], [fo.nn.BatchNorm(4)]]
    net = fo.nn.Sequential([fo.nn.Dense(4, 4), fo.nn.Concat(branches)], rng=0, dtype=np.float64)
    x = normal(30, 4)
    net.calibrate(x)
    before = x @ net.layers[0].weight.T
    inner = before @ branches[0][0].weight.T
    np.testing.assert_allclose(branches[0][1].running_mean, inner.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(branches[1][0].running_var, before.var(axis=0, ddof=1), rtol=1e-12)


@every_kind
def test_files_copies_and_pickles_keep_the_branches(kind, tmp_path):
    net = network(kind, (5, 3, 4))
    net.save(tmp_path / "m.safetensors")
    x = normal(3, 5, 3, 4)
    for twin in (fo.nn.load(tmp_path / "m.safetensors"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(twin) == repr(net)
        assert [len(branch) for branch in twin.layers[1].branches] == [len(b) for b in net.layers[1].branches]
        np.testing.assert_array_equal(twin.predict(x), net.predict(x))


def test_a_run_is_resumed(tmp_path):
    x, y = normal(9, 4), normal(9, 2, seed=1)
    trainers = [fo.nn.Trainer(network("nested", (4,)), "mse", "adam") for _ in range(2)]
    trainers[0].fit(x, y)
    trainers[0].save(tmp_path / "run.safetensors")
    trainers[1].resume(tmp_path / "run.safetensors")
    assert trainers[0].fit(x, y) == trainers[1].fit(x, y)


# ---------------------------------------------------------------- where values lie


def laid_out(layers, shape, training=False):
    layout = Layout(shape, training)
    end = 0
    for layer in layers:
        end = layer.lay_out(layout, end)
    return layout, end


@pytest.mark.parametrize("kind", [kind for kind in BRANCHES if "input" not in kind])
def test_joining_copies_nothing(kind):
    net = network(kind, (5, 3, 4))
    layout, _ = laid_out(net.layers, (5, 3, 4))
    copies = [entry for entry in layout.entries if entry["kind"] == "add" and len(entry["sources"]) == 1]
    assert len(copies) == (1 if kind == "nested" else 0)  # its empty branch


def test_a_value_that_others_read_is_copied_into_its_channels():
    layout = Layout((4,), False)
    owner, mine = layout.value((8,)), layout.value((4,))
    layout.add("add", 0, mine)
    layout.add("add", mine, layout.value((4,)))
    layout.join(mine, owner, 0)
    assert layout.places[mine] == {}
    assert layout.entries[-1]["sources"] == (mine,)
    assert layout.places[-1] == {"owner": owner, "first": 0}


def test_a_border_grows_to_what_its_widest_reader_asks_for():
    layout = Layout((6, 6, 2), False)
    one = layout.value((6, 6, 2))
    layout.add("add", 0, one)
    assert layout.bordered(one, (0, 0)) == one
    assert layout.places[one] == {}
    assert {layout.bordered(one, border) for border in ((1, 0), (0, 2), (1, 1))} == {one}
    assert layout.places[one] == {"border": (1, 2)}


def test_what_has_to_stay_without_a_border_is_copied_into_one():
    layout = Layout((6, 6, 2), False)
    one = layout.value((6, 6, 2))
    layout.add("add", 0, one)
    assert layout.plain(one) == one
    for src in (0, one):
        copied = layout.bordered(src, (1, 1))
        assert copied != src
        assert layout.places[src] == {}
        assert layout.places[copied] == {"border": (1, 1)}
        assert layout.entries[-1]["sources"] == (src,)
    assert layout.plain(copied) != copied


@pytest.mark.parametrize("layers", [
    lambda: [fo.nn.Flatten()],
    lambda: [fo.nn.Flatten(), fo.nn.Flatten()],
    lambda: [fo.nn.Dense(4, 3), fo.nn.Flatten()],
    lambda: [fo.nn.Concat([[fo.nn.Flatten()], [fo.nn.Flatten()]])],
    lambda: [fo.nn.Concat([[fo.nn.Dense(4, 3)]]), fo.nn.Flatten()],
    lambda: [fo.nn.Concat([[]])],
])  # fmt: skip
def test_a_network_may_end_in_what_is_no_memory_of_its_own(layers, dtype):
    net = fo.nn.Sequential(layers(), rng=0, dtype=dtype, input_shape=(5, 3, 4))
    x = normal(3, 5, 3, 4, dtype=dtype)
    assert net.predict(x).shape == (3, *net.output_shape)
    if not net.parameters():
        wide = 1 if len(net.output_shape) == 3 else len(net.predict(x)[0]) // 60
        np.testing.assert_array_equal(net.predict(x).reshape(3, -1), np.tile(x.reshape(3, -1), wide))


# ---------------------------------------------------------------- errors

WRONG = {
    "no branch": (lambda: [], ValueError, r"branches: expected a list of at least one branch, .* got \[\]"),
    "layers for branches": (
        lambda: [fo.nn.Dense(4, 3)],
        TypeError,
        r"branches\[0\]: expected a list of layers, got Dense",
    ),
    "no layer": (lambda: [[], [3]], TypeError, r"branches\[1\]\[0\]: expected a layer, got int"),
    "statistics": (
        lambda: [[fo.nn.Standardize(4)]],
        ValueError,
        "layers: expected no Standardize inside a branch, .*put it before",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_branches_that_are_none_are_refused(case):
    branches, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        fo.nn.Concat(branches())


MISFITS = {
    "unlike sizes": (
        lambda: [[fo.nn.Dense(4, 3)], [fo.nn.Flatten()]],
        "layers[0] (Concat): expected branches that end in one size, to join their channels, got (5, 3, 3), (60,) "
        "from the input",
    ),
    "inside": (
        lambda: [[], [fo.nn.Dense(4, 3), fo.nn.Dense(2, 2)]],
        "layers[0] (Concat): branches[1]: layers[1] (Dense): expected 2 channels, got 3 from layers[0] (Dense) "
        "from the input",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_branches_that_do_not_fit_are_named(case):
    branches, message = MISFITS[case]
    with pytest.raises(ValueError, match=r".") as error:
        fo.nn.Sequential([fo.nn.Concat(branches())], input_shape=(5, 3, 4))
    assert str(error.value) == message


def test_the_same_layer_in_two_branches_is_refused():
    layer = fo.nn.Dense(4, 3)
    with pytest.raises(ValueError, match="expected each layer once"):
        fo.nn.Sequential([fo.nn.Concat([[layer], [layer]])])


@pytest.mark.parametrize("name", ["layers", "branches"])
def test_branches_stay_what_they_are(name):
    with pytest.raises(AttributeError, match=f"{name}: stays what the Concat was made with"):
        setattr(fo.nn.Concat([[]]), name, ())
