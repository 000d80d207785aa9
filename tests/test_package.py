"""What is shipped: every source of the kernels is in the source distribution, triggers a rebuild, and compiles there.

Pass criterion: the archive holds the files of the tree; a build of the archive alone, at the lowest level and without
optimization, imports and predicts.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import fastopt as fo

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "fastopt" / "_kernels"
BUILDS = {"v2", "v3", "v4", "baseline", "__pycache__"}
SOURCES = sorted(
    str(p.relative_to(ROOT))
    for pattern in ("*.pyx", "*.pxi", "*.h", "*.pyi", "machine/*.c")
    for p in KERNELS.rglob(pattern)
    if not BUILDS & set(p.relative_to(KERNELS).parts)
)

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="needs the source tree, not an installed package"
)
needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="needs a C compiler")


def python(*arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The source distribution of the tree, unpacked."""
    pytest.importorskip("setuptools", reason="setuptools, which writes the archive, is not installed")
    pytest.importorskip("Cython", reason="Cython, which setup.py asks for, is not installed")
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("unpacked")
    for part in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, tree / part)
    shutil.copytree(
        ROOT / "fastopt", tree / "fastopt", ignore=shutil.ignore_patterns(*BUILDS, "*.so", "core*.c", "_cpu.c")
    )
    python("setup.py", "-q", "sdist", "--dist-dir", str(folder), cwd=tree)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return next(p for p in folder.iterdir() if p.is_dir())


@needs_compiler
def test_every_source_of_the_kernels_is_in_the_source_distribution(unpacked):
    assert len(SOURCES) > 40
    assert [name for name in SOURCES if not (unpacked / name).exists()] == []
    assert not list(unpacked.rglob("*.so"))


@needs_compiler
def test_every_source_of_the_kernels_triggers_a_rebuild(unpacked):
    program = "import setup; print(*setup.extensions()[-1].depends, sep='\\n')"
    watched = set(python("-c", program, cwd=unpacked).split())
    included = {name for name in SOURCES if name.endswith((".pxi", ".h", ".c"))}
    assert included <= watched
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"'*{suffix}'" in makefile for suffix in (".pyx", ".pxi", ".h"))
    assert "machine/team.c" in makefile


def test_source_folders_are_tracked_and_only_builds_are_cleaned():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "fastopt/_kernels/*/" not in ignored
    assert "fastopt/_kernels/*/" not in (ROOT / "Makefile").read_text()
    folders = {p.name for p in KERNELS.iterdir() if p.is_dir()} - BUILDS
    assert folders == {"machine", "layers", "optim", "program", "functional"}


BUILD = """
import sys, setup
level = next(iter(setup.LEVELS))
setup.LEVELS = {level: setup.LEVELS[level]}
setup.FLAGS, setup.ONCE = [*setup.FLAGS, "-O0"], [*setup.ONCE, "-O0"]
sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
setup.setup(ext_modules=setup.extensions(), cmdclass={"build_ext": setup.BuildLevels})
"""
PREDICT = """
import numpy as np, fastopt as fo
net = fo.nn.Sequential([fo.nn.Dense(3, 5, "relu"), fo.nn.BatchNorm(5), fo.nn.Dense(5, 2)], rng=0)
print(fo.__file__, net.predict(np.ones((30, 3))).sum().round(4))
"""


@pytest.mark.slow
@needs_compiler
def test_the_source_distribution_builds_and_predicts(unpacked):
    python("-c", BUILD, cwd=unpacked)
    file, total = python("-c", PREDICT, cwd=unpacked, PYTHONPATH=str(unpacked), FASTOPT_ISA="").split()
    assert Path(file).is_relative_to(unpacked)
    here = python("-c", PREDICT, cwd=ROOT, PYTHONPATH=str(Path(fo.__file__).parents[1]))
    assert float(total) == pytest.approx(float(here.split()[1]), rel=1e-4)
