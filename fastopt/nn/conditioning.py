"""Statistics of inputs: mean and deviation of columns, their covariance, how badly it is conditioned, and the
matrix that makes it the identity.

Float64 whatever the dtype of the data, in blocks of rows. Sums of squares are taken of the data over a power of two
where they would leave the range of float64. BLAS and LAPACK are held to one thread: the same bits, however many
threads there are.
"""

import numpy as np

from fastopt._forks import importing
from fastopt._kernels import core
from fastopt.threads import one_blas_thread

ROWS = 4096  # in float64 at a time
LEAST = 1e-290  # of a variance: below, squares of float64 lose digits or vanish


def column_statistics(X) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of the columns of X (n, c), in float64; 0 for a constant column."""
    _require_rows(X)
    with np.errstate(all="ignore"):
        mean, var = core.batch_statistics(X) if X.dtype == np.float64 else _joined_statistics(X)
    deviation = np.sqrt(var)
    for j in np.flatnonzero(~((var >= LEAST) & (var < np.inf))):
        mean[j], deviation[j] = _scaled_statistics(X[:, j], j)
    return mean, deviation


def _joined_statistics(X):
    """Mean and variance, block after block (Chan et al. 1983)."""
    mean, var = np.zeros((2, X.shape[1]))
    for start in range(0, len(X), ROWS):
        block = X[start : start + ROWS].astype(np.float64)
        of_block = core.batch_statistics(block)
        share = len(block) / (start + len(block))
        delta = of_block[0] - mean
        mean += delta * share
        var = var * (1 - share) + of_block[1] * share + delta * delta * (share * (1 - share))
    return mean, var


def _scaled_statistics(column, j):
    """Mean and deviation of a column whose squares float64 may not hold, from its distances from its first element,
    over a power of two."""
    column = column.astype(np.float64)
    _require_finite(column[:, None], j)
    power = _power(column[:, None])
    if power is None:
        return column[0], 0.0
    x = np.ldexp(column, -power)
    mean, var = core.batch_statistics((x - x[0])[:, None])
    return np.ldexp(x[0] + mean[0], power), np.ldexp(np.sqrt(var[0]), power)


def _power(X):
    """The power of two above the largest distance of an element from the first of its column, or None."""
    with np.errstate(over="ignore"):
        far = min(float(np.abs(X - X[0]).max(initial=0)), np.finfo(np.float64).max)
    return None if far == 0 else int(np.clip(np.frexp(far)[1], -1000, 1000))


def _require_rows(X):
    if not len(X):
        raise ValueError("X: expected at least one row, got none")


def _require_finite(X, first=0):
    bad = np.argwhere(~np.isfinite(X))
    if bad.size:
        i, j = bad[0]
        raise ValueError(f"X: expected finite values, got {X[i, j]} in column {j + first}")


def covariance(X) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean of the columns of X (n, c), their population covariance over 4 to a power, in float64, and that power."""
    _require_rows(X)
    mean, total = _covariance(X, 0)
    largest = np.diag(total).max()
    if LEAST <= largest < np.inf:
        return mean, total, 0
    _require_finite(X)
    power = _power(X)
    return (*_covariance(X, power), power) if power is not None else (mean, total, 0)


def _covariance(X, power):
    """Mean of X, and the covariance of X over 2 to a power."""

    def scaled(block):
        return np.ldexp(block.astype(np.float64), -power) if power else block

    with np.errstate(all="ignore"), one_blas_thread:
        mean = scaled(X).mean(axis=0, dtype=np.float64)
        total = np.zeros((X.shape[1], X.shape[1]))
        for start in range(0, len(X), ROWS):
            centered = scaled(X[start : start + ROWS]) - mean
            total += centered.T @ centered
        return np.ldexp(mean, power), total / len(X)


def spectrum(cov) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of a covariance, the largest first, and its eigenvectors as columns, each of one sign.

    Eigenvalues that rounding cannot tell from 0 are 0.
    """
    with importing:
        from scipy.linalg import eigh

    with one_blas_thread:
        values, vectors = eigh(cov)
    values, vectors = values[::-1].copy(), vectors[:, ::-1]
    values[values <= len(values) * np.finfo(np.float64).eps * values[0]] = 0
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0, keepdims=True), axis=0)
    return values, vectors * np.sign(largest)


def whitening(X, kind, eps) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the columns of X, and the matrix W with W cov W^T = I, but for eps: with U diag(l) U^T = cov,
    diag(l + eps max l)^(-1/2) U^T for "pca" and U times that for "zca" (Kessy et al. 2018).
    """
    mean, cov, power = covariance(X)
    values, vectors = spectrum(cov)
    if eps == 0 and values[-1] == 0 and values[0] > 0:
        raise ValueError(
            f"eps: expected more than 0, for the covariance of the {len(values)} columns is singular, got 0"
        )
    ridge = values + eps * values[0]
    rotated = (vectors / np.sqrt(np.where(ridge > 0, ridge, 1))).T
    with np.errstate(over="ignore"), one_blas_thread:
        return mean, np.ldexp(vectors @ rotated if kind == "zca" else rotated, -power)


def condition_number(X) -> float:
    """Condition number of the covariance of the columns of X, the largest eigenvalue over the smallest.

    The Hessian of a linear layer under squared error is this covariance (centered): its condition
    number says how much slower gradient descent gets along one direction than along another
    (LeCun et al. 1998, Efficient BackProp, section 5).

    Parameters
    ----------
    X : array_like, shape (n, c)

    Returns
    -------
    float
        At least 1; infinity if the covariance is singular to rounding, as with a constant column.

    Raises
    ------
    ValueError
        X has another number of dimensions, no rows, or values that are not finite.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> X = np.array([[10.0, 1.0], [10.0, -1.0], [-10.0, 1.0], [-10.0, -1.0]])
    >>> fo.nn.condition_number(X)
    100.0
    """
    X = np.asarray(X)
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X: expected real numbers, got dtype {X.dtype}")
    if X.ndim != 2 or X.shape[1] == 0:
        raise ValueError(f"X: expected shape (n, c), got {X.shape}")
    values = spectrum(covariance(X)[1])[0]
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")
