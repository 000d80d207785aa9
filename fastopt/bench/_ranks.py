"""Ranks that are timed in jobs of their own: those of an MPI job, and processes of torch.distributed.

- Ranks are pinned, one thread each, and wait asleep between two questions, so other sides can be timed meanwhile.
- A question is a number of calls, as a line for rank 0, which tells the others; the answer is the seconds they took.
- Where there is no launcher, no mpi4py or no torch, a job is an ImportError, as a peer that is not installed.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import timeit
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

import fastopt as fo
from fastopt.bench._networks import LR, batch, our_net, torch_net

READY = "ready"


class Job:
    """Processes that call something in step, until this object is gone; `timeit` is that of a timeit.Timer."""

    def __init__(self, commands):
        path = os.pathsep.join(filter(None, [str(Path(fo.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed by _end
        environment, pipe = {**os.environ, "PYTHONPATH": path}, subprocess.PIPE
        self.processes = [
            subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=said, text=True)
            for command in commands
        ]
        self.end, self.said = weakref.finalize(self, _end, self.processes, said), said
        self._answer(READY)

    def __call__(self) -> None:
        self.timeit(1)

    def timeit(self, number) -> float:
        """Seconds of so many calls on rank 0."""
        with suppress(BrokenPipeError):
            print(number, file=self.processes[0].stdin, flush=True)
        return self._answer("seconds")

    def _answer(self, kind) -> float:
        for line in self.processes[0].stdout or ():  # launchers may print, too
            if line.startswith(f'{{"{kind}"'):
                return json.loads(line)[kind]
        self.said.seek(0)
        lines = [line.strip() for line in self.said if line.strip()]
        self.end()
        reasons = [line for line in lines if "Error" in line] or lines or ["without a word"]
        raise ImportError(f"the ranks have ended: {reasons[-1]}")


def _end(processes, said) -> None:
    for process in processes:
        with suppress(BrokenPipeError):  # it has ended by itself
            print(0, file=process.stdin, flush=True)
        with suppress(BrokenPipeError):
            process.stdin.close()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    said.close()


def mpi_job(ranks, kind, *arguments) -> Job:
    """Ranks of an MPI job."""
    require_ranks(fo.get_num_threads())
    command = [sys.executable, "-m", "mpi4py", "-m", __name__, kind, json.dumps([cpus(ranks), *arguments])]
    return Job([[*launcher(ranks), *command]])


def require_ranks(threads) -> None:
    """Raise ImportError unless ranks can be started, and are to have one thread."""
    if threads > 1:
        raise ImportError("ranks have one thread each")
    if importlib.util.find_spec("mpi4py") is None:
        raise ImportError('no mpi4py: pip install "fastopt[mpi]"')
    launcher(1)


def torch_job(ranks, widths, rows) -> Job:
    """Processes of torch's DistributedDataParallel over gloo."""
    if importlib.util.find_spec("torch") is None:
        raise ImportError("no torch")
    meeting = tempfile.mkdtemp()
    command = [sys.executable, "-m", __name__, "torch"]
    given = [[cpus(ranks), rank, ranks, f"{meeting}/ranks", widths, rows] for rank in range(ranks)]
    job = Job([[*command, json.dumps(arguments)] for arguments in given])
    weakref.finalize(job, shutil.rmtree, meeting, ignore_errors=True)
    return job


def cpus(ranks) -> list[int]:
    """A CPU for each rank; none where a process cannot be pinned."""
    granted = sorted(fo.threads.cpus())
    return [granted[rank % len(granted)] for rank in range(ranks)] if hasattr(os, "sched_setaffinity") else []


@cache
def launcher(ranks) -> list[str]:
    """The command that starts so many ranks of the MPI beside this Python, or of the system's."""
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise ImportError('no mpiexec beside this Python, and none on the PATH: pip install "fastopt[mpi]"')
    said = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False).stdout
    if "HYDRA" in said:
        return [mpiexec, "-n", str(ranks)]
    # Open MPI refuses more ranks than cores, and root; it would pin ranks itself
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [mpiexec, "-n", str(ranks), "--oversubscribe", "--bind-to", "none", *as_root]


# ---------------------------------------------------------------- in a rank


def answer(rank, share, call) -> None:
    """Call as often as rank 0 is asked to, on all ranks; `share` gives rank 0's number to all, 0 at the end."""
    timer = call if hasattr(call, "timeit") else timeit.Timer(call)
    if rank:
        while number := int(share(0)):
            share(0)
            timer.timeit(number)
        return
    print(json.dumps({READY: 1}), flush=True)
    while number := int(sys.stdin.readline() or 0):
        share(number)
        share(0)  # the others are awake
        print(json.dumps({"seconds": timer.timeit(number)}), flush=True)
    share(0)


def pin(numbers, rank) -> None:
    if numbers:
        os.sched_setaffinity(0, {numbers[rank]})
    fo.set_num_threads(1)


def run_mpi(kind, numbers, *arguments) -> None:
    """A rank of an MPI job."""
    from fastopt.parallel.communicator import Communicator

    comm = Communicator()
    pin(numbers, comm.rank)
    answer(comm.rank, lambda number: comm.tell("calls", number)[0, 0], KINDS[kind](comm, *arguments))


def trainer(widths, rows):
    net = our_net(widths)
    return fo.nn.Trainer(net, "cross_entropy", fo.optim.Adam(net.parameters(), lr=LR), max_batch=rows)


def step(comm, widths, rows):
    """A step of DataParallel on a batch of each rank."""
    parallel, (x, y) = fo.parallel.DataParallel(trainer(widths, rows)), batch(widths, rows)()
    return lambda: parallel.step(x, y)


def alone(comm, widths, rows, steps):
    """So many steps of a Trainer."""
    one, (x, y) = trainer(widths, rows), batch(widths, rows)()

    def call():
        for _ in range(steps):
            one.step(x, y)

    return call


class Predicted:
    """The timer of a step that is predicted anew each time, from what all ranks measure at the same time."""

    def __init__(self, comm, widths, rows):
        from fastopt.parallel.network import measure_network, way_of

        self.comm, self.widths, self.rows = comm, widths, rows
        self.network, self.way = measure_network(), way_of(comm)

    def timeit(self, number) -> float:
        """Seconds of so many."""
        net, ranks, network = our_net(self.widths), self.comm.size, self.network._asdict()
        options = {"node_ranks": ranks, "repeats": 3, "seconds": 0.01}
        scaling = fo.parallel.predict_scaling(net, self.rows, [ranks], **network, **options)
        (found,) = scaling.of(self.way)
        return number * float(self.comm.tell("predicted", found.seconds).max())


def total(comm, reduce, n):
    """The sum over all ranks of an array of n float32."""
    from fastopt.parallel.reduction import sum_of
    from fastopt.parallel.shared_memory import shared_arrays

    shared = shared_arrays(comm, n, np.float32) if reduce == "ordered" else None
    summed = sum_of(reduce, comm, [np.zeros(n, np.float32) if shared is None else shared.own], shared)
    ones = [1.0] * comm.size

    def call():
        summed.start(0, ones)
        summed.finish()

    return call


KINDS: dict[str, Callable] = {"step": step, "alone": alone, "predicted": Predicted, "sum": total}


def run_torch(numbers, rank, ranks, meeting, widths, rows) -> None:
    """A process of torch.distributed."""
    import torch
    import torch.distributed as dist

    pin(numbers, rank)
    torch.set_num_threads(1)
    if sys.platform == "linux":  # elsewhere by the name of the host
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    net = torch.nn.parallel.DistributedDataParallel(torch_net(widths))
    adam = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    x, y = map(torch.from_numpy, batch(widths, rows)())

    def call():
        adam.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        adam.step()

    def share(number):
        told = torch.tensor([number])
        dist.broadcast(told, 0)
        return told.item()

    answer(rank, share, call)
    dist.destroy_process_group()


if __name__ == "__main__":
    chosen, given = sys.argv[1], json.loads(sys.argv[2])
    run_torch(*given) if chosen == "torch" else run_mpi(chosen, *given)
