#!/usr/bin/env bash
# scikit-learn 1.9.1: class_weight={"0": 1, "1": 5} for the text labels "0" and "1" is an error, "The classes, [0, 1],
# are not in class_weight": a label that looks like a whole number is looked up as one. {0: 1, 1: 5} is taken.
# A good guess would have been: weights are looked up by the labels, as with {"no": 1, "yes": 5}.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'P'
import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression

X, found = np.arange(8.0).reshape(-1, 1), {}
for names, keys in ((("no", "yes"), ("no", "yes")), (("0", "1"), ("0", "1")), (("0", "1"), (0, 1))):
    y = np.resize(names, 8)
    try:
        LogisticRegression(class_weight=dict(zip(keys, (1, 5)))).fit(X, y)
        found[names, keys] = "fitted"
    except ValueError as error:
        found[names, keys] = str(error)
print(f"scikit-learn {sklearn.__version__}: by labels and keys: {found}")
assert list(found.values()) == ["fitted", "The classes, [0, 1], are not in class_weight", "fitted"], found
P
