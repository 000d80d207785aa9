"""Losses: a name, or one of these where the defaults do not fit, or a callable of the user's (callable_loss.py).

What computes those that have a name is in `functional`; here are only names and options, frozen, so that
a network's loss can be compared, pickled and written into the file of a run.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from fastopt._kernels import core
from fastopt._numbers import finite_number, whole_number

LOSSES = core.LOSSES


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy on logits, with class weights or smoothed targets.

    Parameters
    ----------
    label_smoothing : float in [0, 1)
        The part of every target that is spread evenly over the classes.
    class_weight : sequence of float, or dict, optional
        One a class, finite and at least 0; see `functional.cross_entropy`. A dict, or a pandas Series, has a weight
        for each of the classes 0, 1, ..., k - 1.
    ignore_index : int
        Rows with this label do not count.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 2)], rng=0)
    >>> loss, grads = net.value_and_grad(np.eye(2), [0, 1], fo.nn.CrossEntropy(label_smoothing=0.1))
    """

    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    ignore_index: int = core.IGNORE_INDEX

    def __post_init__(self):
        object.__setattr__(self, "label_smoothing", finite_number("label_smoothing", self.label_smoothing, 0, 1))
        if self.class_weight is not None:
            object.__setattr__(self, "class_weight", _class_weights(self.class_weight))
        label = whole_number("ignore_index", self.ignore_index, -(2**63), 2**63 - 1)
        object.__setattr__(self, "ignore_index", label)


@dataclass(frozen=True)
class Huber:
    """Squared error near 0, absolute error from `delta` on.

    Parameters
    ----------
    delta : float
        Above 0.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0)
    >>> loss, grads = net.value_and_grad(np.eye(2), [0.0, 1.0], fo.nn.Huber(delta=0.5))
    """

    delta: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "delta", finite_number("delta", self.delta, above=0))


def _class_weights(given) -> tuple[float, ...]:
    """Weights by class. A set has no order and a mapping that of its keys, so neither is read as a sequence."""
    expected = "class_weight: expected a sequence of numbers, one a class, or a dict of the classes from 0 on"
    if isinstance(given, str | bytes | set | frozenset):
        raise TypeError(f"{expected}, got {given!r}")
    if hasattr(given, "keys"):
        by_class = dict(given)
        if by_class.keys() != set(range(len(by_class))):
            raise ValueError(f"{expected}, got the classes {list(by_class)}; write 1 for a class that stays as it is")
        given = [by_class[k] for k in range(len(by_class))]
    try:
        weights = np.asarray(given if hasattr(given, "__array__") else list(given))
    except (TypeError, ValueError):
        raise TypeError(f"{expected}, got {given!r}") from None
    if weights.ndim != 1 or weights.dtype.kind not in "iuf":
        raise TypeError(f"{expected}, got {given!r}")
    return tuple(finite_number("class_weight", w, 0) for w in weights.tolist())


Loss = str | CrossEntropy | Huber | Callable
CALLABLE = "callable"  # the name of every loss that is one
NAMES: dict[type, str] = {CrossEntropy: "cross_entropy", Huber: "huber"}


def is_callable(loss) -> bool:
    """Whether a loss is a function, or an object that can be called; a module of torch takes tensors and is none."""
    return callable(loss) and not isinstance(loss, type) and not hasattr(loss, "named_parameters")


def loss_name(loss: Loss) -> str:
    """The function in `functional` that computes a loss, or CALLABLE; ValueError for a loss that does not exist."""
    if is_callable(loss):
        return CALLABLE
    name = loss if isinstance(loss, str) else NAMES.get(type(loss), "")
    if name not in LOSSES:
        classes = ", ".join(f"nn.{kind.__name__}" for kind in NAMES)
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, {classes}, or a callable, got {loss!r}")
    return name


def fitting_name(loss: Loss, last: str) -> str:
    """The name of a loss; ValueError if it makes probabilities of logits where the last activation has done so."""
    name = loss_name(loss)
    if last in ("softmax", "sigmoid") and name in ("cross_entropy", "binary_cross_entropy"):
        raise ValueError(
            f"loss: expected a last layer without {last}, for {name} takes logits, got a network that ends in one; "
            "leave its activation out, and predict_proba gives the probabilities"
        )
    return name


def loss_options(loss: Loss) -> dict:
    """The options of a loss that are not its defaults."""
    if isinstance(loss, str) or not isinstance(loss, CrossEntropy | Huber):
        return {}
    default = asdict(type(loss)())
    return {name: value for name, value in asdict(loss).items() if value != default[name]}


def by_rows(prediction, targets, sample_weight):
    """Images as a row a position, with the target of each and the weight of its image; rows as they are."""
    if prediction.ndim == 2:
        return prediction, targets, sample_weight
    targets, (n, height, width, channels) = np.asarray(targets), prediction.shape
    if targets.shape not in ((n, height, width), prediction.shape):
        raise ValueError(f"targets: expected shape {prediction.shape} or {prediction.shape[:3]}, got {targets.shape}")
    targets = targets.reshape(n * height * width, *targets.shape[3:])
    if sample_weight is not None:
        sample_weight = np.repeat(np.asarray(sample_weight), height * width)
    return prediction.reshape(-1, channels), targets, sample_weight


def measure(loss: Loss, prediction, targets, sample_weight=None) -> float:
    """Mean loss of predictions; NaN where a callable, which gets a copy of them, says so."""
    if is_callable(loss):
        return value_of(loss, prediction.copy(), targets, sample_weight)[0]
    prediction, targets, sample_weight = by_rows(prediction, targets, sample_weight)
    call = getattr(core, loss_name(loss))
    return call(prediction, targets, sample_weight=sample_weight, **loss_options(loss))[0]


def targets_of(y, n) -> np.ndarray:
    """Targets for a callable as an array of n rows; what else they are is between the callable and its caller."""
    try:
        y = np.asarray(y)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"y: expected an array, got {type(y).__name__} that is none ({error})") from None
    if y.ndim == 0 or len(y) != n:
        raise ValueError(f"y: expected {n} rows, one a sample, got shape {y.shape}")
    return y


def value_of(loss, prediction, targets, sample_weight=None) -> tuple[float, np.ndarray]:
    """What a callable says of predictions: the loss, which may be NaN, and its gradient, both of fitting types."""
    weights = () if sample_weight is None else (np.asarray(sample_weight),)
    result = loss(prediction, targets_of(targets, len(prediction)), *weights)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(f"loss: expected a callable that returns (value, grad), got {type(result).__name__} from it")
    try:
        value, gradient = np.asarray(result[0]), np.asarray(result[1])
    except ValueError as error:
        raise ValueError(f"loss: expected a number and an array from the callable, got none ({error})") from None
    if value.ndim or value.dtype.kind not in "iuf":
        raise TypeError(f"loss: expected a number as the value that the callable returns, got {result[0]!r}")
    if gradient.dtype.kind not in "iuf":
        raise TypeError(f"loss: expected a gradient of real numbers from the callable, got dtype {gradient.dtype}")
    if gradient.shape != prediction.shape:
        raise ValueError(
            f"loss: expected a gradient of the shape of the outputs, {prediction.shape}, got {gradient.shape}"
        )
    return float(value), gradient


def describe_loss(loss: Loss) -> dict | str:
    """A loss as JSON values; its name alone, where it has no options. Of a callable no more than its name is known."""
    if is_callable(loss):
        return {"callable": getattr(loss, "__qualname__", type(loss).__qualname__)}
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in loss_options(loss).items()}
    return {"name": loss_name(loss), **options} if options else loss_name(loss)
