#!/usr/bin/env bash
# scikit-learn 1.9.1: MLPRegressor with k outputs steps by k times the gradient of the loss that it reports:
# loss_curve_ has half the mean of the squares over the outputs, the steps of sgd are those of half their sum.
# So learning_rate_init and alpha mean the same for one output, and not for several.
# A good guess would have been: steps go down the gradient of the loss that is documented and reported.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'P'
import numpy as np
import sklearn
from sklearn.neural_network import MLPRegressor

X, found = np.random.default_rng(0).normal(size=(50, 3)), {}
for outputs in (1, 2, 5):
    y = np.random.default_rng(1).normal(size=(50, outputs))
    plain = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "batch_size": 50, "learning_rate_init": 0.01}
    model = MLPRegressor(hidden_layer_sizes=(), **plain).partial_fit(X, y if outputs > 1 else y[:, 0])
    before = model.coefs_[0].copy()
    error = model.predict(X).reshape(50, -1) - y
    model.partial_fit(X, y if outputs > 1 else y[:, 0])
    assert np.isclose(model.loss_curve_[-1], (error**2).mean() / 2)
    gradient = X.T @ error / (50 * outputs)  # of that
    found[outputs] = float(np.median((before - model.coefs_[0]) / (0.01 * gradient)))
print(f"scikit-learn {sklearn.__version__}: step over rate times gradient, by outputs: {found}")
assert all(np.isclose(ratio, outputs) for outputs, ratio in found.items()), found
P
