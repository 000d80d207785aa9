"""NewtonCG: truncated Newton on mini-batches, for the Trainer.

- A step solves `(G + damping) d = -g` by conjugate gradients, where G is the Gauss-Newton matrix of the batch;
  only products with it are computed, on the values that one forward left in the Trainer's workspace.
- A step asks for the loss at the new point, so it runs between calls of the compiled program, not inside one. It
  reaches a Trainer by the hook `Optimizer.stepper`: a `Stepper` takes the place of the compiled training there.
- Vectors of the solver are flat and float64; no sum is the BLAS's: bits do not depend on threads.
"""

import numpy as np

from fastopt._conjugate_gradients import ConjugateGradients
from fastopt._kernels import core
from fastopt._numbers import whole_number
from fastopt.optim import options as opt
from fastopt.optim.optimizer import Optimizer
from fastopt.optim.stepper import Stepper

DECAY = 0.95  # the next solve starts at this share of the last direction
HALVINGS = 10  # a step that does not lower the loss is halved so often, then given up
LOWERED, RAISED = 2 / 3, 3 / 2  # factors of the damping
SOLVED = 1e-10  # a residual of this size, relative to the gradient, ends a solve


class NewtonCG(Optimizer):
    """Truncated Newton: a damped Gauss-Newton step by conjugate gradients on each batch (Martens 2010).

    For batches large enough to measure curvature, thousands of rows; a few steps replace epochs of descent.

    Parameters
    ----------
    params : iterable of arrays
        ``net.parameters()``: one group, stepped by a `nn.Trainer`.
    lr : float or Schedule
        Share of the direction that a step takes, before it is halved until the batch's loss falls.
    damping : float
        Added to the diagonal, to start with. Levenberg-Marquardt control keeps the present value under
        ``param_groups[0]["damping"]``: times 2/3 where the loss falls by more than 3/4 of what the quadratic model
        promised, times 3/2 where by less than 1/4. 0 stays 0.
    weight_decay : float or Schedule
        L2 penalty, part of gradient and curvature.
    max_iter : int
        Products with the curvature a step may take. It stops sooner where the model's value has settled:
        over the last ``k = max(10, i / 10)`` iterations by less than ``5e-4 k``, relative.

    Raises
    ------
    FloatingPointError
        By a step whose loss or gradient is not finite; no parameter has been changed then.

    Notes
    -----
    A step that no halving makes pay leaves the parameters as they are and raises the damping.
    `Dropout` drops the same inputs throughout a step, and `BatchNorm` is differentiated through. The loss mae has no
    curvature: its steps are those of descent, divided by the damping.

    Examples
    --------
    >>> import numpy as np, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(2, 1)], rng=0, dtype=np.float64)
    >>> newton = fo.optim.NewtonCG(net.parameters(), damping=0.0)
    >>> trainer = fo.nn.Trainer(net, loss="mse", optimizer=newton)
    >>> X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    >>> loss = trainer.step(X, X @ [1.0, 2.0] + 3.0)  # one step solves it
    >>> net.layers[0].weight.round(6), net.layers[0].bias.round(6)
    (array([[1., 2.]]), array([3.]))
    """

    _rule = "sgd"  # the kernel has the same options for it; its formula never runs

    def __init__(self, params, lr=1.0, damping=0.1, weight_decay=0.0, max_iter=50):
        super().__init__(params, locals())

    def _formula(self, group):
        whole_number("max_iter", group["max_iter"])
        return "plain", ("direction",)

    def add_param_group(self, group):
        if self.param_groups:
            raise ValueError("NewtonCG: expected one group, for a step couples all parameters, got another")
        super().add_param_group(group)

    def step(self, grads=None):
        """Refused: a step needs products with the curvature; `nn.Trainer.step` makes it."""
        raise TypeError("NewtonCG: expected a step by nn.Trainer, which has products with the curvature, got gradients")

    def bind(self, grads):
        """Refused, as `step`."""
        self.step()

    # --- what a Trainer calls

    @property
    def compiled_update(self):
        """None: no part of a step is an update inside the compiled program."""
        return None

    def stepper(self, training) -> Stepper:
        """What makes a Trainer's steps, between calls of its compiled training.

        Raises
        ------
        ValueError
            A layer of the network is not trainable: a step of this rule moves all parameters.
        """
        if any(grad is None for grad in training.grads):
            raise ValueError("NewtonCG: expected layers that are all trainable, got one that is frozen")
        return Stepper(self, training)

    def step_on(self, training, x, targets, weights, in_epoch) -> float:
        """One step on a checked batch, which counts in its epoch or not; returns its loss before."""
        self._update.require_in_place()
        with self._update:
            loss, direction, moved, damping = self._descend(training, x, targets, weights)
            to, parts = [state["direction"] for state in self._states], _parted(direction, self._arrays)
            if moved is not None:
                to, parts = [*to, *self._arrays], [*parts, *moved]
            counts = [(k, self.steps + 1) for k in range(len(self._arrays))]
            step = (self._update, to, parts, counts, training, loss, in_epoch, moved is not None)
            self.param_groups[0]["damping"] = damping
            core.finish_step(*step)
        return loss

    def _descend(self, training, x, targets, weights) -> tuple[float, np.ndarray, list[np.ndarray] | None, float]:
        """A step: the loss of the batch before it, its direction, what the parameters become, and the new damping.

        They become nothing, None, where no halving pays. As ever the parameters are where they were.
        """
        group, params = self.param_groups[0], self._arrays
        lr, decay = (opt.now(group[name], self.steps) for name in ("lr", "weight_decay"))
        damping, home = group["damping"], _flat(params)

        def objective(at):
            return training.step(x, targets, weights) + 0.5 * decay * _dot(at, at)

        def curved(v):
            product = training.hvp(x, targets, _parted(v, params), weights, gauss_newton=True, again=True)
            return _flat(product) + (decay + damping) * v

        value = objective(home)
        loss, grad = value - 0.5 * decay * _dot(home, home), _flat(training.grads) + decay * home
        if not (np.isfinite(value) and np.isfinite(grad).all()):
            raise FloatingPointError(
                f"NewtonCG: expected a finite loss and gradient, got loss {loss}; no parameter has been changed"
            )
        start = DECAY * _flat([state["direction"] for state in self._states])
        direction, residual = settled_solution(curved, -grad, start, int(group["max_iter"]))
        if grad.any() and not direction.any():
            raise ValueError("damping: expected a number above 0 where the loss has no curvature, got 0")

        noise, first, taken = np.finfo(params[0].dtype).eps * abs(value), None, False
        before = _parted(home, params)
        try:
            for halving in range(HALVINGS + 1):
                moved = _parted(home + lr * 0.5**halving * direction, params)
                core.copy_arrays(params, moved)
                there = objective(_flat(params))
                first = there if first is None else first
                taken = there <= value + noise
                if taken:
                    break
        finally:
            core.copy_arrays(params, before)
        # what the model without damping promised of the whole step
        slope = _dot(grad, direction)
        curvature = _dot(direction, -grad - residual) - damping * _dot(direction, direction)
        promised = lr * slope + 0.5 * lr * lr * curvature
        if -promised > noise or not taken:
            damping *= _control((first - value) / promised) if taken else RAISED
        return loss, direction, moved if taken else None, damping


def _control(ratio) -> float:
    """What Levenberg-Marquardt control multiplies the damping by; `ratio`: reduction seen to reduction promised."""
    return LOWERED if ratio > 0.75 else 1.0 if ratio >= 0.25 else RAISED  # NaN: raised


def settled_solution(product, b, start, max_iter) -> tuple[np.ndarray, np.ndarray]:
    """x that nearly minimizes ``x'Ax / 2 - b'x``, by conjugate gradients from `start` on, and the residual ``b - A x``.

    Stops as Martens (2010) does: see `NewtonCG`; or where the residual has vanished, or A is flat along a direction.
    """
    cg, least = ConjugateGradients(product, b, _dot, start), SOLVED**2 * _dot(b, b)
    values = [-0.5 * _dot(cg.x, b + cg.r)]
    for i in range(1, max_iter + 1):
        if cg.rz <= least or not cg.look() > 0:  # A is flat along p, to rounding
            break
        cg.move()
        values.append(-0.5 * _dot(cg.x, b + cg.r))
        k = max(10, i // 10)
        if i > k and values[-1] < 0 and values[-1 - k] - values[-1] < 5e-4 * k * -values[-1]:
            break
    return cg.x, cg.r


def _dot(a, b) -> float:
    return float(np.einsum("i,i", a, b))  # NumPy's own loop, without a temporary


def _flat(arrays) -> np.ndarray:
    return np.concatenate([a.ravel() for a in arrays], dtype=np.float64)


def _parted(vector, like) -> list[np.ndarray]:
    """The parts of a flat vector, in the shapes and dtype of `like`."""
    ends = np.cumsum([a.size for a in like])
    return [part.reshape(a.shape).astype(a.dtype) for part, a in zip(np.split(vector, ends[:-1]), like, strict=True)]
