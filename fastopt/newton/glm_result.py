"""A fitted generalized linear model: predictions, and what the Hessian says about them."""

import numpy as np

from fastopt._forks import computed_once, importing
from fastopt._numbers import finite_number, flag
from fastopt.newton.glm_data import LINKS, as_exposure, as_offset
from fastopt.newton.glm_design import Design, as_design
from fastopt.newton.glm_families import formulas, softmax, tail_quantile
from fastopt.newton.glm_frames import Column, in_theta, is_frame, order, read
from fastopt.newton.glm_inference import (
    ROBUST,
    by_columns,
    correction,
    covariance_by_columns,
    expected_information,
    group_codes,
    measured,
    observed_information,
    quadratic_forms,
    squares_of_scores,
)
from fastopt.newton.glm_summary import GLMSummary, measures, notes
from fastopt.newton.steps import Factor, dot, eigenvalues
from fastopt.threads import one_blas_thread

COV_TYPES = ("nonrobust", *ROBUST, "cluster")
NOT_CANONICAL = {("gamma", "log"), ("tweedie", "log"), ("negative_binomial", "log")}


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
    _weighted = False
    _columns: list[Column] | None = None
    _data = None

    def __init__(self, objective, solver, classes, family, given, columns=None):
        d, theta, center = objective.d, solver.theta.reshape(objective.k, objective.q), objective.center
        coef, intercept = theta[:, :d].copy(), theta[:, d:]
        intercept = intercept[:, 0].copy() if intercept.size else np.zeros(objective.k)
        if center is not None:
            intercept -= coef @ center
        self._columns, many = columns, family.name == "multinomial"
        coef = coef[:, order(columns)]
        self.coef, self.intercept = (coef, intercept) if many else (coef[0], float(intercept[0]))
        self.family, self.link, self.classes = family.name, family.link, classes
        if family.name in ("tweedie", "negative_binomial"):
            setattr(self, "power" if family.name == "tweedie" else "alpha", family.parameter)
        self.active = None if solver.active is None else solver.active[:, order(columns)].reshape(self.coef.shape)
        self.converged, self.n_iter = bool(solver.converged), solver.n_iter
        self.loss, self.grad_norm = solver.loss, solver.grad_norm
        self._theta, self._l2, self._rows = theta.copy(), objective.l2, objective.rows
        self._center, (self._has_offset, self._has_exposure) = center, given
        self._data, self._weighted = objective.data, objective.data.weight is not None
        # What tells whether the data are still those of the fit; that of rows in their own space has other roundings.
        self._seen_loss = solver.loss if solver.objective is objective else self._loss_of(self._data)[0]

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
        X = self._read(X)
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
            coef = in_theta(np.atleast_2d(self.coef), self._columns)
            z = X.predictors(coef).reshape(-1, *self.coef.shape[:-1]) + self.intercept
        if not np.isfinite(z).all():
            X.check_finite("row")
        if offset is not None:
            z = z + as_offset(offset, X.n, z.shape[-1] if z.ndim == 2 else 1, self.family).reshape(z.shape)
        if exposure is not None:
            z = z + as_exposure(exposure, X.n, self.link)[:, 0]
        if np.isnan(z).any():
            raise ValueError("X: expected values whose predictors can be added up, got infinities of both signs")
        return z

    def _read(self, X) -> Design:
        """X as rows whose columns stand as in theta; those of a frame are found by name."""
        if self._columns is not None and is_frame(X):
            X = read(X, self._columns)[1]
        elif any(column.levels is not None for column in self._columns or ()) and not isinstance(X, Design):
            names = ", ".join(column.name for column in self._columns or ())
            raise ValueError(f"X: expected a data frame of {names}, for columns have levels, got {type(X).__name__}")
        return as_design(X, self.coef.shape[-1])

    def predict(self, X, offset=None, exposure=None) -> np.ndarray:
        """The most probable class of each row, or for families of numbers the mean of y; NaN beyond an inverse link."""
        z = self.decision_function(X, offset, exposure)
        if self.classes is None:
            return self._formulas.mean(z)
        return self.classes[z.argmax(axis=1) if z.ndim == 2 else (z > 0).astype(np.intp)]

    def predict_proba(self, X, offset=None) -> np.ndarray:
        """The probability of each class, (n, k)."""
        if self.classes is None:
            raise ValueError(
                f"family: expected binomial or multinomial for probabilities, got {self.family}; use predict"
            )
        z = self.decision_function(X, offset)
        return softmax(np.column_stack([-0.5 * z, 0.5 * z]) if z.ndim == 1 else z)

    def predict_interval(self, X, kind="confidence", level=0.95, offset=None, exposure=None, use_t=False) -> np.ndarray:
        """Intervals about the mean of y, (n, 2): lower and upper ends.

        Parameters
        ----------
        X, offset, exposure
            As for `predict`.
        kind : {"confidence", "prediction"}
            For the mean, or for a new y of weight 1.
        level : float
            The probability, between 0 and 1.
        use_t : bool
            For the mean: quantiles of Student's t with `df_resid` degrees of freedom in place of the normal ones.

        Returns
        -------
        ndarray, shape (n, 2)

        Notes
        -----
        - confidence: ``mean(z -/+ q se)``, ``se**2 = x^T covariance x``: the ends of the linear predictor's interval,
          as statsmodels' `get_prediction` and R's `predict.glm` by hand. For binomial that of the second class.
        - prediction, gaussian: ``z -/+ t sqrt(dispersion + se**2)``, t of `df_resid` degrees: exact without a penalty.
        - prediction, other families: the quantiles of the family's distribution at the estimated mean and dispersion,
          as if they were known: too narrow where few rows were fitted. Ends of counts are whole numbers.

        Examples
        --------
        >>> import numpy as np, fastopt as fo
        >>> fit = fo.newton.glm([[0.0], [1.0], [2.0], [3.0]], [0.1, 1.2, 1.8, 3.1], "gaussian", l2=0.0)
        >>> fit.predict_interval([[4.0]], kind="prediction").round(2)
        array([[2.57, 5.33]])
        """
        level = finite_number("level", level, above=0.0, below=1.0)
        if kind not in ("confidence", "prediction"):
            raise ValueError(f"kind: expected 'confidence' or 'prediction', got {kind!r}")
        if self.family == "multinomial" or (kind == "prediction" and self.classes is not None):
            raise ValueError(f"family: expected one of numbers, got {self.family}; use predict_proba")
        X, formulas = self._read(X), self._formulas
        z, use_t = self.decision_function(X, offset, exposure), flag("use_t", use_t)
        tail = 0.5 - 0.5 * level
        if kind == "prediction" and self.family != "gaussian":
            return np.column_stack([formulas.quantile(share, z, self.dispersion) for share in (tail, 1 - tail)])
        variance = self._variance(X) + (self.dispersion if kind == "prediction" else 0.0)
        df = self.df_resid if use_t or kind == "prediction" else None
        margin = np.sqrt(variance) * tail_quantile(tail, df)
        with np.errstate(over="ignore"):
            ends = formulas.mean(np.column_stack([z - margin, z + margin]))
        if self.link == "inverse":  # turns the ends round; no upper one where the lower end of z leaves the domain
            ends[(z > 0) & (z <= margin), 0] = np.inf
            ends = np.sort(ends, axis=1)
        return ends

    def _variance(self, X) -> np.ndarray:
        """That of the linear predictor of each row of a Design."""
        with one_blas_thread:
            covariance = self.dispersion * self._unscaled
            return quadratic_forms(X, self._theta.shape[1] > X.d, self._center, covariance)

    # -- what is inferred from the data, computed when asked for

    @property
    def _formulas(self):
        return formulas(self.family, self.link, self.power if self.alpha is None else self.alpha)

    def _given(self, what):
        """The data; ValueError if they are gone, or no longer those of the fit."""
        if self._data is None:
            raise ValueError(
                f"{what}: expected to be asked for before the model was pickled or copied, for it needs the data"
            )
        loss, penalty = self._loss_of(self._data)
        if not abs(loss - self._seen_loss) <= 1e-14 * (abs(loss) + penalty):
            raise ValueError(
                f"X: expected the rows of the fit, got rows that were changed since; ask for {what} before"
            )
        return self._data

    def _loss_of(self, data) -> tuple[float, float]:
        """The objective at theta, and its penalty, by one pass over the data."""
        coef = self._theta[:, : self.coef.shape[-1]]
        with one_blas_thread, np.errstate(all="ignore"):
            penalty = 0.5 * self._l2 * float(np.vdot(coef, coef))
            return data.bound(self._center).value(self._theta, np.empty_like(self._theta)) + penalty, penalty

    @computed_once
    def _fit(self):
        """Deviance and other sums over the rows."""
        with one_blas_thread:
            return measured(self._formulas, self._given("deviance"), self._theta, self._center, self.df_resid)

    @property
    def names(self) -> list[str]:
        """Names of the coefficients, in order: those given, the columns of the frame, or x0, x1, ..."""
        if self._columns is None:
            return [f"x{j}" for j in range(self.coef.shape[-1])]
        return [name for column in self._columns for name in column.coefficients()]

    nobs = property(lambda self: self._rows, doc="The rows of positive weight.")
    df_resid = property(lambda self: self._rows - self._n_free, doc="Rows of positive weight less parameters.")
    deviance = property(
        lambda self: self._fit.deviance,
        doc="Twice what the log-likelihood lacks of that of a parameter for each row, times the dispersion.",
    )
    null_deviance = property(
        lambda self: self._fit.null_deviance, doc="The deviance of the model that has an intercept and the offset only."
    )
    pearson_chi2 = property(lambda self: self._fit.pearson_chi2, doc="The sum of ``w (y - mean)**2 / variance(mean)``.")
    log_likelihood = property(
        lambda self: self._fit.log_likelihood,
        doc="The logarithm of the density of y, constants included, at `dispersion`; a gaussian's at deviance / nobs.",
    )

    @property
    def _n_free(self) -> int:
        """Parameters, less those at a bound and those that softmax does not see."""
        k, q = self._theta.shape
        held = 0 if self.active is None else int(self.active.sum())
        return q - held if k == 1 else (k - 1) * q - held

    @property
    def aic(self) -> float:
        """``-2 log_likelihood + 2 p``, p coefficients with the intercept, the dispersion not counted, as statsmodels.

        R counts that of gaussian and gamma, which adds 2, and takes deviance / n for gamma's.
        """
        return 2 * self._n_free - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """``-2 log_likelihood + log(nobs) p``, as statsmodels' `bic_llf`."""
        return float(np.log(self.nobs)) * self._n_free - 2 * self.log_likelihood

    @property
    def dispersion(self) -> float:
        """1 for binomial, multinomial, poisson and negative_binomial; else ``pearson_chi2 / df_resid``."""
        if self.family == "gaussian":  # whose squares are known without the data
            squares = 2 * self.loss - self._l2 * dot(self.coef, self.coef)
            return squares / self.df_resid if self.df_resid > 0 else np.nan
        return self._fit.dispersion if self.family in ("gamma", "tweedie") else 1.0

    @computed_once
    def _hessian(self) -> np.ndarray:
        """The Hessian by theta, that of the columns about the center."""
        return self._penalized(observed_information(self._given("hessian"), self._theta, self._center))

    @computed_once
    def _information(self) -> np.ndarray:
        """The same of the expected second derivatives, which are those themselves if the link is the canonical one."""
        if (self.family, self.link) not in NOT_CANONICAL:
            return self._hessian
        data = self._given("covariance")
        with one_blas_thread, np.errstate(all="ignore"):
            return self._penalized(expected_information(self._formulas, data, self._theta, self._center))

    def _penalized(self, matrix) -> np.ndarray:
        penalty = np.zeros_like(self._theta)
        penalty[:, : self.coef.shape[-1]] = self._l2
        matrix.reshape(-1)[:: len(matrix) + 1] += penalty.reshape(-1)
        return matrix

    @computed_once
    def hessian(self) -> np.ndarray:
        """The Hessian of the objective, float64. Rows and columns: coef, then the intercept, class by class."""
        return self._ordered(self._hessian if self._center is None else by_columns(self._hessian, self._center))

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
    def _unscaled(self) -> np.ndarray:
        """The inverse of the information, about the center, for softmax over the directions that it sees."""
        with one_blas_thread:
            return self._inverse(self._information)

    @computed_once
    def covariance(self) -> np.ndarray:
        """Dispersion times the inverse expected Hessian of the objective, rows and columns as in `hessian`.

        For a canonical link, and so for gaussian, binomial, multinomial and poisson, that is `hessian` itself. With a
        penalty it is no longer the covariance of an unbiased estimate. It is 0 for coefficients at a bound, as if they
        were known. For multinomial it is the covariance of the parameters whose sum over the classes is 0.
        """
        with one_blas_thread:
            return self._ordered(self.dispersion * self._contrasts(self._by_columns(self._unscaled), back=True))

    def _inverse(self, matrix) -> np.ndarray:
        """Of a Hessian by theta, 0 for what is held at a bound; for softmax over the directions that it sees."""
        with importing:
            from scipy.linalg import cho_factor, cho_solve

        reduced, free = self._contrasts(matrix), self._free
        inverse = cho_solve(cho_factor(reduced[np.ix_(free, free)]), np.eye(int(free.sum())))
        whole = np.zeros_like(reduced)
        whole[np.ix_(free, free)] = inverse
        return whole

    @property
    def _free(self) -> np.ndarray:
        """Which parameters, by theta, are not held at a bound; for softmax all directions that it sees."""
        free = np.full(self._theta.shape, True)
        if self.active is not None:
            free[:, : self.coef.shape[-1]] = in_theta(~np.atleast_2d(self.active), self._columns)
        if len(free) == 1:
            return free[0]
        if not free.all():
            raise ValueError("covariance: expected no coefficient of a multinomial at a bound, got some; drop bounds")
        return free[1:].reshape(-1)

    def _ordered(self, matrix) -> np.ndarray:
        """A matrix by theta, rows and columns in the order of the coefficients."""
        k, q = self._theta.shape
        places = order(self._columns)
        if isinstance(places, slice):
            return matrix
        places = np.append(places, np.arange(len(places), q))
        places = (np.arange(k)[:, None] * q + places).reshape(-1)
        return matrix[np.ix_(places, places)]

    def _by_columns(self, covariance) -> np.ndarray:
        return covariance if self._center is None else covariance_by_columns(covariance, self._center)

    @computed_once
    def condition_number(self) -> float:
        """Largest over smallest eigenvalue of the Hessian (for multinomial, over the directions it sees)."""
        with one_blas_thread:
            if Factor(self._contrasts(self._hessian)).minor:
                return np.inf
            inverse = self._by_columns(self._inverse(self._hessian))
            # the largest eigenvalue of the inverse keeps its digits where the smallest of a Hessian has lost them
            return float(eigenvalues(self._contrasts(self.hessian))[-1] * eigenvalues(inverse)[-1])

    def _robust(self, cov_type, codes) -> np.ndarray:
        """Scores, summed in squares, between two inverse Hessians."""
        fitted = (self._formulas, self._given("covariance"), self._theta, self._center)
        with one_blas_thread, np.errstate(all="ignore"):
            inverse = self._inverse(self._hessian)
            squares = self._contrasts(squares_of_scores(*fitted, cov_type, inverse, codes))
            factor = correction(cov_type, self.nobs, self._n_free, 0 if codes is None else codes.max() + 1)
            covariance = self._contrasts(factor * self._by_columns(inverse @ squares @ inverse), back=True)
            return self._ordered(covariance)

    def summary(self, cov_type="nonrobust", groups=None, use_t=False, level=0.95) -> GLMSummary:
        """A table of the coefficients, with standard errors, z, p and confidence intervals, and measures of fit.

        Parameters
        ----------
        cov_type : {"nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster"}
            How the covariance of the coefficients is estimated (see Notes).
        groups : array_like, shape (n,), optional
            For "cluster": labels of any kind, rows of one label may be correlated.
        use_t : bool
            Student's t in place of the normal distribution: `df_resid` degrees of freedom, of clusters one less than
            their number.
        level : float
            That of the confidence intervals, between 0 and 1.

        Returns
        -------
        GLMSummary
            Its text is the table; numbers are its attributes.

        Raises
        ------
        ValueError
            An unknown `cov_type`, `groups` missing or not wanted, HC2 or HC3 for multinomial, or a model whose data
            are gone: it was pickled or copied before.

        Notes
        -----
        With scores s = w (mean - y) mean' / variance(mean) x of the rows, H the sum of their derivatives (the observed
        information, with the penalty), h = w l'' x^T H^-1 x the leverages, n rows and p coefficients:

        - "nonrobust" is `covariance`;
        - "HC0": H^-1 (sum s s^T) H^-1 (White 1980, 1982); "HC1": times n / (n - p); "HC2": s / sqrt(1 - h) in place of
          s; "HC3": s / (1 - h) (MacKinnon & White 1985);
        - "cluster": HC0 of the sums of s over each of G groups, times G / (G - 1) * (n - 1) / (n - p).

        Examples
        --------
        >>> import numpy as np, fastopt as fo
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(200, 2))
        >>> y = rng.poisson(np.exp(X @ [0.5, -0.2] + 1))
        >>> fit = fo.newton.glm(X, y, "poisson", l2=0.0, names=["size", "age"])
        >>> table = fit.summary(cov_type="HC1")
        >>> table.names, table.standard_errors.round(3)
        (['size', 'age', 'intercept'], array([0.04 , 0.041, 0.04 ]))
        """
        level, use_t = finite_number("level", level, above=0.0, below=1.0), flag("use_t", use_t)
        if cov_type not in COV_TYPES:
            raise ValueError(f"cov_type: expected one of {', '.join(COV_TYPES)}, got {cov_type!r}")
        if (cov_type == "cluster") != (groups is not None):
            wanted = "labels of the rows" if groups is None else f"none for {cov_type!r}"
            raise ValueError(f"groups: expected {wanted}, got {type(groups).__name__}; cov_type='cluster' takes them")
        if self.family == "multinomial" and ROBUST.get(cov_type):
            raise ValueError(f"cov_type: expected nonrobust, HC0, HC1 or cluster for multinomial, got {cov_type!r}")
        codes = None if groups is None else group_codes(groups, self._given("covariance"))
        covariance = self.covariance if cov_type == "nonrobust" else self._robust(cov_type, codes)
        df_t = None
        if use_t:
            df_t = float(self.df_resid if codes is None else codes.max())
        if self.active is not None:
            held = np.flatnonzero(self.active)
            covariance = covariance.copy()
            covariance[held], covariance[:, held] = np.nan, np.nan
        names, classes = self.names, [None] if self.family != "multinomial" else self.classes
        names = [*names, "intercept"] if self._theta.shape[1] > len(names) else names
        coef = np.column_stack([np.atleast_2d(self.coef), np.atleast_1d(self.intercept)])[:, : len(names)]
        terms = [name for name, has in (("offset", self._has_offset), ("log(exposure)", self._has_exposure)) if has]
        return GLMSummary(
            [name if label is None else f"{label}: {name}" for label in classes for name in names],
            coef.reshape(-1),
            covariance,
            cov_type,
            level,
            df_t,
            measures(self, cov_type if codes is None else f"{cov_type}, {codes.max() + 1} groups"),
            notes(self, self._l2, self._columns, terms, self._weighted),
        )
