"""What is measured and not trained on: accuracy, 0-1 error, R2. Plain NumPy."""

import numpy as np

__all__ = ["accuracy", "r2_score", "zero_one_loss"]


def accuracy(y_true, y_pred, *, sample_weight=None) -> float:
    """The part of the rows that are classified right.

    Parameters
    ----------
    y_true : array_like, shape (n,)
        Classes.
    y_pred : array_like, shape (n,) or (n, k)
        Classes, or scores (logits, probabilities) of k classes, the largest of which counts.
    sample_weight : array_like, shape (n,), optional

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        Shapes that do not fit, no rows, or a single column of scores, whose threshold is unknown.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.accuracy([0, 1, 1], [[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])  # doctest: +ELLIPSIS
    0.666...
    """
    classes, found = np.asarray(y_true), np.asarray(y_pred)
    if classes.ndim != 1 or not classes.size:
        raise ValueError(f"y_true: expected classes (n,) of at least one row, got shape {classes.shape}")
    if found.ndim == 2 and found.shape[1] == 1:
        raise ValueError("y_pred: expected classes or scores of k > 1 classes, got one column; pass y_pred[:, 0] > 0")
    if found.ndim == 2 and len(found) == len(classes):
        found = found.argmax(axis=1)
    if found.shape != classes.shape:
        n = len(classes)
        raise ValueError(f"y_pred: expected classes ({n},) or scores ({n}, k), got shape {found.shape}")
    return float(np.average(classes == found, weights=sample_weight))


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

    Returns
    -------
    float
        1 for perfect predictions, 0 for the mean of `y_true`. An output that never changes counts as
        1 if it is predicted exactly, else as 0, as in scikit-learn.

    Raises
    ------
    ValueError
        Shapes that do not fit, or fewer than two rows.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.metrics.r2_score([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    0.5
    """
    y, found = (np.asarray(a, float) for a in (y_true, y_pred))
    y, found = (a[:, None] if a.ndim == 1 else a for a in (y, found))
    if y.ndim != 2 or len(y) < 2:
        raise ValueError(f"y_true: expected values (n, k) of at least two rows, got shape {np.shape(y_true)}")
    if y.shape != found.shape:
        raise ValueError(f"y_pred: expected shape {y.shape}, got {np.shape(y_pred)}")
    weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, float)
    mean = np.average(y, axis=0, weights=weight)
    missed, spread = weight @ (y - found) ** 2, weight @ (y - mean) ** 2
    exact = np.where(missed == 0, 1.0, 0.0)
    return float(np.where(spread > 0, 1 - missed / np.where(spread > 0, spread, 1), exact).mean())
