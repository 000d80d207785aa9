"""Tests that every rank of an MPI job runs in step; run.py starts them. Without mpi4py there are none here."""

import faulthandler
import importlib.util

import pytest

LONGEST = 20  # seconds of a test; a rank that hangs ends the job with its traceback

if importlib.util.find_spec("mpi4py") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def nothing_hangs():
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def comm():
    from fastopt.parallel import Communicator

    return Communicator()
