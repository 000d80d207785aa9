#!/usr/bin/env bash
# NumPy 2.4.6: a[:, index] of a C-ordered matrix, index an array, is Fortran-ordered; numpy.take of the same columns is
# C-ordered, and so is a[index, :]. What reads raw memory, or asks for C order, copies once more, and the copy by [:, index]
# itself takes several times as long for a large matrix.
# A good guess would have been: indexing by an array gives C order, as by rows.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import timeit

import numpy as np

a, index = np.zeros((2048, 8192), np.float32), np.random.default_rng(0).permutation(8192)
ways = {
    "a[:, index]": lambda: a[:, index],
    "numpy.take(a, index, axis=1)": lambda: np.take(a, index, axis=1),
    "a[index[:2048] % 2048]": lambda: a[index[:2048] % 2048],
}
found = {}
for name, way in ways.items():
    found[name] = "C" if way().flags.c_contiguous else "Fortran" if way().flags.f_contiguous else "neither"
    print(f"{name}: {found[name]}, {min(timeit.repeat(way, number=1, repeat=3)):.3f} s")
assert list(found.values()) == ["Fortran", "C", "C"], found
P
