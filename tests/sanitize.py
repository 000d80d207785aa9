"""Builds the package with Address- and UndefinedBehaviorSanitizer and runs the topics of kernels and files there.

Which topics: topics.py. Called by `make sanitize`. The build lives in a temporary folder; the exit status is
that of pytest. Arguments are handed on to pytest.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import topics

ROOT = Path(__file__).parents[1]
PARTS = ("setup.py", "pyproject.toml", "README.md", "fastopt", "tests")
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")  # the last: ASan wants to see it before C++ throws


def library(name: str) -> str:
    """Where the compiler keeps a run-time library."""
    compiler = (os.environ.get("CC") or "gcc").split()[0]
    path = subprocess.run(
        [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not os.path.isabs(path):
        raise SystemExit(f"sanitize: {compiler} has no {name}; install its sanitizer libraries")
    return os.path.realpath(path)


def copy_sources(folder: Path) -> None:
    """The package without what was built before."""
    built = shutil.ignore_patterns("*.so", "core*.c", "_cpu.c", "__pycache__", ".hypothesis")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=built)
        elif source.exists():
            shutil.copy(source, folder / part)


def main() -> int:
    preload = " ".join(library(name) for name in LIBRARIES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_sources(folder)
        environment = {**os.environ, "FASTOPT_SANITIZE": "1", "FASTOPT_TEST_ALL": "1", "PYTHONPATH": str(folder)}
        subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=folder, env=environment, check=True)
        environment |= {
            "LD_PRELOAD": preload,
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps what it allocates
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [*topics.files("sanitizer"), *sys.argv[1:]]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
