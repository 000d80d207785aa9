"""Steps of `DataParallel` on ranks of one thread each, pinned, beside torch's; sums in rank order beside MPI's own.

- `one rank` makes as many batches as all ranks, so its ratio is how many times the rows per second of one they make.
- `predicted` is what `predict_scaling` says of the step: its ratio is 1 where it is right.
"""

from collections.abc import Callable, Iterator
from functools import partial

from fastopt.bench._cases import Case
from fastopt.bench._networks import title
from fastopt.bench._ranks import mpi_job, require_ranks, torch_job

__all__ = ["cases", "require_ranks"]

STEPS = (([64, 128, 64, 10], 32), ([784, 256, 128, 10], 64), ([784, 1024, 1024, 10], 128))
SUMMED = 1_000_000


def cases() -> Iterator[Case]:
    for widths, rows in STEPS:
        for ranks in (2, 1):
            yield step_case(widths, rows, ranks)
    for ranks in (2, 4):
        yield sum_case(SUMMED, ranks)


def step_case(widths, rows, ranks) -> Case:
    """One step of all ranks."""
    ours, predicted = (partial(mpi_job, ranks, kind, widths, rows) for kind in ("step", "predicted"))
    beside: dict[str, Callable] = {
        "one rank": partial(mpi_job, 1, "alone", widths, rows, ranks),
        "predicted": predicted,
    }
    peers: dict[str, Callable] = {"torch DDP": partial(torch_job, ranks, widths, rows)} if ranks > 1 else {}
    family = f"DataParallel, {ranks} rank{'s' * (ranks > 1)}"
    what = f"DataParallel {title(widths)}, batch {rows}, {ranks} rank{'s' * (ranks > 1)}"
    return Case(what, tuple, ours, peers, family=family, yardsticks=beside)


def sum_case(n, ranks) -> Case:
    """The sum of an array over all ranks."""
    ours, fast = (partial(mpi_job, ranks, "sum", reduce, n) for reduce in ("ordered", "fast"))
    return Case(f"ordered sum, {n}, {ranks} ranks", tuple, ours, family="ordered sum", yardsticks={"fast": fast})
