"""Batch normalization: forward, backward, inference and statistics, and a training step of a network with it."""

import math
from collections.abc import Iterator
from itertools import chain, pairwise

import fastopt as fo
from fastopt import functional as F
from fastopt.bench._cases import Case, named, randoms
from fastopt.bench._networks import batch, our_step, torch_step, weights_of
from fastopt.bench._peers import one_thread_jax

SHAPES = ((32, 128), (128, 512), (1024, 512), (1000, 600))
IMAGES = ((32, 16, 28, 28), (32, 256, 7, 7))


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        for backward in (False, True):
            yield batch_norm_case(*shape, backward)
        yield statistics_case(shape)
    yield normalized_step_case([784, 256, 128, 10], 128, 0.2)
    for shape in SHAPES:
        yield batch_norm_case(*shape, False, "float64").alone()
        yield statistics_case(shape, "float64").alone()
        for dtype in ("float32", "float64"):
            yield backward_case(*shape, dtype)
            yield inference_case(*shape, dtype)
    for images in IMAGES:
        for dtype in ("float32", "float64"):
            yield statistics_case(images, dtype).alone()


def batch_norm_case(n, features, backward, dtype="float32") -> Case:
    """Training forward, and gradients of x, gamma and beta, into arrays that are there; the peers' own or composed."""

    def ours(x, gamma, beta, dy, y, dx, dgamma, dbeta):
        if not backward:
            return lambda: F.batch_norm(x, gamma, beta, 1e-5, y)

        def call():
            _, mean, var = F.batch_norm(x, gamma, beta, 1e-5, y)
            F.batch_norm_backward(dy, x, gamma, mean, var, 1e-5, dx, dgamma, dbeta)

        return call

    def torch(*arrays):
        import torch

        x, gamma, beta, dy = map(torch.from_numpy, arrays[:4])
        norm, leaves = torch.nn.functional.batch_norm, (x, gamma, beta)
        if not backward:
            return torch.inference_mode()(lambda: norm(x, None, None, gamma, beta, True))
        for leaf in leaves:
            leaf.requires_grad_()
        return lambda: torch.autograd.grad(norm(x, None, None, gamma, beta, True), leaves, dy)

    def jax(*arrays):
        jax = one_thread_jax()
        *inputs, dy = map(jax.numpy.asarray, arrays[:4])

        def forward(x, gamma, beta):
            mean, var = x.mean(0), x.var(0)
            return (x - mean) * (gamma * jax.lax.rsqrt(var + 1e-5)) + beta, (mean, var)

        def both(x, gamma, beta, dy):
            y, pull, statistics = jax.vjp(forward, x, gamma, beta, has_aux=True)
            return y, statistics, pull(dy)

        if not backward:
            compiled = jax.jit(forward)
            return lambda: jax.block_until_ready(compiled(*inputs))
        compiled = jax.jit(both)
        return lambda: jax.block_until_ready(compiled(*inputs, dy))

    family = f"batch_norm {'forward + backward' if backward else 'forward'}"
    rows, columns = (n, features), (features,)
    setup = randoms(rows, columns, columns, rows, rows, rows, columns, columns, dtype=dtype)
    what, moved = named(f"{family} {n}x{features}", dtype), n * features * (4 if backward else 2)
    return Case(what, setup, ours, {"torch": torch, "jax": jax}, moved=moved, dtype=dtype, family=family)


def statistics_case(shape, dtype="float32") -> Case:
    """Mean and variance of every column, or channel (the peers' only of columns)."""

    def ours(x):
        return lambda: F.batch_statistics(x)

    def torch(x):
        import torch

        t = torch.from_numpy(x)
        return lambda: torch.var_mean(t, 0, correction=0)

    def numpy(x):
        return lambda: (x.mean(0), x.var(0))

    what, setup = f"batch_statistics {'x'.join(map(str, shape))}", randoms(shape, dtype=dtype)
    moved = math.prod(shape)
    return Case(named(what, dtype), setup, ours, {"torch": torch, "numpy": numpy}, moved=moved, dtype=dtype)


def normalized_step_case(widths, n, rate) -> Case:
    """One step with Adam of a network whose hidden layers are normalized, rectified and dropped from."""
    hidden, last = list(pairwise(widths[:-1])), widths[-2:]

    def ours(x, y):
        blocks = [(fo.nn.Dense(a, b), fo.nn.BatchNorm(b, activation="relu"), fo.nn.Dropout(rate)) for a, b in hidden]
        return our_step(fo.nn.Sequential([*chain(*blocks), fo.nn.Dense(*last)], rng=0), x, y)

    def torch(x, y):
        from torch import nn

        blocks = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(rate)) for a, b in hidden]
        return torch_step(nn.Sequential(*chain(*blocks), nn.Linear(*last)), x, y)

    weights = weights_of(widths)
    layers = "".join(f"-{b}-BN-relu" for _, b in hidden)
    what = f"step {widths[0]}{layers}-{widths[-1]}, dropout {rate}, batch {n}"
    flops = 2 * n * (3 * sum(weights) - weights[0])
    return Case(what, batch(widths, n), ours, {"torch": torch}, flops, 7 * sum(weights))


def backward_case(n, features, dtype) -> Case:
    """Gradients alone, of statistics that are there."""

    def ours(dy, x, gamma, dx, dgamma, dbeta):
        mean, var = F.batch_statistics(x)
        return lambda: F.batch_norm_backward(dy, x, gamma, mean, var, 1e-5, dx, dgamma, dbeta)

    rows, columns = (n, features), (features,)
    setup = randoms(rows, rows, columns, rows, columns, columns, dtype=dtype)
    return Case(named(f"batch_norm_backward {n}x{features}", dtype), setup, ours, dtype=dtype)


def inference_case(n, features, dtype) -> Case:
    """By statistics that are there."""

    def ours(x, gamma, beta, y):
        mean, var = F.batch_statistics(x)
        return lambda: F.batch_norm_inference(x, gamma, beta, mean, var, 1e-5, y)

    setup = randoms((n, features), (features,), (features,), (n, features), dtype=dtype)
    return Case(named(f"batch_norm_inference {n}x{features}", dtype), setup, ours, dtype=dtype)
