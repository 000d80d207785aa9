"""Convolutions with bias: the ten sizes of Inception-v1 at batch 1, and 3x3 at batch 32.

- Forward with ReLU is `predict` of a folded network of one layer: the copy into a border is in it, the filters
  are packed beforehand, as the peers' are.
- Forward and backward are the functions, filters given as they lie in memory on either side, into arrays that are
  there; without ReLU, whose backward pass would be one more of torch's.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple

import fastopt as fo
from fastopt import functional as F
from fastopt.bench._cases import Case, named, randoms
from fastopt.bench._networks import IMAGE_PEERS, channels_first, inference_case


class Size(NamedTuple):
    """n square images of n_in channels; padding is half the kernel, so stride 1 keeps the size."""

    n: int
    n_in: int
    size: int
    n_out: int
    kernel: int
    stride: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def image(self) -> tuple[int, ...]:
        return self.size, self.size, self.n_in

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.n, -(-self.size // self.stride), -(-self.size // self.stride), self.n_out

    @property
    def weights(self) -> int:
        return self.n_out * self.kernel**2 * self.n_in

    @property
    def multiply_adds(self) -> int:
        n, height, width, _ = self.outputs
        return n * height * width * self.weights

    def __str__(self):
        kernel = f"{self.kernel}x{self.kernel}" + (f"/{self.stride}" if self.stride > 1 else "")
        return f"{kernel} {self.n_in}-{self.n_out} at {self.size}x{self.size}, batch {self.n}"


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
BATCHES = (
    Size(32, 1, 28, 32, 3),
    Size(32, 3, 32, 32, 3),
    Size(32, 32, 32, 32, 3),
    Size(32, 32, 28, 64, 3),
    Size(32, 64, 14, 64, 3),
)


def cases() -> Iterator[Case]:
    for size in INCEPTION:
        yield forward_case(size)
    for size in (*INCEPTION, *BATCHES):
        yield both_case(size)
    for size in BATCHES:
        yield forward_case(size).alone()
    for size in (INCEPTION[4], BATCHES[2]):
        yield both_case(size, "float64").alone()


def forward_case(size) -> Case:
    def make():
        layer = fo.nn.Conv2d(size.n_in, size.n_out, size.kernel, size.stride, size.padding, activation="relu")
        return fo.nn.Sequential([layer], rng=0, input_shape=size.image)

    shape, work = (size.n, *size.image), (size.multiply_adds, moved(size))
    return inference_case(f"predict + relu {size}", make, shape, IMAGE_PEERS, *work, "predict conv2d + relu")


def both_case(size, dtype="float32") -> Case:
    """Outputs, and the gradients of input, weight and bias."""
    options = (size.stride, size.padding)

    def ours(x, weight, bias, dy, y, dx, dw, db):
        def call():
            F.conv2d(x, weight, bias, *options, out=y)
            F.conv2d_backward(dy, x, weight, None, *options, dx=dx, dw=dw, db=db)

        return call

    def torch_nhwc(x, weight, bias, dy, *_):
        import torch

        return torch_both(*(torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, weight, dy)), torch.from_numpy(bias))

    def torch_nchw(x, weight, bias, dy, *_):
        import torch

        return torch_both(*(torch.from_numpy(channels_first(a)) for a in (x, weight, dy)), torch.from_numpy(bias))

    def torch_both(x, weight, dy, bias) -> Callable:
        import torch

        leaves, conv = [a.requires_grad_() for a in (x, weight, bias)], torch.nn.functional.conv2d
        return lambda: torch.autograd.grad(conv(*leaves, *options), leaves, dy)

    x, weight = (size.n, *size.image), (size.n_out, size.kernel, size.kernel, size.n_in)
    setup = randoms(x, weight, (size.n_out,), size.outputs, size.outputs, x, weight, (size.n_out,), dtype=dtype)
    peers = {"torch": torch_nchw, "torch nhwc": torch_nhwc}
    what, flops = named(f"both {size}", dtype), 6 * size.multiply_adds
    return Case(what, setup, ours, peers, flops, 3 * moved(size), dtype, "conv2d + conv2d_backward")


def moved(size) -> int:
    """Numbers read and written once: images, filters, outputs."""
    return size.n * prod(size.image) + size.weights + prod(size.outputs)
