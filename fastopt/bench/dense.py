"""Dense layers with bias and ReLU and square weights: the functions. Folded networks of them are in `serving`."""

from collections.abc import Iterator

import numpy as np

from fastopt import functional as F
from fastopt.bench._cases import Case, named, randoms


def cases() -> Iterator[Case]:
    for size in (256, 1024, 4096):
        for n in (1, 4, 8, 32):
            yield dense_case(size, n, family="functional.dense, batch 1 to 32")
        for n in (24, 200, 256):
            yield dense_case(size, n, family="functional.dense, batch 24, 200 and 256")
    for size in (256, 1024):
        for n in (1, 8, 32, 256):
            yield dense_case(size, n, "float64").alone()
        for n in (1, 32, 256):
            yield backward_case(size, n)


def dense_case(size, n, dtype="float32", family="") -> Case:
    """functional.dense into an array that is there."""

    def ours(x, weight, bias, y):
        return lambda: F.dense(x, weight, bias, "relu", y)

    def torch(*arrays):
        import torch

        x, weight, bias, _ = map(torch.from_numpy, arrays)
        linear = torch.nn.functional.linear
        return torch.inference_mode()(lambda: linear(x, weight, bias).relu_())

    def numpy(x, weight, bias, y):
        def call():
            np.dot(x, weight.T, out=y)
            np.add(y, bias, out=y)
            np.maximum(y, 0, out=y)

        return call

    what, peers = named(f"dense + relu {size}x{size}, batch {n}", dtype), {"torch": torch, "numpy": numpy}
    setup = randoms((n, size), (size, size), (size,), (n, size), dtype=dtype)
    return Case(what, setup, ours, peers, 2 * n * size**2, size**2 + 2 * n * size, dtype, family)


def backward_case(size, n) -> Case:
    """functional.dense_backward into arrays that are there."""

    def ours(dy, x, weight, z, dx, dweight, dbias):
        return lambda: F.dense_backward(dy, x, weight, z, "relu", dx, dweight, dbias)

    rows, square = (n, size), (size, size)
    setup = randoms(rows, rows, square, rows, rows, square, (size,))
    return Case(f"dense_backward + relu {size}x{size}, batch {n}", setup, ours)
