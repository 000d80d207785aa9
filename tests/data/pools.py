"""Pools of torch 2.13.0 for the tests to equal: `python tests/data/pools.py` writes pools.npz.

Images hold few whole numbers, so that pixels are often equal and sums exact in any order. The table holds outputs and
gradients in float64, channels last; `images` makes the inputs without a generator, whose streams may differ between
versions.
"""

import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pairs import pairs

TABLE = Path(__file__).parent / "pools.npz"
SIZES = [(1, 1), (5, 5), (6, 9), (1, 8), (8, 1), (7, 12)]
KERNELS = [1, 2, 3, 5, 7, (1, 3), (4, 1), (3, 2)]
STRIDES = [None, 1, 2, 3, (1, 2), (5, 1)]
PADDINGS = [(0, 0), (1, 1), (1, 0), (0, 1)]  # halves of the kernel


class Case(NamedTuple):
    """A pool by torch's arguments; size is (height, width), count_include_pad is None of a maximum."""

    size: tuple
    kernel_size: int | tuple
    stride: int | tuple | None
    padding: int | tuple
    ceil_mode: bool
    count_include_pad: bool | None

    @property
    def options(self):
        counted = {} if self.count_include_pad is None else {"count_include_pad": self.count_include_pad}
        where = {"kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding}
        return {**where, "ceil_mode": self.ceil_mode, **counted}


def case(size, kernel_and_stride, halves, ceil_mode, count_include_pad):
    kernel, stride = kernel_and_stride
    padding = tuple(
        h * k // 2 for h, k in zip(halves, kernel if isinstance(kernel, tuple) else (kernel,) * 2, strict=True)
    )
    return Case(size, kernel, stride, padding, ceil_mode, count_include_pad)


CASES = [
    case(*row) for row in pairs(SIZES, list(product(KERNELS, STRIDES)), PADDINGS, [False, True], [None, True, False])
]


def images(*shape, seed):
    """Whole numbers from -3 to 3."""
    return ((np.arange(np.prod(shape)) * 2654435761 + seed * 40503) % 2**32 // 613566757 - 3.0).reshape(shape)


def record():
    """The shapes of outputs, zeros where torch refuses the case; outputs and gradients of all cases in a row."""
    import torch

    shapes, outputs, gradients = [], [], []
    for case in CASES:
        x = torch.from_numpy(images(1, *case.size, 2, seed=1)).permute(0, 3, 1, 2).requires_grad_()
        pool = torch.nn.functional.max_pool2d if case.count_include_pad is None else torch.nn.functional.avg_pool2d
        try:
            y = pool(x, **case.options).permute(0, 2, 3, 1)
        except RuntimeError:
            shapes.append((0, 0, 0, 0))
            continue
        (dx,) = torch.autograd.grad(y, x, torch.from_numpy(images(*y.shape, seed=2)))
        shapes.append(y.shape)
        outputs.append(y.detach().numpy().ravel())
        gradients.append(dx.permute(0, 2, 3, 1).numpy().ravel())
    return {"shapes": np.array(shapes, np.uint8), "y": np.concatenate(outputs), "dx": np.concatenate(gradients)}


def recorded():
    """The table by cases: (y, dx), or None where torch refuses."""
    table, found = np.load(TABLE), []
    y, dx = table["y"], table["dx"]
    for case, shape in zip(CASES, table["shapes"].tolist(), strict=True):
        if not any(shape):
            found.append(None)
            continue
        before = (1, *case.size, 2)
        n, m = np.prod(shape), np.prod(before)
        found.append((y[:n].reshape(shape), dx[:m].reshape(before)))
        y, dx = y[n:], dx[m:]
    return found


if __name__ == "__main__":
    np.savez_compressed(TABLE, **record())
