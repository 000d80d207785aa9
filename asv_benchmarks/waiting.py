"""What a rank that waits burns of its core: in a round of ours, and in a blocking call of MPI.

mpiexec -n 2 python asv_benchmarks/waiting.py
"""

import time

from fastopt.parallel import Communicator

SECONDS = 3.0  # that rank 0 lets the others wait


def burnt(comm, meeting) -> float:
    """Seconds of CPU that the last rank burns while rank 0 sleeps before a meeting."""
    comm.tell("start")
    if comm.rank == 0:
        time.sleep(SECONDS)
    before = time.process_time()
    meeting()
    return float(comm.tell("burnt", time.process_time() - before)[-1, 0])


def main():
    comm = Communicator()
    ours, blocking = (burnt(comm, meeting) for meeting in (lambda: comm.tell("meet"), comm.mpi.Barrier))
    if comm.rank == 0:
        print(f"in {SECONDS:g} s of waiting: a round {ours:.2f} s of CPU, MPI_Barrier {blocking:.2f} s")


if __name__ == "__main__":
    main()
