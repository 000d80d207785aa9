"""The table of a fitted model: coefficients with what is inferred about them, measures of fit, and what to know."""

from textwrap import wrap

import numpy as np

from fastopt._forks import importing
from fastopt.newton.glm_families import special, tail_quantile

COLUMNS = ("coef", "std err", "z", "P>|z|", "lower", "upper")


class GLMSummary:
    """What `GLMResult.summary` returns; printed, it is a table.

    Attributes
    ----------
    names : list of str, length p
        Names of the coefficients, the intercept's last; of a multinomial class by class.
    coef, standard_errors, z_values, p_values : ndarray, shape (p,)
        ``z = coef / standard error``, and the probability of a larger \\|z\\| by the normal distribution, or by
        Student's t with `df_t` degrees of freedom. NaN for a coefficient at a bound.
    confidence_intervals : ndarray, shape (p, 2)
        ``coef -/+ quantile((1 + level) / 2) * standard error``.
    covariance : ndarray, shape (p, p)
    cov_type : str
    level : float
    df_t : float or None
        None for the normal distribution.
    measures : dict of str to number or str
        The head of the table.
    notes : list of str
        What is unusual about the fit, such as a penalty.
    """

    def __init__(self, names, coef, covariance, cov_type, level, df_t, measures, notes):
        self.names, self.coef, self.covariance, self.cov_type = names, coef, covariance, cov_type
        self.level, self.df_t, self.measures, self.notes = level, df_t, measures, notes
        with np.errstate(invalid="ignore", divide="ignore"):
            self.standard_errors = np.sqrt(np.diagonal(covariance))
            self.z_values = coef / self.standard_errors
            beyond = -np.abs(self.z_values)
            self.p_values = 2 * (special().ndtr(beyond) if df_t is None else special().stdtr(df_t, beyond))
            margin = tail_quantile(0.5 - 0.5 * level, df_t) * self.standard_errors
        self.confidence_intervals = np.column_stack([coef - margin, coef + margin])

    def to_frame(self):
        """The coefficients as a pandas DataFrame, a row each."""
        with importing:
            from pandas import DataFrame

        columns = (self.coef, self.standard_errors, self.z_values, self.p_values, *self.confidence_intervals.T)
        return DataFrame(dict(zip(self._columns(), columns, strict=True)), index=self.names)

    def _columns(self) -> tuple[str, ...]:
        return COLUMNS if self.df_t is None else tuple(name.replace("z", "t") for name in COLUMNS)

    def __str__(self):
        coefficients = [
            [name, *(f"{v:.4g}" for v in values[:3]), f"{values[3]:.3f}", *(f"{v:.4g}" for v in values[4:])]
            for name, *values in zip(
                self.names,
                self.coef,
                self.standard_errors,
                self.z_values,
                self.p_values,
                *self.confidence_intervals.T,
                strict=True,
            )
        ]
        below, above = (f"{100 * edge:.4g}%" for edge in (0.5 - 0.5 * self.level, 0.5 + 0.5 * self.level))
        rows = aligned([["", *self._columns()[:4], below, above], *coefficients])
        head = [[name, v if isinstance(v, str) else f"{v:.6g}"] for name, v in self.measures.items()]
        half = (len(head) + 1) // 2
        left, right = aligned(head[:half]), aligned(head[half:])
        right += [""] * (half - len(right))
        width = max(len(rows[0]), len(left[0]) + 4 + len(right[0]))
        gap = width - len(right[0])
        lines = ["Generalized linear model".center(width).rstrip(), "=" * width]
        lines += [f"{one:<{gap}}{other}".rstrip() for one, other in zip(left, right, strict=True)]
        lines += ["=" * width, rows[0], "-" * width, *rows[1:], "=" * width]
        for i, note in enumerate(self.notes, 1):
            lines += wrap(f"[{i}] {note}", width, subsequent_indent="    ")
        return "\n".join(lines)

    __repr__ = __str__


def measures(fit, cov_type) -> dict:
    """The head of the table of a fit."""
    parameter = "".join(f", {name} {v:g}" for name, v in (("power", fit.power), ("alpha", fit.alpha)) if v)
    return {
        "family": fit.family + parameter,
        "link": fit.link,
        "covariance": cov_type,
        "converged": f"{'yes' if fit.converged else 'no'}, {fit.n_iter} steps",
        "rows": fit.nobs,
        "residual df": fit.df_resid,
        "log-likelihood": fit.log_likelihood,
        "deviance": fit.deviance,
        "null deviance": fit.null_deviance,
        "Pearson chi2": fit.pearson_chi2,
        "dispersion": fit.dispersion,
        "AIC": fit.aic,
        "BIC": fit.bic,
    }


def notes(fit, l2, columns, terms, weighted) -> list[str]:
    """What is unusual about a fit; `columns` are those of its frame, `terms` what has no coefficient."""
    levels = [f"{c.name} = {c.levels[0]}" for c in columns or () if c.levels is not None]
    held = fit.active is not None and fit.active.any()
    classes = [None] if fit.classes is None else fit.classes.tolist()
    every = (
        ("The fit has not converged: nothing here holds.", not fit.converged),
        (
            f"Coefficients are shrunk by l2={l2:g}; pass l2=0 for maximum likelihood, as statsmodels and R. "
            "Standard errors and tests take the penalty for part of the likelihood.",
            l2 > 0,
        ),
        ("Coefficients at a bound have no standard error; those of the others take them as known.", held),
        (f"Coefficients are those of the log-odds of {classes[-1]!r}.", fit.family == "binomial" and classes != [0, 1]),
        (f"Reference levels: {', '.join(levels)}.", levels),
        (f"Linear predictors include {' and '.join(terms)}, without a coefficient.", terms),
        ("A row of weight w has the variance of the others over w.", weighted),
        ("Coefficients have sum zero over the classes.", fit.family == "multinomial"),
    )
    return [note for note, holds in every if holds]


def aligned(rows) -> list[str]:
    """Rows of cells as lines: the first column to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
