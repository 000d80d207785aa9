"""The same bits at any thread count.

Pass criterion: results at 2, 3 and 8 threads equal those at 1 thread, byte for byte.
Every size is large enough for a team of eight (200 000 multiply-adds a thread) and no
multiple of a vector, a tile or a block.
"""

import functools

import numpy as np
import pytest
import topics
from pairs import pairwise
from reference import ACTIVATIONS, DTYPES, KERNELS, LOSS_CASES, OPTIONS, RULES, draw_targets, loss_options

import fastopt as fo

F = fo.functional
TEAMS = (2, 3, 8)
N, N_IN, N_OUT = 67, 1161, 173  # rows, more than one block of the summed dimension, outputs


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


@pytest.mark.parametrize("topic", topics.taking_part("determinism"), ids=lambda topic: topic.name)
def test_every_topic_of_kernels_has_a_test_here(topic):
    assert topic.determinism in globals()


def normal(dtype, *shapes):
    rng = np.random.default_rng(3)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@pairwise(activation=ACTIVATIONS, shape=[(N, N_IN, N_OUT), (1009, 61, 67), (3, 977, 1013)], dtype=DTYPES)
def test_dense_gives_the_same_bits_forward_and_backward(activation, shape, dtype, same_bits):
    n, n_in, n_out = shape
    x, weight, bias, dy = normal(dtype, (n, n_in), (n_out, n_in), (n_out,), (n, n_out))

    def call():
        z, dw, db = np.empty_like(dy), np.empty_like(weight), np.empty_like(bias)
        y = F.dense(x, weight, bias, activation=activation, z=z)
        dx = F.dense_backward(dy, x, weight, z, activation=activation, dw=dw, db=db)
        return y, z, dx, dw, db

    same_bits(call)


@pairwise(
    activation=ACTIVATIONS,
    shape=[(N, 3 * 387, 3 * 58, 3), (1009, 61 * 5, 61 * 3, 61), (3, 1954, 2026, 2)],
    dtype=DTYPES,
)
def test_grouped_dense_gives_the_same_bits_forward_and_backward(activation, shape, dtype, same_bits):
    n, n_in, n_out, groups = shape
    x, weight, bias, dy = normal(dtype, (n, n_in), (n_out, n_in // groups), (n_out,), (n, n_out))
    how = {"groups": groups, "activation": activation}

    def call():
        z, dw, db = np.empty_like(dy), np.empty_like(weight), np.empty_like(bias)
        y = F.grouped_dense(x, weight, bias, z=z, **how)
        dx = F.grouped_dense_backward(dy, x, weight, z, dw=dw, db=db, **how)
        return y, z, dx, dw, db

    same_bits(call)


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_maxout_gives_the_same_bits_forward_and_backward(pieces, dtype, same_bits):
    x, dy = normal(dtype, (1013, 403 * pieces), (1013, 403))
    same_bits(lambda: [F.maxout(x, pieces), F.maxout_backward(dy, x, pieces)])


@pairwise(
    shape=[(1, 57, 61, 70), (37, 13, 12, 33), (3, 2, 900, 17)],
    options=[
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": (2, 5), "stride": 1},
        {"kernel_size": 2},
    ],
    dtype=DTYPES,
)
def test_pooling_gives_the_same_bits_forward_and_backward(shape, options, dtype, same_bits):
    (x,) = normal(dtype, shape)
    (dy,) = normal(dtype, F.max_pool2d(x, **options).shape)

    def call():
        maxima = [F.max_pool2d(x, **options), F.max_pool2d_backward(dy, x, **options)]
        return [*maxima, F.avg_pool2d(x, **options), F.avg_pool2d_backward(dy, x.shape, **options)]

    same_bits(call)


CONVOLUTIONS = {  # images, filters, their size, and options: whatever threads divide
    "pixels": ((2, 61, 67, 19), (35, 3, 3), {"padding": 1}),
    "few channels": ((3, 57, 63, 3), (21, 5, 3), {"stride": (2, 1), "padding": (2, 1)}),
    "chunks of pixels": ((1, 97, 103, 16), (13, 1, 1), {}),
    "weights": ((2, 5, 7, 163), (259, 3, 2), {"padding": "same"}),
    "one pixel": ((3, 1, 1, 301), (401, 3, 3), {"padding": 1}),
    "groups": ((3, 31, 37, 54), (87, 2, 4), {"stride": (1, 2), "padding": (1, 3), "dilation": (2, 1), "groups": 3}),
    "depthwise": ((7, 43, 41, 71), (71, 3, 3), {"padding": 1, "groups": 71}),
    "depthwise, a strip a thread": ((1, 13, 11, 260), (260, 3, 1), {"padding": (1, 0), "groups": 260}),
    "depthwise, long lines": ((1, 3, 907, 37), (37, 2, 5), {"stride": (1, 2), "dilation": (2, 3), "groups": 37}),
    "strides wider than filters": ((5, 61, 59, 33), (67, 2, 1), {"stride": 3}),
}


@pairwise(case=CONVOLUTIONS, activation=ACTIVATIONS, dtype=DTYPES)
def test_convolutions_give_the_same_bits_forward_and_backward(case, activation, dtype, same_bits):
    shape, filters, options = CONVOLUTIONS[case]
    depth = shape[3] // options.get("groups", 1)
    x, weight, bias = normal(dtype, shape, (*filters, depth), filters[:1])
    (dy,) = normal(dtype, F.conv2d(x, weight, **options).shape)
    how = {**options, "activation": activation}

    def call():
        z, dw, db = np.empty_like(dy), np.empty_like(weight), np.empty_like(bias)
        y = F.conv2d(x, weight, bias, z=z, **how)
        dx = F.conv2d_backward(dy, x, weight, z, dw=dw, db=db, **how)
        return y, z, dx, dw, db

    same_bits(call)


def images(dtype):
    """Images whose height, width and channels are unlike, before and after every layer."""
    branches = [
        [fo.nn.Conv2d(19, 7, 1, activation="relu"), fo.nn.Conv2d(7, 10, 3, padding=1, activation="silu")],
        [fo.nn.MaxPool2d(3, 1, 1), fo.nn.Conv2d(19, 5, (1, 3), padding="same", l1=0.01)],
        [],
    ]
    layers = [
        fo.nn.Conv2d(3, 19, (5, 3), stride=(2, 1), padding=(2, 0), bias=False),
        fo.nn.BatchNorm(19, activation="relu"),
        fo.nn.Concat(branches),
        fo.nn.Residual([fo.nn.Conv2d(34, 34, 3, padding="same", dilation=2, groups=17, activation="gelu")]),
        fo.nn.Residual([fo.nn.Conv2d(34, 34, (3, 1), padding=(1, 0), groups=34, activation="relu")]),
        fo.nn.AvgPool2d(2),
        fo.nn.Conv2d(34, 23, 2, stride=2, max_norm=1.0),
        fo.nn.Flatten(),
        fo.nn.Dense(23 * 4 * 6, 11),
    ]
    return fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=(33, 27, 3))


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_networks_of_convolutions_give_the_same_bits(rule, dtype, same_bits):
    (x,) = normal(dtype, (25, 33, 27, 3))
    y = np.arange(25) % 11

    def call():
        net = images(dtype)
        v = normal(dtype, *(p.shape for p in net.parameters()))
        products = [net.hvp(x[:9], y[:9], v, gauss_newton=gauss_newton) for gauss_newton in (False, True)]
        trainer = fo.nn.Trainer(net, "cross_entropy", getattr(fo.optim, rule)(net.parameters(), lr=0.01))
        history = trainer.fit(x, y, epochs=2, batch_size=7)
        outputs = [each.predict(x[:n]) for each in (net, net.fold()) for n in (1, 2, 25)]
        return [*products[0], *products[1], *net.parameters(), history["loss"], *outputs]

    same_bits(call)


def test_dropout_gives_the_same_bits(dtype, same_bits):
    (x,) = normal(dtype, (1013, 403))
    same_bits(lambda: [F.dropout(x, 0.3, 1, 2), F.dropout_backward(x, 0.3, 1, 2)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_give_the_same_bits(name, dtype, same_bits):
    (x,) = normal(dtype, (1013, 101))
    same_bits(lambda: [F.activation(x, name)])


# narrow rows go sixteen at a time
@pairwise(case=LOSS_CASES, shape=[(20011, 7), (1013, 101)], weighted=[False, True], dtype=DTYPES)
def test_losses_give_the_same_bits(case, shape, weighted, dtype, same_bits):
    loss, kind, options = case
    (prediction,) = normal(dtype, shape)
    weight = np.linspace(0, 1, shape[0]) if weighted else None
    targets, options = draw_targets(kind, *shape), loss_options(options, shape[1])
    same_bits(lambda: getattr(F, loss)(prediction, targets, sample_weight=weight, **options))


def test_standardization_gives_the_same_bits(dtype, same_bits):
    x, mean, scale = normal(dtype, (1013, 403), 403, 403)
    same_bits(lambda: [F.standardize(x, mean, scale)])


@pairwise(activation=ACTIVATIONS, shape=[(1013, 403), (401, 1103)], dtype=DTYPES)
def test_batch_norm_gives_the_same_bits_forward_and_backward(activation, shape, dtype, same_bits):
    x, dy, gamma, beta = normal(dtype, shape, shape, shape[1], shape[1])

    def call():
        z = np.empty_like(x)
        y, mean, var = F.batch_norm(x, gamma, beta, activation=activation, z=z)
        grads = F.batch_norm_backward(dy, x, gamma, mean, var, activation=activation, z=z)
        return y, z, mean, var, *grads, F.batch_norm_inference(x, gamma, beta, mean, var, activation=activation)

    same_bits(call)


@pytest.mark.parametrize("shape", [(1013, 403), (7, 61, 43, 29)], ids=str)
def test_column_statistics_give_the_same_bits(shape, dtype, same_bits):
    (x,) = normal(dtype, shape)
    same_bits(lambda: F.batch_statistics(x))


@functools.cache
def parameters_and_grads(dtype):
    arrays = normal(dtype, *[(400_003,), (7,), (33, 101), (1,)] * 3)
    return arrays[:4], arrays[4:8], arrays[8:]


def optimized(rule, options, dtype):
    """Makes calls of a few steps, which return all that they changed."""
    starts, one, other = parameters_and_grads(dtype)

    def call():
        params = [a.copy() for a in starts]
        optimizer = getattr(fo.optim, rule)(params, **options)
        for step in (one, other, one):
            optimizer.step(step)
        state = optimizer.state_dict()["state"].values()
        return [*params, *(value for entry in state for value in entry.values()), optimizer.grad_norm]

    return call


@pytest.mark.parametrize(("rule", "options"), [(rule, o) for rule in RULES for o in OPTIONS[rule]], ids=str)
def test_optimizers_give_the_same_bits(rule, options, dtype, same_bits):
    same_bits(optimized(rule, options, dtype))


WHOLE = {
    "clipped": {"max_norm": 1.0, "check_finite": "raise", "ema_decay": 0.9},
    "accumulated": {"max_norm": 1.0, "accumulate": 2, "ema_decay": 0.9},
    "clamped": {"clip_value": 0.5, "accumulate": 2, "check_finite": "skip"},
}


@pairwise(case=KERNELS, whole=WHOLE, dtype=DTYPES)
def test_what_surrounds_an_update_gives_the_same_bits(case, whole, dtype, same_bits):
    rule, options = case
    same_bits(optimized(rule, {**options, **WHOLE[whole]}, dtype))


def test_clipping_gives_the_same_bits(dtype, same_bits):
    grads = normal(dtype, (400_003,), (33, 101))

    def call():
        scaled, clamped = ([g.copy() for g in grads] for _ in range(2))
        fo.functional.clip_grad_value_(clamped, 0.5)
        return [fo.functional.clip_grad_norm_(scaled, 1.0), *scaled, *clamped]

    same_bits(call)


@pytest.mark.parametrize("rule", ["SGD", "RMSprop"])
def test_interim_points_and_averages_give_the_same_bits(rule, dtype, same_bits):
    (start, grad) = normal(dtype, 400_003, 400_003)

    def call():
        w = start.copy()
        optimizer = getattr(fo.optim, rule)([w], momentum=0.9, nesterov="interim", ema_decay=0.9)
        optimizer.step([grad])
        with optimizer.interim_point():
            ahead = w.copy()
        with optimizer.averaged():
            return [ahead, w.copy()]

    same_bits(call)


def network(dtype):
    return fo.nn.Sequential(
        [
            fo.nn.Standardize(45),
            fo.nn.Whiten(45),
            fo.nn.Dense(45, 131),
            fo.nn.BatchNorm(131, activation="gelu"),
            fo.nn.Residual([fo.nn.Dense(131, 67, activation="tanh"), fo.nn.Dense(67, 131, activation="relu")]),
            fo.nn.Dropout(0.2),
            fo.nn.Maxout(131, 66, pieces=3),
            fo.nn.BatchNorm(66, affine=False),
            fo.nn.GroupedDense(66, 36, groups=6, activation="silu"),
            fo.nn.Dense(36, 11),
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
        averages = [layer.running_var for layer in net.layers if isinstance(layer, fo.nn.BatchNorm)]
        return [*net.parameters(), *averages, history["loss"], net.predict(X)]

    same_bits(call)


@pairwise(gauss_newton=[False, True], shape=["every layer", "many rows", "wide layers", "shortcut"], dtype=DTYPES)
def test_hessian_vector_products_give_the_same_bits(shape, gauss_newton, dtype, same_bits):
    n, layers = SHAPES.get(shape, (1100, None))
    net = fo.nn.Sequential(layers(), rng=0, dtype=dtype) if layers else network(dtype)
    (x,) = normal(dtype, (n, net.in_features))
    v = normal(dtype, *(p.shape for p in net.parameters()))
    net.calibrate(x)
    same_bits(lambda: net.hvp(x, np.arange(n) % net.out_features, v, gauss_newton=gauss_newton))


# rows, and layers wide or narrow: threads divide the rows of a batch, or the outputs of a layer
SHAPES = {
    "many rows": (1100, lambda: [fo.nn.Dense(64, 64, "relu"), fo.nn.Dense(64, 10)]),
    "wide layers": (9, lambda: [fo.nn.Dense(515, 1031, "tanh"), fo.nn.Dense(1031, 37)]),
    "shortcut": (
        501,
        lambda: [
            fo.nn.Dense(21, 131, "gelu"),
            fo.nn.Residual([fo.nn.Dense(131, 67, "silu"), fo.nn.Dense(67, 131, bias=False)]),
            fo.nn.Dense(131, 5),
        ],
    ),
}


def trained(shape, rule, options, dtype):
    """Makes calls that train a network for two steps and return all that they changed."""
    n, layers = SHAPES[shape]

    def call():
        net = fo.nn.Sequential(layers(), rng=0, dtype=dtype)
        (x,) = normal(dtype, (n, net.in_features))
        optimizer = getattr(fo.optim, rule)(net.parameters(), **options)
        trainer = fo.nn.Trainer(net, "cross_entropy", optimizer, max_batch=n)
        losses = [trainer.step(x, np.arange(n) % net.out_features) for _ in range(2)]
        state = optimizer.state_dict()["state"].values()
        return [
            *net.parameters(),
            *losses,
            *(value for entry in state for value in entry.values()),
            optimizer.grad_norm,
        ]

    return call


@pairwise(case=KERNELS, shape=SHAPES, dtype=DTYPES)
def test_a_trainers_step_gives_the_same_bits(case, shape, dtype, same_bits):
    rule, options = case
    same_bits(trained(shape, rule, options, dtype))


@pairwise(rule=["SGD", "Adam"], whole=WHOLE, shape=SHAPES, dtype=DTYPES)
def test_a_trainers_step_with_what_surrounds_it_gives_the_same_bits(rule, whole, shape, dtype, same_bits):
    same_bits(trained(shape, rule, WHOLE[whole], dtype))


def test_predict_and_gradients_give_the_same_bits(dtype, same_bits):
    (X,) = normal(dtype, (300, 45))
    y = np.arange(300) % 11
    net = network(dtype).calibrate(X)

    def call():
        net.draws = 0
        loss, grads = net.value_and_grad(X, y)
        return [loss, *grads, net.predict(X), net.predict_proba(X)]

    same_bits(call)
