"""What is inferred from a fitted model: its measures of fit, information matrices and robust covariances.

- Measures of fit are one pass over the linear predictors; formulas of the families: glm_families.py.
- Matrices belong to theta, as the solver has it: coefficients and intercept, of the columns about their center where
  they lie far from zero. `covariance_by_columns` leads back.
- The expected information X^T W X and the sums of squares of scores are Hessians of a gaussian: the same kernel.
- Rows of weight 0 are as if absent.
"""

from typing import NamedTuple

import numpy as np

from fastopt._forks import importing
from fastopt._labels import class_labels
from fastopt.newton.glm_design import Design
from fastopt.newton.glm_objective import Objective
from fastopt.newton.glm_solver import Solver, start

ROBUST = {"HC0": 0.0, "HC1": 0.0, "HC2": 0.5, "HC3": 1.0}  # the power of 1 - leverage that divides a score


class Fit(NamedTuple):
    """Measures of a fit, each a sum over the rows."""

    deviance: float
    null_deviance: float
    pearson_chi2: float
    log_likelihood: float
    dispersion: float


def kept(data, *arrays):
    """Arrays (n, ...) and the weights, without the rows of weight 0."""
    weight = data.weight
    if weight is None:
        return (*arrays, np.ones(len(data.y)))
    rows = weight > 0
    return (*arrays, weight) if rows.all() else tuple(a[rows] for a in (*arrays, weight))


def predictors(data, theta, center) -> np.ndarray:
    """z (n, k), with intercept and offset; 1 in rows of weight 0, as in the kernel."""
    coef = theta[:, : data.design.d]
    z = data.design.predictors(coef)
    if center is not None:
        z -= coef @ center
    if data.intercept:
        z += theta[:, -1]
    if data.offset is not None:
        z += data.offset
    if data.weight is not None:
        z[data.weight == 0] = 1.0  # which is in every domain
    return z


def blocks(design, intercept, center):
    """(slice, rows about the center, with a 1 for an intercept), a part of the rows at a time."""
    for i, j in design.pieces(design.d):
        yield slice(i, j), design.rows(i, j, center, intercept)


def quadratic_forms(design, intercept, center, matrix) -> np.ndarray:
    """x^T matrix x of each row, (n,)."""
    found = np.empty(design.n)
    for rows, x in blocks(design, intercept, center):
        found[rows] = (x * (x @ matrix)).sum(axis=1)  # of arrays and sparse ones alike
    return found


# ---------------------------------------------------------------- measures of fit


def measured(formulas, data, theta, center, freedom) -> Fit:
    """The measures of a fit with `freedom` degrees left to the residuals.

    The dispersion is Pearson's chi2 / freedom where it is estimated. A gaussian's log-likelihood is that of the
    dispersion which maximizes it, deviance / n.
    """
    with np.errstate(all="ignore"):
        z, null = predictors(data, theta, center), null_predictors(data)
        y, z, null, weight = kept(data, data.y, z, null)
        z, null = (a if data.family == "multinomial" else a[:, 0] for a in (z, null))
        deviance, null_deviance, chi2 = (
            float(weight @ a) for a in (formulas.deviance(y, z), formulas.deviance(y, null), formulas.pearson(y, z))
        )
        dispersion = 1.0
        if formulas.estimated:
            dispersion = chi2 / freedom if freedom > 0 else np.nan
        most_likely = deviance / len(y) if data.family == "gaussian" else dispersion
        log_likelihood = float(formulas.log_likelihood(y, z, weight, most_likely).sum())
    return Fit(deviance, null_deviance, chi2, log_likelihood, dispersion)


def null_predictors(data) -> np.ndarray:
    """z (n, k) of the model that has an intercept and the offset only."""
    alone = data._replace(design=Design(np.zeros((len(data.y), 1))), intercept=True)
    objective = Objective(alone, 1.0)
    theta = start(objective)
    if data.offset is not None:
        solver = Solver(objective, 0.0, 200, False, "float64")
        solver.run(theta)
        theta = solver.theta
    return theta.reshape(data.k, 2)[:, 1] + (np.zeros((len(data.y), 1)) if data.offset is None else data.offset)


# ---------------------------------------------------------------- matrices by theta


def observed_information(data, theta, center) -> np.ndarray:
    """The Hessian of the loss: the observed information times the dispersion."""
    lower, grad = np.empty((theta.size,) * 2), np.empty_like(theta)
    data.bound(center).value(theta, grad, lower)
    return symmetric(lower)


def expected_information(formulas, data, theta, center) -> np.ndarray:
    """X^T W X, the expected Hessian of the loss; data.k is 1."""
    information = formulas.information(predictors(data, theta, center)[:, 0])
    return symmetric(data.squares(information if data.weight is None else information * data.weight, center))


def leverages(formulas, data, theta, center, inverse) -> np.ndarray:
    """w l'' x^T inverse x of each row; their sum is the number of parameters."""
    curvature = formulas.curvature(data.y, predictors(data, theta, center)[:, 0])
    if data.weight is not None:
        curvature *= data.weight
    return curvature * quadratic_forms(data.design, data.intercept, center, inverse)


def squares_of_scores(formulas, data, theta, center, cov_type, inverse, codes) -> np.ndarray:
    """The sum of s s^T over rows, or over groups; s: scores, over (1 - leverage) ** power for HC2 and HC3."""
    z = predictors(data, theta, center)
    score = formulas.score(data.y, z if data.family == "multinomial" else z[:, 0])  # by z, (n, k)
    if data.weight is not None:
        score *= data.weight[:, None]
    if ROBUST.get(cov_type):
        score *= ((1 - leverages(formulas, data, theta, center, inverse)) ** -ROBUST[cov_type])[:, None]
    return squares_by_row(data, score, center) if codes is None else squares_by_group(data, score, center, codes)


def squares_by_row(data, score, center) -> np.ndarray:
    """The sum of s s^T over rows, (k q, k q): 2 a b = (a + b)^2 - a^2 - b^2 of two classes."""
    k, q = data.k, data.design.d + data.intercept
    total = np.empty((k, q, k, q))
    for a in range(k):
        total[a, :, a] = symmetric(data.squares(score[:, a] ** 2, center))
        for b in range(a):
            both = symmetric(data.squares((score[:, a] + score[:, b]) ** 2, center))
            total[a, :, b] = total[b, :, a] = 0.5 * (both - total[a, :, a] - total[b, :, b])
    return total.reshape(k * q, k * q)


def squares_by_group(data, score, center, codes) -> np.ndarray:
    """The sum of s s^T over groups, (k q, k q), s the sums of their rows' scores."""
    with importing:
        from scipy.sparse import csr_array

    sums: list = [0] * data.k
    for rows, x in blocks(data.design, data.intercept, center):
        n = len(codes[rows])
        for a in range(data.k):
            in_group = csr_array((score[rows, a], (codes[rows], np.arange(n))), shape=(codes.max() + 1, n))
            sums[a] += in_group @ x
    products = [[one.T @ other for other in sums] for one in sums]
    return np.block([[p if isinstance(p, np.ndarray) else p.toarray() for p in line] for line in products])


def group_codes(groups, data) -> np.ndarray:
    """The number of each row's group, of groups with positive weight; at least two of them."""
    codes = class_labels("groups", groups, len(data.y), "labels of groups")[1].astype(np.intp)
    if data.weight is not None:  # rows without weight may be in any group
        found = np.unique(codes[data.weight > 0])
        codes = np.minimum(np.searchsorted(found, codes), len(found) - 1)
    if not codes.any():
        raise ValueError("groups: expected at least two groups, got one")
    return codes


def correction(cov_type, rows, parameters, groups) -> float:
    """What a robust covariance is multiplied by for small samples; NaN where no rows are left."""
    if rows <= parameters:
        return np.nan if cov_type in ("HC1", "cluster") else 1.0
    if cov_type == "HC1":
        return rows / (rows - parameters)
    if cov_type == "cluster":
        return groups / (groups - 1) * (rows - 1) / (rows - parameters)
    return 1.0


# ---------------------------------------------------------------- from the columns about a center, and back


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
