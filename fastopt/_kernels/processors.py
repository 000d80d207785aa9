"""The one table of processors: numbers that help on one and cost on another, which kernels read as numbers.

- No result depends on any of them (tests/test_processors.py). What defines bits is a constant, the same everywhere, and
  so is what processors were not seen to differ in: both stand in machine/tuning.pxi.
- A row is chosen once, at import: the first whose vendor and instruction set the processor has. It is the processor
  that counts, not the level in use: FASTOPT_ISA does not change the row.
- FASTOPT_TUNING names a JSON file of entries that replace those of the row. A new entry is a field of Tuning here and
  of the struct of that name in machine/tuning.pxi, and the work to measure it on in bench/_processor.py.

Figures are float32, one thread.
"""

import os
from typing import NamedTuple

from fastopt._kernels import _cpu
from fastopt._numbers import whole_number

KIB, MIB = 1 << 10, 1 << 20


class Tuning(NamedTuple):
    """The numbers of a processor.

    Attributes
    ----------
    update_prefetch : int
        Elements between use and prefetch in an optimizer's step. Zen 4, Adam, 1 / 4 million: 347 / 2 837 µs at 512,
        360 / 2 279 at 64, 370 / 2 463 without; SGD with momentum, 4 million: 1 986, 1 667, 1 657. Intel: 512 gains 9 %
        from DRAM and 15 % from L2, 256 and 1024 less.
    dot_prefetch_bytes : int
        Bytes of weights, times the rows of x in a tile (at most 4, below v4 2), beyond which a product of few rows
        prefetches weights. Zen 4, 1024x1024, 4 MiB, batch 1 / 4: 89 / 101 µs, with prefetch 115 / 105; 1792x1792,
        12 MiB: 235 / 675, 268 / 379; 4096x4096, 64 MiB: 3 111 / 5 376, 2 517 / 3 752. Intel: it gains 8 % at most,
        more from DRAM.
    l2_bytes : int
        The L2 cache of a core; in the table, what is usual, for systems that do not say. The values of images that are
        predicted together take half of it, the columns that batch norm takes at a time all of it. Zen 4, four 3x3
        layers of 32 channels at 32x32: 22.4 ms up to 2 MiB, at 16 MiB 25.6.
    """

    update_prefetch: int
    dot_prefetch_bytes: int
    l2_bytes: int


# the least and the most that a file may ask for
LIMITS: dict[str, tuple[int, int]] = {
    "update_prefetch": (0, 1 << 16),
    "dot_prefetch_bytes": (0, 1 << 50),
    "l2_bytes": (1 << 12, 1 << 30),
}


class Processor(NamedTuple):
    """A row: what its processors are called, their vendor and a level they run (any where empty), and their numbers."""

    name: str
    vendor: str
    level: str
    tuning: Tuning


PROCESSORS = (
    Processor("AVX-512 Intel", "Intel", "v4", Tuning(512, 16 * MIB, 2 * MIB)),
    Processor("Zen 4/5", "AMD", "v4", Tuning(64, 24 * MIB, 1 * MIB)),
    Processor("AVX2", "", "v3", Tuning(512, 16 * MIB, 512 * KIB)),
    Processor("baseline", "", "", Tuning(512, 16 * MIB, 512 * KIB)),
)


def this_processor() -> Processor:
    """The row of this processor, with the cache that it states."""
    return row_of(_cpu.vendor(), _cpu.levels(), _cpu.l2_bytes())


def row_of(vendor: str, levels: tuple[str, ...], l2_bytes: int) -> Processor:
    """The row of a processor of this vendor that runs these levels; `l2_bytes` is 0 where it is not known."""
    row = next(row for row in PROCESSORS if row.vendor in ("", vendor) and row.level in ("", *levels))
    return row._replace(tuning=row.tuning._replace(l2_bytes=l2_bytes or row.tuning.l2_bytes))


def read_overrides() -> dict[str, int]:
    """The entries of the file that FASTOPT_TUNING names, none without it; ImportError for whatever is wrong."""
    path = os.environ.get("FASTOPT_TUNING")
    if not path:
        return {}
    import json

    try:
        with open(path, encoding="utf-8") as stream:
            return checked(json.loads(stream.read(1 << 16)))
    except (OSError, ValueError, RecursionError) as error:
        wrong = "nested too deeply" if isinstance(error, RecursionError) else error
        way_out = "`python -m fastopt tune --machine` writes such a file; unset it to use the numbers of the table"
        raise ImportError(f"FASTOPT_TUNING={path!r}: {wrong}; {way_out}") from error


def checked(entries) -> dict[str, int]:
    """Entries by name, whole numbers within LIMITS; ValueError for anything else."""
    if not isinstance(entries, dict):
        raise ValueError(f"expected an object of entries and numbers, got {entries!r:.100}")
    for name in entries:
        if name not in LIMITS:
            raise ValueError(f"expected some of {', '.join(LIMITS)}, got {name!r:.100}")
    return {name: whole_number(name, value, *LIMITS[name]) for name, value in entries.items()}
