"""Numbers that change from step to step: learning rates, momenta, batch sizes.

Optimizers and `Trainer.fit` call what stands here; these files know nothing of them. The base is
base.py; a schedule of the step alone stands in formulas.py, the one that listens to measurements in plateau.py.
"""

from fastopt.schedules.base import RobbinsMonro, Schedule, from_config
from fastopt.schedules.formulas import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    LinearDecay,
    OneCycle,
    Power,
    Step,
    SutskeverMomentum,
    Warmup,
)
from fastopt.schedules.plateau import ReduceOnPlateau

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseTime",
    "LinearDecay",
    "OneCycle",
    "Power",
    "ReduceOnPlateau",
    "RobbinsMonro",
    "Schedule",
    "Step",
    "SutskeverMomentum",
    "Warmup",
    "from_config",
]
