"""functional.maxout and maxout_backward of pieces that are there."""

from collections.abc import Iterator

import numpy as np

from fastopt import functional as F
from fastopt.bench._cases import Case, named, randoms


def cases() -> Iterator[Case]:
    for n, n_out in ((1, 256), (32, 256), (256, 1024)):
        for pieces in (2, 4):
            yield maxout_case(n, n_out, pieces)
    for n, n_out in ((32, 256), (256, 1024)):
        for pieces in (2, 4):
            yield maxout_case(n, n_out, pieces, "float64").alone()
            for dtype in ("float32", "float64"):
                yield backward_case(n, n_out, pieces, dtype)


def maxout_case(n, n_out, pieces, dtype="float32") -> Case:
    def ours(x, y):
        return lambda: F.maxout(x, pieces, y)

    def torch(x, y):
        import torch

        t, out = torch.from_numpy(x).view(n, n_out, pieces), torch.from_numpy(y)
        return torch.inference_mode()(lambda: torch.amax(t, -1, out=out))

    def numpy(x, y):
        columns = [x[:, p::pieces] for p in range(pieces)]

        def call():
            np.maximum(columns[0], columns[1], out=y)
            for column in columns[2:]:
                np.maximum(y, column, out=y)

        return call

    what, setup = f"maxout {n}x{n_out}, {pieces} pieces", randoms((n, n_out * pieces), (n, n_out), dtype=dtype)
    peers, moved = {"torch": torch, "numpy": numpy}, n * n_out * (pieces + 1)
    return Case(named(what, dtype), setup, ours, peers, moved=moved, dtype=dtype)


def backward_case(n, n_out, pieces, dtype) -> Case:
    def ours(dy, x, dx):
        return lambda: F.maxout_backward(dy, x, pieces, dx)

    setup = randoms((n, n_out), (n, n_out * pieces), (n, n_out * pieces), dtype=dtype)
    return Case(named(f"maxout_backward {n}x{n_out}, {pieces} pieces", dtype), setup, ours, dtype=dtype)
