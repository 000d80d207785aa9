"""Standardization against float64.

Pass criterion: standardize within 2 eps of the terms. As the first layer of a network, outputs are within 4 eps of
those computed in extended precision from the data as it came. Column statistics: test_batch_norm.py.
"""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import DTYPES, standardize

import fastopt as fo

F = fo.functional


@given(st.integers(0, 70), st.integers(0, 70), st.sampled_from(DTYPES))
@example(0, 3, np.float32)
@example(3, 0, np.float32)
def test_standardize_equals_the_oracle(n, c, dtype):
    rng = np.random.default_rng((n, c))
    x, mean, scale = (rng.normal(size=shape).astype(dtype) for shape in ((n, c), (c,), (c,)))
    exact = standardize(x.astype(float), mean.astype(float), scale.astype(float))
    bound = 2 * np.finfo(dtype).eps * (np.abs(x) + np.abs(mean)) * np.abs(scale)
    assert (np.abs(F.standardize(x, mean, scale) - exact) <= bound).all()


def test_in_place_gives_the_same_bits(dtype, rng):
    x, mean, scale = (rng.normal(size=shape).astype(dtype) for shape in ((9, 17), 17, 17))
    y = F.standardize(x, mean, scale)
    assert F.standardize(x, mean, scale, x) is x
    np.testing.assert_array_equal(x, y)


def test_strided_inputs_give_the_bits_of_contiguous_ones(dtype, rng):
    x, mean, scale = (rng.normal(size=shape).astype(dtype) for shape in ((9, 34), 34, 34))
    half = slice(None, None, 2)
    np.testing.assert_array_equal(
        F.standardize(x[half, half], mean[half], scale[half]),
        F.standardize(x[half, half].copy(), mean[half].copy(), scale[half].copy()),
    )


def test_a_constant_column_is_only_centered():
    net = fo.nn.Sequential([fo.nn.Standardize(2)], dtype=np.float64)
    x = np.array([[3.0, 0.0], [3.0, 2.0]])
    np.testing.assert_array_equal(net.calibrate(x).predict(x), [[0, -1], [0, 1]])


def test_calibration_gives_columns_of_mean_zero_and_variance_one(rng):
    x = rng.normal(5, 3, (500, 7))
    y = fo.nn.Sequential([fo.nn.Standardize(7)], dtype=np.float64).calibrate(x).predict(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=0), 1, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_calibration_refuses_what_is_not_finite_and_keeps_its_statistics(bad):
    net = fo.nn.Sequential([fo.nn.Standardize(2)], dtype=np.float64).calibrate(np.array([[0.0, 1.0], [2.0, 3.0]]))
    kept = net.layers[0].mean.copy()
    for came in DTYPES:
        x = np.zeros((9000, 2), came)
        x[[0, 4097], 1] = bad, -bad
        with pytest.raises(ValueError, match=f"got {bad} in column 1"):
            net.calibrate(x)
    np.testing.assert_array_equal(net.layers[0].mean, kept)


# ---------------------------------------------------------------- the precision that came

EXACT = np.longdouble
SIZES = {np.float32: st.integers(-37, 37), np.float64: st.integers(-300, 300)}


def columns(n, dtype, powers, ratios):
    """Columns of deviations near 10^power about a mean of `ratio` of them."""
    rng = np.random.default_rng(n)
    deviations = 10.0 ** np.array(powers)
    return ((rng.normal(size=(n, len(powers))) + np.array(ratios)) * deviations).astype(dtype)


def exactly_standardized(x):
    """Columns, in extended precision, of the statistics of x itself."""
    x = x.astype(EXACT)
    return (x - x.mean(axis=0)) / np.sqrt(((x - x.mean(axis=0)) ** 2).mean(axis=0))


@given(
    st.sampled_from([2, 3, 50, 5000]),
    st.sampled_from(DTYPES).flatmap(lambda t: st.tuples(st.just(t), st.lists(SIZES[t], min_size=3, max_size=3))),
    st.lists(st.sampled_from([0, 1, 1e3, 1e5]), min_size=3, max_size=3),
    st.sampled_from(DTYPES),
)
@example(2, (np.float32, [20, -25, 0]), [2, 2, 2], np.float32)
@example(50, (np.float64, [200, -200, -2]), [0, 0, 1e8], np.float32)
@example(50, (np.float64, [300, -300, 35]), [3, 3, 3], np.float64)
def test_columns_of_any_size_and_mean_are_standardized_as_they_came(n, kind, ratios, dtype):
    came, powers = kind
    most = np.log10(float(np.finfo(came).max)) - 1
    ratios = [min(r, 10.0 ** min(most - p, 9)) for r, p in zip(ratios, powers, strict=True)]
    x = columns(n, came, powers, ratios)
    net = fo.nn.Sequential([fo.nn.Standardize(3)], dtype=dtype).calibrate(x)
    assert net.layers[0].mean.dtype == net.layers[0].scale.dtype == np.float64
    got = net.predict(x)
    assert got.dtype == dtype
    exact = x.astype(EXACT)
    deviation = np.sqrt(((exact - exact.mean(axis=0)) ** 2).mean(axis=0))
    deviation[np.ptp(exact, axis=0) == 0] = np.inf  # constant columns become 0
    want = (exact - exact.mean(axis=0)) / deviation
    of_statistics = 1e-15 * (1 + n**0.5) * np.abs(exact).max(axis=0) / deviation
    bound = 4 * np.finfo(dtype).eps * (1 + np.abs(want).max(axis=0)) + of_statistics
    assert (np.abs(got - want).max(axis=0) <= bound).all()


def test_float64_columns_far_from_zero_train_a_network_of_float32_as_if_scaled_before(rng):
    x = 1e6 + 0.01 * rng.normal(size=(2000, 3))
    y = (x @ [1.0, -2.0, 0.5] > np.median(x @ [1.0, -2.0, 0.5])).astype(int)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)

    def accuracies(X, *front, fold=False):
        net = fo.nn.Sequential([*front, fo.nn.Dense(3, 8, "tanh"), fo.nn.Dense(8, 2)], rng=0)
        trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters(), lr=0.01))
        trainer.fit(X, y, epochs=5)
        return [(n.predict(X).argmax(axis=1) == y).mean() for n in (net, net.fold())]

    reference = accuracies(scaled)[0]
    assert reference > 0.98
    for front in (fo.nn.Standardize(3), fo.nn.Whiten(3)):
        assert min(accuracies(x, front)) >= reference - 0.005


def test_every_call_reads_the_input_as_it_comes(rng):
    x = 1e6 + 0.01 * rng.normal(size=(40, 2))
    y = rng.normal(size=(40, 1))
    net = fo.nn.Sequential([fo.nn.Standardize(2), fo.nn.Dense(2, 1)], rng=0).calibrate(x)
    plain = fo.nn.Sequential(net.layers[1:])
    hidden = fo.nn.Sequential(net.layers[:1]).predict(x)
    np.testing.assert_allclose(hidden, exactly_standardized(x), atol=1e-6)
    np.testing.assert_array_equal(net.predict(x), plain.predict(hidden))
    assert net.evaluate(x, y, "mse") == plain.evaluate(hidden, y, "mse")
    for a, b in zip(net.value_and_grad(x, y, "mse")[1], plain.value_and_grad(hidden, y, "mse")[1], strict=True):
        np.testing.assert_array_equal(a, b)
    v = [np.ones_like(p) for p in net.parameters()]
    for a, b in zip(net.hvp(x, y, v, "mse"), plain.hvp(hidden, y, v, "mse"), strict=True):
        np.testing.assert_array_equal(a, b)
    one, other = (copy.deepcopy(n) for n in (net, plain))
    for n, rows in ((one, x), (other, hidden)):
        trainer = fo.nn.Trainer(n, "mse", fo.optim.SGD(n.parameters(), lr=0.1))
        trainer.step(rows, y)
        trainer.fit(rows, y, epochs=2, batch_size=7)
        trainer.fit([(rows[:9], y[:9])])
        newton = fo.nn.Trainer(n, "mse", fo.optim.NewtonCG(n.parameters()))
        newton.fit(rows, y, batch_size=20)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [1, 2, 3, 1000])
@pytest.mark.parametrize("c", [1, 15, 16, 17, 511, 512, 513, 1200])
def test_any_width_and_number_of_rows_at_any_thread_count(n, c, rng):
    net = fo.nn.Sequential([fo.nn.Standardize(c)])
    mean, scale = rng.choice([0, 1e3, 1e5], c) + rng.normal(size=c), rng.uniform(0.5, 2, c)
    net.layers[0].mean, net.layers[0].scale = mean, scale
    for came in DTYPES:
        x = (rng.normal(size=(n, c)) + rng.choice([0, 1e3, 1e5], c)).astype(came)
        results = []
        for threads in (1, 2, 3):
            with fo.num_threads(threads):
                results.append(net.predict(x))
        exact = (x.astype(float) - mean) * scale
        assert (np.abs(results[0] - exact) <= 4 * np.finfo(np.float32).eps * (1 + np.abs(exact))).all()
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])


def test_whole_numbers_that_float32_holds_have_the_bits_of_the_float32_kernel(rng):
    x = rng.integers(0, 50, (30, 5)).astype(np.float32)
    net = fo.nn.Sequential([fo.nn.Standardize(5)])
    mean, scale = rng.integers(0, 50, 5), rng.normal(size=5).astype(np.float32)
    net.layers[0].mean, net.layers[0].scale = mean, scale
    np.testing.assert_array_equal(net.predict(x), F.standardize(x, mean.astype(np.float32), scale))


def test_inside_a_network_it_reads_the_networks_dtype(rng):
    x = rng.normal(size=(50, 4)).astype(np.float32)
    net = fo.nn.Sequential([fo.nn.Dense(4, 3), fo.nn.Standardize(3)], rng=0)
    net.layers[0].bias = [1e4, 0, -1e3]
    hidden = fo.nn.Sequential(net.layers[:1]).predict(x)
    np.testing.assert_allclose(net.calibrate(x).predict(x), exactly_standardized(hidden), atol=2e-6)
    np.testing.assert_array_equal(net.predict(x.astype(float)), net.predict(x))


@pytest.mark.parametrize("data", [np.uint8, np.int64, np.float16, np.bool_], ids=str)
def test_data_of_other_dtypes_has_the_statistics_of_its_numbers(data):
    x = np.random.default_rng(0).integers(0, 2, (30, 4)).astype(data)
    net = fo.nn.Sequential([fo.nn.Standardize(4)]).calibrate(x)
    np.testing.assert_allclose(net.layers[0].mean, x.astype(float).mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(net.layers[0].scale, 1 / x.astype(float).std(axis=0), rtol=1e-14)


@pytest.mark.parametrize(("x", "says"), [
    (np.array([["a", "b"]]), "expected real numbers"),
    (np.ones((3, 2), complex), "expected real numbers"),
    (np.ones((3, 5)), r"X: expected shape \(n, 2\)"),
    (np.ones((0, 2)), "at least one row"),
])  # fmt: skip
def test_data_without_statistics_is_refused(x, says):
    net = fo.nn.Sequential([fo.nn.Standardize(2)])
    with pytest.raises((TypeError, ValueError), match=says):
        net.calibrate(x)
    assert not net.layers[0].calibrated


COPIES = {
    "pickle": lambda net, path: pickle.loads(pickle.dumps(net)),
    "deepcopy": lambda net, path: copy.deepcopy(net),
    "file": lambda net, path: (net.save(path), fo.nn.load(path))[1],
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_keep_every_digit(way, tmp_path, rng):
    x = 1e6 + 0.01 * rng.normal(size=(40, 2))
    net = fo.nn.Sequential([fo.nn.Standardize(2), fo.nn.Dense(2, 1)], rng=0).calibrate(x)
    twin = COPIES[way](net, tmp_path / "m.safetensors")
    for rows in (x, x.astype(np.float32)):
        np.testing.assert_array_equal(twin.predict(rows), net.predict(rows))


def test_statistics_change_by_assignment_and_the_network_follows(dtype, rng):
    x = rng.normal(size=(5, 3)).astype(np.float32)
    net = fo.nn.Sequential([fo.nn.Standardize(3), fo.nn.Dense(3, 2)], rng=0, dtype=dtype)
    for name in ("mean", "scale"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(net.layers[0], name)[0] = 1
    net.layers[0].mean = [1.0, 2.0, 3.0]
    net.layers[0].scale = np.float32([1.0, 0.5, 2.0])
    first = fo.nn.Sequential(net.layers[:1], dtype=dtype)
    for rows in (x, x.astype(float)):
        np.testing.assert_allclose(first.predict(rows), (x - [1.0, 2.0, 3.0]) * [1.0, 0.5, 2.0], rtol=1e-6, atol=1e-6)
    assert net.layers[0].mean.dtype == net.layers[0].scale.dtype == np.float64
