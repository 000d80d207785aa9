"""fastopt's own times over commits, by thread count; `python -m fastopt bench` compares with peers.

- The cases and the way to measure them are those of `fastopt.bench`; a file here names its topic. They come from the
  folder beside this one whichever fastopt is installed, so every commit does the same work.
- Versions are pinned. A case that does other work gets another name; whoever changes how all are measured raises
  VERSION, and asv drops what was measured before. asv's own versions are hashes of the few lines here: they change
  with every edit of a comment, and not with the functions that are called.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import fastopt as fo

FOLDER = Path(__file__).resolve().parents[2] / "fastopt" / "bench"
VERSION = "1"


def use_cases_of_this_folder() -> None:
    """Let `fastopt.bench` be that of this folder, though fastopt is of another commit."""
    if Path(fo.__file__).resolve().parent != FOLDER.parent:
        bench = ModuleType("fastopt.bench")
        bench.__path__ = [str(FOLDER)]
        sys.modules["fastopt.bench"] = bench


use_cases_of_this_folder()
seconds = import_module("fastopt.bench._measure").seconds


def thread_counts(granted) -> list[int]:
    """1, 2, 4, ... and all that are granted."""
    return sorted({*(1 << k for k in range(granted.bit_length())), granted})


THREADS = thread_counts(fo.get_num_threads())


def benchmark_of(topic):
    """The benchmark of a topic: its cases at each thread count, without the peers."""
    cases = {case.what: case.alone() for case in topic.cases()}

    class Cases:
        params = [THREADS, list(cases)]
        param_names = ["threads", "case"]
        unit = "seconds"
        version = VERSION

        def track_ours(self, threads, case):
            return seconds(cases[case], threads)["ours"]

        track_ours.pretty_name = topic.__name__.rpartition(".")[2]

    return Cases


def benchmark_of_kernel(name, kernel):
    """The benchmark of a kernel: threads, dtype and size, each of which the page can put on its x-axis."""
    from fastopt.bench.kernels import DTYPES

    class Kernel:
        params = [THREADS, list(DTYPES), list(kernel.sizes)]
        param_names = ["threads", "dtype", kernel.unit]
        unit = "seconds"
        version = VERSION

        def track_seconds(self, threads, dtype, size):
            return seconds(kernel.case(size, dtype), threads)["ours"]

        track_seconds.pretty_name = name

    Kernel.__name__ = Kernel.__qualname__ = name  # the last part of the address of its page
    return Kernel
