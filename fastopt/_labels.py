"""Class labels that a caller hands over: text, numbers or other objects that have an order, none of them missing."""

import numpy as np

from fastopt._arrays import as_plain


def class_labels(name, labels, n, expected="class labels") -> tuple[np.ndarray, np.ndarray]:
    """The classes of n labels in ascending order, and the class of each row as a number from 0 on.

    Labels may be text, numbers or other objects that have an order; a missing one (None, NaN, NaT, NA, a masked
    element) or an infinite one is none.
    """
    given, labels = labels, as_plain(name, labels, expected)
    if isinstance(given, (list, tuple)) and labels.dtype.kind in "US":
        objects = np.array(given, object)  # NumPy makes text of what stands beside text, of NaN too
        labels = labels if all(isinstance(label, (str, bytes)) for label in objects.flat) else objects
    if labels.shape != (n,):
        way_out = f"; pass {name}.ravel()" if labels.shape == (n, 1) else ""
        raise ValueError(f"{name}: expected shape ({n},) for {n} rows, got {labels.shape}{way_out}")
    _check_present(name, labels, expected)
    two = _two_classes(labels)
    if two is not None:
        return two
    try:
        return np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"{name}: expected labels of one type, which have an order, got several ({error})") from None


def _check_present(name, labels, expected):
    if labels.dtype.kind in "biuUS":  # which have no value for it
        return
    if labels.dtype.kind == "O":
        missing = np.fromiter(map(_is_missing, labels), bool, len(labels))
    elif labels.dtype.kind in "fc":
        missing = ~np.isfinite(labels)
    else:
        missing = labels != labels  # NaT, and NaN of types that NumPy does not know
    if missing.any():
        row = int(missing.argmax())
        raise ValueError(f"{name}: expected {expected}, got {labels[row]} in row {row}; drop rows without a label")


def _is_missing(label) -> bool:
    if isinstance(label, (float, np.floating)):
        return not np.isfinite(label)
    try:
        return label is None or bool(label != label)  # NaT is not
    except TypeError:  # NA has no truth
        return True


def _two_classes(labels):
    """Classes and codes of numbers that have two values, without a sort; else None."""
    if labels.dtype.kind not in "biuf" or not len(labels):
        return None
    classes = np.array([labels.min(), labels.max()])
    upper = labels == classes[1]
    return (classes, upper) if classes[0] != classes[1] and (upper | (labels == classes[0])).all() else None
