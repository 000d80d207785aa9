"""Truncated singular value decomposition: the best approximation of a matrix at a rank (Eckart & Young 1936).

The full solver is LAPACK's. The randomized one finds the leading singular vectors from a few products with the matrix
(block Krylov iteration, Musco & Musco 2015). Both give every left vector the sign that makes its largest element
positive, so that the factors are unique where the singular values differ.
"""

import math
from dataclasses import dataclass

import numpy as np

from fastopt._forks import importing
from fastopt._numbers import finite_number, whole_number
from fastopt.lowrank.decomposition import (
    Decomposition,
    as_rank,
    as_weights,
    product,
    relative_error,
    scaled,
    signs,
)
from fastopt.threads import one_blas_thread

SOLVERS = ("auto", "full", "randomized")
OVERSAMPLING = 10
SWEEPS = 4


@dataclass(frozen=True, eq=False)
class TruncatedSVD(Decomposition):
    """``U @ diag(S) @ Vh``, of rank R; iterating gives the three.

    Attributes
    ----------
    U : ndarray, shape (out, R)
        Left singular vectors as columns, the largest element of each positive.
    S : ndarray, shape (R,)
        Singular values, the largest first.
    Vh : ndarray, shape (R, in)
        Right singular vectors as rows; of a convolution's weight, in is height · width · channels.
    shape : tuple of int
        Of the weight that was decomposed.
    """

    U: np.ndarray
    S: np.ndarray
    Vh: np.ndarray
    shape: tuple[int, ...]

    def __iter__(self):
        return iter((self.U, self.S, self.Vh))

    @property
    def rank(self) -> int:
        """R."""
        return len(self.S)

    @property
    def parameters(self) -> int:
        """R (out + in): S is absorbed by its neighbors."""
        return self.U.size + self.Vh.size

    def reconstruct(self) -> np.ndarray:
        """The approximation, in the shape of the weight."""
        return product(self.U * self.S, self.Vh).reshape(self.shape)


def truncated_svd(W, rank=None, *, energy=None, error=None, seed=0, solver="auto") -> TruncatedSVD:
    """The best approximation of a weight at a rank, or the smallest rank that keeps to a bound.

    Parameters
    ----------
    W : array_like, shape (out, in) or (out, height, width, in)
        The weight of a dense layer or of a convolution, which is taken as a matrix (out, height · width · in).
    rank : int, optional
        From 1 to the smaller side of the matrix. One of `rank`, `energy` and `error` is given.
    energy : float, optional
        Above 0, at most 1: the sum of squares of the approximation is at least this share of that of W.
    error : float, optional
        From 0 on, below 1: the relative error is at most this. Singular values that rounding cannot tell from 0 are
        left out, whatever the bound.
    seed : int
        Of the randomized solver.
    solver : str
        "full" is LAPACK's decomposition, cut. "randomized" finds only what is asked for and needs `rank`. "auto"
        takes the randomized one for a rank that is a small part of a large matrix.

    Returns
    -------
    TruncatedSVD

    Raises
    ------
    TypeError, ValueError
        W is empty, not finite or of another shape, or not exactly one of `rank`, `energy` and `error` is given.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> W = np.outer([1.0, 2.0, 3.0], [4.0, 5.0]) + [[0.0, 0.1], [0.0, 0.0], [0.0, 0.0]]
    >>> svd = fo.lowrank.truncated_svd(W, rank=1)
    >>> svd.U.shape, svd.S.shape, svd.Vh.shape, round(svd.relative_error, 4)
    ((3, 1), (1,), (1, 2), 0.0025)
    >>> fo.lowrank.truncated_svd(W, error=0.001).rank
    2
    """
    W = as_weights("W", W, (2, 4), "(out, in) or (out, height, width, in)")
    given = [name for name, value in (("rank", rank), ("energy", energy), ("error", error)) if value is not None]
    if len(given) != 1:
        raise ValueError(f"rank, energy, error: expected one of them, got {' and '.join(given) or 'none'}")
    if solver not in SOLVERS:
        raise ValueError(f"solver: expected one of {', '.join(SOLVERS)}, got {solver!r}")
    seed = whole_number("seed", seed, 0)
    matrix, power = scaled(W.reshape(len(W), -1))
    if rank is not None:
        rank = as_rank("rank", rank, min(matrix.shape))
        factors = leading(matrix, rank, seed, solver)
    else:
        if solver == "randomized":
            raise ValueError('solver: expected "auto" or "full" without rank, got "randomized"')
        if energy is None:
            bound = finite_number("error", error, 0.0, 1.0)
        else:
            bound = math.sqrt(1 - finite_number("energy", energy, above=0.0, most=1.0))
        factors = bounded(matrix, bound)
    U, S, Vh = factors
    return TruncatedSVD(relative_error(matrix, product(U * S, Vh)), U, np.ldexp(S, power), Vh, W.shape)


def leading(matrix, rank, seed=0, solver="auto"):
    """U (m, rank), S (rank,), Vh (rank, n) of the largest singular values of a matrix (m, n)."""
    if solver == "auto":
        solver = "randomized" if min(matrix.shape) >= 256 and 5 * rank <= min(matrix.shape) else "full"
    factors = _full(matrix) if solver == "full" else _randomized(matrix, rank, seed)
    return _cut(factors, rank)


def bounded(matrix, bound):
    """The same, of the smallest rank whose relative error is at most `bound`."""
    factors = _full(matrix)
    S = factors[1]
    tails = np.sqrt(np.append(np.cumsum(np.square(S[::-1]))[::-1], 0))  # norm of the error at rank 0, 1, ...
    certain = max(1, int(np.sum(max(matrix.shape) * np.finfo(np.float64).eps * S[0] < S)))
    rank = int(np.clip(np.argmax(tails <= bound * tails[0]), 1, certain))
    while rank < certain:
        U, S, Vh = _cut(factors, rank)
        if relative_error(matrix, product(U * S, Vh)) <= bound:
            break
        rank += 1
    return _cut(factors, rank)


def _cut(factors, rank):
    U, S, Vh = factors
    U, S, Vh = U[:, :rank], S[:rank], Vh[:rank]
    sign = signs(U)
    return U * sign, S.copy(), Vh * sign[:, None]


def _full(matrix):
    with importing:
        from scipy.linalg import LinAlgError, svd

    with one_blas_thread:
        try:
            return svd(matrix, full_matrices=False, check_finite=False)
        except LinAlgError:  # divide and conquer did not converge: the slower method does
            return svd(matrix, full_matrices=False, check_finite=False, lapack_driver="gesvd")


def _randomized(matrix, rank, seed):
    with importing:
        from scipy.linalg import qr

    width = min(rank + OVERSAMPLING, *matrix.shape)
    other = np.ascontiguousarray(matrix.T)
    Q = np.random.default_rng(seed).standard_normal((matrix.shape[1], width))
    for _ in range(SWEEPS):
        Y = product(matrix, Q)
        with one_blas_thread:
            Y = qr(Y, mode="economic", check_finite=False)[0]
        Z = product(other, Y)
        with one_blas_thread:
            Q = qr(Z, mode="economic", check_finite=False)[0]
    U, S, Vh = _full(product(matrix, Q))
    return U, S, product(Vh, Q.T)
