"""What a generalized linear model is given: the arrays of a caller, checked, and where their columns lie.

The columns are looked at in a sample of the rows, which costs nothing beside a fit. Where an intercept is free and one
of them lies far from zero, a center comes out: the squares of dates have no digit left for the differences between
dates. The kernel subtracts it as it reads.
"""

from typing import NamedTuple

import numpy as np

from fastopt._arrays import as_numbers
from fastopt._kernels import core
from fastopt._labels import class_labels
from fastopt._numbers import finite_number
from fastopt.newton.glm_design import Design

# Places of the sampled rows, as shares of all: the golden ratio spreads them, which follows no period of the data.
# The mean of n rows is at most sqrt(n / 128) deviations from that of 128.
SHARES = np.arange(128) * 0.6180339887498949 % 1
# The most elements of a sample that leaves LEAST rows: 128 of 1000 columns took a third of a fit of 100 rows.
SAMPLED = 1 << 15
LEAST = 32
LINKS = {  # the links of each family, the default first
    "gaussian": ("identity",),
    "binomial": ("logit",),
    "multinomial": ("softmax",),
    "poisson": ("log",),
    "gamma": ("log", "inverse"),
    "tweedie": ("log",),
    "negative_binomial": ("log",),
}
CLASSIFIERS = ("binomial", "multinomial")
FAR = 10  # columns further from zero, in deviations, are centered: a float32 Hessian is good for some 50
CONSTANT = 8 * np.finfo(np.float64).eps  # values that differ by less, relative to a column's size, are one


# ---------------------------------------------------------------- what a caller gives


class Family(NamedTuple):
    """A family with its link and the parameter that it has."""

    name: str
    link: str
    parameter: float | None  # the power of tweedie, alpha of negative_binomial

    @property
    def loss(self) -> str:
        """The kernel's name of it."""
        if self.name == "tweedie" and self.parameter in (1, 2):  # whose formulas these are
            return "poisson" if self.parameter == 1 else "gamma"
        return "gamma_inverse" if self.link == "inverse" else self.name


def as_family(family, link, power, alpha) -> Family:
    if not isinstance(family, str) or family not in LINKS:
        raise ValueError(f"family: expected one of {', '.join(LINKS)}, got {family!r}")
    family = str(family)  # NumPy's own strings come from arrays of names
    if link is not None and not (isinstance(link, str) and link in LINKS[family]):
        raise ValueError(f"link: expected {' or '.join(map(repr, LINKS[family]))} for {family}, got {link!r}")
    for name, value, default, owner in (("power", power, 1.5, "tweedie"), ("alpha", alpha, 1.0, "negative_binomial")):
        if family != owner and not np.array_equal(value, default):
            raise ValueError(f"{name}: expected none for {family}, got {value!r}; it is an option of {owner}")
    parameter = None
    if family == "tweedie":
        parameter = finite_number("power", power, 1, most=2)
    elif family == "negative_binomial":
        parameter = finite_number("alpha", alpha, above=0)
    return Family(family, LINKS[family][0] if link is None else str(link), parameter)


def as_own(name, values) -> np.ndarray:
    """Numbers as the kernel takes them, in a copy: a fitted model reads them again, whatever became of the caller's."""
    return np.array(as_numbers(name, values), np.float64, order="C")


def as_weight(weight, n) -> np.ndarray | None:
    if weight is None:
        return None
    weight = as_own("sample_weight", weight)
    if weight.shape != (n,):
        raise ValueError(f"sample_weight: expected shape ({n},), got {weight.shape}")
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not (np.isfinite(total) and weight.min() >= 0 and total > 0):
        raise ValueError("sample_weight: expected finite weights of at least 0, not all of them 0")
    return weight


def as_offset(offset, n, k, family) -> np.ndarray:
    """An offset as the kernel takes it, (n, k)."""
    offset = as_own("offset", offset)
    shape = (n, k) if family == "multinomial" else (n,)
    if offset.shape not in ((), shape):
        raise ValueError(f"offset: expected a number or shape {shape} for X of {n} rows, got {offset.shape}")
    if not np.isfinite(offset).all():
        raise ValueError("offset: expected finite values, got NaN or infinity")
    return np.require(np.broadcast_to(offset.reshape(-1, k) if offset.ndim else offset, (n, k)), np.float64, ["C", "A"])


def as_exposure(exposure, n, link) -> np.ndarray:
    """The offset that an exposure is, (n, 1)."""
    if link != "log":
        raise ValueError(f"exposure: expected a family with the link 'log', got the link {link!r}; pass offset")
    exposure = as_numbers("exposure", exposure)
    if exposure.shape not in ((), (n,)):
        raise ValueError(f"exposure: expected a number or shape ({n},) for X of {n} rows, got {exposure.shape}")
    if not (np.isfinite(exposure).all() and (exposure > 0).all()):
        raise ValueError("exposure: expected finite values above 0")
    return np.broadcast_to(np.log(exposure, dtype=np.float64), (n,)).reshape(n, 1)


def as_target(y, family, weight, n) -> tuple[np.ndarray, np.ndarray | None]:
    """y as the kernel takes it, and the classes of a classifier."""
    if family.name not in CLASSIFIERS:
        return as_values(y, family, weight, n), None
    classes, codes = class_labels("y", y, n)
    if family.name == "binomial" and len(classes) > 2:
        raise ValueError(
            f"y: expected two classes for binomial, got {len(classes)} different values; "
            "pass family='multinomial' for more classes, 'gaussian' or 'poisson' for numbers"
        )
    seen = np.full(len(classes), True)
    if weight is not None:
        seen = np.bincount(codes.astype(np.intp), weight, len(classes)) > 0
    if seen.sum() < 2 or not seen.all():
        raise ValueError(
            f"y: expected at least two classes, each with rows of positive weight, got {classes[seen].tolist()}"
        )
    return codes.astype(np.float64), classes


def as_values(y, family, weight, n) -> np.ndarray:
    """y of a family of numbers."""
    y = as_own("y", y)
    if y.shape != (n,):
        way_out = "; pass y.ravel()" if y.shape == (n, 1) else ""
        raise ValueError(f"y: expected shape ({n},) for {n} rows, got {y.shape}{way_out}")
    if not np.isfinite(y).all():
        raise ValueError("y: expected finite values, got NaN or infinity")
    if family.name == "gaussian":
        return y
    if family.loss in ("gamma", "gamma_inverse"):
        if y.min() <= 0:
            which = "gamma" if family.name == "gamma" else "tweedie of power 2"
            raise ValueError(f"y: expected values above 0 for {which}, got {y.min()}")
    elif y.min() < 0:
        raise ValueError(f"y: expected values of at least 0 for {family.name}, got {y.min()}")
    elif not (y if weight is None else y * weight).any():
        rows = "among the rows of positive weight"
        raise ValueError(f"y: expected a positive value {rows} for {family.name}, got only zeros")
    return y


# ---------------------------------------------------------------- the data and where they lie


class Data(NamedTuple):
    """What is fitted, checked; the arguments of the kernel."""

    family: str  # one of core.FAMILIES
    design: Design  # n rows, d columns
    y: np.ndarray  # (n,)
    weight: np.ndarray | None  # (n,)
    k: int
    intercept: bool
    offset: np.ndarray | None  # (n, k)
    parameter: float = 0.0
    names: list[str] | None = None  # of the columns

    def called(self, column) -> str:
        """What a column is called in messages."""
        return f"column {column if self.names is None else repr(self.names[column])}"

    def bound(self, center) -> core.GlmData:
        """The kernel, with scratch of its own."""
        design = self.design
        dense = np.require(design.dense, None, ["C", "A"])
        center = None if center is None else center[: dense.shape[1]]
        given = self.y, self.weight, self.k, self.intercept, center, self.offset, self.parameter
        return core.GlmData(self.family, dense, *given, design.entries and design.entries[:4])

    def squares(self, weight, center) -> np.ndarray:
        """The lower triangle of X^T diag(weight) X, the intercept's column included: the Hessian of a gaussian."""
        q = self.design.d + self.intercept
        lower, grad = np.empty((q, q)), np.empty((1, q))
        gaussian = self._replace(family="gaussian", y=np.zeros(self.design.n), weight=weight, k=1, offset=None)
        gaussian.bound(center).value(np.zeros((1, q)), grad, lower)
        return lower


def located(data) -> tuple[np.ndarray | None, np.ndarray]:
    """The center to take the columns about, None if they lie near zero, and their deviations, as far as they are seen.

    From a sample of the rows, by weight. Without an intercept the deviations are from zero, as those of sparse columns.
    """
    design, d = data.design, data.design.dense.shape[1]
    shares = SHARES[: max(LEAST, SAMPLED // max(1, d))]
    rows = (shares * design.n).astype(np.intp)
    if data.weight is not None:
        upto = np.cumsum(data.weight)
        rows = np.searchsorted(upto, shares * upto[-1], side="right")
    sample = design.dense[rows].astype(np.float64, copy=False)
    center = np.zeros(design.d)
    if data.intercept:
        center[:d] = sample[0]
        sample -= sample[0].copy()  # a constant has a deviation of exactly 0, and is its own mean
        mean = sample.mean(axis=0)
        sample -= mean
        center[:d] += mean
    deviations = np.concatenate([deviation(sample), design.sizes(rows)])
    far = (np.abs(center) > FAR * deviations).any()
    return center if far else None, deviations


def deviation(a, weight=None):
    """The root of the mean square over the rows, also where squares over- or underflow."""
    largest = np.maximum(a.max(axis=0), -a.min(axis=0))
    squares = a / (largest + (largest == 0))
    squares *= squares
    return largest * np.sqrt(squares.mean(axis=0) if weight is None else np.average(squares, axis=0, weights=weight))


def is_constant(column) -> bool:
    """Whether the values of a column are one number, not 0, to rounding."""
    return bool(column.any() and np.ptp(column) <= CONSTANT * np.abs(column).max())
