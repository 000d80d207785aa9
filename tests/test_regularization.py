"""Regularization: penalties in loss and gradient, rows of weights that stay short, in every way a step can go.

Pass criterion: gradients against differences within 1e-7 of the largest, in float64. Two ways to the same
parameters: within RTOL of the largest change. Thread counts: equal in every bit.
"""

import numpy as np
import pytest
from reference import DTYPES

import fastopt as fo

RTOL = {np.dtype(np.float32): 2e-4, np.dtype(np.float64): 1e-10}
LAYERS = {
    "Dense": lambda **options: fo.nn.Dense(6, 4, "tanh", **options),
    "GroupedDense": lambda **options: fo.nn.GroupedDense(6, 4, 2, "tanh", **options),
    "Maxout": lambda **options: fo.nn.Maxout(6, 4, 3, **options),
    "Conv2d": lambda **options: fo.nn.Conv2d(2, 4, (2, 3), padding=(1, 0), activation="tanh", **options),
}
every = pytest.mark.parametrize("layer", LAYERS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def make(layer, dtype=np.float64, **options):
    shape, outputs = ((1, 3, 2), 8) if layer == "Conv2d" else ((6,), 4)
    layers = [LAYERS[layer](**options), fo.nn.Flatten(), fo.nn.Dense(outputs, 3)]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=shape)


def data(n=20):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 6)), rng.integers(0, 3, n)


def penalty(weight, l1, l2):
    return l1 * np.abs(weight).sum() + l2 / 2 * (weight**2).sum()


@every
def test_the_loss_of_training_gains_the_penalty_and_evaluation_does_not(layer):
    x, y = data()
    bare, net = make(layer), make(layer, l1=0.3, l2=0.7)
    loss, _ = bare.value_and_grad(x, y)
    assert net.value_and_grad(x, y)[0] == pytest.approx(loss + penalty(net.layers[0].weight, 0.3, 0.7), rel=1e-12)
    assert net.evaluate(x, y) == bare.evaluate(x, y)


@every
@pytest.mark.parametrize("options", [{"l1": 0.3}, {"l2": 0.7}, {"l1": 0.1, "l2": 0.2}])
def test_gradients_match_differences_of_the_loss(layer, options):
    x, y = data()
    net = make(layer, **options)
    _, grads = net.value_and_grad(x, y)
    for param, grad in zip(net.parameters(), grads, strict=True):
        slope = np.empty_like(param)
        for i in np.ndindex(param.shape):
            kept, values = param[i], []
            for step in (1e-6, -1e-6):
                param[i] = kept + step
                values.append(net.value_and_grad(x, y)[0])
            param[i] = kept
            slope[i] = (values[0] - values[1]) / 2e-6
        assert np.abs(slope - grad).max() <= 1e-7 * max(1, np.abs(grad).max())


def test_a_weight_of_zero_has_no_slope_of_l1():
    net, bare = make("Dense", l1=1.0), make("Dense")
    net.layers[0].weight[...] = bare.layers[0].weight[...] = 0
    x, y = data()
    np.testing.assert_array_equal(net.value_and_grad(x, y)[1][0], bare.value_and_grad(x, y)[1][0])


@every
@dtypes
@pytest.mark.parametrize("optimizer", [{}, {"max_norm": 0.5}, {"check_finite": "raise"}, {"accumulate": 2}])
@pytest.mark.parametrize("n", [3, 40])
def test_a_step_of_a_trainer_equals_gradient_and_update(layer, dtype, optimizer, n):
    x, y = data(n)
    one, two = (make(layer, dtype, l1=0.02, l2=0.1) for _ in range(2))
    start = [p.copy() for p in one.parameters()]
    trainer = fo.nn.Trainer(one, "cross_entropy", fo.optim.SGD(one.parameters(), lr=0.1, momentum=0.9, **optimizer))
    rule = fo.optim.SGD(two.parameters(), lr=0.1, momentum=0.9, **optimizer)
    for _ in range(6):
        loss, grads = two.value_and_grad(x, y)
        rule.step(grads)
        assert trainer.step(x, y) == pytest.approx(loss, rel=1e-5)
    for a, b, before in zip(one.parameters(), two.parameters(), start, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=RTOL[a.dtype] * np.abs(b - before).max())


@dtypes
def test_l2_is_the_coupled_weight_decay_of_the_optimizer(dtype):
    x, y = data()
    one, two = make("Dense", dtype, l2=0.1), make("Dense", dtype)
    rest = two.parameters()[1:]
    groups = [{"params": two.parameters()[:1], "weight_decay": 0.1}, {"params": rest}]
    here = fo.nn.Trainer(one, "cross_entropy", fo.optim.Adam(one.parameters(), lr=0.01))
    there = fo.nn.Trainer(two, "cross_entropy", fo.optim.Adam(groups, lr=0.01))
    start = [p.copy() for p in one.parameters()]
    for _ in range(10):
        here.step(x, y)
        there.step(x, y)
    for a, b, before in zip(one.parameters(), two.parameters(), start, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=10 * RTOL[a.dtype] * np.abs(b - before).max())


@every
@dtypes
@pytest.mark.parametrize("optimizer", [{}, {"max_norm": 0.5}, {"check_finite": "skip"}])
def test_rows_of_weights_stay_within_their_norm_and_short_ones_as_they_are(layer, dtype, optimizer):
    x, y = data()
    net, free = make(layer, dtype, max_norm=0.6), make(layer, dtype)
    for one in (net, free):
        one.layers[0].weight[0] *= 1e-3
        one.layers[0].weight[1] *= 10
    for one in (net, free):
        fo.nn.Trainer(one, "cross_entropy", fo.optim.SGD(one.parameters(), lr=0.01, **optimizer)).step(x, y)
    want, found = (one.layers[0].weight.reshape(len(one.layers[0].weight), -1) for one in (free, net))
    want = want.astype(np.float64)
    norms = np.linalg.norm(want, axis=1)
    assert norms.max() > 0.6 > norms.min()
    want[norms > 0.6] *= (0.6 / norms[norms > 0.6])[:, None]
    np.testing.assert_allclose(found, want, rtol=RTOL[net.dtype], atol=RTOL[net.dtype] / 100)
    np.testing.assert_array_equal(net.layers[0].weight[norms <= 0.6], free.layers[0].weight[norms <= 0.6])


@dtypes
def test_moving_averages_are_of_weights_that_have_been_shortened(dtype):
    x, y = data()
    net = make("Dense", dtype, max_norm=0.3)
    rule = fo.optim.SGD(net.parameters(), lr=0.1, ema_decay=0.75)
    trainer, mean = fo.nn.Trainer(net, "cross_entropy", rule), None
    for _ in range(4):
        trainer.step(x, y)
        weight = net.layers[0].weight.astype(np.float64)
        mean = weight if mean is None else 0.75 * mean + 0.25 * weight
    with rule.averaged():
        np.testing.assert_allclose(net.layers[0].weight, mean, rtol=0, atol=RTOL[net.dtype] / 100)


def test_rows_whose_squares_overflow_are_left_alone():
    net = make("Dense", max_norm=1.0)
    net.layers[0].weight[0] = 1e200
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), lr=1e-3))
    trainer.step(*data())
    assert (net.layers[0].weight[0] == 1e200).all()


def test_a_step_that_is_left_out_shortens_nothing():
    net = make("Dense", np.float32, max_norm=0.1)
    before = net.layers[0].weight.copy()
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.SGD(net.parameters(), check_finite="skip"))
    x, y = data()
    x[0, 0] = np.nan
    trainer.step(x, y)
    np.testing.assert_array_equal(net.layers[0].weight, before)


@every
def test_bits_do_not_depend_on_threads(layer):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((600, 60)).astype(np.float32), rng.integers(0, 3, 600)
    made = {
        "Dense": lambda **options: fo.nn.Dense(60, 120, "relu", **options),
        "GroupedDense": lambda **options: fo.nn.GroupedDense(60, 120, 4, "relu", **options),
        "Maxout": lambda **options: fo.nn.Maxout(60, 120, 2, **options),
        "Conv2d": lambda **options: fo.nn.Conv2d(5, 10, 3, padding=1, **options),
    }
    shape = (3, 4, 5) if layer == "Conv2d" else (60,)
    results = []
    for threads in (1, 2, 3, 8):
        layers = [made[layer](l1=1e-3, l2=1e-2, max_norm=0.9), fo.nn.Flatten(), fo.nn.Dense(120, 3, l2=0.1)]
        net = fo.nn.Sequential(layers, rng=0, input_shape=shape)
        trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters()))
        with fo.num_threads(threads):
            results.append([[trainer.step(x, y) for _ in range(3)], *(p.copy() for p in net.parameters())])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@every
def test_options_are_in_the_file_and_in_the_text_of_a_layer(layer, tmp_path):
    net = make(layer, l1=0.1, max_norm=2.0)
    net.save(tmp_path / "net.safetensors")
    back = fo.nn.load(tmp_path / "net.safetensors").layers[0]
    assert (back.l1, back.l2, back.max_norm) == (0.1, 0.0, 2.0)
    assert "l1=0.1, max_norm=2.0" in repr(back)
    assert "l2" not in repr(back)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1": -1}, r"l1: expected a finite number of at least 0 and at most 3.40282e\+38, got -1"),
        ({"l2": np.nan}, r"l2: expected a finite number of at least 0 and at most 3.40282e\+38, got nan"),
        ({"l2": np.inf}, r"l2: expected a finite number of at least 0 and at most 3.40282e\+38, got inf"),
        ({"l1": True}, r"l1: expected a finite number of at least 0 and at most 3.40282e\+38, got True"),
        ({"l1": np.ones(2)}, r"l1: expected a finite number of at least 0 and at most 3.40282e\+38, got array"),
        ({"l2": 10**400}, r"l2: expected a finite number of at least 0 and at most 3.40282e\+38, got 1000"),
        ({"l1": "0.1"}, r"l1: expected a finite number of at least 0 and at most 3.40282e\+38, got '0.1'"),
        ({"max_norm": 0}, r"max_norm: expected a finite number above 0 and at most 3.40282e\+38, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fo.nn.Dense(2, 2, **options)


@every
@pytest.mark.parametrize("gauss_newton", [False, True])
def test_curvature_gains_l2_along_the_weights_and_nothing_of_l1(layer, gauss_newton):
    x, y = data()
    bare, net = make(layer), make(layer, l1=0.3, l2=0.7)
    more = fo.newton.hessian(net, x, y, gauss_newton=gauss_newton) - fo.newton.hessian(
        bare, x, y, gauss_newton=gauss_newton
    )
    diagonal = np.zeros(len(more))
    diagonal[: net.layers[0].weight.size] = 0.7
    np.testing.assert_allclose(more, np.diag(diagonal), atol=1e-12)


def test_newton_cg_keeps_rows_within_their_norm():
    x, y = data(200)
    net = make("Dense", max_norm=0.5)
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.NewtonCG(net.parameters()))
    before = trainer.step(x, y)
    assert np.linalg.norm(net.layers[0].weight, axis=1).max() <= 0.5 * (1 + 1e-12)
    assert trainer.step(x, y) != before
