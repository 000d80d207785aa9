"""A convolution as three: 1x1 to fewer channels, the kernel between fewer channels, 1x1 to the outputs (Tucker-2).

Kim et al. 2016, Compression of deep convolutional neural networks for fast and low power mobile applications. Start:
truncated SVDs of the two channel unfoldings (De Lathauwer et al. 2000, HOSVD), then orthogonal iteration (HOOI).
"""

from dataclasses import dataclass

import numpy as np

from fastopt._numbers import whole_number
from fastopt.lowrank.decomposition import Decomposition, as_rank, as_weights, product, relative_error, scaled, unscaled
from fastopt.lowrank.svd import leading

ITERATIONS = 5


@dataclass(frozen=True, eq=False)
class Tucker2(Decomposition):
    """The weights of a 1x1 convolution, a smaller kernel, and another 1x1; iterating gives the three.

    Attributes
    ----------
    first : ndarray, shape (rank in, in)
        Orthonormal rows.
    core : ndarray, shape (rank out, height, width, rank in)
    last : ndarray, shape (out, rank out)
        Orthonormal columns.
    """

    first: np.ndarray
    core: np.ndarray
    last: np.ndarray

    def __iter__(self):
        return iter((self.first, self.core, self.last))

    @property
    def rank(self) -> tuple[int, int]:
        """(rank out, rank in)."""
        return len(self.core), len(self.first)

    def reconstruct(self) -> np.ndarray:
        """The approximation, (out, height, width, in)."""
        inner = _times_in(self.core, self.first)
        return _times_out(inner, self.last.T)


def tucker2(W, ranks, *, seed=0) -> Tucker2:
    """A convolution as 1x1 from the inputs, the kernel between fewer channels, and 1x1 to the outputs.

    Parameters
    ----------
    W : array_like, shape (out, height, width, in)
    ranks : (int, int) or int
        Channels after and before the inner kernel, (rank out, rank in): from 1 to out and in, and neither more than
        height · width of the kernel times the other, which could use no more. One number stands for both.
    seed : int
        Of `truncated_svd`, where the weight is so large that it draws.

    Returns
    -------
    Tucker2

    Raises
    ------
    TypeError, ValueError
        W is empty, not finite or of another shape, or a rank is out of range.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> W = np.random.default_rng(0).normal(size=(8, 3, 3, 4))
    >>> first, core, last = found = fo.lowrank.tucker2(W, (5, 3))
    >>> first.shape, core.shape, last.shape
    ((3, 4), (5, 3, 3, 3), (8, 5))
    >>> found.parameters, W.size
    (187, 288)
    """
    W = as_weights("W", W, (4,), "(out, height, width, in)")
    rank_out, rank_in = ranks if isinstance(ranks, tuple | list) and len(ranks) == 2 else (ranks, ranks)
    n_out, height, width, n_in = W.shape
    rank_out = as_rank("ranks[0]", rank_out, n_out)
    rank_in = as_rank("ranks[1]", rank_in, min(n_in, height * width * rank_out))
    rank_out = as_rank("ranks[0]", rank_out, min(n_out, height * width * rank_in))
    seed = whole_number("seed", seed, 0)
    W, power = scaled(W)
    last = leading(W.reshape(n_out, -1), rank_out, seed)[0]
    first = leading(W.reshape(-1, n_in), rank_in, seed)[2].T
    best = _fit(W, last, first)
    for _ in range(ITERATIONS):
        fewer = _times_in(W, first)
        last = leading(fewer.reshape(n_out, -1), rank_out, seed)[0]
        fewer = _times_out(W, last)
        first = leading(fewer.reshape(-1, n_in), rank_in, seed)[2].T
        found = _fit(W, last, first)
        if found.relative_error >= best.relative_error:
            break
        best = found
    return Tucker2(best.relative_error, best.first, unscaled(best.core, power), best.last)


def _fit(W, last, first) -> Tucker2:
    """The best core between these, and its error."""
    core = _times_out(_times_in(W, first), last)
    found = Tucker2(0.0, np.ascontiguousarray(first.T), core, last)
    return Tucker2(relative_error(W, found.reconstruct()), *found)


def _times_in(W, matrix):
    """W with the matrix (in, r) applied to its last axis."""
    return product(W.reshape(-1, W.shape[-1]), matrix).reshape(*W.shape[:-1], -1)


def _times_out(W, matrix):
    """W with the matrix (out, r), transposed, applied to its first axis."""
    return product(np.ascontiguousarray(matrix.T), W.reshape(len(W), -1)).reshape(-1, *W.shape[1:])
