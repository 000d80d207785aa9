"""Does compare.py find a loss of a fifth, and none where there is none? Ten times each.

    python asv_benchmarks/check_compare.py

Both sides are copies of the built package. In the planted one some functions take a fifth longer: each call is followed
by a wait of a fifth of its own time. A run is right if it names exactly these.
"""

import argparse
import io
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from builds import ROOT
from compare import compare, questions, report

CASES = r"^kernels (dense|conv2d|cross_entropy|dropout|batch_norm|exp), (512 features|32 channels|100000 elements), float32$"
PLANTED = ("dense", "cross_entropy", "dropout")
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


def copy_of(package, folder, planted=()) -> Path:
    """A copy of the built package in a folder, some of its functions dearer."""
    shutil.copytree(package, folder / "fastopt", ignore=shutil.ignore_patterns("*.c", "__pycache__"))
    functional = folder / "fastopt" / "functional.py"
    lines = "".join(f"{name} = _dearer({name})\n" for name in planted)
    functional.write_text(functional.read_text() + (PLANT + lines if planted else ""))
    return folder


def main() -> int:
    """Print a line for each run; 1 if one was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    args = parser.parse_args()
    asked, right = questions(CASES, [1]), {"planted": 0, "none": 0}
    with tempfile.TemporaryDirectory() as made:
        package = ROOT / "fastopt"
        base = copy_of(package, Path(made, "base"))
        trees = {"planted": copy_of(package, Path(made, "planted"), PLANTED), "none": copy_of(package, Path(made, "none"))}
        for time in range(args.times):
            for kind, tree in trees.items():
                text = io.StringIO()
                with redirect_stdout(text):
                    lost = report(compare(base, tree, asked))
                expected = {name for name in map(str, asked) if kind == "planted" and name.split()[1].rstrip(",") in PLANTED}
                right[kind] += set(lost) == expected
                print(f"run {time + 1}, {kind}: {'right' if set(lost) == expected else 'WRONG'}")
                print(text.getvalue(), flush=True)
    print(f"loss of a fifth found {right['planted']} times of {args.times}, none where there is none {right['none']}")
    return int(min(right.values()) < args.times)


if __name__ == "__main__":
    sys.exit(main())
