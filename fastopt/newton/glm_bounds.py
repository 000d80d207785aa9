"""Generalized linear models whose coefficients have bounds: projected Newton.

- Bertsekas 1982, Projected Newton methods for optimization problems with simple constraints, SIAM J. Control Optim. 20.
- Coefficients that lie at a bound, and that the gradient pushes beyond it, stay; among all others Newton's step is
  taken, with the exact Hessian of these. What it would carry beyond a bound stops there.
- "Lies at" means near a bound, the nearer the closer to the solution: a step that is cut short at once leads nowhere.
- The intercept has no bounds.
"""

import numpy as np

from fastopt._arrays import as_numbers
from fastopt._conjugate_gradients import ConjugateGradients
from fastopt.newton.glm_solver import COERCIVE, Solver, factored
from fastopt.newton.steps import dot

NEAR = 1e-3  # in units that move the linear predictors by 1: nearer coefficients count as at their bound


def as_bounds(bounds, k, d) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest value of each coefficient, (k, d)."""
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        way_out = "; pass tuple(zip(*pairs)) of a list of pairs" if isinstance(bounds, list) else ""
        raise ValueError(f"bounds: expected a tuple (low, high), each a number or an array, got {bounds!r}{way_out}")
    pair = []
    for name, side in zip(("low", "high"), bounds, strict=True):
        side = as_numbers(f"bounds, {name}", side)
        if side.shape not in ((), (d,), (k, d)):
            shapes = f"({d},)" if k == 1 else f"({d},) or ({k}, {d})"
            raise ValueError(f"bounds, {name}: expected a number or shape {shapes}, got {side.shape}")
        pair.append(np.broadcast_to(side.astype(np.float64), (k, d)))
    low, high = pair
    bad = ~((low <= high) & (low < np.inf) & (high > -np.inf))
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        expected = "low of at most high, below infinity, and high above -infinity"
        raise ValueError(f"bounds: expected {expected}, got {low[at]} and {high[at]} for column {at[1]}")
    return low, high


class BoundedSolver(Solver):
    """Newton's iteration among coefficients within their bounds; its attributes hold the result."""

    def __init__(self, objective, low, high, tol, max_iter, verbose):
        super().__init__(objective, tol, max_iter, verbose, "float64")
        free = np.full((objective.k, objective.q - objective.d), np.inf)
        self.low, self.high = np.hstack([low, -free]).reshape(-1), np.hstack([high, free]).reshape(-1)

    @property
    def active(self) -> np.ndarray:
        """Which coefficients lie at a bound; (k, d)."""
        at_bound = (self.theta <= self.low) | (self.theta >= self.high)
        return at_bound.reshape(self.objective.k, -1)[:, : self.objective.d]

    def run(self, theta):
        objective, total = self.objective, self.objective.total
        loss, grad = self.first_value(theta)
        self.singular = False  # whether the last Hessian of the free coefficients was
        if self.dense:
            self.refuse_constants()
        else:
            self.scale = self.diagonal(theta)
        while True:
            hessian = None
            if self.dense:
                hessian = objective.penalized(objective.kernel.hessian(objective.empty(np.float64)))
            diagonal = 1 / self.scale if hessian is None else hessian.diagonal().copy()
            diagonal[diagonal <= 0] = 1.0
            self.roots = np.sqrt(diagonal)
            projected = self.projected(theta, grad)
            self.theta, self.loss, self.grad_norm = theta, loss, objective.norm(projected) / total
            step = -grad / diagonal
            free = self.move(theta, grad, self.free(theta, grad, diagonal), hessian, step)
            slope = dot(grad[free], step[free])
            if self.verbose:
                print(f"{self.n_iter:4d}  loss {loss:.12g}  gradient {self.grad_norm:.2e}  decrement {-slope:.2e}")
            self.converged = self.grad_norm <= self.tol and -0.5 * slope <= self.tol * total
            if self.converged or self.n_iter == self.max_iter:
                break
            of_loss, of_gradient = objective.rounding(theta, loss, self.roots)
            told = -self.expected(theta, grad, step, free, 1.0)[1] > of_loss
            new = self.search_arc(theta, loss, grad, step, free, of_loss)
            if new is None or not (
                told or objective.norm(self.projected(new[0], new[2])) <= 0.5 * self.grad_norm * total
            ):
                # float64 cannot tell what is left
                self.converged = not told or bool((np.abs(projected) <= of_gradient * self.roots).all())
                self.stuck = True
                break
            theta, loss, grad = new
            self.n_iter += 1
        if self.converged and objective.l2 == 0 and objective.family not in COERCIVE:
            self.separated = self.singular or self.leads_on(theta, np.where(free, step, 0))
            self.converged = not self.separated
        if not self.converged:
            self.warn()

    def projected(self, theta, grad) -> np.ndarray:
        """The gradient, but for what pushes beyond a bound: 0 at the solution."""
        grad = np.where(theta <= self.low, np.minimum(grad, 0), grad)
        return np.where(theta >= self.high, np.maximum(grad, 0), grad)

    def free(self, theta, grad, diagonal) -> np.ndarray:
        """Which coefficients take Newton's step: those that no bound holds back (Bertsekas, equation 32)."""
        unit = np.sqrt(diagonal / self.objective.total)
        moved = np.abs(theta - np.clip(theta - grad / diagonal, self.low, self.high)) * unit
        near = min(NEAR, float(moved.max())) / unit
        held = ((theta <= self.low + near) & (grad > 0)) | ((theta >= self.high - near) & (grad < 0))
        return ~held & (self.low < self.high)

    def regular(self, hessian, free) -> np.ndarray:
        """The Hessian, for softmax with a ridge where nothing tells the classes apart: neither bounds nor a penalty."""
        objective = self.objective
        if objective.k == 1:
            return hessian
        column = free.reshape(objective.k, objective.q).all(axis=0)
        if objective.l2:
            column &= (np.isinf(self.low) & np.isinf(self.high)).reshape(objective.k, objective.q).all(axis=0)
        return objective.regular(hessian.copy(), np.flatnonzero(column))

    def move(self, theta, grad, free, hessian, step) -> np.ndarray:
        """Fill in Newton's step; which coefficients take it.

        One at its bound that the step of all would carry beyond it stays, and the others take the step of their own:
        cut short, the step of all need not lead down.
        """
        while True:
            step[free] = self.newton(grad, free, hessian)
            beyond = free & (((theta <= self.low) & (step < 0)) | ((theta >= self.high) & (step > 0)))
            if not beyond.any():
                return free
            step[beyond], free = 0.0, free & ~beyond

    def newton(self, grad, free, hessian) -> np.ndarray:
        """Newton's step of the free coefficients."""
        if not free.any():
            return np.zeros(0)
        if hessian is None:
            return self.conjugate_gradients_of(-grad[free], free)
        hessian = self.regular(hessian, free)
        factor = factored(hessian[np.ix_(free, free)])
        self.singular = bool(factor.minor)
        if factor.minor:
            self.refuse_dependent(free)
            damped = self.damped(lambda: hessian[np.ix_(free, free)])
            if damped is None:
                diagonal = hessian.diagonal()[free]
                return -grad[free] / np.where(diagonal > 0, diagonal, 1.0)
            factor = damped
        return -factor.solve(grad[free])

    def conjugate_gradients_of(self, b, free) -> np.ndarray:
        def product(v):
            whole = np.zeros(len(free))
            whole[free] = v
            return self.objective.product(whole)[free]

        cg = ConjugateGradients(product, self.seen(b, free), dot, scale=self.scale[free])
        tol = min(0.5, np.sqrt(self.grad_norm * self.objective.total / self.first)) if self.first else 0.5
        goal = tol**2 * cg.rz
        for _ in range(10 * len(b)):
            if cg.rz <= goal or not cg.look() > 0:
                break
            cg.move()
        return self.seen(cg.x if cg.x.any() else cg.z, free)

    def seen(self, step, free) -> np.ndarray:
        """The part of a step of the free coefficients that softmax sees, where no penalty tells the classes apart."""
        objective = self.objective
        if objective.k == 1 or objective.l2:
            return step
        whole, column = np.zeros((objective.k, objective.q)), free.reshape(objective.k, objective.q).all(axis=0)
        whole.reshape(-1)[free] = step
        whole[:, column] -= whole[:, column].mean(axis=0)
        return whole.reshape(-1)[free]

    def expected(self, theta, grad, step, free, t) -> tuple[np.ndarray, float]:
        """The point at t of the arc, and how the loss changes there by its gradient (Bertsekas, equation 36)."""
        new = np.clip(theta + t * step, self.low, self.high)
        return new, t * dot(grad[free], step[free]) + dot(grad[~free], (new - theta)[~free])

    def search_arc(self, theta, loss, grad, step, free, rounding):
        """The first point of the arc of t = 1, 1/2, ... whose loss falls enough, or as far as rounding tells while the
        gradient does; None if there is none.
        """
        t, norm = 1.0, self.objective.norm(self.projected(theta, grad))
        while t > 1e-12:
            new, change = self.expected(theta, grad, step, free, t)
            value, more = self.objective.value(new)
            if value <= loss + 1e-4 * change:
                return new, value, more
            if value <= loss + rounding and self.objective.norm(self.projected(new, more)) <= 0.5 * norm:
                return new, value, more
            if -change <= rounding:
                break
            t *= 0.5
        return None
