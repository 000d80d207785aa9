"""What of `fastopt.parallel` needs no MPI job; tests/mpi holds the rest, which `make test-mpi` runs."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mpi.run import launcher

from fastopt import threads

WITHOUT = """
import sys, warnings
sys.modules["mpi4py"] = None
import fastopt
with warnings.catch_warnings(record=True) as said:
    import fastopt.parallel
print(*[str(warning.message) for warning in said])
for name in ("DataParallel", "measure_network"):
    try:
        getattr(fastopt.parallel, name)
    except ImportError as error:
        print(error)
net = fastopt.nn.Sequential([fastopt.nn.Dense(2, 1)], rng=0)
print(len(fastopt.parallel.predict_scaling(net, 4, [64], 1e-5, 1e9, seconds=1e-9, repeats=1).predictions))
"""

PLAN = """
import sys
from fastopt.parallel import predict_scaling
print("mpi4py.MPI" in sys.modules)
"""

ONE_RANK = """
import numpy as np, fastopt as fo
from fastopt.parallel import DataParallel
made = []
for wrap in (lambda trainer: trainer, DataParallel):
    net = fo.nn.Sequential([fo.nn.Dense(3, 4), fo.nn.Dense(4, 1)], rng=0)
    wrap(fo.nn.Trainer(net, "mse", "adam")).fit(np.eye(3), np.ones(3), epochs=3, batch_size=2)
    made.append([a.tobytes() for a in net.parameters()])
print(made[0] == made[1], fo.config()["node_ranks"])
"""


def test_without_mpi4py_the_import_and_what_trains_say_what_to_install(python):
    *said, planned = python(WITHOUT).splitlines()
    assert len(said) == 3
    for line in said:
        assert "needs mpi4py" in line
        assert 'pip install "fastopt[mpi]"' in line
    assert planned == "5"  # ways, beside shared memory


def test_plans_start_no_mpi(python):
    assert python(PLAN) == "False\n"


def test_fastopt_itself_loads_no_mpi(python):
    assert python("import sys, fastopt; print('mpi4py' in sys.modules)").strip() == "False"


def test_one_file_knows_mpi4py():
    root = Path(importlib.util.find_spec("fastopt").origin).parent
    importing = re.compile(r"^\s*(import|from) mpi4py", re.MULTILINE)
    knowing = {path.name for path in root.rglob("*.py") if importing.search(path.read_text())}
    assert knowing == {"communicator.py"}


@pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed: make test-mpi runs the tests of ranks"
)
def test_one_process_is_a_job_of_one_rank(python):
    assert python(ONE_RANK) == "True 1\n"


JOB = """
import sys, numpy as np, fastopt as fo
from fastopt.parallel import DataParallel
net = fo.nn.Sequential([fo.nn.Dense(3, 1)], rng=0)
parallel = DataParallel(fo.nn.Trainer(net, "mse", "adam"))
rank = parallel.comm.rank
"""
ENDS = {
    "outside": "if rank == 1: raise ValueError('no such file')\nparallel.step(np.eye(3), np.ones(3))",
    "in step": "parallel.step(np.eye(3 + rank), np.ones(3 + rank))",
    "in fit": "parallel.fit(np.eye(3), np.ones(3), callbacks=lambda t, h: 1 / (1 - rank))",
    "sooner": "if rank == 0: parallel.step(np.eye(3), np.ones(3))",
    "exit": "if rank == 0: parallel.step(np.eye(3), np.ones(3))\nelse: parallel.step(None, None)",
}


def job_of_two(program):
    began = time.monotonic()
    root = str(Path(importlib.util.find_spec("fastopt").origin).parents[1])
    environment, command = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, [sys.executable, "-c", program]
    done = subprocess.run(
        [*launcher(2), *command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert time.monotonic() - began < 20
    return done


needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed: see make test-mpi"
)
CAUGHT = """
import fastopt as fo
from fastopt.parallel import Communicator, DataParallel
try:
    DataParallel(None if Communicator().rank else fo.nn.Trainer(fo.nn.Sequential([fo.nn.Dense(3, 1)]), "mse", "adam"))
except TypeError as error:
    print(error)
"""


@needs_mpi
def test_a_job_that_goes_on_after_the_error_of_a_constructor_ends():
    done = job_of_two(CAUGHT)
    assert done.returncode == 0
    assert done.stdout.count("expected an nn.Trainer, got NoneType") == 2


@needs_mpi
@pytest.mark.parametrize("how", ENDS)
def test_a_job_whose_rank_fails_ends_with_its_error(how):
    done = job_of_two(JOB + ENDS[how])
    assert done.returncode != 0
    expected = {
        "outside": "no such file",
        "in step": "rank 1: x: ",
        "in fit": "rank 1: division by zero",
        "sooner": "got 'step' on rank 0 and 'end the program' on rank 1",
        "exit": "rank 1: x: ",
    }
    assert expected[how] in done.stderr


@pytest.mark.parametrize(
    ("quota", "ranks", "own", "expected"),
    [
        (float("inf"), [range(8)] * 2, range(8), 4),  # nothing binds the ranks
        (float("inf"), [range(8)] * 3, range(8), 2),
        (float("inf"), [range(12)] * 6, range(12), 2),  # twelve sixths, to rounding
        (float("inf"), [range(2)] * 4, range(2), 1),  # at least one
        (float("inf"), [[0, 1], [2, 3]], [2, 3], 2),  # bound to cores of their own
        (float("inf"), [range(4), range(2)], range(4), 3),
        (2.5, [range(8)] * 2, range(8), 1),  # the quota is divided
    ],
)
def test_ranks_of_a_machine_divide_what_it_grants(monkeypatch, quota, ranks, own, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: quota)
    monkeypatch.setattr(threads, "cpus", lambda: frozenset(own))
    monkeypatch.setattr(threads.core, "thread_limit", lambda: 1024)
    monkeypatch.setattr(threads, "_ranks", [frozenset(cpus) for cpus in ranks])
    assert threads._available() == expected
