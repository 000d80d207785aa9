"""What all decompositions share: the check of what comes, its scale, errors from residuals, and the sizes of factors.

Weights are divided by a power of two before anything is squared, and factors are multiplied by it at the end, so that
weights of any size are decomposed alike. Products go through fastopt's own kernels, LAPACK runs on one thread: the
same bits whatever the number of threads.
"""

import math
from dataclasses import dataclass

import numpy as np

from fastopt._arrays import as_numbers, require_finite
from fastopt._numbers import whole_number
from fastopt.functional import dense

NEAR = 20  # powers of two from 1: of such numbers, squares and their sums fit float32 as well


@dataclass(frozen=True, eq=False)
class Decomposition:
    """An array as a product of smaller ones; iterating gives these.

    Attributes
    ----------
    relative_error : float
        ``norm(W - reconstruct()) / norm(W)``, Frobenius norms, computed from the difference itself; 0 where W is 0.
    """

    relative_error: float

    def __iter__(self):
        raise NotImplementedError

    @property
    def parameters(self) -> int:
        """Numbers in the layers that the factors make, without biases."""
        return sum(factor.size for factor in self)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one row of a dense layer, or one position of a convolution of stride 1, in these layers.

        Every weight is used once a position, so it is the number of parameters.
        """
        return self.parameters


def as_weights(name, W, dimensions, shape) -> np.ndarray:
    """W as a C-contiguous float64 array of so many dimensions, none of them empty, all finite; `shape` in words."""
    W = as_numbers(name, W)
    if W.ndim not in dimensions or 0 in W.shape:
        raise ValueError(f"{name}: expected shape {shape}, no size of which is 0, got {W.shape}")
    W = np.ascontiguousarray(W, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        total = W.sum()
    if not math.isfinite(total):  # which is found at once, while finite numbers may overflow
        require_finite(name, W)
    return W


def as_rank(name, rank, largest) -> int:
    """A rank from 1 to the largest that the shape has."""
    return whole_number(name, rank, 1, largest)


def scaled(W, step=1) -> tuple[np.ndarray, int]:
    """W over a power of two, so that its largest element is neither huge nor tiny, and the exponent, a multiple of
    `step`."""
    largest = max(W.max(), -W.min())
    power = int(np.frexp(largest)[1])
    if largest == 0 or abs(power) <= NEAR:
        return W, 0
    power = power // step * step
    return np.ldexp(W, -power), power


def unscaled(array, power) -> np.ndarray:
    """An array of the result times a power of two; ValueError where float64 does not hold it."""
    with np.errstate(over="ignore"):
        array = np.ldexp(array, power)
    if not np.isfinite(array).all():
        raise ValueError("W: expected values whose sums of squares have a root in float64, got larger ones; scale W")
    return array


def product(A, B) -> np.ndarray:
    """A @ B for A (m, k) and B (k, n), by all threads."""
    return dense(A, np.ascontiguousarray(B.T))


def norm(W) -> float:
    """The Frobenius norm, of numbers whose squares float64 holds."""
    return math.sqrt(np.square(W).sum())


def relative_error(W, approximation) -> float:
    """norm(W - approximation) / norm(W), or 0 where W is 0."""
    whole = norm(W)
    return norm(W - approximation) / whole if whole > 0 else 0.0


def signs(vectors) -> np.ndarray:
    """1 or -1 for each column, whichever makes its largest element positive."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0, keepdims=True), axis=0)[0]
    return np.where(largest < 0, -1.0, 1.0)
