"""What a case is, the topics that hold cases, and the random arrays that cases work on."""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from pkgutil import iter_modules
from typing import NamedTuple

import numpy as np

TOPICS = tuple(sorted(m.name for m in iter_modules([str(Path(__file__).parent)]) if not m.name.startswith("_")))


class Case(NamedTuple):
    """One thing to time, by fastopt and by its peers.

    A side takes what `setup` has made, for this side alone, and returns the call to time. A side whose
    package is not installed raises ImportError. Besides `ours` and the peers, which are other libraries,
    there may be yardsticks, which no peer answers for, and `limit`, which only moves the memory of the case.
    """

    what: str
    setup: Callable[[], Iterable]
    ours: Callable[..., Callable]
    peers: dict[str, Callable[..., Callable]] = {}
    flops: float = 0.0
    moved: float = 0.0  # numbers of `dtype` that are read or written at least
    dtype: str = "float32"
    family: str = ""  # cases of one family are summed up in one line; by default, those of the topic
    yardsticks: dict[str, Callable[..., Callable]] = {}
    limit: Callable[..., Callable] | None = None

    @property
    def sides(self) -> dict[str, Callable[..., Callable]]:
        """All that is timed, by name."""
        limit = {"limit": self.limit} if self.limit else {}
        return {"ours": self.ours, **self.peers, **self.yardsticks, **limit}

    def call(self, side="ours") -> Callable:
        """The call to time, prepared."""
        return self.sides[side](*self.setup())

    def alone(self) -> "Case":
        """The case with nothing beside it: timed over commits, not printed by `bench`."""
        return self._replace(peers={}, yardsticks={}, limit=None)


def cases(topic) -> Iterator[Case]:
    """The cases of one of TOPICS."""
    return import_module(f"fastopt.bench.{topic}").cases()


def named(what, dtype) -> str:
    """The name of a case; float32 goes without saying."""
    return what if dtype == "float32" else f"{what}, {dtype}"


def random(*shape, dtype="float32") -> np.ndarray:
    """Normal numbers, the same every time."""
    return placed(np.random.default_rng(0).standard_normal(shape, dtype))


PAGE, STEP, _made = 4096, 576, count()


def placed(array) -> np.ndarray:
    """A copy that begins STEP bytes of a page further than the one before.

    Reads wait for writes that lie a multiple of a page apart, so by where memory happens to lie, processes of one build
    have differed by a tenth for as long as they lived.
    """
    space = np.zeros(array.nbytes + 2 * PAGE, np.uint8)
    start = -space.ctypes.data % PAGE + next(_made) * STEP % PAGE
    copy = space[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def randoms(*shapes, dtype="float32") -> Callable[[], list[np.ndarray]]:
    """A set-up that makes a random array of each shape."""
    return lambda: [random(*shape, dtype=dtype) for shape in shapes]
