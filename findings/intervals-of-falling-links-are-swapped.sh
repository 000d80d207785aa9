#!/usr/bin/env bash
# statsmodels 0.15.0: get_prediction of a gamma GLM with the inverse link, the default one, gives intervals of the mean
# whose lower ends lie above their upper ends: the ends are those of the linear predictor, each sent through a link
# that falls, and keep their names.
# A good guess would have been: mean_ci_lower <= mean <= mean_ci_upper, whatever the link.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 statsmodels==0.15.0
"$folder/venv/bin/python" -W ignore - <<'P'
import numpy as np
import statsmodels.api as sm

rng = np.random.default_rng(0)
X = sm.add_constant(rng.uniform(1, 2, size=200))
y = rng.gamma(5.0, 1 / (X @ [0.5, 1.0]) / 5.0)
for link in (sm.families.links.InversePower(), sm.families.links.Log()):
    frame = sm.GLM(y, X, family=sm.families.Gamma(link)).fit().get_prediction(X[:3]).summary_frame()
    print(type(link).__name__, frame[["mean_ci_lower", "mean", "mean_ci_upper"]].round(4).to_numpy().tolist())
    swapped = (frame["mean_ci_lower"] > frame["mean_ci_upper"]).all()
    assert swapped == (type(link).__name__ == "InversePower")
P
