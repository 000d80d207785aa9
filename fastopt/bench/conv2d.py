"""Convolutions with bias: the ten sizes of Inception-v1 at batch 1, depthwise ones, and 3x3 at batch 32.

- Forward with ReLU is `predict` of a folded network of one layer: the copy into a border is in it, the filters
  are packed beforehand, as the peers' are.
- Forward and backward are the functions, filters given as they lie in memory on either side, into arrays that are
  there; without ReLU, whose backward pass would be one more of torch's.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple

import numpy as np

import fastopt as fo
from fastopt import functional as F
from fastopt._numbers import whole_pair
from fastopt.bench._cases import Case, named, randoms
from fastopt.bench._networks import IMAGE_PEERS, channels_first, inference_case


class Size(NamedTuple):
    """n square images of n_in channels; padding is half the kernel, so stride 1 keeps the size."""

    n: int
    n_in: int
    size: int
    n_out: int
    kernel: int | tuple[int, int]
    stride: int = 1
    groups: int = 1

    @property
    def taps(self) -> tuple[int, int]:
        return whole_pair("kernel", self.kernel)

    @property
    def padding(self) -> tuple[int, ...]:
        return tuple(k // 2 for k in self.taps)

    @property
    def image(self) -> tuple[int, ...]:
        return self.size, self.size, self.n_in

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.n, -(-self.size // self.stride), -(-self.size // self.stride), self.n_out

    @property
    def filters(self) -> tuple[int, ...]:
        return self.n_out, *self.taps, self.n_in // self.groups

    @property
    def weights(self) -> int:
        return prod(self.filters)

    @property
    def multiply_adds(self) -> int:
        n, height, width, _ = self.outputs
        return n * height * width * self.weights

    def family(self, calls) -> str:
        return f"depthwise {calls}" if self.groups > 1 else calls

    def __str__(self):
        kernel = "x".join(map(str, self.taps)) + (f"/{self.stride}" if self.stride > 1 else "")
        channels = f"depthwise {self.n_in}" if self.groups > 1 else f"{self.n_in}-{self.n_out}"
        return f"{kernel} {channels} at {self.size}x{self.size}, batch {self.n}"


INCEPTION = (
    Size(1, 3, 224, 64, 7, 2),
    Size(1, 64, 56, 192, 3),
    Size(1, 192, 28, 64, 1),
    Size(1, 192, 28, 96, 1),
    Size(1, 96, 28, 128, 3),
    Size(1, 16, 28, 32, 5),
    Size(1, 480, 14, 192, 1),
    Size(1, 112, 14, 224, 3),
    Size(1, 832, 7, 384, 1),
    Size(1, 192, 7, 384, 3),
)
# the middle layers of a factorized convolution, and those of MobileNet
DEPTHWISE = tuple(
    Size(1, c, size, c, kernel, stride, groups=c)
    for c, size, kernel, stride in (
        (64, 56, (3, 1), 1),
        (64, 56, (1, 3), 1),
        (64, 56, 3, 1),
        (128, 28, 3, 1),
        (256, 14, 3, 1),
        (128, 56, 3, 2),
    )
)
BATCHES = (
    Size(32, 1, 28, 32, 3),
    Size(32, 3, 32, 32, 3),
    Size(32, 32, 32, 32, 3),
    Size(32, 32, 28, 64, 3),
    Size(32, 64, 14, 64, 3),
)


def cases() -> Iterator[Case]:
    for size in (*INCEPTION, *DEPTHWISE):
        yield forward_case(size)
    for size in (*INCEPTION, *DEPTHWISE, *BATCHES):
        yield both_case(size)
    for size in BATCHES:
        yield forward_case(size).alone()
    for size in (INCEPTION[4], BATCHES[2]):
        yield both_case(size, "float64").alone()


def forward_case(size) -> Case:
    def make():
        options = {"stride": size.stride, "padding": size.padding, "groups": size.groups}
        layer = fo.nn.Conv2d(size.n_in, size.n_out, size.kernel, **options, activation="relu")
        return fo.nn.Sequential([layer], rng=0, input_shape=size.image)

    shape, work = (size.n, *size.image), (size.multiply_adds, moved(size))
    return inference_case(f"relu {size}", make, shape, IMAGE_PEERS, *work, size.family("predict conv2d + relu"))


def both_case(size, dtype="float32") -> Case:
    """Outputs, and the gradients of input, weight and bias."""
    options = {"stride": size.stride, "padding": size.padding, "groups": size.groups}

    def ours(x, weight, bias, dy, y, dx, dw, db):
        def call():
            F.conv2d(x, weight, bias, **options, out=y)
            F.conv2d_backward(dy, x, weight, **options, dx=dx, dw=dw, db=db)

        return call

    def torch(x, weight, bias, dy, *_):
        return torch_both(channels_first(x), channels_first(weight), bias, channels_first(dy))

    def torch_nhwc(x, weight, bias, dy, *_):
        x, weight, dy = (np.moveaxis(a, -1, 1) for a in (x, weight, dy))
        return torch_both(x, weight, bias, dy)

    def torch_both(x, weight, bias, dy) -> Callable:
        import torch

        x, weight, bias = leaves = [torch.from_numpy(a).requires_grad_() for a in (x, weight, bias)]
        conv, t = torch.nn.functional.conv2d, torch.from_numpy(dy)
        return lambda: torch.autograd.grad(conv(x, weight, bias, **options), leaves, t)

    x, weight = (size.n, *size.image), size.filters
    setup = randoms(x, weight, (size.n_out,), size.outputs, size.outputs, x, weight, (size.n_out,), dtype=dtype)
    peers = {"torch": torch, "torch nhwc": torch_nhwc}
    what, flops = named(f"both {size}", dtype), 6 * size.multiply_adds
    return Case(what, setup, ours, peers, flops, 3 * moved(size), dtype, size.family("conv2d + conv2d_backward"))


def moved(size) -> int:
    """Numbers read and written once: images, filters, outputs."""
    return size.n * prod(size.image) + size.weights + prod(size.outputs)
