"""What a child has after a fork: every lock of ours open, every flag down, BLAS as it was.

Everything runs in a fresh interpreter with a time limit, so that a hang is a failure. `make test-all` forks two
hundred children beside each call, ``python tests/forks.py newton_step 1000`` as many as it is told beside one.
"""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

TESTS = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
BUSY = ("newton_step", "glm", "minimize", "fit", "predict", "whiten", "trainer")


def forks(name, times):
    return f"{TESTS} import forks; print(forks.main({name!r}, {times}))"


@pytest.mark.parametrize("name", BUSY)
def test_children_forked_beside_a_busy_thread_compute_the_same_bits_on_as_many_threads(name, python):
    assert python(forks(name, 4)) == "0\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", BUSY)
def test_two_hundred_children_forked_beside_a_busy_thread_are_well(name, python):
    assert python(forks(name, 200), timeout=1800) == "0\n"


BESIDE = (
    TESTS
    + """
import os, threading, warnings
warnings.simplefilter("ignore")
import calls, forks
import numpy as np
import fastopt as fo

def child_of(holding, check):
    \"\"\"Forks while another thread is inside holding(), and checks in the child.\"\"\"
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with holding():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(60)
    well = forks.child_is_well(check)
    leave.set()
    thread.join()
    print(well)
"""
)


def test_a_child_has_blas_back_that_another_thread_held(python):
    program = """
from fastopt.threads import one_blas_thread
before, want = calls.counts(), calls.newton_step()

def check():
    assert calls.counts() == before, calls.counts()
    assert calls.newton_step() == want
    assert calls.counts() == before, calls.counts()

child_of(lambda: one_blas_thread, check)
assert calls.counts() == before
"""
    assert python(BESIDE + program) == "True\n"


@pytest.mark.parametrize("block", ["averaged", "interim_point"])
def test_a_child_finds_the_parameters_at_home_that_another_thread_had_moved(block, python):
    program = f"""
param, grad = np.ones(1000, np.float32), np.linspace(-1, 1, 1000, dtype=np.float32)
optimizer = fo.optim.SGD([param], lr=0.1, momentum=0.9, nesterov="interim", ema_decay=0.9)
optimizer.step([grad])
optimizer.step([grad])
home = param.copy()

def check():
    assert not (param == home).all()
    with optimizer.{block}():
        pass
    assert (param == home).all()
    optimizer.step([grad])

child_of(optimizer.{block}, check)
assert (param == home).all()
"""
    assert python(BESIDE + program) == "True\n"


def test_a_child_has_a_count_of_its_own_only_if_the_forking_thread_had_one(python):
    program = """
before = fo.get_num_threads()

def check():
    assert fo.get_num_threads() == before

child_of(lambda: fo.num_threads(before + 2), check)
"""
    assert python(BESIDE + program) == "True\n"


def test_children_forked_while_a_thread_imports_scipy_for_us_can_import_it(python):
    program = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
import numpy as np, fastopt as fo
import faulthandler
H, g = np.eye(70), np.ones(70)
assert "scipy.linalg" not in sys.modules
thread = threading.Thread(target=lambda: fo.newton.step(H, g))
thread.start()
children = []
while thread.is_alive() and len(children) < 8:
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(50, exit=True)
        fo.newton.step(H, g)
        os._exit(0)
    children.append(pid)
thread.join()
print({os.waitpid(pid, 0)[1] for pid in children} <= {0})
"""
    assert python(program) == "True\n"


def test_children_forked_while_a_thread_computes_a_property_can_compute_it(python):
    program = """
fit = fo.newton.glm(calls.X, calls.LABELS)
want = fo.newton.glm(calls.X, calls.LABELS).covariance.tobytes()

from fastopt._forks import computed_once
inside, leave = threading.Event(), threading.Event()

class Slow:
    @computed_once
    def value(self):
        inside.set()
        leave.wait(60)
        return 1

thread = threading.Thread(target=lambda: Slow().value)
thread.start()
inside.wait(60)

def check():
    leave.set()
    assert Slow().value == 1
    assert fit.covariance.tobytes() == want

print(forks.child_is_well(check))
leave.set()
thread.join()
"""
    assert python(BESIDE + program) == "True\n"
