#!/usr/bin/env bash
# threadpoolctl 3.8.0 with OpenBLAS (the wheels of NumPy 2.4.6): ThreadpoolController.limit without a with-block, its
# limits restored, leaves the thread that called it the owner of OpenBLAS for life: limits that any other thread sets
# from then on do nothing, and say nothing.
# A good guess would have been: once the limits are restored, everything is as before, and a with-block in another
# thread holds, the count being the process's.
# Fails if that changes. Needs two CPUs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6 threadpoolctl==3.8.0
OPENBLAS_NUM_THREADS=2 "$folder/venv/bin/python" - <<'P'
import threading

import numpy
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

assert numpy.__version__ == "2.4.6"


def count():
    return threadpool_info()[0]["num_threads"]


ThreadpoolController().limit(limits=1, user_api="blas").restore_original_limits()
seen = []


def work():
    with threadpool_limits(1, user_api="blas"):
        seen.append(count())


worker = threading.Thread(target=work)
worker.start()
worker.join()
with threadpool_limits(1, user_api="blas"):
    seen.append(count())
print(f"limit of 1 in a worker: {seen[0]} threads; in the thread that was first: {seen[1]}")
assert seen == [2, 1], seen
P
