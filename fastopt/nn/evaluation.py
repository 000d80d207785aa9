"""What is measured of a network beside its loss: metrics by the names of `fastopt.metrics`, or functions of the caller.

- A metric is a function of (y, y_pred, sample_weight) here, weights None where all rows count alike. `metrics_of` makes
  it of what the caller passed, and refuses what cannot fit before any work.
- y_pred is what the network predicts, so logits of the losses on logits. Metrics by name know that: classes are those
  of the largest logit, and of a single output of binary_cross_entropy those of a logit above 0.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from fastopt import metrics as known
from fastopt.nn.fit_data import ignored_label
from fastopt.nn.losses import by_rows, is_callable, loss_name, measure

OF_CLASSES = ("accuracy", "zero_one_loss")
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]


def metrics_of(metrics, loss, n_out, weighted) -> dict[str, Metric]:
    """Metrics by name, of a name, a function, several of these, or a dict of them; None are none.

    `n_out` is the number of outputs, `weighted` whether rows have weights.

    Raises
    ------
    TypeError, ValueError
        No such metric, one that does not fit the loss, the outputs or the weights, or two of one name.
    """
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        named = list(metrics.items())
    else:
        several = isinstance(metrics, Iterable) and not isinstance(metrics, str)
        named = [(_name(metric), metric) for metric in (metrics if several else [metrics])]
    found: dict[str, Metric] = {}
    for name, metric in named:
        if not isinstance(name, str) or name in found or name == "loss" or name.startswith("val_"):
            raise ValueError(
                f"metrics: expected a name of its own for each, other than loss and val_..., got {name!r}; pass a "
                "dict, like {'auc': function}"
            )
        if isinstance(metric, str):
            found[name] = _by_name(metric, loss, n_out)
        elif callable(metric):
            found[name] = _of_caller(name, metric, weighted)
        else:
            raise TypeError(f"metrics: expected names or functions of (y, y_pred), got {metric!r}")
    return found


def metrics_of_fit(metrics, loss, n_out, rows, validation) -> dict[str, Metric]:
    """`metrics_of` for training, of which rows and validation data have been checked; None is what there is not."""
    measured = [data for data in (rows, validation) if data is not None]
    found = metrics_of(metrics, loss, n_out, any(weights is not None for *_, weights in measured))
    if found and not measured:
        raise ValueError("metrics: expected validation data with an iterable of batches, got none")
    return found


def _name(metric):
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def _by_name(name, loss, n_out) -> Metric:
    """A metric of `fastopt.metrics` for the predictions of a network with this loss and so many outputs."""
    if name not in known.__all__:
        raise ValueError(f"metrics: expected one of {', '.join(known.__all__)}, or a function, got {name!r}")
    function = getattr(known, name)
    if name not in OF_CLASSES:
        return lambda y, y_pred, weight: function(y, y_pred, sample_weight=weight)
    kind = loss_name(loss)
    if kind not in ("cross_entropy", "binary_cross_entropy"):
        raise ValueError(
            f"metrics: expected cross_entropy or binary_cross_entropy for {name}, got the loss {kind}; pass a function"
        )
    if (kind == "binary_cross_entropy") != (n_out == 1):
        raise ValueError(
            f"metrics: expected {'one output' if n_out > 1 else 'several outputs'} of {kind} for {name}, got {n_out}; "
            "pass a function"
        )

    def of_classes(y, y_pred, weight):
        if n_out == 1:
            return function(y, y_pred > 0, sample_weight=weight)
        if y.ndim == 2:  # probabilities: the most probable class
            return function(y.argmax(axis=1), y_pred, sample_weight=weight)
        counted = (y != ignored_label(loss)) * (1.0 if weight is None else weight)
        return function(y, y_pred, sample_weight=counted)

    return of_classes


def _of_caller(name, function, weighted) -> Metric:
    """A metric that is a function of the caller, which gets weights as ``sample_weight=``."""
    if weighted and not _takes_weights(function):
        raise ValueError(
            f"metrics: expected {name} to take sample_weight=, for rows have weights; give it that parameter"
        )

    def of_caller(y, y_pred, weight):
        value = function(y, y_pred) if weight is None else function(y, y_pred, sample_weight=weight)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"metrics: expected {name} to return a number, got {type(value).__name__}") from None

    return of_caller


def _takes_weights(function) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a built-in function
        return False
    return "sample_weight" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def scores(metrics, y, y_pred, weight) -> dict[str, float]:
    """The values of metrics, by name, of what a network predicts; images as a row a position.

    A single column of y or y_pred is flat for all of them: (n,) and (n, 1) would broadcast to (n, n).
    """
    if not metrics:
        return {}
    y_pred, y, weight = by_rows(y_pred, np.asarray(y), None if weight is None else np.asarray(weight))
    y, y_pred = (a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a for a in (y, y_pred))
    return {name: metric(y, y_pred, weight) for name, metric in metrics.items()}


def evaluated(loss, y_pred, y, sample_weight, metrics) -> float | dict[str, float]:
    """The mean loss of predictions; with metrics, as `metrics_of` gives them, a dict of it and of them."""
    value = measure(loss, y_pred, y, sample_weight)
    return {"loss": value, **scores(metrics, y, y_pred, sample_weight)} if metrics else value


def with_accuracy(metrics, loss, data, n_out) -> dict[str, Metric]:
    """Metrics for checked data, and where they hold classes the accuracy, unasked; NaN where no row counts."""
    if loss_name(loss) != "cross_entropy" or data[1].dtype.kind != "i" or n_out == 1 or "accuracy" in metrics:
        return metrics
    return {"accuracy": partial(_or_nan, _by_name("accuracy", loss, n_out)), **metrics}


def measured_on(predict, loss, data, metrics) -> dict[str, float]:
    """The loss of what a network predicts of checked data, and metrics.

    A network that has diverged is measured too: NaN stands for what its predictions do not define. What a callable
    raises is the caller's.
    """
    x, targets, weights = data
    y_pred = predict(x)
    value = (measure if is_callable(loss) else partial(_or_nan, measure))(loss, y_pred, targets, weights)
    if math.isnan(value):
        return {"loss": value, **dict.fromkeys(metrics, math.nan)}
    if not np.isfinite(y_pred).all():
        metrics = {name: partial(_or_nan, metric) for name, metric in metrics.items()}
    return {"loss": value, **scores(metrics, targets, y_pred, weights)}


def _or_nan(function, *args) -> float:
    try:
        return function(*args)
    except ValueError:
        return math.nan
