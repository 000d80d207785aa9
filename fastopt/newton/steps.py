"""Newton's step from a dense Hessian, and what its eigenvalues say about a point.

- H is symmetric, and one triangle of it is read: the lower one. What makes H may leave the other undone.
- Cholesky's factor goes straight to LAPACK, without the checks and copies on the way there: at 50
  parameters these cost more than the factor. NaN and infinity are looked for once it has failed, for
  they never pass the test of its pivots.
- "Positive definite" and "zero" are meant to rounding. A pivot that has lost all its digits counts as
  none, measured by its own diagonal element, so that the units of the parameters do not matter.
- LAPACK and products run on one thread (threads.py says why): the same bits, however many there are.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastopt._arrays import as_numbers, require_finite
from fastopt._forks import importing
from fastopt._numbers import finite_number
from fastopt.threads import one_blas_thread

METHODS = ("cholesky", "saddle_free")
FIRST_DAMPING = 1e-3  # of the largest element of H, then tenfold (Nocedal & Wright 2006, algorithm 3.3)
LOST = 4  # √d eps of its diagonal element: a pivot of that size, as nearly all singular matrices leave, is rounding


class Step(NamedTuple):
    """What `step` found: the step, what the quadratic model says it changes, and the damping it took."""

    delta: np.ndarray
    predicted_change: float
    damping: float


class CriticalPoint(NamedTuple):
    """What `critical_point` found: the kind, and how many eigenvalues are above, below and at zero."""

    kind: str
    positive: int
    negative: int
    flat: int


# ---------------------------------------------------------------- what comes in


def as_hessian(H) -> np.ndarray:
    """H as a square array of float32 or float64."""
    H = as_numbers("H", H)
    if H.ndim != 2 or H.shape[0] != H.shape[1] or not H.size:
        raise ValueError(f"H: expected shape (d, d), got {H.shape}")
    return _as_float(H)


def as_gradient(g, d) -> np.ndarray:
    """g as a finite array of float32 or float64, one element a column of H."""
    g = as_numbers("g", g)
    if g.shape != (d,):
        raise ValueError(f"g: expected shape ({d},) to match H, got {g.shape}")
    g = _as_float(g)
    require_finite("g", g)
    return g


def _as_float(array):
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _check_overwritten(H):
    if not (
        isinstance(H, np.ndarray)
        and H.dtype in (np.float32, np.float64)
        and (H.flags.c_contiguous or H.flags.f_contiguous)
        and H.flags.writeable
        and H.flags.aligned
    ):
        raise ValueError(
            "H: expected a contiguous, writable array of float32 or float64 to overwrite; pass overwrite_h=False"
        )


# ---------------------------------------------------------------- LAPACK


def dot(a, b) -> float:
    """``a · b``, with the same bits however many threads there are."""
    with one_blas_thread:
        return float(a @ b)


def _as_columns(H):
    """H in LAPACK's order without a copy, and whether our lower triangle is its lower one."""
    return (H, True) if H.flags.f_contiguous else (np.ascontiguousarray(H).T, False)


class Factor:
    """Cholesky's factor of H + damping I.

    `minor` is the order of the first leading minor that is not positive, or 0: one whose pivot is no more than
    `least` of its diagonal element, by default what rounding leaves.
    """

    def __init__(self, H, damping=0.0, overwrite=False, least=None):
        with importing:
            from scipy.linalg import lapack

        potrf, self._potrs = (lapack.spotrf, lapack.spotrs) if H.dtype == np.float32 else (lapack.dpotrf, lapack.dpotrs)
        a, self._lower = _as_columns(H)
        if damping and not overwrite:
            a, overwrite = a.copy(order="F"), True
        diagonal = a.diagonal() + H.dtype.type(damping)
        if damping:
            np.fill_diagonal(a, diagonal)
        self._factor, self.minor = potrf(a, lower=self._lower, clean=False, overwrite_a=overwrite)
        if not self.minor:
            least = LOST * math.sqrt(len(H)) * np.finfo(H.dtype).eps if least is None else least
            left = self._factor.diagonal() ** 2 > least * diagonal  # False where NaN or infinity has come through
            self.minor = 0 if left.all() else int(left.argmin()) + 1

    def solve(self, b) -> np.ndarray:
        """(H + damping I)⁻¹ b, by two triangles, in the dtype of H; not to be trusted unless `minor` is 0."""
        return self._potrs(self._factor, b, lower=self._lower)[0]


def eigensystem(H, overwrite=False) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of H, the smallest first, and its eigenvectors as columns."""
    with importing:
        from scipy.linalg import eigh

    require_finite("H", np.tril(H))
    a, lower = _as_columns(H)
    with one_blas_thread:
        return eigh(a, lower=lower, overwrite_a=overwrite, check_finite=False, driver="evd")


def eigenvalues(H) -> np.ndarray:
    """Eigenvalues of H, the smallest first."""
    with importing:
        from scipy.linalg import eigvalsh

    require_finite("H", np.tril(H))
    a, lower = _as_columns(H)
    with one_blas_thread:
        return eigvalsh(a, lower=lower, check_finite=False)


def rounding(values) -> float:
    """What rounding alone may have made of an eigenvalue that is zero."""
    return float(len(values) * np.finfo(values.dtype).eps * np.abs(values).max())


# ---------------------------------------------------------------- the step


def step(H, g, damping=0.0, method="cholesky", overwrite_h=False) -> Step:
    """Newton's step ``-(H + damping I)^-1 g``, to the minimum of the quadratic model with gradient g.

    Parameters
    ----------
    H : array_like, shape (d, d)
        The Hessian, symmetric; only its lower triangle is read. Its dtype, float32 or float64, is that
        of the arithmetic.
    g : array_like, shape (d,)
        The gradient.
    damping : float or "auto"
        Added to the diagonal. "auto" takes 0 where that will do; otherwise a thousandth of the largest
        element of H, or 1 if H is zero, and ten times more until H is positive definite (Levenberg 1944;
        Marquardt 1963).
    method : {"cholesky", "saddle_free"}
        "saddle_free" puts the magnitudes of the eigenvalues in their place (Dauphin et al. 2014), so that
        the step leaves saddles. Where an eigenvalue is zero to rounding, it does not move along the
        eigenvector, unless damped; "auto" damps then.
    overwrite_h : bool
        Let the factor take the place of H, which saves a copy. What H holds afterwards, and after an
        error, is not defined.

    Returns
    -------
    Step
        delta (d,), float64 unless H and g are float32; predicted_change, that of the quadratic model
        without damping, ``g·delta + ½ delta·H·delta``; damping, as it was added.

    Raises
    ------
    numpy.linalg.LinAlgError
        H (damped) is not positive definite to rounding, or the step overflows.
    TypeError, ValueError
        Shapes or dtypes that do not fit, NaN or infinity in H or g.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> H, g = np.array([[2.0, 0.0], [0.0, 100.0]]), np.array([2.0, 100.0])
    >>> fo.newton.step(H, g)
    Step(delta=array([-1., -1.]), predicted_change=-51.0, damping=0.0)
    """
    if overwrite_h:
        _check_overwritten(H)
    H = as_hessian(H)
    g = as_gradient(g, len(H))
    if damping != "auto":
        damping = finite_number("damping", damping, 0, instead="'auto'")
    if method not in METHODS:
        raise ValueError(f"method: expected 'cholesky' or 'saddle_free', got {method!r}")
    solve = _cholesky_step if method == "cholesky" else _saddle_free_step
    with one_blas_thread, np.errstate(over="ignore", invalid="ignore"):
        delta, change, damping = solve(H, g.astype(H.dtype), damping, overwrite_h)
    if not (np.isfinite(delta).all() and math.isfinite(change)):
        raise np.linalg.LinAlgError(f"H: expected a step within {H.dtype}, got one that overflows; scale H and g")
    return Step(delta.astype(np.result_type(H, g)), change, damping)


def _cholesky_step(H, g, damping, overwrite):
    if damping == "auto":
        if overwrite:
            raise ValueError("overwrite_h: expected False with damping='auto', which may need H again")
        factor, damping = raise_damping(H)
    else:
        if overwrite:
            require_finite("H", np.tril(H))
        factor = Factor(H, damping, overwrite)
    if factor.minor:
        require_finite("H", np.tril(H))
        raise np.linalg.LinAlgError(
            f"H: expected a positive definite matrix, got one whose leading minor of order {factor.minor} is not "
            "positive to rounding; pass damping='auto' or method='saddle_free'"
        )
    delta = -factor.solve(g)
    # (H + λI) Δ = −g, so that Δᵀ H Δ = −gᵀΔ − λ‖Δ‖²
    wide = delta.astype(np.float64)  # a change may be too large for float32 where the step is not
    return delta, 0.5 * float(g @ wide) - 0.5 * damping * float(wide @ wide), damping


def raise_damping(H) -> tuple[Factor, float]:
    """The first damping of `dampings` that makes H positive definite, and the factor."""
    for damping in dampings(H):
        factor = Factor(H, damping)
        if not factor.minor:
            break
    return factor, damping


def dampings(H) -> Iterator[float]:
    """0, then from FIRST_DAMPING of the largest element of H on, ten times more each time."""
    yield 0.0
    require_finite("H", np.tril(H))
    largest = float(np.abs(np.tril(H)).max())
    first = FIRST_DAMPING * largest or 1.0
    for k in range(6 + len(str(len(H)))):  # no eigenvalue lies below −d · largest
        yield first * 10.0**k


def _saddle_free_step(H, g, damping, overwrite):
    values, vectors = eigensystem(H, overwrite)
    flat = np.abs(values) <= rounding(values)
    if damping == "auto":
        damping = (FIRST_DAMPING * float(np.abs(values).max()) or 1.0) if flat.any() else 0.0
    size = np.abs(values) + H.dtype.type(damping)
    c = g @ vectors
    p = -np.divide(c, size, out=np.zeros_like(c), where=~flat if damping == 0 else size > 0)
    wide = p.astype(np.float64)
    return vectors @ p, float(c @ wide) + 0.5 * float(values @ wide**2), damping


# ---------------------------------------------------------------- what a Hessian says


def condition_number(H) -> float:
    """The largest eigenvalue of a Hessian over the smallest, in magnitude.

    Parameters
    ----------
    H : array_like, shape (d, d)
        Symmetric; only the lower triangle is read.

    Returns
    -------
    float
        At least 1; infinity if H is singular to rounding.

    Raises
    ------
    TypeError, ValueError
        Another shape or dtype, NaN or infinity.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.newton.condition_number([[1.0, 0.0], [0.0, -100.0]])
    100.0
    """
    values = eigenvalues(as_hessian(H))
    size = np.abs(values)
    return float(size.max()) / float(size.min()) if size.min() > rounding(values) else math.inf


def critical_point(H, tol=None) -> CriticalPoint:
    """The kind of a point where the gradient is zero, from the signs of the eigenvalues of its Hessian.

    Parameters
    ----------
    H : array_like, shape (d, d)
        Symmetric; only the lower triangle is read.
    tol : float, optional
        Eigenvalues of at most this magnitude count as zero. By default what rounding may have made of
        zero, d times eps times the largest.

    Returns
    -------
    CriticalPoint
        kind: "minimum" or "maximum" where all eigenvalues have one sign, "saddle" where both occur, and
        otherwise "flat": along some directions the second order does not tell; positive, negative and
        flat: how many eigenvalues are of each sort.

    Raises
    ------
    TypeError, ValueError
        Another shape or dtype, NaN or infinity.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.newton.critical_point([[2.0, 0.0], [0.0, -1.0]])
    CriticalPoint(kind='saddle', positive=1, negative=1, flat=0)
    """
    if tol is not None:
        tol = finite_number("tol", tol, 0, instead="None")
    values = eigenvalues(as_hessian(H))
    tol = rounding(values) if tol is None else tol
    positive, negative = int((values > tol).sum()), int((values < -tol).sum())
    flat = len(values) - positive - negative
    kinds = {(True, True): "saddle", (True, False): "minimum", (False, True): "maximum"}
    kind = "flat" if flat and not (positive and negative) else kinds[positive > 0, negative > 0]
    return CriticalPoint(kind, positive, negative, flat)


def predicted_change(H, g, lr) -> float:
    """What the quadratic model says a gradient step changes: ``½ lr² g·H·g - lr g·g``.

    It pays while that is negative: for ill-conditioned problems only up to a small `lr`, although the
    gradient is large.

    Parameters
    ----------
    H : array_like, shape (d, d)
        The Hessian, symmetric; all of it is read.
    g : array_like, shape (d,)
        The gradient.
    lr : float
        The learning rate.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        Shapes or dtypes that do not fit, NaN or infinity.

    Examples
    --------
    >>> import fastopt as fo
    >>> H, g = [[1.0, 0.0], [0.0, 15.0]], [1.0, 1.0]
    >>> fo.newton.predicted_change(H, g, 0.125), fo.newton.predicted_change(H, g, 0.5)
    (-0.125, 1.0)
    """
    H = as_hessian(H)
    g = as_gradient(g, len(H)).astype(np.float64)
    require_finite("H", H)
    lr = finite_number("lr", lr)
    with one_blas_thread:
        return 0.5 * lr * lr * float(g @ (H @ g)) - lr * float(g @ g)
