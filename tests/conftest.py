"""What all tests share: one deterministic hypothesis profile, random numbers, a small network."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import fastopt as fo

settings.register_profile("ci", derandomize=True, max_examples=30, deadline=None, database=None)
settings.load_profile("ci")
os.environ["FASTOPT_CACHE"] = ""  # times of a busy machine are not for the user's folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs of a shell ignore


def pytest_collection_modifyitems(items):
    """The other levels start before all other tests, run beside them, and are waited for after them."""
    waits = "test_every_other_level_passes_the_kernel_topics"
    items.sort(key=lambda item: 2 if item.name.startswith(waits) else item.path.stem != "test_levels")


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def small_net():
    """A network with every layer, small enough for gradients by differences."""

    def make(activation="tanh", dtype=np.float64, n_out=3, seed=0):
        net = fo.nn.Sequential(
            [
                fo.nn.Standardize(4),
                fo.nn.Residual(
                    [
                        fo.nn.Dense(4, 5, activation=activation),
                        fo.nn.Residual([fo.nn.Dense(5, 5, activation=activation, bias=False)]),
                        fo.nn.Dense(5, 4),
                    ]
                ),
                fo.nn.Dense(4, n_out),
            ],
            rng=seed,
            dtype=dtype,
        )
        return net.calibrate(np.random.default_rng(1).normal(2, 3, (20, 4)).astype(dtype))

    return make


@pytest.fixture
def python():
    """Runs a program in a fresh interpreter; a failure or a hang fails the test. Returns what it printed."""

    def run(program, timeout=100, **variables):
        root = str(Path(fo.__file__).parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"PYTHONPATH": path} | variables
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
