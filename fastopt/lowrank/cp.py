"""CP decomposition, a tensor as a sum of rank-one terms, by alternating least squares (Kolda & Bader 2009, sec. 3.4).

Mode after mode, the factor is the least-squares solution with all others fixed. Its right-hand side, the tensor times
the Khatri-Rao product of the others, is where the time goes: one product of the tensor with the factor of one of its
two longest modes serves the updates of all modes but that one. The tensor is small, so all of it runs on one thread.

Best approximations of a given rank need not exist: terms then grow and cancel each other (degeneracy). How far they do
is part of the result.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from fastopt._forks import importing
from fastopt._numbers import finite_number, whole_number
from fastopt.lowrank.decomposition import Decomposition, as_rank, as_weights, norm, relative_error, scaled, signs
from fastopt.lowrank.svd import leading
from fastopt.threads import one_blas_thread


@dataclass(frozen=True, eq=False)
class CP(Decomposition):
    """``T[i, j, k, l] = sum over r of a[i, r] b[j, r] c[k, r] d[l, r]``; iterating gives the factors.

    Attributes
    ----------
    factors : tuple of ndarray, shapes (axis of T, R)
        In the order of the axes. Terms stand largest first, the columns of a term have equal norms, and the largest
        element of each column is positive but for that of the last factor.
    degeneracy : float
        Sum of the squared norms of the terms over the squared norm of T: far above 1 where terms cancel each other.
    sweeps : int
        Sweeps over all modes that led here.
    converged : bool
        Whether the last of these gained less than `tol`.
    """

    factors: tuple[np.ndarray, ...]
    degeneracy: float
    sweeps: int
    converged: bool

    def __iter__(self):
        return iter(self.factors)

    @property
    def rank(self) -> int:
        """R."""
        return self.factors[0].shape[1]

    def reconstruct(self) -> np.ndarray:
        """The sum of the terms, in the shape of T."""
        with one_blas_thread:
            return _sum_of_terms([factor.T for factor in self.factors])


def cp(T, rank, *, ridge=0.0, seed=0, tol=1e-6, max_sweeps=500, restarts=3, max_degeneracy=100.0) -> CP:
    """A tensor as a sum of `rank` rank-one terms, by alternating least squares.

    Parameters
    ----------
    T : array_like of 3 or 4 axes
        The weight of a convolution, (out, height, width, in), or any other tensor; axes in any order.
    rank : int
        Terms: from 1 to the product of all sizes but the largest.
    ridge : float
        Weight of the sum of squares of all factors beside the squared error, of T scaled to norm 1.
    seed : int
        Of the random starts.
    tol : float
        A sweep that lowers the error by less than this part of it is the last.
    max_sweeps : int
        At most so many sweeps from a start.
    restarts : int
        Starts, of which the best counts: the first from the singular vectors of the unfoldings, the others random.
    max_degeneracy : float
        Limit of the degeneracy.

    Returns
    -------
    CP

    Raises
    ------
    TypeError, ValueError
        T is empty, not finite or of another number of axes, or an option is out of range.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> rng = np.random.default_rng(0)
    >>> a, b, c = (rng.normal(size=(n, 2)) for n in (5, 4, 3))
    >>> found = fo.lowrank.cp(np.einsum("ir,jr,kr->ijk", a, b, c), rank=2)
    >>> [factor.shape for factor in found.factors], found.relative_error < 1e-8
    ([(5, 2), (4, 2), (3, 2)], True)
    """
    T = as_weights("T", T, (3, 4), "of 3 or 4 axes")
    rank = as_rank("rank", rank, T.size // max(T.shape))
    ridge, tol = finite_number("ridge", ridge, 0.0), finite_number("tol", tol, 0.0)
    seed, max_sweeps = whole_number("seed", seed, 0), whole_number("max_sweeps", max_sweeps)
    restarts = whole_number("restarts", restarts)
    max_degeneracy = finite_number("max_degeneracy", max_degeneracy, 1.0)
    T, power = scaled(T, 12)  # a multiple of 3 and of 4: each factor gets a power of two
    size = norm(T)
    if size == 0:
        zeros = tuple(np.zeros((n, rank)) for n in T.shape)
        return CP(0.0, zeros, 0.0, 0, True)
    with importing:
        import scipy.linalg  # noqa: F401

    rng = np.random.default_rng(seed)
    best = None
    with one_blas_thread:
        for start in range(restarts):
            factors = _start(T / size, rank, rng, start == 0)
            found = _descend(T / size, factors, ridge, tol, max_sweeps)
            if best is None or found[1] < best[1]:
                best = found
    factors, error, sweeps, converged = best
    if not converged and tol > 0:
        warnings.warn("cp: did not converge", RuntimeWarning, stacklevel=2)
    factors, degeneracy = _finished(factors, size, power)
    return CP(error, factors, degeneracy, sweeps, converged)


def _start(T, rank, rng, singular_vectors):
    factors = [rng.standard_normal((rank, n)) for n in T.shape]
    if singular_vectors:
        for axis, factor in enumerate(factors):
            unfolded = np.ascontiguousarray(np.moveaxis(T, axis, 0).reshape(T.shape[axis], -1))
            k = min(rank, *unfolded.shape)
            factor[:k] = leading(unfolded, k)[0].T
    return factors


def _descend(T, factors, ridge, tol, max_sweeps):
    letters = "abcd"[: T.ndim]
    error = np.inf
    for sweep in range(1, max_sweeps + 1):
        for axis in range(T.ndim):
            others = [i for i in range(T.ndim) if i != axis]
            gram = np.prod([factors[i] @ factors[i].T for i in others], axis=0)
            gram[np.diag_indices_from(gram)] += ridge
            terms = ",".join("r" + letters[i] for i in others)
            right = np.einsum(f"{letters},{terms}->r{letters[axis]}", T, *(factors[i] for i in others), optimize=True)
            factors[axis] = np.linalg.lstsq(gram, right, rcond=None)[0]
        before, error = error, relative_error(T, _sum_of_terms(factors))
        if before - error <= tol * before:
            return factors, error, sweep, True
    return factors, error, max_sweeps, False


def _sum_of_terms(factors):
    letters = "abcd"[: len(factors)]
    return np.einsum(",".join("r" + letter for letter in letters) + "->" + letters, *factors, optimize=True)


def _finished(factors, size, power):
    """The factors as the result has them, (axis, R), and the degeneracy."""
    lengths = [np.sqrt(np.square(factor).sum(axis=1)) for factor in factors]
    terms = np.prod(lengths, axis=0)
    order = np.argsort(-terms, kind="stable")
    each = (terms * size) ** (1 / len(factors))
    done, last = [], 1.0
    for i, (factor, length) in enumerate(zip(factors, lengths, strict=True)):
        columns = (factor * (each / np.where(length > 0, length, 1))[:, None])[order].T
        sign = signs(columns)
        last = last * sign
        done.append(np.ldexp(columns * (sign if i < len(factors) - 1 else last * sign), power // len(factors)))
    return tuple(done), float(np.square(terms).sum())
