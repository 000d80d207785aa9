#!/usr/bin/env bash
# NumPy 2.4.6 on glibc 2.36: a loop that makes four arrays of 1 MiB and drops them gets them from the system each time,
# page by page, until the process has freed an array of more, but less than 32 MiB, once; from then on the same loop
# takes a fraction of the time. glibc gives the end of its heap back once that is twice the largest piece that was
# mapped and freed, so how fast a loop is depends on what ran before in the process. tensorly 0.10.0's parafac of
# 64 x 64 x 3 x 3 at rank 32 takes 0.24 s after that and 0.7 s before.
# A good guess would have been: a loop that allocates and frees the same size gets the same memory again.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import platform
import statistics
import timeit

import numpy as np

print(*platform.libc_ver(), "numpy", np.__version__)
a, b = np.ones((4096, 1)), np.ones((1, 32))


def milliseconds():
    return 1e3 * statistics.median(timeit.repeat(lambda: [a * b for _ in range(4)], number=20, repeat=15)) / 20


before = milliseconds()
larger = np.ones(3 << 20)  # 24 MiB
del larger
after = milliseconds()
print(f"{before:.2f} ms before, {after:.2f} ms after a larger array was freed")
assert before > 1.5 * after
P
