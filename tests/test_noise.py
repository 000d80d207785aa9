"""The standard error of mini-batch gradients.

Pass criterion: equal to the sample variance of gradients by NumPy, to ROUNDING; of a linear problem, whose gradients
have a known covariance, within three standard errors of the estimate.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest
from test_hooks import squared

import fastopt as fo

ROUNDING = 1e-10


def problem(n=4096, dtype=np.float64, noise=1.0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5)).astype(dtype)
    y = (x @ rng.normal(size=(5, 2)) + noise * rng.normal(size=(n, 2))).astype(dtype)
    return fo.nn.Sequential([fo.nn.Dense(5, 2)], rng=1, dtype=dtype), x, y


def gradients(net, x, y, batch, batches, loss, seed=0):
    order = np.random.default_rng(seed).permutation(len(x))
    rows = [order[k * batch : (k + 1) * batch] for k in range(batches)]
    return np.array([np.concatenate([g.ravel() for g in net.value_and_grad(x[r], y[r], loss)[1]]) for r in rows])


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_norm_and_error_are_those_of_the_sample_variance(batch):
    net, x, y = problem()
    found = fo.nn.gradient_noise(net, x, y, batch, "mse", batches=20)
    grads = gradients(net, x, y, batch, 20, "mse")
    variance = grads.var(axis=0, ddof=1).sum()
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=ROUNDING)
    assert found.norm**2 == pytest.approx(np.sum(grads.mean(axis=0) ** 2) - variance / 20, rel=ROUNDING)
    assert found.signal_to_noise == found.norm / found.standard_error
    assert found.sigma == found.standard_error * np.sqrt(batch)
    assert found.noise_scale == pytest.approx((found.sigma / found.norm) ** 2)
    assert (found.batch, found.batches) == (batch, 20)


def test_the_error_falls_with_the_root_of_the_batch():
    net, x, y = problem(1 << 15)
    sigmas = [fo.nn.gradient_noise(net, x, y, batch, "mse", batches=256).sigma for batch in (1, 4, 16, 64)]
    np.testing.assert_allclose(sigmas, np.mean(sigmas), rtol=0.2)


def test_it_is_the_error_of_a_problem_whose_gradients_have_a_known_covariance():
    net = fo.nn.Sequential([fo.nn.Dense(3, 1, bias=False, init="zeros")], dtype=np.float64)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1 << 15, 3)), rng.normal(size=(1 << 15, 1))  # gradient -2 y x: mean 0, variance 4 each
    found = fo.nn.gradient_noise(net, x, y, 64, "mse", batches=512)
    assert found.standard_error == pytest.approx(np.sqrt(3 * 4 / 64), rel=3 / np.sqrt(2 * 3 * 512))
    assert found.norm < 4 * found.standard_error / np.sqrt(512)


def test_the_network_stays_as_it_is_and_the_seed_chooses_the_batches():
    layers = [fo.nn.Dense(5, 8, "tanh"), fo.nn.BatchNorm(8), fo.nn.Dropout(0.3), fo.nn.Dense(8, 2)]
    net = fo.nn.Sequential(layers, rng=0)
    _, x, y = problem()
    before = [p.copy() for p in net.parameters()]
    first = fo.nn.gradient_noise(net, x, y, 16, "mse", batches=8)
    assert net.draws == 0
    assert fo.nn.gradient_noise(net, x, y, 16, "mse", batches=8) == first
    assert fo.nn.gradient_noise(net, x, y, 16, "mse", batches=8, seed=1) != first
    for a, b in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_layers_have_no_part_in_it_and_losses_may_be_callables():
    net, x, y = problem()
    assert fo.nn.gradient_noise(net, x, y, 16, squared).norm == pytest.approx(
        fo.nn.gradient_noise(net, x, y, 16, "mse").norm, rel=1e-9
    )
    net.layers[0].trainable = False
    assert fo.nn.gradient_noise(net, x, y, 16, "mse")[2:] == (0.0, 0.0)


def test_gradients_without_noise_have_none():
    net, x, _ = problem(64, noise=0.0)
    found = fo.nn.gradient_noise(net, np.ones_like(x), np.ones((64, 2)), 8, "mse")
    assert found.standard_error == 0
    assert found.signal_to_noise == np.inf
    assert found.batches == 8


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (0, {}, r"^batch: expected a whole number of at least 1, got 0"),
        (8, {"batches": 1}, r"^batches: expected a whole number of at least 2, got 1"),
        (40, {}, r"^X: expected at least two mini-batches of 40 samples, got 64 samples"),
        (8, {"seed": -1}, r"^seed: expected a whole number"),
        (8, {"y": np.zeros(3)}, r"^y: expected a row for each of X"),
    ],
)
def test_what_does_not_fit_is_refused(batch, options, message):
    net, x, y = problem(64)
    options = {"y": y, **options}
    with pytest.raises(ValueError, match=message):
        fo.nn.gradient_noise(net, x, options.pop("y"), batch, "mse", **options)


def test_the_script_that_compares_batch_sizes_prints_a_line_for_each():
    pytest.importorskip("sklearn", reason="the script reads the digits of scikit-learn, which is not installed")
    script = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "batch_sizes.py"))
    lines = script["main"](epochs=1).splitlines()
    assert [int(line.split()[0]) for line in lines[1:-1]] == list(script["BATCHES"])
    assert lines[-1].startswith("signal equals noise at a batch of ")
