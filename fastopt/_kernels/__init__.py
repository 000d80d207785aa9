"""Picks the build of the kernels for this processor, and the numbers they are tuned with, once, at import.

`FASTOPT_ISA` (v2, v3, v4; baseline off x86) overrides the choice. An unknown
level, or one this processor or this build lacks, is an error, never a fallback.
`FASTOPT_TUNING`, a file, overrides numbers of the table in processors.py, by the same rule.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastopt._kernels import processors
from fastopt._kernels._cpu import levels


def _choose() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    built = tuple(sorted((p.parent.name for p in Path(__file__).parent.glob("*/core.*")), reverse=True))
    available = tuple(level for level in levels() if level in built)
    wanted = os.environ.get("FASTOPT_ISA")
    if wanted and wanted not in available:
        raise ImportError(
            f"FASTOPT_ISA={wanted!r}: expected one of {available}, which this processor runs and this build has; "
            "unset it to choose the best"
        )
    if not available:
        raise ImportError(
            f"no kernels for this processor: it runs {levels()}, this build has {built}; install fastopt on this "
            f"machine, or build it with FASTOPT_LEVELS={','.join(levels()) or 'native'}"
        )
    return wanted or available[0], available, built


isa, isas, isas_built = _choose()
if TYPE_CHECKING:
    from fastopt._kernels import core  # every level has the types of core.pyi
else:
    core = importlib.import_module(f"fastopt._kernels.{isa}.core")
sys.modules["fastopt._kernels.core"] = core  # classes name this module, whatever the level: pickle finds them

processor, overrides = processors.this_processor(), processors.read_overrides()
core.set_tuning(processor.tuning._asdict() | overrides)
