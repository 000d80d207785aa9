#!/usr/bin/env bash
# OpenBLAS 0.3.31 in the wheel of NumPy 2.4.6 (threads by pthreads): openblas_set_num_threads_local sets the count of
# the whole process.
# A good guess would have been: it sets that of the calling thread, as its name says.
# Fails if that changes. Needs two CPUs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 threadpoolctl==3.8.0
OPENBLAS_NUM_THREADS=2 "$folder/venv/bin/python" - <<'P'
import ctypes
import threading

import numpy  # noqa: F401
from threadpoolctl import threadpool_info

(info,) = threadpool_info()
library = ctypes.CDLL(info["filepath"])
get, put = library.scipy_openblas_get_num_threads64_, library.openblas_set_num_threads_local
before = get()
worker = threading.Thread(target=put, args=(1,))
worker.start()
worker.join()
print(f"OpenBLAS {info['version']}, {info['threading_layer']}: {before} threads, {get()} after a worker's local 1")
assert (before, get()) == (2, 1)
P
