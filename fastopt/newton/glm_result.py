"""A fitted generalized linear model: predictions, and what the Hessian says about them."""

import numpy as np

from fastopt._forks import computed_once, importing
from fastopt.newton.glm_data import LINKS, Family, as_exposure, as_offset
from fastopt.newton.glm_design import as_design
from fastopt.newton.steps import Factor, dot, eigenvalues
from fastopt.threads import one_blas_thread


class GLMResult:
    """A fitted model.

    Attributes
    ----------
    coef : ndarray, shape (d,), or (k, d) for multinomial
    intercept : float, or ndarray, shape (k,), for multinomial
        0 without an intercept.
    family, link : str
    power, alpha : float or None
        The parameter of tweedie, or of negative_binomial; None for other families.
    classes : ndarray, shape (k,), or None
        The labels in the order of `predict_proba`; None for families of numbers.
    active : ndarray of bool, shaped as coef, or None
        Which coefficients lie at a bound; None without bounds.
    converged : bool
    n_iter : int
        Steps taken.
    loss : float
        The objective at the solution, penalty included.
    grad_norm : float
        The largest component of the gradient there, over the sum of the weights: what `tol` bounds. That by
        columns about their center if some lie far from zero, and of small ones in units of 16 deviations.
    """

    coef: np.ndarray
    intercept: np.ndarray | float
    power: float | None = None
    alpha: float | None = None
    active: np.ndarray | None = None
    # what models pickled by older versions lack
    _center: np.ndarray | None = None
    _has_offset = False
    _has_exposure = False
    _data = None

    def __init__(self, objective, solver, classes, family, given):
        d, theta, center = objective.d, solver.theta.reshape(objective.k, objective.q), objective.center
        coef, intercept = theta[:, :d].copy(), theta[:, d:]
        intercept = intercept[:, 0].copy() if intercept.size else np.zeros(objective.k)
        if center is not None:
            intercept -= coef @ center
        many = family.name == "multinomial"
        self.coef, self.intercept = (coef, intercept) if many else (coef[0], float(intercept[0]))
        self.family, self.link, self.classes = family.name, family.link, classes
        if family.name in ("tweedie", "negative_binomial"):
            setattr(self, "power" if family.name == "tweedie" else "alpha", family.parameter)
        self.active = None if solver.active is None else solver.active.reshape(self.coef.shape)
        self.converged, self.n_iter = bool(solver.converged), solver.n_iter
        self.loss, self.grad_norm = solver.loss, solver.grad_norm
        self._theta, self._l2, self._rows = theta.copy(), objective.l2, objective.rows
        self._center, (self._has_offset, self._has_exposure) = center, given
        self._data = objective.data  # until the Hessian has been asked for

    def __getstate__(self):
        return self.__dict__ | {"_data": None}  # models are kept without the data

    def __setstate__(self, state):
        if "hessian" in state and "_center" not in state:  # of an older version
            state = state | {"_hessian": state["hessian"]}
        if "link" not in state:
            state = state | {"link": LINKS[state["family"]][0]}
        self.__dict__ |= state

    def __repr__(self):
        return (
            f"GLMResult({self.family}, {self.coef.size} coefficients, n_iter={self.n_iter}, converged={self.converged})"
        )

    # -- predictions

    def decision_function(self, X, offset=None, exposure=None) -> np.ndarray:
        """The linear predictors: (n,), or (n, k) for multinomial.

        `offset` is a number or of their shape, `exposure` a number or of shape (n,). A model fitted with one needs one:
        an offset of 0.0, an exposure of 1.0 predict without.
        """
        design = as_design(X, self.coef.shape[-1])
        if offset is None and self._has_offset:
            raise ValueError(
                "offset: expected one, for the model was fitted with an offset, got None; pass offset=0.0 for none"
            )
        if exposure is None and self._has_exposure:
            raise ValueError(
                "exposure: expected one, for the model was fitted with an exposure, got None; "
                "pass exposure=1.0 for none"
            )
        with one_blas_thread, np.errstate(over="ignore", invalid="ignore"):
            z = design.predictors(np.atleast_2d(self.coef))
        z = (z if self.coef.ndim == 2 else z[:, 0]) + self.intercept
        if not np.isfinite(z).all():
            design.check_finite("row")
        if offset is not None:
            z = z + as_offset(offset, design.n, z.shape[-1] if z.ndim == 2 else 1, self.family).reshape(z.shape)
        if exposure is not None:
            z = z + as_exposure(exposure, design.n, self.link)[:, 0]
        if np.isnan(z).any():
            raise ValueError("X: expected values whose predictors can be added up, got infinities of both signs")
        return z

    def predict(self, X, offset=None, exposure=None) -> np.ndarray:
        """The most probable class of each row, or for families of numbers the mean of y; NaN beyond an inverse link."""
        z = self.decision_function(X, offset, exposure)
        if self.classes is None:
            return Family(self.family, self.link, None).inverse_link(z)
        return self.classes[z.argmax(axis=1) if z.ndim == 2 else (z > 0).astype(np.intp)]

    def predict_proba(self, X, offset=None) -> np.ndarray:
        """The probability of each class, (n, k)."""
        if self.classes is None:
            raise ValueError(
                f"family: expected binomial or multinomial for probabilities, got {self.family}; use predict"
            )
        z = self.decision_function(X, offset)
        z = np.column_stack([-0.5 * z, 0.5 * z]) if z.ndim == 1 else z
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    # -- what the Hessian says; computed when asked for

    @computed_once
    def _hessian(self) -> np.ndarray:
        """The Hessian by theta, that of the columns about the center."""
        data = self._data
        if data is None and "_hessian" in self.__dict__:  # another thread has found it since this one looked
            return self.__dict__["_hessian"]
        if data is None:
            raise ValueError(
                "hessian: expected to be asked for before the model was pickled or copied, for it needs the data"
            )
        lower, grad = np.empty((self._theta.size,) * 2), np.empty_like(self._theta)
        data.bound(self._center).value(self._theta, grad, lower)
        penalty = np.zeros_like(self._theta)
        penalty[:, : data.design.d] = self._l2
        full = symmetric(lower)
        full.reshape(-1)[:: len(full) + 1] += penalty.reshape(-1)
        self.__dict__["_hessian"], self._data = full, None
        return full

    @computed_once
    def hessian(self) -> np.ndarray:
        """The Hessian of the objective, float64. Rows and columns: coef, then the intercept, class by class."""
        return self._hessian if self._center is None else by_columns(self._hessian, self._center)

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
        with one_blas_thread:
            return self.dispersion * self._contrasts(self._inverse(), back=True)

    def _inverse(self) -> np.ndarray:
        """Of the Hessian, for softmax over the directions that it sees."""
        with importing:
            from scipy.linalg import cho_factor, cho_solve

        reduced = self._contrasts(self._hessian)
        inverse = cho_solve(cho_factor(reduced), np.eye(len(reduced)))
        return inverse if self._center is None else covariance_by_columns(inverse, self._center)

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
        with one_blas_thread:
            if Factor(self._contrasts(self._hessian)).minor:
                return np.inf
            # the largest eigenvalue of the inverse keeps its digits where the smallest of a Hessian has lost them
            return float(eigenvalues(self._contrasts(self.hessian))[-1] * eigenvalues(self._inverse())[-1])


def by_columns(hessian, center) -> np.ndarray:
    """The Hessian by coef and intercept of the columns, from that of the columns about a center."""
    d = len(center)
    blocks = hessian.copy().reshape(len(hessian) // (d + 1), d + 1, -1)
    blocks[:, :d] += center[:, None] * blocks[:, d:]
    blocks = blocks.reshape(len(hessian), -1, d + 1)
    blocks[..., :d] += blocks[..., d:] * center
    return symmetric(blocks.reshape(hessian.shape))


def covariance_by_columns(covariance, center) -> np.ndarray:
    """The same for a covariance: the intercept is that about the center less center @ coef."""
    d = len(center)
    blocks = covariance.copy().reshape(len(covariance) // (d + 1), d + 1, -1)
    blocks[:, d] -= center @ blocks[:, :d]
    blocks = blocks.reshape(len(covariance), -1, d + 1)
    blocks[..., d] -= blocks[..., :d] @ center
    return symmetric(blocks.reshape(covariance.shape))


def symmetric(lower) -> np.ndarray:
    """The matrix whose lower triangle this is."""
    full = np.tril(lower)
    full += np.tril(full, -1).T
    return full
