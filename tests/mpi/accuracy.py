"""What late gradients, and the loss of a worker, cost in accuracy on digits: tables of jobs of killed.py.

    python tests/mpi/accuracy.py

Three workers and a server, bound 4, against one process; the second table needs Open MPI's fault tolerance.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from lost_ranks import accuracy_alone, at_random, job, write_digits
from run import fault_tolerance

EPOCHS, BOUND, SEEDS, KILLS = 25, 4, 3, 20


def result_of(*arguments):
    """What a job prints, and its seconds."""
    began = time.perf_counter()
    done = job(4, *arguments, options=fault_tolerance())
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - began


def main():
    with tempfile.TemporaryDirectory() as folder:
        digits, path = write_digits(Path(folder) / "digits.npz"), Path(folder) / "run"
        print("| seed | one worker | three workers, bound 4 | difference, points |\n| --- | --- | --- | --- |")
        alone, differences = [accuracy_alone(digits, seed) for seed in range(SEEDS)], []
        for seed, expected in enumerate(alone):
            result, _ = result_of(digits, path, BOUND, 1, EPOCHS, seed)
            differences.append(100 * (result["accuracy"] - expected))
            print(f"| {seed} | {expected:.4f} | {result['accuracy']:.4f} | {differences[-1]:+.2f} |", flush=True)
        print(f"| mean | {np.mean(alone):.4f} | | {np.mean(differences):+.2f} |")
        if not fault_tolerance():
            return
        print(
            "\n| run | rank killed | in epoch | ranks left | batches used | accuracy | seconds |\n" + "| --- " * 7 + "|"
        )
        scores = []
        for run in range(KILLS):
            rank, when = at_random(run)
            result, seconds = result_of(digits, path, BOUND, 1, EPOCHS, 0, rank, when)
            scores.append(result["accuracy"])
            left, used = result["ranks"], result["gradients"]
            print(f"| {run} | {rank} | {when:.2f} | {left} | {used} | {scores[-1]:.4f} | {seconds:.1f} |", flush=True)
        print(f"mean accuracy {np.mean(scores):.4f}, least {min(scores):.4f}; one worker {alone[0]:.4f}")


if __name__ == "__main__":
    main()
