"""What y means to a network: the targets that a loss takes, and what outputs say in terms of y.

An object for each meaning: classes, several labels a row, values. It says which loss goes with it, how many outputs
that takes, and scores outputs as scikit-learn does. It never changes once it has been made.
"""

import numpy as np
from sklearn.utils.validation import column_or_1d

from fastopt import metrics
from fastopt._arrays import as_numbers
from fastopt._labels import class_labels


class Classes:
    """One class a row: a single output for two, on which a sigmoid decides, else an output each and a softmax."""

    def __init__(self, classes):
        self.classes = classes
        self.two = len(classes) == 2
        self.outputs = 1 if self.two else len(classes)
        self.loss, self.link = ("binary_cross_entropy", "sigmoid") if self.two else ("cross_entropy", "softmax")
        self.out_activation = "logistic" if self.two else "softmax"
        self.loss_scale = 1.0  # of the loss, over that of scikit-learn: what a penalty is multiplied with

    def codes(self, name, y) -> np.ndarray:
        """The number of each row's class; ValueError for a label that is none."""
        y = column_or_1d(y, warn=True)
        labels, codes = class_labels(name, y, len(y))
        try:
            places = np.searchsorted(self.classes, labels)
            known = (places < len(self.classes)) & (self.classes[np.minimum(places, len(self.classes) - 1)] == labels)
        except TypeError:  # text beside numbers
            known = np.zeros(len(labels), bool)
        if not known.all():
            raise ValueError(
                f"{name}: expected labels of the classes {self.classes.tolist()}, got {labels[~known][:5].tolist()}"
            )
        return places[codes.astype(np.intp)]

    def encoded(self, codes, dtype) -> np.ndarray:
        """What the loss takes."""
        return codes.astype(dtype) if self.two else codes

    def decided(self, output) -> np.ndarray:
        """The class that outputs decide for, as its number."""
        return (output[:, 0] > 0).astype(np.intp) if self.two else output.argmax(axis=1)

    def score(self, output, codes, weights) -> float:
        """Accuracy."""
        return float(np.average(self.decided(output) == codes, weights=weights))

    def decoded(self, output) -> np.ndarray:
        return self.classes[self.decided(output)]


class Indicators:
    """Several labels a row, a column of 0 and 1 for each: a sigmoid each."""

    loss, link, out_activation, two = "binary_cross_entropy", "sigmoid", "logistic", False

    def __init__(self, outputs):
        self.classes = np.arange(outputs)
        self.outputs = outputs
        self.loss_scale = 1 / outputs  # the mean over the labels, where scikit-learn's is the sum

    def codes(self, name, y) -> np.ndarray:
        y = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
        if y.ndim != 2 or y.shape[1] != self.outputs:
            raise ValueError(f"{name}: expected {self.outputs} labels a row, got shape {y.shape}")
        if not np.isin(y, (0, 1)).all():
            raise ValueError(f"{name}: expected 0 and 1 in an array of several columns, a label each, got other values")
        return y

    def encoded(self, codes, dtype) -> np.ndarray:
        return codes.astype(dtype)

    def score(self, output, codes, weights) -> float:
        """The part of the rows all of whose labels are right."""
        return float(np.average(((output > 0) == codes).all(axis=1), weights=weights))

    def decoded(self, output) -> np.ndarray:
        return (output > 0).astype(np.int64)


class Values:
    """Numbers, one or several a row; the network learns them less their mean, over their deviation."""

    out_activation = "identity"

    def __init__(self, y, weights, loss):
        columns = as_numbers("y", y).reshape(len(y), -1).astype(np.float64)
        self.flat, self.outputs, self.loss = y.ndim == 1, columns.shape[1], loss
        self.mean = np.average(columns, axis=0, weights=weights)
        with np.errstate(over="ignore"):
            deviation = np.sqrt(np.average((columns - self.mean) ** 2, axis=0, weights=weights))
        counted = columns if weights is None else columns[weights > 0]
        vanished = (deviation == 0) & (counted.min(axis=0) < counted.max(axis=0))
        if vanished.any() or not np.isfinite(deviation).all():
            size = "small" if vanished.any() else "large"
            raise ValueError(f"y: expected values whose squares are numbers, got too {size} ones; scale them")
        self.deviation = np.where(deviation > 0, deviation, 1.0)  # a constant stays 0
        # of the loss, the mean over the outputs, over that of scikit-learn, the sum of half squares
        self.loss_scale = (2 if loss == "mse" else 1) / self.outputs

    def codes(self, name, y) -> np.ndarray:
        """The values as columns, in units of the network."""
        columns = as_numbers(name, y).reshape(len(y), -1)
        if columns.shape[1] != self.outputs:
            raise ValueError(f"{name}: expected {self.outputs} values a row, as in the first fit, got {y.shape}")
        return (columns - self.mean) / self.deviation

    def encoded(self, codes, dtype) -> np.ndarray:
        return codes.astype(dtype)

    def score(self, output, codes, weights) -> float:
        """R², the mean over the outputs."""
        return metrics.r2_score(codes, output, sample_weight=weights)

    def decoded(self, output) -> np.ndarray:
        y = output * self.deviation + self.mean  # float64: the mean may be many deviations away
        return y[:, 0] if self.flat else y


def labels_apart(y):
    """Labels as given, but for a list of text and else: NumPy would make text of a missing value too."""
    if not isinstance(y, list | tuple):
        return y
    text = [isinstance(label, str | bytes) for label in y]
    return np.array(y, object) if any(text) and not all(text) else y


def class_targets(y, classes=None) -> tuple[Classes | Indicators, np.ndarray]:
    """What labels (n,), or indicators (n, k), mean, and their codes; `classes` where y need not show all of them."""
    if y.ndim == 2 and y.shape[1] > 1:
        indicators = Indicators(y.shape[1] if classes is None else len(classes))
        return indicators, indicators.codes("y", y)
    if classes is not None:
        known = Classes(sorted_labels("classes", np.asarray(classes))[0])
        return known, known.codes("y", y)
    classes, codes = sorted_labels("y", y)
    return Classes(classes), codes


def sorted_labels(name, y) -> tuple[np.ndarray, np.ndarray]:
    """The classes of labels in ascending order, at least two, and the number of each row's."""
    y = column_or_1d(y, warn=True)
    classes, codes = class_labels(name, y, len(y))
    if classes.dtype.kind == "f" and (classes != np.floor(classes)).any():
        raise ValueError(f"{name}: expected class labels, got continuous values; use a regressor, or make text of them")
    if len(classes) < 2:
        raise ValueError(f"{name}: expected at least two classes, got one class: {classes.tolist()}")
    return classes, codes.astype(np.intp)  # of two classes they are bool
