"""Second-order models and steps."""

from fastopt.newton.glm import GLMResult, glm

__all__ = ["GLMResult", "glm"]
