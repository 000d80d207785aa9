"""Weights of rows and of classes, as estimators take them: checked once, then multiplied into one weight a row."""

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from fastopt._numbers import finite_number
from fastopt.estimators.inputs import check_present


def row_weights(name, weights, X) -> np.ndarray | None:
    """Weights of the rows of X in float64, or None; ValueError unless they are at least 0 and one is above."""
    if weights is None:
        return None
    check_present(**{name: weights})
    weights = _check_sample_weight(weights, X, dtype=np.float64)
    if not (weights.min() >= 0 and weights.any()):
        raise ValueError(f"{name}: expected weights of at least 0, not all of them zero, got {weights.min()} as least")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError(
            f"{name}: expected weights whose sum is a number, got {weights.max():g} as largest; scale them"
        )
    return weights


def class_weights(class_weight, classes, codes, weights) -> np.ndarray | None:
    """The weight of each class, or None where all count alike.

    "balanced" gives every class the same total, n / (k n_c), by the weights of its rows (King & Zeng 2001, section
    4.2). A class that a dict leaves out has weight 1, unless the dict names labels that are no class.
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(codes, weights, len(classes))
        return counts.sum() / (len(classes) * np.where(counts > 0, counts, np.inf))
    if not isinstance(class_weight, dict):
        raise ValueError(f"class_weight: expected None, 'balanced' or a dict by label, got {class_weight!r}")
    labels = classes.tolist()
    unknown = [label for label in class_weight if label not in labels]
    if unknown and any(label not in class_weight for label in labels):
        raise ValueError(f"class_weight: expected labels among the classes {labels}, got {unknown[0]!r}")
    return np.array([finite_number("class_weight", class_weight.get(label, 1.0), 0) for label in labels])


def with_class_weights(weights, of_class, codes) -> np.ndarray | None:
    """The weights of rows times those of their classes; None stands for ones."""
    if of_class is None:
        return weights
    weights = of_class[codes] if weights is None else weights * of_class[codes]
    if not weights.any():
        raise ValueError("class_weight: expected some rows of a weight above 0, got only rows of weight 0")
    return weights
