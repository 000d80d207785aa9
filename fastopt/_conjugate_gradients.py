"""Conjugate gradients, the one iteration that all solvers of fastopt share (Hestenes & Stiefel 1952).

What differs between solvers is when to stop, and that stays with them: NewtonCG ends where the quadratic model has
settled (optim/newton_cg.py), `newton.minimize` at the border of a trust region (minimizer.py), `newton.glm` at a
residual that falls with the gradient (glm_solver.py). So the iteration is an object that is asked to go on: `look`
takes the product along the next direction, `move` follows it.
"""

import numpy as np


class ConjugateGradients:
    """The solution of ``A x = b`` for a symmetric A, of which only products are known, one a step.

    Parameters
    ----------
    product : callable
        ``v -> A v``.
    b : ndarray, shape (d,), float64
    dot : callable
        The sum of the products of two vectors; whoever calls chooses whose bits it has.
    start : ndarray, shape (d,), optional
        Where to start; by default at 0, which saves a product.
    scale : ndarray, shape (d,), optional
        A diagonal preconditioner, one over the diagonal of a matrix like A.

    Attributes
    ----------
    x, r : ndarray
        The present point, and its residual ``b - A x``.
    z : ndarray
        The residual times `scale`.
    rz : float
        ``r · z``, without `scale` the square of the residual's length.
    p, Ap : ndarray
        The next direction; after `look` its product with A as well.
    curvature : float
        ``p · A p``, by the last `look`. Where it is not above 0, A is not positive definite, and `move` is not defined.

    Notes
    -----
    Preconditioned conjugate gradients as in Nocedal & Wright (2006), algorithm 5.3. ``x`` minimizes
    ``x·A x / 2 - b·x`` over the directions so far.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt._conjugate_gradients import ConjugateGradients
    >>> A = np.array([[4.0, 1.0], [1.0, 3.0]])
    >>> cg = ConjugateGradients(A.dot, np.array([1.0, 2.0]), np.dot)
    >>> for _ in range(2):  # as many steps as unknowns
    ...     assert cg.look() > 0
    ...     cg.move()
    >>> (A @ cg.x).round(12)
    array([1., 2.])
    """

    def __init__(self, product, b, dot, start=None, scale=None):
        self._product, self._dot, self._scale = product, dot, scale
        self.x = np.zeros_like(b) if start is None else start.copy()
        self.r = b - product(self.x) if self.x.any() else b
        self.z = self._scaled()
        self.p, self.rz = self.z, dot(self.r, self.z)

    def _scaled(self):
        return self.r if self._scale is None else self._scale * self.r

    def look(self) -> float:
        """The curvature along the next direction."""
        self.Ap = self._product(self.p)
        self.curvature = self._dot(self.p, self.Ap)
        return self.curvature

    def move(self) -> None:
        """To the minimum along the direction that `look` has looked at, and on to the next direction."""
        alpha = self.rz / self.curvature
        self.x += alpha * self.p
        self.r = self.r - alpha * self.Ap
        self.z = self._scaled()
        self.rz, before = self._dot(self.r, self.z), self.rz
        self.p = self.z + self.rz / before * self.p
