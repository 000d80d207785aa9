"""Times of networks on this machine: measured in turns, and remembered.

- A time is the lower quartile of the repeats, its noise the distance from there to the fastest: others on the machine
  make a call slower, never faster, so the fast repeats say what the kernels take.
- A network's time depends on its layers' sizes and not on its weights: what has been measured once is kept in a file,
  under a hash of everything else that decides it: kinds and sizes of the layers, batch and threads, processor, level
  of the kernels, their build and tuning, and fastopt's version. A noisy measurement is repeated, and never kept.
- The file is a convenience: where it cannot be read, is damaged or cannot be written, times are measured anew.
"""

import contextlib
import hashlib
import json
import os
import platform
import timeit
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastopt._files import MALFORMED, write_bytes
from fastopt._kernels import core
from fastopt._numbers import finite_number, flag, whole_number
from fastopt._version import __version__
from fastopt.nn.tuning import calls_for
from fastopt.threads import config, num_threads

SECONDS = 0.001  # that one measurement takes at least: less than a system gives a process at a time
REPEATS, FEW_REPEATS = 21, 7  # of each network; the few where a call of one takes LONG
LONG = 0.01
STEADY, TRIES = 0.05, 3  # a noise that is a larger part of its time is measured again, so many times in all
KEY = 32  # digits of a hash
MOST_KEPT, MOST_OF_ENTRY = 20_000, 128  # entries of the file, and bytes of one: a hash and two numbers


class Timing(NamedTuple):
    """Seconds of a call, and how far measurements of it differ.

    Attributes
    ----------
    seconds : float
        The lower quartile of the measurements.
    noise : float
        The distance from there to the least.
    """

    seconds: float
    noise: float


def measure_latency(nets, batch=1, threads=1, folded=True) -> list[Timing]:
    """Times of ``predict`` of some networks, which take turns.

    Parameters
    ----------
    nets : iterable of Sequential
        They stay as they are.
    batch, threads : int
        Samples of a call, drawn at random, and threads that it may use.
    folded : bool
        Measure ``net.fold()``.

    Returns
    -------
    list of Timing

    Raises
    ------
    ValueError
        A number that is none, or a network without statistics of its data (`Sequential.calibrate`).

    Examples
    --------
    >>> import fastopt as fo
    >>> from fastopt import lowrank
    >>> nets = [fo.nn.Sequential([fo.nn.Dense(n, n)], rng=0) for n in (512, 16)]
    >>> large, small = lowrank.measure_latency(nets)
    >>> large.seconds > small.seconds
    True
    """
    batch, threads, folded = whole_number("batch", batch), whole_number("threads", threads), flag("folded", folded)
    nets = list(nets)
    if not nets:
        return []
    timers, rng = [], np.random.default_rng(0)
    with num_threads(threads):
        for net in nets:
            x = rng.standard_normal((batch, *net.input_shape)).astype(net.dtype)
            timers.append(timeit.Timer(_call((net.fold() if folded else net).predict, x)))
        counts = [calls_for(timer, SECONDS) for timer in timers]
        rounds: list[np.ndarray] = []
        while len(rounds) < (FEW_REPEATS if rounds and rounds[0].max() > LONG else REPEATS):
            times = np.zeros(len(timers))
            for i in rng.permutation(len(timers)):  # what comes and goes at fixed times does not always meet the same
                times[i] = timers[i].timeit(counts[i]) / counts[i]
            rounds.append(times)
    least, low = np.quantile(rounds, [0.0, 0.25], axis=0)
    return [Timing(float(b), float(b - a)) for a, b in zip(least, low, strict=True)]


def _call(predict, x):
    return lambda: predict(x)


def fastest(nets, batch=1, threads=1, repeats=3, measure=measure_latency) -> list[Timing]:
    """The least time of each network of several measurements: others on the machine make calls slower only."""
    rounds = [measure(nets, batch, threads) for _ in range(repeats)]
    return [min(timings) for timings in zip(*rounds, strict=True)]


class Stopwatch:
    """Times of networks by a function like `measure_latency`, each measured once.

    It is a context: `file`, unless None, is read when it is made and written, once, where the block ends, even by an
    error.
    """

    def __init__(self, measure, budget, file=None):
        self._measure, self._file = measure, file
        self._options = {"batch": budget.batch, "threads": budget.threads, "folded": budget.folded}
        self._where = _machine(budget.threads)
        self._known = {} if file is None else _read(file)
        self._new: dict[str, Timing] = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._new and self._file is not None:
            kept = _read(self._file) | self._new  # what others have written meanwhile
            text = json.dumps(dict(list(kept.items())[-MOST_KEPT:]), indent=0)
            with contextlib.suppress(OSError):  # a disk that is full, a home that may not be written
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(self._file, text.encode())
            self._new = {}

    def times(self, nets) -> list[Timing]:
        """Times of some networks, measured in turns, now; again where they are noisy."""
        found = self._measure(nets, **self._options)
        for _ in range(TRIES - 1):
            if all(map(_steady, found)):
                break
            again = self._measure(nets, **self._options)
            found = [min(pair, key=lambda one: one.noise / one.seconds) for pair in zip(found, again, strict=True)]
        return found

    def remembered(self, nets) -> list[Timing]:
        """Times of networks with any weights; those that are not known are measured in turns."""
        keys = [self._key(net) for net in nets]
        new = {key: net for key, net in zip(keys, nets, strict=True) if key not in self._known}
        found = dict(zip(new, self.times(list(new.values())), strict=True)) if new else {}
        steady = {key: timing for key, timing in found.items() if _steady(timing)}
        self._known |= steady
        self._new |= steady
        return [self._known.get(key) or found[key] for key in keys]

    def _key(self, net) -> str:
        text = json.dumps([net.describe(), net.input_shape, self._options, self._where], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=KEY // 2).hexdigest()


def _steady(timing) -> bool:
    return timing.noise <= STEADY * timing.seconds


def cache_file() -> Path | None:
    """Where times are kept: ``latency.json`` in FASTOPT_CACHE, or in fastopt's part of the user's cache folder.

    None where FASTOPT_CACHE is empty, or where the user has no home.
    """
    given = os.environ.get("FASTOPT_CACHE")
    if given is not None:
        return Path(given, "latency.json") if given else None
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(cache or Path.home() / ".cache", "fastopt", "latency.json")
    except RuntimeError:
        return None


def _read(file) -> dict[str, Timing]:
    """What a file keeps, as far as it is what it should be."""
    try:
        with open(file, encoding="utf-8") as stream:
            entries = json.loads(stream.read(MOST_KEPT * MOST_OF_ENTRY)).items()
    except (OSError, *MALFORMED):
        return {}
    known = {}
    for key, entry in entries:
        with contextlib.suppress(*MALFORMED):
            seconds, noise = entry
            if len(key) != KEY:  # of an earlier version, or of another file
                continue
            known[key] = Timing(finite_number("seconds", seconds, above=0), finite_number("noise", noise, least=0))
    return known


def _machine(threads) -> list:
    """What decides times besides the network: processor, level, build, tuning, version; of threads also the CPUs."""
    used, built = config(), os.stat(core.__file__)
    tuning = [list(entry) for entry in used["tuning"].items()]
    quota = used["quota"] if threads > 1 else None
    return [_processor(), used["processor"], used["isa"], built.st_size, built.st_mtime_ns, tuning, __version__, quota]


def _processor() -> str:
    """The name of the processor, as far as the system says it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
