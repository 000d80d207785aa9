"""`newton.glm`: generalized linear models, solved to full precision.

What is given is checked here; the objective, glm_objective.py, is minimized by glm_solver.py. A fitted model is a
`GLMResult`. LAPACK runs on one thread: the same bits, however many threads there are.
"""

import numpy as np

from fastopt._numbers import finite_number, flag, whole_number
from fastopt.newton.glm_bounds import BoundedSolver, as_bounds
from fastopt.newton.glm_data import (
    Data,
    as_exposure,
    as_family,
    as_offset,
    as_target,
    as_weight,
    located,
)
from fastopt.newton.glm_frames import by_theta, in_theta, named_rows
from fastopt.newton.glm_objective import Objective, in_row_space
from fastopt.newton.glm_result import GLMResult
from fastopt.newton.glm_solver import Solver, start
from fastopt.threads import one_blas_thread


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
    link=None,
    power=1.5,
    alpha=1.0,
    exposure=None,
    bounds=None,
    names=None,
) -> GLMResult:
    """Fit a generalized linear model: ``sum(w * loss) + l2 / 2 * ||coef||^2``, the intercept free.

    Parameters
    ----------
    X : array_like, shape (n, d), float32 or float64, or Design, or SciPy sparse matrix
        float32 is read as it is and computed with in float64; other dtypes are converted. Columns may lie far from
        zero if the intercept is free (see Notes). Categorical codes enter by a `Design`, or as columns of text or
        categories of a pandas or polars DataFrame, whose first level is the reference; neither they nor sparse matrices
        are made dense.
    y : array_like, shape (n,)
        "gaussian": values; "poisson", "tweedie", "negative_binomial": values of at least 0; "gamma": values above
        0; "binomial": two classes, "multinomial": two or more, any labels but missing ones.
    family : str
        "gaussian" (identity link), "binomial" (logit), "multinomial" (softmax), "poisson" (log), "gamma" (log or
        inverse), "tweedie" (log) or "negative_binomial" (log).
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
        What steps are computed with. With sparse columns, and where columns are too much alike for float32, it is
        float64 in any case; gradient, stopping rule and so the solution are float64 always.
    offset : float or array_like, shape (n,), or (n, k) for multinomial, optional
        Added to the linear predictors, with no coefficient; columns in the order of the sorted classes. A model
        fitted with an offset predicts with one only.
    link : str, optional
        That of the family, by default; "inverse" is gamma's canonical one.
    power : float
        From 1 to 2, of "tweedie": the variance grows as this power of the mean.
    alpha : float
        Above 0, of "negative_binomial": the variance is ``mean + alpha * mean**2``.
    exposure : float or array_like, shape (n,), optional
        Above 0, for the link "log": its logarithm is an offset, added to `offset`. A model fitted with an exposure
        predicts with one only.
    bounds : tuple (low, high), optional
        Between which coefficients are sought, the intercept apart: numbers, or arrays of shape (d,), or (k, d) for
        multinomial, infinite where there is none. ``(0, np.inf)`` lets none be negative. ``result.active`` tells which
        end at a bound.
    names : sequence of str, length d, optional
        Names of the columns, for tables and messages; those of a DataFrame have theirs.

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
    family = as_family(family, link, power, alpha)
    l2, tol = finite_number("l2", l2, 0), finite_number("tol", tol, 0)
    max_iter, fit_intercept = whole_number("max_iter", max_iter, 0), flag("fit_intercept", fit_intercept)
    if hessian_dtype not in ("float32", "float64"):
        raise ValueError(f"hessian_dtype: expected 'float32' or 'float64', got {hessian_dtype!r}")
    columns, design = named_rows(X, names)
    weight = as_weight(sample_weight, design.n)
    y, classes = as_target(y, family, weight, design.n)
    k = 1 if classes is None or family.name == "binomial" else len(classes)
    low, high = (None, None) if bounds is None else (in_theta(a, columns) for a in as_bounds(bounds, k, design.d))
    given = offset is not None, exposure is not None
    if offset is not None:
        offset = as_offset(offset, design.n, k, family.name)
    if exposure is not None:
        exposure = as_exposure(exposure, design.n, family.link)
        offset = exposure if offset is None else offset + exposure
    if weight is not None and not weight.all():  # rows of weight 0 are as if absent, however far out
        y = np.where(weight > 0, y, 0.0)
        offset = None if offset is None else offset * (weight > 0)[:, None]
    data = Data(family.loss, design, y, weight, k, fit_intercept, offset, family.parameter or 0.0, by_theta(columns))
    with one_blas_thread, np.errstate(all="ignore"):
        objective = Objective(data, l2, *located(data))
        if low is None:
            inner, back = in_row_space(objective)
            solver = Solver(inner, tol, max_iter, bool(verbose), hessian_dtype)
            solver.run(start(inner))
            solver.theta = back(solver.theta)
        else:
            solver = BoundedSolver(objective, low, high, tol, max_iter, bool(verbose))
            solver.run(start(objective, low, high))
        return GLMResult(objective, solver, classes, family, given, columns)
