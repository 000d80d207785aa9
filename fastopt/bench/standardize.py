"""functional.standardize into an array that is there."""

from collections.abc import Iterator

import numpy as np

from fastopt import functional as F
from fastopt.bench._cases import Case, named, randoms


def cases() -> Iterator[Case]:
    for n, features in ((1, 64), (128, 512), (1024, 512)):
        yield standardize_case(n, features)
    for n, features in ((1, 64), (1024, 512)):
        yield standardize_case(n, features, "float64").alone()


def standardize_case(n, features, dtype="float32") -> Case:
    def ours(x, mean, scale, out):
        return lambda: F.standardize(x, mean, scale, out)

    def torch(*arrays):
        import torch

        x, mean, scale, out = map(torch.from_numpy, arrays)
        return lambda: torch.sub(x, mean, out=out).mul_(scale)

    def numpy(x, mean, scale, out):
        return lambda: np.multiply(np.subtract(x, mean, out=out), scale, out=out)

    what, peers = named(f"standardize {n}x{features}", dtype), {"torch": torch, "numpy": numpy}
    setup = randoms((n, features), (features,), (features,), (n, features), dtype=dtype)
    return Case(what, setup, ours, peers, moved=2 * n * features, dtype=dtype)
