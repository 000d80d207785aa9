#!/usr/bin/env bash
# statsmodels 0.15.0: GLM.fit(cov_type="HC1"), "HC2" and "HC3" give the standard errors of HC0, all digits of them, and
# the table names the type that was asked for. Its own OLS, on the same data, gives four different ones.
# A good guess would have been: an identity-link gaussian GLM and OLS agree, as they do for HC0, or the GLM refuses
# what it does not have.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 statsmodels==0.15.0
"$folder/venv/bin/python" - <<'P'
import numpy as np
import statsmodels.api as sm

rng = np.random.default_rng(0)
X = sm.add_constant(rng.normal(size=(40, 2)))
y = X @ [1.0, 2.0, -1.0] + rng.normal(size=40) * (1 + np.abs(X[:, 1]))
kinds = ("HC0", "HC1", "HC2", "HC3")
glm = [sm.GLM(y, X).fit(cov_type=kind) for kind in kinds]
ols = [sm.OLS(y, X).fit(cov_type=kind) for kind in kinds]
for kind, of_glm, of_ols in zip(kinds, glm, ols):
    print(f"{of_glm.cov_type}: GLM {of_glm.bse.round(4)}, OLS {of_ols.bse.round(4)}")
assert [result.cov_type for result in glm] == list(kinds)
assert all((result.bse == glm[0].bse).all() for result in glm)
assert np.allclose(glm[0].bse, ols[0].bse) and len({tuple(result.bse) for result in ols}) == 4
P
