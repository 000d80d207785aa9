"""The networks of the topic newton: products with their curvature, gradients beside them, a step of NewtonCG."""

from collections.abc import Iterator

import numpy as np

import fastopt as fo
from fastopt.bench._cases import Case, random
from fastopt.bench._networks import batch, jax_loss, jax_params, our_net, title, torch_net, weights_of
from fastopt.bench._peers import one_thread_jax

NETS, BATCHES, DTYPES = ([64, 64, 10], [784, 256, 128, 10]), (32, 128), ("float32", "float64")
COMPARED = (
    ([784, 256, 128, 10], 128, False),
    ([784, 1024, 1024, 10], 128, False),
    ([784, 256, 128, 10], 128, True),
)


def cases() -> Iterator[Case]:
    for widths, n, gauss_newton in COMPARED:
        yield product_case(widths, n, gauss_newton)
    for dtype in DTYPES:
        for widths in NETS:
            for n in BATCHES:
                yield gradient_case(widths, n, dtype)
                yield public_product_case(widths, n, dtype)
                for gauss_newton in (False, True):
                    if dtype == "float64" or (widths, n, gauss_newton) not in COMPARED:
                        yield product_case(widths, n, gauss_newton, dtype).alone()
    yield newton_cg_case([64, 64, 10], 1000)


def direction(widths, n, dtype):
    """A set-up that makes rows, classes and an array for each parameter."""

    def setup():
        shapes = [p.shape for p in our_net(widths, dtype=dtype).parameters()]
        return *batch(widths, n, dtype)(), [random(*shape, dtype=dtype) for shape in shapes]

    return setup


def training(widths, n, dtype):
    """The network as a compiled program with cross-entropy at its end."""
    return our_net(widths, dtype=dtype).bind("cross_entropy", max_batch=n)


def product_case(widths, n, gauss_newton, dtype="float32") -> Case:
    """One Hessian-vector product of cross-entropy, forward included, or Gauss-Newton product; peers have the former."""

    def ours(x, y, v):
        program = training(widths, n, dtype)
        return lambda: program.hvp(x, y, v, gauss_newton=gauss_newton)

    def gradient(x, y, v):
        program = training(widths, n, dtype)
        return lambda: program.step(x, y)

    def torch(x, y, v):
        import torch

        net, x, y = torch_net(widths), torch.from_numpy(x), torch.from_numpy(y)
        params, v = list(net.parameters()), [torch.from_numpy(a) for a in v]

        def call():
            loss = torch.nn.functional.cross_entropy(net(x), y)
            grads = torch.autograd.grad(loss, params, create_graph=True)
            return torch.autograd.grad(grads, params, v)

        return call

    def jax(x, y, v):
        jax = one_thread_jax()
        loss, x, y, params = jax_loss(), jax.numpy.array(x), jax.numpy.array(y), jax_params(widths)
        v = jax.tree.map(lambda p: jax.numpy.array(random(*p.shape)), params)
        product = jax.jit(lambda params, v: jax.jvp(lambda p: jax.grad(loss)(p, x, y), (params,), (v,))[1])
        return lambda: jax.block_until_ready(product(params, v))

    family = f"{'Gauss-Newton' if gauss_newton else 'Hessian'} product"
    peers = {} if gauss_newton else {"torch": torch, "jax": jax}
    weights = weights_of(widths)
    # forward and its tangent, backward and its tangent: 8 products a weight, 3 in the first layer; Gauss-Newton 5 and 3
    flops = 2 * n * (5 * sum(weights) - 2 * weights[0] if gauss_newton else 8 * sum(weights) - 5 * weights[0])
    what, moved, gradients = f"{family} {title(widths)}, batch {n}, {dtype}", 3 * sum(weights), {"gradient": gradient}
    return Case(what, direction(widths, n, dtype), ours, peers, flops, moved, dtype, family, gradients)


def gradient_case(widths, n, dtype) -> Case:
    """The gradient alone."""

    def ours(x, y):
        program = training(widths, n, dtype)
        return lambda: program.step(x, y)

    return Case(f"gradient {title(widths)}, batch {n}, {dtype}", batch(widths, n, dtype), ours, dtype=dtype)


def public_product_case(widths, n, dtype) -> Case:
    """Sequential.hvp, which checks what it is given and makes its results anew."""

    def ours(x, y, v):
        net = our_net(widths, dtype=dtype)
        return lambda: net.hvp(x, y, v)

    what = f"Sequential.hvp {title(widths)}, batch {n}, {dtype}"
    return Case(what, direction(widths, n, dtype), ours, dtype=dtype)


def newton_cg_case(widths, n, dtype="float32") -> Case:
    """The first step of optim.NewtonCG, from the same parameters every time."""

    def ours(x, y):
        net = our_net(widths, dtype=dtype)
        start = [p.copy() for p in net.parameters()]

        def call():
            for p, first in zip(net.parameters(), start, strict=True):
                np.copyto(p, first)
            optimizer = fo.optim.NewtonCG(net.parameters(), max_iter=10)
            fo.nn.Trainer(net, "cross_entropy", optimizer, max_batch=n).step(x, y)

        return call

    return Case(f"NewtonCG step {title(widths)}, batch {n}, {dtype}", batch(widths, n, dtype), ours, dtype=dtype)
