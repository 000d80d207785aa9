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
- Softmax does not see a number added to all classes: steps have sum zero over the classes, as the solution has
  with a penalty, and H is made regular in the directions that are left.
- LAPACK runs on one thread: the same bits, however many threads there are.
"""

import warnings

import numpy as np

from fastopt._forks import computed_once, importing
from fastopt._kernels import core
from fastopt.newton.steps import Factor, condition_number, dot
from fastopt.threads import one_blas_thread

__all__ = ["GLMResult", "glm"]

MOST_PASSES = 100  # conjugate gradients take fewer than that, all Newton steps together, on most problems
ROUGH = 8  # 100 000 x 50: 28.5 -> 22.4 ms, 50 000 x 100: 24.4 -> 21.0, 20 000 x 200 and x 300: as without
PAIRS = 10  # of steps and changes of the gradient, that correct the factor
LEAST_PIVOT = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-11}  # 1 - R^2 of a column on those before
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
) -> "GLMResult":
    """Fit a generalised linear model: ``sum(w * loss) + l2 / 2 * ||coef||^2``, the intercept free.

    Parameters
    ----------
    X : array_like, shape (n, d), float32 or float64
        float32 is read as it is and computed with in float64; other dtypes are converted.
    y : array_like, shape (n,)
        "gaussian": values; "poisson": values of at least 0; "binomial": two classes, "multinomial": two or
        more, any labels.
    family : str
        "gaussian" (identity link), "binomial" (logit), "multinomial" (softmax) or "poisson" (log).
    l2 : float
        At least 0; scikit-learn's ``1 / C``, and the ``alpha`` of its Ridge.
    fit_intercept : bool
    sample_weight : array_like, shape (n,), optional
        Finite and at least 0. A row of weight 0 is as if absent.
    tol : float
        The fit has converged when no component of the gradient exceeds ``tol * sum(w)`` and half the Newton
        decrement does neither, or when what a step promises is below the rounding of the loss.
    max_iter : int
        Steps at most.
    verbose : bool
        Print a line for each step.
    hessian_dtype : {"float32", "float64"}
        What steps are computed with. Where columns are too much alike for float32, it is float64 in any
        case; gradient, stopping rule and so the solution are float64 always.

    Returns
    -------
    GLMResult

    Raises
    ------
    TypeError, ValueError
        Wrong dtype or shape, values that are not finite, a `y` that the family does not have, fewer than
        two classes, or linearly dependent columns with ``l2=0``.

    Warns
    -----
    RuntimeWarning
        The fit did not converge, as when classes can be separated and ``l2=0``.

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
    for name, value in (("l2", l2), ("tol", tol)):
        if not (isinstance(value, (int, float, np.number)) and 0 <= value < np.inf):
            raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}")
    if isinstance(max_iter, bool) or not hasattr(max_iter, "__index__") or max_iter < 0:
        raise ValueError(f"max_iter: expected a whole number of at least 0, got {max_iter!r}")
    if hessian_dtype not in ("float32", "float64"):
        raise ValueError(f"hessian_dtype: expected 'float32' or 'float64', got {hessian_dtype!r}")
    X = as_rows(X)
    weight = as_weight(sample_weight, len(X))
    y, classes = as_target(y, family, weight, len(X))
    k = 1 if classes is None or family == "binomial" else len(classes)
    objective = Objective(family, X, y, weight, k, float(l2), bool(fit_intercept))
    with one_blas_thread, np.errstate(all="ignore"):
        inner, back = in_row_space(objective, y, weight)
        solver = Solver(inner, float(tol), int(max_iter), bool(verbose), hessian_dtype)
        solver.run(start(inner, y, weight))
        solver.theta = back(solver.theta)
    return GLMResult(objective, solver, classes)


# ---------------------------------------------------------------- what a caller gives


def as_rows(X) -> np.ndarray:
    """X as a C-contiguous float32 or float64 array of at least one row and column."""
    X = np.asarray(X)
    if X.ndim != 2 or X.shape[0] == 0 or X.shape[1] == 0:
        raise ValueError(
            f"X: expected shape (n, d), n and d at least 1, got {X.shape}; pass X.reshape(-1, 1) for one column"
        )
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X: expected real numbers, got dtype {X.dtype}")
    return np.require(X, X.dtype.newbyteorder("=") if X.dtype in (np.float32, np.float64) else np.float64, ["C", "A"])


def as_weight(weight, n) -> np.ndarray | None:
    if weight is None:
        return None
    weight = np.require(weight, np.float64, ["C", "A"])
    if weight.shape != (n,):
        raise ValueError(f"sample_weight: expected shape ({n},), got {weight.shape}")
    if not (np.isfinite(weight).all() and weight.min() >= 0 and weight.max() > 0):
        raise ValueError("sample_weight: expected finite weights of at least 0, not all of them 0")
    return weight


def as_target(y, family, weight, n) -> tuple[np.ndarray, np.ndarray | None]:
    """y as the kernel takes it, and the classes of a classifier."""
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f"y: expected shape ({n},) for X of {n} rows, got {y.shape}")
    if family in ("gaussian", "poisson"):
        if y.dtype.kind not in "biuf":
            raise TypeError(f"y: expected real numbers for {family}, got dtype {y.dtype}")
        y = np.require(y, np.float64, ["C", "A"])
        if not np.isfinite(y).all():
            raise ValueError("y: expected finite values, got NaN or infinity")
        if family == "poisson" and y.min() < 0:
            raise ValueError(f"y: expected values of at least 0 for poisson, got {y.min()}")
        if family == "poisson" and not (y if weight is None else y * weight).any():
            raise ValueError(
                "y: expected a positive value among the rows of positive weight for poisson, got only zeros"
            )
        return y, None
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("y: expected class labels, got NaN or infinity")
    two = two_classes(y)
    classes, codes = two if two is not None else np.unique(y, return_inverse=True)
    if family == "binomial" and len(classes) > 2:
        raise ValueError(
            f"y: expected two classes for binomial, got {len(classes)} different values; "
            "pass family='multinomial' for more classes, 'gaussian' or 'poisson' for numbers"
        )
    codes = codes.astype(np.float64)
    if two is not None and weight is None:
        return codes, classes
    seen = np.bincount(codes.astype(np.intp), weight, len(classes)) > 0
    if seen.sum() < 2 or not seen.all():
        raise ValueError(
            f"y: expected at least two classes, each with rows of positive weight, got {classes[seen].tolist()}"
        )
    return codes, classes


def two_classes(y):
    """Classes and codes of y if it has two, without a sort; else None."""
    if y.dtype.kind not in "biuf" or not len(y):
        return None
    classes = np.array([y.min(), y.max()])
    upper = y == classes[1]
    return (classes, upper) if classes[0] != classes[1] and (upper | (y == classes[0])).all() else None


# ---------------------------------------------------------------- the objective


class Objective:
    """Loss and gradient of theta (k q,), its Hessian and products with it, penalty included."""

    def __init__(self, family, X, y, weight, k, l2, intercept):
        self.data = core.GlmData(family, X, y, weight, k, intercept)
        self.family, self.X, self.k, self.d, self.l2 = family, X, k, X.shape[1], l2
        self.q = self.d + intercept
        self.total = float(len(X) if weight is None else weight.sum())
        self.rows = len(X) if weight is None else int(np.count_nonzero(weight))
        self.rotated = False  # X stands for one with more columns

    def penalise(self, grad, theta):
        """grad += l2 coef."""
        if self.l2:
            grad.reshape(self.k, self.q)[:, : self.d] += self.l2 * theta.reshape(self.k, self.q)[:, : self.d]
        return grad

    def norm(self, grad) -> float:
        """The largest component; of a rotated gradient the length, which bounds it."""
        if self.rotated:
            return float(np.sqrt((grad.reshape(self.k, self.q) ** 2).sum(axis=1).max()))
        return float(np.abs(grad).max())

    def value(self, theta, hessian=None, step=1) -> tuple[float, np.ndarray]:
        grad = np.empty((self.k, self.q))
        loss = self.data.value(theta.reshape(self.k, self.q), grad, hessian, step)
        coef = theta.reshape(self.k, self.q)[:, : self.d]
        return loss + 0.5 * self.l2 * float(np.vdot(coef, coef)), self.penalise(grad.reshape(-1), theta)

    def product(self, v) -> np.ndarray:
        out = self.data.product(v.reshape(self.k, self.q), np.empty((self.k, self.q)))
        return self.penalise(out.reshape(-1), v)

    def centre(self, step) -> np.ndarray:
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
        return self.finish(self.data.hessian(self.empty(dtype)))


def in_row_space(objective, y, weight):
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
    space, factor = qr(X.T.astype(np.float64), mode="economic", overwrite_a=True, check_finite=False)
    inner = Objective(objective.family, np.ascontiguousarray(factor.T), y, weight, k, objective.l2, objective.q > d)
    inner.rotated = True

    def back(theta):
        theta = theta.reshape(k, inner.q)
        return np.hstack([theta[:, :n] @ space.T, theta[:, n:]]).reshape(-1)

    return inner, back


def check_finite(X):
    bad = np.flatnonzero(~np.isfinite(X).all(axis=0))
    if bad.size:
        raise ValueError(f"X: expected finite values, got NaN or infinity in column {bad[0]}")


def start(objective, y, weight) -> np.ndarray:
    """The model without coefficients: the intercept of the mean, or zeros."""
    theta = np.zeros((objective.k, objective.q))
    if objective.q > objective.d:
        if objective.family == "multinomial":
            share = np.bincount(y.astype(np.intp), weight, objective.k) / objective.total
            theta[:, -1] = np.log(share) - np.log(share).mean()
        else:
            mean = np.average(y, weights=weight)
            if objective.family == "binomial":
                mean = mean / (1 - mean)
            theta[0, -1] = mean if objective.family == "gaussian" else np.log(mean)
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
        self.pairs, self.factor, self.n_iter, self.passes, self.converged = [], None, 0, 0, False
        hessian = objective.empty(self.dtype) if self.dense else None
        loss, grad = objective.value(theta, hessian, self.rough)
        if not (np.isfinite(loss) and np.isfinite(grad).all()):
            check_finite(objective.X)
            raise ValueError("X: expected finite values, got values too large to add up")
        self.first = objective.norm(grad)
        if self.dense:
            self.take(hessian)
        else:
            self.scale = self.diagonal(theta)
        while True:
            self.theta, self.loss, self.grad_norm = theta, loss, objective.norm(grad) / total
            step = self.direction(grad)
            slope = float(grad @ step)
            if self.verbose:
                print(f"{self.n_iter:4d}  loss {loss:.12g}  gradient {self.grad_norm:.2e}  decrement {-slope:.2e}")
            self.converged = self.grad_norm <= self.tol and -0.5 * slope <= self.tol * total
            if self.converged or self.n_iter == self.max_iter:
                break
            new, told = self.search(theta, loss, grad, step, slope), -slope > 8 * EPS * abs(loss)
            if new is None or not (told or objective.norm(new[2]) <= 0.5 * objective.norm(grad)):
                self.converged = not told  # nothing is left that float64 could tell
                break
            if self.dense and (new[0] - theta) @ (new[2] - grad) > 0:
                self.pairs = [*self.pairs, (new[0] - theta, new[2] - grad)][-PAIRS:]
            theta, loss, grad, hessian = new
            self.n_iter += 1
            if hessian is not None or self.pays(objective.norm(grad) / total):
                self.take(objective.data.hessian(objective.empty(self.dtype)) if hessian is None else hessian)
        if self.converged and objective.l2 == 0 and objective.family != "gaussian":
            self.check_finite_optimum(theta, grad)
        if not self.converged:
            self.warn()

    # -- steps

    def direction(self, grad) -> np.ndarray:
        if not self.dense:
            return self.objective.centre(self.conjugate_gradients(-grad))
        q, kept = -grad, []
        for s, y in reversed(self.pairs):
            a = (s @ q) / (s @ y)
            q -= a * y
            kept.append((a, s, y))
        q = self.factor.solve(q.astype(self.dtype)).astype(np.float64)
        for a, s, y in reversed(kept):
            q += s * (a - (y @ q) / (s @ y))
        return self.objective.centre(q)

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

    def search(self, theta, loss, grad, step, slope):
        """The first of theta + step, theta + step / 2, ... whose loss falls enough (Armijo), or falls as far as
        rounding tells while the gradient along the step does; None if there is none.
        """
        rounding = 8 * EPS * abs(loss)
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
        factor = factored(objective.finish(hessian))
        if factor.minor and (rough or self.dtype != np.float64):
            self.dtype, self.rough = self.dtype if rough else np.dtype(np.float64), 1
            return self.take(objective.data.hessian(objective.empty(self.dtype)))
        if factor.minor:
            self.dependent(factor.minor - 1)
            factor = self.damped()
        self.factor = factor
        if not rough:
            self.rough = 1
        self.pairs, self.passes = [], 0

    def damped(self) -> Factor:
        """Of a Hessian that is regular by its penalty only: the least ridge that rounding leaves alone."""
        for ridge in (1e-10, 1e-8, 1e-6):
            hessian = self.objective.hessian(np.float64)
            hessian.reshape(-1)[:: len(hessian) + 1] *= 1 + ridge
            factor = factored(hessian)
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
        squares[:, : objective.d] = np.einsum("ij,ij->j", objective.X, objective.X, dtype=np.float64) / len(objective.X)
        z = theta.reshape(objective.k, objective.q)[:, -1:] if objective.q > objective.d else np.zeros((objective.k, 1))
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

    def dependent(self, column):
        objective = self.objective
        if objective.l2 > 0:
            return
        column %= objective.q
        which = f"column {column}, that depends on those before it"
        if column == objective.d:
            which = "columns that add up to a constant, as the intercept"
        raise ValueError(
            f"X: expected linearly independent columns for l2=0, got {which}; drop a column or pass l2 > 0"
        )

    def check_finite_optimum(self, theta, grad):
        """Without a penalty, classes that can be separated drive theta to infinity: the gradient vanishes there
        too, but the step does not.
        """
        self.objective.value(theta)
        factor = factored(self.objective.hessian(np.float64)) if self.dense else None
        if factor is not None and factor.minor:
            self.converged = False
            return
        step = self.conjugate_gradients(grad, 1e-3) if factor is None else factor.solve(grad)
        self.converged = bool(np.abs(step).max() <= 1e-3 * np.abs(theta).max())

    def warn(self):
        way_out = "raise max_iter"
        if self.objective.l2 == 0:
            way_out = "classes that can be separated have no finite solution: pass l2 > 0"
        warnings.warn(
            f"glm: not converged after {self.n_iter} steps, gradient {self.grad_norm:.1e}; {way_out}",
            RuntimeWarning,
            stacklevel=4,
        )


# ---------------------------------------------------------------- the result


class GLMResult:
    """A fitted model.

    Attributes
    ----------
    coef : ndarray, shape (d,), or (k, d) for multinomial
    intercept : float, or ndarray, shape (k,), for multinomial
        0 without an intercept.
    family : str
    classes : ndarray, shape (k,), or None
        The labels in the order of `predict_proba`; None for gaussian and poisson.
    converged : bool
    n_iter : int
        Steps taken.
    loss : float
        The objective at the solution, penalty included.
    grad_norm : float
        The largest component of the gradient there, over the sum of the weights: what `tol` bounds.
    """

    def __init__(self, objective, solver, classes):
        theta = solver.theta.reshape(objective.k, objective.q)
        coef, intercept = theta[:, : objective.d].copy(), theta[:, objective.d :]
        intercept = intercept[:, 0].copy() if intercept.size else np.zeros(objective.k)
        many = objective.family == "multinomial"
        self.coef, self.intercept = (coef, intercept) if many else (coef[0], float(intercept[0]))
        self.family, self.classes = objective.family, classes
        self.converged, self.n_iter = bool(solver.converged), solver.n_iter
        self.loss, self.grad_norm = solver.loss, solver.grad_norm
        self._theta, self._l2, self._rows = theta.copy(), objective.l2, objective.rows
        self._objective = objective  # holds X until the Hessian has been asked for

    def __getstate__(self):
        return self.__dict__ | {"_objective": None}  # models are kept without the data

    def __repr__(self):
        return (
            f"GLMResult({self.family}, {self.coef.size} coefficients, n_iter={self.n_iter}, converged={self.converged})"
        )

    # -- predictions

    def decision_function(self, X) -> np.ndarray:
        """The linear predictors: (n,), or (n, k) for multinomial."""
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.coef.shape[-1]:
            raise ValueError(f"X: expected shape (n, {self.coef.shape[-1]}), got {X.shape}")
        with one_blas_thread:
            return X @ self.coef.T + self.intercept

    def predict(self, X) -> np.ndarray:
        """The mean of y for gaussian and poisson, else the most probable class of each row."""
        z = self.decision_function(X)
        if self.classes is None:
            return np.exp(z) if self.family == "poisson" else z
        return self.classes[z.argmax(axis=1) if z.ndim == 2 else (z > 0).astype(np.intp)]

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each class, (n, k)."""
        if self.classes is None:
            raise ValueError(
                f"family: expected binomial or multinomial for probabilities, got {self.family}; use predict"
            )
        z = self.decision_function(X)
        z = np.column_stack([-0.5 * z, 0.5 * z]) if z.ndim == 1 else z
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    # -- what the Hessian says; computed when asked for

    @computed_once
    def hessian(self) -> np.ndarray:
        """The Hessian of the objective, float64. Rows and columns: coef, then the intercept, class by class."""
        objective = self._objective
        if objective is None:
            raise ValueError("hessian: expected to be asked for before the model was pickled, for it needs the data")
        lower = objective.empty(np.float64)
        objective.value(self._theta.reshape(-1), lower)
        penalty = np.zeros_like(self._theta)
        penalty[:, : objective.d] = objective.l2
        full = np.tril(lower)
        full += np.tril(full, -1).T
        full.reshape(-1)[:: len(full) + 1] += penalty.reshape(-1)
        self._objective = None
        return full

    def _contrasts(self, matrix, back=False):
        """For softmax, the matrix over the k - 1 directions that it sees, or back; else itself."""
        k, q = self._theta.shape
        if k == 1:
            return matrix
        with importing:
            from scipy.linalg import helmert

        basis = np.kron(helmert(k), np.eye(q))
        with one_blas_thread:
            return basis.T @ matrix @ basis if back else basis @ matrix @ basis.T

    @computed_once
    def covariance(self) -> np.ndarray:
        """Dispersion times the inverse Hessian, rows and columns as in `hessian`.

        The dispersion is 1, and the residual variance for gaussian: sum(w r^2) over the rows of positive weight
        less the parameters. For multinomial it is the covariance of the parameters whose sum over the classes
        is 0.
        """
        with importing:
            from scipy.linalg import cho_factor, cho_solve

        with one_blas_thread:
            reduced = self._contrasts(self.hessian)
            inverse = cho_solve(cho_factor(reduced), np.eye(len(reduced)))
            return self.dispersion * self._contrasts(inverse, back=True)

    @property
    def dispersion(self) -> float:
        """1, or the residual variance for gaussian."""
        if self.family != "gaussian":
            return 1.0
        freedom = self._rows - self._theta.size
        squares = 2 * self.loss - self._l2 * dot(self.coef, self.coef)
        return squares / freedom if freedom > 0 else np.nan

    @computed_once
    def condition_number(self) -> float:
        """Largest over smallest eigenvalue of the Hessian (for multinomial, over the directions it sees)."""
        return condition_number(self._contrasts(self.hessian))
