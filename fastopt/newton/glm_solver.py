"""How a generalized linear model is solved: Newton's steps that know what a pass over the data costs.

- The first step only has to come near: its Hessian is that of every ROUGH-th panel of rows. The second is exact, but
  that of a part again of many sparse rows, which cost more in it than in a pass.
- Then a Hessian is kept: a step is that of its Cholesky factor, corrected by what the gradients since have
  shown of the curvature (L-BFGS that starts from the factor instead of from a multiple of the identity;
  Nocedal & Wright 2006, algorithm 7.4). That converges superlinearly from passes alone. A new Hessian comes
  once the passes since the last have cost as much, if, at the pace of the last step, the rest would too.
- The factor only leads the way, the gradient decides when to stop: H is float32, unless the pivots say that
  float32 cannot tell its columns apart.
- Where a Hessian costs more than MOST_PASSES passes: Newton's steps by conjugate gradients on Hessian-vector
  products, with a diagonal preconditioner, the tighter the closer (Nocedal & Wright, algorithm 7.1).
"""

import warnings

import numpy as np

from fastopt._conjugate_gradients import ConjugateGradients
from fastopt._forks import importing
from fastopt.newton.glm_data import is_constant
from fastopt.newton.glm_objective import EPS, TINY
from fastopt.newton.steps import Factor, dot

MOST_PASSES = 100  # a Hessian that costs more is not formed: all conjugate gradients of a fit mostly cost less
ROUGH = 8  # 100 000 x 50: 28.5 -> 22.4 ms, 50 000 x 100: 24.4 -> 21.0, 20 000 x 200 and x 300: as without
PAIRS = 10  # the most pairs of a step and its change of the gradient that correct the factor
LOG_LINKS = ("poisson", "gamma", "tweedie", "negative_binomial")
COERCIVE = ("gaussian", "gamma", "gamma_inverse")  # losses that grow on both sides: a minimum exists without a penalty
LEAST_PIVOT = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-11}  # of a column: 1 - R^2 on those before it


def start(objective, low=-np.inf, high=np.inf) -> np.ndarray:
    """The model of the coefficients nearest to 0 in (low, high) (k, d), with the intercept of the mean."""
    data, d = objective.data, objective.d
    theta = np.zeros((data.k, objective.q))
    theta[:, :d] = np.clip(0.0, low, high)
    if theta.any():
        offset = data.design.predictors(theta[:, :d])
        offset -= 0.0 if objective.center is None else theta[:, :d] @ objective.center
        data = data._replace(offset=offset if data.offset is None else offset + data.offset)
    family, y, weight = data.family, data.y, data.weight
    if family == "gamma_inverse":
        return start_in_domain(data, theta[0], low, high)
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
    if data.offset is not None and family in LOG_LINKS:
        largest = data.offset.max()
        theta[:, -1] -= largest + np.log(np.average(np.exp(data.offset - largest), axis=0, weights=weight))
    elif data.offset is not None:
        theta[:, -1] -= np.average(data.offset, axis=0, weights=weight)
    return theta.reshape(-1)


def start_in_domain(data, theta, low, high) -> np.ndarray:
    """A start of the inverse link, all of whose predictors are above 0; the coefficients of theta are in the offset.

    The intercept of the mean; without one a step of iteratively reweighted least squares from means halfway to y
    (McCullagh & Nelder 1989, section 2.5), or what a linear program finds.
    """
    d, weight = data.design.d, np.ones(len(data.y)) if data.weight is None else data.weight
    offset = np.zeros(len(data.y)) if data.offset is None else data.offset[:, 0]
    level = 1 / np.average(data.y, weights=weight)
    if data.intercept:
        theta[d] = level - np.average(offset, weights=weight)
        theta[d] = max(theta[d], 1e-3 * level - offset.min())
        return theta
    rows = weight > 0
    X = data.design.rows(0, data.design.n)
    X = (X if isinstance(X, np.ndarray) else X.toarray())[rows]
    y, offset, weight = data.y[rows], offset[rows], weight[rows]
    offset = offset - X @ theta
    means = (y + 1 / level) / 2
    scale = np.sqrt(weight) * means
    theta = np.linalg.lstsq(X * scale[:, None], ((2 - y / means) / means - offset) * scale, rcond=None)[0]
    low, high = np.broadcast_to(low, (1, d))[0], np.broadcast_to(high, (1, d))[0]
    theta = np.clip(theta, low, high)
    if (X @ theta + offset).min() > 0:
        return theta
    with importing:
        from scipy.optimize import linprog

    found = linprog(
        np.append(np.zeros(d), -1.0),
        np.column_stack([-X, np.ones(len(X))]),
        offset,
        bounds=[*zip(low, high, strict=True), (None, level)],
    )
    if found.x is None or not (X @ found.x[:d] + offset).min() > 0:
        raise ValueError(
            "X: expected rows whose linear predictors can all be above 0, as the inverse link asks, but no "
            "coefficients make them so; pass link='log' or fit_intercept=True"
        )
    return found.x[:d]


def factored(hessian) -> Factor:
    """The factor of a Hessian, which it overwrites; its `minor` names the first column that depends on those before."""
    return Factor(hessian, overwrite=True, least=LEAST_PIVOT[hessian.dtype])


def costs(objective) -> tuple[float, float]:
    """What a row costs in a pass, and in a Hessian of one predictor, in multiply-adds of a float32 Hessian.

    An element of X costs as much as 10 in a pass, and 3.5 more a predictor; one of the factor 14, of a solve as well.
    100 000 x 50: a Hessian costs 1.9 passes, 20 000 x 300: 11 (measured 1.9 and 9). An entry costs 40 a predictor, and
    two of a row 29 in a Hessian: 500 000 x 12 codes: 3.5 (measured 3.5).
    """
    design, k, q = objective.design, objective.k, objective.q
    d = design.dense.shape[1]
    of_row = d * (10 + 3.5 * k)
    if design.entries is None:
        return of_row, q * q / 2
    entries = len(design.entries.columns) / design.n + objective.data.intercept
    return of_row + 40 * k * entries + 250, d * d / 2 + 2 * d * entries + 29 * entries**2 / 2


class Solver:
    """Newton's iteration, to a point where the gradient vanishes; its attributes hold the result."""

    def __init__(self, objective, tol, max_iter, verbose, hessian_dtype):
        self.objective, self.tol, self.max_iter, self.verbose = objective, tol, max_iter, verbose
        # Sums over entries cost as much in float64, and only a penalty may tell the levels of several codes apart.
        self.dtype = np.dtype(hessian_dtype if objective.design.entries is None else np.float64)
        n, q, k = objective.design.n, objective.q, objective.k
        of_row, of_hessian = costs(objective)
        hessian = n * of_hessian * k * (k + 1) / 2 + (k * q) ** 3 / 4
        self.ratio = hessian / (n * of_row)
        self.dense = self.ratio <= MOST_PASSES
        self.ratio = hessian / (n * of_row + 14 * (k * q) ** 2) if self.dense else self.ratio
        # Of which part of the rows the first Hessians are, one of so many. 500 000 x 12 codes: a second one of a part
        # 143 -> 116 ms, without a penalty 189 -> 161.
        self.parts = [1] if self.dense else []
        if ROUGH > 1 and self.dense and objective.family != "gaussian" and n >= 4 * ROUGH * q:
            many = objective.design.entries is not None and n >= 16 * ROUGH * q
            self.parts = [ROUGH, ROUGH if many else 1]

    @property
    def active(self) -> np.ndarray | None:
        """Which coefficients lie at a bound; here there are none."""
        return None

    def first_value(self, theta, hessian=None, part=1) -> tuple[float, np.ndarray]:
        """Loss and gradient where the iteration starts."""
        self.n_iter = self.passes = 0
        self.converged = self.stuck = self.separated = False
        loss, grad = self.objective.value(theta, hessian, part)
        if not (np.isfinite(loss) and np.isfinite(grad).all()):
            self.objective.design.check_finite()
            raise ValueError("X, y, offset: expected values whose losses can be added up, got too large ones")
        self.first = self.objective.norm(grad)
        return loss, grad

    def run(self, theta):
        objective, total = self.objective, self.objective.total
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.factor: Factor | None = None
        hessian = objective.empty(self.dtype) if self.dense else None
        loss, grad = self.first_value(theta, hessian, *self.parts[:1])
        largest = float(np.abs(grad).max())
        self.unit = 1.0 if 1e-15 < largest < 1e30 else largest or 1.0  # that keeps gradients within float32
        if hessian is not None:
            self.refuse_constants()
            if self.parts[0] > 1 and objective.design.entries is not None and grad[hessian.diagonal() == 0].any():
                # a level that none of these rows has: a step by its penalty alone would lead far away
                self.parts = []
                hessian = objective.kernel.hessian(hessian)
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
                # float64 cannot tell what is left
                self.converged = not told or bool((np.abs(grad) <= of_gradient * self.roots).all())
                self.stuck = True
                break
            if self.dense and (new[0] - theta) @ (new[2] - grad) > 0:
                self.pairs = [*self.pairs, (new[0] - theta, new[2] - grad)][-PAIRS:]
            theta, loss, grad, hessian = new
            self.n_iter += 1
            if hessian is None and self.pays(objective.norm(grad) / total):
                self.parts = []
                hessian = objective.kernel.hessian(objective.empty(self.dtype))
            if hessian is not None:
                self.take(hessian)
        if self.converged and objective.l2 == 0 and objective.family not in COERCIVE:
            self.separated = self.has_no_optimum(theta, grad)
            self.converged = not self.separated
        if not self.converged:
            self.warn()

    # -- steps

    def direction(self, grad) -> np.ndarray:
        if self.factor is None:
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
        """Solve H x = b to a relative residual of min(1/2, sqrt(|b| / |first gradient|)): closer does not pay."""
        cg = ConjugateGradients(self.objective.product, b, dot, scale=self.scale)
        tol = min(0.5, np.sqrt(self.objective.norm(b) / self.first)) if tol is None else tol
        goal = tol**2 * cg.rz
        for _ in range(10 * len(b)):
            if cg.rz <= goal or not cg.look() > 0:
                break
            cg.move()
        return cg.x if cg.x.any() else cg.z

    def search(self, theta, loss, step, slope, rounding):
        """The first of theta + step, theta + step / 2, ... whose loss falls enough (Armijo), or falls as far as
        rounding tells while the gradient along the step does; None if there is none.
        """
        t = 1.0
        while slope < 0 and t > 1e-12:
            new = theta + t * step
            hessian = self.objective.empty(self.dtype) if self.parts and t == 1 else None
            value, more = self.objective.value(new, hessian, 1 if hessian is None else self.parts[0])
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
        """Factor a Hessian, in float64 where float32 cannot tell its columns apart; dependent columns are an error."""
        objective, part = self.objective, self.parts.pop(0) if self.parts else 1
        hessian = objective.finish(hessian)
        self.roots = np.sqrt(hessian.diagonal().astype(np.float64))
        factor = factored(hessian)
        if factor.minor and (part > 1 or self.dtype != np.float64):
            self.dtype, self.parts = self.dtype if part > 1 else np.dtype(np.float64), []
            return self.take(objective.kernel.hessian(objective.empty(self.dtype)))
        if factor.minor:
            self.refuse_dependent()
            self.factor = self.damped(lambda: objective.hessian(np.float64)) or self.factor
        else:
            self.factor = factor
        self.pairs, self.passes = [], 0

    def damped(self, make) -> Factor | None:
        """The factor of a Hessian that is singular to rounding: without a ridge if its pivots are above rounding, else
        with the least ridge that rounding leaves alone; None where rounding hides the curvature of separated classes.
        """
        for ridge in (0.0, 1e-10, 1e-8, 1e-6):
            hessian = make()
            hessian.reshape(-1)[:: len(hessian) + 1] *= 1 + ridge
            factor = factored(hessian) if ridge else Factor(hessian, overwrite=True)
            if not factor.minor:
                return factor
        if self.n_iter and self.objective.l2 == 0:
            return None
        raise ValueError(
            "X: expected values whose squares can be added up, got a Hessian that is not positive definite"
        )

    def pays(self, grad_norm) -> bool:
        """Whether a new Hessian, and the two passes after it, cost less than going on at the pace of the last step."""
        if not self.dense or grad_norm <= self.tol or self.passes < self.ratio:
            return False
        pace = grad_norm / self.grad_norm
        return pace >= 1 or np.log(max(self.tol, EPS) / grad_norm) < (self.ratio + 2) * np.log(pace)

    def diagonal(self, theta) -> np.ndarray:
        """One over the diagonal of the Hessian, as if all rows had the mean curvature of the intercept alone."""
        objective = self.objective
        squares = np.ones((objective.k, objective.q))
        squares[:, : objective.d] = objective.design.mean_squares(objective.center)
        z = theta.reshape(objective.k, objective.q)[:, -1:] if objective.q > objective.d else np.zeros((objective.k, 1))
        if objective.data.offset is not None:
            z = z + objective.data.offset.mean(axis=0)[:, None]
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        parameter = objective.data.parameter
        level = {
            "gaussian": lambda: np.ones(1),
            "binomial": lambda: 1 / (2 + 2 * np.cosh(z)),
            "poisson": lambda: np.exp(z),
            "multinomial": lambda: p * (1 - p),
            "gamma": lambda: np.ones(1),
            "gamma_inverse": lambda: np.average(objective.data.y, weights=objective.data.weight) ** 2,
            "tweedie": lambda: np.exp((2 - parameter) * z),
            "negative_binomial": lambda: 1 / (np.exp(-z) + parameter),
        }[objective.family]()
        squares *= objective.total * level
        squares[:, : objective.d] += objective.l2
        return 1 / np.where(squares > 0, squares, 1).reshape(-1)

    # -- what cannot be solved

    def refuse_constants(self):
        """About a center, a constant column is rounding or 0, which need not look as if it depends on others."""
        objective = self.objective
        for column in objective.level if objective.l2 == 0 else ():
            if is_constant(objective.design.column(column)):
                self.dependent(column)

    def refuse_dependent(self, among=None):
        """Raise ValueError if columns depend on each other, whatever their weights, and no penalty tells them apart.

        A Hessian may be singular though they do not: where the means of separated counts fade, so do the rows.
        """
        objective = self.objective
        if objective.l2 > 0:
            return
        k, q = objective.k, objective.q
        among = np.arange(q) if among is None else np.flatnonzero(among.reshape(k, q).any(axis=0))
        squares = objective.data.squares(objective.data.weight, objective.center)
        minor = factored(squares[np.ix_(among, among)]).minor
        if minor:
            self.dependent(among[minor - 1])

    def dependent(self, column):
        """Raise ValueError for a column that depends on others."""
        objective = self.objective
        if column < objective.d and not TINY <= objective.deviations[column] <= 1 / TINY:
            raise ValueError(
                f"X: expected values whose squares are numbers, got a deviation of {objective.deviations[column]:.0e} "
                f"in {objective.data.called(column)}; scale it"
            )
        which, way_out = "columns that add up to a constant, as the intercept", ""
        if column < objective.d:
            called = objective.data.called(column)
            constant = objective.data.intercept and is_constant(objective.design.column(column))
            which = f"{which}: {called}" if constant else f"{called}, that depends on those before it"
        if not objective.data.intercept:
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
        if factor is not None:
            return self.leads_on(theta, factor.solve(grad))
        # what rounding has left of a gradient that softmax does not see would lead on for ever
        return self.leads_on(theta, objective.seen(self.conjugate_gradients(objective.seen(grad.copy()), 1e-3)))

    def leads_on(self, theta, step) -> bool:
        """Whether a step, in deviations of the columns, is no small part of the way so far."""
        k, q, deviations = self.objective.k, self.objective.q, self.objective.deviations
        step, theta = (np.abs(a).reshape(k, q) * deviations for a in (step, theta))
        return not step.max() <= 1e-3 * theta.max()

    def warn(self):
        way_out = "raise max_iter"
        if self.separated or (self.objective.l2 == 0 and self.objective.family not in COERCIVE):
            way_out = "classes that can be separated have no finite solution: pass l2 > 0"
        elif self.stuck:
            way_out = "rounding hides what is left: center and scale the columns of X"
        warnings.warn(
            f"glm: not converged after {self.n_iter} steps, gradient {self.grad_norm:.1e}; {way_out}",
            RuntimeWarning,
            stacklevel=4,
        )
