"""What is paid where there is no work: the import, and fit and predict of the smallest network."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fastopt as fo
from fastopt.bench._cases import Case
from fastopt.bench._networks import predict_case, title
from fastopt.bench.train import fit_case

SMALLEST = [4, 10]


def cases() -> Iterator[Case]:
    numpy = partial(importing, "numpy")  # which is a part of ours
    yield Case("import fastopt", tuple, partial(importing, "fastopt"), yardsticks={"numpy": numpy}, family="import")
    yield predict_case(f"predict {title(SMALLEST)}, batch 1", SMALLEST, 1)._replace(flops=0.0)
    yield fit_case(SMALLEST, rows=32, n=32, epochs=1)


def importing(module) -> Callable:
    """A process that imports a module and ends."""
    command, folder = [sys.executable, "-c", f"import {module}"], Path(fo.__file__).parents[1]
    return lambda: subprocess.run(command, cwd=folder, check=True)
