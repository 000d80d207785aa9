"""Every public kernel alone, in both dtypes and five sizes: what is watched over commits, kernel by kernel.

KERNELS is the one list: the functions of fastopt.functional, the optimizers, and newton.glm; a test holds it against
what is public. The other topics time what users do and compare it with peers; here nothing is compared.
"""

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from fastopt import functional as F
from fastopt import newton, optim
from fastopt.bench._cases import Case, random, randoms
from fastopt.bench._curvature import newton_cg_case

DTYPES = ("float32", "float64")
ELEMENTS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)  # in rows of 100
WIDTHS = (32, 128, 512, 1024, 2048)
CHANNELS = (8, 16, 32, 64, 128)
HIDDEN = (8, 16, 32, 64, 128)
ROWS = (200, 1_000, 5_000, 20_000, 100_000)
COLUMNS, BATCH, GROUPS, PIECES, IMAGE, RATE = 100, 32, 4, 4, 28, 0.3
REWRITTEN = {"SGD": 2, "Adagrad": 2, "RMSprop": 2, "Lion": 2}  # arrays that a step rewrites: parameters and moments


class Kernel(NamedTuple):
    """A public function, or a class of optimizers: what one size means, the sizes, and the case of one of them."""

    unit: str
    sizes: tuple[int, ...]
    case: Callable[[int, str], Case]


class Work(NamedTuple):
    """What a kernel works on at one size: a set-up of arrays, the call, and the least work."""

    setup: Callable[[], Iterable]
    call: Callable[..., Callable]
    moved: float = 0.0
    flops: float = 0.0


def cases() -> Iterator[Case]:
    for kernel in KERNELS.values():
        for dtype in DTYPES:
            for size in kernel.sizes:
                yield kernel.case(size, dtype)


def title(name, size, unit, dtype) -> str:
    return f"{name}, {size} {unit}, {dtype}"


def kernel(name, unit, sizes, work) -> Kernel:
    """The record of a function, found by name when a case is prepared: an older build may lack it."""

    def case(size, dtype):
        setup, call, moved, flops = work(size, dtype)

        def ours(*arrays):
            return call(getattr(F, name), *arrays)

        return Case(title(name, size, unit, dtype), setup, ours, flops=flops, moved=moved, dtype=dtype)

    return Kernel(unit, sizes, case)


# ---------------------------------------------------------------- over elements


def over_elements(name, arrays, call, moved=None) -> Kernel:
    """A function of arrays of one shape."""

    def work(n, dtype):
        return Work(randoms(*[(n // COLUMNS, COLUMNS)] * arrays, dtype=dtype), call, n * (moved or arrays))

    return kernel(name, "elements", ELEMENTS, work)


def over_columns(name, shapes, call, moved) -> Kernel:
    """A function of arrays of rows, "x", and of one number for each column, "c"."""

    def work(n, dtype):
        of = {"x": (n // COLUMNS, COLUMNS), "c": (COLUMNS,)}
        return Work(randoms(*(of[shape] for shape in shapes), dtype=dtype), call, n * moved)

    return kernel(name, "elements", ELEMENTS, work)


def normalized_backward(function, dy, x, gamma, dx, dgamma, dbeta):
    mean, var = F.batch_statistics(x)
    return lambda: function(dy, x, gamma, mean, var, 1e-5, dx, dgamma, dbeta)


def normalized(function, x, gamma, beta, y):
    mean, var = F.batch_statistics(x)
    return lambda: function(x, gamma, beta, mean, var, 1e-5, y)


def maxout(name) -> Kernel:
    def work(n, dtype):
        inputs, outputs = (n // COLUMNS, COLUMNS), (n // COLUMNS, COLUMNS // PIECES)
        if name == "maxout":
            return Work(randoms(inputs, outputs, dtype=dtype), lambda f, x, y: lambda: f(x, PIECES, y), 1.25 * n)
        setup = randoms(outputs, inputs, inputs, dtype=dtype)
        return Work(setup, lambda f, dy, x, dx: lambda: f(dy, x, PIECES, dx), 2.25 * n)

    return kernel(name, "elements", ELEMENTS, work)


def loss(name) -> Kernel:
    def work(n, dtype):
        shape = (n // COLUMNS, COLUMNS)

        def call(function, z, grad):
            values = (z > 0).astype(dtype) if name == "binary_cross_entropy" else z[::-1].copy()
            targets = np.arange(len(z)) % COLUMNS if name == "cross_entropy" else values
            return lambda: function(z, targets, grad)

        return Work(randoms(shape, shape, dtype=dtype), call, n * (2 if name == "cross_entropy" else 3))

    return kernel(name, "elements", ELEMENTS, work)


# ---------------------------------------------------------------- products


def product(name, groups=1) -> Kernel:
    """Square weights, which groups divide."""
    more = (groups,) if groups > 1 else ()

    def work(width, dtype):
        rows, weight, bias = (BATCH, width), (width, width // groups), (width,)
        moved, flops = prod(weight) + 2 * prod(rows), 2 * BATCH * prod(weight)
        if name.endswith("_backward"):
            setup = randoms(rows, rows, weight, rows, rows, weight, bias, dtype=dtype)
            return Work(setup, backward, 2 * prod(weight) + 4 * prod(rows), 2 * flops)
        return Work(randoms(rows, weight, bias, rows, dtype=dtype), forward, moved, flops)

    def forward(function, x, weight, bias, y):
        return lambda: function(x, weight, bias, *more, "relu", y)

    def backward(function, dy, x, weight, z, dx, dweight, dbias):
        return lambda: function(dy, x, weight, z, *more, "relu", dx, dweight, dbias)

    return kernel(name, "features", WIDTHS, work)


def convolution(name) -> Kernel:
    """3x3 filters, as many as channels."""

    def work(channels, dtype):
        image, weight, bias = (1, IMAGE, IMAGE, channels), (channels, 3, 3, channels), (channels,)
        moved, flops = 2 * prod(image) + prod(weight), 2 * IMAGE**2 * prod(weight)
        if name == "conv2d":
            return Work(randoms(image, weight, bias, image, dtype=dtype), forward, moved, flops)
        setup = randoms(image, image, weight, image, weight, bias, dtype=dtype)
        return Work(setup, backward, 2 * moved, 2 * flops)

    def forward(function, x, weight, bias, y):
        return lambda: function(x, weight, bias, padding=1, out=y)

    def backward(function, dy, x, weight, dx, dw, db):
        return lambda: function(dy, x, weight, padding=1, dx=dx, dw=dw, db=db)

    return kernel(name, "channels", CHANNELS, work)


def pool(name) -> Kernel:
    """Windows of 2x2, of 16 images."""

    def work(channels, dtype):
        image, pooled = (16, IMAGE, IMAGE, channels), (16, IMAGE // 2, IMAGE // 2, channels)
        if not name.endswith("_backward"):
            setup = randoms(image, pooled, dtype=dtype)
            return Work(setup, lambda f, x, y: lambda: f(x, 2, out=y), 1.25 * prod(image))
        setup = randoms(pooled, image, image, dtype=dtype)
        if name == "max_pool2d_backward":
            return Work(setup, lambda f, dy, x, dx: lambda: f(dy, x, 2, dx=dx), 2.25 * prod(image))
        return Work(setup, lambda f, dy, x, dx: lambda: f(dy, x.shape, 2, dx=dx), 1.25 * prod(image))

    return kernel(name, "channels", CHANNELS, work)


# ---------------------------------------------------------------- updates, second order


def optimizer(name) -> Kernel:
    """A step of one array, gradients given."""

    def case(n, dtype):
        def ours(param, grad):
            options = {"lr": 1e-6, **({"momentum": 0.9} if name == "SGD" else {})}
            made = getattr(optim, name)([param], **options)
            return lambda: made.step([grad])

        moved = n * (1 + 2 * REWRITTEN.get(name, 3))
        return Case(
            title(name, n, "parameters", dtype), randoms((n,), (n,), dtype=dtype), ours, moved=moved, dtype=dtype
        )

    return Kernel("parameters", ELEMENTS, case)


def newton_cg() -> Kernel:
    """A first step of NewtonCG: a network of one hidden layer, 1 000 rows."""

    def case(hidden, dtype):
        made = newton_cg_case([64, hidden, 10], 1000, dtype)
        return made._replace(what=title("NewtonCG", hidden, "hidden units", dtype))

    return Kernel("hidden units", HIDDEN, case)


def glm() -> Kernel:
    """A whole fit of newton.glm, logistic with 20 columns; numbers are float64 inside."""

    def case(rows, dtype):
        def setup():
            X = random(rows, 20, dtype=dtype)
            return X, (X.sum(axis=1) + random(rows, dtype=dtype) > 0).astype(int)

        def ours(X, y):
            return lambda: newton.glm(X, y, "binomial", tol=1e-8)

        return Case(title("glm", rows, "rows", dtype), setup, ours, dtype=dtype)

    return Kernel("rows", ROWS, case)


KERNELS: dict[str, Kernel] = {
    "activation": over_elements("activation", 2, lambda f, x, y: lambda: f(x, "gelu", y)),
    "exp": over_elements("exp", 2, lambda f, x, y: lambda: f(x, y)),
    "dropout": over_elements("dropout", 2, lambda f, x, y: lambda: f(x, RATE, 1, 2, y)),
    "dropout_backward": over_elements("dropout_backward", 2, lambda f, dy, dx: lambda: f(dy, RATE, 1, 2, dx)),
    "clip_grad_norm_": over_elements("clip_grad_norm_", 1, lambda f, g: lambda: f([g], 1.0)),
    "clip_grad_value_": over_elements("clip_grad_value_", 1, lambda f, g: lambda: f([g], 1.0), 2),
    "standardize": over_columns("standardize", "xccx", lambda f, x, m, s, y: lambda: f(x, m, s, y), 2),
    "batch_statistics": over_columns("batch_statistics", "x", lambda f, x: lambda: f(x), 1),
    "batch_norm": over_columns("batch_norm", "xccx", lambda f, x, g, b, y: lambda: f(x, g, b, 1e-5, y), 2),
    "batch_norm_backward": over_columns("batch_norm_backward", "xxcxcc", normalized_backward, 3),
    "batch_norm_inference": over_columns("batch_norm_inference", "xccx", normalized, 2),
    **{name: maxout(name) for name in ("maxout", "maxout_backward")},
    **{name: loss(name) for name in ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber")},
    **{name: product(name) for name in ("dense", "dense_backward")},
    **{name: product(name, GROUPS) for name in ("grouped_dense", "grouped_dense_backward")},
    **{name: convolution(name) for name in ("conv2d", "conv2d_backward")},
    **{name: pool(name) for name in ("max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward")},
    **{
        name: optimizer(name)
        for name in ("SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Lion")
    },
    "NewtonCG": newton_cg(),
    "glm": glm(),
}
