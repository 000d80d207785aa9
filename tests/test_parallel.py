"""What of `fastopt.parallel` needs no MPI job; tests/mpi holds the rest, which `make test-mpi` runs."""

import importlib.util
import re
from pathlib import Path

import pytest

from fastopt import threads

WITHOUT = """
import sys
sys.modules["mpi4py"] = None
import fastopt
try:
    import fastopt.parallel
except ImportError as error:
    print(error)
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


def test_without_mpi4py_the_import_says_what_to_install(python):
    said = python(WITHOUT)
    assert "needs mpi4py" in said
    assert 'pip install "fastopt[mpi]"' in said


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
