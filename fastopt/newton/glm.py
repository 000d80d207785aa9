"""Generalised linear models, solved to full precision.

minimise  sum_i w_i l_i + l2 / 2 ||coef||^2,  the intercept free

- One pass over X gives loss and gradient, and the Hessian H if asked for (newton.pxi). A Hessian costs as
  much as `ratio` passes, from 2 for 50 columns to 9 for 300.
- The first step only has to come near: its Hessian is that of every ROUGH-th panel of rows. The second is exact.
- Then a Hessian is kept: a step is that of its Cholesky factor, corrected by what the gradients since have
  shown of the curvature (L-BFGS that starts from the factor instead of from a multiple of the identity;
  Nocedal & Wright 2006, algorithm 7.4). That converges superlinearly from passes alone. A new Hessian comes
  once the passes since the last have cost as much, if, at the pace of the last step, the rest would too.
- The factor only leads the way, the gradient decides when to stop: H is float32, unless the pivots say that
  float32 cannot tell its columns apart.
- Where a Hessian costs more than MOST_PASSES passes: Newton's steps by conjugate gradients on Hessian-vector
  products, with a diagonal preconditioner, the tighter the closer (Nocedal & Wright, algorithm 7.1).
- With fewer rows than columns, coef is in the space of the rows: X = L Q, and L (n, n) takes the place of X.
- Where an intercept is free and a column lies far from zero, all columns are taken about a center, inside: the
  squares of dates have no digit left for the differences between dates. The kernel subtracts it as it reads.
- What rounding allows is known: that of the linear predictors, eps sum |coef_j x_j|, reaches gradient and loss.
- Softmax does not see a number added to all classes: steps have sum zero over the classes, as the solution has
  with a penalty, and H is made regular in the directions that are left.
- LAPACK runs on one thread: the same bits, however many threads there are.
"""

import math
import warnings

import numpy as np

from fastopt._forks import importing
from fastopt._kernels import core
from fastopt._numbers import finite_number, whole_number
from fastopt.newton.glm_data import (
    CONSTANT,
    Data,
    as_offset,
    as_rows,
    as_target,
    as_weight,
    check_finite,
    deviation,
    is_constant,
    located,
)
from fastopt.newton.glm_result import SLICE, GLMResult
from fastopt.newton.steps import Factor
from fastopt.threads import one_blas_thread

__all__ = ["GLMResult", "glm"]

MOST_PASSES = 100  # conjugate gradients take fewer than that, all Newton steps together, on most problems
ROUGH = 8  # 100 000 x 50: 28.5 -> 22.4 ms, 50 000 x 100: 24.4 -> 21.0, 20 000 x 200 and x 300: as without
PAIRS = 10  # of steps and changes of the gradient, that correct the factor
LEAST_PIVOT = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-11}  # 1 - R^2 of a column on those before
SMALL = 1 / 16  # the deviation of a column, and of a gaussian's y, below which the gradient is measured by it
TINY = 1e-150  # what has smaller squares than float64 has numbers
ROUNDINGS = 8  # of each product and sum on the way to a loss or a gradient, as they add up
EPS = np.finfo(np.float64).eps


def glm(
    X,
    y,
    family="binomial",
    l2=1.0,
    fit_intercept=True,
    sample_weight=None,
    tol=1e-8,
    max_iter=200,
    verbose=False,
    hessian_dtype="float32",
    offset=None,
) -> "GLMResult":
    """Fit a generalised linear model: ``sum(w * loss) + l2 / 2 * ||coef||^2``, the intercept free.

    Parameters
    ----------
    X : array_like, shape (n, d), float32 or float64
        float32 is read as it is and computed with in float64; other dtypes, and data frames of numbers, are
        converted. Columns may lie far from zero if the intercept is free (see Notes).
    y : array_like, shape (n,)
        "gaussian": values; "poisson": values of at least 0; "binomial": two classes, "multinomial": two or
        more, any labels but missing ones.
    family : str
        "gaussian" (identity link), "binomial" (logit), "multinomial" (softmax) or "poisson" (log).
    l2 : float
        At least 0; scikit-learn's ``1 / C``, and the ``alpha`` of its Ridge.
    fit_intercept : bool
    sample_weight : array_like, shape (n,), optional
        Finite and at least 0. A row of weight 0 is as if absent, but for its label, which is one of the classes, and
        its y and offset, which are finite.
    tol : float
        The fit has converged when no component of the gradient exceeds ``tol * sum(w)`` and half the Newton
        decrement does neither, or when both are as small as rounding allows. Where the deviation of a column is
        below 1/16, or that of a gaussian's y, 16 deviations take the place of 1.
    max_iter : int
        Steps at most.
    verbose : bool
        Print a line for each step.
    hessian_dtype : {"float32", "float64"}
        What steps are computed with. Where columns are too much alike for float32, it is float64 in any
        case; gradient, stopping rule and so the solution are float64 always.
    offset : float or array_like, shape (n,), or (n, k) for multinomial, optional
        Added to the linear predictors, with no coefficient; columns in the order of the sorted classes. A model
        fitted with an offset predicts with one only.

    Returns
    -------
    GLMResult

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, masked or missing values, values that are not finite, a `y` that the family does
        not have, fewer than two classes, or linearly dependent columns with ``l2=0``.

    Warns
    -----
    RuntimeWarning
        The fit did not converge, as when classes can be separated and ``l2=0``.

    Notes
    -----
    With a free intercept, columns whose mean is up to 1e7 times their deviation are fitted as if they had been
    centered. Without one nothing may be subtracted: the Hessian knows the differences within a column to
    ``1e-16 * (mean / deviation)**2``, and columns that it cannot tell apart are an error if ``l2=0``.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> fit = fo.newton.glm(X, ["no", "yes", "no", "yes"], l2=0.0)
    >>> fit.coef.round(3), round(fit.intercept, 3), fit.converged
    (array([0.908]), -1.362, True)
    >>> fit.predict([[5.0]])
    array(['yes'], dtype='<U3')
    """
    if family not in core.FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(core.FAMILIES)}, got {family!r}")
    l2, tol = finite_number("l2", l2, 0), finite_number("tol", tol, 0)
    max_iter = whole_number("max_iter", max_iter, 0)
    if hessian_dtype not in ("float32", "float64"):
        raise ValueError(f"hessian_dtype: expected 'float32' or 'float64', got {hessian_dtype!r}")
    X = as_rows(X)
    weight = as_weight(sample_weight, len(X))
    y, classes = as_target(y, family, weight, len(X))
    k = 1 if classes is None or family == "binomial" else len(classes)
    if offset is not None:
        offset = as_offset(offset, len(X), k, family)
    if weight is not None and not weight.all():  # rows of weight 0 are as if absent, however far out
        y = np.where(weight > 0, y, 0.0)
        offset = None if offset is None else offset * (weight > 0)[:, None]
    data = Data(family, X, y, weight, k, bool(fit_intercept), offset)
    with one_blas_thread, np.errstate(all="ignore"):
        objective = Objective(data, l2, *located(data))
        inner, back = in_row_space(objective)
        solver = Solver(inner, tol, max_iter, bool(verbose), hessian_dtype)
        solver.run(start(inner.data))
        solver.theta = back(solver.theta)
        return GLMResult(objective, solver, classes)


# ---------------------------------------------------------------- the objective


class Objective:
    """Loss and gradient of theta (k q,), its Hessian and products with it, penalty included.

    With a center, theta belongs to the columns about it.
    """

    def __init__(self, data, l2, center=None, deviations=None):
        self.data, self.l2, self.center = data, l2, center
        self.kernel = data.bound(center)
        self.family, self.X, self.k, self.d = data.family, data.X, data.k, data.X.shape[1]
        self.q, weight = self.d + data.intercept, data.weight
        self.total = float(len(self.X) if weight is None else weight.sum())
        self.rows = len(self.X) if weight is None else int(np.count_nonzero(weight))
        self.variance = self.total  # of the residuals, summed: of the order of this
        if self.family == "poisson":
            self.variance += float(data.y.sum() if weight is None else weight @ data.y)
        self.rotated = False  # X stands for one with more columns
        self.deviations = np.ones(self.q)
        if deviations is not None:
            self.deviations[: self.d] = np.where(deviations > 0, deviations, 1.0)
        # columns that look constant
        self.level = () if center is None else np.flatnonzero(deviations <= CONSTANT * np.abs(center))
        self.sizes = np.minimum(1.0, self.deviations / SMALL) * self.unit()
        self.plain = self.sizes.min() == 1.0

    def unit(self) -> float:
        """The size of a residual that counts as 1: where y of a gaussian is small, smaller."""
        if self.family != "gaussian":
            return 1.0
        y = self.data.y if self.data.offset is None else self.data.y - self.data.offset[:, 0]
        size = float(deviation(y - np.average(y, weights=self.data.weight) * self.data.intercept, self.data.weight))
        if 0 < size < TINY:
            raise ValueError(f"y: expected values whose squares are numbers, got a deviation of {size:.0e}; scale y")
        return min(1.0, size / SMALL) or 1.0

    def penalise(self, grad, theta):
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
        return loss + 0.5 * self.l2 * float(np.vdot(coef, coef)), self.penalise(grad.reshape(-1), theta)

    def product(self, v) -> np.ndarray:
        out = self.kernel.product(v.reshape(self.k, self.q), np.empty((self.k, self.q)))
        return self.penalise(out.reshape(-1), v)

    def mean_squares(self) -> np.ndarray:
        """Of the columns, about the center; (d,)."""
        if self.center is None:
            return np.einsum("ij,ij->j", self.X, self.X, dtype=np.float64) / len(self.X)
        total, rows = np.zeros(self.d), max(1, SLICE // self.d)
        for i in range(0, len(self.X), rows):
            total += ((self.X[i : i + rows] - self.center) ** 2).sum(axis=0)
        return total / len(self.X)

    def seen(self, step) -> np.ndarray:
        """The part of a step that softmax sees, in place."""
        if self.k > 1:
            step = step.reshape(self.k, self.q)
            step -= step.mean(axis=0)
        return step.reshape(-1)

    def empty(self, dtype) -> np.ndarray:
        return np.empty((self.k * self.q,) * 2, dtype)

    def finish(self, hessian) -> np.ndarray:
        """The lower triangle with the penalty, and, for softmax, regular along what softmax does not see."""
        if self.l2:
            on_diagonal = hessian.reshape(-1)[:: len(hessian) + 1].reshape(self.k, self.q)
            on_diagonal[:, : self.d] += hessian.dtype.type(self.l2)
        if self.k > 1:
            blocks = hessian.reshape(self.k, self.q, self.k, self.q)
            column = np.arange(self.q)
            ridge = np.diagonal(hessian).reshape(self.k, self.q).mean(axis=0)
            for a in range(self.k):
                blocks[a, column, : a + 1, column] += ridge[:, None]
        return hessian

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
            predictors += residuals * float(np.abs(self.data.offset).max())
        terms = residuals + predictors
        return ROUNDINGS * EPS * (abs(loss) + residuals * terms), ROUNDINGS * EPS * terms


def in_row_space(objective):
    """The objective to solve, and the way back from its theta: with few rows, of fewer columns."""
    X, k, d = objective.X, objective.k, objective.d
    n = len(X)
    if objective.l2 == 0 and n < objective.q:
        raise ValueError(f"l2: expected more than 0 for fewer rows ({n}) than parameters ({objective.q}), got 0")
    if n >= d or n > 20 * (10 + 4 * k):  # the factors would cost more than 30 passes
        return objective, lambda theta: theta
    with importing:
        from scipy.linalg import qr

    check_finite(X)
    columns = X.T.astype(np.float64) if objective.center is None else X.T - objective.center[:, None]
    space, factor = qr(columns, mode="economic", overwrite_a=True, check_finite=False)
    inner = Objective(objective.data._replace(X=np.ascontiguousarray(factor.T)), objective.l2)
    inner.rotated, inner.sizes = True, objective.sizes

    def back(theta):
        theta = theta.reshape(k, inner.q)
        return np.hstack([theta[:, :n] @ space.T, theta[:, n:]]).reshape(-1)

    return inner, back


def start(data) -> np.ndarray:
    """The model without coefficients: the intercept of the mean, or zeros."""
    family, y, weight = data.family, data.y, data.weight
    theta = np.zeros((data.k, data.X.shape[1] + data.intercept))
    if not data.intercept:
        return theta.reshape(-1)
    if family == "multinomial":
        share = np.bincount(y.astype(np.intp), weight, data.k) / (len(y) if weight is None else weight.sum())
        theta[:, -1] = np.log(share) - np.log(share).mean()
    else:
        mean = np.average(y, weights=weight)
        if family == "binomial":
            mean = mean / (1 - mean)
        theta[0, -1] = mean if family == "gaussian" else np.log(mean)
    if data.offset is not None and family == "poisson":
        largest = data.offset.max()
        theta[:, -1] -= largest + np.log(np.average(np.exp(data.offset - largest), axis=0, weights=weight))
    elif data.offset is not None:
        theta[:, -1] -= np.average(data.offset, axis=0, weights=weight)
    return theta.reshape(-1)


# ---------------------------------------------------------------- directions


def factored(hessian) -> Factor:
    """The factor of a Hessian, which it overwrites; its `minor` names the first column that depends on those before."""
    return Factor(hessian, overwrite=True, least=LEAST_PIVOT[hessian.dtype])


class Solver:
    """Runs to a point where the gradient vanishes; what it found is in its attributes."""

    def __init__(self, objective, tol, max_iter, verbose, hessian_dtype):
        self.objective, self.tol, self.max_iter, self.verbose = objective, tol, max_iter, verbose
        self.dtype = np.dtype(hessian_dtype)
        n, d, q, k = len(objective.X), objective.d, objective.q, objective.k
        # Multiply-adds of a float32 Hessian and its factor, over those of a pass and a solve: an element of X costs as
        # much as 10 in a pass, and 3.5 more a predictor, one of the factor 14. 100 000 x 50: 1.9, 20 000 x 300: 11
        # (measured 1.9 and 9).
        hessian = n * q * q * k * (k + 1) / 4 + (k * q) ** 3 / 4
        self.ratio = hessian / (n * d * (10 + 3.5 * k))
        self.dense = self.ratio <= MOST_PASSES
        self.ratio = hessian / (n * d * (10 + 3.5 * k) + 14 * (k * q) ** 2) if self.dense else self.ratio
        self.rough = ROUGH if self.dense and objective.family != "gaussian" and n >= 4 * ROUGH * q else 1

    def run(self, theta):
        objective, total = self.objective, self.objective.total
        self.pairs, self.factor, self.n_iter, self.passes = [], None, 0, 0
        self.converged = self.stuck = self.separated = False
        hessian = objective.empty(self.dtype) if self.dense else None
        loss, grad = objective.value(theta, hessian, self.rough)
        if not (np.isfinite(loss) and np.isfinite(grad).all()):
            check_finite(objective.X)
            raise ValueError("X, y, offset: expected values whose losses can be added up, got too large ones")
        self.first = objective.norm(grad)
        largest = float(np.abs(grad).max())
        self.unit = 1.0 if 1e-15 < largest < 1e30 else largest or 1.0  # that keeps gradients within float32
        if self.dense:
            self.refuse_constants()
            self.take(hessian)
        else:
            self.scale = self.diagonal(theta)
            self.roots = 1 / np.sqrt(self.scale)
        while True:
            self.theta, self.loss, self.grad_norm = theta, loss, objective.norm(grad) / total
            step = self.direction(grad)
            slope = float(grad @ step)
            if self.verbose:
                print(f"{self.n_iter:4d}  loss {loss:.12g}  gradient {self.grad_norm:.2e}  decrement {-slope:.2e}")
            self.converged = self.grad_norm <= self.tol and -0.5 * slope <= self.tol * total
            if self.converged or self.n_iter == self.max_iter:
                break
            of_loss, of_gradient = objective.rounding(theta, loss, self.roots)
            new, told = self.search(theta, loss, step, slope, of_loss), -slope > of_loss
            if new is None or not (told or objective.norm(new[2]) <= 0.5 * objective.norm(grad)):
                # nothing is left that float64 could tell
                self.converged = not told or bool((np.abs(grad) <= of_gradient * self.roots).all())
                self.stuck = True
                break
            if self.dense and (new[0] - theta) @ (new[2] - grad) > 0:
                self.pairs = [*self.pairs, (new[0] - theta, new[2] - grad)][-PAIRS:]
            theta, loss, grad, hessian = new
            self.n_iter += 1
            if hessian is not None or self.pays(objective.norm(grad) / total):
                self.take(objective.kernel.hessian(objective.empty(self.dtype)) if hessian is None else hessian)
        if self.converged and objective.l2 == 0 and objective.family != "gaussian":
            self.separated = self.has_no_optimum(theta, grad)
            self.converged = not self.separated
        if not self.converged:
            self.warn()

    # -- steps

    def direction(self, grad) -> np.ndarray:
        if not self.dense:
            return self.objective.seen(self.conjugate_gradients(-grad))
        q, kept = -grad, []
        for s, y in reversed(self.pairs):
            a = (s @ q) / (s @ y)
            q -= a * y
            kept.append((a, s, y))
        q = self.factor.solve((q / self.unit).astype(self.dtype)).astype(np.float64) * self.unit
        for a, s, y in reversed(kept):
            q += s * (a - (y @ q) / (s @ y))
        return self.objective.seen(q)

    def conjugate_gradients(self, b, tol=None) -> np.ndarray:
        """H x = b to min(1/2, sqrt(|b| / |first gradient|)), as close as Newton's steps pay for."""
        x, r = np.zeros_like(b), b.copy()
        z = self.scale * r
        p, rz = z, r @ z
        tol = min(0.5, np.sqrt(self.objective.norm(b) / self.first)) if tol is None else tol
        goal = tol**2 * rz
        for _ in range(10 * len(b)):
            if rz <= goal:
                break
            hp = self.objective.product(p)
            curvature = p @ hp
            if not curvature > 0:
                break
            a = rz / curvature
            x += a * p
            r -= a * hp
            z = self.scale * r
            rz, before = r @ z, rz
            p = z + (rz / before) * p
        return x if x.any() else z

    def search(self, theta, loss, step, slope, rounding):
        """The first of theta + step, theta + step / 2, ... whose loss falls enough (Armijo), or falls as far as
        rounding tells while the gradient along the step does; None if there is none.
        """
        t = 1.0
        while slope < 0 and t > 1e-12:
            new = theta + t * step
            hessian = self.objective.empty(self.dtype) if self.rough > 1 and t == 1 else None
            value, more = self.objective.value(new, hessian)
            self.passes += 1
            if value <= loss + 1e-4 * t * slope:
                return new, value, more, hessian
            if value <= loss + rounding and abs(more @ step) <= 0.5 * abs(slope):
                return new, value, more, hessian
            if -t * slope <= rounding:
                break
            t *= 0.5
        return None

    # -- Hessians

    def take(self, hessian):
        """Factor a Hessian; float64 where float32 does not do, an error where that does not either."""
        objective, rough = self.objective, self.rough > 1 and self.factor is None
        hessian = objective.finish(hessian)
        self.roots = np.sqrt(hessian.diagonal().astype(np.float64))
        factor = factored(hessian)
        if factor.minor and (rough or self.dtype != np.float64):
            self.dtype, self.rough = self.dtype if rough else np.dtype(np.float64), 1
            return self.take(objective.kernel.hessian(objective.empty(self.dtype)))
        if factor.minor:
            self.dependent(factor.minor - 1)
            factor = self.damped()
        self.factor = factor
        if not rough:
            self.rough = 1
        self.pairs, self.passes = [], 0

    def damped(self) -> Factor:
        """Of a Hessian that is regular by its penalty only: as it is if its pivots are more than rounding, else with
        the least ridge that rounding leaves alone.
        """
        for ridge in (0.0, 1e-10, 1e-8, 1e-6):
            hessian = self.objective.hessian(np.float64)
            hessian.reshape(-1)[:: len(hessian) + 1] *= 1 + ridge
            factor = factored(hessian) if ridge else Factor(hessian, overwrite=True)
            if not factor.minor:
                return factor
        raise ValueError(
            "X: expected values whose squares can be added up, got a Hessian that is not positive definite"
        )

    def pays(self, grad_norm) -> bool:
        """Whether a new Hessian does, for what is left at the pace of the last step; two passes would follow it."""
        if not self.dense or grad_norm <= self.tol or self.passes < self.ratio:
            return False
        pace = grad_norm / self.grad_norm
        return pace >= 1 or np.log(max(self.tol, EPS) / grad_norm) < (self.ratio + 2) * np.log(pace)

    def diagonal(self, theta) -> np.ndarray:
        """One over the diagonal of the Hessian, as if all rows had the mean curvature of the intercept alone."""
        objective = self.objective
        squares = np.ones((objective.k, objective.q))
        squares[:, : objective.d] = objective.mean_squares()
        z = theta.reshape(objective.k, objective.q)[:, -1:] if objective.q > objective.d else np.zeros((objective.k, 1))
        if objective.data.offset is not None:
            z = z + objective.data.offset.mean(axis=0)[:, None]
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        level = {
            "gaussian": lambda: np.ones(1),
            "binomial": lambda: 1 / (2 + 2 * np.cosh(z)),
            "poisson": lambda: np.exp(z),
            "multinomial": lambda: p * (1 - p),
        }[objective.family]()
        squares *= objective.total * level
        squares[:, : objective.d] += objective.l2
        return 1 / np.where(squares > 0, squares, 1).reshape(-1)

    # -- what cannot be solved

    def refuse_constants(self):
        """About a center, a constant column is rounding or 0, which need not look as if it depends on others."""
        objective = self.objective
        for column in objective.level if objective.l2 == 0 else ():
            if is_constant(objective.X[:, column]):
                self.dependent(column)

    def dependent(self, column):
        objective = self.objective
        if objective.l2 > 0:
            return
        column %= objective.q
        if column < objective.d and not TINY <= objective.deviations[column] <= 1 / TINY:
            raise ValueError(
                f"X: expected values whose squares are numbers, got a deviation of {objective.deviations[column]:.0e} "
                f"in column {column}; scale it"
            )
        which, way_out = f"column {column}, that depends on those before it", ""
        if column == objective.d:
            which = "columns that add up to a constant, as the intercept"
        elif objective.data.intercept and is_constant(objective.X[:, column]):
            which = f"columns that add up to a constant, as the intercept: column {column}"
        elif not objective.data.intercept:
            way_out = " (to rounding: that of columns far from zero hides how they differ; center them)"
        raise ValueError(
            f"X: expected linearly independent columns for l2=0, got {which}{way_out}; drop a column or pass l2 > 0"
        )

    def has_no_optimum(self, theta, grad) -> bool:
        """Without a penalty, classes that can be separated drive theta to infinity: the gradient vanishes there
        too, but the step does not.
        """
        objective = self.objective
        objective.value(theta)
        factor = factored(objective.hessian(np.float64)) if self.dense else None
        if factor is not None and factor.minor:
            return True
        step = self.conjugate_gradients(grad, 1e-3) if factor is None else factor.solve(grad)
        step, theta = (np.abs(a).reshape(objective.k, objective.q) * objective.deviations for a in (step, theta))
        return not step.max() <= 1e-3 * theta.max()

    def warn(self):
        way_out = "raise max_iter"
        if self.separated or (self.objective.l2 == 0 and self.objective.family != "gaussian"):
            way_out = "classes that can be separated have no finite solution: pass l2 > 0"
        elif self.stuck:
            way_out = "rounding hides what is left: center and scale the columns of X"
        warnings.warn(
            f"glm: not converged after {self.n_iter} steps, gradient {self.grad_norm:.1e}; {way_out}",
            RuntimeWarning,
            stacklevel=4,
        )
