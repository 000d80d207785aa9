"""A convolution as two: d x 1 filters to K channels, then 1 x d filters (Tai et al. 2016, Convolutional neural networks
with low-rank regularization, theorem 1)."""

from dataclasses import dataclass

import numpy as np

from fastopt._numbers import whole_number
from fastopt.lowrank.decomposition import Decomposition, as_rank, as_weights, product, scaled
from fastopt.lowrank.svd import error_of, leading


@dataclass(frozen=True, eq=False)
class TwoFactor(Decomposition):
    """Vertical filters and horizontal ones after them, as the weights of two convolutions; iterating gives both.

    Attributes
    ----------
    vertical : ndarray, shape (K, height, 1, in)
    horizontal : ndarray, shape (out, 1, width, K)
    """

    vertical: np.ndarray
    horizontal: np.ndarray

    def __iter__(self):
        return iter((self.vertical, self.horizontal))

    @property
    def rank(self) -> int:
        """K, the channels between the two."""
        return len(self.vertical)

    def reconstruct(self) -> np.ndarray:
        """The approximation, (out, height, width, in)."""
        K, height, _, n_in = self.vertical.shape
        n_out, _, width, _ = self.horizontal.shape
        filters = product(self.horizontal.reshape(-1, K), self.vertical.reshape(K, -1))
        return np.ascontiguousarray(filters.reshape(n_out, width, height, n_in).swapaxes(1, 2))


def two_factor(W, rank, *, seed=0) -> TwoFactor:
    """The best approximation of a convolution by `rank` vertical filters and horizontal ones after them.

    The weight, laid out as a matrix of (height · in) x (width · out), has these as its singular vectors, each times
    the root of its singular value (Tai et al. 2016, theorem 1).

    Parameters
    ----------
    W : array_like, shape (out, height, width, in)
    rank : int
        K, channels between the two: from 1 to the smaller of height · in and width · out.
    seed : int
        Of `truncated_svd`, where the weight is so large that it draws.

    Returns
    -------
    TwoFactor

    Raises
    ------
    TypeError, ValueError
        W is empty, not finite or of another shape, or the rank is out of range.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> W = np.random.default_rng(0).normal(size=(8, 3, 3, 4))
    >>> vertical, horizontal = found = fo.lowrank.two_factor(W, rank=6)
    >>> vertical.shape, horizontal.shape
    ((6, 3, 1, 4), (8, 1, 3, 6))
    >>> found.parameters, W.size
    (216, 288)
    """
    W = as_weights("W", W, (4,), "(out, height, width, in)")
    n_out, height, width, n_in = W.shape
    rank = as_rank("rank", rank, min(height * n_in, width * n_out))
    W, power = scaled(W, 2)
    matrix = np.ascontiguousarray(W.transpose(1, 3, 2, 0)).reshape(height * n_in, width * n_out)
    U, S, Vh = leading(matrix, rank, whole_number("seed", seed, 0))
    error = error_of(matrix, U, S, Vh)
    root = np.ldexp(np.sqrt(S), power // 2)
    vertical = (U * root).T.reshape(rank, height, 1, n_in)
    horizontal = (root[:, None] * Vh).reshape(rank, width, n_out).transpose(2, 1, 0)[:, None]
    return TwoFactor(error, np.ascontiguousarray(vertical), np.ascontiguousarray(horizontal))
