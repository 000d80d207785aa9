"""Everything at once for a while: ``python tests/soak.py [SECONDS]``, `make soak`.

64 threads make calls of calls.py in chance order, each on a chance number of threads. The main thread meanwhile forks
children, which compute too, and interrupts calls of its own at chance moments. Held all the time: every result has its
bits. Held at the end: every thread count is what it was, no thread is left, the memory has not grown. A hang ends the
program and prints every stack.
"""

import faulthandler
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter

import calls
import forks

import fastopt as fo

THREADS = 64
PATIENCE = 300  # seconds after the end, for calls under way on a busy machine
GROWTH = 256  # MiB since a third of the time: each thread has memory of its own, in libc, libgomp and OpenBLAS


def resident() -> float:
    """MiB of this process that are in memory now; at most so far where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)


class Soak:
    """What is being held, and what was found."""

    def __init__(self, seconds, seed):
        self.random, self.seconds = random.Random(seed), seconds
        self.stop, self.wrong, self.made = threading.Event(), [], Counter()
        self.want, self.counts, self.armed = calls.results(), calls.counts(), False
        self.shared = calls.trainer(calls.network())

    def call(self, chance):
        """One call in the calling thread; its result must have its bits."""
        name = chance.choice(list(calls.CALLS))
        with fo.num_threads(chance.choice([1, 1, 2, 3])):
            got = calls.CALLS[name]()
        self.made[name] += 1
        if got != self.want[name]:
            self.wrong.append(f"{name}: other bits")

    def work(self, seed):
        """What each thread does."""
        chance = random.Random(seed)
        try:
            while not (self.stop.is_set() or self.wrong):
                self.call(chance)
        except BaseException:
            self.wrong.append(traceback.format_exc())

    def train(self):
        """What one more thread does: it trains the Trainer that the children use, too."""
        while not (self.stop.is_set() or self.wrong):
            self.shared.fit(calls.ROWS, calls.LABELS, epochs=1, batch_size=500)
            self.made["shared fit"] += 1

    def fork(self):
        name = self.random.choice(list(calls.CALLS))

        def check():
            self.shared.step(calls.ROWS, calls.LABELS)
            assert calls.CALLS[name]() == self.want[name], f"{name}: other bits in a child"
            assert calls.counts() == self.counts, f"threads in a child: {calls.counts()}, before {self.counts}"

        if not forks.child_is_well(check):
            self.wrong.append(f"{name}: a child was not well")
        self.made["forks"] += 1

    def interrupt(self):
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, self.random.uniform(1e-5, 0.2))
            self.call(self.random)
            self.armed = False
        except KeyboardInterrupt:
            self.armed = False
            self.made["interrupts"] += 1

    def on_alarm(self, *_):
        if self.armed:
            raise KeyboardInterrupt

    def run(self):
        signal.signal(signal.SIGALRM, self.on_alarm)
        threads = [threading.Thread(target=self.work, args=(self.random.random(),)) for _ in range(THREADS)]
        threads.append(threading.Thread(target=self.train))
        for thread in threads:
            thread.start()
        start, early = time.monotonic(), None
        while time.monotonic() < start + self.seconds and not self.wrong:
            self.random.choice([self.fork, self.interrupt])()
            if early is None and time.monotonic() > start + self.seconds / 3:
                early = resident()
        self.stop.set()
        for thread in threads:
            thread.join()
        if calls.counts() != self.counts:
            self.wrong.append(f"threads: {calls.counts()}, before {self.counts}")
        if early is not None and resident() > early + GROWTH:
            self.wrong.append(f"memory: {resident():.0f} MiB, {early:.0f} after a third of the time")


def main(seconds, seed=0) -> list[str]:
    """What did not hold."""
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    faulthandler.dump_traceback_later(seconds + PATIENCE, exit=True)
    soak = Soak(seconds, seed)
    soak.run()
    faulthandler.cancel_dump_traceback_later()
    print(", ".join(f"{name} {n}" for name, n in sorted(soak.made.items())), f"memory {resident():.0f} MiB", sep="; ")
    return soak.wrong


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    wrong = main(seconds, int.from_bytes(os.urandom(4)))
    print(*wrong or ["all of it held"], sep="\n")
    sys.exit(bool(wrong))
