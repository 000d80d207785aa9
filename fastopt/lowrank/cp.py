"""CP decomposition, a tensor as a sum of rank-one terms, by alternating least squares (Kolda & Bader 2009, sec. 3.4).

Here are the result, the starts and the descent with its line search; `cp_sweeps.py` has a sweep over the modes, and
`cp_updates.py` what a factor becomes in it.

Best approximations of a given rank need not exist (de Silva & Lim 2008): terms then grow and cancel each other. How far
they do is the degeneracy of the result. Above a limit, terms are made smaller at the same error; where that is not
enough, the error is lowered as far as the limit allows.
"""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import eig

from fastopt._numbers import finite_number, number_or_infinity, whole_number
from fastopt.lowrank.cp_sweeps import Sweeps
from fastopt.lowrank.cp_updates import Bounded, ErrorPreserving, LeastSquares
from fastopt.lowrank.decomposition import Decomposition, as_rank, as_weights, norm, relative_error, scaled, signs
from fastopt.lowrank.svd import leading
from fastopt.threads import get_num_threads, num_threads, one_blas_thread

SMALL = 1 << 24  # multiply-adds of a product with T: below, threads wait for each other longer than they gain
EXACT = 1e-26  # squared relative error that is rounding: no other start is tried
LONGEST_WAIT = 5  # sweeps until another step further is tried, after as many in a row that gained nothing
ALLOWANCE = 1e-4  # the part of itself by which the error may grow while terms are made smaller
CORRECTIONS = 100  # sweeps that make terms smaller


@dataclass(frozen=True, eq=False)
class CP(Decomposition):
    """``T[i, j, k, l] = sum over r of a[i, r] b[j, r] c[k, r] d[l, r]``; iterating gives the factors.

    Attributes
    ----------
    factors : tuple of ndarray, shapes (axis of T, R)
        In the order of the axes. Terms stand largest first, the columns of a term have equal norms, and the largest
        element of each column is positive, but for the last factor.
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
        return _sum_of_terms([factor.T for factor in self.factors])


def cp(T, rank, *, ridge=0.0, seed=0, tol=1e-6, max_sweeps=1000, restarts=3, max_degeneracy=10.0) -> CP:
    """A tensor as a sum of `rank` rank-one terms, by alternating least squares.

    Parameters
    ----------
    T : array_like of 3 or 4 axes
        The weight of a convolution, (out, height, width, in), or any other tensor; axes in any order.
    rank : int
        Terms: from 1 to the product of all sizes but the largest, by which every tensor is a sum of them.
    ridge : float
        Weight of the sum of squares of all factors beside the squared error, for T of norm 1. It keeps terms small.
    seed : int
        Of the random numbers of the starts.
    tol : float
        The first sweep that lowers the error by less than this part of it is the last; 0 makes all `max_sweeps`.
    max_sweeps : int
        Most sweeps from a start.
    restarts : int
        Starts, of which the best counts. The first takes common eigenvectors of slices, from which a tensor of that
        rank is found at once, if the two longest axes are no shorter than the rank; the others are random.
    max_degeneracy : float
        Limit of the degeneracy, above 0. Beyond it terms are made smaller while the error grows by at most one part in
        ten thousand (Phan et al. 2020); if that is not enough, the error is the least that was found within the limit.
        Infinity leaves terms as they are.

    Returns
    -------
    CP

    Raises
    ------
    TypeError, ValueError
        T is empty, not finite or of another number of axes, or an option is out of range.

    Warns
    -----
    RuntimeWarning
        The error still falls after `max_sweeps`, unless `tol` is 0. Long plateaus (swamps) end so as well.

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
    limit = number_or_infinity("max_degeneracy", max_degeneracy, above=0.0)
    T, power = scaled(T, 12)  # a multiple of 3 and of 4: every factor takes a power of two
    size = norm(T)
    if size == 0:
        return CP(0.0, tuple(np.zeros((n, rank)) for n in T.shape), 0.0, 0, True)
    T = T / size
    sweeps = Sweeps(T)
    with one_blas_thread, num_threads(1 if T.size * rank < SMALL else get_num_threads()):
        found = _best(sweeps, _starts(sweeps, rank, seed, restarts), ridge, tol, max_sweeps)
        if _degeneracy(found.factors) > limit:
            found = _with_smaller_terms(sweeps, found, limit, tol, max_sweeps)
    factors = [found.factors[sweeps.order.index(axis)] for axis in range(T.ndim)]
    error = relative_error(T, _sum_of_terms(factors))
    if not found.converged and tol > 0:
        warnings.warn(
            f"cp: the relative error, {error:.4g}, still falls after {found.sweeps} sweeps; raise max_sweeps or tol",
            RuntimeWarning,
            stacklevel=2,
        )
    degeneracy = _degeneracy(factors)
    return CP(error, _as_columns(factors, size, power), degeneracy, found.sweeps, found.converged)


# ---------------------------------------------------------------- starts: factors (R, n), the longest modes first


def _starts(sweeps, rank, seed, restarts):
    rng = np.random.default_rng(seed)
    yield _from_eigenvectors(sweeps.cube, sweeps.shape, rank, rng)
    for _ in range(restarts - 1):
        yield [rng.standard_normal((rank, n)) for n in sweeps.shape]


def _from_eigenvectors(cube, shape, rank, rng):
    """The factors of a tensor of this rank, if none of its two longest modes is shorter than that.

    Two weighted sums of slices, ``A diag(s) B.T`` each, have common eigenvectors, which tell the terms apart (Leurgans,
    Ross & Abel 1993). Of a tensor near that rank they do so nearly. More terms than that start at random.
    """
    p, q = shape[:2]
    start = [rng.standard_normal((rank, n)) for n in shape]
    if rank > q:
        return start
    U = leading(cube.reshape(p, -1), rank)[0]
    V = leading(np.ascontiguousarray(cube.swapaxes(0, 1)).reshape(q, -1), rank)[0]
    core = np.einsum("pr,pqs,qt->rts", U, cube, V, optimize=True)
    one, other = np.moveaxis(core @ rng.standard_normal((cube.shape[2], 2)), 2, 0)
    values, vectors = eig(one.T, other.T, check_finite=False)
    vectors = np.where(values.imag < 0, vectors.imag, vectors.real)  # of a complex pair
    if np.isfinite(vectors).all():
        terms = np.tensordot(vectors, core, (0, 0))  # each of rank one
        second, others = _rank_one(terms)
        split = [others] if len(shape) == 3 else _rank_one(others.reshape(rank, *shape[2:]))
        start[1:] = [second @ V.T, *split]
    return start


def _rank_one(matrices):
    """Columns (R, n) and rows (R, m) of the best approximations of rank one of matrices (R, n, m)."""
    U, S, Vh = np.linalg.svd(matrices, full_matrices=False)
    return U[:, :, 0] * S[:, :1], Vh[:, 0]


# ---------------------------------------------------------------- descent


class _Found(NamedTuple):
    factors: list[np.ndarray]
    value: float  # the squared error, and the penalty of a ridge
    sweeps: int
    converged: bool


def _best(sweeps, starts, ridge, tol, max_sweeps) -> _Found:
    """What the best of the starts leads to."""
    best = _Found([], math.inf, 0, False)
    for factors in starts:
        found = _descend(sweeps, factors, LeastSquares(ridge), ridge, tol, max_sweeps, _LineSearch(sweeps, ridge))
        best = min(best, found, key=lambda found: found.value)
        if best.value <= EXACT:
            break
    return best


def _descend(sweeps, factors, update, ridge, tol, max_sweeps, further=None) -> _Found:
    """Sweeps until one gains less than `tol`; `further` may find something better in their direction."""
    value, product = math.inf, None
    for number in range(1, max_sweeps + 1):
        swept, squared_error = sweeps.sweep(factors, update, product)
        swept = _balanced(swept)
        new, product = squared_error + ridge * _squares(swept), None
        if further is not None:
            better = further(number, swept, new)
            if better is not None:
                swept, new, product = better
        gain = math.sqrt(value) - math.sqrt(new) if number > 1 else math.inf
        if gain < 0:  # rounding is all that is left
            return _Found(factors, value, number, True)
        before, factors, value = value, swept, new
        if value <= EXACT or gain < tol * math.sqrt(before):
            return _Found(factors, value, number, True)
    return _Found(factors, value, max_sweeps, False)


class _LineSearch:
    """A step further from what the sweep before led to, through what this one did, where that lowers the value.

    Its length is a root of the number of the sweep, by Harshman's rule (Bro 1998, Multi-way analysis in the food
    industry, section 4.6). The product of T that tells the value there is one that the next sweep needs as well.
    """

    def __init__(self, sweeps, ridge):
        self.sweeps, self.ridge = sweeps, ridge
        self.last, self.wait, self.rejected = None, 0, 0

    def __call__(self, number, swept, value):
        last, self.last = self.last, swept
        if last is None or self.wait > 0:
            self.wait = max(0, self.wait - 1)
            return None
        length = number ** (1 / len(swept))
        factors = [old + length * (new - old) for old, new in zip(last, swept, strict=True)]
        product = self.sweeps.without_second(factors)
        there = self.sweeps.squared_error(factors, product) + self.ridge * _squares(factors)
        if there < value:
            self.rejected = 0
            return factors, there, product
        self.rejected += 1
        self.wait = min(self.rejected, LONGEST_WAIT)
        return None


def _with_smaller_terms(sweeps, found, limit, tol, max_sweeps) -> _Found:
    """Factors whose degeneracy is within the limit, at the same error but for ALLOWANCE if that is possible."""
    factors, squared_error = found.factors, sweeps.squared_residual(found.factors)
    update = ErrorPreserving(squared_error * (1 + ALLOWANCE) ** 2, squared_error)
    for number in range(1, CORRECTIONS + 1):
        factors, squared_error = sweeps.sweep(factors, update)
        if _degeneracy(factors) <= limit:
            return _Found(factors, squared_error, found.sweeps + number, found.converged)
    bounded = _descend(sweeps, factors, Bounded(limit), 0.0, tol, max_sweeps)
    return bounded._replace(sweeps=found.sweeps + CORRECTIONS + bounded.sweeps)


# ---------------------------------------------------------------- terms


def _lengths(factors):
    return np.sqrt([np.square(factor).sum(axis=1) for factor in factors])


def _squares(factors):
    return sum(np.vdot(factor, factor) for factor in factors)


def _degeneracy(factors) -> float:
    """Sum of the squared norms of the terms, for T of norm 1."""
    return float(np.square(_lengths(factors).prod(axis=0)).sum())


def _balanced(factors):
    """The same terms from columns of equal norms."""
    lengths = _lengths(factors)
    scales = lengths.prod(axis=0) ** (1 / len(factors)) / np.where(lengths > 0, lengths, 1)
    return [factor * scale[:, None] for factor, scale in zip(factors, scales, strict=True)]


def _as_columns(factors, size, power) -> tuple[np.ndarray, ...]:
    """The factors of the result, (n, R): of T times its norm and a power of two, in a unique order and with unique
    signs."""
    modes = len(factors)
    order = np.argsort(-_lengths(factors).prod(axis=0), kind="stable")
    columns = [np.ascontiguousarray(factor[order].T) * size ** (1 / modes) for factor in _balanced(factors)]
    sign = [signs(factor) for factor in columns[:-1]]
    sign.append(np.prod(sign, axis=0))
    return tuple(np.ldexp(factor * one, power // modes) for factor, one in zip(columns, sign, strict=True))


def _sum_of_terms(factors):
    """The tensor of factors (R, n), axes in their order."""
    letters = "abcd"[: len(factors)]
    with one_blas_thread:
        return np.einsum(",".join("r" + letter for letter in letters) + "->" + letters, *factors, optimize=True)
