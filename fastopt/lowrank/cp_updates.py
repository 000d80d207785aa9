"""What a factor of a CP decomposition becomes while all others stay: least squares, plain or with terms kept small.

Let K be the Khatri-Rao product of the others, and T unfolded along the mode. A factor A (R, n) has the squared error
``norm(T - A.T @ K)**2``, a quadratic form of ``gram = K @ K.T`` and ``right = K @ T.T``. Where the columns of the
others are scaled to length 1, the squared norm of A is the sum of the squared norms of all terms. Least squares with
a bound on either has the solutions ``(gram + mu I)^-1 right``, with one mu >= 0 that is the root of an equation in one
unknown, as the eigenvalues of gram show (Phan et al. 2020, Stable low-rank tensor decomposition for compression of
convolutional neural network, section 4).
"""

import math

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.lapack import dposv
from scipy.optimize import brentq

EPS = float(np.finfo(np.float64).eps)
WIDEST = 1e16  # of the range in which mu is looked for, around the largest eigenvalue


class LeastSquares:
    """The factor of least squared error, plus `ridge` times its own squares."""

    def __init__(self, ridge=0.0):
        self.ridge = ridge

    def __call__(self, factor, gram, right):
        if self.ridge:
            gram = gram + self.ridge * np.eye(len(gram))
        triangle, solution, failed = dposv(gram, right)
        pivots, lengths = np.square(triangle.diagonal()), gram.diagonal()
        if failed or (pivots <= 10 * len(gram) * EPS * lengths).any():  # terms depend on each other
            lengths, values, vectors, rotated = _spectrum(gram, right)
            solution = vectors @ (rotated / values[:, None]) / lengths
        return solution


class Bounded:
    """The factor of least squared error among those with which the squared norms of all terms sum up to `limit`."""

    def __init__(self, limit):
        self.limit = limit * (1 - 1e-9)  # what rounding adds stays below it

    def __call__(self, factor, gram, right):
        lengths, values, vectors, rotated = _spectrum(gram, right)
        squares = np.square(rotated).sum(axis=1)

        def excess(mu):
            return np.sum(squares / np.square(values + mu)) - self.limit

        mu = _root(excess, values[-1])
        return vectors @ (rotated / (values + mu)[:, None]) / lengths


class ErrorPreserving:
    """The factor of the smallest terms among those of squared error `limit`; `squared_error` is that of the factors."""

    def __init__(self, limit, squared_error):
        self.limit, self.squared_error = limit, squared_error

    def __call__(self, factor, gram, right):
        lengths, values, vectors, rotated = _spectrum(gram, right)
        best = rotated / values[:, None]
        gained = np.square(vectors.T @ (factor * lengths) - best)
        least = self.squared_error - np.sum(values * gained.sum(axis=1))  # of the least squares solution
        weights = np.square(best).sum(axis=1) * values

        def excess(mu):
            return self.limit - least - np.sum(weights * np.square(mu / (values + mu)))

        mu = _root(excess, values[-1])
        self.squared_error = self.limit - excess(mu)
        return vectors @ (rotated / (values + mu)[:, None]) / lengths


def _spectrum(gram, right):
    """For columns of the others of length 1: their lengths (R, 1), eigenvalues and -vectors of gram without those that
    rounding cannot tell from 0, and right in these."""
    lengths = np.sqrt(gram.diagonal())[:, None]
    lengths[lengths == 0] = 1
    values, vectors = eigh(gram / lengths / lengths.T, check_finite=False)
    vectors = vectors[:, values > len(values) * EPS * values[-1]]
    values = values[-vectors.shape[1] :]
    return lengths, values, vectors, vectors.T @ (right / lengths)


def _root(falling, largest):
    """Where a function that falls with mu crosses 0; 0 if it starts below."""
    if falling(0.0) <= 0:
        return 0.0
    low, high = math.log(largest / WIDEST), math.log(largest * WIDEST)
    if falling(math.exp(low)) <= 0:
        return math.exp(low)
    if falling(math.exp(high)) >= 0:
        return math.exp(high)
    return math.exp(brentq(lambda power: falling(math.exp(power)), low, high, xtol=1e-12))
