"""The second order: Newton's step, minimizers, and what a Hessian says about a point."""

from fastopt.newton.curvature import Spectrum, hessian, spectrum

__all__ = ["Spectrum", "hessian", "spectrum"]
