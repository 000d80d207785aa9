"""The second order: Newton's step, minimizers, generalized linear models, and what a Hessian says about a point."""

from fastopt.newton.curvature import Spectrum, hessian, spectrum
from fastopt.newton.glm import glm
from fastopt.newton.glm_design import Design
from fastopt.newton.glm_result import GLMResult
from fastopt.newton.glm_summary import GLMSummary
from fastopt.newton.minimizer import minimize
from fastopt.newton.steps import CriticalPoint, Step, condition_number, critical_point, predicted_change, step

__all__ = [
    "CriticalPoint",
    "Design",
    "GLMResult",
    "GLMSummary",
    "Spectrum",
    "Step",
    "condition_number",
    "critical_point",
    "glm",
    "hessian",
    "minimize",
    "predicted_change",
    "spectrum",
    "step",
]
