"""What the machine can do at most. Every report opens with these limits, so this topic has no cases of its own."""

import numpy as np

import fastopt as fo
from fastopt._arrays import aligned_copy
from fastopt._kernels import core
from fastopt.bench._cases import Case

SIZES = (1, 4, 16, 64, 256)  # MiB, of the arrays read for the bandwidth; weights of 1024x1024 take 4, of 4096x4096 64


def cases() -> tuple[Case, ...]:
    """None: `bench limits` prints nothing beyond the limits."""
    return ()


def limits(threads) -> dict:
    """FLOP/s and, by MiB, bytes/s that `threads` threads reach at best."""
    return {"fma": fma_rate(threads)} | {mib: read_rate(threads, mib) for mib in SIZES}


def fma_rate(threads) -> float:
    """Most float32 FLOP/s of several runs."""
    with fo.num_threads(threads):
        return max(core.fma_rate() for _ in range(30))


def read_rate(threads, mib) -> float:
    """Most bytes/s of several runs over an array of `mib` MiB."""
    x = aligned_copy(np.ones(mib << 18, np.float32))
    with fo.num_threads(threads):
        return max(core.read_rate(x, max(1, 64 // mib)) for _ in range(7))
