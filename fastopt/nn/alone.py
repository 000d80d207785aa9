"""A lock that one call at a time holds, and that refuses the others instead of letting them wait."""

import os
import threading


class Alone:
    """Called, it gives the lock for a ``with`` block; RuntimeError where a running `Trainer.fit` holds it.

    A forked child gets a new lock, for the thread that held the old one is gone.
    """

    def __init__(self):
        self.lock, self.process = threading.Lock(), os.getpid()

    def __call__(self):
        if self.process != os.getpid():
            self.lock, self.process = threading.Lock(), os.getpid()
        if self.lock.locked():
            raise RuntimeError("fit: this trainer is training already, in a fit that called this or in another thread")
        return self.lock

    @property
    def held(self) -> bool:
        """Whether a call holds the lock."""
        return self.lock.locked() and self.process == os.getpid()
