"""Dense layers in groups, with bias and ReLU and square weights."""

from collections.abc import Iterator

import numpy as np

from fastopt import functional as F
from fastopt.bench._cases import Case, named, random, randoms


def cases() -> Iterator[Case]:
    for size, groups in ((256, 4), (256, 32), (1024, 4), (1024, 32)):
        for n in (1, 32, 256):
            yield grouped_dense_case(size, groups, n)
    for size, groups in ((256, 4), (1024, 32)):
        for n in (1, 32, 256):
            yield grouped_dense_case(size, groups, n, "float64").alone()
            yield backward_case(size, groups, n)


def grouped_dense_case(size, groups, n, dtype="float32") -> Case:
    """functional.grouped_dense into an array that is there; torch's convolution whose kernel is 1 wide; NumPy by
    group; our dense layer of the whole width."""

    def ours(x, weight, bias, y):
        return lambda: F.grouped_dense(x, weight, bias, groups, "relu", y)

    def torch(*arrays):
        import torch

        x, weight, bias, _ = map(torch.from_numpy, arrays)
        x, weight, conv = x[..., None], weight[..., None], torch.nn.functional.conv1d
        return torch.inference_mode()(lambda: conv(x, weight, bias, groups=groups).relu_())

    def numpy(x, weight, bias, y):
        parts = list(zip(*(np.split(a, groups, axis=1) for a in (x, y)), np.split(weight, groups), strict=True))

        def call():
            for a, b, w in parts:
                np.matmul(a, w.T, out=b)
            np.add(y, bias, out=y)
            np.maximum(y, 0, out=y)

        return call

    def dense(x, _, bias, y):
        weight = random(size, size)
        return lambda: F.dense(x, weight, bias, "relu", y)

    what = named(f"grouped + relu {size}x{size}, {groups} groups, batch {n}", dtype)
    setup = randoms((n, size), (size, size // groups), (size,), (n, size), dtype=dtype)
    peers, work = {"torch": torch, "numpy": numpy}, size**2 / groups
    return Case(what, setup, ours, peers, 2 * n * work, work + 2 * n * size, dtype, yardsticks={"dense": dense})


def backward_case(size, groups, n) -> Case:
    """functional.grouped_dense_backward into arrays that are there."""

    def ours(dy, x, weight, z, dx, dweight, dbias):
        return lambda: F.grouped_dense_backward(dy, x, weight, z, groups, "relu", dx, dweight, dbias)

    rows, blocks = (n, size), (size, size // groups)
    setup = randoms(rows, rows, blocks, rows, rows, blocks, (size,))
    return Case(f"grouped_dense_backward + relu {size}x{size}, {groups} groups, batch {n}", setup, ours)
