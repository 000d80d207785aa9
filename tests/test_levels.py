"""Every instruction-set level this machine runs, each in a process of its own.

Pass criterion: the kernel topics pass there as they do here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastopt as fo

HERE = Path(__file__).parent
TOPICS = [
    "activations",
    "dense",
    "grouped_dense",
    "maxout",
    "dropout",
    "whiten",
    "standardize",
    "batch_norm",
    "losses",
    "optim",
    "program",
    "newton_hvp",
    "trainer",
    "fold",
    "determinism",
    "guard_pages",
    "errors",
]
INSIDE = "FASTOPT_TEST_LEVEL"  # set in the processes started here, which start no others

config = fo.config()
others = [level for level in config["isas"] if level != config["isa"]]


def environment(level):
    path = os.pathsep.join([str(Path(fo.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "FASTOPT_ISA": level, INSIDE: level, "PYTHONPATH": path}


@pytest.mark.skipif(INSIDE in os.environ, reason="already inside the run of one level")
@pytest.mark.parametrize("level", others)
def test_every_other_level_passes_the_kernel_topics(level):
    files = [str(HERE / f"test_{topic}.py") for topic in TOPICS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(HERE.parent), *files]
    done = subprocess.run(
        command, env=environment(level), cwd=HERE.parent, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]


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
