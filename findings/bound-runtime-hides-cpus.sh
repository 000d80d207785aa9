#!/usr/bin/env bash
# scikit-learn 1.9.1 with OMP_PROC_BIND=true: the libgomp of its wheel binds the main thread to one CPU when it is
# loaded, so that everybody who reads the affinity mask afterwards (os.sched_getaffinity, joblib 1.5.3) sees one CPU.
# A good guess would have been: binding concerns the threads of OpenMP's teams, and an import changes no mask.
# Fails if that changes. Needs two CPUs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scikit-learn==1.9.1 joblib==1.5.3 numpy==2.4.6
OMP_PROC_BIND=true "$folder/venv/bin/python" - <<'P'
import os

before = len(os.sched_getaffinity(0))
import joblib  # noqa: E402
import sklearn.ensemble  # noqa: E402, F401

after, jobs = len(os.sched_getaffinity(0)), joblib.cpu_count()
print(f"CPUs of the mask: {before} before the import, {after} after it; joblib counts {jobs}")
assert before > 1 and after == 1 and jobs == 1, (before, after, jobs)
P
