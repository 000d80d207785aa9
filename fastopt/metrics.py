"""What is measured and not trained on: accuracy, 0-1 error, R2. Plain NumPy.

A metric that is wrong looks like any other, so what has no answer is refused: NaN, masked elements, labels
beside scores of other classes, negative weights. Rows of weight 0 may hold anything.
"""

import numpy as np

from fastopt._arrays import as_plain
from fastopt.threads import one_blas_thread

__all__ = ["accuracy", "r2_score", "zero_one_loss"]


def accuracy(y_true, y_pred, *, sample_weight=None) -> float:
    """The part of the rows that are classified right.

    Parameters
    ----------
    y_true : array_like, shape (n,)
        Classes: whole numbers or text; from 0 to k - 1 beside scores.
    y_pred : array_like, shape (n,) or (n, k)
        Classes, or scores (logits, probabilities) of k classes, the largest of which counts, the first
        of several.
    sample_weight : array_like, shape (n,), optional
        At least 0 each, and not all 0.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, no rows, NaN, masked elements, numbers beside text, classes that are not
        whole or have no score, weights that are no weights; one column of scores, whose threshold is unknown.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.accuracy([0, 1, 1], [[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])  # doctest: +ELLIPSIS
    0.666...
    """
    classes, found = _plain("y_true", y_true), _plain("y_pred", y_pred)
    n = len(classes) if classes.ndim == 1 else 0
    if not n:
        raise ValueError(f"y_true: expected classes (n,) of at least one row, got shape {classes.shape}")
    if found.ndim == 2 and found.shape[1] == 1:
        raise ValueError("y_pred: expected classes or scores of k > 1 classes, got one column; pass y_pred[:, 0] > 0")
    if found.ndim not in (1, 2) or not found.size or len(found) != n:
        raise ValueError(f"y_pred: expected classes ({n},) or scores ({n}, k), got shape {found.shape}")
    if _is_text(classes) != _is_text(found):
        raise ValueError(f"y_pred: expected {classes.dtype} as in y_true, got {found.dtype}")
    weight = _weights(sample_weight, n)
    counted = weight > 0
    if found.ndim == 2:
        k = found.shape[1]
        _require("y_pred", "scores without NaN", found, ~np.isnan(found).any(axis=1) | ~counted)
        _require("y_true", f"classes 0 to {k - 1} beside scores", classes, (classes >= 0) & (classes < k) | ~counted)
        found = found.argmax(axis=1)
    for name, labels in (("y_true", classes), ("y_pred", found)):
        if labels.dtype.kind == "f":
            expected = "classes (pass y_pred > 0.5 for probabilities, y_pred > 0 for logits)"
            _require(name, expected, labels, np.isfinite(labels) & (labels == np.floor(labels)) | ~counted)
    return float(np.average(classes == found, weights=weight))


def zero_one_loss(y_true, y_pred, *, sample_weight=None) -> float:
    """The part of the rows that are classified wrong: 1 - `accuracy`.

    A metric only: it has no useful gradient, and the losses are its surrogates.

    Parameters
    ----------
    y_true : array_like, shape (n,)
        Classes.
    y_pred : array_like, shape (n,) or (n, k)
        Classes, or scores of k classes.
    sample_weight : array_like, shape (n,), optional

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        As `accuracy`.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.zero_one_loss([0, 1, 1, 0], [0, 1, 1, 1])
    0.25
    """
    return 1.0 - accuracy(y_true, y_pred, sample_weight=sample_weight)


def r2_score(y_true, y_pred, *, sample_weight=None) -> float:
    """1 - squared error / squared deviation from the mean, averaged over outputs.

    Parameters
    ----------
    y_true, y_pred : array_like, shape (n,) or (n, k)
        (n,) is taken for (n, 1).
    sample_weight : array_like, shape (n,), optional
        At least 0 each, and not all 0.

    Returns
    -------
    float
        1 for perfect predictions, 0 for the mean of `y_true`. An output that never changes counts as
        1 if it is predicted exactly, else as 0, as in scikit-learn.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, fewer than two rows, values that are not real numbers, NaN or infinity, masked
        elements, weights that are no weights.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.r2_score([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    0.5
    """
    y, found = _real("y_true", y_true), _real("y_pred", y_pred)
    y, found = (a[:, None] if a.ndim == 1 else a for a in (y, found))
    if y.ndim != 2 or len(y) < 2 or not y.size:
        raise ValueError(f"y_true: expected values (n, k) of at least two rows, got shape {np.shape(y_true)}")
    if y.shape != found.shape:
        raise ValueError(f"y_pred: expected shape {y.shape}, got {np.shape(y_pred)}")
    weight = _weights(sample_weight, len(y))
    counted = weight > 0
    for name, a in (("y_true", y), ("y_pred", found)):
        _require(name, "finite values", a, np.isfinite(a).all(axis=1) | ~counted)
    y, found = (np.where(counted[:, None], a, 0.0) for a in (y, found))
    constant = (y[counted] == y[counted][0]).all(axis=0)  # the mean of equal values may differ in the last digit
    exact = (y == found).all(axis=0)
    with np.errstate(over="ignore"), one_blas_thread:  # predictions 1e154 times too large: -inf
        y, found = (_scaled(a, np.abs(y).max(axis=0)) for a in (y, found))
        mean = np.average(y, axis=0, weights=weight)
        missed, spread = weight @ (y - found) ** 2, weight @ (y - mean) ** 2
        score = 1 - missed / np.where(constant, 1, spread)
    return float(np.where(constant, exact, score).mean())


def _plain(name, value) -> np.ndarray:
    """An array of real numbers or of text, nothing lost on the way."""
    array = as_plain(name, value, "an array")
    if array.dtype.kind == "U" and not isinstance(value, np.ndarray):
        array = np.asarray(value, dtype=object)  # numbers in a list of text have become text
    if array.dtype.kind == "O" and len({isinstance(element, str) for element in array.flat}) == 1:
        array = np.asarray(array.tolist())
    if array.dtype.kind not in "biufU":
        raise ValueError(f"{name}: expected an array of real numbers or of text, got dtype {array.dtype}")
    return array


def _is_text(array) -> bool:
    return array.dtype.kind == "U"


def _real(name, value) -> np.ndarray:
    """A float64 array of real numbers."""
    array = _plain(name, value)
    if _is_text(array):
        raise ValueError(f"{name}: expected real numbers, got text")
    return array.astype(np.float64)


def _require(name, expected, array, good) -> None:
    """Raise ValueError, naming the first row that is not good."""
    if not good.all():
        row = int(good.argmin())
        raise ValueError(f"{name}: expected {expected}, got {array[row]} in row {row}")


def _weights(sample_weight, n) -> np.ndarray:
    """The weights of n rows, up to a common factor that keeps their sum finite."""
    if sample_weight is None:
        return np.ones(n)
    weight = _real("sample_weight", sample_weight)
    if weight.shape != (n,):
        raise ValueError(f"sample_weight: expected shape ({n},), got {weight.shape}")
    _require("sample_weight", "finite weights of at least 0", weight, (weight >= 0) & np.isfinite(weight))
    if not weight.any():
        raise ValueError("sample_weight: expected a weight above 0, got none")
    return _scaled(weight, weight.max())


def _scaled(array, largest) -> np.ndarray:
    """The array over the power of two above `largest`: the same digits, and squares that stay within the floats."""
    return np.ldexp(array, -np.frexp(largest)[1])
