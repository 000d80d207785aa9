"""What must not be held, or half done, when the process forks.

A child has the thread that forked and none of the others: what these hold, it holds for ever. Counters and flags of
the kernels are reset there (team.h, blas.h, update.pxi). This is for Python's own: the import of a module, during
which no fork happens, and values computed once, for which no lock is held.
"""

import logging  # noqa: F401  (takes its lock before a fork, too: who registers later takes first, as imports do)
import os
import threading

# Held while a function imports a module: the lock of a half imported module stays locked in a child.
importing = threading.RLock()
LONGEST = 30  # seconds that a fork waits for an import: other libraries take locks before a fork, too, in any order


def _before() -> None:
    importing.acquire(timeout=LONGEST)


def _after_in_parent() -> None:
    if importing._is_owned():  # type: ignore[attr-defined]
        importing.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=_after_in_parent,
        after_in_child=importing._at_fork_reinit,  # type: ignore[attr-defined]
    )


class computed_once:
    """A property that keeps its value; `functools.cached_property` holds one lock for all objects in Python 3.11."""

    def __init__(self, compute):
        self.compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value = instance.__dict__[self.name] = self.compute(instance)
        return value
