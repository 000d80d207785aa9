"""Another commit beside this tree, in turns: fails on losses beyond LOSS and noise.

    python asv_benchmarks/compare.py BASE                      # a revision, or a folder with a build
    python asv_benchmarks/compare.py BASE --bench '^train|^kernels dense,' --threads 1 2

- Both run in processes of their own, started anew in each round, with the cases of this tree (fastopt.bench). No round
  has the processes of another, for a process may be fast or slow by where its memory happens to lie.
- Where it lies must not depend on the build. Lengths of names and what was allocated before moved arrays on the heap,
  and made equal builds differ by a tenth to a fifth in every round (Mytkowicz et al. 2009, Producing wrong data without
  doing anything obviously wrong!). So both folders have names of one length, arrays of cases lie at fixed places of a
  page, and all others of 64 KiB and more get pages of their own.
- In a round, base and tree take TURNS of a few milliseconds, back and forth. The fastest of each counts: what else runs
  on the machine only ever adds.
- A round votes for a loss if its ratio is above LOSS. Rounds go on until one vote leads the other by LEAD: Wald's
  sequential test. Were rounds of equal commits wrong as often as one time in five, a case would be blamed once in a
  thousand (1/4 to the power of LEAD); it does not matter how wrong a round is. Cases that are still open after ROUNDS
  are within noise of LOSS and pass.
"""

import argparse
import math
import re
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from builds import ROOT, build_of, commit_of

from fastopt import bench
from fastopt.bench import _earlier
from fastopt.nn.tuning import calls_for

LOSS = 1.10
TURNS, SECONDS = 16, 0.002  # a few milliseconds are less than a scheduler's slice, so some turns are undisturbed
LEAD, ROUNDS = 5, 25
OWN_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}  # read by glibc
DEFAULT = (  # each kernel at its middle size in float32, and what networks spend their time in
    r"^kernels .*, (100000 elements|100000 parameters|512 features|32 channels|32 hidden units|5000 rows), float32$"
    r"|^train step (64-64-10, batch 32|784-256-128-10, batch 128)$"
    r"|^serving predict (64-64-10, batch 1|784-256-128-10, batch 32)$"
)


class Question(NamedTuple):
    """A case at a number of threads."""

    topic: str
    case: bench.Case
    threads: int

    def __str__(self):
        return f"{self.topic} {self.case.what}" + (f", {self.threads} threads" if self.threads > 1 else "")


class Ratios:
    """Times of the tree over those of the base, a number for each round."""

    def __init__(self):
        self.found = []
        self.missing = ""  # why there are none

    @property
    def lead(self) -> int:
        """Votes for a loss less votes against one."""
        return sum(1 if ratio > LOSS else -1 for ratio in self.found)

    @property
    def open(self) -> bool:
        return not self.missing and abs(self.lead) < LEAD and len(self.found) < ROUNDS

    @property
    def lost(self) -> bool:
        return self.lead >= LEAD

    def __str__(self):
        if self.missing:
            return f"not in base ({self.missing})"
        verdict = "LOSS" if self.lost else "within noise of a loss" if self.lead > -LEAD else ""
        return f"{statistics.median(self.found):6.2f} {len(self.found):7}  {verdict}".rstrip()


def questions(pattern, threads) -> list[Question]:
    """The cases whose topic and name a regular expression matches, without their peers."""
    asked = [
        Question(topic, case.alone(), n)
        for topic in bench.TOPICS
        for case in bench.cases(topic)
        if re.search(pattern, f"{topic} {case.what}")
        for n in threads
    ]
    if not asked:
        raise ValueError(f"--bench: expected a regular expression that matches a case, got {pattern!r}")
    return asked


def compare(base, tree, asked) -> dict[str, Ratios]:
    """Rounds over all questions that are still open; base and tree are folders with builds."""
    answers = {str(question): Ratios() for question in asked}
    with tempfile.TemporaryDirectory() as links:
        sides = [Path(links, "base"), Path(links, "tree")]  # of one length: see the head of this file
        for side, folder in zip(sides, (base, tree), strict=True):
            side.symlink_to(folder.resolve())
        while open_ones := [question for question in asked if answers[str(question)].open]:
            with ExitStack() as stack:
                started = [stack.enter_context(_earlier.started(side, **OWN_PAGES)) for side in sides]
                for question in open_ones:
                    run_round(question, started, answers[str(question)])
    return answers


def run_round(question, sides, ratios) -> None:
    """One more ratio, or the reason why the base has none."""
    base, tree = sides
    told = {"topic": question.topic, "what": question.case.what, "threads": question.threads}
    try:
        base.ask(**told)
    except ImportError as error:
        ratios.missing = str(error)
        return
    tree.ask(**told)
    number = calls_for(base, SECONDS)
    tree.timeit(1)
    fastest = [math.inf, math.inf]
    for turn in range(TURNS):
        for side in (0, 1) if turn % 2 else (1, 0):
            fastest[side] = min(fastest[side], sides[side].timeit(number))
    ratios.found.append(fastest[1] / fastest[0])


def report(answers) -> list[str]:
    """Print a line for each case, and return those that are slower."""
    width = max(map(len, answers))
    print(f"{'':{width}}  ratio  rounds")
    for name, ratios in answers.items():
        print(f"{name:{width}} {ratios}")
    return [name for name, ratios in answers.items() if ratios.lost]


def folder_of(base) -> Path:
    """A folder with a build, which a revision is built in."""
    return Path(base) if Path(base, "fastopt", "__init__.py").is_file() else build_of(commit_of(base))


def main() -> int:
    """Compare, print; 1 if something is slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="revision, or folder with a build")
    parser.add_argument("--tree", type=Path, default=ROOT, help="folder of the other build; this tree by default")
    parser.add_argument("--bench", default=DEFAULT, metavar="REGEX", help="of topic and case; a few by default")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], metavar="N", help="thread counts (default: 1)")
    args = parser.parse_args()
    asked = questions(args.bench, args.threads)
    print(f"{len(asked)} cases, times of the tree over those of {args.base}", flush=True)
    lost = report(compare(folder_of(args.base), args.tree, asked))
    if lost:
        print(f"slower by more than {LOSS - 1:.0%}: {'; '.join(lost)}")
    return int(bool(lost))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"compare: {error}")
