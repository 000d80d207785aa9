"""Convolutions of torch 2.13.0 for the tests to equal: `python tests/data/convolutions.py` writes convolutions.npz.

Arrays hold small whole numbers, so that every sum is a whole number of less than 16 bits: it is exact in float32 and
float64, in any order, and whoever computes the same gives the same bits. The table holds outputs and gradients only;
`arrays` makes the inputs without a generator, whose streams may differ between versions.
"""

import sys
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pairs import pairs
from reference import pair

TABLE = Path(__file__).parent / "convolutions.npz"
RESULTS = ("y", "dx", "dweight", "dbias")
KERNELS = [1, 2, 3, 4, 5, 6, 7, (1, 3), (4, 1), (1, 6), (7, 1)]
STRIDES = [1, 2, 3, (1, 2), (3, 1)]
PADDINGS = [0, 1, 3, (2, 0), (0, 1), "same", "valid"]
DILATIONS = [1, 2, (2, 1)]
SIZES = [(1, 1), (5, 5), (6, 9), (1, 8), (8, 1)]
# input channels, output channels, groups
CHANNELS = [
    *((1, 1, 1), (3, 5, 1), (1, 70, 1), (70, 1, 1), (16, 3, 1), (5, 17, 1), (17, 16, 1), (3, 33, 1), (33, 3, 1)),
    *((6, 4, 2), (34, 6, 2), (9, 33, 3), (5, 5, 5), (3, 6, 3), (17, 17, 17), (33, 33, 33), (70, 70, 70)),
]


class Case(NamedTuple):
    """A convolution by torch's arguments; size is (height, width)."""

    kernel_size: int | tuple
    stride: int | tuple
    padding: int | tuple | str
    dilation: int | tuple
    size: tuple
    channels: tuple

    @property
    def options(self):
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.channels[2],
        }


def possible(case):
    """The case with stride 1 where torch's "same" needs it, and an image of at least the window the kernel spans."""
    if case.padding == "same":
        return case._replace(stride=1)
    padding = pair(0 if case.padding == "valid" else case.padding)
    axes = zip(case.size, pair(case.kernel_size), pair(case.dilation), padding, strict=True)
    return case._replace(size=tuple(max(size, d * (k - 1) + 1 - 2 * p) for size, k, d, p in axes))


def cases():
    """Every two values of different arguments, in a case at least."""
    rows = pairs(KERNELS, STRIDES, PADDINGS, DILATIONS, SIZES, CHANNELS)
    return list(dict.fromkeys(possible(Case(*row)) for row in rows))


def whole_numbers(shape, first):
    """Numbers from -3 to 3 that look random (multiplicative hashing)."""
    t = np.arange(first, first + prod(shape), dtype=np.uint32)
    return ((t * t * np.uint32(48271) + t * np.uint32(2654435761) >> np.uint32(13)) % 7 - 3.0).reshape(shape)


def arrays(case):
    """x (2, h, w, in), weight (out, kh, kw, in / groups), bias (out,)"""
    n_in, n_out, groups = case.channels
    x = whole_numbers((2, *case.size, n_in), 0)
    return x, whole_numbers((n_out, *pair(case.kernel_size), n_in // groups), 11), whole_numbers((n_out,), 23)


def output_gradient(shape):
    return whole_numbers(shape, 37)


def recorded():
    """The case and its results (y, dx, dweight, dbias) in float64, for each case of the table."""
    with np.load(TABLE) as table:
        flat, sizes = {name: table[name] for name in RESULTS}, table["sizes"].tolist()
    starts = dict.fromkeys(RESULTS, 0)
    for case, shape in zip(cases(), sizes, strict=True):
        x, weight, bias = arrays(case)
        shapes = {"y": (2, *shape, len(bias)), "dx": x.shape, "dweight": weight.shape, "dbias": bias.shape}
        found = []
        for name in RESULTS:
            end = starts[name] + prod(shapes[name])
            found.append(flat[name][starts[name] : end].reshape(shapes[name]).astype(float))
            starts[name] = end
        yield case, *found


def computed(case):
    """What torch gives, with channels last."""
    import torch

    x, weight, bias = arrays(case)
    leaves = [
        torch.tensor(a, requires_grad=True) for a in (x.transpose(0, 3, 1, 2), weight.transpose(0, 3, 1, 2), bias)
    ]
    y = torch.nn.functional.conv2d(*leaves, **case.options)
    shape = (y.shape[0], *y.shape[2:], y.shape[1])
    y.backward(torch.from_numpy(output_gradient(shape).transpose(0, 3, 1, 2).copy()))
    images = [t.detach().numpy().transpose(0, 2, 3, 1) for t in (y, leaves[0].grad, leaves[1].grad)]
    return *images, leaves[2].grad.numpy()


def write():
    results = [computed(case) for case in cases()]
    table = {name: np.concatenate([np.ravel(r[i]) for r in results]) for i, name in enumerate(RESULTS)}
    for name, numbers in table.items():
        assert np.all(numbers == np.round(numbers)), name
        assert np.abs(numbers).max() < 2**15, name
    sizes = np.array([r[0].shape[1:3] for r in results], np.int16)
    np.savez_compressed(TABLE, sizes=sizes, **{name: numbers.astype(np.int16) for name, numbers in table.items()})


if __name__ == "__main__":
    write()
