"""No kernel touches a byte outside its arrays.

Pass criterion: on arrays that end, or begin, at an inaccessible page the process
lives and the results are those on ordinary arrays, bit for bit.
"""

import signal
import sys
from pathlib import Path

import guard
import numpy as np
import pytest
import topics
from pairs import pairwise
from reference import ACTIVATIONS, DTYPES, FAMILIES, KERNELS, LOSS_CASES, draw_targets, loss_options

import fastopt as fo
from fastopt._kernels import core

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")

F = fo.functional
WIDTHS = [*range(1, 34), 47, 64, 65, 100]
ROWS = (1, 3, 7, 17)


PLACES = [guard.ending, guard.beginning]


@pytest.fixture(params=PLACES, ids=["ending", "beginning"])
def place(request):
    return request.param


def normal(dtype, *shapes):
    rng = np.random.default_rng(8)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def check(kernel, place, *args):
    """kernel(place, ...) returns its outputs: the same on guarded arrays and on ordinary ones."""
    for got, want in zip(kernel(place, *args), kernel(np.array, *args), strict=True):
        np.testing.assert_array_equal(got, want)


def run_activation(place, dtype, n, width, name):
    x, out = map(place, normal(dtype, (n, width), (n, width)))
    F.activation(x, name, out)
    return out, F.activation(x, name, x)


def run_dense(place, dtype, n, n_in, n_out, name):
    shapes = (n, n_in), (n_out, n_in), (n_out,), (n, n_out), (n, n_out), (n, n_out), (n, n_in), (n_out, n_in), (n_out,)
    x, weight, bias, dy, out, z, dx, dw, db = map(place, normal(dtype, *shapes))
    F.dense(x, weight, bias, activation=name, out=out, z=z)
    F.dense_backward(dy, x, weight, z, activation=name, dx=dx, dw=dw, db=db)
    return out, z, dx, dw, db


def run_grouped_dense(place, dtype, n, depth, width, groups, name):
    n_in, n_out = depth * groups, width * groups
    shapes = (
        (n, n_in),
        (n_out, depth),
        (n_out,),
        (n, n_out),
        (n, n_out),
        (n, n_out),
        (n, n_in),
        (n_out, depth),
        (n_out,),
    )
    x, weight, bias, dy, out, z, dx, dw, db = map(place, normal(dtype, *shapes))
    F.grouped_dense(x, weight, bias, groups, name, out, z)
    F.grouped_dense_backward(dy, x, weight, z, groups, name, dx, dw, db)
    return out, z, dx, dw, db


def run_glm(place, dtype, n, width, family):
    k = 3 if family == "multinomial" else 1
    x, y, weights = place(normal(dtype, (n, width))[0]), place(np.arange(n) % 3.0 % 2), place(np.ones(n))
    theta, grad, product, hessian = map(place, normal(float, *[(k, width + 1)] * 3, (k * (width + 1),) * 2))
    data = core.GlmData(family, x, y, weights, k, True, parameter=1.5)
    data.value(theta / width, grad, hessian)
    data.product(theta, product)
    return grad, product, np.tril(hessian)


def run_glm_entries(place, dtype, n, width, family, kind):
    k, m = 3 if family == "multinomial" else 1, 7
    x, y = place(normal(dtype, (n, width))[0]), place(np.arange(n) % 3.0 % 2)
    columns, values, starts = np.arange(3 * n, dtype=np.int32) % 9, None, None  # 8 is none of the 7
    if kind == "sparse":
        starts = np.arange(n + 1) * 3
        starts[-1] -= 2
        columns, values = place(np.sort(columns.reshape(n, 3)).reshape(-1)[:-2]), place(normal(float, (3 * n - 2,))[0])
        starts = place(starts)
    q = width + m + 1
    theta, grad, product, hessian = map(place, normal(float, *[(k, q)] * 3, (k * q,) * 2))
    entries = place(columns) if kind == "codes" else columns, values, starts, m
    data = core.GlmData(family, x, y, None, k, True, parameter=1.5, entries=entries)
    data.value(theta / q, grad, hessian)
    data.product(theta, product)
    return grad, product, np.tril(hessian)


def run_maxout(place, dtype, n, width, pieces):
    x, dy, out, dx = map(place, normal(dtype, (n, width * pieces), (n, width), (n, width), (n, width * pieces)))
    return F.maxout(x, pieces, out), F.maxout_backward(dy, x, pieces, dx)


def run_pool2d(place, dtype, n, height, width, channels, options):
    x, dx = map(place, normal(dtype, *[(n, height, width, channels)] * 2))
    (dy,) = normal(dtype, F.max_pool2d(x, **options).shape)
    out, dy = place(dy), place(dy)
    maxima = F.max_pool2d(x, **options, out=out).copy(), F.max_pool2d_backward(dy, x, **options, dx=dx).copy()
    return *maxima, F.avg_pool2d(x, **options, out=out), F.avg_pool2d_backward(dy, x.shape, **options, dx=dx)


def run_conv2d(place, dtype, n, height, width, channels, filters, kernel, name, options):
    """Filters in as many groups as options say."""
    shapes = (n, height, width, channels), (filters, *kernel, channels // options["groups"]), (filters,)
    x, weight, bias, dx, dw, db = map(place, normal(dtype, *shapes, *shapes))
    (dy,) = normal(dtype, F.conv2d(x, weight, **options).shape)
    dy, out, z = place(dy), place(dy), place(dy)
    F.conv2d(x, weight, bias, **options, activation=name, out=out, z=z)
    F.conv2d_backward(dy, x, weight, z, **options, activation=name, dx=dx, dw=dw, db=db)
    return out, z, dx, dw, db


def run_dropout(place, dtype, n, width):
    x, out, dx = map(place, normal(dtype, *[(n, width)] * 3))
    return F.dropout(x, 0.4, 1, 2, out), F.dropout_backward(x, 0.4, 1, 2, dx)


def run_augment(place, dtype, n, width):
    x, y = map(place, normal(dtype, (n, 3, width, 2), (n, 3, width, 2)))
    layers = [fo.nn.RandomShift(2, width - 1), fo.nn.RandomFlip(True, True), fo.nn.Dense(2, 2)]
    net = fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=x.shape[1:])
    loss, grads = net.value_and_grad(x, y, "mse")
    return [loss, *grads]


def run_loss(place, dtype, n, k, loss, kind, options):
    prediction, grad = map(place, normal(dtype, (n, k), (n, k)))
    targets = draw_targets(kind, n, k)
    targets = place(targets if kind == "classes" else targets.astype(dtype))
    weight, options = place(np.linspace(0.1, 1, n).astype(dtype)), loss_options(options, k)
    if "class_weight" in options:
        options["class_weight"] = place(options["class_weight"].astype(dtype))
    return getattr(F, loss)(prediction, targets, grad, sample_weight=weight, **options)[0], grad


def run_standardize(place, dtype, n, c):
    x, mean, scale, out = map(place, normal(dtype, (n, c), c, c, (n, c)))
    F.standardize(x, mean, scale, out)
    return (out,)


def run_batch_norm(place, dtype, n, c, name):
    x, dy, gamma, beta, out, z, dx, dgamma, dbeta = map(place, normal(dtype, *[(n, c)] * 2, c, c, *[(n, c)] * 3, c, c))
    mean, var = map(place, F.batch_norm(x, gamma, beta, out=out, activation=name, z=z)[1:])
    F.batch_norm_backward(dy, x, gamma, mean, var, 1e-5, dx, dgamma, dbeta, activation=name, z=z)
    inference = F.batch_norm_inference(x, gamma, beta, mean, var, out=place(x), activation=name)
    return out, z, mean, var, dx, dgamma, dbeta, inference, *F.batch_statistics(x)


def run_channel_statistics(place, dtype, n, c, h, w):
    (x,) = map(place, normal(dtype, (n, c, h, w)))
    return F.batch_statistics(x)


WHOLE = {
    "alone": {},
    "clamped": {"clip_value": 0.5, "check_finite": "raise"},
    "all": {"max_norm": 1.0, "accumulate": 2, "ema_decay": 0.5, "check_finite": "skip"},
}


def run_optimizer(place, dtype, size, rule, options):
    params, grads = (list(map(place, normal(dtype, (size,), (3, size)))) for _ in range(2))
    optimizer = getattr(fo.optim, rule)(params, **options)
    # the moments, too, on guarded pages
    optimizer._states = [{name: place(a) for name, a in state.items()} for state in optimizer._states]
    optimizer._kept = [()] * len(params)
    optimizer._send_options()
    for _ in range(4):
        optimizer.step(grads)
    if options.get("nesterov") == "interim":
        with optimizer.interim_point():
            params += [a.copy() for a in params]
    F.clip_grad_norm_(grads, 1.0)
    F.clip_grad_value_(grads, 0.1)
    return [*params, *grads, *(a for state in optimizer._states for a in state.values())]


def run_sums(place, dtype, size):
    parts = list(map(place, normal(dtype, *[(size,)] * 3)))
    core.sum_parts(parts, [0.5, 1.0, 0.0], parts)
    return parts


def run_images(place, dtype, n, width):
    layers = [
        fo.nn.ChannelsFirst(),
        fo.nn.Conv2d(width, 4, 3, padding=1, activation="silu", l2=0.01),
        fo.nn.Concat(
            [
                [fo.nn.Conv2d(4, 2, 1, bias=False), fo.nn.BatchNorm(2, activation="relu")],
                [fo.nn.Conv2d(4, width, (2, 5), padding="same", groups=1)],
                [fo.nn.MaxPool2d(3, 1, 1), fo.nn.Residual([fo.nn.Conv2d(4, 4, 3, padding=1, groups=2)])],
                [],
            ]
        ),
        fo.nn.Conv2d(width + 10, 3, 2, stride=2, max_norm=1.0),
        fo.nn.Flatten(),
        fo.nn.Dense(6, 3),
    ]
    return trained(place, dtype, n, layers, (width, 5, 3))


def run_network(place, dtype, n, width):
    layers = [
        fo.nn.Standardize(width),
        fo.nn.Whiten(width),
        fo.nn.Residual([fo.nn.Dense(width, width, activation="gelu", l1=0.01)]),
        fo.nn.BatchNorm(width, activation="silu"),
        fo.nn.Dropout(0.1),
        fo.nn.GroupedDense(width, width, width, activation="tanh", l2=0.01),
        fo.nn.Maxout(width, 6, max_norm=1.0),
        fo.nn.GroupedDense(6, 3, groups=3),
    ]
    return trained(place, dtype, n, layers, (width,))


def trained(place, dtype, n, layers, input_shape):
    """What a network gives and holds after all that can be done with one; it has three classes."""
    net = fo.nn.Sequential(layers, rng=0, dtype=dtype, input_shape=input_shape)
    for layer in fo.nn.layers.walk(net.layers):
        if hasattr(layer, "_arrays"):
            layer._arrays = {name: place(a) for name, a in layer._arrays.items()}
    net._compile()
    x, out = map(place, normal(dtype, (n, *input_shape), (n, 3)))
    y, weight = place(np.arange(n) % 3), place(np.ones(n, dtype))
    net.calibrate(x, batch_norm=False)
    net.predict(x, out)
    v = [place(p) for p in normal(dtype, *(p.shape for p in net.parameters()))]
    products = [
        a for gauss_newton in (False, True) for a in net.hvp(x, y, v, sample_weight=weight, gauss_newton=gauss_newton)
    ]
    for mode in (False, True):
        dx, grads = net.backward(x, place(np.ones((n, 3), dtype)), training=mode)
        products += [dx, *grads]
    trainer = fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters()), max_batch=n)
    trainer.step(x, y, weight)
    trainer.fit(x, y, batch_size=4, sample_weight=weight)
    other = place(x.astype(np.float64 if dtype == np.float32 else np.float32))  # read as it comes
    trainer.fit(other, y, batch_size=4, sample_weight=weight)
    trainer.step(other, y, weight)
    net.predict(other, out)
    packed = net.fold().predict(x, place(np.empty((n, 3), dtype)))
    return [out, packed, *products, *fo.nn.files.arrays_of(net).values()]


@pytest.mark.parametrize("topic", topics.taking_part("guard_pages"), ids=lambda topic: topic.name)
def test_every_topic_of_kernels_has_a_test_here(topic):
    assert topic.guard_pages in globals()


def test_guarded_arrays_take_every_misalignment(dtype):
    starts = {guard.ending(np.zeros(n, dtype)).ctypes.data % 64 for n in WIDTHS}
    assert starts == set(range(0, 64, dtype.itemsize))


@pytest.mark.parametrize("beyond", ["guard.ending(a)[-1:]", "guard.beginning(a)[:1]"])
def test_a_step_beyond_a_guarded_array_ends_the_process(beyond, python):
    step = -1 if "beginning" in beyond else 1
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(guard.__file__).parent)!r})
import guard, numpy as np
a = np.zeros(5)
a = {beyond}
a[0] = 1  # the last, or first, element may be touched
child = os.fork()
if child == 0:
    np.lib.stride_tricks.as_strided(a, (2,), ({step * 8},))[1] = 1
    os._exit(0)
print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
    assert int(python(program, ASAN_OPTIONS="handle_segv=0:handle_sigbus=0:detect_leaks=0")) in (
        signal.SIGSEGV,
        signal.SIGBUS,
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_stay_inside(name, dtype, place):
    for width in WIDTHS:
        check(run_activation, place, dtype, 1, width, name)
    check(run_activation, place, dtype, 5, 13, name)


@pytest.mark.parametrize("n", ROWS)
def test_dense_stays_inside(n, dtype, place):
    for width in WIDTHS:
        check(run_dense, place, dtype, n, width, 5, "relu")
        check(run_dense, place, dtype, n, 5, width, "tanh")


@pairwise(name=ACTIVATIONS, dtype=DTYPES, place=PLACES)
def test_dense_stays_inside_with_every_activation(name, dtype, place):
    for width in (1, 9, 33):
        check(run_dense, place, dtype, 7, width, width, name)


# rows that are transposed, and rows of which the weight is packed
@pytest.mark.parametrize("shape", [(259, 1027, 3), (131, 33, 79)], ids=str)
def test_dense_beyond_a_strip_stays_inside(shape, dtype, place):
    check(run_dense, place, dtype, *shape, "identity")


@pytest.mark.parametrize("n", ROWS)
def test_grouped_dense_stays_inside(n, dtype, place):
    for width in WIDTHS:
        check(run_grouped_dense, place, dtype, n, width, 5, 3, "relu")
        check(run_grouped_dense, place, dtype, n, 5, width, 2, "gelu")


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 5])
def test_maxout_stays_inside(pieces, dtype, place):
    for width in WIDTHS:
        check(run_maxout, place, dtype, 3, width, pieces)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kernel", [1, 2, 3, (2, 4), (1, 5)])
def test_pooling_stays_inside(kernel, padding, dtype, place):
    padding = tuple(min(padding, k // 2) for k in (kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    for stride in (1, 2):
        options = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": True}
        for channels in WIDTHS:
            check(run_pool2d, place, dtype, 2, 3, 5, channels, options)


CONVOLUTIONS = {  # size of a filter, and options
    "1x1": ((1, 1), {}),
    "3x3": ((3, 3), {"padding": 1}),
    "by strides": ((3, 2), {"stride": (2, 1), "padding": "valid"}),
    "far apart": ((2, 3), {"stride": (1, 3), "padding": (2, 3), "dilation": (3, 2)}),
    "larger than the image": ((4, 5), {"padding": "same"}),
}


@pairwise(case=CONVOLUTIONS, n=[1, 3], dtype=DTYPES, place=PLACES)
def test_convolutions_stay_inside(case, n, dtype, place):
    kernel, options = CONVOLUTIONS[case]
    for width in WIDTHS:
        for channels, filters, groups in ((width, 5, 1), (5, width, 1), (width, width, width), (3 * width, 6, 3)):
            check(run_conv2d, place, dtype, n, 3, 4, channels, filters, kernel, "relu", {**options, "groups": groups})


@pairwise(name=ACTIVATIONS, dtype=DTYPES, place=PLACES)
def test_convolutions_stay_inside_with_every_activation(name, dtype, place):
    for width in (1, 9, 33):
        for groups in (1, width):
            check(run_conv2d, place, dtype, 2, 5, 3, width, width, (3, 3), name, {"padding": 1, "groups": groups})


def test_convolutions_of_many_pixels_stay_inside(dtype, place):
    for channels, filters, groups in ((3, 9, 1), (16, 8, 1), (10, 5, 5), (19, 19, 19)):
        check(run_conv2d, place, dtype, 1, 89, 47, channels, filters, (3, 3), "tanh", {"padding": 1, "groups": groups})


def test_dropout_stays_inside(dtype, place):
    for width in WIDTHS:
        check(run_dropout, place, dtype, 3, width)


def test_augmentation_stays_inside(dtype, place):
    for width in WIDTHS:
        check(run_augment, place, dtype, 3, width)


@pairwise(case=LOSS_CASES, dtype=DTYPES, place=PLACES)
def test_losses_stay_inside(case, dtype, place):
    loss, kind, options = case
    for width in WIDTHS:
        for n in (3, 17):
            check(run_loss, place, dtype, n, width, loss, kind, options)


def test_standardization_stays_inside(dtype, place):
    for width in WIDTHS:
        check(run_standardize, place, dtype, 3, width)


@pairwise(name=ACTIVATIONS, dtype=DTYPES, place=PLACES)
def test_batch_norm_stays_inside(name, dtype, place):
    for width in WIDTHS if name == "identity" else (1, 9, 33):
        for n in (2, 13, 67):
            check(run_batch_norm, place, dtype, n, width, name)


def test_statistics_of_channels_stay_inside(dtype, place):
    for size in WIDTHS:
        check(run_channel_statistics, place, dtype, 3, 2, 1, size)
    check(run_channel_statistics, place, dtype, 2, 3, 37, 31)


@pairwise(family=FAMILIES, dtype=DTYPES, place=PLACES)
def test_generalized_linear_models_stay_inside(family, dtype, place):
    for width in WIDTHS[::2]:
        for n in (3, 17, 130):
            check(run_glm, place, dtype, n, width, family)


@pairwise(family=FAMILIES, kind=["codes", "sparse"], dtype=DTYPES, place=PLACES)
def test_entries_of_generalized_linear_models_stay_inside(family, kind, dtype, place):
    for width in [0, *WIDTHS[::4]]:
        for n in (3, 17, 130):
            check(run_glm_entries, place, dtype, n, width, family, kind)


INTERIM = [(rule, {"momentum": 0.9, "nesterov": "interim"}) for rule in ("SGD", "RMSprop")]


@pairwise(case=[*KERNELS, *INTERIM], whole=WHOLE, dtype=DTYPES, place=PLACES)
def test_optimizers_stay_inside(case, whole, dtype, place):
    rule, options = case
    for size in WIDTHS if whole == "alone" else WIDTHS[::3]:
        check(run_optimizer, place, dtype, size, rule, {**options, **WHOLE[whole]})


def test_sums_of_parts_stay_inside(dtype, place):
    for size in [*WIDTHS, 5000]:
        check(run_sums, place, dtype, size)


@pytest.mark.parametrize("n", [2, 5, 18])
def test_networks_stay_inside(n, dtype, place):
    for width in WIDTHS[::3]:
        check(run_network, place, dtype, n, width)
        check(run_images, place, dtype, n, width)
