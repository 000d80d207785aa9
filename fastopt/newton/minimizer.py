"""Minimization by Newton steps inside a trust region.

One loop for all methods (Nocedal & Wright 2006, algorithm 4.1). What differs is the model that proposes
steps, and it alone sees second derivatives:

- `_Exact` ("newton"): Cholesky where the whole Newton step fits into the region, otherwise the exact
  minimum of the model in it, from the eigenvectors (section 4.3; Moré & Sorensen 1983).
- `_SaddleFree`: the same with the magnitudes of the eigenvalues (Dauphin et al. 2014).
- `_Truncated` ("newton_cg"): conjugate gradients that end at the border of the region or at negative
  curvature (Steihaug 1983), from products with the Hessian.

A Hessian is asked for once a point, and only where the loop stays: at x0 and at accepted points. The
first region is unlimited, so that the whole Newton step is tried first: a quadratic takes one.
A gradient within tol ends nothing by itself: the curvature there is looked at, and a saddle is left.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastopt._arrays import as_numbers, require_finite
from fastopt._conjugate_gradients import ConjugateGradients
from fastopt._forks import computed_once, importing
from fastopt._numbers import finite_number, whole_number
from fastopt.newton.steps import Factor, dot, eigensystem, rounding
from fastopt.threads import one_blas_thread

EPS = float(np.finfo(np.float64).eps)
ACCEPTED = 0.1  # the least share of the predicted decrease that a step must bring
POOR, GOOD = 0.25, 0.75  # shares below which the radius shrinks, above which it grows
SHRUNK, GROWN = 0.5, 2.0
NOISE = 10  # eps of the objective: smaller differences are rounding
LARGEST = 5000  # parameters up to which a sparse Hessian is made dense, 200 MB
LOWEST = -1e150  # what falls below has no lower bound, or none whose square is a number
PROBES = 100  # the most products that a search for negative curvature takes

MESSAGES = {
    0: "The gradient is zero within tol, and no curvature is negative.",
    1: "max_iter iterations did not bring the gradient below tol.",
    2: "The gradient is above tol, but what a step could still gain is lost in the rounding of the objective.",
    3: "The Hessian, or a product with it, is not finite at x.",
    4: "The objective has no lower bound.",
    99: "The callback ended the minimization.",
}
FLAT = " It is flat along {} direction(s) or more: the second order does not tell whether this is a minimum."
FAINT = "The gradient is zero within tol; along negative curvature the objective falls by no more than its rounding."


class Proposal(NamedTuple):
    """A step within the radius, the decrease that the model predicts, and whether the radius cut it."""

    step: np.ndarray
    decrease: float
    cut: bool


# ---------------------------------------------------------------- the objective


class _Objective:
    """The caller's functions: counted, their results checked, x handed out as a copy."""

    _hessian: Any  # None where the caller gives none: a method that needs it is refused by `require`
    _hvp: Any

    def __init__(self, objective, jac, hess, hessp, d):
        self.nfev = self.njev = self.nhev = 0
        self.eps = EPS  # of the widest rounding among what the functions return: one may work in float32
        self._d, self._both = d, False
        if hasattr(objective, "value") and hasattr(objective, "gradient"):
            if not (jac is None and hess is None and hessp is None):
                raise TypeError("jac, hess, hessp: expected None beside an object that has a gradient")
            self._value, self._gradient = objective.value, objective.gradient
            self._hessian, self._hvp = getattr(objective, "hessian", None), getattr(objective, "hvp", None)
        elif callable(objective) and (callable(jac) or jac is True):
            self._value, self._gradient, self._both = objective, jac, jac is True
            self._hessian, self._hvp = hess, hessp
        else:
            raise TypeError(
                "objective: expected an object with value, gradient and hessian or hvp, or a function with jac= and "
                f"hess= or hessp=, got {type(objective).__name__} with jac={jac!r}"
            )

    def require(self, method):
        """Refuse a method for which a derivative is missing."""
        if not (self._hessian or (method == "newton_cg" and self._hvp)):
            way_out = "; with products alone use method='newton_cg'" if self._hvp else ""
            raise TypeError(f"objective: expected a hessian (hess=) for method {method!r}, got none{way_out}")

    def value(self, x) -> float:
        self.nfev += 1
        value = self._value(x.copy())
        if self._both:
            value, self._gradient_there = value
        value = as_numbers("value", value)
        if value.size != 1:
            raise ValueError(f"objective: expected a number as its value, got shape {value.shape}")
        return float(self._checked("value", value, *value.shape).item())

    def gradient(self, x) -> np.ndarray:
        """At the point where the value was taken last."""
        self.njev += 1
        return self._checked("gradient", self._gradient_there if self._both else self._gradient(x.copy()), self._d)

    def hessian(self, x) -> np.ndarray:
        H = self._hessian_at(x)
        if not hasattr(H, "toarray"):
            return H
        if self._d > LARGEST:
            raise ValueError(
                f"hess: expected at most {LARGEST} parameters of a sparse Hessian for a method that factors it, "
                f"got {self._d}; use method='newton_cg'"
            )
        return H.toarray()

    def _hessian_at(self, x):
        """Dense or sparse, as it comes."""
        self.nhev += 1
        H = self._hessian(x.copy())
        if not hasattr(H, "toarray"):
            return self._checked("hessian", H, self._d, self._d)
        if H.shape != (self._d, self._d):
            raise ValueError(f"objective: expected a hessian of shape ({self._d}, {self._d}), got {H.shape}")
        H = H.tocsr()
        self._checked("hessian", H.data, *H.data.shape)
        return H.astype(np.float64)

    def product(self, x):
        """The function v -> H v at x."""
        if not self._hvp:
            H = self._hessian_at(x)

            def product_of_hessian(v):
                with one_blas_thread:
                    return H @ v

            return product_of_hessian

        def product(v):
            self.nhev += 1
            return self._checked("hvp", self._hvp(x.copy(), v.copy()), self._d)

        return product

    def _checked(self, name, array, *shape):
        array = as_numbers(name, array)
        if array.shape != shape:
            raise ValueError(f"objective: expected a {name} of shape {shape}, got {array.shape}")
        if array.dtype.kind == "f":
            self.eps = max(self.eps, float(np.finfo(array.dtype).eps))
        return array.astype(np.float64)

    @property
    def curved(self) -> float:
        """The share of the largest eigenvalue below which a curvature counts as none."""
        return self.eps**0.5


# ---------------------------------------------------------------- the models


class _Exact:
    """The quadratic model with all of the Hessian; `definite` if that is positive definite."""

    def __init__(self, objective, x, g):
        self.hess, self.g, self.reach = objective.hessian(x), g, max(1.0, _norm(x))
        self.curved = objective.curved
        self.finite = bool(np.isfinite(np.tril(self.hess)).all())
        if not self.finite:
            return
        with one_blas_thread:
            factor = Factor(self.hess)
            self.definite = not factor.minor
            if self.definite:
                self._newton = -factor.solve(g)

    @computed_once
    def _eigen(self):
        return eigensystem(self.hess)

    def saddle(self) -> bool:
        """Whether some curvature is negative."""
        if self.definite:
            return False
        values = self._eigen[0]
        return bool(values[0] < -self.curved * np.abs(values).max())

    def flat(self) -> int:
        """Along how many directions there is no curvature."""
        if self.definite:
            return 0
        size = np.abs(self._eigen[0])
        return int((size <= self.curved * size.max()).sum())

    def propose(self, radius, leaving) -> Proposal:
        if self.definite and _norm(self._newton) <= min(radius, -LOWEST):
            return Proposal(self._newton, -0.5 * dot(self.g, self._newton), False)
        values, vectors = self._eigen
        with one_blas_thread:
            c = self.g @ vectors
            values = self._bent(values, leaving)
            p, cut = _within(values, c, radius if math.isfinite(radius) else self.reach)
            return Proposal(vectors @ p, -float(c @ p) - 0.5 * float(values @ p**2), cut)

    def _bent(self, values, leaving):
        return values


class _SaddleFree(_Exact):
    """The model of the magnitudes, which has a minimum; a saddle itself is left by the true curvature."""

    def _bent(self, values, leaving):
        return values if leaving else np.abs(values)


def _within(values, c, radius) -> tuple[np.ndarray, bool]:
    """The minimum of ``c·p + ½ Σ values p²`` over ``‖p‖ ≤ radius``, and whether the radius cuts it.

    It is ``p = −c / (values + λ)`` with the λ ≥ 0 that makes it fit. In ``s = λ + min(values)`` and the gaps
    between eigenvalues nothing cancels, however small s is: the hard case (no slope along the lowest
    curvature) is a common one as soon as that slope is as large as its rounding.
    """
    size, zero, low = _norm(c), rounding(values), values.argmin()
    flat = values <= zero
    if values[low] >= -zero and not (np.abs(c[flat]) > EPS**0.5 * size).any():
        p = -np.divide(c, values, out=np.zeros_like(c), where=~flat)
        if _norm(p) <= radius:
            return p, False
    c = c.copy()
    c[low] = math.copysign(max(abs(c[low]), EPS * (size or 1.0)), c[low])
    gaps = values - values[low]
    s = max(values[low], abs(c[low]) / radius)  # ‖p‖ ≥ radius here, and Newton on 1/‖p‖ keeps to this side
    for _ in range(100):
        p = -c / (gaps + s)
        length = _norm(p)
        if length <= radius * (1 + 1e-10):
            break
        s += (length - radius) / radius * length**2 / float(np.sum(p**2 / (gaps + s)))  # (4.44)
    return p, True


class _Truncated:
    """The quadratic model as far as products with the Hessian tell."""

    hess = None

    def __init__(self, objective, x, g):
        self.product, self.g, self.reach, self.finite = objective.product(x), g, max(1.0, _norm(x)), True
        self._objective = objective  # whose products tell their rounding as they come

    def _descend(self, g, radius, tol, most, reach=0.0):
        found = _steihaug(self.product, g, radius, tol, most, reach)
        self.finite = self.finite and math.isfinite(found.curvature)
        return found

    def saddle(self) -> bool:
        """Whether conjugate gradients meet negative curvature on their way to the solution of H p = −b, for a
        fixed b that leaves no direction out (Royer, O'Neill & Wright 2020, procedure 2).
        """
        b = np.random.default_rng(0).standard_normal(len(self.g))
        self._out = self._descend(b, math.inf, EPS**0.5 * _norm(b), min(len(b), PROBES))
        return self._out.curvature < -self._objective.curved * _norm(self._out.d) * _norm(self._out.Hd)

    def flat(self) -> int:
        """1 if the search of `saddle` has met a direction without curvature; how many there are it cannot tell."""
        return int(self._out.curvature <= self._objective.curved * _norm(self._out.d) * _norm(self._out.Hd))

    def propose(self, radius, leaving) -> Proposal:
        if leaving:
            d, slope, curvature = self._out.d, dot(self.g, self._out.d), self._out.curvature
            t = math.copysign((radius if math.isfinite(radius) else self.reach) / _norm(d), -slope)
            return Proposal(t * d, -t * slope - 0.5 * t * t * curvature, True)
        size = _norm(self.g)
        found = self._descend(self.g, radius, min(0.5, size**0.5) * size, 2 * len(self.g), self.reach)
        return Proposal(found.p, -dot(self.g, found.p) - 0.5 * dot(found.p, found.Hp), found.cut)


class _Found(NamedTuple):
    """Where conjugate gradients ended: p, H p, whether at the border, and the last direction d with H d and dᵀHd."""

    p: np.ndarray
    Hp: np.ndarray
    cut: bool
    d: np.ndarray
    Hd: np.ndarray
    curvature: float


def _steihaug(product, g, radius, tol, most, reach) -> _Found:
    """Conjugate gradients on ``g·p + ½ p·H p``, from p = 0 to a residual of at most tol (algorithm 7.2).

    A direction that leaves the region, or along which curvature is not positive, is followed to its border
    and is the last one. An unlimited region ends at `reach`, or at p where that is farther.
    """
    cg, Hp = ConjugateGradients(product, -g, dot), np.zeros_like(g)
    for _ in range(most):
        curvature, d, Hd = cg.look(), cg.p, cg.Ap
        alpha = cg.rz / curvature if curvature > 0 else math.inf
        if not (curvature > 0 and _norm(cg.x + alpha * d) < radius):
            alpha = _to_border(cg.x, d, radius if math.isfinite(radius) else max(reach, _norm(cg.x)))
            return _Found(cg.x + alpha * d, Hp + alpha * Hd, True, d, Hd, curvature)
        cg.move()
        Hp += alpha * Hd
        if _norm(cg.r) <= tol:
            break
    return _Found(cg.x, Hp, False, d, Hd, curvature)


def _to_border(p, d, border) -> float:
    """The t ≥ 0 with ``‖p + t d‖ = border``; 0 from the border on."""
    b, left = dot(p, d), border**2 - dot(p, p)
    return left / (b + math.sqrt(b * b + dot(d, d) * left)) if left > 0 else 0.0


MODELS = {"newton": _Exact, "newton_cg": _Truncated, "saddle_free": _SaddleFree}


# ---------------------------------------------------------------- the loop


class _Search:
    """Where a minimization stands: the point with its value, gradient and model, and the radius."""

    def __init__(self, f, x, kind, tol):
        self.f, self.kind, self.tol = f, kind, tol
        self.radius, self.nit, self.note = math.inf, 0, None
        value, g = f.value(x), f.gradient(x)
        if not (math.isfinite(value) and np.isfinite(g).all()):
            raise ValueError(f"x0: expected a point of finite value and gradient, got value {value}, gradient {g}")
        self._move(x, value, g)

    def _move(self, x, value, g):
        self.x, self.value, self.g = x, value, g
        self.model = self.kind(self.f, x, g)
        self.small = _norm(g) <= self.tol
        self.leaving = self.small and self.model.finite and self.model.saddle()

    def ended(self, max_iter):
        """The status to end with here, or None."""
        if not self.model.finite:
            return 3
        if self.small and not self.leaving:
            flat = self.model.flat()
            self.note = MESSAGES[0] + (FLAT.format(flat) if flat else "")
            return 0
        return 1 if self.nit >= max_iter else None

    def advance(self):
        """Try a step, move if it brings enough, fit the radius; the status to end with, or None."""
        step, decrease, cut = self.model.propose(self.radius, self.leaving)
        if not self.model.finite:
            return 3
        trial = self.x + step
        value = _tried(self.f.value, trial)
        self.nit += 1
        if value < LOWEST:
            return 4
        # what rounding can hide is granted; where it can hide all of the decrease, the gradient must be shorter.
        # A value larger than model and decrease allow is no rounding, however much of that it has
        noise = NOISE * self.f.eps * max(abs(self.value), min(abs(value), abs(self.value) + decrease))
        hidden = not decrease > noise or np.array_equal(trial, self.x)
        ratio = (self.value - value + noise) / (decrease + noise) if math.isfinite(value) and decrease > 0 else -1.0
        g = _tried(self.f.gradient, trial) if ratio >= ACCEPTED else math.nan
        taken = bool(np.isfinite(g).all()) and not (hidden and _norm(g) >= _norm(self.g))
        if hidden and not taken:
            self.note = FAINT if self.leaving else None
            return 0 if self.leaving else 2
        if not taken or (ratio < POOR and not hidden):
            self.radius = SHRUNK * _norm(step)
        elif cut and not hidden:
            self.radius = (GROWN if ratio > GOOD else 1.0) * _norm(step)
        if taken:
            self._move(trial, value, g)
        return None

    def result(self, **more):
        """What a caller gets to see."""
        with importing:
            from scipy.optimize import OptimizeResult

        f = self.f
        counts = {"nit": self.nit, "nfev": f.nfev, "njev": f.njev, "nhev": f.nhev}
        return OptimizeResult(x=self.x.copy(), fun=self.value, jac=self.g.copy(), **counts, **more)


def minimize(
    objective, x0, method="newton", *, jac=None, hess=None, hessp=None, tol=1e-8, max_iter=1000, callback=None
):
    """Minimize a smooth function of d variables by Newton steps inside a trust region, in float64.

    Saddles are left along negative curvature, also where the gradient is exactly zero, in the same
    direction every time. Where the Hessian is zero as well, as on a monkey saddle, the second order shows
    no way out: that ends with success, and the message says along how many directions it is flat.

    Parameters
    ----------
    objective : object or callable
        An object with ``value(x)``, ``gradient(x)`` and ``hessian(x)`` (symmetric; the lower triangle
        is read) or ``hvp(x, v)``, its product with v. Or, as for `scipy.optimize.minimize`, a function
        with `jac` and `hess` or `hessp`.
    x0 : array_like, shape (d,)
        Where to start.
    method : {"newton", "newton_cg", "saddle_free"}
        Exact steps by Cholesky or eigenvectors; conjugate gradients on products, which never form the
        Hessian; steps by the magnitudes of the eigenvalues.
    jac : callable or True, optional
        The gradient of a function; True if the function returns (value, gradient).
    hess, hessp : callable, optional
        ``hess(x)`` and ``hessp(x, v)`` of a function.

        Value, gradient and products are real numbers of any dtype. A Hessian is an array or one of SciPy's sparse
        matrices: "newton_cg" multiplies by it as it is, the others make it dense, up to 5000 parameters.
    tol : float
        The Euclidean norm of the gradient to reach.
    max_iter : int
        Iterations at most, rejected steps included.
    callback : callable, optional
        Called after each iteration with an OptimizeResult of x, fun, jac and the counts. If it returns
        True, Python's or NumPy's, or raises StopIteration, the minimization ends; other answers mean nothing.

    Returns
    -------
    scipy.optimize.OptimizeResult
        x, fun, jac; hess, where the method forms it; nit, nfev, njev, nhev (Hessians and products with
        them); success; status and message. Success (status 0) is a gradient within tol and no negative
        curvature. Otherwise: 1 max_iter, 2 rounding hides any further decrease, 3 the Hessian is not
        finite, 4 no lower bound, 99 the callback.

    Raises
    ------
    TypeError, ValueError
        Missing derivatives, results of another shape or that are no real numbers, or a value or gradient at x0
        that is not finite.

    Notes
    -----
    A trial point is too far where value or gradient are not finite, or raise an ArithmeticError (OverflowError,
    ZeroDivisionError, FloatingPointError): the region shrinks, and the search goes on. At x0 the error is the caller's.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> result = fo.newton.minimize(
    ...     lambda x: np.sum(x**4) - x[0] ** 2,
    ...     [0.0, 0.0],  # a saddle
    ...     jac=lambda x: 4 * x**3 - [2 * x[0], 0],
    ...     hess=lambda x: np.diag(12 * x**2 - [2, 0]),
    ... )
    >>> np.abs(result.x).round(4)
    array([0.7071, 0.    ])
    """
    x = as_numbers("x0", x0).astype(np.float64)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"x0: expected shape (d,), got {x.shape}")
    require_finite("x0", x)
    if method not in MODELS:
        raise ValueError(f"method: expected one of {', '.join(MODELS)}, got {method!r}")
    tol, max_iter = finite_number("tol", tol, 0), whole_number("max_iter", max_iter)
    f = _Objective(objective, jac, hess, hessp, len(x))
    f.require(method)
    search = _Search(f, x, MODELS[method], tol)
    status = search.ended(max_iter)
    while status is None:
        status = search.advance()
        if status is None:
            status = search.ended(max_iter)
        if callback is not None and _wants_to_end(callback, search.result()) and status is None:
            status = 99
    result = search.result(success=status == 0, status=status, message=search.note or MESSAGES[status])
    if search.model.hess is not None:
        result.hess = search.model.hess
    return result


def _wants_to_end(callback, state) -> bool:
    try:
        answer = callback(state)
    except StopIteration:
        return True
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


def _tried(function, x):
    """What a function is at a trial point; NaN if its arithmetic fails there, as that of `math.exp` does."""
    try:
        return function(x)
    except ArithmeticError:
        return math.nan


def _norm(a) -> float:
    return math.sqrt(dot(a, a))
