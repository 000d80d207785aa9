"""Dropout: the kernels, the quality of what they draw, and the layer.

Pass criterion: the kernels equal the NumPy formula bit for bit. Statistics, all of one fixed
set of draws: 4 standard deviations for a single number, 5 for the worst of many.
"""

import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import DTYPES, draws, dropout
from scipy import stats
from test_dense import lay_out, layouts

import fastopt as fo

F = fo.functional
RATES = (0.1, 0.5, 0.9)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


# ---------------------------------------------------------------- the kernels


@given(
    st.integers(0, 40),
    st.integers(0, 70),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from(DTYPES),
    layouts,
)
@example(3, 5, 0.0, 0, 0, np.float32, "plain")
@example(3, 5, np.nextafter(1, 0), 2**64 - 1, 2**64 - 1, np.float64, "plain")
def test_forward_and_backward_equal_the_formula(n, width, rate, seed, step, dtype, layout):
    x = np.random.default_rng((n, width)).normal(size=(n, width)).astype(dtype)
    with np.errstate(over="ignore"):
        want = dropout(x, rate, seed, step)
    for function in (F.dropout, F.dropout_backward):
        got = function(lay_out(x, layout), rate, seed, step)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size", [1, 15, 17, 63, 65, 65535, 65536, 65537, 200_003])
def test_every_length_around_vectors_and_blocks_equals_the_formula(size, dtype):
    x = np.random.default_rng(size).normal(size=size).astype(dtype)
    np.testing.assert_array_equal(F.dropout(x, 0.3, 5, 6), dropout(x, 0.3, 5, 6))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5), (0,)])
def test_any_shape_is_taken_in_c_order(shape, dtype):
    x = np.ones(shape, dtype)
    np.testing.assert_array_equal(F.dropout(x, 0.5, 1), F.dropout(x.ravel(), 0.5, 1).reshape(shape))


def test_in_place_gives_the_same_bits(dtype, rng):
    x = rng.normal(size=(9, 1001)).astype(dtype)
    want = F.dropout(x, 0.4, 3, 4)
    assert F.dropout(x, 0.4, 3, 4, x) is x
    np.testing.assert_array_equal(x, want)
    assert F.dropout_backward(x, 0.0, 3, 4, x) is x
    np.testing.assert_array_equal(x, want)


def test_either_dtype_drops_the_same_elements():
    dropped = [F.dropout(ones(1000, dtype=dtype), 0.5, 8, 9) == 0 for dtype in DTYPES]
    np.testing.assert_array_equal(*dropped)


def test_what_is_dropped_is_zero_whatever_it_was(dtype):
    for bad in (np.nan, np.inf, -np.inf):
        y = F.dropout(np.full(1000, bad, dtype), 0.5, 0)
        assert (y[F.dropout(ones(1000), 0.5, 0) == 0] == 0).all()


def test_rate_zero_changes_nothing(dtype, rng):
    x = rng.normal(size=1000).astype(dtype)
    np.testing.assert_array_equal(F.dropout(x, 0.0, 0), x)


# ---------------------------------------------------------------- what is drawn

# 16 seeds and steps, 512 rows of 784: as batches of a network
DRAWS = [(seed, step) for seed in (0, 1, 2, 2**40) for step in (0, 1, 2, 1000)]
N, WIDTH = 512, 784


@pytest.fixture(scope="module")
def drawn():
    """Uniform numbers of 32 bits, (stream, element)."""
    return np.stack([draws(N * WIDTH, seed, step) for seed, step in DRAWS])


def chi_square(values, cells):
    """Standard deviations by which a histogram over equally likely cells is off."""
    expected = len(values) / cells
    value = ((np.bincount(values, minlength=cells) - expected) ** 2 / expected).sum()
    return (value - cells) / np.sqrt(2 * cells)


@pytest.mark.parametrize("shift", [0, 8, 16])
def test_sixteen_bits_are_uniform(shift, drawn):
    assert abs(chi_square(((drawn >> np.uint32(shift)) & np.uint32(0xFFFF)).ravel().astype(int), 65536)) < 4


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 8, 16, 32, 64, 100, 128, 256, 784, 1024, 65536])
def test_neighbors_are_independent(lag, drawn):
    one, other = (drawn[:, :-lag] >> np.uint32(24)).ravel().astype(int), (drawn[:, lag:] >> np.uint32(24)).ravel()
    assert abs(chi_square(256 * one + other, 65536)) < 4


def test_seeds_and_steps_are_independent(drawn):
    related = np.corrcoef(drawn / 2**32)[~np.eye(len(DRAWS), dtype=bool)]
    assert np.abs(related).max() * np.sqrt(N * WIDTH) < 5
    for one, other in itertools.pairwise(drawn):
        cells = 64 * (one >> np.uint32(26)).astype(int) + (other >> np.uint32(26))
        assert abs(chi_square(cells, 4096)) < 5


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_kept_by_column_by_row_and_by_step(rate):
    dropped = np.stack([F.dropout(ones(N, WIDTH), rate, seed, step) == 0 for seed, step in DRAWS])
    for axes in ((0, 1), (0, 2), (1, 2), (0, 1, 2)):  # columns, rows, steps, all
        share = dropped.mean(axis=axes)
        deviations = np.abs(share - rate) / np.sqrt(rate * (1 - rate) * share.size / dropped.size)
        assert deviations.max() < (5 if share.size > 20 else 4)
        if share.size > 20:  # as many beyond two deviations as there should be
            assert stats.binomtest(int((deviations > 2).sum()), share.size, 0.0455).pvalue > 1e-4


def test_the_mean_stays():
    assert F.dropout(ones(1_000_000), 0.3, 0).mean(dtype=float) == pytest.approx(1, abs=4 * np.sqrt(0.3 / 0.7 / 1e6))


# ---------------------------------------------------------------- the layer


def network(rate=0.4, rng=0, dtype=np.float64):
    layers = [
        fo.nn.Dropout(rate / 2),
        fo.nn.Dense(4, 7, activation="tanh"),
        fo.nn.Dropout(rate),
        fo.nn.Residual([fo.nn.Dense(7, 7, activation="gelu"), fo.nn.Dropout(rate)]),
        fo.nn.Dense(7, 3),
        fo.nn.Dropout(rate / 2),
    ]
    return fo.nn.Sequential(layers, rng=rng, dtype=dtype)


def rows(n=64, dtype=np.float64):
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, 4)).astype(dtype), rng.normal(size=(n, 3)).astype(dtype)


def plain(net):
    """The same arrays without the dropout."""
    twin = fo.nn.Sequential(fo.nn.layers.inference(copy.deepcopy(net).layers), dtype=net.dtype)
    assert len(twin.layers) == 3
    return twin


def test_inference_is_the_network_without_it_bit_for_bit(dtype):
    net, (x, y) = network(dtype=dtype), rows(dtype=dtype)
    for n in (1, 64):
        np.testing.assert_array_equal(net.predict(x[:n]), plain(net).predict(x[:n]))
    assert net.evaluate(x, y, "mse") == plain(net).evaluate(x, y, "mse")
    fast = net.fold()
    assert not any(isinstance(layer, fo.nn.Dropout) for layer in fo.nn.layers.walk(fast.layers))
    np.testing.assert_array_equal(fast.predict(x), plain(net).fold().predict(x))


def test_rate_zero_trains_as_without_it_bit_for_bit():
    net, (x, y) = network(0.0), rows()
    loss, grads = net.value_and_grad(x, y, "mse")
    want_loss, want = plain(net).value_and_grad(x, y, "mse")
    assert loss == want_loss
    for a, b in zip(grads, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_drops_what_the_function_drops():
    net = fo.nn.Sequential([fo.nn.Dropout(0.5), fo.nn.Dense(4, 1, bias=False)], rng=0, dtype=np.float64)
    x = rows()[0]
    for step in range(3):
        dropped = F.dropout(x, 0.5, net.layers[0].seed, step)
        loss, (grad,) = net.value_and_grad(x, np.zeros((64, 1)), "mse")
        y = dropped @ net.layers[1].weight.T
        assert loss == pytest.approx((y**2).mean(), rel=1e-12)
        np.testing.assert_allclose(grad, 2 / 64 * y.T @ dropped, rtol=1e-11)


def test_gradients_equal_differences():
    net, (x, y) = network(), rows(9)

    def loss():
        net.draws = 5
        return net.value_and_grad(x, y, "mse")

    grads = loss()[1]
    largest = max(np.abs(g).max() for g in grads)
    for param, grad in zip(net.parameters(), grads, strict=True):
        for i in np.ndindex(param.shape):
            before, ends = param[i], []
            for h in (1e-5, -1e-5):
                param[i] = before + h
                ends.append(loss()[0])
            param[i] = before
            assert abs((ends[0] - ends[1]) / 2e-5 - grad[i]) <= 1e-7 * largest


def test_calls_of_value_and_grad_count_and_can_be_counted_again():
    net, (x, y) = network(), rows()
    losses = [net.value_and_grad(x, y, "mse")[0] for _ in range(3)]
    assert len(set(losses)) == 3
    assert net.draws == 3
    net.draws = 1
    assert net.value_and_grad(x, y, "mse")[0] == losses[1]


def test_a_step_draws_as_value_and_grad_of_the_same_count():
    net, (x, y) = network(), rows()
    twin = copy.deepcopy(net)
    trainer = fo.nn.Trainer(net, "mse", fo.optim.SGD(net.parameters(), lr=0.0))
    assert [trainer.step(x, y) for _ in range(3)] == [twin.value_and_grad(x, y, "mse")[0] for _ in range(3)]


def test_an_epoch_draws_by_batch_as_steps_do():
    net, (x, y) = network(), rows()
    twin = copy.deepcopy(net)
    one, other = (fo.nn.Trainer(n, "mse", fo.optim.Adam(n.parameters())) for n in (net, twin))
    one.fit(x, y, epochs=2, batch_size=16, shuffle=False)
    other.fit([(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)], epochs=2)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_of_the_same_rng_drops_the_same_and_another_does_not():
    seeds = [
        [int(layer.seed) for layer in fo.nn.layers.walk(network(rng=n).layers) if hasattr(layer, "seed")]
        for n in (0, 0, 1)
    ]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0] + seeds[2])) == 8


COPIES = {
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "file": lambda net, path: (net.save(path), fo.nn.load(path))[1],
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_drops_the_same(way, tmp_path):
    net, (x, y) = network(), rows()
    twin = COPIES[way](net, tmp_path / "m.safetensors")
    assert repr(twin) == repr(net)
    assert "Dropout(rate=0.4)" in repr(net)
    assert twin.value_and_grad(x, y, "mse")[0] == net.value_and_grad(x, y, "mse")[0]


@pytest.mark.parametrize("way", ["resume", "pickle"])
def test_a_run_goes_on_bit_for_bit(way, tmp_path):
    (x, y), path = rows(90), tmp_path / "run.safetensors"
    whole, broken, resumed = (network(rng=rng) for rng in (0, 0, 1))
    whole, broken, resumed = (fo.nn.Trainer(n, "mse", fo.optim.Adam(n.parameters())) for n in (whole, broken, resumed))
    history = whole.fit(x, y, epochs=4, batch_size=16)
    broken.fit(x, y, epochs=2, batch_size=16)
    if way == "resume":
        broken.save(path)
        resumed.resume(path)
    else:
        resumed = pickle.loads(pickle.dumps(broken))
    assert resumed.fit(x, y, epochs=2, batch_size=16)["loss"] == history["loss"][2:]
    for a, b in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_statistics_behind_it_are_those_of_inference():
    layers = [fo.nn.Dropout(0.5), fo.nn.Standardize(4), fo.nn.Dropout(0.5), fo.nn.Dense(4, 3)]
    net, x = fo.nn.Sequential(layers, rng=0, dtype=np.float64), rows()[0]
    net.calibrate(x)
    np.testing.assert_allclose(net.layers[1].mean, x.mean(axis=0), rtol=1e-12)
    assert [type(layer).__name__ for layer in net.fold().layers] == ["Dense"]
