"""Pooling of images, forward and backward, into arrays that are there."""

from collections.abc import Callable, Iterator
from functools import partial
from math import prod

from fastopt import functional as F
from fastopt.bench._cases import Case, named, randoms

MAX, AVG = "max_pool2d", "avg_pool2d"
# (n, height, width, channels), kernel, stride, padding: of GoogLeNet, and of a small network
POOLS = (
    (MAX, (1, 112, 112, 64), 3, 2, 0),
    (MAX, (1, 56, 56, 192), 3, 2, 0),
    (MAX, (1, 28, 28, 192), 3, 1, 1),
    (MAX, (1, 14, 14, 480), 3, 1, 1),
    (MAX, (32, 28, 28, 32), 2, 2, 0),
    (AVG, (1, 7, 7, 1024), 7, 1, 0),
    (AVG, (16, 7, 7, 1024), 7, 1, 0),
    (AVG, (1, 28, 28, 192), 3, 1, 1),
)


def cases() -> Iterator[Case]:
    for pool in POOLS:
        for backward in (False, True):
            yield pool_case(*pool, backward)
    for pool in (POOLS[0], POOLS[5]):
        for backward in (False, True):
            yield pool_case(*pool, backward, "float64").alone()


def pool_case(kind, shape, kernel, stride, padding, backward, dtype="float32") -> Case:
    """Forward, or forward and the gradient of x; torch keeps the places of maxima where it has to find the gradient."""
    windows = [(size + 2 * padding - kernel) // stride + 1 for size in shape[1:3]]
    pooled = (shape[0], *windows, shape[3])

    def ours(x, dy, y, dx):
        forward, gradient = getattr(F, kind), getattr(F, kind + "_backward")
        of = x if kind == MAX else x.shape
        if not backward:
            return lambda: forward(x, kernel, stride, padding, out=y)

        def call():
            forward(x, kernel, stride, padding, out=y)
            gradient(dy, of, kernel, stride, padding, dx=dx)

        return call

    def torch(channels_last, x, dy, y, dx):
        import torch

        x, dy = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, dy))
        if not channels_last:
            x, dy = x.contiguous(), dy.contiguous()
        forward = getattr(torch.nn.functional, kind)
        if not backward:
            return torch.inference_mode()(lambda: forward(x, kernel, stride, padding))
        x.requires_grad_()
        return lambda: torch.autograd.grad(forward(x, kernel, stride, padding), x, dy)

    what = f"{kind}{' and backward' * backward} {kernel}x{kernel}/{stride} of {'x'.join(map(str, shape))}"
    setup = randoms(shape, pooled, pooled, shape, dtype=dtype)
    moved = (prod(shape) + prod(pooled)) * (2 if backward else 1)
    peers: dict[str, Callable[..., Callable]] = {"torch": partial(torch, True), "torch NCHW": partial(torch, False)}
    return Case(named(what, dtype), setup, ours, peers, moved=moved, dtype=dtype)
