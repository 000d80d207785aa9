"""The objective of a generalized linear model: loss, gradient, Hessian and products with it, penalty included.

minimize  sum_i w_i l_i + l2 / 2 ||coef||^2,  the intercept free

- One pass over X gives loss and gradient, and the Hessian H if asked for: a kernel. A Hessian costs as
  much as `Solver.ratio` passes, from 2 for 50 columns to 9 for 300.
- With fewer rows than columns, coef is in the space of the rows: X = L Q, and L (n, n) takes the place of X.
- Where an intercept is free and a column lies far from zero, all columns are taken about a center, inside: the
  squares of dates have no digit left for the differences between dates. The kernel subtracts it as it reads.
- What rounding allows is known: that of the linear predictors, eps sum |coef_j x_j|, reaches gradient and loss.
- Softmax does not see a number added to all classes: steps have sum zero over the classes, as the solution has
  with a penalty, and H is made regular in the directions that are left.
"""

import math

import numpy as np

from fastopt._forks import importing
from fastopt.newton.glm_data import CONSTANT, deviation
from fastopt.newton.glm_design import Design

SMALL = 1 / 16  # the deviation of a column, and of a gaussian's y, below which the gradient is measured by it
TINY = 1e-150  # smaller numbers have squares that float64 cannot hold
ROUNDINGS = 8  # eps of each product and sum on the way to a loss or gradient, as they add up
EPS = np.finfo(np.float64).eps


class Objective:
    """Loss and gradient of theta (k q,), its Hessian and products with it, penalty included.

    With a center, theta belongs to the columns about it.
    """

    def __init__(self, data, l2, center=None, deviations=None):
        self.data, self.l2, self.center = data, l2, center
        self.kernel = data.bound(center)
        self.family, self.design, self.k, self.d = data.family, data.design, data.k, data.design.d
        self.q, weight = self.d + data.intercept, data.weight
        self.total = float(self.design.n if weight is None else weight.sum())
        self.rows = self.design.n if weight is None else int(np.count_nonzero(weight))
        # The order of the sum of w l'^2 / l'', of residuals and of their rounding.
        self.variance, y = self.total, data.y
        of_rows = {
            "poisson": lambda: y,
            "tweedie": lambda: y ** (2 - data.parameter),
            "negative_binomial": lambda: y / (1 + data.parameter * y),
        }.get(self.family)
        if of_rows:
            self.variance += float(of_rows().sum() if weight is None else weight @ of_rows())
        self.farthest = 0.0 if data.offset is None else float(max(data.offset.max(), -data.offset.min()))
        self.rotated = False  # whether X holds the row space of a wider matrix
        self.deviations = np.ones(self.q)
        if deviations is not None:
            self.deviations[: self.d] = np.where(deviations > 0, deviations, 1.0)
        # columns that look constant
        self.level = () if center is None else np.flatnonzero((deviations <= CONSTANT * np.abs(center)) & (center != 0))
        self.sizes = np.minimum(1.0, self.deviations / SMALL) * self.unit()
        self.plain = self.sizes.min() == 1.0

    def unit(self) -> float:
        """The size of a derivative of the loss that counts as 1: where y has a unit and is small, smaller."""
        y, weight = self.data.y, self.data.weight
        if self.family == "tweedie":
            size = float(np.average(y, weights=weight)) ** (2 - self.data.parameter)
        elif self.family == "gamma_inverse":
            size = float(deviation(y, weight))
        elif self.family == "gaussian":
            y = y if self.data.offset is None else y - self.data.offset[:, 0]
            size = float(deviation(y - np.average(y, weights=weight) * self.data.intercept, weight))
        else:
            return 1.0
        if 0 < size < TINY:
            raise ValueError(f"y: expected values whose squares are numbers, got a deviation of {size:.0e}; scale y")
        return min(1.0, size / SMALL) or 1.0

    def penalize(self, grad, theta):
        """grad += l2 coef."""
        if self.l2:
            grad.reshape(self.k, self.q)[:, : self.d] += self.l2 * theta.reshape(self.k, self.q)[:, : self.d]
        return grad

    def norm(self, grad) -> float:
        """The largest component, over its size; of a rotated gradient the length, which bounds it."""
        grad = grad.reshape(self.k, self.q)
        if self.rotated:
            return float(np.sqrt((grad**2).sum(axis=1).max()) / self.sizes.min())
        grad = np.abs(grad)
        return float((grad if self.plain else grad / self.sizes).max())

    def value(self, theta, hessian=None, step=1) -> tuple[float, np.ndarray]:
        grad = np.empty((self.k, self.q))
        loss = self.kernel.value(theta.reshape(self.k, self.q), grad, hessian, step)
        coef = theta.reshape(self.k, self.q)[:, : self.d]
        return loss + 0.5 * self.l2 * float(np.vdot(coef, coef)), self.penalize(grad.reshape(-1), theta)

    def product(self, v) -> np.ndarray:
        out = self.kernel.product(v.reshape(self.k, self.q), np.empty((self.k, self.q)))
        return self.penalize(out.reshape(-1), v)

    def seen(self, step) -> np.ndarray:
        """The part of a step that softmax sees, in place."""
        if self.k > 1:
            step = step.reshape(self.k, self.q)
            step -= step.mean(axis=0)
        return step.reshape(-1)

    def empty(self, dtype) -> np.ndarray:
        return np.empty((self.k * self.q,) * 2, dtype)

    def penalized(self, hessian) -> np.ndarray:
        """The lower triangle with the penalty."""
        if self.l2:
            on_diagonal = hessian.reshape(-1)[:: len(hessian) + 1].reshape(self.k, self.q)
            on_diagonal[:, : self.d] += hessian.dtype.type(self.l2)
        return hessian

    def regular(self, hessian, column) -> np.ndarray:
        """The lower triangle with a ridge, in some columns of each class, along what softmax does not see."""
        blocks = hessian.reshape(self.k, self.q, self.k, self.q)
        ridge = np.diagonal(hessian).reshape(self.k, self.q).mean(axis=0)[column]
        for a in range(self.k):
            blocks[a, column, : a + 1, column] += ridge[:, None]
        return hessian

    def finish(self, hessian) -> np.ndarray:
        """The lower triangle with the penalty, and, for softmax, regular."""
        hessian = self.penalized(hessian)
        return self.regular(hessian, np.arange(self.q)) if self.k > 1 else hessian

    def hessian(self, dtype) -> np.ndarray:
        """The Hessian at the point of the last `value`."""
        return self.finish(self.kernel.hessian(self.empty(dtype)))

    def rounding(self, theta, loss, roots) -> tuple[float, float]:
        """What rounding may have made of the loss, and, times `roots`, of the gradient; `roots` are those of the
        diagonal of the Hessian.

        A linear predictor carries eps times A = sum |coef_j x_j|. By Cauchy and Schwarz, that makes at most
        sum w l'' A |x_j| <= roots_j sum_l |coef_l| roots_l of a gradient, and sums of w l' x_j have a part in it
        as large as roots_j times the root of sum w l'^2 / l'': about the rows, where the model holds.
        """
        residuals = math.sqrt(2 * loss if self.family == "gaussian" else self.variance)
        predictors = float(np.abs(theta) @ roots)
        if self.data.offset is not None:
            predictors += residuals * self.farthest
        terms = residuals + predictors
        return ROUNDINGS * EPS * (abs(loss) + residuals * terms), ROUNDINGS * EPS * terms


def in_row_space(objective):
    """The objective to solve, and the way back from its theta; few rows are solved in the space that they span."""
    design, k, d = objective.design, objective.k, objective.d
    n, X = design.n, design.dense
    if objective.l2 == 0 and n < objective.q:
        raise ValueError(f"l2: expected more than 0 for fewer rows ({n}) than parameters ({objective.q}), got 0")
    if design.entries is not None or n >= d or n > 20 * (10 + 4 * k):  # the factors would cost more than 30 passes
        return objective, lambda theta: theta
    with importing:
        from scipy.linalg import qr

    design.check_finite()
    columns = X.T.astype(np.float64) if objective.center is None else X.T - objective.center[:, None]
    space, factor = qr(columns, mode="economic", overwrite_a=True, check_finite=False)
    inner = Objective(objective.data._replace(design=Design(np.ascontiguousarray(factor.T))), objective.l2)
    inner.rotated, inner.sizes = True, objective.sizes

    def back(theta):
        theta = theta.reshape(k, inner.q)
        return np.hstack([theta[:, :n] @ space.T, theta[:, n:]]).reshape(-1)

    return inner, back
