"""How many threads a call may use, ours and those of BLAS.

The count is the smallest of `set_num_threads`, OMP_NUM_THREADS, OMP_THREAD_LIMIT, the
CPUs this process may run on, and the CPU quota of its control group rounded down; at
least 1. `num_threads` overrides it for the calling thread. A limit that threadpoolctl
sets on the OpenMP runtime holds as well, and so does what the system refuses. BLAS has
one thread wherever we call it.
"""

import ctypes
import math
import os
import re
from collections.abc import Iterator
from contextlib import ContextDecorator
from itertools import product
from pathlib import Path

from fastopt._forks import importing
from fastopt._kernels import core, isa, isas, isas_built, overrides, processor
from fastopt._numbers import whole_number

__all__ = ["config", "get_num_threads", "num_threads", "set_num_threads", "show_config"]


# ---------------------------------------------------------------- what the machine grants


def _quotas(root: Path, membership: str) -> Iterator[float]:
    """CPUs granted by every control group (v1 and v2) from ours up to the root."""
    for line in membership.splitlines():
        _, *fields = line.split(":", 2)
        if len(fields) < 2:
            continue  # of another form: the other lines count
        controllers, path = fields
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = (
            root / controllers
            if controllers and (root / controllers).is_dir()
            else root / ("cpu" if controllers else "")
        )
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            if base not in (group, *group.parents):
                break
            try:
                if controllers:
                    quota = int((group / "cpu.cfs_quota_us").read_text())
                    period = int((group / "cpu.cfs_period_us").read_text())
                else:
                    words = (group / "cpu.max").read_text().replace("max", "-1").split()
                    quota, period = int(words[0]), int(words[1])
            except (OSError, ValueError, IndexError):
                continue
            if quota > 0 and period > 0:
                yield quota / period


def _quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """CPUs that the control groups grant together; infinite without a quota."""
    try:
        return min(_quotas(root, membership.read_text()), default=math.inf)
    except (OSError, ValueError):
        return math.inf


def cpus() -> frozenset[int]:
    """CPUs that the calling thread may run on, or that the OpenMP runtime may bind threads to.

    A runtime that binds threads (OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY) has bound the main thread when it was
    loaded, so the mask of a thread that is bound to one of its places says nothing.
    """
    if not hasattr(os, "sched_getaffinity"):
        return frozenset(range(os.cpu_count() or 1))
    mask, places = os.sched_getaffinity(0), core.places()
    if not places:
        return frozenset(mask)
    bound = any(mask <= place for place in places)
    everywhere = frozenset().union(*places)
    return (everywhere if bound else everywhere & mask) or frozenset([0])


def _wanted() -> int | None:
    """The first number of OMP_NUM_THREADS; None where OpenMP ignores the variable: all must be numbers above 0."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    if not re.fullmatch(r"\s*\+?[0-9]{1,18}\s*(,\s*\+?[0-9]{1,18}\s*)*", value, re.ASCII):
        return None
    counts = [int(word) for word in value.split(",")]
    return counts[0] if min(counts) > 0 else None


_ranks: list[frozenset[int]] = []  # the CPUs of each rank of an MPI job on this machine; none outside one


def _available() -> int:
    mine = cpus()
    granted = min(float(len(mine)), _quota())
    if _ranks:  # each CPU, and the quota, is divided by the ranks that may use it
        shares = sum(1 / max(1, sum(cpu in theirs for theirs in _ranks)) for cpu in mine)
        granted = min(shares, _quota() / len(_ranks))
    allowed = [max(1, math.floor(granted + 1e-9)), core.thread_limit(), core.MAX_THREADS]
    return min(*allowed, _wanted() or len(mine))


def share(ranks: list[frozenset[int]]) -> None:
    """Divide what the machine grants among the ranks of an MPI job on it; `ranks` holds the `cpus` of each."""
    if len(ranks) > len(_ranks):
        _ranks[:] = ranks
        core.set_common_thread_count(min(get_num_threads(), _available()))


# ---------------------------------------------------------------- the count


def get_num_threads() -> int:
    """Threads that a large enough call from this thread uses.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.get_num_threads() >= 1
    True
    """
    return core.get_thread_count()


def set_num_threads(n: int) -> None:
    """Set the number of threads of the process; more than the machine grants is cut to that.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ValueError
        `n` is not a number of at least 1.
    """
    core.set_common_thread_count(min(whole_number("n", n, most=math.inf), _available()))


class num_threads(ContextDecorator, core.OwnThreadCount):
    """Use exactly `n` threads in calls from this thread, inside the ``with`` block.

    More than the machine has is allowed here: it is slower, and gives the same bits.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    ValueError
        `n` is not such a number.

    Examples
    --------
    >>> import fastopt as fo
    >>> with fo.num_threads(1):
    ...     fo.get_num_threads()
    1
    """

    def __init__(self, n: int):
        super().__init__(whole_number("n", n, most=core.MAX_THREADS))

    def _recreate_cm(self):
        return type(self)(self.n)  # as a decorator: each call has its own


# ---------------------------------------------------------------- BLAS

# What tells and sets the threads of a library, by threadpoolctl's names; where telling is None, setting returns the
# count before. Whether each thread has a count of its own.
_BLAS = {
    "openblas": ("openblas_get_num_threads", "openblas_set_num_threads", False),
    "openblas on openmp": ("omp_get_max_threads", "omp_set_num_threads", True),
    "mkl": (None, "MKL_Set_Num_Threads_Local", True),
    "blis": ("bli_thread_get_num_threads", "bli_thread_set_num_threads", False),
    "flexiblas": ("flexiblas_get_num_threads", "flexiblas_set_num_threads", False),
}


def _find_blas() -> None:
    """Tell the kernels about every library of BLAS that is loaded; that takes a millisecond."""
    with importing:
        from threadpoolctl import threadpool_info

    for pool in threadpool_info():
        layer = " on openmp" if pool.get("threading_layer") == "openmp" else ""
        names = _BLAS.get(pool["internal_api"] + layer)
        if names is None:
            continue
        library, (get, put, own) = ctypes.CDLL(pool["filepath"]), names
        # OpenBLAS in the wheels of NumPy and SciPy has names of its own
        for before, after in product(("", "scipy_"), ("", "64_", "_64")):
            get_at, put_at = _address(library, get and before + get + after), _address(library, before + put + after)
            if put_at and (get_at or get is None):
                core.add_blas(get_at, put_at, own)
                break


def _address(library, name) -> int:
    function = getattr(library, name, None) if name else None
    return (ctypes.cast(function, ctypes.c_void_p).value or 0) if function else 0


# Holds BLAS, and so LAPACK, to one thread inside ``with one_blas_thread:``; a third of a microsecond.
#
# Their bits depend on the threads, and on busy CPUs these wait for each other without end: a Cholesky factor of 300
# columns took 0.5 ms on one, 830 ms on two. Every product and every LAPACK call of ours is inside such a block, in
# any thread, and blocks in several threads may overlap (blas.h). threadpoolctl cannot do it: the first thread that
# sets OpenBLAS's count through it keeps all others from setting it.
one_blas_thread = core.OneBlasThread(_find_blas)


# ---------------------------------------------------------------- what is in use


def config() -> dict:
    """What this build and process use: instruction set, processor, OpenMP, threads, quota.

    Returns
    -------
    dict
        isa (level in use), isas (levels this machine and build offer), isas_built (levels
        that were compiled, see FASTOPT_LEVELS), processor (its row in the table of
        processors), tuning (the numbers that kernels are tuned with), overridden (which of them FASTOPT_TUNING gave),
        openmp, threads, refused_above (the smallest number of threads with which a call had to do since
        `set_num_threads`, for the system created no more; None if it always did), quota (CPUs, None if there is none),
        node_ranks (ranks of an MPI job that divide this machine's CPUs and quota; 1 outside `fastopt.parallel`),
        wait_policy (OMP_WAIT_POLICY, None if unset).

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.config()["node_ranks"]
    1
    """
    quota = _quota()
    return {
        "isa": isa,
        "isas": isas,
        "isas_built": isas_built,
        "processor": processor.name,
        "tuning": core.get_tuning(),
        "overridden": tuple(overrides),
        "openmp": core.has_openmp(),
        "threads": get_num_threads(),
        "refused_above": core.smallest_team() or None,
        "quota": None if math.isinf(quota) else quota,
        "node_ranks": max(1, len(_ranks)),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def show_config() -> None:
    """Print `config` and the thread pools loaded in this process (found by threadpoolctl)."""
    import fastopt

    print(f"fastopt {fastopt.__version__}")
    used = config()
    used["tuning"] = tuple(f"{name} {number}" for name, number in used["tuning"].items())
    for name, value in used.items():
        print(f"  {name}: {(', '.join(value) or None) if isinstance(value, tuple) else value}")
    if not core.has_openmp():
        print("  built without OpenMP: every call runs on one thread")
    with importing:
        from threadpoolctl import threadpool_info

    for pool in threadpool_info():
        print(f"  runtime {pool['internal_api']}: {pool['num_threads']} threads, {Path(pool['filepath']).name}")


core.set_common_thread_count(_available())
