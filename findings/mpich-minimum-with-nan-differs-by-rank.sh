#!/usr/bin/env bash
# MPICH 5.0.2 (mpi4py 4.1.2): Allreduce(MIN) and Allreduce(MAX) give the ranks different answers where one holds a NaN,
# and not only NaN here and a number there. The least of NaN, 1, 2, 3 on 4 ranks is 1 on the first, 2 on the second, 1
# on the third and NaN on the last, so ranks that decide by it go different ways and wait for each other for ever.
# A good guess would have been: NaN or not, all ranks get the same number, as the standard says of Allreduce.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mpi4py==4.1.2 mpich==5.0.2 numpy==2.4.6
cat > "$folder/least.py" <<'P'
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
mine = np.array([np.nan, 1.0, 2.0, 3.0])[comm.rank : comm.rank + 1]
for name, op in (("MIN", MPI.MIN), ("MAX", MPI.MAX)):
    found = np.empty(1)
    comm.Allreduce(mine, found, op)
    everyones = comm.gather(float(found[0]))
    if comm.rank == 0:
        print(f"{name} of nan, 1, 2, 3 by rank: {everyones}")
        assert len({repr(number) for number in everyones}) > 1, everyones
        assert name == "MAX" or {1.0, 2.0} <= set(everyones), everyones
P
timeout 60 "$folder/venv/bin/mpiexec" -n 4 "$folder/venv/bin/python" -m mpi4py "$folder/least.py"
