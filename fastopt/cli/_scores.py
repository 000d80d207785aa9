"""How well outputs of a network fit the targets of a table, by its task; in the units of the file."""

import math

import numpy as np

import fastopt as fo
from fastopt._tables.columns import CLASSIFY, COUNT
from fastopt.newton.glm_families import formulas


def predictions(table, outputs) -> np.ndarray:
    """Outputs as values of the target (n, k): in its units, and counts as their mean."""
    target = table.target
    if target.link == "log":
        return np.exp(outputs.astype(np.float64))
    if target.mean == 0 and target.deviation == 1:
        return outputs
    return outputs.astype(np.float64) * target.deviation + target.mean


def scores(table, outputs, y) -> dict[str, float]:
    """Measures by name; `y` are classes as numbers, or values.

    - classify: the mean cross-entropy `loss`, and the `accuracy`.
    - regress: `r2`, and `rmse` and `mae`, the root of the mean squared error and the mean absolute error.
    - count: `deviance`, the mean of 2 (y log(y / mean) - (y - mean)) (McCullagh & Nelder 1989, section 2.3), and
      `d2`, the share by which it is below that of one mean for all rows.
    """
    if table.task == CLASSIFY:
        loss = fo.functional.cross_entropy(outputs, y)[0]
        return {"loss": float(loss), "accuracy": fo.metrics.accuracy(y, outputs)}
    found = predictions(table, outputs)[:, 0].astype(np.float64)
    if table.task == COUNT:
        null = _deviance(y, np.full(len(y), y.mean()))
        deviance = _deviance(y, found)
        return {"deviance": deviance, "d2": 1 - deviance / null if null > 0 else math.nan}
    missed = found - y
    r2 = fo.metrics.r2_score(y, found) if len(y) > 1 else math.nan
    return {"r2": r2, "rmse": float(np.sqrt(np.mean(missed**2))), "mae": float(np.abs(missed).mean())}


def _deviance(y, mean) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(formulas("poisson", "log").deviance(y, np.log(mean))))


def shown(measures) -> str:
    """Measures as text."""
    return ", ".join(
        f"{name} {value:.4g}" if name in ("rmse", "mae") else f"{name} {value:.4f}" for name, value in measures.items()
    )
