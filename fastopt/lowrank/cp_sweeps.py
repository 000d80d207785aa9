"""One sweep of alternating least squares over the factors of a CP decomposition.

The factor of a mode is updated from the Gram matrix of the Khatri-Rao product K of all others and from T K, T unfolded
along that mode (Kolda & Bader 2009, section 3.4). T K is where the time goes. One product of T with the factor of one
of its two longest modes serves the updates of all modes but that one (a dimension tree, Phan, Tichavsky & Cichocki
2013, section 3); a second product, with the factor of the other long mode, serves the last. What is left of T then is
short.

The two products go through fastopt's dense kernel; all else is small, and the caller holds BLAS to one thread.
"""

import math

import numpy as np

from fastopt.functional import dense

CANCELLED = 1e-6  # where the squared error is so small a part of what it is the difference of, it is summed up instead


class Sweeps:
    """A tensor of norm 1 in the layouts that sweeps read.

    Factors are lists of arrays (R, n), that of the longest mode first, of the second longest next. `order` has the axes
    of T so, `shape` their sizes, `cube` the elements, all modes but these two as one.
    """

    def __init__(self, T):
        self.order = sorted(range(T.ndim), key=lambda axis: -T.shape[axis])
        self.shape = tuple(T.shape[axis] for axis in self.order)
        p, q, *rest = self.order
        self.cube = np.ascontiguousarray(T.transpose(self.order)).reshape(*self.shape[:2], -1)
        self.by_first = _unfolded(T, (q, *rest, p))
        self.by_second = _unfolded(T, (p, *rest, q))

    def without_second(self, factors):
        """T times the factor of the second mode, (R, n, m): n of the first, m of all others."""
        return dense(factors[1], self.by_second).reshape(-1, self.shape[0], self.cube.shape[2])

    def sweep(self, factors, update, product=None):
        """New factors, one mode after the other, by ``update(factor, gram, right)``, and their squared error.

        `product` is what `without_second` gives, if it is known already.
        """
        factors = list(factors)
        grams = [factor @ factor.T for factor in factors]

        def renew(i, right):
            others = [gram for j, gram in enumerate(grams) if j != i]
            factors[i] = update(factors[i], _hadamard(others), right)
            grams[i] = factors[i] @ factors[i].T

        if product is None:
            product = self.without_second(factors)
        renew(0, _contracted(product, khatri_rao(factors[2:])))
        product = np.matmul(factors[0][:, None], product)[:, 0]
        if len(factors) == 3:
            renew(2, product)
        else:
            product = product.reshape(-1, *self.shape[2:])
            renew(2, _contracted(product, factors[3]))
            renew(3, np.matmul(factors[2][:, None], product)[:, 0])
        product = dense(factors[0], self.by_first).reshape(-1, self.shape[1], self.cube.shape[2])
        right = _contracted(product, khatri_rao(factors[2:]))
        renew(1, right)
        return factors, self._squared_error(factors, grams, np.vdot(right, factors[1]))

    def squared_error(self, factors, product):
        """The squared error of factors, given what `without_second` gives."""
        right = _contracted(product, khatri_rao(factors[2:]))
        return self._squared_error(factors, [factor @ factor.T for factor in factors], np.vdot(right, factors[0]))

    def _squared_error(self, factors, grams, inner_product):
        """``norm(T)**2 - 2 <T, X> + norm(X)**2``, unless that cancels: then the squares of T - X."""
        gram = _hadamard(grams)
        squared = 1 - 2 * inner_product + gram.sum()
        return squared if squared > CANCELLED * max(1, gram.trace()) else self.squared_residual(factors)

    def squared_residual(self, factors):
        """``norm(T - X)**2`` from the difference itself."""
        first, *others = factors
        difference = dense(np.ascontiguousarray(khatri_rao(others).T), np.ascontiguousarray(first.T))
        difference -= self.by_first
        return float(np.vdot(difference, difference))


def _unfolded(T, axes):
    """T with its axes in this order, the last as columns of a matrix."""
    return np.ascontiguousarray(T.transpose(axes)).reshape(-1, T.shape[axes[-1]])


def _contracted(A, B):
    """A (R, n, m) and B (R, m) -> (R, n), summed over m."""
    return np.matmul(A, B[:, :, None])[:, :, 0]


def _hadamard(grams):
    return math.prod(grams[1:], start=grams[0])


def khatri_rao(factors):
    """The products of all elements of each term, (R, n · m · ...), for factors (R, n), (R, m), ..."""
    product, *others = factors
    for factor in others:
        product = (product[:, :, None] * factor[:, None]).reshape(len(factor), -1)
    return product
