"""Ranks that are killed: jobs of their own, which run.py starts after the tests of ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run import fault_tolerance, launcher
from sklearn.datasets import load_digits

import fastopt as fo

JOB = Path(__file__).with_name("killed.py")
LONGEST = 45  # seconds of a job, which takes some 3 where nothing else runs
BATCHES = -(-1400 // 16)  # of an epoch

tolerant = pytest.mark.skipif(not fault_tolerance(), reason="this MPI ends a job that has lost a rank")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits") / "digits.npz")


def write_digits(path):
    """The file of data that jobs read, which is quicker than that each rank imports scikit-learn."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = (X[order] / 16).astype(np.float32), y[order]
    np.savez(path, X=X[:1400], y=y[:1400], X_test=X[1400:], y_test=y[1400:])
    return path


def job(ranks, *arguments, options=()):
    command = [*launcher(ranks), *options, sys.executable, "-m", "mpi4py", str(JOB), *map(str, arguments)]
    return subprocess.run(command, timeout=LONGEST, check=False, capture_output=True, text=True)


@tolerant
@pytest.mark.parametrize(
    ("staleness", "servers", "killed"), [(None, 1, (3, 1.5)), (0, 2, (3, 1.5)), (2, 1, (2, 1.5, 3, 1.5))]
)
def test_the_others_go_on_with_the_batches_of_a_killed_worker(tmp_path, digits, staleness, servers, killed):
    done = job(4, digits, tmp_path / "run", staleness, servers, 8, 0, *killed, options=fault_tolerance())
    result = json.loads(done.stdout.splitlines()[-1])
    said = [f"rank {rank} was lost; the other workers go on with its batches" for rank in killed[::2]]
    assert sorted(result["said"]) == said
    assert result["gradients"] == 8 * BATCHES  # each batch once, those of the lost one included
    assert (result["again"], result["ranks"]) == (BATCHES, 4 - len(said))
    assert result["accuracy"] > 0.9


@pytest.fixture(scope="module")
def alone(digits):
    return accuracy_alone(digits, 0)


def accuracy_alone(digits, seed):
    """The accuracy of one process that makes the steps of killed.py."""
    with np.load(digits) as data:
        net = fo.nn.Sequential([fo.nn.Dense(64, 64, activation="relu"), fo.nn.Dense(64, 10)], rng=seed)
        optimizer = fo.optim.Adagrad(net.parameters(), lr=0.05)
        fo.nn.Trainer(net, "cross_entropy", optimizer, seed=seed).fit(data["X"], data["y"], 26, 16)
        return fo.metrics.accuracy(data["y_test"], net.predict(data["X_test"]))


def at_random(seed):
    """A worker of three, and the moment between the first epoch and the last of 25 when it is killed."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 4), rng.uniform(1, 24)


@tolerant
@pytest.mark.parametrize("seed", range(20 if os.environ.get("FASTOPT_TEST_ALL") else 2))
def test_a_worker_killed_at_any_moment_costs_no_accuracy(tmp_path, digits, alone, seed):
    done = job(4, digits, tmp_path / "run", 4, 1, 25, 0, *at_random(seed), options=fault_tolerance())
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["gradients"], result["ranks"]) == (25 * BATCHES, 3)
    assert result["accuracy"] > alone - 0.025  # runs differ by as much from each other


KILLED_IN_TRAIN = """
import os, signal, sys
from fastopt.cli import main
from fastopt.parallel import roles

find, calls = roles.Worker.find_gradient, []

def find_gradient(self, *task):
    calls.append(task)
    if self.rank == 3 and len(calls) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return find(self, *task)

roles.Worker.find_gradient = find_gradient
sys.exit(main(sys.argv[1:]))
"""


@tolerant
def test_the_command_goes_on_without_a_killed_worker(tmp_path, digits):
    with np.load(digits) as data:
        np.savez(tmp_path / "table.npz", X=data["X"], y=data["y"])
    model = str(tmp_path / "model.safetensors")
    options = ["train", str(tmp_path / "table.npz"), "--epochs", "5", "--parallel", "server", "--out", model]
    command = [*launcher(4), *fault_tolerance(), sys.executable, "-c", KILLED_IN_TRAIN, *options]
    done = subprocess.run(command, timeout=LONGEST, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rank 3 was lost" in done.stderr
    assert f"wrote {model}" in done.stdout
    assert fo.nn.load(model).in_features == 64


@tolerant
@pytest.mark.parametrize(("killed", "text"), [((1, 1.5), "it serves some"), ((2, 1.5, 3, 2.5), "all of them are gone")])
def test_without_servers_or_workers_the_run_ends_and_says_so(tmp_path, digits, killed, text):
    done = job(4, digits, tmp_path / "run", None, 2, 400, 0, *killed, options=fault_tolerance())
    assert done.returncode
    assert text in done.stderr
    require_whole(tmp_path / "run")


def test_without_fault_tolerance_the_job_ends_and_the_last_file_is_whole(tmp_path, digits):
    done = job(3, digits, tmp_path / "run", None, 1, 400, 0, 2, 2.5)
    assert done.returncode
    assert done.stderr + done.stdout  # the launcher says what has happened
    require_whole(tmp_path / "run")


def require_whole(path):
    """A file from which a Trainer can go on."""
    net = fo.nn.Sequential([fo.nn.Dense(64, 64, activation="relu"), fo.nn.Dense(64, 10)], rng=0)
    trainer = fo.nn.Trainer(net, "cross_entropy", "adagrad")
    trainer.resume(path)
    assert trainer.epoch >= 1
