"""Runs the tests of this folder under the MPI of this Python, with 1 to 4 ranks: every rank runs every test.

Then those of test_parallel.py, lost_ranks.py and limited_memory.py, which start jobs of their own, in some of which
ranks are killed.

    python tests/mpi/run.py [ranks ...] [arguments of pytest]

A rank whose test fails prints its report and ends the job, for the others may be waiting for it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LONGEST = 240  # seconds of a whole job


def mpiexec() -> str:
    """The launcher beside this Python, or the one of the system."""
    own = Path(sys.executable).parent / "mpiexec"
    return str(own) if own.exists() else "mpiexec"


def launcher(ranks: int) -> list[str]:
    """The command that starts so many ranks."""
    command = [mpiexec(), "-n", str(ranks)]
    if has_open_mpi():  # which refuses more ranks than cores, and root
        command += ["--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    return command


def has_open_mpi() -> bool:
    """Whether the mpiexec of this Python is Open MPI's; the other is MPICH's."""
    command = [mpiexec(), "--version"]
    return "HYDRA" not in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def fault_tolerance() -> list[str]:
    """Options of the launcher by which a job outlasts the loss of ranks; none where the MPI cannot."""
    return ["--with-ft", "ulfm"] if has_open_mpi() else []


def run_rank(arguments) -> int:
    """All tests on this rank; what it prints is shown by rank 0, or where a test fails."""
    import pytest
    from mpi4py import MPI

    shown = os.dup(1)
    options = ["-q", "-x", "--color=no", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile() as kept, tempfile.TemporaryDirectory() as own:
        if MPI.COMM_WORLD.rank:
            os.dup2(kept.fileno(), 1)
        code = pytest.main([str(HERE), *options, f"--basetemp={own}/tests", *arguments])
        sys.stdout.flush()
        if code and MPI.COMM_WORLD.rank:
            kept.seek(0)
            os.write(shown, kept.read())
    if code:
        MPI.COMM_WORLD.Abort(1)
    return 0


def main(arguments) -> int:
    if arguments[:1] == ["--rank"]:
        return run_rank(arguments[1:])
    counts = [int(word) for word in arguments if word.isdigit()] or [1, 2, 3, 4]
    rest = [word for word in arguments if not word.isdigit()]
    for ranks in counts:
        print(f"{ranks} ranks:", flush=True)
        command = [*launcher(ranks), sys.executable, str(Path(__file__)), "--rank", *rest]
        code = subprocess.run(command, timeout=LONGEST, check=False).returncode
        if code:
            return code
    jobs = [
        str(HERE.parent / "test_parallel.py"),
        *(str(HERE / f"{name}.py") for name in ("lost_ranks", "limited_memory")),
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *jobs]
    return subprocess.run(command, timeout=LONGEST, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
