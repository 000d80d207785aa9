"""The same bits at any thread count.

Pass criterion: results at 2, 3 and 8 threads equal those at 1 thread, byte for byte.
Every size is large enough for a team of eight (200 000 multiply-adds a member) and no
multiple of a vector, a tile or a panel.
"""

import numpy as np
import pytest
from reference import ACTIVATIONS, LOSSES

import fastopt as fo

F = fo.functional
TEAMS = (2, 3, 8)
N, N_IN, N_OUT = 67, 1161, 173  # rows, more than one panel, outputs


@pytest.fixture
def same_bits():
    """Checks that call() returns the same arrays and numbers with every team."""

    def check(call):
        def run(n):
            with fo.num_threads(n):
                return [np.asarray(value).tobytes() for value in call()]

        want = run(1)
        for n in TEAMS:
            assert run(n) == want, f"{n} threads"

    return check


def normal(dtype, *shapes):
    rng = np.random.default_rng(3)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(N, N_IN, N_OUT), (1009, 61, 67), (3, 977, 1013)], ids=str)
def test_dense_gives_the_same_bits_forward_and_backward(activation, shape, dtype, same_bits):
    n, n_in, n_out = shape
    x, weight, bias, dy = normal(dtype, (n, n_in), (n_out, n_in), (n_out,), (n, n_out))

    def call():
        z, dw, db = np.empty_like(dy), np.empty_like(weight), np.empty_like(bias)
        y = F.dense(x, weight, bias, activation=activation, z=z)
        dx = F.dense_backward(dy, x, weight, z, activation=activation, dw=dw, db=db)
        return y, z, dx, dw, db

    same_bits(call)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_give_the_same_bits(name, dtype, same_bits):
    (x,) = normal(dtype, (1013, 101))
    same_bits(lambda: [F.activation(x, name)])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_give_the_same_bits(loss, weighted, dtype, same_bits):
    prediction, targets = normal(dtype, (1013, 101), (1013, 101))
    weight = np.linspace(0, 1, 1013) if weighted else None
    classes = [np.arange(1013) % 101] if loss == "cross_entropy" else []
    for y in [targets, *classes]:
        same_bits(lambda y=y: getattr(F, loss)(prediction, y, sample_weight=weight))


def test_standardisation_gives_the_same_bits(dtype, same_bits):
    x, mean, scale = normal(dtype, (1013, 403), 403, 403)
    same_bits(lambda: [F.standardize(x, mean, scale), *F.batch_statistics(x)])


RULES = {
    "SGD": lambda params: fo.optim.SGD(params, weight_decay=0.1),
    "momentum": lambda params: fo.optim.SGD(params, momentum=0.9, nesterov=True),
    "Adam": fo.optim.Adam,
    "amsgrad": lambda params: fo.optim.Adam(params, amsgrad=True, weight_decay=0.1),
}


@pytest.mark.parametrize("rule", RULES)
def test_optimizers_give_the_same_bits(rule, dtype, same_bits):
    shapes = [(400_003,), (7,), (33, 101), (1,)]
    grads = normal(dtype, *shapes)

    def call():
        params = normal(dtype, *shapes)
        optimizer = RULES[rule](params)
        for _ in range(3):
            optimizer.step(grads)
        return params

    same_bits(call)


def network(dtype):
    return fo.nn.Sequential(
        [
            fo.nn.Standardize(45),
            fo.nn.Dense(45, 131, activation="gelu"),
            fo.nn.Residual([fo.nn.Dense(131, 67, activation="tanh"), fo.nn.Dense(67, 131, activation="relu")]),
            fo.nn.Dense(131, 11),
        ],
        rng=0,
        dtype=dtype,
    )


def test_whole_training_gives_the_same_bits(dtype, same_bits):
    (X,) = normal(dtype, (500, 45))
    y = np.arange(500) % 11

    def call():
        net = network(dtype)
        trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters()), max_batch=101)
        history = trainer.fit(X, y, epochs=3, batch_size=101, sample_weight=np.linspace(0.1, 1, 500))
        return [*net.parameters(), history["loss"], net.predict(X)]

    same_bits(call)


def test_predict_and_gradients_give_the_same_bits(dtype, same_bits):
    (X,) = normal(dtype, (300, 45))
    y = np.arange(300) % 11
    net = network(dtype).calibrate(X)

    def call():
        loss, grads = net.value_and_grad(X, y)
        return [loss, *grads, net.predict(X), net.predict_proba(X)]

    same_bits(call)
