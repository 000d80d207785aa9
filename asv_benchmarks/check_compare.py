"""Does compare.py find a loss of a fifth, and none where there is none? Ten times each.

    python asv_benchmarks/check_compare.py

Both sides are copies of the built package. In the planted one some functions take a fifth longer: each call is followed
by a wait of a fifth of its own time. A run is right if it names exactly these.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from builds import ROOT
from compare import compare, questions, report

PLANTED, OTHERS = ("dense", "cross_entropy", "dropout"), ("conv2d", "batch_norm", "exp")
CASES = rf"^kernels ({'|'.join(PLANTED + OTHERS)}), (512 features|32 channels|100000 elements), float32$"
PLANT = """

import time as _time


def _dearer(function):
    def call(*arguments, **options):
        start = _time.perf_counter()
        result = function(*arguments, **options)
        end = _time.perf_counter()
        end += 0.2 * (end - start)
        while _time.perf_counter() < end:
            pass
        return result

    return call


"""


def copy_of(package, folder, planted) -> None:
    """A copy of the built package in a folder, some of its functions dearer."""
    shutil.copytree(package, folder / "fastopt", ignore=shutil.ignore_patterns("*.c", "__pycache__"))
    functional = folder / "fastopt" / "functional.py"
    lines = "".join(f"{name} = _dearer({name})\n" for name in planted)
    functional.write_text(functional.read_text() + (PLANT + lines if planted else ""))


def main() -> int:
    """Print a line for each run; 1 if one was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    args = parser.parse_args()
    asked = [str(question) for question in questions(CASES, [1])]
    planted = {name for name in asked if name.split()[1].rstrip(",") in PLANTED}
    with tempfile.TemporaryDirectory() as made:
        base, dearer, equal = (Path(made, name) for name in ("base", "dearer", "equal"))
        for folder in (base, dearer, equal):
            copy_of(ROOT / "fastopt", folder, PLANTED if folder is dearer else ())
        found = sum(is_right(base, dearer, planted) for _ in range(args.times))
        none = sum(is_right(base, equal, set()) for _ in range(args.times))
    print(f"loss of a fifth found {found} times of {args.times}, none where there is none {none}")
    return int(min(found, none) < args.times)


def is_right(base, tree, expected) -> bool:
    """Whether a comparison, which is printed, finds what is expected."""
    lost = set(report(compare(base, tree, questions(CASES, [1]))))
    print("right\n" if lost == expected else "WRONG\n", flush=True)
    return lost == expected


if __name__ == "__main__":
    sys.exit(main())
