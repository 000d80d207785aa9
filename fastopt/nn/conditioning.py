"""The covariance of inputs: how badly it is conditioned, and the matrix that makes it the identity.

Float64 whatever the dtype of the data, in blocks of rows. BLAS and LAPACK are held to one
thread: the same bits, however many threads there are.
"""

import numpy as np

from fastopt._forks import importing
from fastopt.threads import one_blas_thread

ROWS = 4096  # centred at a time


def covariance(X) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population covariance of the columns of X (n, c), in float64."""
    if not len(X):
        raise ValueError("X: expected at least one row, got none")
    with np.errstate(all="ignore"), one_blas_thread:
        mean = X.mean(axis=0, dtype=np.float64)
        total = np.zeros((X.shape[1], X.shape[1]))
        for start in range(0, len(X), ROWS):
            centred = X[start : start + ROWS] - mean
            total += centred.T @ centred
    total /= len(X)
    bad = np.flatnonzero(~np.isfinite(np.diag(total)))
    if bad.size:
        raise ValueError(f"X: expected finite values, got NaN, infinity or too large ones in column {bad[0]}")
    return mean, total


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


def whitening(cov, kind, eps) -> np.ndarray:
    """The matrix W with W cov W^T = I, but for eps: with U diag(l) U^T = cov, diag(l + eps max l)^(-1/2) U^T for
    "pca" and U times that for "zca" (Kessy et al. 2018).
    """
    values, vectors = spectrum(cov)
    if eps == 0 and values[-1] == 0 and values[0] > 0:
        raise ValueError(
            f"eps: expected more than 0, for the covariance of the {len(values)} columns is singular, got 0"
        )
    ridge = values + eps * values[0]
    rotated = (vectors / np.sqrt(np.where(ridge > 0, ridge, 1))).T
    with one_blas_thread:
        return vectors @ rotated if kind == "zca" else rotated


def condition_number(X) -> float:
    """Condition number of the covariance of the columns of X, the largest eigenvalue over the smallest.

    The Hessian of a linear layer under squared error is this covariance (centred): its condition
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
    if X.ndim != 2 or X.shape[1] == 0:
        raise ValueError(f"X: expected shape (n, c), got {X.shape}")
    values = spectrum(covariance(X)[1])[0]
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")
