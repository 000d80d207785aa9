"""What a family of generalized linear models is for statistics: formulas on the linear predictors of many rows.

Loss and derivatives, which the solver needs, are in the kernel. Here stand mean, variance, deviance, log-likelihood
and distribution (McCullagh & Nelder, Generalized Linear Models, 1989). The variance of y in a row of weight w is
dispersion * variance(mean) / w. Formulas take z, the linear predictors, and not the mean, where that keeps digits.
SciPy loads where it is used.
"""

import math
from collections.abc import Callable

import numpy as np

from fastopt._forks import importing

LINKS: dict[str, tuple[Callable, Callable]] = {  # name: (mean of z, derivative of the mean by z)
    "identity": (lambda z: z, np.ones_like),
    "log": (np.exp, np.exp),
    "inverse": (lambda z: 1 / np.where(z > 0, z, np.nan), lambda z: -1 / (z * z)),
    "logit": (lambda z: 1 / (1 + np.exp(-z)), lambda z: 1 / (2 + 2 * np.cosh(z))),
}


def special():
    """`scipy.special`."""
    with importing:
        from scipy import special
    return special


def distributions():
    """`scipy.stats`."""
    with importing:
        from scipy import stats
    return stats


def softmax(z) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def tail_quantile(tail, df=None):
    """What is exceeded with the probability `tail`: under the normal distribution, or Student's t."""
    return -special().ndtri(tail) if df is None else -special().stdtrit(df, tail)


class Formulas:
    """Those of one family: y, z and weight (n,) -> (n,); those of classes take y as numbers of classes."""

    estimated = False  # whether the dispersion is estimated, or 1

    def __init__(self, link, parameter):
        self.link, self.parameter = link, parameter

    def mean(self, z):
        """Of y, by the inverse of the link; NaN beyond its domain."""
        return LINKS[self.link][0](z)

    def slope(self, z):
        """The derivative of the mean by z."""
        return LINKS[self.link][1](z)

    def variance(self, mean):
        """That of y of weight 1, over the dispersion."""
        return np.ones_like(mean)

    def deviance(self, y, z):
        """The unit deviance: twice what the log-likelihood lacks of that of a mean of y, times the dispersion."""
        raise NotImplementedError

    def slope_to_variance(self, z):
        """mean' / variance(mean), which is 1, or -1, where the link is the canonical one."""
        return np.ones_like(z)

    def score(self, y, z):
        """The derivative of the loss by z, (n, k): (mean - y) * mean' / variance(mean)."""
        return ((self.mean(z) - y) * self.slope_to_variance(z))[:, None]

    def information(self, z):
        """The expected second derivative of the loss by z: mean'^2 / variance(mean)."""
        return self.slope(z) * self.slope_to_variance(z)

    def curvature(self, y, z):
        """The second derivative of the loss by z, which is the expected one where the link is the canonical one."""
        return self.information(z)

    def pearson(self, y, z):
        """Squares of Pearson's residuals: (y - mean)^2 / variance(mean)."""
        mean = self.mean(z)
        return (y - mean) ** 2 / self.variance(mean)


class Gaussian(Formulas):
    """y is normal, of variance dispersion / w."""

    estimated = True

    def deviance(self, y, z):
        return (y - z) ** 2

    def log_likelihood(self, y, z, weight, dispersion):
        return -0.5 * (weight * (y - z) ** 2 / dispersion + np.log(2 * math.pi * dispersion / weight))


class Binomial(Formulas):
    """y is 0 or 1."""

    def deviance(self, y, z):  # -2 log of the probability of the class that was seen
        return 2 * np.logaddexp(0, np.where(y > 0, -z, z))

    def log_likelihood(self, y, z, weight, dispersion):
        return -0.5 * weight * self.deviance(y, z)

    def pearson(self, y, z):  # (1 - p) / p of the class that was seen
        return np.exp(np.where(y > 0, -z, z))


class Multinomial(Formulas):
    """y is the number of a class; z is (n, k)."""

    def mean(self, z):
        return softmax(z)

    def deviance(self, y, z):
        return -2 * special().log_softmax(z, axis=1)[np.arange(len(z)), y.astype(np.intp)]

    def log_likelihood(self, y, z, weight, dispersion):
        return -0.5 * weight * self.deviance(y, z)

    def score(self, y, z):
        score = self.mean(z)
        score[np.arange(len(z)), y.astype(np.intp)] -= 1
        return score

    def pearson(self, y, z):  # sum over the classes of (seen - p)^2 / p = 1 / p of the class that was seen, less 1
        return np.expm1(0.5 * self.deviance(y, z))


class Poisson(Formulas):
    def variance(self, mean):
        return mean

    def deviance(self, y, z):
        mean = self.mean(z)
        return 2 * (special().xlogy(y, y / mean) - (y - mean))

    def log_likelihood(self, y, z, weight, dispersion):
        return weight * (y * z - self.mean(z) - special().gammaln(y + 1))

    def quantile(self, share, z, dispersion):
        return distributions().poisson.ppf(share, self.mean(z))


class QuasiPoisson(Poisson):
    """Tweedie's family with the power 1: Poisson's with a dispersion, which has a likelihood where that is 1 only."""

    estimated = True

    def log_likelihood(self, y, z, weight, dispersion):
        return super().log_likelihood(y, z, weight / dispersion, 1.0)

    def quantile(self, share, z, dispersion):
        raise ValueError("family: expected one whose distribution is known, got tweedie of power 1; fit poisson")


class NegativeBinomial(Formulas):
    """Counts of variance mean + alpha mean^2; alpha is given."""

    def variance(self, mean):
        return mean + self.parameter * mean * mean

    def slope_to_variance(self, z):
        return 1 / (1 + self.parameter * self.mean(z))

    def curvature(self, y, z):
        mean, alpha = self.mean(z), self.parameter
        return mean * (1 + alpha * y) / (1 + alpha * mean) ** 2

    def deviance(self, y, z):
        mean, size = self.mean(z), 1 / self.parameter
        ratio = np.sign(y - mean) * np.log1p(np.abs(y - mean) / (np.minimum(y, mean) + size))
        return 2 * (special().xlogy(y, y / mean) - (y + size) * ratio)

    def log_likelihood(self, y, z, weight, dispersion):
        mean, size = self.mean(z), 1 / self.parameter
        counts = -special().betaln(size, y + 1) - np.log(y + size)  # (y + size - 1)! / (size - 1)! / y!
        return weight * (counts + y * (z - np.log(mean + size)) - size * np.log1p(self.parameter * mean))

    def quantile(self, share, z, dispersion):
        size = 1 / self.parameter
        return distributions().nbinom.ppf(share, size, size / (size + self.mean(z)))


class Gamma(Formulas):
    """y has the variance dispersion mean^2 / w."""

    estimated = True

    def variance(self, mean):
        return mean * mean

    def score(self, y, z):
        return (1 - y * np.exp(-z) if self.link == "log" else y - 1 / z)[:, None]

    def information(self, z):
        return np.ones_like(z) if self.link == "log" else 1 / (z * z)

    def curvature(self, y, z):
        return y * np.exp(-z) if self.link == "log" else self.information(z)

    def pearson(self, y, z):
        return (y / self.mean(z) - 1) ** 2

    def deviance(self, y, z):
        ratio = y / self.mean(z)
        return 2 * (ratio - 1 - np.log(ratio))

    def log_likelihood(self, y, z, weight, dispersion):
        shape, ratio = weight / dispersion, y / self.mean(z)
        return shape * (np.log(shape * ratio) - ratio) - special().gammaln(shape) - np.log(y)

    def quantile(self, share, z, dispersion):
        return distributions().gamma.ppf(share, 1 / dispersion, scale=self.mean(z) * dispersion)


class Tweedie(Formulas):
    """y has the variance dispersion mean^p / w, 1 < p < 2: a sum of Poisson many gammas, 0 if there are none."""

    estimated = True

    def variance(self, mean):
        return mean**self.parameter

    def parts(self, y, z):
        """y mean^(1 - p), 0 where y is, and mean^(2 - p): whatever y is, one of them may leave the range of numbers."""
        p = self.parameter
        return np.where(y > 0, y * np.exp((1 - p) * z), 0.0), np.exp((2 - p) * z)

    def score(self, y, z):
        seen, expected = self.parts(y, z)
        return (expected - seen)[:, None]

    def information(self, z):
        return np.exp((2 - self.parameter) * z)

    def curvature(self, y, z):
        seen, expected = self.parts(y, z)
        return (self.parameter - 1) * seen + (2 - self.parameter) * expected

    def pearson(self, y, z):
        return (np.where(y > 0, y / self.mean(z), 0.0) - 1) ** 2 * self.information(z)

    def deviance(self, y, z):
        """2 y^(2 - p) ((e^((2 - p) t) - 1) / (2 - p) - (e^((1 - p) t) - 1) / (1 - p)), t = log(mean / y)."""
        p, value, seen = self.parameter, 2 * self.mean(z) ** (2 - self.parameter) / (2 - self.parameter), y > 0
        y, t = y[seen], z[seen] - np.log(y[seen])
        value[seen] = 2 * y ** (2 - p) * (np.expm1((2 - p) * t) / (2 - p) - np.expm1((1 - p) * t) / (1 - p))
        return value

    def log_likelihood(self, y, z, weight, dispersion):
        dispersion, seen = dispersion / weight, y > 0
        value = -0.5 * self.deviance(y, z) / dispersion
        value[seen] += log_series(y[seen], dispersion[seen], self.parameter) - np.log(y[seen])
        return value

    def quantile(self, share, z, dispersion):
        p, mean = self.parameter, self.mean(z)
        rate, scale = mean ** (2 - p) / (dispersion * (2 - p)), dispersion * (p - 1) * mean ** (p - 1)
        above = mean + 10 * np.sqrt(dispersion * self.variance(mean))
        return compound_quantile(share, rate, (2 - p) / (p - 1), scale, above)


def log_series(y, dispersion, p) -> np.ndarray:
    """The part of Tweedie's density that has no closed form, log sum over j of W_j (Dunn & Smyth 2005, section 4.2).

    It comes less (1 + a) m, as the rest of the density has it where the mean is y.

    log W_j = j log z - log gamma(1 + j) - log gamma(a j), z = (y / (dispersion (p - 1)))^a / (dispersion (2 - p)),
    a = (2 - p) / (p - 1). Its terms are close to those of a normal density about m = y^(2 - p) / (dispersion (2 - p)),
    of variance m / (1 + a); those that are left out are less than 1e-16 of the sum. Where m is more than 1e8 that
    density itself is added up, by Stirling's formula.
    """
    gammaln, a = special().gammaln, (2 - p) / (p - 1)
    log_z = a * np.log(y / (dispersion * (p - 1))) - np.log(dispersion * (2 - p))
    middle = y ** (2 - p) / (dispersion * (2 - p))
    value = 0.5 * np.log(a * middle / (2 * math.pi * (1 + a)))
    for rows, j in about(middle, middle / (1 + a)):
        logs = j * log_z[rows, None] - gammaln(1 + j) - gammaln(a * j)
        largest = logs.max(axis=1)
        value[rows] = largest - (1 + a) * middle[rows] + np.log(np.exp(logs - largest[:, None]).sum(axis=1))
    return value


def about(middle, variance):
    """(rows, whole numbers (rows, m) about the middle of each, from 1 on), rows of like many of them together.

    As far as sums of terms like those of a normal or Poisson's density go; rows of a middle beyond 1e8 are left out.
    """
    rows = np.flatnonzero(middle < 1e8)
    reach = 9 * np.sqrt(variance[rows])
    first = np.maximum(1, np.floor(middle[rows] - reach - 5))
    count = np.ceil(middle[rows] + reach + 45 - first).astype(np.intp)
    order = np.argsort(-count)
    while len(order):
        some, order = np.split(order, [max(1, (1 << 20) // count[order[0]])])
        yield rows[some], first[some, None] + np.arange(count[some[0]])


def compound_quantile(share, rate, shape, scale, above) -> np.ndarray:
    """Of sums of N gammas of a shape and scale, N by Poisson's distribution, by halving what lies below `above`."""
    gammainc, pmf, found = special().gammainc, distributions().poisson.pmf, np.full(len(rate), np.nan)
    for rows, j in about(rate, rate):
        counts, nothing = pmf(j, rate[rows, None]), np.exp(-rate[rows])

        def lies_below(y, rows=rows, j=j, counts=counts, nothing=nothing):
            return nothing + (counts * gammainc(j * shape, (y / scale[rows])[:, None])).sum(axis=1) < share

        low, high = np.zeros(len(rows)), above[rows]
        while (below := lies_below(high)).any():
            high = np.where(below, 2 * high, high)
        for _ in range(50):
            middle = 0.5 * (low + high)
            below = lies_below(middle)
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        found[rows] = np.where(nothing >= share, 0.0, high)
    return found


FORMULAS = {
    "gaussian": Gaussian,
    "binomial": Binomial,
    "multinomial": Multinomial,
    "poisson": Poisson,
    "gamma": Gamma,
    "tweedie": Tweedie,
    "negative_binomial": NegativeBinomial,
}


def formulas(family, link, parameter=None) -> Formulas:
    """Those of a family; of tweedie by its power, of negative_binomial by its alpha."""
    if family == "tweedie" and parameter in (1, 2):
        return QuasiPoisson(link, None) if parameter == 1 else Gamma(link, None)
    return FORMULAS[family](link, parameter)
