"""Truncated singular value decomposition: the best approximation of a matrix at a rank (Eckart & Young 1936).

The full solver is LAPACK's. The randomized one finds the leading singular vectors from a few products with the matrix
(block Krylov iteration, Musco & Musco 2015). Both give every left vector the sign that makes its largest element
positive, so that the factors are unique where the singular values differ.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, eigh, qr, svd

from fastopt._numbers import finite_number, whole_number
from fastopt.lowrank.decomposition import (
    Decomposition,
    as_rank,
    as_weights,
    product,
    relative_error,
    scaled,
    signs,
    unscaled,
)
from fastopt.threads import one_blas_thread

SOLVERS = ("auto", "full", "randomized")
EPS = float(np.finfo(np.float64).eps)
CANCELLED = 1e-4  # where the squared error is a smaller part of the whole, it is summed up instead

# Of the randomized solver. On 4096 x 1024 at rank 64 its error is then below that of scikit-learn's, whose default is
# 16 products of 74 columns, whether singular values fall fast, slowly or not at all.
BLOCK = 16  # columns
WIDTH = 3  # columns of the space for each of the rank, and a block more
FEWEST = 128  # columns of the space
FAR = {np.float32: 1e-4, np.float64: 1e-10}  # of the largest square: below, the precision of squares shows
STRIP = 8  # rows
LEAST, SHARE = 256, 4  # "auto": a matrix whose smaller side is as long, and as many times the rank


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
    return TruncatedSVD(error_of(matrix, U, S, Vh), U, unscaled(S, power), Vh, W.shape)


def leading(matrix, rank, seed=0, solver="auto"):
    """U (m, rank), S (rank,), Vh (rank, n) of the largest singular values of a matrix (m, n) of about 1."""
    if solver == "auto":
        solver = "randomized" if min(matrix.shape) >= LEAST and SHARE * rank <= min(matrix.shape) else "full"
    return _cut(_full(matrix) if solver == "full" else _randomized(matrix, rank, seed), rank)


def bounded(matrix, bound):
    """The same, of the smallest rank whose relative error is at most `bound`."""
    factors = _full(matrix)
    S = factors[1]
    tails = np.sqrt(np.append(np.cumsum(np.square(S[::-1]))[::-1], 0))  # norm of what ranks 0, 1, ... leave out
    certain = max(1, int(np.sum(max(matrix.shape) * EPS * S[0] < S)))
    rank = int(np.clip(np.argmax(tails <= bound * tails[0]), 1, certain))
    while rank < certain and error_of(matrix, *_cut(factors, rank)) > bound:  # by rounding
        rank += 1
    return _cut(factors, rank)


def error_of(matrix, U, S, Vh) -> float:
    """Relative error of the best approximation of its rank or, as U S is the product of the matrix with the
    orthonormal rows of Vh, of any that is a projection.

    Then ``norm(W - U S Vh)**2`` is ``norm(W)**2 - norm(S)**2``; where that cancels, the difference itself is taken.
    """
    with one_blas_thread:
        whole, part = float(np.vdot(matrix, matrix)), float(np.vdot(S, S))
    if whole - part > CANCELLED * whole:
        return math.sqrt((whole - part) / whole)
    return relative_error(matrix, product(U * S, Vh))


def _cut(factors, rank):
    U, S, Vh = factors
    return _signed(U[:, :rank], S[:rank], Vh[:rank])


def _signed(U, S, Vh):
    sign = signs(U)
    return np.ascontiguousarray(U * sign), S.copy(), np.ascontiguousarray(Vh * sign[:, None])


# ---------------------------------------------------------------- full


def _full(matrix):
    with one_blas_thread:
        try:
            return svd(matrix, full_matrices=False, check_finite=False)
        except LinAlgError:  # divide and conquer did not converge: the older method does
            return svd(matrix, full_matrices=False, check_finite=False, lapack_driver="gesvd")


# ---------------------------------------------------------------- randomized


def _randomized(matrix, rank, seed):
    """U, S, Vh of about the largest singular values, from a block Krylov space of the shorter side.

    The space is built in float32, twice as fast, and again in float64 where that would show: in singular values far
    below the largest, or in an error that is nearly zero. Where float64 would show as well, for squares are taken, all
    of the space is kept. The factors come from a product in float64 in any case.
    """
    if len(matrix) < matrix.shape[1]:
        U, S, Vh = _randomized(np.ascontiguousarray(matrix.T), rank, seed)
        return Vh.T, S, U.T
    with one_blas_thread:
        whole = np.vdot(matrix, matrix)
    for dtype, far in FAR.items():
        basis, image = _krylov(matrix.astype(dtype, copy=False), rank, seed)
        with one_blas_thread:
            gram = (basis.T @ image).astype(np.float64)
            squares, vectors = eigh((gram + gram.T) / 2, driver="evd", check_finite=False)  # faster than a part of them
            squares, vectors = squares[-rank:], vectors[:, -rank:]
            if squares[0] > far * squares[-1] and whole - squares.sum() > far * whole:
                basis = qr(basis.astype(np.float64) @ vectors, mode="economic", check_finite=False)[0]
                break
    return _projected(matrix, basis)


def _krylov(A, rank, seed):
    """An orthonormal basis of a block Krylov space of ``A.T @ A``, and its product with that.

    Musco & Musco 2015, Randomized block Krylov methods, algorithm 2, with narrow blocks, which reach a higher power of
    A by as many products (Meyer, Musco & Musco 2024), and orthogonalized twice.
    """
    n, rng = A.shape[1], np.random.default_rng(seed)
    size = min(n, max(FEWEST, BLOCK * (-(-WIDTH * rank // BLOCK) + 1)))
    transposed = _transposed(A)
    basis, image = np.zeros((2, n, size), A.dtype)
    block = noise = rng.standard_normal((n, BLOCK)).astype(A.dtype)
    for start in range(0, size, BLOCK):
        columns = slice(start, min(start + BLOCK, size))
        with one_blas_thread:
            block = basis[:, columns] = _orthonormal(block[:, : size - start], basis[:, :start])
        block = image[:, columns] = product(transposed, product(A, block))
        # where the space is invariant, nothing is left but rounding: random numbers of its size make it larger
        tiny = np.finfo(A.dtype).eps * np.abs(block).max()
        block = block + tiny * rng.permutation(noise)[:, : block.shape[1]]
    return basis, image


def _orthonormal(block, basis):
    """The columns of a block made orthonormal, and orthogonal to a basis: again, where little was left of one, for then
    rounding shows."""
    block = block / (np.sqrt(np.square(block).sum(axis=0).max()) or 1)
    for _ in range(3):
        for _ in range(2):
            block = block - basis @ (basis.T @ block)
        block, R = qr(block, mode="economic", check_finite=False, overwrite_a=True)
        if np.abs(R.diagonal()).min() > 0.1:
            break
    return block


def _projected(matrix, Q):
    """The SVD of ``matrix @ Q @ Q.T``, for orthonormal columns Q."""
    B = product(matrix, Q)
    with one_blas_thread:
        U, R = qr(B, mode="economic", check_finite=False)
        left, S, right = svd(R, full_matrices=False, check_finite=False)
    return product(U, left), S, product(right, np.ascontiguousarray(Q.T))


def _transposed(A):
    """A copy of A.T in strips, which stay in cache."""
    copy = np.empty(A.shape[::-1], A.dtype)
    for start in range(0, len(A), STRIP):
        copy[:, start : start + STRIP] = A[start : start + STRIP].T
    return copy
