"""Every instruction-set level this machine runs, each in a process of its own, beside all other tests.

Pass criterion: the topics of kernels (topics.py) pass there as they do here.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import topics
from pairs import OTHER_LEVEL

import fastopt as fo

ROOT = Path(__file__).parents[1]
config = fo.config()
others = [level for level in config["isas"] if level != config["isa"] and not OTHER_LEVEL]


def environment(level):
    path = os.pathsep.join([str(Path(fo.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "FASTOPT_ISA": level, "FASTOPT_TEST_LEVEL": level, "PYTHONPATH": path}


@pytest.fixture(scope="session", autouse=True)
def runs(tmp_path_factory):
    """The runs of the other levels, and what they print. Autouse: they start with the first test here."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *topics.files("levels")]
    logs = {level: tmp_path_factory.mktemp(level) / "log" for level in others}
    with contextlib.ExitStack() as stack:
        started = {}
        for level, log in logs.items():
            out = stack.enter_context(log.open("w"))
            run = subprocess.Popen(command, env=environment(level), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
            started[level] = stack.enter_context(run)
            stack.callback(run.kill)
        yield started, logs


@pytest.mark.parametrize("level", others)
def test_every_other_level_passes_the_kernel_topics(level, runs):
    started, logs = runs
    assert started[level].wait(timeout=1800) == 0, logs[level].read_text()[-8000:]


@pytest.mark.parametrize("level", config["isas"])
def test_every_level_can_be_asked_for(level, python):
    assert python("import fastopt; print(fastopt.config()['isa'])", FASTOPT_ISA=level) == f"{level}\n"


def test_an_unknown_level_is_an_import_error_naming_the_choices():
    program = [sys.executable, "-c", "import fastopt"]
    done = subprocess.run(program, env=environment("v9"), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: FASTOPT_ISA='v9'")
    assert all(repr(level) in last for level in config["isas"])


def test_without_a_wish_the_best_level_is_taken(python):
    assert python("import fastopt; print(fastopt.config()['isa'])", FASTOPT_ISA="") == f"{config['isas'][0]}\n"
