"""How many threads a call may use.

The count is the smallest of `set_num_threads`, OMP_NUM_THREADS, the CPUs this
process may run on, and the CPU quota of its control group rounded down; at least
1. `num_threads` overrides it for the calling thread. A limit that threadpoolctl
sets on the OpenMP runtime holds as well.
"""

import functools
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from fastopt._kernels import core, isa, isas

__all__ = ["config", "get_num_threads", "num_threads", "set_num_threads", "show_config"]


def _check(n) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__") or n < 1:
        raise ValueError(f"n: expected a number of threads of at least 1, got {n!r}")
    return int(n)


def _quotas(root: Path, membership: str) -> Iterator[float]:
    """CPUs granted by every control group (v1 and v2) from ours up to the root."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
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


def _available() -> int:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = [affinity, max(1, math.floor(min(_quota(), affinity)))]
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if first.isdigit() and int(first) > 0:
        allowed.append(int(first))
    return min(allowed)


def get_num_threads() -> int:
    """Threads that a large enough call from this thread uses.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.get_num_threads() >= 1
    True
    """
    return core.get_team()


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
    core.set_common_team(min(_check(n), _available()))


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use exactly `n` threads in calls from this thread, inside the ``with`` block.

    More than the machine has is allowed here: it is slower, and gives the same bits.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> import fastopt as fo
    >>> with fo.num_threads(1):
    ...     fo.get_num_threads()
    1
    """
    before = core.get_own_team()
    core.set_own_team(_check(n))
    try:
        yield
    finally:
        core.set_own_team(before)


@functools.cache
def _blas():
    """The BLAS libraries of NumPy and SciPy; finding them takes a millisecond."""
    import scipy.linalg  # noqa: F401  (loads its own)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager:
    """Holds BLAS, and so LAPACK, to one thread: 8 µs, beside 250 where the libraries are looked for each time.

    LAPACK's bits depend on the threads of its BLAS, and on busy CPUs these wait for each other without end:
    a Cholesky factor of 300 columns took 0.5 ms on one, 830 ms on two. threadpoolctl leaves the count alone
    while another thread has set it.
    """
    return _blas().limit(limits=1, user_api="blas")


def config() -> dict:
    """What this build and process use: instruction set, OpenMP, threads, quota.

    Returns
    -------
    dict
        isa (level in use), isas (levels this machine and build offer), openmp, threads,
        quota (CPUs, None if there is none), wait_policy (OMP_WAIT_POLICY, None if unset).

    Examples
    --------
    >>> import fastopt as fo
    >>> sorted(fo.config())
    ['isa', 'isas', 'openmp', 'quota', 'threads', 'wait_policy']
    """
    quota = _quota()
    return {
        "isa": isa,
        "isas": isas,
        "openmp": core.has_openmp(),
        "threads": get_num_threads(),
        "quota": None if math.isinf(quota) else quota,
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def show_config() -> None:
    """Print `config` and the thread pools loaded in this process (found by threadpoolctl)."""
    import fastopt

    print(f"fastopt {fastopt.__version__}")
    for name, value in config().items():
        print(f"  {name}: {', '.join(value) if isinstance(value, tuple) else value}")
    if not core.has_openmp():
        print("  built without OpenMP: every call runs on one thread")
    from threadpoolctl import threadpool_info

    for pool in threadpool_info():
        print(f"  runtime {pool['internal_api']}: {pool['num_threads']} threads, {Path(pool['filepath']).name}")


core.set_common_team(_available())
