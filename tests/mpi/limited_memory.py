"""Training in less memory than one rank needs: jobs of their own, which run.py starts after the tests of ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run import launcher

JOB = Path(__file__).with_name("limited.py")
WIDTH = 3000  # of the hidden layers
LONGEST = 60  # seconds of a job

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux counts the memory of a process so")


def job(ranks, *limit):
    command = [*launcher(ranks), sys.executable, str(JOB), str(WIDTH), str(ranks), *map(str, limit)]
    return subprocess.run(command, timeout=LONGEST, check=False, capture_output=True, text=True)


def test_two_ranks_train_what_does_not_fit_one():
    alone = json.loads(job(1).stdout)
    assert alone["taken"] > 16 * WIDTH**2  # weights, gradients and the moments of Adam
    limit = int(0.7 * alone["taken"])
    refused = job(1, limit)
    assert refused.returncode != 0
    assert "MemoryError" in refused.stderr
    together = job(2, limit)
    assert together.returncode == 0, together.stderr
    result = json.loads(together.stdout)
    assert result["taken"] <= limit
    assert result["losses"][1] < result["losses"][0]
    assert result["losses"] == pytest.approx(alone["losses"], rel=1e-4)
