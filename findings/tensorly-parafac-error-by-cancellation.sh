#!/usr/bin/env bash
# tensorly 0.10.0: parafac of a tensor of exact rank 4 reports an error of 0.0 and stops: in float32 at a true relative
# error of 1e-5, with float32's rounding at 1e-7, in float64 at 3e-10. It computes the squared error as
# |T|^2 + |model|^2 - 2 <T, model>, in which all digits cancel near a fit, and tol is compared with the result.
# With tol=0 the same start reaches 2e-7 and 4e-16.
# A good guess would have been: the reported error is that of the residual, as small as rounding allows, and tol=1e-8
# stops where the fit has stopped improving.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 scipy==1.17.1 tensorly==0.10.0
"$folder/venv/bin/python" - <<'P'
import numpy as np
import tensorly as tl
from tensorly.decomposition import parafac

rng = np.random.default_rng(0)
T = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((20, 4)) for _ in range(3)))


def fit(dtype, tol):
    options = {"n_iter_max": 500, "tol": tol, "init": "svd", "random_state": 0, "return_errors": True}
    model, errors = parafac(T.astype(dtype), 4, **options)
    true = np.linalg.norm(tl.cp_to_tensor(model).astype(float) - T) / np.linalg.norm(T)
    print(f"{dtype}, tol {tol}: {len(errors)} sweeps, reported {float(errors[-1]):.1e}, true {true:.1e}")
    return errors[-1], true


for dtype, stopped, reached in (("float32", 2e-6, 1e-6), ("float64", 1e-11, 1e-14)):
    reported, true = fit(dtype, 1e-8)
    assert reported == 0 and true > stopped
    assert fit(dtype, 0)[1] < reached
P
