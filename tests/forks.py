"""Forks beside a thread that is in one call all the time: ``python tests/forks.py CALL TIMES``, CALL a name
of BUSY, or "trainer" for one that the children use too.

Every child makes each call of BUSY and compares bits and thread counts with those of its parent before. One that hangs
writes its stack, gdb's too where there is one, and is ended; a program with a bad child ends with status 1.
"""

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings

import calls

BUSY = {name: calls.CALLS[name] for name in ("newton_step", "glm", "minimize", "fit", "predict", "whiten")}
PATIENCE = int(os.environ.get("PATIENCE", 60))  # seconds for one child, on a busy machine


def results():
    return {name: call() for name, call in BUSY.items()}


def check_in_child(shared, want, counts):
    """What must hold in a child; `shared` is the Trainer that the parent's thread may be training."""
    assert calls.counts() == counts, f"threads: {calls.counts()}, before the fork {counts}"
    shared.step(calls.ROWS, calls.LABELS)
    got = results()
    assert got == want, f"other bits: {[name for name in want if got[name] != want[name]]}"
    assert calls.counts() == counts, f"threads afterwards: {calls.counts()}, before {counts}"


def child_is_well(check) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            faulthandler.register(signal.SIGUSR1)
            check()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    end = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status == 0
        if time.monotonic() > end:
            print(f"child {pid} hangs", file=sys.stderr, flush=True)
            os.kill(pid, signal.SIGUSR1)  # for its stack
            time.sleep(1)
            if shutil.which("gdb"):
                subprocess.run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all backtrace"], check=False)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.001)


def main(name, times) -> int:
    """Children that were not well."""
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    shared = calls.trainer(calls.network())
    busy = BUSY.get(name, lambda: shared.fit(calls.ROWS, calls.LABELS, epochs=1, batch_size=500))
    want, counts, stop = results(), calls.counts(), threading.Event()

    def work():
        while not stop.is_set():
            busy()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        bad = sum(not child_is_well(lambda: check_in_child(shared, want, counts)) for _ in range(times))
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive(), f"{name} hangs in the parent"
    assert calls.counts() == counts, f"threads in the parent: {calls.counts()}, before {counts}"
    return bad


if __name__ == "__main__":
    bad = main(sys.argv[1], int(sys.argv[2]))
    print(f"{sys.argv[2]} children beside {sys.argv[1]}: {bad} bad")
    sys.exit(bad > 0)
