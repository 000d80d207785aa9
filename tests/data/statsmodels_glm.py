"""What statsmodels 0.15.0 finds in small data: `python tests/data/statsmodels_glm.py` writes the table.

Every family, with and without an offset and weights (its var_weights, which are fastopt's sample_weight). Its GLM gives
HC0 for HC1, HC2 and HC3 alike; those are recorded by their formulas (MacKinnon & White 1985), from the scores, Hessian
and leverages that it gives, and seen to be those of its WLS where that is the same model.
"""

import warnings
from pathlib import Path

import numpy as np

TABLE = Path(__file__).parent / "statsmodels_glm.npz"
ROWS, NEW, GROUPS = 90, 4, 12
CASES = {  # name: (family, link, further arguments of newton.glm)
    "gaussian": ("gaussian", "identity", {}),
    "binomial": ("binomial", "logit", {}),
    "poisson": ("poisson", "log", {}),
    "gamma log": ("gamma", "log", {}),
    "gamma inverse": ("gamma", "inverse", {}),
    "tweedie": ("tweedie", "log", {"power": 1.6}),
    "negative_binomial": ("negative_binomial", "log", {"alpha": 0.7}),
}


def draw():
    """Columns, rows to predict, an offset, weights, groups, and a y that each family could have drawn."""
    rng = np.random.default_rng(16)
    X = rng.normal(size=(ROWS + NEW, 3)).round(3)
    weight, offset = rng.uniform(0.5, 2, ROWS).round(2), rng.uniform(-0.4, 0.4, ROWS + NEW).round(2)
    z = 0.6 + X[:ROWS] @ [0.4, -0.3, 0.1]
    mu = np.exp(z)
    groups = rng.integers(0, GROUPS, ROWS)
    y = {
        "gaussian": z + rng.normal(size=ROWS),
        "binomial": (rng.uniform(size=ROWS) < 1 / (1 + np.exp(-z))).astype(float),
        "poisson": rng.poisson(mu).astype(float),
        "gamma log": rng.gamma(2.0, mu / 2),
        "gamma inverse": rng.gamma(2.0, 1 / (3 + X[:ROWS] @ [0.2, -0.2, 0.1]) / 2),
        "tweedie": np.array(
            [rng.gamma(2 * k, m / 3) if k else 0.0 for k, m in zip(rng.poisson(1.5, ROWS), mu, strict=True)]
        ),
        "negative_binomial": rng.negative_binomial(1 / 0.7, 1 / (1 + 0.7 * mu)).astype(float),
    }
    return X, offset, weight, groups, {name: values.round(4) for name, values in y.items()}


def model(case, X, y, offset, weight):
    import statsmodels.api as sm

    family, link, given = CASES[case]
    links = {"log": sm.families.links.Log, "inverse": sm.families.links.InversePower}
    if family == "gaussian":
        chosen = sm.families.Gaussian()
    elif family == "binomial":
        chosen = sm.families.Binomial()
    elif family == "poisson":
        chosen = sm.families.Poisson()
    elif family == "gamma":
        chosen = sm.families.Gamma(links[link]())
    elif family == "tweedie":
        chosen = sm.families.Tweedie(var_power=given["power"])
    else:
        chosen = sm.families.NegativeBinomial(alpha=given["alpha"])
    return sm.GLM(y, np.column_stack([X, np.ones(len(X))]), chosen, offset=offset, var_weights=weight)


def sandwich(fit, power):
    """The robust covariance of scores over (1 - leverage) ** power."""
    scores = fit.model.score_obs(fit.params)
    scores = scores / (1 - fit.get_hat_matrix_diag(observed=True))[:, None] ** power
    inverse = np.linalg.inv(fit.model.hessian(fit.params, observed=True))
    return inverse @ scores.T @ scores @ inverse


def measure(case, X, new, y, offset, new_offset, weight, groups):
    import statsmodels.api as sm

    made, tight = model(case, X, y, offset, weight), {"tol": 1e-14, "tol_criterion": "params", "maxiter": 200}
    fit = made.fit(**tight)
    assert fit.converged
    table = {
        name: getattr(fit, name)
        for name in ("params", "bse", "tvalues", "pvalues", "deviance", "null_deviance", "pearson_chi2", "aic", "scale")
    }
    table |= {"llf": fit.llf, "bic": fit.bic_llf, "df_resid": fit.df_resid, "conf_int": fit.conf_int(0.1)}
    table["t pvalues"] = made.fit(use_t=True, **tight).pvalues
    rows, k = X.shape[0], len(fit.params)
    table["HC0"] = made.fit(cov_type="HC0", **tight).cov_params()
    np.testing.assert_allclose(sandwich(fit, 0), table["HC0"], rtol=1e-9, atol=1e-12)
    for name, cov in {
        "HC1": sandwich(fit, 0) * rows / (rows - k),
        "HC2": sandwich(fit, 0.5),
        "HC3": sandwich(fit, 1),
    }.items():
        table[name] = cov
        if case == "gaussian" and offset is None:
            least_squares = sm.WLS(y, made.exog, 1.0 if weight is None else weight).fit()
            np.testing.assert_allclose(least_squares.get_robustcov_results(name).cov_params(), cov, rtol=1e-9)
    table["cluster"] = made.fit(cov_type="cluster", cov_kwds={"groups": groups}, **tight).cov_params()
    predicted = fit.get_prediction(np.column_stack([new, np.ones(len(new))]), offset=new_offset)
    table["mean"], table["mean interval"] = predicted.predicted_mean, predicted.conf_int(alpha=0.1)
    return table


def multinomial(X, groups):
    """Its MNLogit, whose coefficients are those of each class less those of the first."""
    import statsmodels.api as sm

    rng = np.random.default_rng(17)
    y = (X @ rng.normal(size=(3, 3)) + rng.gumbel(size=(len(X), 3))).argmax(axis=1)
    made, tight = sm.MNLogit(y, np.column_stack([X, np.ones(len(X))])), {"method": "newton", "disp": 0, "tol": 1e-14}
    fit = made.fit(**tight)
    assert fit.mle_retvals["converged"]
    return {
        "y": y,
        "params": fit.params.T,
        "nonrobust": fit.cov_params(),
        "HC0": made.fit(cov_type="HC0", **tight).cov_params(),
        "cluster": made.fit(cov_type="cluster", cov_kwds={"groups": groups}, **tight).cov_params(),
        "llf": fit.llf,
        "null llf": fit.llnull,
        "aic": fit.aic,
        "bic": fit.bic,
    }


def main():
    import statsmodels

    X, offset, weight, groups, targets = draw()
    found = {"X": X, "offset": offset, "weight": weight, "groups": groups, "statsmodels": statsmodels.__version__}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case, y in targets.items():
            found[f"{case}/y"] = y
            for how in ("plain", "offset", "weight"):
                given = offset if how == "offset" else None
                table = measure(
                    case,
                    X[:ROWS],
                    X[ROWS:],
                    y,
                    None if given is None else given[:ROWS],
                    None if given is None else given[ROWS:],
                    weight if how == "weight" else None,
                    groups,
                )
                found |= {f"{case}/{how}/{name}": value for name, value in table.items()}
        found |= {f"multinomial/{name}": value for name, value in multinomial(X[:ROWS], groups).items()}
    np.savez_compressed(TABLE, **found)


if __name__ == "__main__":
    main()
