"""Augmentation: what RandomShift and RandomFlip do to images and gradients, and the quality of what they draw.

Pass criterion: a network has the bits of one without augmentation on the images of the NumPy formula; gradients are
those of the formula to rounding, and have the same bits at any thread count. Statistics, all of one fixed set of draws:
4 standard deviations for a single number, 5 for the worst of many.
"""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import DTYPES, augment, moves

import fastopt as fo
from fastopt._kernels import core

THREADS = (1, 2, 3, 8)


def normal(dtype, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def program(dtype, shape, most, flips, border=(0, 0), seed=7):
    """The identity, trained -> augmentation -> a copy: the gradient of the identity is made of that of the images."""
    c = shape[-1]
    values = [{"shape": shape, "border": b} for b in ((0, 0), border, border, (0, 0))]
    own = {"shift": most, "flip": flips, "seed": np.array(seed, np.uint64)}
    given = [
        {"kind": "dense", "sources": (0,), "dst": 1, "weights": [np.eye(c, dtype=dtype)]},
        {"kind": "augment", "sources": (1,), "dst": 2, "own": own},
        {"kind": "add", "sources": (2,), "dst": 3},
    ]
    return core.Training(core.Program(values, given, np.dtype(dtype).num), "mse", None, 8)


def loss_of(y, target):
    return ((y.astype(float) - target) ** 2).mean()


# ---------------------------------------------------------------- what it does


@given(
    st.integers(1, 6),
    st.tuples(st.integers(1, 9), st.integers(2, 9)),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_outputs_and_gradients_equal_the_formula(n, size, channels, down, along, data):
    most = tuple(data.draw(st.integers(0, k - 1)) for k in size)
    step, border = data.draw(st.integers(0, 2**40)), data.draw(st.tuples(*[st.integers(0, 2)] * 2))
    for dtype in DTYPES:
        training = program(dtype, (*size, channels), most, (down, along), border)
        x, target = normal(dtype, n, *size, channels), normal(dtype, n, *size, channels, seed=1)
        training.batches = step
        loss = training.step(x, target)
        y = augment(x, most, (down, along), 7, step)
        assert loss == pytest.approx(loss_of(y, target), rel=1e-5)
        dy = (y - target) * dtype(2 / y.size)
        back = np.zeros_like(x)  # the transposed map, by the basis of one channel
        where = augment(np.arange(1, n * size[0] * size[1] + 1).reshape(n, *size, 1), most, (down, along), 7, step)
        back.reshape(-1, channels)[where[where > 0] - 1] = dy[where[..., 0] > 0]
        want = np.einsum("nhwc,nhwd->cd", back.astype(float), x)
        np.testing.assert_allclose(training.grads[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", THREADS)
def test_any_team_gives_the_same_bits(threads, dtype):
    def results(threads):
        training = program(dtype, (9, 7, 5), (3, 2), (True, True))
        x, y = normal(dtype, 8, 9, 7, 5), normal(dtype, 8, 9, 7, 5, seed=1)
        with fo.num_threads(threads):
            loss = training.step(x, y)
            return [np.array(loss), training.grads[0], *training.hvp(x, y, [np.ones((5, 5), dtype)])]

    for a, b in zip(results(threads), results(1), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_moves_as_numbers_do_and_is_gone_where_it_leaves(value, dtype):
    x = np.zeros((1, 4, 5, 2), dtype)
    x[0, 0, 1] = value
    left = set()
    for step in range(20):
        training = program(dtype, (4, 5, 2), (2, 1), (False, True))
        training.batches = step
        seen = augment(x, (2, 1), (False, True), 7, step)
        left.add(bool(np.isfinite(seen).all()))
        with np.errstate(invalid="ignore"):
            assert np.isfinite(training.step(x, np.zeros_like(x))) == np.isfinite(seen).all()
    assert left == {True, False}


# ---------------------------------------------------------------- what is drawn

N = 20_000


def test_shifts_are_uniform_and_those_of_both_axes_independent():
    most = (3, 2)
    found, _ = moves(N, most, (False, False), 5, 3)
    cells = np.array(found) + most
    counts = np.bincount(cells @ [2 * most[1] + 1, 1], minlength=35)
    assert len(counts) == 35
    assert np.abs(counts - N / 35).max() < 5 * np.sqrt(N / 35)


def test_flips_are_even_and_independent_of_each_other_of_the_next_image_and_of_the_next_step():
    (_, one), (_, other) = (moves(N, (0, 0), (True, True), 5, step) for step in (0, 1))
    one, other = np.array(one), np.array(other)
    pairs = [one[:, 0], one[:, 1], one[:, 0] ^ one[:, 1], one[1:, 0] ^ one[:-1, 0], one[:, 0] ^ other[:, 0]]
    for bits in pairs:
        assert abs(bits.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(bits))


# ---------------------------------------------------------------- the layers


def network(layers, dtype=np.float64, channels=2, head=True):
    more = [fo.nn.Dense(channels, 3)] if head else []
    return fo.nn.Sequential([*layers, *more], rng=0, dtype=dtype, input_shape=(6, 5, channels))


def seen_by_the_last(net, x):
    """Images x as the layer after all augmentations sees them in the next batch."""
    for layer in net.layers[:-1]:
        option = layer.config().get
        flips = (option("vertical", False), option("horizontal", False))
        x = augment(x, (option("height", 0), option("width", 0)), flips, int(layer.seed), net.draws)
    return x


def without(net):
    """The last layer by itself."""
    return fo.nn.Sequential([copy.deepcopy(net.layers[-1])], dtype=net.dtype, input_shape=net.input_shape)


LAYERS = {
    "shift": lambda: [fo.nn.RandomShift(2, 1)],
    "flip": lambda: [fo.nn.RandomFlip()],
    "both flips": lambda: [fo.nn.RandomFlip(True, True)],
    "all": lambda: [fo.nn.RandomShift(1, 3), fo.nn.RandomFlip(vertical=True), fo.nn.RandomShift(0, 1)],
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_network_trains_on_what_the_formula_says_and_predicts_without(name):
    net = network(LAYERS[name]())
    plain = without(net)
    x = normal(np.float64, 8, 6, 5, 2)
    np.testing.assert_array_equal(net.predict(x), plain.predict(x))
    assert [type(layer) for layer in net.fold().layers] == [fo.nn.Dense]
    for _ in range(3):
        seen = seen_by_the_last(net, x)
        assert not np.array_equal(seen, x)
        loss, grads = net.value_and_grad(x, np.zeros((8, 6, 5, 3)), "mse")
        want, expected = plain.value_and_grad(seen, np.zeros((8, 6, 5, 3)), "mse")
        assert loss == want
        np.testing.assert_equal(grads, expected)


def test_gradients_and_products_with_the_hessian_are_those_of_differences():
    shortcut = fo.nn.Residual([fo.nn.RandomFlip(), fo.nn.Dense(4, 4, "silu")])
    layers = [fo.nn.Dense(2, 4, "tanh"), *LAYERS["all"](), shortcut, fo.nn.Dense(4, 3)]
    net = fo.nn.Sequential(layers, rng=0, dtype=np.float64, input_shape=(6, 5, 2))
    x, y = normal(np.float64, 5, 6, 5, 2), normal(np.float64, 5, 6, 5, 3, seed=1)
    v = [normal(np.float64, *p.shape, seed=2) for p in net.parameters()]

    def at(step):
        for p, direction in zip(net.parameters(), v, strict=True):
            p += step * direction
        net.draws = 4
        loss, grads = net.value_and_grad(x, y, "mse")
        for p, direction in zip(net.parameters(), v, strict=True):
            p -= step * direction
        return loss, grads

    h = 1e-5
    (more, grads_more), (less, grads_less), (_, grads) = at(h), at(-h), at(0)
    slope = sum((g * d).sum() for g, d in zip(grads, v, strict=True))
    assert (more - less) / (2 * h) == pytest.approx(slope, rel=1e-7)
    net.draws = 4
    for product, a, b in zip(net.hvp(x, y, v, "mse"), grads_more, grads_less, strict=True):
        np.testing.assert_allclose(product, (a - b) / (2 * h), rtol=1e-6, atol=1e-8)


def test_without_a_shift_or_a_flip_nothing_is_added_to_the_program():
    x, y = normal(np.float64, 4, 6, 5, 2), np.zeros((4, 6, 5, 3))
    net = network([fo.nn.RandomShift(0, 0), fo.nn.RandomFlip(False)])
    plain = without(net)
    np.testing.assert_equal(net.value_and_grad(x, y, "mse"), plain.value_and_grad(x, y, "mse"))


def trainer(dtype=np.float64):
    net = network(LAYERS["all"](), dtype)
    return fo.nn.Trainer(net, "mse", fo.optim.Adam(net.parameters()), max_batch=3)


def test_an_interrupted_run_continues_bit_for_bit(dtype, tmp_path):
    x, y = normal(dtype, 10, 6, 5, 2), normal(dtype, 10, 6, 5, 3, seed=1)
    whole, first = trainer(dtype), trainer(dtype)
    whole.fit(x, y, epochs=4, batch_size=3)
    first.fit(x, y, epochs=2, batch_size=3)
    first.save(tmp_path / "run.safetensors")
    other = trainer(dtype)
    other.net.layers[0].seed = 1
    other.resume(tmp_path / "run.safetensors")
    other.fit(x, y, epochs=2, batch_size=3)
    np.testing.assert_equal(other.net.parameters(), whole.net.parameters())


@pytest.mark.parametrize("way", ["file", "copy", "pickle"])
def test_a_seed_survives(way, tmp_path):
    net = network(LAYERS["all"]())
    net.save(tmp_path / "m.safetensors")
    twin = {
        "file": lambda: fo.nn.load(tmp_path / "m.safetensors"),
        "copy": lambda: copy.deepcopy(net),
        "pickle": lambda: pickle.loads(pickle.dumps(net)),
    }[way]()
    x, y = normal(np.float64, 4, 6, 5, 2), np.zeros((4, 6, 5, 3))
    np.testing.assert_equal(twin.value_and_grad(x, y, "mse"), net.value_and_grad(x, y, "mse"))


def test_two_layers_of_a_network_draw_apart():
    net = network([fo.nn.RandomShift(2, 2), fo.nn.RandomShift(2, 2)])
    assert net.layers[0].seed != net.layers[1].seed


WRONG = {
    "fo.nn.RandomShift(-1, 2)": "height: expected a whole number of at least 0, got -1",
    "fo.nn.RandomShift(1, 2.5)": "width: expected a whole number of at least 0, got 2.5",
    "fo.nn.RandomFlip('left')": "horizontal: expected",
    "network([fo.nn.RandomShift(6, 1)])": r"layers\[0\] \(RandomShift\): expected images of at least 7x2 .*, got 6x5",
    "fo.nn.Sequential([fo.nn.Dense(4, 3), fo.nn.RandomFlip()])": r"RandomFlip\): expected images .*, got \(3,\)",
    "network([fo.nn.RandomFlip()], head=False)": "expected a layer besides RandomFlip, which inference leaves out",
}


@pytest.mark.parametrize("call", WRONG)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match=WRONG[call]):
        eval(call)
